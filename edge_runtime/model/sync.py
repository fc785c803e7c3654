"""What the planner of a state route and the store behind it tell each other about a key."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Literal, NamedTuple

from edge_runtime.model.ports import Item


class Keys(NamedTuple):
    """Stored keys with a prefix, or just one of them when `exact`."""

    prefix: str
    exact: bool = False

    def cover(self, key: str) -> bool:
        """Is it one of them?"""
        return key == self.prefix if self.exact else key.startswith(self.prefix)

    def overlap(self, other: Keys) -> bool:
        """Is there a key in both?"""
        return self.cover(other.prefix) or other.cover(self.prefix)


class Change(NamedTuple):
    """The newest change of a key that the other end does not have yet.

    `stamp` is another one with every change. `refused` is why the remote will never take it; empty otherwise.
    """

    stamp: str
    deleted: bool
    refused: str = ""


class Base(NamedTuple):
    """The last version that both ends had. `value` is None when the key was removed, or values are not kept.

    `remote_etag` counts when `known`: after a save only a later look tells it. `local_etag` None: nothing is here.
    `sent` are marks of what was sent with an unknown end, and of what was saved while the etag is not known.
    """

    remote_etag: str | None = None
    known: bool = False
    local_etag: str | None = None
    value: bytes | None = None
    sent: tuple[bytes, ...] = ()
    stamp: str = ""


class Known(NamedTuple):
    """All that is known here about a key. `expired`: its value has run out, which removes it nowhere else."""

    key: str
    local: Item | None
    change: Change | None
    base: Base | None
    expired: bool = False


class Keep(enum.Enum):
    """In place of a value: leave what there is."""

    KEEP = 0


KEEP = Keep.KEEP


class Dispute(NamedTuple):
    """What the conflict inbox is told: both versions, the base, and what became of them."""

    policy: str
    outcome: str
    base: bytes | None
    local: bytes | None
    remote: bytes | None
    losers: Sequence[Literal["local", "remote"]]
    paths: Sequence[str] = ()
    local_stamp: str | None = None
    remote_stamp: str | None = None


class Settlement(NamedTuple):
    """What is to be changed about one key, all of it or nothing.

    `seen` is what was known when this was decided. When `guarded`, nothing happens unless the value and the change are
    still those. `value` is written here (None removes), without becoming a change. `base` replaces the base; None
    forgets it. With `done` the change that was seen is no change any more; `changed` makes one of what is here.
    `sibling` is (key, value), written as an app would.
    """

    seen: Known
    guarded: bool = True
    value: bytes | Keep | None = KEEP
    base: Base | Keep | None = KEEP
    done: bool = False
    changed: bool = False
    refused: str = ""
    dispute: Dispute | None = None
    sibling: tuple[str, bytes] | None = None
