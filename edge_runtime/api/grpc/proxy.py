"""The transparent proxy: calls of services that are not ours go to the app that their metadata names.

Plan: the bytes between the two streams are not cut into messages. What has arrived from one side goes to the other in
one piece, and only the messages' lengths are read, for the limits; so a message of any size takes no more memory than
the windows of the two streams, and compressed ones pass untouched. Credit goes back to a sender as its bytes are taken,
so the slower side sets the pace. A call whose request is here already is passed on without a task of its own.

A resiliency policy covers the whole call, or only its beginning with the metadata `dapr-stream: true`. To try again,
the one request message is kept; a call that turns out to be a stream cannot be, and with retries it is refused.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

import trio
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from edge_runtime.channel.http import AppUnhealthy
from edge_runtime.model.errors import CallTimeout, DriverError
from edge_runtime.model.http import Header, Headers
from edge_runtime.net.http2 import Http2Error, StreamReset
from edge_runtime.observability.trace import binary_of
from edge_runtime.wire.grpc import status as codes
from edge_runtime.wire.grpc.boundaries import Boundaries
from edge_runtime.wire.grpc.frames import BadFrame, MessageTooLarge
from edge_runtime.wire.grpc.metadata import encode_binary
from edge_runtime.wire.grpc.status import Ending, ending_from_head, ending_from_reset, ending_from_trailers
from edge_runtime.wire.grpc.timeouts import encode_timeout
from edge_runtime.wire.paths import clean, encode

if TYPE_CHECKING:
    from edge_runtime.blocks.invoke import Callee, GrpcApp, Invoker
    from edge_runtime.model.ports import Policy
    from edge_runtime.model.trace import Trace
    from edge_runtime.net.grpc.server import ServerCall
    from edge_runtime.net.http2 import Stream

NO_TARGET: Final = "failed to proxy request: required metadata dapr-callee-app-id or dapr-app-id not found"
RETRIED_STREAM: Final = "cannot use resiliency policies with retries on streaming RPCs"
# So much of a request is kept to be sent again; a larger message is sent once.
KEPT_BYTES_MAX: Final = 4 * 2**20
_NO_STATUS: Final = Ending(codes.INTERNAL, "server closed the stream without sending trailers")
_CANCEL: Final = 8  # HTTP/2's code for a stream that nobody wants any more

# Ours to say on the way to the app, whoever said it before.
_OWN: Final = frozenset(
    (
        b"dapr-app-id", b"dapr-callee-app-id", b"dapr-caller-app-id", b"dapr-caller-namespace", b"dapr-api-token",
        b"grpc-timeout", b"content-length", b"host",
    )
)  # fmt: skip
_TRACE: Final = frozenset((b"traceparent", b"tracestate", b"grpc-trace-bin"))
_OWN_AND_TRACE: Final = _OWN | _TRACE


class Proxy:
    """`handle` takes every call that no service of ours does."""

    def __init__(self, invoker: Invoker) -> None:
        self._invoker = invoker

    async def handle(self, call: ServerCall, trace: Trace) -> int:
        """Pass the call on and its answer back; the code that it ended with. Raises `GRPCError` when there is none."""
        callee, app = await self._find(call)
        policy = self._invoker.policy(callee.target)
        headers = self._headers(call, callee, trace)
        started = time.monotonic()
        if policy is not None and call.get("dapr-stream") == "true":
            relay = _Relay(call, app, headers, None)
            begin: Callable[[], Awaitable[None]] = partial(policy.run, relay.open)
        else:
            relay = _Relay(call, app, headers, policy)
            begin = partial(self._invoker.connecting, callee, relay.open)
        code = codes.UNKNOWN
        try:
            code = await self._pass(relay, begin)
        except GRPCError as error:
            code = error.status.value
            raise
        except trio.Cancelled:
            code = codes.CANCELLED
            raise
        finally:
            relay.close(code)
            if not callee.own:
                self._invoker.answered(callee.peer, str(code), "streaming", started)
        return code

    async def _pass(self, relay: _Relay, begin: Callable[[], Awaitable[None]]) -> int:
        """One call to its end. What happened at the app's side and was not said yet is told to the caller here."""
        try:
            if relay.policy is not None:
                return await relay.policy.run(relay.attempt)
            await begin()
            return await relay.run()
        except _Failed as failed:
            return relay.tell(failed)
        except Http2Error:
            raise  # the caller is gone
        except CallTimeout as error:
            raise GRPCError(Status.DEADLINE_EXCEEDED, str(error)) from error
        except AppUnhealthy as error:
            raise GRPCError(Status.INTERNAL, str(error)) from error
        except DriverError as error:
            raise GRPCError(Status.UNAVAILABLE, str(error)) from error

    async def _find(self, call: ServerCall) -> tuple[Callee, GrpcApp]:
        target = target_of(call.raw_headers)
        if not target:
            raise GRPCError(Status.UNKNOWN, NO_TARGET)
        try:
            callee = await self._invoker.find(target)
        except DriverError as error:
            raise GRPCError(Status.UNKNOWN, f"failed to proxy request: {error}") from error
        if not callee.own:
            started = time.monotonic()
            detail = self._invoker.refusal(callee.peer, normalised(call.path), "NONE", "streaming")
            if detail:
                self._invoker.answered(callee.peer, str(codes.PERMISSION_DENIED), "streaming", started)
                raise GRPCError(Status.PERMISSION_DENIED, detail)
        app = callee.peer.grpc
        if app is None:
            reason = "was started without --app-port" if callee.peer.channel is None else "does not speak gRPC"
            raise GRPCError(Status.FAILED_PRECONDITION, f"app channel is not configured: app {target} {reason}")
        return callee, app

    def _headers(self, call: ServerCall, callee: Callee, trace: Trace) -> list[Header]:
        """What the app is told: the caller's metadata as it came, and beside it what is ours to say."""
        dropped = _OWN_AND_TRACE if trace.traceparent else _OWN
        headers = [field for field in call.raw_headers if field[0] not in dropped and field[0][:1] != b":"]
        headers += self._invoker.introduction(callee, forwarded=False)
        if trace.traceparent:
            headers += trace_headers(trace)
        return headers


def target_of(headers: Headers) -> str:
    """The app that the call is for; empty when nothing names one."""
    target = b""
    for name, value in headers:
        if name == b"dapr-callee-app-id" and value:
            return value.decode("utf-8", "replace")
        if name == b"dapr-app-id" and not target:
            target = value
    return target.decode("utf-8", "replace")


def normalised(path: str) -> str:
    """The method as access control knows it. Raises `GRPCError` for what no method is called."""
    method = clean(path.encode("utf-8", "surrogateescape"))
    try:
        encode(method)
    except ValueError as error:
        raise GRPCError(Status.INVALID_ARGUMENT, f"invalid method {path!r}: {error}") from None
    return "/" + method.decode("utf-8", "replace")


def trace_headers(trace: Trace) -> list[Header]:
    """The trace in all the forms that apps read."""
    headers = [(b"traceparent", trace.traceparent.encode("latin-1"))]
    if trace.tracestate:
        headers.append((b"tracestate", trace.tracestate.encode("latin-1")))
    headers.append((b"grpc-trace-bin", encode_binary(binary_of(trace.traceparent))))
    return headers


class _Failed(DriverError):
    """The app's side of a call ended otherwise than OK. `head` and `trailers` are its own words not yet passed on."""

    def __init__(self, ending: Ending, head: Headers | None = None, trailers: Headers | None = None) -> None:
        super().__init__(ending.message, code=ending.code)
        self.ending = ending
        self.head = head
        self.trailers = trailers


class _Piece(NamedTuple):
    """Bytes of the request, and whether it ends with them."""

    data: bytes
    last: bool


class _Relay:
    """One call between the caller's stream and the app's. `policy` covers all of it, when there is one."""

    __slots__ = (
        "_app", "_asked", "_begun", "_call", "_caller", "_down", "_headers", "_held", "_kept", "_left", "_over",
        "_received", "_refusal", "_retries", "_sent", "_started", "_stream", "_up", "policy",
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
        limit = call.message_bytes_max
        if app.message_bytes_max is not None:
            limit = min(limit, app.message_bytes_max)
        self._up = Boundaries(limit)
        self._down = Boundaries(limit)
        self._kept: list[_Piece] | None = [] if self._retries else None  # the request, for another attempt
        self._left: list[_Piece] = []  # taken from the caller and not sent yet, or to be sent again
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
        self._down.messages = 0
        code = codes.CANCELLED
        await self.open()
        try:
            code = await self.run()
        except _Failed as error:
            code = error.ending.code
            error.unrepeatable = self._begun or (bool(self._sent) and self._kept is None)
            raise
        finally:
            self.close(code)
        return code

    async def run(self) -> int:
        """Pass request and answer on; the code of the answer. Raises `_Failed` where that must be told by us."""
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

    def _next_piece(self) -> _Piece | None:
        """What of the request is here, or None when that is nothing."""
        if self._left:
            return self._left.pop(0)
        data = self._caller.take()
        return None if data == b"" else self._taken(data)

    def _taken(self, data: bytes | None) -> _Piece:
        """The caller's next bytes, None at its end, looked at before they go on."""
        last = data is None or self._caller.take() is None
        piece = _Piece(data or b"", last)
        _follow(self._up, piece.data)
        self._sent += len(piece.data)
        if last:
            self._asked = True
            self._call.peer_has_ended()
        if self._retries:
            self._keep(piece)
        return piece

    def _keep(self, piece: _Piece) -> None:
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
            raise _Failed(_ending_of(error)) from error
        broken = ending_from_head(head)
        if broken is not None:
            raise _Failed(ending_from_trailers(head) or broken)
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
                raise _Failed(_ending_of(error)) from error
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
            raise _Failed(_NO_STATUS)
        if ending.code and self.policy is not None:
            raise _Failed(ending, head, trailers)
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

    def tell(self, failed: _Failed) -> int:
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
