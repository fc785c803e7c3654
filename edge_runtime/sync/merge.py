"""What becomes of two versions of one value that were written without knowledge of each other.

`merge` is three-way, on JSON: each side's changes since the last value that both had are put together. Objects are
merged member by member. Arrays are values, but when both sides only appended to the old one, both additions stay, the
remote's first. Numbers keep their digits. Where both sides changed the same thing differently the remote's change
stays, as others may have seen it; a change always outlives a removal. Such places are told as JSON pointers.

`decide` is the table of policies. Whatever one decides, every version that is not in its result is a loser, and goes to
the conflict inbox.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from decimal import Decimal, DecimalException
from typing import Any, Final, Literal, NamedTuple

Policy = Literal["remote-wins", "local-wins", "last-writer", "merge", "app", "keep-both"]
DIGEST_BYTES: Final = 16


class Version(NamedTuple):
    """One side's value, None when that side removed it. `stamp` is when, in whatever sorts; None when nobody knows."""

    value: bytes | None
    stamp: str | None = None


class Conflict(NamedTuple):
    """Both versions, and the last value that both sides had (None when there was none, or it is not known)."""

    key: str
    base: bytes | None
    local: Version
    remote: Version


class Decision(NamedTuple):
    """`value` is what both sides shall have. `losers` names the sides that are not in it, or not wholly.

    `sibling` is a value that goes under a key of its own. `paths` are places where both had changed the same.
    """

    value: bytes | None
    losers: tuple[Literal["local", "remote"], ...]
    outcome: str
    sibling: bytes | None = None
    paths: tuple[str, ...] = ()


class Merged(NamedTuple):
    """The merged value, the pointers to what could not be merged, and which sides lost something there."""

    value: bytes | None
    paths: tuple[str, ...]
    losers: tuple[Literal["local", "remote"], ...] = ()


# --- JSON with its numbers as they were written -----------------------------------------------------------------------


class Number:
    """A JSON number: equal by value, written as it was read."""

    __slots__ = ("text", "value")

    def __init__(self, text: str) -> None:
        self.text = text
        try:
            self.value: Decimal | str = Decimal(text)
        except DecimalException:  # an exponent past all reason
            self.value = text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Number) and self.value == other.value

    def __hash__(self) -> int:
        return hash(self.value)

    def plain(self) -> str:
        """The same text for every spelling of the number."""
        if isinstance(self.value, str):
            return self.value
        sign, digits, exponent = self.value.as_tuple()
        text = "".join(map(str, digits)).lstrip("0")
        short = text.rstrip("0")
        if not short:
            return "0"
        return f"{'-' if sign else ''}{short}e{int(exponent) + len(text) - len(short)}"


class _Missing:
    """There is no such member."""


_MISSING: Final = _Missing()


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


_decode = json.JSONDecoder(parse_float=Number, parse_int=Number, parse_constant=_refuse).decode


def parse(value: bytes) -> Any:
    """The JSON in it. Raises ValueError, also when it is nested too deeply."""
    try:
        return _decode(value.decode())
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def render(value: Any) -> bytes:
    """Compact JSON."""
    text = _render(value, plain=False)
    try:
        return text.encode()
    except UnicodeEncodeError:  # half a surrogate pair can only be written as an escape
        return "".join(char if ord(char) < 0x80 else json.dumps(char)[1:-1] for char in text).encode()


def _render(value: Any, *, plain: bool) -> str:
    if isinstance(value, dict):
        members = sorted(value.items()) if plain else value.items()
        inside = ",".join(
            f"{json.dumps(name, ensure_ascii=False)}:{_render(part, plain=plain)}" for name, part in members
        )
        return f"{{{inside}}}"
    if isinstance(value, list):
        return f"[{','.join(_render(part, plain=plain) for part in value)}]"
    if isinstance(value, Number):
        return value.plain() if plain else value.text
    return json.dumps(value, ensure_ascii=False)


def canonical(value: bytes) -> bytes:
    """The same bytes for every spelling of a JSON value: a sidecar may write it another way. Other values stay."""
    try:
        return _render(parse(value), plain=True).encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError):
        return value


def same(one: bytes | None, other: bytes | None) -> bool:
    """Equal bytes, or equal JSON, or both removed."""
    if one == other:
        return True
    return one is not None and other is not None and canonical(one) == canonical(other)


def digest(value: bytes | None) -> bytes:
    """What a value is recognised by; a removal has one too."""
    if value is None:
        return bytes(DIGEST_BYTES)
    return hashlib.blake2b(canonical(value), digest_size=DIGEST_BYTES).digest()


# --- merging ----------------------------------------------------------------------------------------------------------


def merge(base: bytes | None, local: bytes | None, remote: bytes | None) -> Merged:
    """Both sides' changes since `base`, put together; None is a removed value, or no base."""
    try:
        trees = [_MISSING if value is None else parse(value) for value in (base, local, remote)]
        merger = _Merger()
        merged = merger.merge(trees[0], trees[1], trees[2], "")
        paths, losers = tuple(merger.paths), tuple(side for side in _SIDES if side in merger.losers)
        for value, tree in ((remote, trees[2]), (local, trees[1])):
            if merged is tree:  # as that side wrote it, byte for byte
                return Merged(value, paths, losers)
        return Merged(render(merged), paths, losers)
    except (ValueError, RecursionError):
        return _merge_opaque(base, local, remote)


def _merge_opaque(base: bytes | None, local: bytes | None, remote: bytes | None) -> Merged:
    """Bytes that are no JSON cannot be taken apart."""
    if same(local, remote) or same(local, base):
        return Merged(remote, ())
    if same(remote, base):
        return Merged(local, ())
    if remote is None:
        return Merged(local, ("",), ("remote",))
    return Merged(remote, ("",), ("local",))


_SIDES: Final = ("local", "remote")


class _Merger:
    """One merge, and the conflicts found on the way, in the order of the document."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.losers: set[str] = set()

    def merge(self, base: Any, local: Any, remote: Any, path: str) -> Any:
        if local in (remote, base):
            return remote
        if remote == base:
            return local
        if isinstance(local, dict) and isinstance(remote, dict):
            return self._merge_objects(base if isinstance(base, dict) else {}, local, remote, path)
        if isinstance(base, list) and _appended(base, local) and _appended(base, remote):
            return remote + local[len(base) :]
        self.paths.append(path)
        self.losers.add("remote" if remote is _MISSING else "local")
        return local if remote is _MISSING else remote

    def _merge_objects(self, base: Any, local: Any, remote: Any, path: str) -> Any:
        merged = {}
        names = [*remote, *(name for name in local if name not in remote)]
        for name in names:
            inside = f"{path}/{name.replace('~', '~0').replace('/', '~1')}"
            was, ours, theirs = (tree.get(name, _MISSING) for tree in (base, local, remote))
            value = self.merge(was, ours, theirs, inside)
            if value is not _MISSING:
                merged[name] = value
        return merged


def _appended(base: list[Any], value: Any) -> bool:
    return isinstance(value, list) and value[: len(base)] == base


# --- policies ---------------------------------------------------------------------------------------------------------


def _remote_wins(conflict: Conflict) -> Decision:
    return Decision(conflict.remote.value, ("local",), "the remote's version was taken")


def _local_wins(conflict: Conflict) -> Decision:
    return Decision(conflict.local.value, ("remote",), "this node's version was taken")


def _last_writer(conflict: Conflict) -> Decision:
    """A remote version without a stamp was written by somebody who keeps none: it counts as just written."""
    local, remote = conflict.local.stamp, conflict.remote.stamp
    if remote is None or local is None or remote >= local:
        return Decision(conflict.remote.value, ("local",), "the remote's version was taken, as the later one")
    return Decision(conflict.local.value, ("remote",), "this node's version was taken, as the later one")


def _merge(conflict: Conflict) -> Decision:
    if conflict.local.value is None or conflict.remote.value is None:
        return _keep_both(conflict)
    merged = merge(conflict.base, conflict.local.value, conflict.remote.value)
    outcome = "both versions were merged"
    if merged.paths:
        outcome = "both versions were merged; where both had changed the same, one change was taken"
    return Decision(merged.value, merged.losers, outcome, None, merged.paths)


def _keep_both(conflict: Conflict) -> Decision:
    local, remote = conflict.local.value, conflict.remote.value
    if remote is None:
        return Decision(local, ("remote",), "this node's version was kept; the remote had removed it")
    if local is None:
        return Decision(remote, ("local",), "the remote's version was kept; this node had removed it")
    return Decision(remote, ("local",), "the remote's version keeps the key, this node's has one of its own", local)


# `app` has no row: its decision is asked for.
POLICIES: Final[Mapping[str, Callable[[Conflict], Decision]]] = {
    "remote-wins": _remote_wins,
    "local-wins": _local_wins,
    "last-writer": _last_writer,
    "merge": _merge,
    "keep-both": _keep_both,
}


def decide(policy: Policy, conflict: Conflict, answer: Version | None = None) -> Decision | None:
    """What the policy makes of it; None when the app has to be asked first. `answer` is what the app said."""
    row = POLICIES.get(policy)
    if row is not None:
        return row(conflict)
    if answer is None:
        return None
    sides = zip(_SIDES, (conflict.local.value, conflict.remote.value), strict=True)
    losers = tuple(side for side, value in sides if not same(value, answer.value))
    return Decision(answer.value, losers, "the app decided")  # type: ignore[arg-type]
