"""One request and its response on a connection that carries many, for either side.

What arrives is kept until it is taken, and the peer gets credit for as much as was taken: who does not take holds the
peer back. What is sent goes into the connection's buffer, as far as the peer's credit and the buffer's limit allow.
One task may send while another receives.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NoReturn

import trio

from edge_runtime.net.http2.errors import Http2Error, StreamReset
from edge_runtime.wire.http2 import Header, StreamState
from edge_runtime.wire.http2.codes import CANCEL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edge_runtime.net.http2.session import Session


_SMALL_PIECE_BYTES: Final = 1024


class Stream(StreamState):
    """`headers` are those of the request on a server, those of the response on a client, pseudo-headers included."""

    __slots__ = ("_broken", "_failure", "_pieces", "_receiver", "_sender", "_session", "headers", "scope", "trailers")

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session
        self.headers: list[Header] = []
        self.trailers: list[Header] | None = None
        self.scope: trio.CancelScope | None = None  # of the server's task that handles it
        self._pieces: list[bytes] = []
        self._failure: Http2Error | None = None
        self._broken = False  # something of what the peer was to send is missing
        self._receiver: trio.lowlevel.Task | None = None
        self._sender: trio.lowlevel.Task | None = None

    @property
    def peer(self) -> str:
        """The address of the other side; empty for a Unix socket."""
        return self._session.peer

    @property
    def local(self) -> str:
        """Our address."""
        return self._session.local

    @property
    def header_list_bytes_max(self) -> int | None:
        """What the peer takes of headers or trailers at once; None when it has not said."""
        return self._session.wire.peer_header_list_bytes

    # --- receiving --------------------------------------------------------------------------------------------------

    async def response(self) -> list[Header]:
        """A client's: wait for the head of the response."""
        while not self.headers:
            if self._broken:
                self._raise_failure()
            await self._wait_to_receive()
        return self.headers

    def take(self) -> bytes | None:
        """All that has arrived; b"" when that is nothing yet, None when the peer has ended and all was taken."""
        pieces = self._pieces
        if pieces:
            data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            pieces.clear()
            session = self._session
            session.wire.take(self, len(data))
            if session.wire.out:
                session.flush_soon()
            return data
        if self.received_end:
            return None
        if self._broken:
            self._raise_failure()
        return b""

    async def receive(self) -> bytes | None:
        """The same, after waiting until there is something."""
        while True:
            data = self.take()
            if data != b"":
                return data
            await self._wait_to_receive()

    async def _wait_to_receive(self) -> None:
        if self._receiver is not None:
            raise trio.BusyResourceError("another task receives from this stream")
        self._receiver = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._stop_receiving)

    def _stop_receiving(self, _: object) -> trio.lowlevel.Abort:
        self._receiver = None
        return trio.lowlevel.Abort.SUCCEEDED

    # --- sending ----------------------------------------------------------------------------------------------------

    def send_headers(self, headers: Sequence[Header], end: bool = False) -> None:
        """Headers or, behind the data, trailers; never waits. Names are lower case, values have no line breaks."""
        if self.sent_end or self.closed:
            self._refuse_to_send()
        self._session.wire.send_headers(self, headers, end)
        self._session.flush_soon()
        if end and self._sender is not None:
            self.wake_sender()  # to learn that nothing can follow

    def try_send_data(self, data: bytes, end: bool = False) -> bool:
        """Sends all of it or nothing, without waiting. False when the peer's credit or our buffer is too small."""
        if self.sent_end or self.closed:
            self._refuse_to_send()
        session = self._session
        size = len(data)
        if self._sender is not None or (size and size > session.room_for(self)):
            return False
        session.wire.send_data(self, data, end)
        session.flush_soon()
        return True

    async def send_data(self, data: bytes, end: bool = False, *, stall_s: float | None = None) -> None:
        """Sends all of it, waiting for credit and for room in the buffer.

        With `stall_s` the stream is reset when neither comes for so long.
        """
        if self.try_send_data(data, end):
            return
        if self._sender is not None:
            raise trio.BusyResourceError("another task sends on this stream")
        session = self._session
        rest = memoryview(data)
        while True:
            room = session.room_for(self)
            if room >= len(rest):
                session.wire.send_data(self, rest, end)
                session.flush_soon()
                return
            if room > 0:
                session.wire.send_data(self, rest[:room])
                session.flush_soon()
                rest = rest[room:]
            session.waiting_bytes += len(rest)
            try:
                if stall_s is None:
                    await self._wait_to_send()
                else:
                    await self._wait_to_send_within(stall_s)
            finally:
                session.waits_no_more(len(rest))
            if self.sent_end or self.closed:
                self._refuse_to_send()

    async def _wait_to_send(self) -> None:
        self._sender = trio.lowlevel.current_task()
        self._session.senders[self] = None
        await trio.lowlevel.wait_task_rescheduled(self._stop_sending)

    async def _wait_to_send_within(self, stall_s: float) -> None:
        with trio.move_on_after(stall_s):
            await self._wait_to_send()
            return
        self.reset(CANCEL)

    def _stop_sending(self, _: object) -> trio.lowlevel.Abort:
        self._sender = None
        self._session.senders.pop(self, None)
        return trio.lowlevel.Abort.SUCCEEDED

    def _refuse_to_send(self) -> NoReturn:
        if self._failure is None:
            raise RuntimeError("the stream has been ended: nothing can follow")
        self._raise_failure()

    def _raise_failure(self) -> NoReturn:
        assert self._failure is not None
        raise self._failure.with_traceback(None)

    def reset(self, code: int = CANCEL) -> None:
        """End the stream at once, in both directions. A stream that has ended stays as it is."""
        if not self.closed:
            self.fail(StreamReset(code, remote=False))
            self._session.wire.reset(self, code)
            self._session.flush_soon()
        self.discard()

    # --- for the session --------------------------------------------------------------------------------------------

    def put(self, data: bytes) -> None:
        """Something has arrived. Small pieces are joined: each as an object would take many times its bytes."""
        pieces = self._pieces
        if pieces and len(pieces[-1]) < _SMALL_PIECE_BYTES:
            pieces[-1] += data
        else:
            pieces.append(data)
        self.wake_receiver()

    def discard(self) -> None:
        """Nobody will take what has arrived."""
        if self._pieces:
            self.take()

    def fail(self, failure: Http2Error) -> None:
        """There will be no more, in either direction."""
        if self._failure is None:
            self._failure = failure
        self._broken = not self.received_end
        self.wake_receiver()
        self.wake_sender()

    def wake_receiver(self) -> None:
        receiver = self._receiver
        if receiver is not None:
            self._receiver = None
            trio.lowlevel.reschedule(receiver)

    def wake_sender(self) -> None:
        sender = self._sender
        if sender is not None:
            self._sender = None
            self._session.senders.pop(self, None)
            trio.lowlevel.reschedule(sender)
