"""The file that a backup is: a tar archive whose last member says what all others are, sealed where there is a key.

    edge-runtime-backup.json   which format, which program, when, how much
    state/…  elsewhere/…  config/…
    manifest.json              each member: what it is, where it was, its size and SHA-256

Any tar program lists and unpacks it. It is written and read in one go, in pieces, whatever its size. A member that is
missing, added, cut or changed is found, because the manifest has them all and comes last.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any, Final, NamedTuple, Protocol

from edge_runtime.model.errors import DriverError
from edge_runtime.security.seal import SealBroken
from edge_runtime.security.sealed_stream import MAGIC, OpeningReader, SealingWriter

FORMAT: Final = 1
HEAD: Final = "edge-runtime-backup.json"
MANIFEST: Final = "manifest.json"
PARTS: Final = ("state", "elsewhere", "config")
_PIECE_BYTES: Final = 2**18
_TEXT_BYTES_MAX: Final = 2**24
_MEMBERS_MAX: Final = 100_000


class BackupBroken(DriverError):
    """The file is no backup that can be used; the text says why."""


class Member(NamedTuple):
    """`path` is where it was. `tables` are the rows of each table of a database, None for any other file."""

    name: str
    path: str
    bytes: int
    sha256: str
    mode: int
    owner: tuple[int, int]
    tables: Mapping[str, int] | None = None


class Head(NamedTuple):
    """`bytes` is about what the members come to."""

    format: int
    program: str
    time: float
    state_dir: str
    config_dir: str
    bytes: int


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Writable(Protocol):
    def write(self, data: bytes, /) -> int: ...


class ArchiveWriter:
    """Writes one archive into `file`."""

    def __init__(self, file: IO[bytes], key: bytes | None, head: Head) -> None:
        self._sealing = None if key is None else SealingWriter(file, key)
        self._outlet = _Outlet(self._sealing or file)
        out: Any = self._outlet
        self._tar: Any = tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT)  # noqa: SIM115 - until `close`
        self._time = head.time
        self.members: list[Member] = []
        self._add_text(HEAD, head._asdict())

    def add(
        self, name: str, source: IO[bytes], size: int, origin: str, facts: os.stat_result, tables: Any = None
    ) -> None:
        """A member with `size` bytes of `source`; `facts` are those of the file at `origin`."""
        hashing = _Hashing(source)
        info = self._info(name, size)
        info.mode, info.mtime = facts.st_mode & 0o777, int(facts.st_mtime)
        info.uid, info.gid = facts.st_uid, facts.st_gid
        self._tar.addfile(info, hashing)
        self._tar.members.clear()  # else all of them stay in memory
        owner = (facts.st_uid, facts.st_gid)
        self.members.append(Member(name, origin, info.size, hashing.digest(), info.mode, owner, tables))

    def close(self) -> None:
        """Write the manifest and the end."""
        self._add_text(MANIFEST, {"members": [member._asdict() for member in self.members]})
        self._tar.close()
        if self._sealing is not None:
            self._sealing.close()

    def abandon(self) -> None:
        """Write nothing more; what has been written is no archive."""
        self._outlet.shut = True
        self._tar.fileobj.close()  # else it would write its end when it is collected

    def _add_text(self, name: str, value: Any) -> None:
        data = json.dumps(value, indent=1).encode()
        self._tar.addfile(self._info(name, len(data)), io.BytesIO(data))

    def _info(self, name: str, size: int) -> tarfile.TarInfo:
        info = tarfile.TarInfo(name)
        info.size, info.mode, info.mtime = size, 0o600, int(self._time)
        return info


class _Outlet:
    """Where the archive goes, until it is shut."""

    def __init__(self, out: _Writable) -> None:
        self._out = out
        self.shut = False

    def write(self, data: bytes) -> int:
        return len(data) if self.shut else self._out.write(data)


class _Hashing:
    """Passes on what is read, and knows its SHA-256."""

    def __init__(self, source: _Readable) -> None:
        self._source = source
        self._hash = hashlib.sha256()

    def read(self, size: int) -> bytes:
        data = self._source.read(size)
        self._hash.update(data)
        return data

    def digest(self) -> str:
        return self._hash.hexdigest()


# Takes a member's name and its bytes in pieces, all of which it has to read.
Take = Callable[[str, Iterator[bytes]], None]


def read_archive(
    file: IO[bytes], key: bytes | None, take: Take, begin: Callable[[Head], None] = lambda head: None
) -> tuple[Head, list[Member]]:
    """Read all of it; `begin` sees the head first. What `take` was given counts only when this returns.

    Raises BackupBroken, and what the callables raise.
    """
    try:
        source: Any = _opened(file, key)
        with tarfile.open(fileobj=source, mode="r|") as tar:
            found = _walk(tar, take, begin)
        while rest := source.read(_PIECE_BYTES):
            if any(rest):
                raise BackupBroken("something follows its end")
        return found
    except SealBroken as error:
        raise BackupBroken(str(error)) from None
    except tarfile.TarError as error:
        raise BackupBroken(f"it is no backup, or is damaged ({error})") from None


def _opened(file: IO[bytes], key: bytes | None) -> _Readable:
    begin = file.read(len(MAGIC))
    if begin == MAGIC:
        if key is None:
            raise BackupBroken("it is sealed; give its key with --seal-key")
        return OpeningReader(file, key)
    if key is not None:
        raise BackupBroken("it is not sealed; leave --seal-key away if that is as it should be")
    return _Joined(begin, file)


class _Joined:
    """A file whose first bytes have been read already."""

    def __init__(self, begin: bytes, file: IO[bytes]) -> None:
        self._begin = begin
        self._file = file

    def read(self, size: int) -> bytes:
        begin, self._begin = self._begin[:size], self._begin[size:]
        return begin + self._file.read(size - len(begin))


def _walk(tar: Any, take: Take, begin: Callable[[Head], None]) -> tuple[Head, list[Member]]:
    head: Head | None = None
    found: dict[str, tuple[int, str]] = {}
    while (info := tar.next()) is not None:
        tar.members.clear()
        stream = tar.extractfile(info) if info.isreg() else None
        if stream is None or info.name in found or len(found) > _MEMBERS_MAX:
            raise BackupBroken(f"{info.name!r} has no place in a backup")
        if head is None:
            head = _head(info.name, stream)
            begin(head)
        elif info.name == MANIFEST:
            members = _members(_json(stream))
            _compare(members, found)
            if tar.next() is not None:
                raise BackupBroken("something follows its manifest")
            return head, members
        else:
            _check_name(info.name)
            hashing = _Hashing(stream)
            take(info.name, _pieces(hashing))
            found[info.name] = (info.size, hashing.digest())
    raise BackupBroken("it was cut short" if head is not None else "it is no backup")


def _pieces(stream: _Readable) -> Iterator[bytes]:
    while data := stream.read(_PIECE_BYTES):
        yield data


def _head(name: str, stream: IO[bytes]) -> Head:
    if name != HEAD:
        raise BackupBroken("it is no backup of edge-runtime")
    value = _json(stream)
    found = value.get("format")
    if not isinstance(found, int) or found > FORMAT:
        raise BackupBroken(f"its format is {found!r}, and this program knows up to {FORMAT}; install a newer version")
    try:
        return Head(
            found,
            str(value["program"]),
            float(value["time"]),
            str(value["state_dir"]),
            str(value["config_dir"]),
            int(value["bytes"]),
        )
    except (KeyError, ValueError, TypeError):
        raise BackupBroken("its head is damaged") from None


def _json(stream: IO[bytes]) -> dict[str, Any]:
    try:
        value = json.loads(stream.read(_TEXT_BYTES_MAX))
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise BackupBroken("what it says of itself is damaged")
    return value


def _members(value: Mapping[str, Any]) -> list[Member]:
    try:
        return [
            Member(
                str(one["name"]),
                str(one["path"]),
                int(one["bytes"]),
                str(one["sha256"]),
                int(one["mode"]) & 0o777,
                (int(one["owner"][0]), int(one["owner"][1])),
                None if one["tables"] is None else {str(name): int(rows) for name, rows in one["tables"].items()},
            )
            for one in value["members"]
        ]
    except (KeyError, ValueError, TypeError, IndexError, AttributeError):
        raise BackupBroken("its manifest is damaged") from None


def _compare(members: list[Member], found: Mapping[str, tuple[int, str]]) -> None:
    said = {member.name: (member.bytes, member.sha256) for member in members}
    if len(said) != len(members):
        raise BackupBroken("its manifest names a file twice")
    for name in sorted(said.keys() | found.keys()):
        if name not in found:
            raise BackupBroken(f"{name} is missing")
        if said.get(name) != found[name]:
            raise BackupBroken(f"{name} is not what was backed up")


def _check_name(name: str) -> None:
    """Nothing is ever written outside of the folders that were named."""
    parts = name.split("/")
    if parts[0] not in PARTS or len(parts) < 2 or any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise BackupBroken(f"{name!r} has no place in a backup")
