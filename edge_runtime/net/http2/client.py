"""The client's end of one HTTP/2 connection."""

from __future__ import annotations

import logging
import ssl
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import trio

from edge_runtime.net.connections import CONNECT_TIMEOUT_S, ConnectFailed, Connection, Dial, Origin, open_connection
from edge_runtime.net.http2.errors import ConnectionLost, StreamReset
from edge_runtime.net.http2.limits import Http2Limits
from edge_runtime.net.http2.session import Session
from edge_runtime.net.http2.stream import Stream
from edge_runtime.wire.http2 import Engine, Header, code_name
from edge_runtime.wire.http2.codes import REFUSED_STREAM

_logger = logging.getLogger("dapr.runtime.http2")


class Http2Client(Session):
    """One connection; any number of tasks may open streams on it."""

    def __init__(self, connection: Connection, limits: Http2Limits, codec: Engine | None, origin: Origin) -> None:
        super().__init__(connection, limits, codec, origin.host, "", client=True)
        self._goaway: str | None = None
        self._waiting: deque[trio.lowlevel.Task] = deque()
        self.gone = trio.Event()  # the connection has ended
        self.settled = trio.Event()  # the peer's settings are here, or the connection has ended

    async def run(self, received: bytes = b"") -> None:
        """Until the connection has ended; whatever ends it stays here."""
        try:
            await super().run(received)
        except Exception:
            _logger.exception("a connection to %s ended by an error of the client", self.peer)

    @property
    def usable(self) -> bool:
        """False when no stream can be opened any more."""
        return self.lost is None and self._goaway is None and self.wire.next_stream_id() is not None

    @property
    def has_room(self) -> bool:
        """Whether a stream can be opened without waiting."""
        wire = self.wire
        return self.usable and len(wire.streams) < min(wire.peer_streams_max, self.limits.streams_max)

    async def open_stream(self, headers: Sequence[Header], end: bool = False) -> Stream:
        """Send a request's head, pseudo-headers first. Waits while the peer's number of streams is open.

        Raises `ConnectionLost`, which says that nothing was processed.
        """
        wire = self.wire
        while True:
            if not self.usable:
                raise ConnectionLost(self.lost or self._goaway or "no stream numbers are left", unprocessed=True)
            if len(wire.streams) < min(wire.peer_streams_max, self.limits.streams_max):
                break
            await self._wait_for_stream()
        stream = Stream(self)
        wire.open_stream(stream, headers, end)
        self.flush_soon()
        return stream

    async def _wait_for_stream(self) -> None:
        task = trio.lowlevel.current_task()

        def stop(_: object) -> trio.lowlevel.Abort:
            self._waiting.remove(task)
            return trio.lowlevel.Abort.SUCCEEDED

        self._waiting.append(task)
        await trio.lowlevel.wait_task_rescheduled(stop)

    def _wake(self, most: int) -> None:
        while self._waiting and most > 0:
            trio.lowlevel.reschedule(self._waiting.popleft())
            most -= 1

    def _lose(self, reason: str) -> None:
        super()._lose(reason)
        self.gone.set()
        self.settled.set()
        self._wake(len(self._waiting))

    # --- what the wire says -----------------------------------------------------------------------------------------

    def headers_received(self, stream: Stream, headers: list[Header], end: bool) -> None:
        if stream.head_received:  # not for an informational response
            stream.headers = headers
            stream.wake_receiver()

    def stream_closed(self, stream: Stream) -> None:
        if self._goaway is not None and not self.wire.streams:
            self.end(self._goaway)
        else:
            self._wake(1)

    def settings_received(self) -> None:
        self.settled.set()
        self._wake(min(self.wire.peer_streams_max, self.limits.streams_max) - len(self.wire.streams))

    def goaway_received(self, last_id: int, code: int, text: bytes) -> None:
        detail = f" ({text.decode('utf-8', 'replace')})" if text else ""
        self._goaway = f"the server closes the connection: {code_name(code)}{detail}"
        for stream in [one for stream_id, one in self.wire.streams.items() if stream_id > last_id]:
            self.wire.drop(stream)
            stream.fail(StreamReset(REFUSED_STREAM, remote=True, unprocessed=True))
        self._wake(len(self._waiting))
        if not self.wire.streams:
            self.end(self._goaway)


@asynccontextmanager
async def open_http2_client(
    origin: Origin,
    tls: ssl.SSLContext | None = None,
    limits: Http2Limits = Http2Limits(keepalive_idle_s=0.0, idle_max_s=0.0),  # noqa: B008 no mutable default
    *,
    timeout_s: float = CONNECT_TIMEOUT_S,
    engine: Engine | None = None,
    dial: Dial = open_connection,
) -> AsyncIterator[Http2Client]:
    """A connection for as long as the body lasts; when it is lost the body goes on, and `usable` says so.

    `tls` has to offer "h2" by ALPN (see `http2_tls`). The limits' keep-alive is off unless it is given.
    """
    connection = await dial(origin, tls, timeout_s)
    if tls is not None and connection.alpn != "h2":
        connection.close()
        raise ConnectFailed(f"dial tcp {origin}: the server does not speak HTTP/2")
    client = Http2Client(connection, limits, engine, origin)
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.run)
        try:
            yield client
        except BaseException as error:
            failure = error  # raised behind the nursery, which would wrap it
        client.end("the connection was closed")
    if failure is not None:
        raise failure


def http2_tls() -> ssl.SSLContext:
    """TLS with the system's authorities that offers HTTP/2 alone."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["h2"])
    return context
