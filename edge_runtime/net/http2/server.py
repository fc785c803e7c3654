"""The server's end of HTTP/2 connections: a task for every stream, pings, limits, and the long goodbye.

The tasks of streams are kept for the next stream, each in a cancel scope that is only replaced when it was used: a new
task with a scope of its own costs as much as a small call.
"""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Awaitable, Callable
from typing import Final

import outcome
import trio

from edge_runtime.net.connections import Connection
from edge_runtime.net.http2.errors import Http2Error
from edge_runtime.net.http2.limits import Http2Limits
from edge_runtime.net.http2.session import Session
from edge_runtime.net.http2.stream import Stream
from edge_runtime.wire.http2 import Engine, Header
from edge_runtime.wire.http2 import engine as default_engine
from edge_runtime.wire.http2.codes import INTERNAL_ERROR, NO_ERROR, STREAM_ID_MAX

OnStream = Callable[[Stream], Awaitable[None]]

_logger = logging.getLogger("dapr.runtime.http2")

_IDLE_TASKS_MAX: Final = 8  # of a connection, kept for coming streams
_GOODBYE: Final = b"goodbye\0"


class Http2Server:
    """Serves the connections that it is given; each stream goes to `on_stream`, in a task of its own.

    The task is cancelled when the client resets the stream or the connection ends. When it returns before it has ended
    the stream, the client sees INTERNAL_ERROR.
    """

    def __init__(
        self,
        on_stream: OnStream,
        limits: Http2Limits = Http2Limits(),  # noqa: B008 a NamedTuple is no mutable default
        *,
        engine: Engine | None = None,
    ) -> None:
        self.on_stream = on_stream
        self._limits = limits
        self._engine = engine or default_engine()
        self._sessions: set[ServerSession] = set()
        self._draining = False
        self._ended = trio.Event()
        self.streams_open = 0  # streams whose task runs

    @property
    def connections_open(self) -> int:
        """How many connections there are now."""
        return len(self._sessions)

    async def serve_connection(self, connection: Connection, received: bytes, peer: str, local: str) -> None:
        """Serve until the connection has ended, and close it. `received` begins with HTTP/2's preface."""
        session = ServerSession(self, connection, self._limits, self._engine, peer, local)
        self._sessions.add(session)
        connection.idle_since = session.idle_since
        try:
            await session.run(received)
        finally:
            connection.idle_since = None
            self._sessions.discard(session)
            if self._draining and not self._sessions:
                self._ended.set()

    async def drain(self, grace_s: float) -> None:
        """Take no more streams, let those that are open end for `grace_s`, then end every connection."""
        self._draining = True
        if not self._sessions:
            return
        for session in list(self._sessions):
            session.say_goodbye()
        with trio.move_on_after(grace_s):
            await self._ended.wait()
        for session in list(self._sessions):
            session.end("the server stops")
        if self._sessions:
            await self._ended.wait()

    @property
    def draining(self) -> bool:
        """No connection takes new streams any more."""
        return self._draining


class ServerSession(Session):
    """The server's end of one connection."""

    def __init__(
        self, server: Http2Server, connection: Connection, limits: Http2Limits, codec: Engine, peer: str, local: str
    ) -> None:
        super().__init__(connection, limits, codec, peer, local, client=False)
        self._server = server
        self._on_stream = server.on_stream
        self._streams_max = limits.streams_max
        self._idle_tasks: list[trio.lowlevel.Task] = []
        self._held_back = trio.lowlevel.ParkingLot()  # streams that may begin when the client has read
        self._running = 0  # streams whose task runs, some of which may have been reset
        self._idle_since = self._begun_at
        self._goodbye_at: float | None = None
        self._leaving = False  # the goodbye has gone through: the connection ends with its last stream
        self._nursery: trio.Nursery
        self._context = contextvars.copy_context()

    def idle_since(self) -> float | None:
        """When the last stream ended; None while there is one."""
        return None if self._running else self._idle_since

    def begin(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        if self._server.draining:
            self.say_goodbye()

    # --- streams ----------------------------------------------------------------------------------------------------

    def new_stream(self) -> Stream | None:
        # Reset streams count for as long as their task runs: else a client could have any number of tasks.
        return Stream(self) if self._running < self._streams_max and self.lost is None else None

    def headers_received(self, stream: Stream, headers: list[Header], end: bool) -> None:
        stream.headers = headers
        self._running += 1
        self._server.streams_open += 1
        if self._idle_tasks:
            trio.lowlevel.reschedule(self._idle_tasks.pop(), outcome.Value(stream))
        else:
            self._nursery.start_soon(self._handle_streams, stream)

    async def _handle_streams(self, stream: Stream | None) -> None:
        """A task: handles one stream after the other, until one is cancelled or there are tasks enough."""
        try:
            with trio.CancelScope() as scope:
                while stream is not None:
                    await self._handle(stream, scope)
                    stream = None if scope.cancel_called else await self._next_stream()
        except Exception:
            # Once a stream that was cancelled, whose tasks may fail together with that.
            _logger.exception("a stream of %s ended by an error of the server", self.peer or "a unix socket")

    async def _next_stream(self) -> Stream | None:
        if len(self._idle_tasks) >= _IDLE_TASKS_MAX:
            return None
        task = trio.lowlevel.current_task()
        task.context = self._context.copy()  # what one handler sets the next shall not see
        self._idle_tasks.append(task)
        stream: Stream = await trio.lowlevel.wait_task_rescheduled(self._forget_idle_tasks)
        return stream

    def _forget_idle_tasks(self, _: object) -> trio.lowlevel.Abort:
        self._idle_tasks.clear()  # only the end of the connection cancels them, and then all
        return trio.lowlevel.Abort.SUCCEEDED

    async def _handle(self, stream: Stream, scope: trio.CancelScope) -> None:
        try:
            if not stream.closed:
                stream.scope = scope
                if self.waiting_bytes > self.limits.waiting_bytes_max:
                    await self._wait_to_begin()
                await self._on_stream(stream)
        except Http2Error:
            pass  # the client has left
        except Exception:
            _logger.exception("a stream of %s ended by an error of the server", self.peer or "a unix socket")
        finally:
            stream.scope = None
            self._running -= 1
            self._server.streams_open -= 1
            if not stream.closed:
                # A client that still sends when the response has ended is told to stop.
                stream.reset(NO_ERROR if stream.sent_end else INTERNAL_ERROR)
            else:
                stream.discard()
            if not self._running:
                self._idle_since = trio.current_time()
                if self._leaving:
                    self._leave()

    async def _wait_to_begin(self) -> None:
        """One after the other: all at once would not see what the others' answers make wait."""
        while self.waiting_bytes > self.limits.waiting_bytes_max:
            await self._held_back.park()
        self._token.run_sync_soon(self._begin_another)

    def _begin_another(self) -> None:
        if self._held_back and self.waiting_bytes <= self.limits.waiting_bytes_max:
            self._held_back.unpark()

    def waits_no_more(self, size: int) -> None:
        super().waits_no_more(size)
        self._begin_another()

    def stream_reset(self, stream: Stream, code: int, remote: bool) -> None:
        super().stream_reset(stream, code, remote)
        if stream.scope is not None:
            stream.scope.cancel()

    # --- the end ----------------------------------------------------------------------------------------------------

    def say_goodbye(self) -> None:
        """A GOAWAY that allows any stream, and a ping: what the client sent before it saw these is still served."""
        if self._goodbye_at is None and self.lost is None:
            self._goodbye_at = trio.current_time()
            self.wire.go_away(last_id=STREAM_ID_MAX)
            self.wire.ping(_GOODBYE)
            self.flush_soon()
            self.look_at(self._goodbye_at + self.limits.keepalive_timeout_s)

    def pong_received(self, data: bytes) -> None:
        if data == _GOODBYE and self._goodbye_at is not None and not self._leaving:
            self._take_no_more()

    def _take_no_more(self) -> None:
        self._leaving = True
        self.wire.go_away()
        self.flush_soon()
        if not self._running:
            self._leave()

    def _leave(self) -> None:
        """End the connection, unless answers are still on their way: then the writer does."""
        if self.lost is None:
            self.flush()
            if not self._blocked:
                self.wire.failed = True  # nothing that comes is looked at: see the client off
                self.end("the server closes the connection")

    def sent_all(self) -> None:
        if self._leaving and not self._running:
            self._leave()

    def look(self, now: float) -> None:
        super().look(now)
        limits = self.limits
        if self._goodbye_at is not None:
            if not self._leaving and now >= self._goodbye_at + limits.keepalive_timeout_s:
                self._take_no_more()
        elif limits.idle_max_s and not self._running and now >= self._idle_since + limits.idle_max_s:
            self.say_goodbye()

    def next_look(self, now: float) -> float:
        nearest = super().next_look(now)
        limits = self.limits
        if self._goodbye_at is not None:
            return nearest if self._leaving else min(nearest, self._goodbye_at + limits.keepalive_timeout_s)
        if limits.idle_max_s:
            since = now if self._running else self._idle_since
            return min(nearest, since + limits.idle_max_s)
        return nearest
