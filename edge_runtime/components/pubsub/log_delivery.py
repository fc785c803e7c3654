"""Delivery from the log to the handlers of one process: what `pubsub.sqlite` is made of.

A `Hub` stands for one file in this process, however many apps and components use it. A `Group` is one consumer group of
one topic; its `Plan` decides, workers carry out. Each member (one call of `subscribe`) brings workers, up to its
concurrency, made when there is work for them. One member at a time also keeps the group: it takes the group's lock,
writes down what was acknowledged, and wakes workers when a redelivery is due.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Mapping
from typing import Final, NamedTuple

import trio

from edge_runtime.model.errors import DriverError, StoreUnavailable
from edge_runtime.model.ports import Handler, Message, Outcome
from edge_runtime.store.log import Drop, Limits, Log, Record, Standing, Topic
from edge_runtime.store.log_plan import Plan, redeliver_after_s
from edge_runtime.store.log_wakes import Bells, GroupLock

logger: Final = logging.getLogger("dapr.contrib")

PARTITION_KEY: Final = "partitionKey"
# What is kept in memory between the log and the workers, for each group; beyond it the file is read again.
BUFFER_BYTES: Final = 512 * 1024
BUFFER_COUNT: Final = 256
CONTENDED_RETRY_S: Final = 1.0
STORE_RETRY_S: Final = 5.0
LEAVE_TIMEOUT_S: Final = 3.0
AGE_CHECK_MOST_S: Final = 3600.0
DROP_LINE_EVERY_S: Final = 60.0
LOSSES_MAX: Final = 1000  # single losses that wait to be written, and lines of drops that are remembered
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
        self._records: dict[int, Record] = {}  # read or handed over, not delivered yet
        self._buffered_bytes = 0
        self._ahead = 0  # the newest place that is known to exist
        self._more = False  # the file may hold something newer still
        self._read_end: int | None = None  # the topic's length before `plan.next`, when known
        self._changed = trio.Event()  # wakes the keeper before its deadline
        self._flush_at = math.inf
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
        self._records.clear()
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
            deadline = self._flush_at if due is None else min(due, self._flush_at)
            with trio.move_on_at(deadline):
                await self._changed.wait()
            self._changed = trio.Event()
            now = trio.current_time()
            if now >= self._flush_at:
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
        self._more = True
        self._plan = plan
        if self._is_stale():
            self._flush_at = trio.current_time()
        self.wake()

    def _is_stale(self) -> bool:
        """Has the row been unwritten so long that others might soon take the group for forgotten?"""
        return self._log.now() - self._written_at > self._open_topic.limits.group_expiry_ms // 10

    async def _flush_or_retry(self) -> None:
        self._flush_at = math.inf
        try:
            await self._flush()
        except DriverError as error:
            logger.warning("%s: acknowledgements are not written yet, trying again: %s", self, error)
            self._flush_at = trio.current_time() + STORE_RETRY_S

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
        """Published in this process: spare the file a read when the group is close behind."""
        plan = self._plan
        if plan is None:
            return
        if place > self._ahead:
            self._ahead = place
        if place >= plan.next and self._has_space():
            self._buffer(Record(place, data, metadata, None))
        self.wake()

    def rung(self) -> None:
        """Another process published something, here or in another topic."""
        self._more = True
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
        return plan.has_work(trio.current_time()) or (plan.room and (self._more or self._ahead >= plan.next))

    def _has_space(self) -> bool:
        return self._buffered_bytes < BUFFER_BYTES and len(self._records) < BUFFER_COUNT

    def _buffer(self, record: Record) -> None:
        if record.place not in self._records:
            self._records[record.place] = record
            self._buffered_bytes += len(record.data or b"")

    def _unbuffer(self, place: int) -> Record | None:
        record = self._records.pop(place, None)
        if record is not None:
            self._buffered_bytes -= len(record.data or b"")
        return record

    def _fill(self, plan: Plan) -> bool:
        """Take more from the log into the plan. False when there is no more, or no room."""
        if not plan.room:
            return False
        if plan.next not in self._records:
            if not self._more and self._ahead < plan.next:
                return False
            if not self._read(plan):
                return False
        records = self._records
        while plan.room and (record := records.get(plan.next)) is not None:
            plan.offer(record.place, record.metadata.get(PARTITION_KEY))
            self._read_end = record.end_bytes
            if self._buffered_bytes > 2 * BUFFER_BYTES:
                self._unbuffer(record.place)
        return True

    def _read(self, plan: Plan) -> bool:
        records = self._log.read(self._topic, plan.next, self._read_end)
        if not records:
            self._more = False
            self._ahead = plan.next - 1
            return False
        # What is missing before the first was trimmed: those who wanted it have it in the table of drops.
        plan.skip_to(records[0].place)
        for record in records:
            self._buffer(record)
        self._ahead = max(self._ahead, records[-1].place)
        return True

    def _take(self) -> tuple[int, Record] | None:
        plan = self._plan
        while plan is not None:
            place = plan.take(trio.current_time())
            if place is None:
                if self._fill(plan):
                    continue
                return None
            record = self._unbuffer(place) or self._log.read_one(self._topic, place)
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


class Hub:
    """One file in this process: its open topics and groups, the bell, and the tidying."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.counts = Counts()
        self.bells = _open_bells(log.database.path)
        self.users = 0
        self._topics: dict[int, OpenTopic] = {}
        self._groups: dict[tuple[int, str], Group] = {}
        self._tending = trio.Lock()
        self._hung = trio.Event()
        self._untidy = trio.Event()
        self._losses: list[tuple[Topic, str, str, int, int]] = []
        self._drop_lines: dict[tuple[str, str, str], tuple[float, int]] = {}

    def close(self) -> None:
        if self.bells is not None:
            self.bells.close()

    async def open_topic(self, component: str, name: str, limits: Limits, topics_max: int) -> OpenTopic:
        """The topic, made when there is none. The first to open it in this process sets its limits."""
        topic = await self.log.topic(component, name, topics_max)
        found = self._topics.get(topic.id)
        if found is None:
            found = self._topics[topic.id] = OpenTopic(topic, limits)
            self._untidy.set()
        return found

    def group(self, place: OpenTopic, name: str, number: int, settings: GroupSettings) -> Group:
        """The group in this process; its first member sets how it delivers."""
        key = place.topic.id, name
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = Group(self, place, name, number, settings)
            place.groups.append(group)
        return group

    def forget(self, place: OpenTopic, group: Group) -> None:
        place.groups.remove(group)
        del self._groups[place.topic.id, group.name]

    def listen(self) -> None:
        """From now on publishers in other processes are heard."""
        if self.bells is not None:
            self.bells.hang()
            self._hung.set()

    def appended(self, place: OpenTopic, first: int, data: bytes, metadata: Mapping[str, str]) -> None:
        """A record of this process is on disk: whoever waits for it gets it."""
        counts = self.counts
        size = len(data)
        counts.published += 1
        counts.published_bytes += size
        for group in place.groups:
            group.handed(first, data, metadata)
        place.unchecked_bytes += size + 32
        if place.unchecked_bytes >= place.check_bytes:
            try:
                self.check(place)
            except DriverError as error:  # the message is on disk, so its publisher must not hear of this
                logger.warning("topic %s: its limits could not be looked at: %s", place.topic.name, error)

    def ring(self) -> None:
        """Wake the other processes, after everything of one publish is on disk."""
        if self.bells is not None:
            self.bells.ring()

    def check(self, place: OpenTopic) -> None:
        """Look at the topic's limits: is it full, is there something to forget?"""
        place.unchecked_bytes = 0
        limits = place.limits
        standing = self.log.standing(place.topic, limits, place.owned())
        place.refusing = not limits.drop_oldest and standing.backlog_bytes >= limits.backlog_bytes
        if standing.kept_bytes > limits.retention_bytes or (
            limits.drop_oldest and standing.backlog_bytes > limits.backlog_bytes
        ):
            place.untidy = True
            self._untidy.set()

    def lose(self, topic: Topic, group: str, reason: str, place: int, size: int) -> None:
        """A group will not get a message: say so, and write it into the table of drops soon."""
        self._report(Drop(topic.name, group, reason, 1, size, place, place, 0.0))
        if len(self._losses) < LOSSES_MAX:
            self._losses.append((topic, group, reason, place, size))
            self._untidy.set()

    # --- tending: one task for the file, in whichever component instance got there first

    async def tend(self) -> None:
        """Hear the bell and forget what is past the limits, until cancelled."""
        async with self._tending, trio.open_nursery() as nursery:
            nursery.start_soon(self._hear)
            await self._tidy()

    async def _hear(self) -> None:
        await self._hung.wait()
        assert self.bells is not None
        while True:
            await self.bells.hear()
            for group in list(self._groups.values()):
                group.rung()

    async def _tidy(self) -> None:
        while True:
            pause_s = AGE_CHECK_MOST_S
            try:
                for place in list(self._topics.values()):
                    pause_s = min(pause_s, await self._tidy_topic(place))
                await self._write_losses()
            except DriverError as error:
                logger.warning("the log in %s: tidying again in %g s: %s", self.log.database.path, STORE_RETRY_S, error)
                await trio.sleep(STORE_RETRY_S)
                continue
            with trio.move_on_after(pause_s):
                await self._untidy.wait()
            self._untidy = trio.Event()

    async def _tidy_topic(self, place: OpenTopic) -> float:
        """Forget what is past the limits; seconds until something may be too old."""
        log, limits = self.log, place.limits
        now = log.now()
        if place.untidy or now >= place.due_at:
            place.untidy = False
            await self._flush_groups(place)
            standing = await self._trim(place)
            place.refusing = place.refusing and standing.backlog_bytes >= limits.backlog_bytes
            place.due_at = (now if standing.oldest_at is None else standing.oldest_at) + limits.retention_ms
        return max(1.0, (place.due_at - now) / 1000)

    async def _trim(self, place: OpenTopic) -> Standing:
        while True:
            standing, drops = await self.log.trim(place.topic, place.limits, place.owned())
            for drop in drops:
                self._report(drop)
            if not standing.more:
                return standing

    async def _flush_groups(self, place: OpenTopic) -> None:
        """What was acknowledged already is no loss: let the file know before anything is forgotten."""
        for group in list(place.groups):
            await group.flush_now()

    async def _write_losses(self) -> None:
        losses, self._losses = self._losses, []
        for loss in losses:
            await self.log.note_drop(*loss)

    def _report(self, drop: Drop) -> None:
        """Count each loss, and write one line a burst."""
        self.counts.dropped += drop.entries
        key = drop.topic, drop.group, drop.reason
        if key not in self._drop_lines and len(self._drop_lines) >= LOSSES_MAX:
            self._drop_lines.clear()
        now = trio.current_time()
        at, unsaid = self._drop_lines.get(key, (-math.inf, 0))
        unsaid += drop.entries
        if now - at >= DROP_LINE_EVERY_S:
            logger.warning(
                "topic %s: %d messages were dropped before group %s had them (%s), the last at offset %d",
                drop.topic, unsaid, drop.group, drop.reason, drop.last,
            )  # fmt: skip
            at, unsaid = now, 0
        self._drop_lines[key] = at, unsaid


def _open_bells(path: str) -> Bells | None:
    if path == ":memory:":
        return None
    try:
        return Bells(path)
    except OSError as error:
        logger.warning("the log in %s cannot be shared with other processes: %s", path, error)
        return None
