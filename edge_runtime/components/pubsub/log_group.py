"""One consumer group of one topic, as far as this process delivers for it.

The group's `Plan` decides, workers carry out. Each member (one call of `subscribe`) brings workers, up to its
concurrency, made when there is work for them. One member at a time also keeps the group: it takes the group's lock,
writes down what was acknowledged, and wakes workers when a redelivery is due.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from edge_runtime.components.pubsub.log_intake import PARTITION_KEY, Intake
from edge_runtime.model.errors import DriverError, StoreUnavailable
from edge_runtime.model.ports import Handler, Message, Outcome
from edge_runtime.store.log import Limits, Record, Topic
from edge_runtime.store.log_plan import Plan, redeliver_after_s
from edge_runtime.store.log_wakes import GroupLock

if TYPE_CHECKING:
    from edge_runtime.components.pubsub.log_hub import Hub

logger: Final = logging.getLogger("dapr.contrib")

CONTENDED_RETRY_S: Final = 1.0
STORE_RETRY_S: Final = 5.0
LEAVE_TIMEOUT_S: Final = 3.0
# A handler that never waits must not keep the loop from the sockets.
DELIVERIES_PER_TURN: Final = 32


class GroupSettings(NamedTuple):
    """How a group delivers. `flush_after_s`: how long an acknowledgement may be unwritten."""

    strict: bool
    in_hand_max: int
    redeliver_first_s: float
    redeliver_most_s: float
    redeliveries_max: int
    flush_after_s: float


class Counts:
    """What a hub did, for metrics."""

    __slots__ = ("acknowledged", "delivered", "dropped", "published", "published_bytes", "redelivered", "refused")

    def __init__(self) -> None:
        self.published = 0
        self.published_bytes = 0
        self.refused = 0  # publishes that found the backlog full
        self.delivered = 0
        self.redelivered = 0
        self.acknowledged = 0
        self.dropped = 0  # messages that a group did not get: too old, backlog too long, damaged, refused too often


class OpenTopic:
    """A topic that this process has to do with, and the bytes published here since its limits were looked at."""

    __slots__ = ("check_bytes", "due_at", "groups", "limits", "refusing", "topic", "unchecked_bytes", "untidy")

    def __init__(self, topic: Topic, limits: Limits) -> None:
        self.topic = topic
        self.limits = limits
        self.groups: list[Group] = []
        self.check_bytes = max(4096, min(limits.retention_bytes, limits.backlog_bytes, 32 * 2**20) // 32)
        self.unchecked_bytes = 0
        self.refusing = False
        self.untidy = True  # look at the limits once at the start
        self.due_at = 0  # when something may be too old, on the log's clock

    def owned(self) -> set[int]:
        return {group.number for group in self.groups}


class _Member:
    """One call of `subscribe`."""

    __slots__ = ("concurrency", "handler", "nursery", "workers")

    def __init__(self, nursery: trio.Nursery, handler: Handler, concurrency: int) -> None:
        self.nursery = nursery
        self.handler = handler
        self.concurrency = concurrency
        self.workers = 0


class Group:
    """One consumer group of one topic, as far as this process delivers for it."""

    def __init__(self, hub: Hub, place: OpenTopic, name: str, number: int, settings: GroupSettings) -> None:
        self.name = name
        self.number = number
        self._hub = hub
        self._log = hub.log
        self._open_topic = place
        self._topic = place.topic
        self._settings = settings
        self._plan: Plan | None = None  # None while another process delivers
        self._lock: GroupLock | None = None
        self._members: list[_Member] = []
        self._closed = False
        self._keeping = trio.Lock()
        self._idle = trio.lowlevel.ParkingLot()
        self._intake = Intake(hub.log, place.topic)
        self._changed = trio.Event()  # wakes the keeper before its deadline
        self._flush_at = math.inf
        self._stale_at = math.inf
        self._written_at = 0  # on the log's clock

    # --- members

    async def serve(self, handler: Handler, concurrency: int, strict: bool) -> None:
        """Deliver to `handler` until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                member = _Member(nursery, handler, concurrency)
                self._members.append(member)
                if strict:
                    self._settings = self._settings._replace(strict=True)
                    if self._plan is not None:
                        self._plan.strict = True
                try:
                    self.wake()
                    async with self._keeping:
                        await self._keep()
                finally:
                    self._members.remove(member)
                    nursery.cancel_scope.cancel()
        finally:
            if not self._members:
                with trio.move_on_after(LEAVE_TIMEOUT_S, shield=True):
                    await self._leave()
            else:
                self.wake()

    async def _leave(self) -> None:
        """The last member is gone: write down where the group is and let others deliver for it."""
        async with self._keeping:
            if self._members or self._closed:
                return
            try:
                if self._plan is not None and (self._flush_at != math.inf or self._is_stale()):
                    await self._flush()
            except DriverError as error:
                logger.warning("%s: acknowledgements since the last write are lost: %s", self, error)
            finally:
                if not self._members:
                    self._close()

    def _close(self) -> None:
        self._closed = True
        self._plan = None
        self._intake.clear()
        self._hub.forget(self._open_topic, self)
        if self._lock is not None:
            self._lock.close()

    # --- keeping

    async def _keep(self) -> None:
        if self._plan is None:
            await self._acquire()
            await self._load()
        while self._plan is not None:
            due = self._plan.next_due()
            deadline = min(self._flush_at, self._stale_at)
            with trio.move_on_at(deadline if due is None else min(due, deadline)):
                await self._changed.wait()
            self._changed = trio.Event()
            now = trio.current_time()
            if now >= min(self._flush_at, self._stale_at):
                await self._flush_or_retry()
            if due is not None and now >= due:
                self.wake()

    async def _acquire(self) -> None:
        bells = self._hub.bells
        if bells is None:
            return
        if self._lock is None:
            try:
                self._lock = GroupLock(bells.folder, self._topic.component, self._topic.name, self.name)
            except OSError as error:
                raise StoreUnavailable(f"{self}: the lock file cannot be opened: {error}") from error
        while not self._lock.try_acquire():  # noqa: ASYNC110 - flock has nothing to wait on but a thread
            await trio.sleep(CONTENDED_RETRY_S)

    async def _load(self) -> None:
        """Take up what the file says. The bell hangs first, so that nothing published from now on is missed."""
        self._hub.listen()
        settings = self._settings
        while True:
            try:
                state = self._log.group_state(self._topic, self.number)
                plan = Plan(state.next, strict=settings.strict, in_hand_max=settings.in_hand_max)
                for place, attempts in state.in_hand:
                    record = self._log.read_one(self._topic, place)
                    if record is not None:
                        plan.offer(place, record.metadata.get(PARTITION_KEY), attempts)
                break
            except DriverError as error:
                logger.warning("%s: trying again in %g s: %s", self, STORE_RETRY_S, error)
                await trio.sleep(STORE_RETRY_S)
        self._written_at = self._log.now()
        self._intake.look_again()
        self._plan = plan
        self._set_stale_at()
        if self._is_stale():
            self._flush_at = trio.current_time()
        self.wake()

    def _is_stale(self) -> bool:
        """Has the row been unwritten so long that others might soon take the group for forgotten?"""
        return self._log.now() - self._written_at > self._open_topic.limits.group_expiry_ms // 10

    def _set_stale_at(self) -> None:
        """Also a group with nothing to do says now and then that it is there: other processes trim the topic, too."""
        self._stale_at = trio.current_time() + self._open_topic.limits.group_expiry_ms / 10_000

    async def _flush_or_retry(self) -> None:
        self._flush_at = math.inf
        self._set_stale_at()
        try:
            await self._flush()
        except DriverError as error:
            logger.warning("%s: acknowledgements are not written yet, trying again: %s", self, error)
            self._flush_at = trio.current_time() + STORE_RETRY_S
        except trio.Cancelled:
            self._flush_at = trio.current_time()  # whoever keeps the group next, or leaves it last, writes them
            raise

    async def _flush(self) -> None:
        plan = self._plan
        if plan is not None:
            await self._log.save_group(self.number, plan.next, plan.in_hand)
            self._written_at = self._log.now()

    async def flush_now(self) -> None:
        """Write down what was acknowledged, so that a look at the file sees it."""
        if self._flush_at != math.inf:
            await self._flush_or_retry()

    def _touch(self) -> None:
        if self._flush_at == math.inf:
            self._flush_at = trio.current_time() + self._settings.flush_after_s
            self._changed.set()

    # --- what there is to deliver

    def handed(self, place: int, data: bytes, metadata: Mapping[str, str]) -> None:
        """Published in this process."""
        plan = self._plan
        if plan is not None:
            self._intake.hand_over(Record(place, data, metadata, None), plan.next)
            self.wake()

    def rung(self) -> None:
        """Another process published something, here or in another topic."""
        self._intake.look_again()
        self.wake()

    def wake(self) -> None:
        """Find one worker for what there is to do; it finds the next, if there is more."""
        if not self._has_work():
            return
        if self._idle:
            self._idle.unpark()
            return
        for member in self._members:
            if member.workers < member.concurrency:
                member.workers += 1
                member.nursery.start_soon(self._work, member)
                return

    def _has_work(self) -> bool:
        plan = self._plan
        if plan is None:
            return False
        return plan.has_work(trio.current_time()) or (plan.room and self._intake.has_more(plan.next))

    def _take(self) -> tuple[int, Record] | None:
        plan = self._plan
        while plan is not None:
            place = plan.take(trio.current_time())
            if place is None:
                if self._intake.fill(plan):
                    continue
                return None
            try:
                record = self._intake.collect(place)
            except DriverError:
                plan.release(place)
                raise
            if record is not None and record.data is not None:
                return place, record
            if record is not None:
                self._lose(place, "damaged", 0)
            plan.done(place)
            self._touch()
        return None

    def _lose(self, place: int, reason: str, size: int) -> None:
        self._hub.lose(self._topic, self.name, reason, place, size)

    # --- working

    async def _work(self, member: _Member) -> None:
        """One worker: deliver what there is, then wait to be woken."""
        turn = 0
        while True:
            try:
                taken = self._take()
            except DriverError as error:
                logger.warning("%s: reading again in %g s: %s", self, STORE_RETRY_S, error)
                await trio.sleep(STORE_RETRY_S)
                continue
            if taken is None:
                turn = 0
                await self._idle.park()
                continue
            self.wake()
            await self._deliver(member, *taken)
            turn += 1
            if turn == DELIVERIES_PER_TURN:
                turn = 0
                await trio.lowlevel.checkpoint()

    async def _deliver(self, member: _Member, place: int, record: Record) -> None:
        plan = self._plan
        assert plan is not None
        assert record.data is not None
        attempt = plan.in_hand[place]
        counts = self._hub.counts
        counts.delivered += 1
        try:
            outcome = await member.handler(Message(self._topic.name, record.data, record.metadata, attempt))
        except BaseException:
            plan.release(place)
            raise
        if outcome is Outcome.ACK:
            counts.acknowledged += 1
            plan.done(place)
        else:
            self._refused(plan, place, attempt, len(record.data))
        self._touch()

    def _refused(self, plan: Plan, place: int, attempt: int, size: int) -> None:
        settings = self._settings
        if settings.redeliveries_max and attempt > settings.redeliveries_max:
            self._lose(place, "redeliveries", size)
            plan.done(place)
            return
        self._hub.counts.redelivered += 1
        pause_s = redeliver_after_s(attempt, settings.redeliver_first_s, settings.redeliver_most_s, random.random())
        plan.again(place, trio.current_time() + pause_s)
        self._changed.set()

    def __str__(self) -> str:
        return f"pub/sub {self._topic.component}, topic {self._topic.name}, group {self.name}"
