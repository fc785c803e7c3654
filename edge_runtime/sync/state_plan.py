"""What a state route does next with a key, decided without a clock, a disk or a link.

For each key there are three versions: the one here, the remote's, and the base, the last that both had. `plan_key`
looks at them and names one step; the step is done, and the key is looked at again until there is none. What must not be
lost on the way is only ever changed together: see `store/journal.py`.

Dapr's answer to a save does not tell the new etag, and an answer can be lost after the request was done. So what is
sent is marked before: a remote version that bears the mark of what we sent is ours, not a change of somebody else. A
mark counts only where its request could have been done: an update or a removal until there is another base, a creation
while the remote had nothing. The mark of a creation outlives a removal, since a request that was given up may still
arrive after it and must not bring the key back.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heappop, heappush
from itertools import islice
from typing import Literal, NamedTuple

from edge_runtime.model.ports import Backoff
from edge_runtime.model.sync import KEEP, Base, Change, Dispute, Keep, Keys, Known, Settlement
from edge_runtime.sync.merge import Conflict, Decision, Policy, Version, decide, digest, same

_UPDATE, _CREATE, _DELETE, _SAVED = b"u", b"c", b"d", b"s"
MARKS_MAX = 8  # of one key; the oldest are forgotten


class StateRoute(NamedTuple):
    """Keys that follow those of a remote store. `name` is for people.

    `keys` are stored keys, with the app's prefix; `remote_prefix` takes the place of theirs. Bases are kept under
    `base_name`, another one when the keys or the remote are others: what a former remote had says nothing of this one.
    """

    name: str
    keys: Keys
    remote_store: str
    remote_prefix: str
    direction: Literal["up", "down", "both"] = "both"
    conflict: Policy = "remote-wins"
    poll_s: float = 30.0
    known_as: str = ""

    @property
    def base_name(self) -> str:
        """What bases are kept under."""
        return self.known_as or self.name

    @property
    def keeps_values(self) -> bool:
        """Does the policy want to see the base's value?"""
        return self.conflict in ("merge", "app")

    def remote_key(self, key: str) -> str:
        """The remote's name for a stored key."""
        return self.remote_prefix + key[len(self.keys.prefix) :]

    def stored_key(self, remote_key: str) -> str | None:
        """The stored key behind a remote one; None when the route does not cover it."""
        if not remote_key.startswith(self.remote_prefix):
            return None
        key = self.keys.prefix + remote_key[len(self.remote_prefix) :]
        return key if self.keys.cover(key) else None


class Remote(NamedTuple):
    """The remote's version; `value` None means that there is none."""

    value: bytes | None = None
    etag: str | None = None
    stamp: str | None = None


class Fetch(NamedTuple):
    """The remote's version has to be known."""

    key: str


class Save(NamedTuple):
    """Write at the remote: over the version `etag`, or as the first when that is None."""

    known: Known
    value: bytes
    etag: str | None


class Remove(NamedTuple):
    """Delete the version `etag` at the remote."""

    known: Known
    etag: str


class Ask(NamedTuple):
    """The app has to say what becomes of it."""

    known: Known
    conflict: Conflict


Step = Fetch | Save | Remove | Settlement | Ask


def plan_key(
    route: StateRoute, known: Known, remote: Remote | None, stamp: str, answer: Version | None = None
) -> Step | None:
    """The next step; None when there is nothing to do. `remote` None: not looked at. `stamp`: a new one."""
    if known.expired and known.change is not None and not known.change.deleted:
        base = KEEP if known.base is None else known.base._replace(local_etag=None)
        return Settlement(known, base=base, done=True)
    if remote is None:
        return _plan_unseen(route, known)
    return _Look(route, known, remote, stamp, answer).plan()


def _plan_unseen(route: StateRoute, known: Known) -> Step | None:
    """With what is known here alone: most changes can be sent at once."""
    change, base = known.change, known.base
    if change is None or change.refused or route.direction == "down":
        return None
    if base is not None and (base.sent or (base.stamp and not base.known)):
        return Fetch(known.key)
    return _send(known, None if base is None else base.remote_etag)


def _send(known: Known, etag: str | None) -> Step:
    if known.local is not None:
        return Save(known, known.local.value, etag)
    if etag is not None:
        return Remove(known, etag)
    # Made and removed before anybody else heard of it.
    return Settlement(known, base=_without(known.base, known.change), done=True)


def _without(base: Base | None, change: Change | None) -> Base | None:
    """The base when nothing is left on both sides: only what may still arrive is remembered."""
    marks = _creations(base)
    return Base(None, True, None, None, marks, _stamp_of(change, base)) if marks else None


def _creations(base: Base | None) -> tuple[bytes, ...]:
    return () if base is None else tuple(mark for mark in base.sent if mark[:1] == _CREATE)


def _stamp_of(change: Change | None, base: Base | None) -> str:
    return change.stamp if change is not None else (base.stamp if base is not None else "")


class _Look:
    """One key with all three versions known."""

    def __init__(self, route: StateRoute, known: Known, remote: Remote, stamp: str, answer: Version | None) -> None:
        self.route, self.known, self.remote, self.stamp, self.answer = route, known, remote, stamp, answer
        base = known.base
        self.base = base if base is not None and base.stamp else None  # one with marks only is none
        self.marks = () if base is None else base.sent
        self.local = None if known.local is None else known.local.value
        self.local_etag = None if known.local is None else known.local.etag

    def plan(self) -> Step | None:
        if self._is_ours():
            return self._plan_ours()
        if not self._remote_changed():
            return self._plan_local()
        if not self._local_changed():
            return None if self.route.direction == "up" else self._take(self.remote.value)
        if same(self.local, self.remote.value):
            return self._agree()
        return self._plan_conflict()

    # --- what has happened --------------------------------------------------------------------------------------------

    def _remote_changed(self) -> bool:
        if self.base is None:
            return self.remote.value is not None
        return not self.base.known or self.remote.etag != self.base.remote_etag

    def _is_ours(self) -> bool:
        """Does the remote have what we sent, and nobody has told us?"""
        if not self.marks or not self._remote_changed():
            return False
        kinds = _UPDATE + _DELETE  # sent since this base, or they would be gone
        if self.base is None or (self.base.known and self.base.remote_etag is None):
            kinds += _CREATE
        elif not self.base.known:
            kinds += _SAVED
        seen = digest(self.remote.value)
        return any(mark[:1] in kinds and mark[1:] == seen for mark in self.marks)

    def _local_changed(self) -> bool:
        """Also when another process changed it and no scan has found that yet."""
        if self.known.expired:
            return False
        return self.known.change is not None or self.local_etag != (self.base and self.base.local_etag)

    # --- steps --------------------------------------------------------------------------------------------------------

    def _plan_ours(self) -> Step:
        if same(self.local, self.remote.value) or self.known.expired:
            return self._agree()
        # It was changed here again since, or removed and an old creation came late.
        return _send(self.known, self.remote.etag)

    def _plan_local(self) -> Step | None:
        change = self.known.change
        if change is None and self.known.base == Base():
            return Settlement(self.known, base=None, done=True)  # it was told of, and is not there
        if change is None or change.refused or self.route.direction == "down":
            return None
        return _send(self.known, self.remote.etag)

    def _take(self, value: bytes | None) -> Settlement:
        """The remote's version is the one that counts here too."""
        return Settlement(
            self.known,
            value=KEEP if self.local == value else value,  # also another spelling: it may be a text
            base=self._base(self.local_etag),
            done=True,
        )

    def _agree(self) -> Settlement:
        return Settlement(self.known, base=self._base(self.local_etag), done=True)

    def _base(self, local_etag: str | None) -> Base | None:
        """The remote's version becomes the base."""
        marks = _creations(self.known.base)
        if self.remote.value is None and local_etag is None and not marks:
            return None
        value = self.remote.value if self.route.keeps_values else None
        return Base(self.remote.etag, True, local_etag, value, marks, self.remote.stamp or self.stamp)

    def _plan_conflict(self) -> Step:
        change, remote = self.known.change, self.remote
        conflict = Conflict(
            self.known.key,
            None if self.base is None else self.base.value,
            Version(self.local, None if change is None else change.stamp),
            Version(remote.value, remote.stamp),
        )
        decision = decide(self.route.conflict, conflict, self.answer)
        if decision is None:
            return Ask(self.known, conflict)
        return self._settle_conflict(conflict, decision)

    def _settle_conflict(self, conflict: Conflict, decision: Decision) -> Settlement:
        """The decision becomes the version here, the remote's becomes the base; sending the difference is the next
        step, and an ordinary one. Where nothing is sent it stays a change, which the remote's next version meets."""
        keeps = same(decision.value, self.local)
        differs = not same(decision.value, self.remote.value)
        change = self.known.change
        value: bytes | Keep | None = KEEP if keeps else decision.value
        sibling = None
        if decision.sibling is not None:
            sibling = f"{self.known.key}~{self.stamp}", decision.sibling
        base = self._base(self.local_etag if keeps else "written")
        return Settlement(
            self.known,
            value=value,
            base=base,
            done=not differs,
            changed=differs and (not keeps or change is None or bool(change.refused)),
            dispute=_dispute(self.route.conflict, conflict, decision) if decision.losers else None,
            sibling=sibling,
        )


def _dispute(policy: Policy, conflict: Conflict, decision: Decision) -> Dispute:
    return Dispute(
        policy,
        decision.outcome,
        conflict.base,
        conflict.local.value,
        conflict.remote.value,
        decision.losers,
        decision.paths,
        conflict.local.stamp,
        conflict.remote.stamp,
    )


# --- around a request -------------------------------------------------------------------------------------------------


def marks_before(step: Save | Remove) -> tuple[bytes, ...] | None:
    """The key's marks with that of the step; None when it is there already."""
    mark = _DELETE + digest(None)
    if isinstance(step, Save):
        mark = (_CREATE if step.etag is None else _UPDATE) + digest(step.value)
    marks = () if step.known.base is None else step.known.base.sent
    return None if mark in marks else (mark, *marks)[:MARKS_MAX]


def settle_sent(route: StateRoute, step: Save | Remove, stamp: str) -> Settlement:
    """The remote has done it. What was changed here meanwhile stays a change."""
    known = step.known
    marks = _creations(known.base)
    at = stamp if known.change is None else known.change.stamp
    if isinstance(step, Remove):
        return Settlement(known, False, base=Base(None, True, None, None, marks, at) if marks else None, done=True)
    assert known.local is not None
    value = step.value if route.keeps_values else None
    saved = Base(None, False, known.local.etag, value, (_SAVED + digest(step.value), *marks), at)
    return Settlement(known, False, base=saved, done=True)


def settle_refused(step: Save | Remove, reason: str) -> Settlement:
    """The remote will never take it."""
    return Settlement(step.known, False, refused=reason)


# --- which keys, when -------------------------------------------------------------------------------------------------


class Agenda:
    """The keys of a route that are to be looked at: in order, each once, after a pause when they failed."""

    def __init__(self, retry: Backoff, keys_max: int) -> None:
        self._retry = retry
        self._keys_max = keys_max
        self._ready: dict[str, bool] = {}  # whether the remote has to be looked at
        self._waiting: dict[str, bool] = {}  # the same, of keys that wait for their pause to end
        self._due: list[tuple[float, str]] = []  # a heap of those
        self._failures: dict[str, int] = {}  # in a row

    @property
    def room(self) -> int:
        """How many more keys it takes."""
        return self._keys_max - len(self._ready)

    @property
    def waits(self) -> bool:
        """Are there keys that failed, and wait for their pause to end?"""
        return bool(self._waiting)

    def __len__(self) -> int:
        return len(self._ready)

    def offer(self, keys: Iterable[str], *, fetch: bool = False) -> None:
        """Look at these; a key that waits goes on waiting."""
        for key in keys:
            into = self._waiting if key in self._waiting else self._ready
            into[key] = into.get(key, False) or fetch

    def take(self, now: float, limit: int) -> dict[str, bool]:
        """Up to `limit` keys, and whether the remote has to be looked at."""
        while self._due and self._due[0][0] <= now:
            _, key = heappop(self._due)
            self._ready[key] = self._waiting.pop(key)
        taken = dict(islice(self._ready.items(), limit))
        for key in taken:
            del self._ready[key]
        return taken

    def failed(self, key: str, now: float, chance: float, *, fetch: bool) -> None:
        """Look again after a pause, longer every time. With too many that wait, it is left to the next reading."""
        if key in self._waiting or len(self._waiting) >= self._keys_max:
            return
        count = self._failures[key] = self._failures.get(key, 0) + 1
        self._waiting[key] = fetch or self._ready.pop(key, False)
        retry = self._retry
        pause_s = min(retry.most_s, retry.first_s * 2.0 ** min(count - 1, 60))
        heappush(self._due, (now + pause_s * (1 - retry.jitter + 2 * retry.jitter * chance), key))

    def hurry(self) -> None:
        """Look at what waits as well."""
        self._ready |= self._waiting
        self._waiting.clear()
        self._due.clear()

    def done(self, key: str) -> None:
        """It did not fail."""
        self._failures.pop(key, None)

    def next_due(self) -> float | None:
        """When the first pause is over."""
        return self._due[0][0] if self._due else None
