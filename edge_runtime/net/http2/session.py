"""What the server's and the client's end of a connection share: one task reads, one writes, one watches the clock.

All that the streams produce in one turn of the loop leaves in one send, just before the loop waits: an instrument of
the loop does that (`flushing.py`), because a task for it would cost a turn more. The writer is for what the kernel does
not take at once. No stream has a timer: the watch looks at the connection's deadlines, as seldom as it can.
"""

from __future__ import annotations

import logging
from typing import Final

import trio

from edge_runtime.net.connections import RECEIVE_BYTES, Connection
from edge_runtime.net.http2.errors import ConnectionLost, StreamReset
from edge_runtime.net.http2.flushing import flusher
from edge_runtime.net.http2.limits import Http2Limits
from edge_runtime.net.http2.stream import Stream
from edge_runtime.wire.http2 import ConnectionFault, Engine, Header, Http2Connection, engine
from edge_runtime.wire.http2.codes import REFUSED_STREAM, STREAM_ID_MAX

_logger = logging.getLogger("dapr.runtime.http2")

_NEVER: Final = float("inf")
_PIECE_BYTES: Final = 65536  # of a send that has to wait
_LINGER_S: Final = 0.5
_LINGER_BYTES: Final = 2**24
_KEEPALIVE: Final = b"alive?\0\0"
_CLOSED: Final = "the connection was closed"


class Session:
    """One end of a connection; owner of its wire."""

    def __init__(
        self, connection: Connection, limits: Http2Limits, codec: Engine | None, peer: str, local: str, *, client: bool
    ) -> None:
        self.limits = limits
        self.peer = peer
        self.local = local
        self.wire: Http2Connection[Stream] = Http2Connection(
            self, limits.for_wire(client), codec or engine(), client=client
        )
        self.senders: dict[Stream, None] = {}  # that wait for credit or for room in the buffer, longest first
        self.waiting_bytes = 0  # that streams want to send and may not yet
        self.lost: str | None = None  # why the connection has ended
        self._connection = connection
        self._scope = trio.CancelScope()
        self._parked_writer: trio.lowlevel.Task | None = None
        self._rest = memoryview(b"")  # what the kernel has not taken yet
        self._blocked = False  # the writer has work: nobody else sends
        self._dirty = False  # there is output for the flusher
        self._token = trio.lowlevel.current_trio_token()
        self._flusher = flusher()
        self._out_bytes_hard = 2 * limits.write_buffer_bytes_max
        now = trio.current_time()
        self._begun_at = now
        self._received_at = now
        self._pinged_at: float | None = None
        self._write_deadline = _NEVER
        self._nap = trio.CancelScope()  # of the watch
        self.wire.begin()

    # --- the tasks --------------------------------------------------------------------------------------------------

    async def run(self, received: bytes = b"") -> None:
        """Until the connection has ended; whatever ends it stays here."""
        reason = _CLOSED
        self._flusher.join()
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    self.begin(nursery)
                    nursery.start_soon(self._write)
                    self.flush_soon()
                    nursery.start_soon(self._watch)
                    reason = await self._read(received)
                    self._scope.cancel()
        finally:
            self._lose(self.lost or reason)
            if reason == _CLOSED and self.wire.goaway_last in (None, STREAM_ID_MAX):
                self.wire.go_away()  # the end is our will, and the peer has not heard which streams we have looked at
            with trio.move_on_after(_LINGER_S, shield=True):
                await self._say_last_words()
            self._connection.close()
            self._flusher.leave()

    def begin(self, nursery: trio.Nursery) -> None:
        """The tasks can start."""

    def waits_no_more(self, size: int) -> None:
        """So many of the bytes that waited are sent, or never will be."""
        self.waiting_bytes -= size

    async def _read(self, data: bytes) -> str:
        """Read until the end; its reason."""
        connection = self._connection
        feed = self.wire.receive
        wire = self.wire
        try:
            while True:
                if data:
                    self._received_at = now = trio.current_time()
                    feed(data, now)
                    if wire.out:
                        self.flush_soon()
                data = await (connection.receive_more() if len(data) == RECEIVE_BYTES else connection.receive())
                if not data:
                    return "the peer has closed the connection"
        except ConnectionFault as fault:
            _logger.debug("ended a connection with %s: %s", self.peer or "a unix socket", fault)
            return str(fault)
        except OSError as error:
            return f"the connection broke: {error.strerror or error}"

    async def _write(self) -> None:
        """Send what the kernel would not take at once."""
        wire = self.wire
        try:
            while True:
                if not self._rest:
                    self._parked_writer = trio.lowlevel.current_task()
                    await trio.lowlevel.wait_task_rescheduled(self._unpark)
                while self._rest:
                    self._write_deadline = trio.current_time() + self.limits.write_stall_s
                    self.look_at(self._write_deadline)
                    await self._connection.send_all(self._rest[:_PIECE_BYTES])
                    self._rest = self._rest[_PIECE_BYTES:] or memoryview(wire.take_out())
                self._write_deadline = _NEVER
                self._blocked = False
                self._wake_senders()
                self.sent_all()
        except OSError as error:
            self.end(f"the connection broke: {error.strerror or error}")

    def sent_all(self) -> None:
        """The writer has nothing left to send."""

    def _unpark(self, _: object) -> trio.lowlevel.Abort:
        self._parked_writer = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _wake_writer(self) -> None:
        writer = self._parked_writer
        if writer is not None:
            self._parked_writer = None
            trio.lowlevel.reschedule(writer)

    async def _watch(self) -> None:
        while True:
            now = trio.current_time()
            self.look(now)
            with trio.CancelScope(deadline=self.next_look(now)) as self._nap:
                await trio.sleep_forever()

    def look_at(self, when: float) -> None:
        """There is a deadline that the watch did not know of."""
        if when < self._nap.deadline:
            self._nap.deadline = when

    def look(self, now: float) -> None:
        """See which deadlines have passed."""
        limits = self.limits
        if self._write_deadline <= now:
            self.end("the peer does not read")
        elif not self.wire.settled and now >= self._begun_at + limits.preface_timeout_s:
            self.end("the peer has sent no settings")
        elif self._pinged_at is not None:
            if self._received_at >= self._pinged_at:
                self._pinged_at = None
            elif now >= self._pinged_at + limits.keepalive_timeout_s:
                self.end("the peer does not answer")
        if limits.keepalive_idle_s and self._pinged_at is None and now >= self._received_at + limits.keepalive_idle_s:
            self._pinged_at = now
            self.wire.ping(_KEEPALIVE)
            self.flush_soon()

    def next_look(self, now: float) -> float:
        """When the next deadline can pass."""
        limits = self.limits
        nearest = self._write_deadline
        if not self.wire.settled:
            nearest = min(nearest, self._begun_at + limits.preface_timeout_s)
        if self._pinged_at is not None:
            nearest = min(nearest, self._pinged_at + limits.keepalive_timeout_s)
        elif limits.keepalive_idle_s:
            nearest = min(nearest, self._received_at + limits.keepalive_idle_s)
        return nearest

    # --- output -----------------------------------------------------------------------------------------------------

    def flush_soon(self) -> None:
        """There is output: it leaves when all that is ready has had its turn."""
        if not self._dirty:
            self._dirty = True
            self._flusher.dirty.append(self)

    def flush(self) -> None:
        """Send what there is. Called by the instrument, between two turns: nothing here may touch a task."""
        self._dirty = False
        if self._blocked:
            if self.wire.out_bytes > self._out_bytes_hard:
                self._token.run_sync_soon(self.end, "the peer does not read")
            return
        data = self.wire.take_out()
        try:
            sent = self._connection.try_send(data)
        except OSError as error:
            self._token.run_sync_soon(self.end, f"the connection broke: {error.strerror or error}")
            return
        if sent != len(data):
            self._blocked = True
            self._rest = memoryview(data)[sent:]
            self._token.run_sync_soon(self._wake_writer)
        elif self.senders:
            self._token.run_sync_soon(self._wake_senders)

    def break_off(self, error: Exception) -> None:
        """The flush failed by an error of ours."""
        _logger.error("a connection with %s ended by an error of ours", self.peer or "a unix socket", exc_info=error)
        self._token.run_sync_soon(self.end, "an error of ours")

    def room_for(self, stream: Stream) -> int:
        """How many bytes the stream may send now; not above 0 for none."""
        wire = self.wire
        room = min(stream.room, wire.room)
        free = self.limits.write_buffer_bytes_max - wire.out_bytes
        return room if room < free else free

    def _wake_senders(self) -> None:
        """In the order in which they began to wait, so that they take turns."""
        if self.wire.room > 0:
            for stream in list(self.senders):
                if stream.room > 0:
                    stream.wake_sender()

    # --- the end ----------------------------------------------------------------------------------------------------

    def end(self, reason: str) -> None:
        """End the connection; its streams fail."""
        if self.lost is None:
            self._lose(reason)
            self._scope.cancel()

    def _lose(self, reason: str) -> None:
        if self.lost is None:
            self.lost = reason
        for stream in list(self.wire.streams.values()):
            stream.closed = True
            stream.fail(ConnectionLost(self.lost))
        self.wire.streams.clear()

    async def _say_last_words(self) -> None:
        """Send what is left, then see off what the peer still sends: else the kernel drops what we said last."""
        connection = self._connection
        if self._blocked:
            return  # a send was broken off: nothing that follows would be understood
        try:
            if self.wire.out:
                await connection.send_all(self.wire.take_out())
            if not self.wire.failed or not connection.end_sending():
                return
            left = _LINGER_BYTES
            while left > 0 and (data := await connection.receive()):
                left -= len(data)
        except (OSError, trio.ClosedResourceError):
            pass  # the peer is gone

    # --- what the wire says -----------------------------------------------------------------------------------------

    def new_stream(self) -> Stream | None:
        return None

    def headers_received(self, stream: Stream, headers: list[Header], end: bool) -> None:
        raise NotImplementedError

    def trailers_received(self, stream: Stream, headers: list[Header]) -> None:
        stream.trailers = headers
        stream.wake_receiver()

    def data_received(self, stream: Stream, data: bytes, end: bool) -> None:
        if data:
            stream.put(data)
        elif end:
            stream.wake_receiver()

    def stream_reset(self, stream: Stream, code: int, remote: bool) -> None:
        stream.closed = True
        stream.fail(StreamReset(code, remote=remote, unprocessed=remote and code == REFUSED_STREAM))

    def stream_closed(self, stream: Stream) -> None:
        pass

    def room_grew(self, stream: Stream | None) -> None:
        if stream is None:
            if self.senders:
                self._wake_senders()
        elif stream in self.senders and stream.room > 0:
            stream.wake_sender()

    def settings_received(self) -> None:
        pass

    def pong_received(self, data: bytes) -> None:
        pass

    def goaway_received(self, last_id: int, code: int, text: bytes) -> None:
        pass
