"""A state route at work: does what `state_plan` decides, with the journal on one side and a remote store on the other.

One batch of keys is under way at a time, so a key is never in two places. In a batch everything is looked at together:
one read here, one bulk get there, one commit that marks what is to be sent, the requests a few at a time, one commit
that settles. What happens to one key stops no other: a key that fails waits, one that is refused for good is kept as a
dead letter with its reason until it is written again. When the remote cannot be reached, nothing is tried until it can.

A crash or a cancelled task between any two of these steps loses nothing: the journal still has what was not settled.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

import trio

from edge_runtime.model.errors import DriverError, EtagInvalid, EtagMismatch, Unreachable
from edge_runtime.model.hlc import Clock, Drift, Stamp, parse
from edge_runtime.model.ports import Backoff
from edge_runtime.model.sync import Dispute, Keys, Known, Settlement
from edge_runtime.sync.merge import Conflict, Version, digest
from edge_runtime.sync.state_plan import (
    Agenda,
    Ask,
    Fetch,
    Remote,
    Remove,
    Save,
    StateRoute,
    Step,
    marks_before,
    plan_key,
    settle_refused,
    settle_sent,
)

logger: Final = logging.getLogger("dapr.runtime.sync")

# Beside each key of a `last-writer` route the remote has one with this ending: when its value was written.
STAMP_KEY: Final = "~hlc"
_ROUNDS_MAX: Final = 4


class RemoteState(Protocol):
    """A state store behind a link. Keys are those that an app there would use.

    Raises `Unreachable` when the link is down, a `permanent` DriverError for a considered refusal, DriverError else.
    """

    async def bulk_get(self, store: str, keys: Sequence[str]) -> Mapping[str, tuple[bytes, str] | DriverError | None]:
        """Value and etag of each key; None, or no entry, for one that is not there; why one cannot be read."""

    async def save(self, store: str, key: str, value: bytes, etag: str | None = None, first_write: bool = True) -> None:
        """With `etag`, over that version only; with `first_write` and no etag, only when there is none.
        Raises EtagMismatch."""

    async def delete(self, store: str, key: str, etag: str | None = None) -> None:
        """With `etag`, that version only. Raises EtagMismatch."""


class LocalState(Protocol):
    """What the route needs of the store here; `store/journal.py` is it."""

    version: int

    async def wait_changed(self, version: int) -> None: ...
    async def pending(self, keys: Keys, after: str, limit: int) -> Sequence[str]: ...
    async def synced(self, route: str, keys: Keys, after: str, limit: int, *, gone: bool = False) -> Sequence[str]: ...
    async def look(self, route: str, keys: Iterable[str]) -> Sequence[Known]: ...
    async def mark_sent(self, route: str, marks: Mapping[str, Sequence[bytes]]) -> None: ...
    async def settle(self, route: str, settlements: Sequence[Settlement]) -> Sequence[bool]: ...
    async def scan(self, route: str, keys: Keys, after: str) -> str | None: ...
    async def forget_removed(self, route: str, before: str) -> None: ...
    async def follow(self, route: str, keys: Iterable[str]) -> None: ...


# What an app says to a conflict of its keys. Raises DriverError when it cannot say.
AskApp = Callable[[Conflict], Awaitable[Version]]


class SyncLimits(NamedTuple):
    """What one route has under way. `batch_bytes_max`: of values sent in one batch; a single value may be larger."""

    batch_keys_max: int = 64
    batch_bytes_max: int = 2**20
    requests_max: int = 8
    keys_max: int = 1024
    questions_max: int = 8
    scan_s: float = 300.0
    removed_kept_ms: int = 86_400_000
    retry: Backoff = Backoff()
    unreachable: Backoff = Backoff(1.0, 60.0)


class Stamps:
    """The node's hybrid logical clock as texts. `wall_ms` is the wall clock."""

    def __init__(self, clock: Clock, wall_ms: Callable[[], int]) -> None:
        self._clock = clock
        self._wall_ms = wall_ms

    def __call__(self) -> str:
        """A stamp later than every one before."""
        return str(self._clock.now(self._wall_ms()))

    def receive(self, text: str) -> bool:
        """Later stamps are later than this one; False when it cannot be believed."""
        try:
            self._clock.receive(parse(text), self._wall_ms())
        except (Drift, ValueError):
            return False
        return True

    def go_on_from(self, text: str) -> None:
        """Later stamps are later than this one, which this node has given or believed before."""
        try:
            stamp = parse(text)
        except ValueError:
            return  # damaged, or none
        self._clock.go_on_from(stamp)

    def before(self, ms: int) -> str:
        """What was stamped so long ago, or earlier, sorts before this."""
        return str(Stamp(max(self._clock.last.ms - ms, 0), 0))


class Counts:
    """What a route has done. `told` hears of it as it happens, for metrics."""

    __slots__ = ("applied", "conflicts", "deleted", "fetched", "refused", "saved", "told")

    def __init__(self) -> None:
        self.saved = self.deleted = self.fetched = self.applied = self.conflicts = self.refused = 0
        self.told: Callable[[str, int], None] = lambda action, number: None

    def add(self, action: str, number: int = 1) -> None:
        """So many keys more."""
        if number:
            setattr(self, action, getattr(self, action) + number)
            self.told(action, number)


class Planned(NamedTuple):
    """What would be done about a key: `save`, `remove`, `conflict`, `take`, `settle`, `look` or `none`."""

    key: str
    action: str
    outcome: str = ""


class StateSync:
    """One route. `up` and `down` say whether the remote can be reached; without them it tries by itself."""

    def __init__(
        self,
        route: StateRoute,
        local: LocalState,
        remote: RemoteState,
        stamps: Stamps,
        *,
        ask: AskApp | None = None,
        limits: SyncLimits = SyncLimits(),  # noqa: B008
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.route = route
        self.counts = Counts()
        self.last_error = ""  # what went wrong last, of a key or of all; empty again when nothing waits for it
        self._base_name = route.base_name
        self._local = local
        self._remote = remote
        self._stamps = stamps
        self._ask = ask
        self._limits = limits
        self._chance = chance
        self._agenda = Agenda(limits.retry, limits.keys_max)
        self._batch_keys = limits.batch_keys_max  # fewer after a look that failed
        self._questions: trio.Nursery | None = None
        self._asked: dict[str, Conflict] = {}  # what the app is being asked
        self._answers: dict[str, tuple[Conflict, Version]] = {}
        self._unasked: dict[str, None] = {}  # keys for when it has answered something else
        self._bell = trio.Event()
        self._reachable_at = 0.0  # nothing is tried before
        self._failures = 0
        self._read_after: str | None = ""  # how far the journal has been read; None: to its end
        self._poll_after: str | None = None
        self._poll_at = 0.0
        self._scan_at = 0.0

    # --- told from outside --------------------------------------------------------------------------------------------

    def up(self) -> None:
        """The remote can be reached: try now."""
        self._reachable_at, self._failures = 0.0, 0
        self._bell.set()

    def down(self) -> None:
        """It cannot; nothing is tried until `up`."""
        self._reachable_at = float("inf")

    def now(self) -> None:
        """Look at everything that is changed here or followed there, also at what waits for its pause to end."""
        self._agenda.hurry()
        self._poll_at = self._scan_at = 0.0
        self._read_after = ""
        if self._reachable_at != float("inf"):
            self._reachable_at = 0.0
        self._bell.set()

    def poll(self) -> None:
        """Look at everything that is followed there."""
        self._poll_at = 0.0
        self._bell.set()

    def failed(self, reason: str) -> None:
        """Told by who supervises the loop."""
        self.last_error = reason

    @property
    def reachable(self) -> bool:
        """Can the remote be reached, as far as is known?"""
        return self._reachable_at <= trio.current_time()

    async def follow(self, remote_keys: Sequence[str]) -> None:
        """A change topic names keys that have changed at the remote; on disk when this returns. Raises DriverError."""
        keys = [key for name in remote_keys if (key := self._followed(name)) is not None]
        await self._local.follow(self._base_name, keys)
        self.told(remote_keys)

    def _followed(self, remote_key: str) -> str | None:
        return None if remote_key.endswith(STAMP_KEY) else self.route.stored_key(remote_key)

    def told(self, remote_keys: Iterable[str]) -> None:
        """These have changed at the remote."""
        for name in remote_keys:
            key = self._followed(name)
            if key is None:
                continue
            if self._agenda.room <= 0:  # too many at once: look at everything that is followed
                self._poll_at = 0.0
                break
            self._agenda.offer([key], fetch=True)
        self._bell.set()

    # --- the loop -----------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            self._questions = nursery
            self._asked.clear()
            nursery.start_soon(self._forward_changes)
            task_status.started()
            while True:
                self._bell = trio.Event()
                await trio.lowlevel.checkpoint()
                if not await self._turn():
                    with trio.move_on_at(self._next_time()):
                        await self._bell.wait()

    async def _forward_changes(self) -> None:
        version = self._local.version
        while True:
            await self._local.wait_changed(version)
            version = self._local.version
            self._read_after = ""
            self._bell.set()

    def _next_time(self) -> float:
        times = [self._scan_at]
        if (due := self._agenda.next_due()) is not None:
            times.append(due)
        if self._polls:
            times.append(self._poll_at)
        if self._agenda or self._has_more_to_read:
            times.append(0.0)
        return max(min(times), self._reachable_at)

    async def _turn(self) -> bool:
        """Do one batch; False when there was nothing to do."""
        now = trio.current_time()
        try:
            await self._scan_when_due(now)
            if now < self._reachable_at:
                return False
            await self._fill(now)
        except DriverError as error:
            self._complain("the store here: %s", error)
            self._reachable_at = max(self._reachable_at, now + self._limits.retry.first_s)
            return False
        batch = self._agenda.take(now, self._batch_keys)
        if not batch:  # there may be more to read, behind keys that wait
            return self._has_more_to_read
        await self._process(batch)
        return True

    async def _scan_when_due(self, now: float) -> None:
        """Find what other processes wrote."""
        if now < self._scan_at:
            return
        after: str | None = ""
        while after is not None:
            after = await self._local.scan(self._base_name, self.route.keys, after)
        await self._local.forget_removed(self._base_name, self._stamps.before(self._limits.removed_kept_ms))
        self._scan_at = now + self._limits.scan_s
        self._read_after = ""

    @property
    def _has_more_to_read(self) -> bool:
        return (self._read_after is not None and self.route.direction != "down") or self._poll_after is not None

    @property
    def _polls(self) -> bool:
        return self.route.poll_s > 0

    async def _fill(self, now: float) -> None:
        """Put what is changed here, and what has to be looked at there, on the agenda."""
        route, limit = self.route, self._limits.batch_keys_max
        if self._read_after is not None and len(self._agenda) < limit and route.direction != "down":
            after = self._read_after
            self._read_after = None
            keys = await self._local.pending(route.keys, after, limit)
            if len(keys) == limit and self._read_after is None:
                self._read_after = keys[-1]
            self._agenda.offer(keys)
        if self._polls and now >= self._poll_at and self._poll_after is None:  # a slow one is not begun again midway
            self._poll_at = now + route.poll_s
            self._poll_after = self._read_after = ""
            if route.keys.exact and route.direction != "up":
                self._agenda.offer([route.keys.prefix], fetch=True)
        if self._poll_after is not None and len(self._agenda) < limit:
            keys = await self._local.synced(
                self._base_name, route.keys, self._poll_after, limit, gone=route.direction == "up"
            )
            self._poll_after = keys[-1] if len(keys) == limit else None
            self._agenda.offer(keys, fetch=True)

    # --- a batch ------------------------------------------------------------------------------------------------------

    async def _process(self, batch: dict[str, bool]) -> None:
        left, before = dict(batch), self.last_error
        try:
            for _ in range(_ROUNDS_MAX):
                left = await self._round(left)
                if not left:
                    break
            self._failures = 0
            self._batch_keys = min(self._batch_keys * 2, self._limits.batch_keys_max)
            self._go_on(left)
            if self.last_error is before and not self._agenda.waits:
                self.last_error = ""
        except Unreachable as error:
            self._agenda.offer((key for key, fetch in batch.items() if fetch), fetch=True)
            self._agenda.offer(batch)
            self._wait_for_remote(error)
        except DriverError as error:
            self._complain("%s", error)
            self._batch_keys = max(len(batch) // 2, 1)  # it may be too much for a slow line
            self._all_failed(batch)

    def _go_on(self, left: Mapping[str, bool]) -> None:
        """With keys that were not done in so many rounds: later, when the remote said no to what it had just shown."""
        for key, again in left.items():
            if again:
                self._complain("key %r: it goes on changing, or the remote refuses the etag that it has shown", key)
                self._failed(key, fetch=True)
            else:
                self._agenda.offer([key])

    def _complain(self, text: str, *args: object) -> None:
        self.last_error = text % args
        logger.warning("state route %s: %s", self.route.name, self.last_error)

    def _wait_for_remote(self, error: Unreachable) -> None:
        if not self._failures:
            logger.info("state route %s: the remote cannot be reached: %s", self.route.name, error)
        self.last_error = f"the remote cannot be reached: {error}"
        self._failures += 1
        pause = self._limits.unreachable
        pause_s = min(pause.most_s, pause.first_s * 2.0 ** min(self._failures - 1, 60))
        pause_s *= 1 - pause.jitter + 2 * pause.jitter * self._chance()
        self._reachable_at = max(self._reachable_at, trio.current_time() + pause_s)

    def _all_failed(self, batch: Mapping[str, bool]) -> None:
        for key, fetch in batch.items():
            self._failed(key, fetch=fetch)

    def _failed(self, key: str, *, fetch: bool) -> None:
        self._agenda.failed(key, trio.current_time(), self._chance(), fetch=fetch)

    async def _round(self, batch: Mapping[str, bool]) -> dict[str, bool]:
        """One look and one step for each key; those that have another step to go."""
        left: dict[str, bool] = {}
        requests: list[Save | Remove] = []
        settlements: list[Settlement] = []
        sent_bytes = 0
        for step in await self._plan(batch):
            if isinstance(step, Settlement):
                settlements.append(step)
            elif isinstance(step, Save | Remove):
                size = len(step.value) if isinstance(step, Save) else 0
                if requests and sent_bytes + size > self._limits.batch_bytes_max:
                    left[step.known.key] = False
                    continue
                sent_bytes += size
                requests.append(step)
        if settlements:
            left.update(await self._settle(settlements))
        if requests:
            left.update(await self._send(requests))
        return left

    async def _plan(self, batch: Mapping[str, bool]) -> list[Save | Remove | Settlement]:
        """The next step of each key, after looking at the remote for those that need it."""
        known = await self._local.look(self._base_name, batch)
        steps: list[Save | Remove | Settlement] = []
        unseen: list[Known] = []
        for one in known:
            step = None if batch[one.key] else plan_key(self.route, one, None, "")
            if batch[one.key] or isinstance(step, Fetch):
                unseen.append(one)
            elif step is None:
                self._agenda.done(one.key)
            elif not isinstance(step, Ask):
                steps.append(step)
        if unseen:
            steps += await self._plan_seen(unseen)
        return steps

    async def _plan_seen(self, unseen: Sequence[Known]) -> list[Save | Remove | Settlement]:
        steps: list[Save | Remove | Settlement] = []
        remotes = await self._fetch([one.key for one in unseen])
        for one in unseen:
            if one.key not in remotes:  # it could not be fetched, and has been put off
                continue
            step = plan_key(self.route, one, remotes[one.key], self._stamps())
            if isinstance(step, Ask):
                step = self._ask_app(step, remotes[one.key])
            else:
                self._answers.pop(one.key, None)
                if step is None:
                    self._agenda.done(one.key)
            if isinstance(step, Save | Remove | Settlement):
                steps.append(step)
        return steps

    def _ask_app(self, step: Ask, remote: Remote) -> Step | None:
        """What its answer makes of it. Without one the app is asked, for as long as it takes: other keys go on."""
        key = step.known.key
        conflict, answer = self._answers.pop(key, (None, None))
        if conflict == step.conflict:
            return plan_key(self.route, step.known, remote, self._stamps(), answer)
        if key in self._asked:
            return None  # it comes back with an answer, if only to what it was
        if self._questions is None or len(self._asked) >= self._limits.questions_max:
            if len(self._unasked) < self._limits.keys_max:
                self._unasked[key] = None
            return None
        self._asked[key] = step.conflict
        self._questions.start_soon(self._put_question, step.conflict)
        return None

    async def _put_question(self, conflict: Conflict) -> None:
        key = conflict.key
        try:
            if self._ask is None:
                raise DriverError("there is nobody to ask")
            answer = await self._ask(conflict)
        except DriverError as error:  # also Unreachable: that is the app, not the remote
            self._complain("key %r: its conflict waits for the app: %s", key, error)
            self._failed(key, fetch=True)
        else:
            self._answers[key] = conflict, answer
            self._agenda.offer([key], fetch=True)
        del self._asked[key]
        if self._unasked:
            self._agenda.offer([self._unasked.popitem()[0]], fetch=True)
        self._bell.set()

    # --- the remote ---------------------------------------------------------------------------------------------------

    async def _fetch(self, keys: Sequence[str]) -> dict[str, Remote]:
        """The remote's versions. When the whole batch is refused, one by one: a bad key must not hide the others."""
        try:
            return await self._fetch_together(keys)
        except Unreachable:
            raise
        except DriverError as error:
            if len(keys) == 1:
                self._complain("key %r: %s", keys[0], error)
                await self._put_off(keys[0], error)
                return {}
            if not error.permanent:
                raise
        found: dict[str, Remote] = {}
        for key in keys:
            found |= await self._fetch([key])
        return found

    async def _put_off(self, key: str, error: DriverError) -> None:
        if error.permanent:
            known = (await self._local.look(self._base_name, [key]))[0]
            if known.change is not None:
                await self._local.settle(self._base_name, [Settlement(known, False, refused=str(error))])
                self.counts.add("refused")
        self._failed(key, fetch=True)

    async def _fetch_together(self, keys: Sequence[str]) -> dict[str, Remote]:
        route = self.route
        names = {key: route.remote_key(key) for key in keys}
        asked = list(names.values())
        if route.conflict == "last-writer":
            asked += [name + STAMP_KEY for name in names.values()]
        answers = await self._remote.bulk_get(route.remote_store, asked)
        self.counts.add("fetched", len(keys))
        found = {}
        for key, name in names.items():
            answer = answers.get(name)
            if isinstance(answer, DriverError):
                self._complain("key %r: %s", key, answer)
                self._failed(key, fetch=True)
                continue
            if answer is not None and not answer[1]:  # every version would look like the one before
                self._complain("key %r: store %s tells no etags, and cannot be followed", key, route.remote_store)
                self._failed(key, fetch=True)
                continue
            value, etag = (None, None) if answer is None else answer
            found[key] = Remote(value, etag, self._stamp_of(value, answers.get(name + STAMP_KEY)))
        return found

    def _stamp_of(self, value: bytes | None, note: tuple[bytes, str] | DriverError | None) -> str | None:
        """When the remote's version was written, if its writer said so and it is still that version."""
        if note is None or isinstance(note, DriverError):
            return None
        try:
            told = json.loads(note[0])
            stamp = str(told["at"])
            is_of_it = told["of"] == digest(value).hex()
        except (ValueError, TypeError, KeyError):
            return None
        return stamp if is_of_it and self._stamps.receive(stamp) else None

    async def _send(self, requests: Sequence[Save | Remove]) -> dict[str, bool]:
        """Mark, send, settle. Whatever became of the others, what the remote has done is settled."""
        marks = {step.known.key: some for step in requests if (some := marks_before(step)) is not None}
        if marks:
            await self._local.mark_sent(self._base_name, marks)
        left: dict[str, bool] = {}
        settlements: list[Settlement] = []
        problems: list[Unreachable] = []
        slots = trio.CapacityLimiter(self._limits.requests_max)

        async def send(step: Save | Remove) -> None:
            async with slots:
                if problems:
                    return
                try:
                    settlements.append(await self._request(step))
                except (EtagMismatch, EtagInvalid):  # an etag of a store that is another one now may be no etag there
                    left[step.known.key] = True
                except Unreachable as error:
                    problems.append(error)
                except DriverError as error:
                    self._complain("key %r: %s", step.known.key, error)
                    if error.permanent:
                        self.counts.add("refused")
                        settlements.append(settle_refused(step, str(error)))
                    else:
                        self._failed(step.known.key, fetch=False)

        async with trio.open_nursery() as nursery:
            for step in requests:
                nursery.start_soon(send, step)
        if settlements:
            left.update(await self._settle(settlements))
        if problems:
            raise problems[0]
        return left

    async def _request(self, step: Save | Remove) -> Settlement:
        route, store = self.route, self.route.remote_store
        name = route.remote_key(step.known.key)
        if isinstance(step, Save):
            await self._remote.save(store, name, step.value, step.etag, first_write=True)
            self.counts.add("saved")
        else:
            await self._remote.delete(store, name, step.etag)
            self.counts.add("deleted")
        if route.conflict == "last-writer" and step.known.change is not None:
            await self._note_stamp(name, step, step.known.change.stamp)
        return settle_sent(route, step, self._stamps())

    async def _note_stamp(self, name: str, step: Save | Remove, stamp: str) -> None:
        """Without the note the version counts as just written where it is seen: a failure only weakens the policy."""
        value = step.value if isinstance(step, Save) else None
        note = json.dumps({"of": digest(value).hex(), "at": stamp}, separators=(",", ":")).encode()
        try:
            await self._remote.save(self.route.remote_store, name + STAMP_KEY, note, None, first_write=False)
        except DriverError as error:
            logger.debug("state route %s: the time of %r could not be noted: %s", self.route.name, name, error)

    async def _settle(self, settlements: Sequence[Settlement]) -> dict[str, bool]:
        """What was settled may have another step; what was not is to be looked at again."""
        done = await self._local.settle(self._base_name, settlements)
        left: dict[str, bool] = {}
        for settlement, was_done in zip(settlements, done, strict=True):
            key = settlement.seen.key
            if not was_done:
                left[key] = True
                continue
            if not (settlement.done or settlement.refused):
                left[key] = False
            self._agenda.done(key)
            self.counts.add("conflicts", settlement.dispute is not None)
            self.counts.add("applied", settlement.value is None or isinstance(settlement.value, bytes))
        return left

    # --- a look, without doing anything -------------------------------------------------------------------------------

    async def dry_run(self, limit: int = 100) -> list[Planned]:
        """What would be done about changes that wait here, one step a key. Raises DriverError when that cannot be
        read; what the remote has is left out when it cannot be asked."""
        route = self.route
        if route.direction == "down":
            return []
        known = await self._local.look(self._base_name, await self._local.pending(route.keys, "", limit))
        remotes: Mapping[str, Remote] = {}
        if known and self.reachable:
            try:
                remotes = await self._fetch_together([one.key for one in known])
            except DriverError as error:
                logger.debug("state route %s: dry run: %s", route.name, error)
        return [self._planned(one, remotes.get(one.key)) for one in known]

    def _planned(self, known: Known, remote: Remote | None) -> Planned:
        step = plan_key(self.route, known, remote, self._stamps())
        match step:
            case Save():
                return Planned(known.key, "save")
            case Remove():
                return Planned(known.key, "remove")
            case Ask():
                return Planned(known.key, "conflict", "the app is asked")
            case Fetch():
                return Planned(known.key, "look", "the remote could not be asked what it has")
            case Settlement(dispute=Dispute(outcome=outcome)):
                return Planned(known.key, "conflict", outcome)
            case Settlement(value=None) | Settlement(value=bytes()):
                return Planned(known.key, "take", "the remote's version")
            case Settlement():
                return Planned(known.key, "settle", "both sides are the same, or nothing is left to send")
            case None:
                return Planned(known.key, "none")
