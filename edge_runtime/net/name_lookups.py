"""Looks names up in a few threads of its own: a name server that does not answer must not take those of the node.

A look-up cannot be broken off, it ends when the system gives up. So who asks for a name that is being looked up already
waits for the same answer, also when those who asked first have gone: one name holds one thread.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import trio

# So many names at once. More wait for their turn, as long as those who ask want to.
THREADS_MAX: Final = 8

Found = list[Any]


class _LookUp:
    """One that goes on, and how many want to know."""

    def __init__(self, ask: Callable[[], Found]) -> None:
        self.over = trio.Event()
        self.found: Found = []
        self.error: Exception = OSError("the look-up was broken off")
        self.askers = 0
        self.begun = False
        self.scope = trio.CancelScope()
        self._ask = ask

    def ask(self) -> Found:
        """In the thread."""
        self.begun = True
        return self._ask()


class NameLookUps(trio.abc.HostnameResolver):
    """What trio asks for names; numeric addresses never come here."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._threads = trio.CapacityLimiter(THREADS_MAX)
        self._going_on: dict[object, _LookUp] = {}

    async def getaddrinfo(
        self,
        host: bytes | None,
        port: bytes | str | int | None,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> Found:
        """As `socket.getaddrinfo`."""
        key = (host, port, family, type, proto, flags)
        one = self._going_on.get(key)
        if one is None:
            one = self._going_on[key] = _LookUp(partial(socket.getaddrinfo, *key))
            self._nursery.start_soon(self._look_up, key, one)
        one.askers += 1
        try:
            await one.over.wait()
        finally:
            one.askers -= 1
            if not (one.askers or one.begun or one.over.is_set()):
                del self._going_on[key]
                one.scope.cancel()
        if not one.found:
            raise one.error.with_traceback(None)
        return one.found

    async def _look_up(self, key: object, one: _LookUp) -> None:
        try:
            with one.scope:
                one.found = await trio.to_thread.run_sync(one.ask, abandon_on_cancel=True, limiter=self._threads)
        except Exception as error:  # theirs who asked, whatever it is
            one.error = error
        finally:
            if self._going_on.get(key) is one:
                del self._going_on[key]
            one.over.set()

    async def getnameinfo(self, sockaddr: tuple[str, int] | tuple[str, int, int, int], flags: int) -> tuple[str, str]:
        """As `socket.getnameinfo`."""
        look_up = partial(socket.getnameinfo, sockaddr, flags)
        return await trio.to_thread.run_sync(look_up, abandon_on_cancel=True, limiter=self._threads)


@asynccontextmanager
async def open_name_look_ups() -> AsyncIterator[None]:
    """All names are looked up so, until the block is left; what goes on then is not waited for."""
    async with trio.open_nursery() as nursery:
        before = trio.socket.set_custom_hostname_resolver(NameLookUps(nursery))
        try:
            yield
        finally:
            trio.socket.set_custom_hostname_resolver(before)
            nursery.cancel_scope.cancel()
