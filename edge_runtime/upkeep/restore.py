"""Puts a backup in the place of what is there: all of it is unpacked beside and verified, then folders change places.

The kernel lets two folders change places in one step, so a power cut leaves the old one or the new one. A database that
lies elsewhere is replaced by itself, each whole or not at all. The notes beside `node.db` are in no backup, so its
outbox begins a new epoch, and no sequence is given twice.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Final, NamedTuple

from edge_runtime import __version__
from edge_runtime.model.errors import ConfigError
from edge_runtime.store.copies import BESIDE, StoreInUse, inspect_copy, is_database, kept_closed, settle
from edge_runtime.upkeep.archive import BackupBroken, Head, Member, read_archive
from edge_runtime.upkeep.holders import holders_of

_NEW: Final = ".restore-new"
_OLD: Final = ".before-restore"
_EXCHANGE: Final = 2
_HERE: Final = -100  # AT_FDCWD
_SPARE_BYTES: Final = 2**20


class Wish(NamedTuple):
    """What is to be restored, and where. An empty `config_dir` leaves the configuration as it is."""

    source: str
    key: bytes | None
    state_dir: str
    config_dir: str = ""
    elsewhere: bool = True
    force: bool = False
    keep_old: bool = False


class Report(NamedTuple):
    """What was put in place. `kept` are the folders that were there before."""

    head: Head
    members: Sequence[Member]
    kept: Sequence[str]


class _Swap(NamedTuple):
    staged: str
    place: str


def restore(wish: Wish, passed: Callable[[str], None] = lambda point: None) -> Report:
    """Raises ConfigError, DriverError; then nothing has changed. `passed` hears of every step done."""
    state_dir = os.path.realpath(wish.state_dir)
    config_dir = os.path.realpath(wish.config_dir) if wish.config_dir else ""
    places = [place for place in (config_dir, state_dir) if place]  # the state directory changes last
    for place in places:
        _check_place(place, wish.keep_old)
    _refuse_running(state_dir)
    staged = {"state": state_dir + _NEW, "config": config_dir + _NEW, "elsewhere": state_dir + _NEW + "-elsewhere"}
    try:
        head, members = _stage(wish, staged, {"state": state_dir, "config": config_dir or state_dir})
        passed("staged")
        if config_dir and not any(member.name.startswith("config/") for member in members):
            raise ConfigError(f"{wish.source}: has no configuration; leave --with-config away")
        swaps = [_Swap(place + _NEW, place) for place in places]
        kept = _put_in_place(wish, staged, swaps, members, passed)
    finally:
        for folder in (*(place + _NEW for place in places), staged["elsewhere"]):
            shutil.rmtree(folder, ignore_errors=True)
    return Report(head, members, kept)


# --- beside -----------------------------------------------------------------------------------------------------------


def _stage(wish: Wish, staged: dict[str, str], owners: dict[str, str]) -> tuple[Head, list[Member]]:
    wanted = {"state", *(("config",) if wish.config_dir else ()), *(("elsewhere",) if wish.elsewhere else ())}
    for part in wanted:
        shutil.rmtree(staged[part], ignore_errors=True)  # left by one that was cut off
        os.makedirs(staged[part], mode=0o700)

    def take(name: str, pieces: Iterator[bytes]) -> None:
        part, _, rest = name.partition("/")
        if part in wanted:
            _save(os.path.join(staged[part], rest), pieces)
        else:
            for _ in pieces:
                pass

    def begin(head: Head) -> None:
        if _version(head.program) > _version(__version__) and not wish.force:
            raise ConfigError(
                f"{wish.source}: was made by version {head.program}, which is newer than this one ({__version__});"
                " install that version, or restore all the same with --force"
            )
        free = _free_bytes(staged["state"])
        if free < head.bytes + _SPARE_BYTES:
            raise ConfigError(
                f"{wish.source}: needs {head.bytes} bytes beside {wish.state_dir}, and {free} are free; free some space"
            )

    try:
        with open(wish.source, "rb") as file:
            head, members = read_archive(file, wish.key, take, begin)
    except BackupBroken as error:
        raise BackupBroken(f"{wish.source}: {error}") from None
    except OSError as error:
        raise ConfigError(f"{error.filename or wish.source}: {error.strerror}; nothing was changed") from None
    for member in members:
        _finish(member, wanted, staged, owners)
    for part in wanted:
        for folder, _, _ in os.walk(staged[part]):
            _own(folder, owners.get(part, owners["state"]), None)
            _flush(folder)
    return head, members


def _finish(member: Member, wanted: set[str], staged: dict[str, str], owners: dict[str, str]) -> None:
    part, _, rest = member.name.partition("/")
    if part not in wanted:
        return
    path = os.path.join(staged[part], rest)
    if member.tables is not None and inspect_copy(path) != member.tables:
        raise BackupBroken(f"{member.name} has not as many rows as were backed up")
    os.chmod(path, member.mode)
    _own(path, owners.get(part, owners["state"]), member.owner if part == "config" else None)


def _save(path: str, pieces: Iterator[bytes]) -> None:
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        for piece in pieces:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())


def _own(path: str, like: str, owner: tuple[int, int] | None) -> None:
    """Root gives what it restores to whoever had it."""
    if os.geteuid() == 0 and (owner is not None or os.path.exists(like)):
        facts = os.stat(like) if owner is None else None
        os.chown(path, *((facts.st_uid, facts.st_gid) if facts is not None else owner or (0, 0)))


def _version(text: str) -> tuple[int, ...]:
    numbers = []
    for part in text.split("."):
        digits = "".join(letter for letter in part if letter.isdigit())
        numbers.append(int(digits or "0"))
    return tuple(numbers)


def _free_bytes(path: str) -> int:
    facts = os.statvfs(path)
    return facts.f_bavail * facts.f_frsize


# --- in place ---------------------------------------------------------------------------------------------------------


def _check_place(place: str, keep_old: bool) -> None:
    if os.path.ismount(place):
        raise ConfigError(
            f"{place}: a file system is mounted there, so it cannot change places with another folder; "
            "restore into a folder of it (--state-dir), and let the node use that"
        )
    if os.path.exists(place) and not os.path.isdir(place):
        raise ConfigError(f"{place}: is no directory; name another place")
    if keep_old and os.path.lexists(place + _OLD):
        raise ConfigError(f"{place + _OLD}: is there from an earlier restore; remove it, or leave --keep-old away")
    if os.path.exists(place):
        probes = [f"{place}{_NEW}-probe{number}" for number in (1, 2)]
        try:
            for probe in probes:
                os.makedirs(probe, mode=0o700, exist_ok=True)
            _exchange(*probes)
        except OSError as error:
            raise ConfigError(f"{error.filename}: cannot be made: {error.strerror}; nothing was changed") from None
        finally:
            for probe in probes:
                shutil.rmtree(probe, ignore_errors=True)


def _databases(folder: str) -> list[str]:
    paths = (os.path.join(top, name) for top, _, names in os.walk(folder) for name in names)
    return [path for path in paths if is_database(path)]


def _refuse_running(state_dir: str) -> None:
    found = holders_of([*_databases(state_dir)])
    if found:
        raise StoreInUse(f"{state_dir} is used by {found[0]}; stop the node first, then restore")


def _put_in_place(
    wish: Wish,
    staged: dict[str, str],
    swaps: Sequence[_Swap],
    members: Sequence[Member],
    passed: Callable[[str], None],
) -> list[str]:
    kept = []
    with ExitStack() as stack:
        # A node that starts now finds its files locked, and is started again by its service manager.
        for path in _databases(swaps[-1].place):
            stack.enter_context(kept_closed(path))
        elsewhere = [member for member in members if member.name.startswith("elsewhere/")] if wish.elsewhere else []
        for member in elsewhere:
            if os.path.exists(member.path):
                with kept_closed(member.path):
                    pass
        for member in elsewhere:
            _replace(os.path.join(staged["elsewhere"], member.name.partition("/")[2]), member.path)
            passed(member.name)
        for staged_folder, place in swaps:
            _exchange(staged_folder, place)
            passed(place)
            if wish.keep_old and os.path.exists(staged_folder):
                os.rename(staged_folder, place + _OLD)
                kept.append(place + _OLD)
    return kept


def _replace(new: str, path: str) -> None:
    """One database that lies elsewhere. What lies beside the old one must not be taken for the new one's."""
    folder = os.path.dirname(path)
    beside = f"{path}{_NEW}"
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        shutil.copyfile(new, beside)
        _own(beside, path if os.path.exists(path) else folder, None)
        os.chmod(beside, os.stat(new).st_mode & 0o777)
        _flush(beside)
        if not os.path.exists(path):
            os.rename(beside, path)
            _flush(folder)
            return
        settle(path)
        with kept_closed(path):
            for ending in BESIDE:
                if os.path.exists(path + ending):
                    os.unlink(path + ending)
            _flush(folder)
            os.replace(beside, path)
            _flush(folder)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be replaced: {error.strerror}; --no-elsewhere leaves it as it is") from None
    finally:
        if os.path.exists(beside):
            os.unlink(beside)


def _exchange(staged: str, place: str) -> None:
    """From here on `place` is what was staged, and `staged` what was there, in one step."""
    folder = os.path.dirname(place)
    if not os.path.exists(place):
        os.rename(staged, place)
        _flush(folder)
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_HERE, os.fsencode(staged), _HERE, os.fsencode(place), _EXCHANGE):
        number = ctypes.get_errno()
        text = "its file system cannot do that" if number in (errno.EINVAL, errno.ENOSYS) else os.strerror(number)
        raise ConfigError(
            f"{place}: cannot change places with what was restored: {text}; restore into a folder that is not there yet"
            " (--state-dir), and let the node use that"
        )
    _flush(folder)


def _flush(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
