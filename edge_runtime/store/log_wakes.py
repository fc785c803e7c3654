"""Processes that share a log's file: who delivers for a group, and how a publisher wakes the others.

Beside the file lies a folder `<file>-log`. `locks/` has a file for each group; whoever holds its flock delivers, and
the kernel lets go when that process dies. `bells/` has a datagram socket for each process that delivers; a publisher
sends one byte to each of the others. It looks into the folder only when the folder's mtime changed, and a socket that
refuses belongs to a dead process and is removed. So an idle node does nothing, and a lone process pays one stat.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import logging
import os
import socket
import time
import zlib
from collections.abc import Sequence
from typing import Final

import trio

logger: Final = logging.getLogger("dapr.runtime.log")

_numbers: Final = itertools.count(1)
# Two changes of a folder within one tick of the kernel's clock have the same mtime: a list is believed only when it was
# made this long after the mtime was first seen.
SETTLED_S: Final = 0.1
_GONE: Final = frozenset({errno.ECONNREFUSED, errno.ENOENT, errno.EPIPE})


class Bells:
    """Rings the other processes that deliver from this file, and hears them.

    `what` they are told of names the folder; the log has locks in it too.
    """

    def __init__(self, database_path: str, what: str = "log") -> None:
        self.folder = f"{database_path}-{what}"
        for name in ("bells", "locks") if what == "log" else ("bells",):
            os.makedirs(os.path.join(self.folder, name), exist_ok=True)
        # Through the descriptor's path a socket's name stays short, however deep the folder lies.
        self._directory = os.open(os.path.join(self.folder, "bells"), os.O_RDONLY | os.O_DIRECTORY)
        # Not the process's number alone: in each of several containers on one volume it may be 1.
        self._own_name = f"{os.getpid()}-{next(_numbers)}-{os.urandom(4).hex()}.sock"
        self._sender: socket.socket | None = None
        self._ear: trio.socket.SocketType | None = None
        self._others: Sequence[str] = ()
        self._mtime_ns = -1
        self._mtime_seen_at = 0.0
        self._listed_at = 0.0
        self.rung = 0

    def close(self) -> None:
        """Take the own bell down. Safe to call more than once."""
        if self._ear is not None:
            self._ear.close()
            self._ear = None
            self._remove(self._own_name)
        if self._sender is not None:
            self._sender.close()
            self._sender = None
        if self._directory >= 0:
            os.close(self._directory)
            self._directory = -1

    def hang(self) -> None:
        """Put up the own bell: whatever is published from now on by others rings it."""
        if self._ear is not None:
            return
        ear = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self._remove(self._own_name)  # of an earlier process with the same number
        ear.bind(self._path(self._own_name))
        self._ear = trio.socket.from_stdlib_socket(ear)

    async def hear(self) -> None:
        """Return after the own bell was rung, however often."""
        assert self._ear is not None
        await self._ear.recv(1)
        try:
            while True:
                self._ear_now().recv(1, socket.MSG_DONTWAIT)
        except BlockingIOError:
            pass

    def ring(self) -> None:
        """Wake the others that deliver from this file. Never waits, and never fails: what is published is on disk."""
        try:
            for name in self._list():
                self._ring_one(name)
        except OSError as error:
            logger.warning("other processes cannot be woken through %s: %s", self.folder, error)

    def _ear_now(self) -> socket.socket:
        assert self._ear is not None
        return self._ear._sock  # type: ignore[attr-defined,no-any-return]

    def _list(self) -> Sequence[str]:
        mtime_ns = os.fstat(self._directory).st_mtime_ns
        if mtime_ns == self._mtime_ns and self._listed_at - self._mtime_seen_at >= SETTLED_S:
            return self._others
        now = time.monotonic()
        if mtime_ns != self._mtime_ns:
            self._mtime_ns = mtime_ns
            self._mtime_seen_at = now
        self._listed_at = now
        self._others = [name for name in os.listdir(self._directory) if name != self._own_name]
        return self._others

    def _ring_one(self, name: str) -> None:
        if self._sender is None:
            self._sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            self._sender.sendto(b"!", self._path(name))
            self.rung += 1
        except OSError as error:
            # A full queue is no loss: its owner has not looked yet, and will find what was written before this.
            if error.errno in _GONE:
                self._remove(name)

    def _path(self, name: str) -> str:
        return f"/proc/self/fd/{self._directory}/{name}"

    def _remove(self, name: str) -> None:
        try:
            os.unlink(name, dir_fd=self._directory)
        except FileNotFoundError:
            pass


class GroupLock:
    """The right to deliver for one group of one topic. Held until `close`, or until the process ends."""

    def __init__(self, folder: str, component: str, topic: str, group: str) -> None:
        text = "\0".join((component, topic, group)).encode()
        # Two checksums instead of a hash: `hashlib` would load OpenSSL, 3.4 MB of RSS. Groups whose names collide in
        # both wait for one another, across processes only.
        name = f"{zlib.crc32(text):08x}{zlib.adler32(text):08x}{len(text):04x}"
        self._file = os.open(os.path.join(folder, "locks", name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def try_acquire(self) -> bool:
        """True when this process delivers now."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        """Let go. Safe to call more than once."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
