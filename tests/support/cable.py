"""A cable between a client and a server on loopback: it can be cut without either end being told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

READ_BYTES = 65536


class Cable:
    """Forwards connections to a port. While it is cut, bytes stay where they are."""

    def __init__(self, target: int) -> None:
        self.port = 0
        self.connections = 0
        self._target = target
        self._whole = trio.Event()
        self._whole.set()
        self._streams: list[trio.SocketStream] = []

    def cut(self) -> None:
        """Nothing gets through from now on, and nobody is told."""
        self._whole = trio.Event()

    def mend(self) -> None:
        self._whole.set()

    async def drop(self) -> None:
        """End every connection, as a broken network's other end would when it is back."""
        streams, self._streams = self._streams, []
        for stream in streams:
            await trio.aclose_forcefully(stream)

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            opened = await trio.open_tcp_listeners(0, host="127.0.0.1")
            listeners = await nursery.start(trio.serve_listeners, self._connect, opened)
            self.port = listeners[0].socket.getsockname()[1]
            task_status.started()

    async def _connect(self, client: trio.SocketStream) -> None:
        try:
            server = await trio.open_tcp_stream("127.0.0.1", self._target)
        except OSError:
            await trio.aclose_forcefully(client)
            return
        self.connections += 1
        self._streams += [client, server]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._forward, client, server)
            nursery.start_soon(self._forward, server, client)

    async def _forward(self, source: trio.SocketStream, target: trio.SocketStream) -> None:
        try:
            while data := await source.receive_some(READ_BYTES):
                await self._whole.wait()
                await target.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        await trio.aclose_forcefully(target)


@asynccontextmanager
async def open_cable(target: int) -> AsyncIterator[Cable]:
    cable = Cable(target)
    async with trio.open_nursery() as nursery:
        await nursery.start(cable.serve)
        yield cable
        nursery.cancel_scope.cancel()
