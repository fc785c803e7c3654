"""Wakes who waits for the network: Linux tells when a link, an address or a route has changed."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio

_NETLINK_ROUTE: Final = 0
_GROUPS: Final = 0x1 | 0x10 | 0x40 | 0x100 | 0x400  # links, addresses and routes of IPv4 and IPv6
SETTLE_S: Final = 0.1  # changes come in bursts, and an address can be used a moment after it is there
_MESSAGE_BYTES: Final = 65536
_BURST_MAX: Final = 1000  # messages that are taken as one change


class RouteChanges:
    """Changes since it was opened."""

    def __init__(self, sock: socket.socket | None) -> None:
        self._socket = sock

    async def wait(self) -> None:
        """Until something has changed; for ever where the system does not tell. A burst of changes is one."""
        if self._socket is None:
            await trio.sleep_forever()
            return
        await trio.lowlevel.wait_readable(self._socket)
        await trio.sleep(SETTLE_S)
        _drain(self._socket)


def _drain(sock: socket.socket) -> None:
    for _ in range(_BURST_MAX):
        try:
            sock.recv(_MESSAGE_BYTES)
        except BlockingIOError:
            return
        except OSError:  # more changes than the kernel could keep
            continue


@asynccontextmanager
async def open_route_changes() -> AsyncIterator[RouteChanges]:
    """For as long as somebody waits: an open one wakes the process for each change on the machine."""
    try:
        plain = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_ROUTE)
    except (OSError, AttributeError):  # not Linux, or a sandbox without netlink
        yield RouteChanges(None)
        return
    try:
        plain.bind((0, _GROUPS))
    except OSError:
        plain.close()
        yield RouteChanges(None)
        return
    plain.setblocking(False)
    with plain:
        yield RouteChanges(plain)
