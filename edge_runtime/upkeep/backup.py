"""Backs a node up while it runs: everything durable into one file, which is read back before it counts.

Each database is one moment of it, and all of them within moments of each other; `node.db` is the last, so that an event
which was published with a change of state is in the backup whenever the change is. What was acknowledged before the
backup began is in it.
"""

from __future__ import annotations

import errno
import io
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import IO, Final, NamedTuple

from edge_runtime import __version__
from edge_runtime.model.errors import ConfigError
from edge_runtime.store.copies import Snapshot, inspect_copy, is_database
from edge_runtime.upkeep.archive import FORMAT, ArchiveWriter, BackupBroken, Head, Member, read_archive

SCRATCH: Final = ".edge-runtime-backup-"
_LAST: Final = "node.db"
_FLUSH_BYTES: Final = 8 * 2**20
_SMALL_BYTES_MAX: Final = 4 * 2**20
# After each MiB. A card that writes all the time lets no commit through in between.
PAUSE_S: Final = 0.005


class Source(NamedTuple):
    """What is backed up. `elsewhere` are databases of components that lie outside of the state directory."""

    state_dir: str
    elsewhere: Sequence[str] = ()
    config_dir: str = ""


class Report(NamedTuple):
    """What became of it. `verified` is false for what was written into a pipe."""

    bytes: int
    members: Sequence[Member]
    verified: bool


class _Part(NamedTuple):
    name: str
    path: str


def back_up(source: Source, target: str, key: bytes | None, *, pause_s: float = PAUSE_S) -> Report:
    """Write `target`, `-` for standard output. Raises ConfigError, DriverError; nothing is left behind then."""
    if not os.path.isdir(source.state_dir):
        raise ConfigError(
            f"--state-dir {source.state_dir}: there is no such directory, or this user may not look there"
        )
    # Unsealed copies of what is to be sealed stay on the medium where the data is anyway.
    place = source.state_dir if key is not None or target == "-" else os.path.dirname(os.path.abspath(target))
    with _told_full(target), _scratch(place, source.state_dir) as scratch:
        databases, files = _gather(source, os.path.abspath(target))
        if target == "-":
            with open(sys.stdout.fileno(), "wb", closefd=False) as out:
                members = _write(source, databases, files, out, key, scratch, lambda: time.sleep(pause_s))
            return Report(sum(member.bytes for member in members), members, False)
        return _write_file(source, databases, files, target, key, scratch, pause_s)


def _write_file(
    source: Source,
    databases: Sequence[_Part],
    files: Sequence[_Part],
    target: str,
    key: bytes | None,
    scratch: str,
    pause_s: float,
) -> Report:
    """Under another name first: what has the right name is whole and was read back."""
    part = f"{target}.{os.getpid()}.part"
    try:
        with open(os.open(part, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w+b") as file:
            written = _write(source, databases, files, file, key, scratch, lambda: _rest(file, pause_s))
            file.flush()
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # what is read back comes from the medium
            size = file.tell()
        _read_back(part, key, written, target)
        os.replace(part, target)
        _flush_folder(os.path.dirname(os.path.abspath(target)))
        return Report(size, written, True)
    finally:
        if os.path.exists(part):
            os.unlink(part)


def _read_back(part: str, key: bytes | None, written: list[Member], target: str) -> None:
    try:
        if check(part, key) == written:
            return
        problem = "it is another one"
    except BackupBroken as error:
        problem = str(error)
    raise BackupBroken(f"backup {target}: what was written cannot be read back: {problem}; check the medium")


def check(path: str, key: bytes | None) -> list[Member]:
    """Read all of a backup. Raises BackupBroken."""

    def pass_over(name: str, pieces: Iterator[bytes]) -> None:
        for _ in pieces:
            pass

    try:
        with open(path, "rb") as file:
            return read_archive(file, key, pass_over)[1]
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None


# --- what there is ----------------------------------------------------------------------------------------------------


def _gather(source: Source, target: str) -> tuple[list[_Part], list[_Part]]:
    databases: list[_Part] = []
    files: list[_Part] = []
    for part in _tree("state", source.state_dir):
        if not part.path.startswith(f"{target}.") and part.path != target:
            (databases if is_database(part.path) else files).append(part)
    known = {os.path.realpath(part.path) for part in databases}
    for number, path in enumerate(source.elsewhere):
        if os.path.realpath(path) not in known and is_database(path):
            known.add(os.path.realpath(path))
            databases.append(_Part(f"elsewhere/{number}/{os.path.basename(path)}", os.path.realpath(path)))
    if source.config_dir:
        files += _tree("config", source.config_dir)
    databases.sort(key=lambda part: os.path.basename(part.path) == _LAST)
    return databases, files


def _tree(part: str, top: str) -> Iterator[_Part]:
    """Every regular file, without those that only mean something beside the very file that they lie beside."""
    for folder, names, leaves in os.walk(top):
        kept = [name for name in leaves if is_database(os.path.join(folder, name))]
        beside = tuple(f"{name}-" for name in kept)  # -wal, -shm, -run, -log/
        names[:] = sorted(name for name in names if not name.startswith((SCRATCH, *beside)))
        place = os.path.relpath(folder, top)
        for name in sorted(leaves):
            path = os.path.join(folder, name)
            if os.path.isfile(path) and not name.startswith(beside):
                yield _Part(os.path.normpath(os.path.join(part, place, name)), path)


# --- writing ----------------------------------------------------------------------------------------------------------


def _write(
    source: Source,
    databases: Sequence[_Part],
    files: Sequence[_Part],
    file: IO[bytes],
    key: bytes | None,
    scratch: str,
    step: Callable[[], None],
) -> list[Member]:
    with ExitStack() as stack:
        snapshots = []
        for part in databases:
            snapshot = Snapshot(part.path, scratch)
            stack.callback(snapshot.close)
            snapshots.append((part, snapshot))
        size = sum(_size(part.path) for part in (*databases, *files))
        head = Head(FORMAT, __version__, round(time.time(), 3), source.state_dir, source.config_dir, size)
        archive = ArchiveWriter(file, key, head)
        try:
            for part in files:
                _add_file(archive, part)
            for part, snapshot in snapshots:
                copy = os.path.join(scratch, "copy")
                snapshot.copy_to(copy, step)
                snapshot.close()
                _add_database(archive, part, copy)
                os.unlink(copy)
            archive.close()
        except BaseException:
            archive.abandon()
            raise
        return archive.members


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except FileNotFoundError:
        return 0


def _add_file(archive: ArchiveWriter, part: _Part) -> None:
    """A small file as it is at one moment, though somebody may write it; of a large one as much as it had."""
    try:
        opened = open(part.path, "rb")  # noqa: SIM115 - entered below
    except FileNotFoundError:
        return  # such as a link's pause, which has just ended
    with opened:
        facts = os.fstat(opened.fileno())
        if facts.st_size > _SMALL_BYTES_MAX:
            archive.add(part.name, opened, facts.st_size, part.path, facts)
        else:
            data = opened.read(_SMALL_BYTES_MAX)
            archive.add(part.name, io.BytesIO(data), len(data), part.path, facts)


def _add_database(archive: ArchiveWriter, part: _Part, copy: str) -> None:
    tables = inspect_copy(copy)
    with open(copy, "rb") as opened:
        archive.add(part.name, opened, os.fstat(opened.fileno()).st_size, part.path, os.stat(part.path), tables)


def _rest(file: IO[bytes], pause_s: float) -> None:
    """Flush what has gathered, so that a commit of the node need not wait for all of it."""
    if file.tell() % _FLUSH_BYTES < 2**20:
        os.fdatasync(file.fileno())
    time.sleep(pause_s)


@contextmanager
def _scratch(place: str, state_dir: str) -> Iterator[str]:
    """A folder for copies. What an earlier backup that was killed has left is removed."""
    for folder in {place, state_dir}:
        for name in os.listdir(folder) if os.path.isdir(folder) else ():
            owner = name.removeprefix(SCRATCH)
            if name.startswith(SCRATCH) and owner.isdigit() and not os.path.exists(f"/proc/{owner}"):
                shutil.rmtree(os.path.join(folder, name), ignore_errors=True)
    path = os.path.join(place, f"{SCRATCH}{os.getpid()}")
    os.mkdir(path, 0o700)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _told_full(target: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        mend = "; free some space there, or name another place" if error.errno == errno.ENOSPC else ""
        what = error.strerror or f"{error}: a file has changed meanwhile; try again"
        raise ConfigError(f"backup {target}: {error.filename or target}: {what}{mend}") from None


def _flush_folder(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
