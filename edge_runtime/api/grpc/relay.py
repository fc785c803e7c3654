"""One call between two streams: the caller's, which a server of ours has, and the app's.

Plan: the bytes are not cut into messages. What has arrived from one side goes to the other in one piece, and only the
messages' lengths are read, for the limits; so a message of any size takes no more memory than the windows of the two
streams, and compressed ones pass untouched. Credit goes back to a sender as its bytes are taken, so the slower side
sets the pace. A call whose request is here already is passed on without a task of its own.

For another attempt the one request message is kept and the answer is held back until it is complete; a call that turns
out to be a stream cannot be made again, and is refused where a policy wants that.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

import trio
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from edge_runtime.model.errors import CallTimeout, DriverError
from edge_runtime.model.http import Header, Headers
from edge_runtime.net.http2 import Http2Error, StreamReset
from edge_runtime.wire.grpc import status as codes
from edge_runtime.wire.grpc.boundaries import Boundaries
from edge_runtime.wire.grpc.frames import BadFrame, MessageTooLarge
from edge_runtime.wire.grpc.metadata import BadBinary, decode_values
from edge_runtime.wire.grpc.status import Ending, ending_from_head, ending_from_reset, ending_from_trailers
from edge_runtime.wire.grpc.timeouts import encode_timeout

if TYPE_CHECKING:
    from edge_runtime.blocks.invoke import GrpcApp
    from edge_runtime.model.ports import Policy
    from edge_runtime.net.grpc.server import ServerCall
    from edge_runtime.net.http2 import Stream

RETRIED_STREAM: Final = "cannot use resiliency policies with retries on streaming RPCs"
# So much of a request is kept to be sent again, and of an answer held back; a larger one is passed on once.
KEPT_BYTES_MAX: Final = 4 * 2**20
_NO_STATUS: Final = Ending(codes.INTERNAL, "server closed the stream without sending trailers")
_STATUS_DIGITS_MAX: Final = 10
_CANCEL: Final = 8  # HTTP/2's code for a stream that nobody wants any more


class Failed(DriverError):
    """The app's side of a call ended otherwise than OK. `head` and `trailers` are its own words not yet passed on."""

    def __init__(self, ending: Ending, head: Headers | None = None, trailers: Headers | None = None) -> None:
        super().__init__(ending.message, code=ending.code)
        self.ending = ending
        self.head = head
        self.trailers = trailers


class Piece(NamedTuple):
    """Bytes of the request, and whether it ends with them."""

    data: bytes
    last: bool


class Relay:
    """One call between the caller's stream and the app's. `policy` covers all of it, when there is one."""

    __slots__ = (
        "_app", "_asked", "_begun", "_call", "_caller", "_down", "_headers", "_held", "_kept", "_left", "_limit",
        "_over", "_received", "_refusal", "_retries", "_sent", "_started", "_stream", "_up", "policy",
    )  # fmt: skip

    def __init__(self, call: ServerCall, app: GrpcApp, headers: list[Header], policy: Policy | None) -> None:
        self._call = call
        self._caller: Stream = call.raw_stream
        self._app = app
        self._headers = headers
        self.policy = policy
        self._retries = policy is not None and policy.retries
        self._stream: Stream | None = None
        self._over: Callable[[], None] | None = None
        self._started = 0.0
        self._limit = call.message_bytes_max
        if app.message_bytes_max is not None:
            self._limit = min(self._limit, app.message_bytes_max)
        self._up = Boundaries(self._limit)
        self._down = Boundaries(self._limit)
        self._kept: list[Piece] | None = [] if self._retries else None  # the request, for another attempt
        self._left: list[Piece] = []  # taken from the caller and not sent yet, or to be sent again
        self._held = b""  # of the answer, which another attempt may replace
        self._refusal: GRPCError | None = None
        self._asked = False  # the caller has said all
        self._sent = self._received = 0
        self._begun = False  # something of the answer has gone to the caller

    # --- the stream to the app --------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Begin the call at the app. Raises `DriverError`."""
        headers = self._headers
        deadline = self._call.deadline
        if deadline is not None:
            headers = [*headers, (b"grpc-timeout", encode_timeout(deadline - trio.current_time()))]
        self._started = time.monotonic()
        self._stream, self._over = await self._app.open_stream(self._call.path, headers)

    def close(self, code: int) -> None:
        """Leave the app's stream; what is not over yet is cancelled there."""
        over, self._over = self._over, None
        if over is not None:
            assert self._stream is not None
            self._stream.reset(_CANCEL)
            over()
            self._app.count(self._call.path, code, self._started, self._sent, self._received)

    async def attempt(self) -> int:
        """The whole call, as a policy has it made, perhaps more than once."""
        if self._begun or (self._sent and self._kept is None):
            raise _too_late()
        self._left = list(self._kept or ())
        self._held = b""
        self._down = Boundaries(self._limit)
        code = codes.CANCELLED
        await self.open()
        try:
            code = await self.run()
        except Failed as error:
            code = error.ending.code
            error.unrepeatable = self._begun or (bool(self._sent) and self._kept is None)
            raise
        finally:
            self.close(code)
        return code

    async def run(self) -> int:
        """Pass request and answer on; the code of the answer. Raises `Failed` where that must be told by us."""
        if self._pass_what_is_here():
            return await self._pass_answer()
        code = codes.UNKNOWN
        failure: Exception | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._pass_rest, nursery.cancel_scope)
            try:
                code = await self._pass_answer()
            except (GRPCError, DriverError) as error:
                failure = error  # raised behind the nursery, which would wrap it
            nursery.cancel_scope.cancel()
        failure = self._refusal or failure
        if failure is not None:
            raise failure
        return code

    # --- the request ------------------------------------------------------------------------------------------------

    def _pass_what_is_here(self) -> bool:
        """Pass on what of the request has come; true when nothing is left to do for it."""
        stream = self._stream
        assert stream is not None
        try:
            while True:
                piece = self._next_piece()
                if piece is None:
                    return False
                if not stream.try_send_data(piece.data, piece.last):
                    self._left.insert(0, piece)
                    return False
                if piece.last:
                    return True
        except Http2Error:
            return True  # whichever side broke, the answer's end of it sees that too and knows what to say

    async def _pass_rest(self, scope: trio.CancelScope) -> None:
        """The same for what is still to come. What must be refused is left in `_refusal`, and the answer ends."""
        stream = self._stream
        assert stream is not None
        try:
            while True:
                piece = self._next_piece() or self._taken(await self._caller.receive())
                if not stream.try_send_data(piece.data, piece.last):
                    await stream.send_data(piece.data, piece.last)
                if piece.last:
                    return
        except GRPCError as error:
            self._refusal = error
            scope.cancel()
        except Http2Error:
            pass

    def _next_piece(self) -> Piece | None:
        """What of the request is here, or None when that is nothing."""
        if self._left:
            return self._left.pop(0)
        data = self._caller.take()
        return None if data == b"" else self._taken(data)

    def _taken(self, data: bytes | None) -> Piece:
        """The caller's next bytes, None at its end, looked at before they go on."""
        last = data is None or self._caller.take() is None
        piece = Piece(data or b"", last)
        _follow(self._up, piece.data)
        self._sent += len(piece.data)
        if last:
            self._asked = True
            self._call.peer_has_ended()
        if self._retries:
            self._keep(piece)
        return piece

    def _keep(self, piece: Piece) -> None:
        if self._up.messages > 1:
            raise GRPCError(Status.FAILED_PRECONDITION, RETRIED_STREAM)
        if self._sent > KEPT_BYTES_MAX:
            self._kept = None
        elif self._kept is not None:
            self._kept.append(piece)

    # --- the answer -------------------------------------------------------------------------------------------------

    async def _pass_answer(self) -> int:
        """The app's answer to the caller, as it comes. While the call may be made again it is held back."""
        stream = self._stream
        assert stream is not None
        try:
            head = await stream.response()
            data = stream.take()
        except Http2Error as error:
            raise Failed(_ending_of(error)) from error
        broken = ending_from_head(head)
        if broken is not None:
            raise Failed(ending_from_trailers(head) or broken)
        _check(head)
        if data is not None and not self._retries:
            self._begin(head)
        while data is not None:
            if data:
                self._look_at(data)
                if not self._begun:
                    await self._hold(head, data)
                elif not self._caller.try_send_data(data):
                    await self._caller.send_data(data)
            try:
                data = stream.take() or await stream.receive()
            except Http2Error as error:
                raise Failed(_ending_of(error)) from error
        return await self._end(head, stream.trailers)

    def _look_at(self, data: bytes) -> None:
        _follow(self._down, data)
        self._received += len(data)
        if self._retries and self._down.messages > 1:
            raise GRPCError(Status.FAILED_PRECONDITION, RETRIED_STREAM)

    async def _hold(self, head: Headers, data: bytes) -> None:
        """Hold the bytes back, unless they are too many, or the caller may wait for them to say more."""
        self._held += data
        if not self._asked or len(self._held) > KEPT_BYTES_MAX:
            await self._let_go(head)

    async def _let_go(self, head: Headers) -> None:
        self._begin(head)
        if self._held and not self._caller.try_send_data(self._held):
            await self._caller.send_data(self._held)
        self._held = b""

    def _begin(self, head: Headers) -> None:
        self._begun = True
        self._call.pass_headers(head)

    async def _end(self, head: Headers, trailers: Headers | None) -> int:
        """The answer has ended; `trailers` is None when all of it was one block."""
        ending = ending_from_trailers(head if trailers is None else trailers)
        if ending is None or (trailers is None and (self._begun or self._held)):
            raise Failed(_NO_STATUS)
        if trailers is not None:
            _check(trailers)
        if ending.code and self.policy is not None:
            raise Failed(ending, head, trailers)
        if self._held:
            await self._let_go(head)
        self._pass_end(head, trailers)
        return ending.code

    def _pass_end(self, head: Headers, trailers: Headers | None) -> None:
        if trailers is None:
            self._call.pass_headers(head, True)
            return
        if not self._begun:
            self._begin(head)
        self._call.pass_headers(trailers, True)

    def tell(self, failed: Failed) -> int:
        """The end of a call that failed at the app's side: in its own words, or in ours where it had none."""
        if failed.head is not None:
            self._pass_end(failed.head, failed.trailers)
        else:
            self._call.fail(failed.ending.code, failed.ending.message, failed.ending.details)
        return failed.ending.code


def _too_late() -> CallTimeout:
    """What ended an attempt that cannot be made again was the policy's timeout; all else says so itself."""
    error = CallTimeout("context deadline exceeded")
    error.unrepeatable = True
    return error


def _check(fields: Headers) -> None:
    """Raises `Failed` for a field that a caller's library cannot read: some remember that for their whole connection,
    and fail all later calls on it."""
    for name, value in fields:
        if name == b"grpc-status":
            if not value.isdigit() or len(value) > _STATUS_DIGITS_MAX:
                raise Failed(ending_from_trailers(fields) or _NO_STATUS)
        elif name[-4:] == b"-bin":
            try:
                decode_values(name, value)
            except BadBinary as error:
                ending = ending_from_trailers(fields) if name == b"grpc-status-details-bin" else None
                raise Failed(ending or Ending(codes.INTERNAL, str(error))) from None


def _follow(boundaries: Boundaries, data: bytes) -> None:
    try:
        boundaries.feed(data)
    except MessageTooLarge as error:
        raise GRPCError(Status.RESOURCE_EXHAUSTED, str(error)) from None
    except BadFrame as error:
        raise GRPCError(Status.INTERNAL, str(error)) from None


def _ending_of(error: Http2Error) -> Ending:
    if isinstance(error, StreamReset):
        return ending_from_reset(error.reset_code)
    return Ending(codes.UNAVAILABLE, f"error reading from server: {error}")
