"""One route while somebody has it open: a task that sleeps until something is due, and sends while its turn lasts."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import trio

from edge_runtime.model.errors import BadMetadata, DriverError, Overloaded, StoreUnavailable, Unreachable
from edge_runtime.model.ports import Entry, EntryId, RouteSettings, Send
from edge_runtime.store.log_tables import wall_time
from edge_runtime.store.outbox import KEY_BYTES_MAX, Burial, Content, Head, Removal, RouteStore, entry_size
from edge_runtime.sync.leavings import Leavings
from edge_runtime.sync.payloads import Payloads
from edge_runtime.sync.plan import Event, Item, Plan, PlanLimits, Verdict
from edge_runtime.sync.room import make_room
from edge_runtime.sync.shared import EntryTooLarge, RouteState, Shared, report
from edge_runtime.sync.supervise import supervised

logger: Final = logging.getLogger("dapr.runtime.outbox")

_READS_AT_ONCE: Final = 1  # of up to `plan.SCAN_MAX` places; then the loop may run others
_EXPIRE_MAX: Final = 512
_OLDEST: Final = 16  # a dead letter that was put back is younger than its place says
_ATTEMPTS_NOTED_MAX: Final = 256
_ERRORS_MAX: Final = 1024  # texts that are kept for who looks, a failing entry each
_ERROR_CHARACTERS: Final = 500
_SAID_BYTES_MAX: Final = 4 * 2**20  # of what came of entries and is not on disk yet: nothing more is sent beyond


class RouteEnd:
    """One driver's way into a route: `model.ports.Route`."""

    def __init__(self, route: OpenRoute, send: Send) -> None:
        self._route = route
        self.send = send
        self.is_up = False
        self.ups = 0
        self.sending: set[trio.CancelScope] = set()
        self.idle = trio.Event()

    @property
    def backlog(self) -> bool:
        """True while entries wait: what is new has to queue behind them, to keep the order."""
        return self._route.entries > 0

    @property
    def state(self) -> RouteState:
        """The route as it stands."""
        return self._route.state()

    async def append(
        self,
        key: str,
        payload: Mapping[str, Any] | bytes,
        *,
        priority: int | None = None,
        size_bytes: int | None = None,
    ) -> EntryId:
        """Durable when it returns. Raises `Overloaded` when the route is full."""
        return await self._route.append(key, payload, priority, size_bytes)

    def up(self) -> None:
        """The other end can be reached."""
        self.is_up = True
        self.ups += 1
        self._route.ends_changed("")

    def down(self, reason: str) -> None:
        """It cannot."""
        self.is_up = False
        self._route.ends_changed(reason)

    def hurry(self) -> None:
        """Try again now what waits for its next try."""
        self._route.hurry()

    def report(self) -> dict[str, Any]:
        """What waits, was given up and was dropped, in the words of the HTTP API."""
        route = self._route
        return {"lastError": route.last_error, **report(route.state(), route.store.dropped())}

    async def leave(self) -> None:
        """Nothing is sent through this end any more; what is being sent is broken off, and kept."""
        self.down("its driver has been closed")
        for scope in self.sending:
            scope.cancel()
        while self.sending:
            self.idle = trio.Event()
            await self.idle.wait()


class OpenRoute:
    """One route while somebody has it open."""

    def __init__(self, store: RouteStore, settings: RouteSettings, shared: Shared) -> None:
        self.name = store.name
        self.store = store
        self.settings = settings
        self.ends: list[RouteEnd] = []
        self.scope = trio.CancelScope()
        self.closed = trio.Event()
        self._shared = shared
        self._limits = shared.limits
        standing = store.standing()
        # What waits to be sent, with what is on its way to the disk and without what only waits to be removed.
        self.entries = standing.entries
        self.bytes = standing.bytes
        self.dead_entries = standing.dead_entries
        self._oldest_at = standing.oldest_at
        self._plan = Plan(store.base + 1, store.tail(), _plan_limits(settings))
        self._payloads = Payloads(store, shared.limits.payload_bytes_max)
        self._leavings = Leavings(store)
        self._errors: dict[int, str] = {}
        self._flushing = False
        self._flush_at: int | None = None
        self._rest_at: int | None = None
        self._expire_at: int | None = None
        self._hold_until = 0  # the disk could not be read
        self._reason = "its driver has not said that it is up"
        self._awake = trio.Event()
        self._appending = 0
        self._appending_bytes = 0
        self._broken = ""  # why nothing is sent, although an end is up
        self._all_appended = trio.Event()
        self._ended = False
        self._told = ""  # why nothing could be removed
        self._nursery: trio.Nursery

    # --- looking

    @property
    def id(self) -> int:
        return self.store.id

    def now(self) -> int:
        return self._shared.store.now()

    def state(self) -> RouteState:
        plan = self._plan
        age_ms = self.now() - self._oldest_at if self._oldest_at is not None and self.entries else 0
        return RouteState(
            self.name,
            plan.is_up,
            "" if plan.is_up else self._reason,
            self.entries,
            self.bytes,
            len(plan.flying),
            max(age_ms, 0) / 1000,
            self.dead_entries,
        )

    @property
    def last_error(self) -> str:
        """Why nothing is sent although the other end is there, or why an entry that waits could not be sent."""
        return self._broken or next(reversed(self._errors.values()), "")

    def wake(self) -> None:
        """Something has changed."""
        self._awake.set()

    # --- taking in

    async def append(
        self, key: str, payload: Mapping[str, Any] | bytes, priority: int | None, size_bytes: int | None
    ) -> EntryId:
        if self._ended:
            raise StoreUnavailable(f"outbox route {self.name} has been closed: the entry was not taken; send it again")
        settings = self.settings
        size = entry_size(key, payload, size_bytes)
        self._check(key, size, priority)
        if priority == settings.priority:
            priority = None
        room: dict[str, Sequence[Head]] = {}
        if self.bytes + size > settings.bytes_max:
            room["full"] = self._make_room(size, settings.priority if priority is None else priority)
        # While they may have to come back, nothing behind them is sent.
        paused = {head.key for head in room.get("full", ())}
        self._plan.pause(paused)
        self.entries += 1
        self.bytes += size
        self._appending += 1
        self._appending_bytes += size
        try:
            sequence = await self.store.append(key, payload, priority, size, room)
        except BaseException:
            self.entries -= 1
            self.bytes -= size
            self._keep_after_all(room.get("full", ()))
            raise
        finally:
            self._appending -= 1
            self._appending_bytes -= size
            if not self._appending:
                self._all_appended.set()
            if paused:
                self._plan.go_on(paused)
                self.wake()
        for reason, heads in room.items():
            self._leavings.back(heads)
            self._shared.numbers.count_drops(self.name, reason, heads)
            self._oldest_at = None
        self._appended(sequence)
        identity = self._shared.store.identity
        return EntryId(identity.node, identity.epoch, sequence)

    def _check(self, key: str, size: int, priority: int | None) -> None:
        settings = self.settings
        if len(key.encode()) > KEY_BYTES_MAX:
            raise BadMetadata(f"the key {key[:80]!r}… has more than {KEY_BYTES_MAX} bytes")
        if priority is not None and not 0 <= priority <= 9:
            raise BadMetadata(f"the priority is {priority}; expected 0 to 9")
        if size > settings.bytes_max:
            raise EntryTooLarge(
                f"outbox route {self.name}: the entry has {size} bytes and the whole route takes {settings.bytes_max};"
                f" the limit is {settings.limit_name}"
            )

    def _appended(self, sequence: int) -> None:
        plan = self._plan
        plan.tail = max(plan.tail, sequence)
        if plan.is_up or self._expire_at is None:
            self.wake()

    def _make_room(self, size: int, priority: int) -> list[Head]:
        """What has to go for an entry of `size`; it counts as gone from here on. Raises Overloaded."""
        needed = self.bytes + size - self.settings.bytes_max
        heads = make_room(self.store, self.settings, needed, priority, self._idle)
        if heads is None:
            raise self._full()
        self._take_out(heads)
        return heads

    def _full(self) -> Overloaded:
        settings = self.settings
        self._shared.numbers.refused.add((self.name,))
        if settings.when_full == "refuse":
            instead = "dropping the oldest, or what has the lowest priority, is the other choice when full"
        else:
            instead = f"{settings.when_full} finds too little that it may drop"
        return Overloaded(
            f"outbox route {self.name} is full: {self.bytes} bytes in {self.entries} entries wait for the other end;"
            f" the limit is {settings.limit_name} ({settings.bytes_max}), {instead}"
        )

    def _take_out(self, heads: Sequence[Head]) -> None:
        """They are done with, though the disk still has them."""
        self._plan.forget([_item(head) for head in heads])
        for head in heads:
            self._leavings.gone.add(head.id)
            self._errors.pop(head.id, None)
            self._payloads.forget(head.id)
            self.entries -= 1
            self.bytes -= head.size

    def _keep_after_all(self, heads: Sequence[Head]) -> None:
        """The disk did not take the change that was to drop them."""
        self._leavings.back(heads)
        for head in heads:
            self._came_back(head)

    def _came_back(self, head: Head) -> None:
        self.entries += 1
        self.bytes += head.size
        self._plan.put_back(head.id, head.key)

    # --- the other end

    def ends_changed(self, reason: str) -> None:
        """A driver has said that it is up or down, has come or gone."""
        plan = self._plan
        was_up = plan.is_up
        if self._broken:
            plan.down()
            self._reason = self._broken
        elif any(end.is_up for end in self.ends):
            plan.up()
            if not was_up:
                logger.info("outbox route %s is up, %d entries wait", self.name, self.entries)
        else:
            plan.down()
            self._reason = reason or self._reason
            if was_up:
                logger.info("outbox route %s is down: %s", self.name, reason)
        self.wake()

    def configure(self, settings: RouteSettings) -> None:
        """Whoever opened the route last says how much may wait."""
        self.settings = settings
        self._plan.limits = _plan_limits(settings)
        self._expire_at = None
        self.wake()

    # --- the task

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Send what waits, until the route is closed."""
        try:
            with self.scope:
                task_status.started()
                await supervised(self._serve, f"outbox route {self.name}", self._rest_after)
        finally:
            self._ended = True
            self._plan.down()
            with trio.move_on_after(self._limits.close_timeout_s, shield=True):
                await self._finish_appends()
                await self._flush_rest()
            for winner in self._shared.turns.withdraw(self.store.id):
                self._shared.wake(winner)
            self.store.close()
            self.closed.set()

    async def _serve(self) -> None:
        if self._broken:
            await self._begin_anew()
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            while True:
                self._awake = trio.Event()
                pause_s = await self._look()
                with trio.move_on_after(pause_s):
                    await self._awake.wait()

    def _rest_after(self, reason: str) -> None:
        """Of an error that nobody foresaw."""
        if reason:
            self._broken = reason
            self._flushing = False
            for winner in self._shared.turns.withdraw(self.store.id):
                self._shared.wake(winner)
            self.ends_changed(reason)

    async def _begin_anew(self) -> None:
        """Nothing in memory is believed any more: what is on disk is read again.

        What was sent and not removed yet is sent again, under the same id.
        """
        with trio.move_on_after(self._limits.close_timeout_s):  # under load there may be no moment without one
            await self._finish_appends()
        standing = self.store.standing()
        self.entries = standing.entries + self._appending
        self.bytes = standing.bytes + self._appending_bytes
        self.dead_entries = standing.dead_entries
        self._oldest_at = standing.oldest_at
        self._plan = Plan(self.store.base + 1, self.store.tail(), _plan_limits(self.settings))
        self._payloads = Payloads(self.store, self._limits.payload_bytes_max)
        self._leavings = Leavings(self.store)
        self._flush_at = self._rest_at = self._expire_at = None
        self._broken = ""
        self.ends_changed("")

    def hurry(self) -> None:
        self._plan.hurry()
        self.wake()

    async def _finish_appends(self) -> None:
        """Who opens the route next reads what there is once: nothing may come to the disk after that."""
        while self._appending:
            self._all_appended = trio.Event()
            await self._all_appended.wait()

    async def _look(self) -> float:
        """Do what is due; how long there is nothing more to do."""
        try:
            now = self.now()
            self._expire(now)
            self._fill()
            self._start_senders(now)
            self._write_off()
            self._start_flush(now)
            await self._rest(now)
        except DriverError as error:
            logger.warning("outbox route %s: %s", self.name, error)
            return self._limits.retry_s
        return self._pause_s()

    def _pause_s(self) -> float:
        flush_at = None if self._flushing else self._flush_at
        due = [at for at in (flush_at, self._rest_at, self._expire_at) if at is not None]
        if self._plan.is_up:
            if self._hold_until > self.now():
                due.append(self._hold_until)
            elif self._plan.low:
                return 0.0
            retry_at = self._plan.next_due()
            if retry_at is not None:
                due.append(retry_at)
        return max(min(due) - self.now(), 0) / 1000 if due else float("inf")

    # --- sending

    def _fill(self) -> None:
        """Read on, a bounded stretch: what is read is at hand before anything else happens."""
        if not self._plan.is_up:
            return
        for _ in range(_READS_AT_ONCE):
            read = self._plan.next_read()
            if read is None:
                return
            heads = self.store.read(read.start, read.stop, read.limit, read.key, read.without)
            held = {
                item.sequence for item in self._plan.loaded(read, [_item(head) for head in heads], self._leavings.gone)
            }
            self._payloads.load([head for head in heads if head.id in held])

    def _fill_more(self) -> None:
        """From within a sender; what goes wrong the task will meet again."""
        try:
            self._fill()
        except DriverError:
            pass

    def _write_off(self) -> None:
        """All that is on disk has been sent, and more is counted: what damage took away, or made larger or smaller,
        holds up nothing new, and lets nothing in beyond the limit."""
        if not self._plan.is_up or not self._plan.is_empty or self._appending or self._leavings:
            return
        if self.entries > 0:
            logger.error(
                "outbox route %s: damage took %d entries: they are counted in node.db and not there",
                self.name,
                self.entries,
            )
        self.entries = self.bytes = 0

    def _start_senders(self, now: int) -> None:
        turns, plan = self._shared.turns, self._plan
        while self._may_send() and plan.has_work(now) and turns.ask(self.store.id, self.settings.priority):
            item = plan.take(now)
            if item is None:
                self._end_turn()
                break
            self._nursery.start_soon(self._send_on, item)
        if not plan.has_work(now):
            for winner in turns.withdraw(self.store.id):
                self._shared.wake(winner)
        self._note_expired()

    def _may_send(self) -> bool:
        leavings = self._leavings
        few = len(leavings) < self._limits.unflushed_max and leavings.said_bytes < _SAID_BYTES_MAX
        return few and self._hold_until <= self.now()

    def _end_turn(self) -> None:
        winner = self._shared.turns.give_back()
        if winner is not None:
            self._shared.wake(winner)

    async def _send_on(self, item: Item | None) -> None:
        """Send one after the other as long as it is this route's turn."""
        plan = self._plan
        try:
            while item is not None:
                await self._shared.pace.wait()
                await self._send(item)
                if plan.low and not plan.has_work(self.now()):
                    self._fill_more()
                if not self._may_go_on():
                    return
                item = plan.take(self.now())
        except BaseException:
            self._end_turn()
            raise
        self._end_turn()
        self.wake()

    def _may_go_on(self) -> bool:
        """Is it still this route's turn? If not, it has been given back."""
        turns = self._shared.turns
        if not self._may_send():
            self._end_turn()
        elif not turns.contended:
            return True
        elif not self._plan.has_work(self.now()):
            self._end_turn()
        else:
            winner = turns.pass_on(self.store.id, self.settings.priority)
            if winner is None:
                return True
            self._shared.wake(winner)
        self.wake()
        return False

    async def _send(self, item: Item) -> None:
        """One entry, and what becomes of it."""
        end = next((end for end in reversed(self.ends) if end.is_up), None)
        if end is None:
            self._plan.down()
            self._finish(item, Event.RELEASED, "")
            return
        try:
            found = self._payloads.take(item.sequence)
        except DriverError as error:
            self._hold(item, error)
            return
        if found is None:
            self._drop_damaged(item)
            return
        head, content = found
        event, reason, ups = Event.RELEASED, "", end.ups
        said: Mapping[str, Any] | None = None
        try:
            with trio.CancelScope() as scope:
                end.sending.add(scope)
                said = await end.send(self._entry(item, head, content))
                event = Event.DELIVERED
        except Unreachable as error:
            if end.ups == ups:  # else it has been up again meanwhile, and this is news of an earlier link
                event, reason = Event.UNREACHABLE, str(error)
                end.is_up = False
        except DriverError as error:
            event, reason = Event.REJECTED if error.permanent else Event.FAILED, str(error)
        except Exception as error:  # a driver's mistake must not end the route
            logger.exception("outbox route %s: sending failed", self.name)
            event, reason = Event.FAILED, f"{type(error).__name__}: {error}"
        finally:
            end.sending.discard(scope)
            end.idle.set()
            self._finish(item, event, reason, said if self.settings.fates is not None else None)

    def _hold(self, item: Item, error: DriverError) -> None:
        logger.warning("outbox route %s: entry %d cannot be read: %s", self.name, item.sequence, error)
        self._hold_until = self.now() + round(self._limits.retry_s * 1000)
        self._finish(item, Event.RELEASED, "")

    def _entry(self, item: Item, head: Head, content: Content) -> Entry:
        store = self._shared.store
        return Entry(
            EntryId(store.identity.node, head.epoch, head.id),
            self.name,
            head.key,
            content.payload,
            store.hlc_text(head.hlc),
            wall_time(head.at, store.now()),
            item.attempts,
        )

    # --- what becomes of an entry

    def _finish(self, item: Item, event: Event, reason: str, said: Mapping[str, Any] | None = None) -> None:
        was_up = self._plan.is_up
        verdict = self._plan.finish(item, event, self.now(), self._shared.chance())
        if verdict is Verdict.REMOVE:
            self._shared.numbers.forwarded.add((self.name,))
            self._leavings.sent(item.sequence, said)
            self._done_with(item)
        elif verdict is Verdict.BURY:
            logger.warning("outbox route %s: entry %d is a dead letter: %s", self.name, item.sequence, reason)
            self._leavings.bury(Burial(item.sequence, item.attempts + (event is not Event.REJECTED), reason))
            self.dead_entries += 1
            self._done_with(item)
        elif event is Event.FAILED:
            self._shared.numbers.failed.add((self.name,))
            self._note_error(item, reason)
            logger.debug("outbox route %s: entry %d failed: %s", self.name, item.sequence, reason)
        elif was_up and not self._plan.is_up:
            self._plan.up()  # another end may still be
            self.ends_changed(reason)

    def _note_error(self, item: Item, reason: str) -> None:
        if item.sequence in self._errors or len(self._errors) < _ERRORS_MAX:
            self._errors[item.sequence] = reason[:_ERROR_CHARACTERS]

    def _done_with(self, item: Item) -> None:
        self._errors.pop(item.sequence, None)
        self.entries -= 1
        self.bytes -= item.size
        if self._flush_at is None or len(self._leavings) == self._limits.flush_max or self._much_said:
            self._flush_soon(self.now() + round(self._limits.flush_after_s * 1000))

    @property
    def _much_said(self) -> bool:
        return self._leavings.said_bytes >= _SAID_BYTES_MAX // 4

    def _flush_soon(self, at: int) -> None:
        if len(self._leavings) >= self._limits.flush_max or self._much_said:
            at = self.now()
        self._flush_at = at
        self.wake()

    def _drop_damaged(self, item: Item) -> None:
        logger.error("outbox route %s: entry %d is damaged and dropped", self.name, item.sequence)
        self._plan.finish(item, Event.REJECTED, self.now(), 0.0)
        self._note_drops("damaged", [_head(item)])
        self._done_with(item)

    def _note_drops(self, reason: str, heads: Sequence[Head]) -> None:
        """To the ledger with the next removal. They are taken out of the plan already."""
        if heads:
            self._leavings.drop(reason, heads)
            self._shared.numbers.count_drops(self.name, reason, heads)
            self._flush_at = self.now()

    # --- age

    def _note_expired(self) -> None:
        """What the plan found too old when its turn came."""
        expired, self._plan.expired = self._plan.expired, []
        self._note_drops("age", [_head(item) for item in expired])
        for item in expired:
            self._done_with(item)
            self._payloads.forget(item.sequence)

    def _expire(self, now: int) -> None:
        """Drop what is too old, a bounded run of it, and find out when that will be the case again."""
        if self._expire_at is not None and now < self._expire_at:
            return
        age_max_ms = self._plan.limits.age_max_ms
        waiting = [head for head in self.store.oldest(_OLDEST) if head not in self._leavings]
        if not waiting or waiting[-1].at + age_max_ms <= now:
            waiting = [head for head in self.store.oldest(_EXPIRE_MAX) if head not in self._leavings]
        expired = [head for head in waiting if head.at + age_max_ms <= now and head.id not in self._plan.flying]
        self._take_out(expired)
        self._note_drops("age", expired)
        ages = [head.at for head in waiting if head.at + age_max_ms > now][:_OLDEST]
        self._oldest_at = min(ages, default=None)
        if ages:
            self._expire_at = min(ages) + age_max_ms
        else:
            # Nothing is known to come, or it comes with the next removal, which looks again.
            self._expire_at = None if not waiting else now + age_max_ms

    # --- removing

    def _start_flush(self, now: int) -> None:
        if self._flush_at is not None and self._flush_at <= now and not self._flushing:
            self._flushing = True
            self._flush_at = None
            self._nursery.start_soon(self._flush)

    async def _flush(self) -> None:
        """Remove what is done with, all in one transaction."""
        try:
            await self._flush_once()
        except DriverError as error:
            if str(error) != self._told:  # a full disk is met every `retry_s`
                self._told = str(error)
                logger.warning("outbox route %s: what was sent cannot be removed: %s", self.name, error)
            self._flush_at = self.now() + round(self._limits.retry_s * 1000)
        finally:
            self._flushing = False
            self.wake()

    async def _flush_once(self) -> None:
        attempts = self._plan.attempts()[:_ATTEMPTS_NOTED_MAX]
        trimmed = await self._leavings.remove(attempts, self.settings.dead_bytes_max)
        if trimmed is None:
            return
        self.dead_entries -= len(trimmed)
        self._shared.numbers.count_drops(self.name, "dead letters full", trimmed)
        self._told = ""
        self._expire_at = None
        self._rest_at = self.now() + round(self._limits.rest_s * 1000)

    async def _flush_rest(self) -> None:
        """At the end: nothing that was sent shall be sent again, and failures stay counted."""
        try:
            await self._flush_once()
            attempts = self._plan.attempts()
            if attempts:
                await self.store.remove(Removal(attempts=attempts), 0)
        except DriverError as error:
            logger.warning("outbox route %s: what was sent will be sent again: %s", self.name, error)
        except Exception:
            logger.exception("outbox route %s: what was sent will be sent again", self.name)

    async def _rest(self, now: int) -> None:
        """When it is quiet after removing: give space back, one bounded step at a time."""
        if self._rest_at is None or now < self._rest_at:
            return
        busy = bool(self._plan.flying or self._leavings.gone)
        more = busy or await self._shared.store.give_back()
        self._rest_at = self.now() + round(self._limits.rest_s * 1000) if more else None

    # --- by hand

    async def retry(self, sequences: Sequence[int] | None) -> int:
        """Dead letters wait to be sent again, in their old places; None is all of them."""
        await self._flush_once()
        heads = await self.store.revive(sequences)
        for head in heads:
            self.dead_entries -= 1
            self._came_back(head)
        self._expire_at = None
        self.wake()
        return len(heads)

    async def drop(self, sequences: Sequence[int] | None) -> int:
        """Drop entries that wait, and dead letters; None is all of both. What is being sent stays."""
        await self._flush_once()
        dead = await self.store.discard(sequences)
        self.dead_entries -= len(dead)
        self._shared.numbers.count_drops(self.name, "discarded", dead)
        count = len(dead)
        for heads in self._waiting(sequences):
            self._take_out(heads)
            self._note_drops("discarded", heads)
            count += len(heads)
            await self._flush_once()
        self.wake()
        return count

    def _waiting(self, sequences: Sequence[int] | None) -> Iterable[list[Head]]:
        """The entries that are not being sent, a bounded number at a time."""
        if sequences is not None:
            found = [head for sequence in sequences for head in self.store.read(sequence, sequence + 1, 1)]
            yield [head for head in found if head.id in range(self.store.base, self.store.top) and self._idle(head)]
            return
        start, tail = self.store.base, self._plan.tail
        while heads := self.store.read(start, tail + 1, _EXPIRE_MAX):
            start = heads[-1].id + 1
            yield [head for head in heads if self._idle(head)]

    def troubles(self) -> dict[int, tuple[int, str]]:
        """(failed attempts, what the last one said) of entries that wait, by sequence."""
        return {entry: (count, self._errors.get(entry, "")) for entry, count in self._plan.attempts()}

    def is_sending(self, sequence: int) -> bool:
        return sequence in self._plan.flying

    def said(self, sequence: int) -> Mapping[str, Any] | None:
        """What came of an entry that was sent, until its removal is on disk."""
        return self._leavings.said.get(sequence)

    def is_done_with(self, head: Head) -> bool:
        """It is on disk only until the next removal."""
        return head in self._leavings

    def _idle(self, head: Head) -> bool:
        return head not in self._leavings and head.id not in self._plan.flying


def _plan_limits(settings: RouteSettings) -> PlanLimits:
    return PlanLimits(
        in_flight_max=settings.in_flight_max,
        age_max_ms=round(settings.age_max_s * 1000),
        attempts_max=settings.attempts_max,
        retry=settings.retry,
    )


def _item(head: Head) -> Item:
    return Item(head.id, head.key, head.size, head.at, head.attempts)


def _head(item: Item) -> Head:
    return Head(item.sequence, item.size, item.at, item.attempts, item.key, 0, 0, None)
