"""Log entries to systemd's journal in its own protocol: one datagram an entry, its fields kept apart.

`journalctl -u edge-runtime APP_ID=orders -p warning` finds them. An entry that a datagram cannot carry goes as a sealed
file in memory. What the journal does not take is written as a line with its priority in front, which goes there too.
"""

from __future__ import annotations

import array
import errno
import fcntl
import logging
import os
import re
import socket
import struct
from collections.abc import Mapping
from typing import Final, TextIO

from edge_runtime.observability.log import Fields, Handler, message

SOCKET: Final = "/run/systemd/journal/socket"
IDENTIFIER: Final = "edge-runtime"
_PRIORITIES: Final = {10: 7, 20: 6, 30: 4, 40: 3, 50: 2}
_NOT_IN_A_NAME: Final = re.compile("[^A-Z0-9_]")
_NAME_MAX: Final = 64
# A journal that is slow is waited for so long; once it was, entries go there only when it takes them at once.
_SEND_TIMEOUT_S: Final = 0.2
_TOO_BIG: Final = (errno.EMSGSIZE, errno.ENOBUFS)
_ALL_SEALS: Final = 0x1 | 0x2 | 0x4 | 0x8  # seal, shrink, grow, write
_F_ADD_SEALS: Final = 1033


class JournalHandler(Handler):
    """As `Handler`, to the journal's socket; `stream` is the fallback."""

    def __init__(self, stream: TextIO, format_: logging.Formatter, version: str, path: str = SOCKET) -> None:
        super().__init__(stream, format_)
        self._fields = Fields(version)
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.settimeout(_SEND_TIMEOUT_S)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if self.taps:
                self.tap(self.format(record))
            priority = _PRIORITIES.get(record.levelno, 6)
            if not self._send(self._entry(record, priority)):
                self.write(f"<{priority}>{self.format(record)}")
        except (OSError, ValueError):
            pass  # as in Handler

    def _entry(self, record: logging.LogRecord, priority: int) -> bytes:
        fields = {_name(key): value for key, value in self._fields.of(record).items()}
        own = {"MESSAGE": message(record), "PRIORITY": str(priority), "SYSLOG_IDENTIFIER": IDENTIFIER}
        return encode({**fields, **own})

    def _send(self, entry: bytes) -> bool:
        try:
            self._socket.sendto(entry, self._path)
        except TimeoutError:
            self._socket.settimeout(0)
        except OSError as error:
            return error.errno in _TOO_BIG and self._send_file(entry)
        else:
            if self._socket.gettimeout() == 0:
                self._socket.settimeout(_SEND_TIMEOUT_S)
            return True
        return False

    def _send_file(self, entry: bytes) -> bool:
        try:
            fd = os.memfd_create("log-entry", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        except OSError:
            return False
        try:
            with os.fdopen(fd, "wb", closefd=False) as file:
                file.write(entry)
            fcntl.fcntl(fd, _F_ADD_SEALS, _ALL_SEALS)
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))
            self._socket.sendmsg([], [rights], 0, self._path)
        except OSError:
            return False
        finally:
            os.close(fd)
        return True

    def close(self) -> None:
        self._socket.close()
        super().close()


def encode(fields: Mapping[str, str]) -> bytes:
    """The fields as one entry. A value of several lines says its length first."""
    parts: list[bytes] = []
    for name, text in fields.items():
        value = text.encode("utf-8", "backslashreplace")
        if b"\n" in value:
            parts.append(name.encode() + b"\n" + struct.pack("<Q", len(value)) + value + b"\n")
        else:
            parts.append(name.encode() + b"=" + value + b"\n")
    return b"".join(parts)


def _name(key: str) -> str:
    """A field's name as the journal takes it; those with _ in front are the journal's own."""
    name = _NOT_IN_A_NAME.sub("_", key.upper()).lstrip("_0123456789")
    return name[:_NAME_MAX] or "FIELD"
