"""The medium of the state directory: room, wear, whether it may be written, and whether a flush is a flush."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from edge_runtime.upkeep.checks import Check, System, shown_bytes

_FREE_LEAST_BYTES: Final = 32 * 2**20
_INODES_LEAST: Final = 1000
# A flush of a medium that keeps what it says takes longer than this; a card or a disk that turns longer still.
_FLUSH_LEAST_S: Final = 15e-6
_SLOW_FLUSH_LEAST_S: Final = 100e-6
_FLUSH_WORST_S: Final = 0.1
_FLUSHES: Final = 20
_FORGETS: Final = ("tmpfs", "ramfs")
_FAR: Final = ("nfs", "nfs4", "cifs", "smb3", "9p", "vboxsf", "fuse.sshfs")
_PLAIN: Final = ("vfat", "exfat", "msdos")
_NO_BARRIER: Final = ("nobarrier", "barrier=0")


class Mount(NamedTuple):
    """The file system that a path is on. `device` is its major:minor."""

    place: str
    kind: str
    source: str
    options: frozenset[str]
    device: str


def mount_of(path: str, system: System) -> Mount | None:
    """The mount with the longest place that the path is under; of two at the same place the later."""
    found: Mount | None = None
    for line in system.text("/proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        words, more = left.split(), right.split()
        if len(words) < 6 or len(more) < 3:
            continue
        place = words[4].encode().decode("unicode_escape", "replace")
        inside = place == "/" or path == place or path.startswith(f"{place}/")
        if inside and (found is None or len(place) >= len(found.place)):
            options = frozenset((*words[5].split(","), *more[2].split(",")))
            found = Mount(place, more[0], more[1], options, words[2])
    return found


def disk_of(mount: Mount, system: System) -> str:
    """The directory in /sys of the whole disk, as /sys/block/mmcblk0; empty when it is on none."""
    for link in (f"/sys/dev/block/{mount.device}", f"/sys/class/block/{os.path.basename(mount.source)}"):
        place = os.path.realpath(system.path(link))
        for candidate in (place, os.path.dirname(place)):
            if os.path.isdir(os.path.join(candidate, "queue")):
                return "/" + os.path.relpath(candidate, system.root)
    return ""


def check_disk(state_dir: str, needed_bytes: int, system: System) -> Iterator[Check]:
    """`needed_bytes` is what queues may grow to by their settings."""
    there = state_dir
    while not os.path.isdir(there):
        there = os.path.dirname(there)
    yield from _check_room(there, needed_bytes)
    mount = mount_of(os.path.realpath(there), system)
    if mount is None:
        yield Check("medium", "skipped", "the kernel does not tell where the state directory is mounted")
        return
    yield _check_file_system(mount)
    disk = disk_of(mount, system)
    yield _check_wear(disk, system)
    yield from _check_errors(mount, system)
    yield _check_flush(there, mount, disk, system)


def _check_room(path: str, needed_bytes: int) -> Iterator[Check]:
    facts = os.statvfs(path)
    free, total = facts.f_bavail * facts.f_frsize, facts.f_blocks * facts.f_frsize
    seen = f"{shown_bytes(free)} of {shown_bytes(total)} are free for {path}"
    mend = "free some space, or give the state directory a larger medium"
    if free < _FREE_LEAST_BYTES:
        yield Check("disk space", "fail", seen, mend)
    elif free < needed_bytes:
        wanted = f"; queues may grow to {shown_bytes(needed_bytes)} by their limits"
        yield Check("disk space", "warn", seen + wanted, f"{mend}, or lower the limits of the queues (outboxBytesMax)")
    else:
        yield Check("disk space", "ok", seen)
    if facts.f_files:
        seen = f"{facts.f_favail} of {facts.f_files} inodes are free"
        short = facts.f_favail < _INODES_LEAST
        yield Check("inodes", "fail" if short else "ok", seen, "remove small files that nobody needs" if short else "")


def _check_file_system(mount: Mount) -> Check:
    seen = f"{mount.kind} on {mount.source}, mounted at {mount.place}"
    if "ro" in mount.options:
        mend = "see in `dmesg` why; check the file system, mount it for writing, and think of a new card"
        return Check("medium", "fail", f"{seen}, for reading only", mend)
    if mount.kind in _FORGETS:
        return Check("medium", "fail", f"{seen}: it is gone at the next start", "name a --state-dir on a disk")
    if mount.kind == "overlay":
        mend = "put the state directory on a volume or a partition of its own"
        return Check("medium", "warn", f"{seen}: a layer that may be thrown away", mend)
    if mount.kind in _FAR:
        mend = "put the state directory on a disk of this machine"
        return Check("medium", "warn", f"{seen}: locks and flushes go over a network", mend)
    if mount.kind in _PLAIN:
        mend = "put the state directory on ext4, f2fs, btrfs or xfs"
        return Check("medium", "warn", f"{seen}: has no journal; a power cut may damage it", mend)
    return Check("medium", "ok", seen)


def _check_wear(disk: str, system: System) -> Check:
    life = system.text(f"{disk}/device/life_time") if disk else ""
    if not life:
        return Check("wear", "skipped", "the medium does not tell how worn it is (eMMC does, most SD cards do not)")
    tenths = [int(word, 16) for word in life.split() if _is_hex(word)]
    pre_eol = system.text(f"{disk}/device/pre_eol_info", "0x01")
    state = int(pre_eol, 16) if _is_hex(pre_eol) else 1
    used = max(tenths, default=0)
    seen = f"{os.path.basename(disk)} has used up to {min(used * 10, 100)} % of its life"
    mend = "back up, and replace the medium"
    if state == 3 or used >= 11:
        return Check("wear", "fail", f"{seen}; its spare blocks are nearly gone", mend)
    if state == 2 or used >= 9:
        return Check("wear", "warn", seen, f"{mend} soon")
    return Check("wear", "ok", seen)


def _is_hex(text: str) -> bool:
    try:
        int(text, 16)
    except ValueError:
        return False
    return True


def _check_errors(mount: Mount, system: System) -> Iterator[Check]:
    count = system.text(f"/sys/fs/ext4/{os.path.basename(mount.source)}/errors_count")
    if count.isdigit() and int(count):
        mend = "back up; let e2fsck look at it while it is not mounted; see `dmesg`"
        yield Check("file system errors", "warn", f"{mount.source} has noted {count} errors", mend)


def _check_flush(path: str, mount: Mount, disk: str, system: System) -> Check:
    off = sorted(mount.options & set(_NO_BARRIER))
    if off:
        mend = f"take {off[0]} out of its line in /etc/fstab"
        return Check("flush", "fail", f"{mount.place} is mounted with {off[0]}: a power cut loses what was saved", mend)
    if mount.kind in _FORGETS:
        return Check("flush", "skipped", "nothing is kept there anyway")
    if not os.access(path, os.W_OK) or "ro" in mount.options:
        return Check("flush", "skipped", f"{path} cannot be written by this user")
    try:
        seconds = flush_s(path)
    except OSError as error:
        return Check(
            "flush", "fail", f"{path}: {error.strerror}", "check the medium (`dmesg` shows what the kernel saw)"
        )
    return judge_flush(seconds, _medium(disk, system))


class Medium(NamedTuple):
    """What the kernel says of a disk."""

    name: str = ""
    slow: bool = False
    write_back: bool = False


def _medium(disk: str, system: System) -> Medium:
    if not disk:
        return Medium()
    name = os.path.basename(disk)
    slow = (
        name.startswith("mmcblk")
        or system.text(f"{disk}/queue/rotational") == "1"
        or system.text(f"{disk}/removable") == "1"
    )
    return Medium(name, slow, system.text(f"{disk}/queue/write_cache") == "write back")


def judge_flush(seconds: float, medium: Medium) -> Check:
    """By how long a flushed write of some hundred bytes takes."""
    cache = "with" if medium.write_back else "without"
    seen = f"a flushed write takes {seconds * 1e6:.0f} µs"
    if medium.name:
        seen += f"; {medium.name} is {cache} a write cache by what it says"
    if seconds < (_SLOW_FLUSH_LEAST_S if medium.slow else _FLUSH_LEAST_S):
        mend = (
            "find out whether something ignores flushes: libeatmydata, the settings of a virtual disk, a card or USB"
            " adapter that lies; try by pulling the plug"
        )
        return Check("flush", "warn", f"{seen}: too fast to be true", mend)
    if seconds > _FLUSH_WORST_S:
        mend = "a better card; see whether something else writes all the time"
        return Check("flush", "warn", f"{seen}: each save waits for that", mend)
    return Check("flush", "ok", seen)


def flush_s(folder: str, clock: Callable[[], float] = time.perf_counter) -> float:
    """The median of some flushed appends of 512 bytes. Raises OSError."""
    path = os.path.join(folder, f".edge-runtime-doctor-{os.getpid()}")
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        took = []
        for _ in range(_FLUSHES):
            os.write(descriptor, b"\0" * 512)
            began = clock()
            os.fsync(descriptor)
            took.append(clock() - began)
        return statistics.median(took)
    finally:
        os.close(descriptor)
        os.unlink(path)
