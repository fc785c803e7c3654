"""gRPC calls on the streams of an HTTP/2 server: what `net/http2` gives, a handler gets as a `ServerCall`.

Plan: the head of a stream is checked as grpc-go checks it, in its order and with its words, because that is what Dapr's
clients meet. A unary call whose request came whole takes no wait: `request_now`, then `reply`, which leaves headers,
message and trailers behind in one turn. A deadline is set on the scope that the stream has anyway, so that it ends the
handler as a reset does. Whatever goes wrong in a call becomes its status and stays there.
"""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

import trio
from google.protobuf.message import DecodeError, EncodeError
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from edge_runtime.model.errors import leaves
from edge_runtime.net.grpc.limits import GrpcLimits
from edge_runtime.net.http2 import Http2Error
from edge_runtime.wire.grpc import status as codes
from edge_runtime.wire.grpc.frames import BadFrame, FrameReader, MessageTooLarge, encode_frame
from edge_runtime.wire.grpc.gzips import BadGzip, inflate
from edge_runtime.wire.grpc.metadata import (
    BadBinary,
    Field,
    decode_metadata,
    decode_values,
    encode_binary,
    encode_metadata,
)
from edge_runtime.wire.grpc.timeouts import decode_timeout

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from grpclib.const import Handler

    from edge_runtime.net.http2 import Stream

__all__ = ["GrpcLimits", "GrpcServer", "ServerCall"]

_logger = logging.getLogger("dapr.runtime.grpc")

_CONTENT_TYPE: Final = b"application/grpc"
_HEADERS: Final[list[Field]] = [(b":status", b"200"), (b"content-type", _CONTENT_TYPE)]
_OK_TRAILERS: Final[list[Field]] = [(b"grpc-status", b"0")]
_ACCEPT: Final[Field] = (b"grpc-accept-encoding", b"identity,gzip")
_FIELD_OVERHEAD: Final = 32  # what HTTP/2 counts for a field beside its name and value
_ABORT_BYTES_MAX: Final = 4096  # of the message
_TURN: Final = 63  # messages, and one more
_HEAD_BYTES: Final = 128  # `:status` and `content-type`
_DEADLINE_EXCEEDED: Final = "context deadline exceeded"
_INTERNAL: Final = "internal server error"

Pairs = Iterable[tuple[str, str | bytes]]


class _UnknownEncoding(GRPCError):
    """A message is compressed in a way that we have not."""

    def __init__(self, encoding: bytes) -> None:
        shown = encoding.decode("utf-8", "replace")
        super().__init__(Status.UNIMPLEMENTED, f'grpc: Decompressor is not installed for grpc-encoding "{shown}"')


class ServerCall:
    """One call as its handler sees it; the `stream` of a generated service."""

    __slots__ = (
        "_ended",
        "_fields",
        "_headers_sent",
        "_limits",
        "_messages_sent",
        "_metadata",
        "_one_reply",
        "_one_request",
        "_peer_ended",
        "_reader",
        "_received",
        "_reply_type",
        "_request_type",
        "_stream",
        "_turns",
        "_unsent",
        "deadline",
        "path",
    )

    def __init__(self, stream: Stream, fields: dict[bytes, bytes], path: str, limits: GrpcLimits) -> None:
        self.path = path
        self.deadline: float | None = None  # by trio's clock
        self._stream = stream
        self._fields = fields
        self._limits = limits
        self._metadata: list[tuple[str, str | bytes]] | None = None
        self._reader: FrameReader | None = None
        self._request_type: Any = None
        self._reply_type: Any = None
        self._one_request = False
        self._one_reply = False
        self._received = 0  # messages
        self._messages_sent = 0
        self._peer_ended = False
        self._headers_sent = False
        self._ended = False  # the status is sent, or waits behind `_unsent`
        self._turns: trio.Lock | None = None  # while a message waits for the peer's window
        self._unsent: tuple[bytes, list[Field]] | None = None

    # --- the caller -------------------------------------------------------------------------------------------------

    @property
    def metadata(self) -> list[tuple[str, str | bytes]]:
        """What the caller sent beside gRPC's own fields, in order, names in lower case."""
        if self._metadata is None:
            self._metadata = decode_metadata(self._stream.headers)
        return self._metadata

    @metadata.setter
    def metadata(self, metadata: list[tuple[str, str | bytes]]) -> None:
        self._metadata = metadata

    def get(self, name: str) -> str | bytes | None:
        """The first value of a lower-case name; bytes when the name ends in `-bin`."""
        key = name.encode()
        value = self._fields.get(key)
        if value is None:
            return None
        return decode_values(key, value)[0] if key[-4:] == b"-bin" else value.decode("utf-8", "surrogateescape")

    @property
    def raw_headers(self) -> Sequence[Field]:
        """Every header field as it came."""
        return self._stream.headers

    @property
    def encoding(self) -> bytes | None:
        """The caller's `grpc-encoding`."""
        return self._fields.get(b"grpc-encoding")

    @property
    def authority(self) -> str:
        value = self._fields.get(b":authority") or self._fields.get(b"host") or b""
        return value.decode("utf-8", "replace")

    @property
    def peer(self) -> str:
        return self._stream.peer

    @property
    def ended(self) -> bool:
        """True when the status is decided; nothing more can be sent."""
        return self._ended

    def bind(self, handler: Handler) -> None:
        """What the call's messages are."""
        self._request_type = handler.request_type
        self._reply_type = handler.reply_type
        self._one_request = not handler.cardinality.client_streaming
        self._one_reply = not handler.cardinality.server_streaming

    # --- requests ---------------------------------------------------------------------------------------------------

    def request_now(self) -> Message | None:
        """The request of a unary call when all of it is here, else None: `recv_message` waits for it."""
        data = self._stream.take()
        if not data:
            self._peer_ended = data is None
            return None
        rest = self._stream.take()
        self._peer_ended = rest is None
        length = int.from_bytes(data[1:5], "big")
        if rest is not None or data[0] or len(data) != length + 5 or length > self._limits.receive_max:
            self._reader = reader = FrameReader(self._limits.receive_max)
            reader.feed(data)
            reader.feed(rest or b"")
            return None
        self._received = 1
        return self._parse(data[5:])

    async def recv_message(self) -> Any:
        """The next message, or None at the end. A method with one request checks that it is one."""
        if self._one_request:
            return await self._only_message()
        frame = await self.recv_raw()
        return None if frame is None else self._decode(frame)

    async def _only_message(self) -> Message | None:
        if self._received:
            return None
        frame = await self.recv_raw()
        if frame is None:
            raise GRPCError(
                Status.INTERNAL,
                "cardinality violation: received no request message from non-client-streaming RPC",
            )
        message = self._decode(frame)
        if await self.recv_raw() is not None:
            raise GRPCError(
                Status.INTERNAL,
                "cardinality violation: received multiple request messages for non-client-streaming RPC",
            )
        return message

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        message = await self.recv_message()
        if message is None:
            raise StopAsyncIteration
        return message

    async def recv_raw(self) -> tuple[bool, bytes] | None:
        """The next message as it came, with whether it is compressed; None at the end."""
        reader = self._reader
        if reader is None:
            reader = self._reader = FrameReader(self._limits.receive_max)
        if self._received & _TURN == _TURN:  # many small messages come at once, and others have to have their turn
            await trio.lowlevel.checkpoint()
        try:
            while True:
                frame = reader.next_frame()
                if frame is not None:
                    self._received += 1
                    return frame
                if self._peer_ended:
                    break
                data = await self._stream.receive()
                if data is None:
                    self._peer_ended = True
                else:
                    reader.feed(data)
        except MessageTooLarge as error:
            raise GRPCError(Status.RESOURCE_EXHAUSTED, str(error)) from None
        except BadFrame as error:
            raise GRPCError(Status.INTERNAL, str(error)) from None
        if not reader.empty:
            raise GRPCError(Status.INTERNAL, "unexpected EOF")
        return None

    def _decode(self, frame: tuple[bool, bytes]) -> Message:
        compressed, data = frame
        return self._parse(self._inflate(data) if compressed else data)

    def _inflate(self, data: bytes) -> bytes:
        encoding = self._fields.get(b"grpc-encoding", b"identity")
        if encoding == b"identity" or not encoding:
            raise GRPCError(Status.INTERNAL, "grpc: compressed flag set with identity or empty encoding")
        if encoding != b"gzip":
            raise _UnknownEncoding(encoding)
        try:
            return inflate(data, self._limits.receive_max)
        except MessageTooLarge as error:
            raise GRPCError(Status.RESOURCE_EXHAUSTED, str(error)) from None
        except BadGzip as error:
            raise GRPCError(Status.INTERNAL, f"grpc: failed to decompress the received message: {error}") from None

    def _parse(self, data: bytes) -> Message:
        try:
            message: Message = self._request_type.FromString(data)
        except DecodeError as error:
            raise GRPCError(Status.INTERNAL, f"grpc: error unmarshalling request: {error}") from None
        return message

    # --- replies ----------------------------------------------------------------------------------------------------

    def reply(self, message: Message, initial: Pairs = (), trailing: Pairs = ()) -> None:
        """The whole answer of a unary call: headers, message and status OK, without waiting.

        What finds no room in the peer's window leaves when the handler has returned.
        """
        frame = encode_frame(self._serialize(message))
        trailers = [*_OK_TRAILERS, *encode_metadata(trailing)] if trailing else _OK_TRAILERS
        if not self._headers_sent:
            self._send_headers(initial)
        self._ended = True
        self._messages_sent += 1
        if self._stream.try_send_data(frame):
            self._stream.send_headers(trailers, True)
        else:
            self._unsent = (frame, trailers)

    async def send_initial_metadata(self, metadata: Pairs = (), *, encoding: bytes | None = None) -> None:
        """Headers, before the first message or the end; never waits. `encoding` is what raw messages come in."""
        if self._headers_sent:
            raise RuntimeError("the initial metadata of this call is sent already")
        self._send_headers(metadata, encoding)

    def _send_headers(self, metadata: Pairs, encoding: bytes | None = None) -> None:
        headers = self._head()
        if metadata or encoding:
            headers = [*headers, *encode_metadata(metadata)]
            if encoding:
                headers.append((b"grpc-encoding", encoding))
        self._headers_sent = True
        self._stream.send_headers(headers)

    def _head(self) -> list[Field]:
        """`content-type` is answered as it was asked, subtype included."""
        content_type = self._fields[b"content-type"]
        return _HEADERS if content_type == _CONTENT_TYPE else [_HEADERS[0], (b"content-type", content_type)]

    async def send_message(self, message: Message) -> None:
        """One message; waits while the peer takes no more. Headers go before the first. Any task may send."""
        await self.send_raw(False, self._serialize(message))

    async def send_raw(self, compressed: bool, data: bytes) -> None:
        """The same for bytes that are a message already."""
        if self._ended:
            raise RuntimeError("the status of this call is sent already")
        if not self._headers_sent:
            self._send_headers(())
        self._messages_sent += 1
        frame = encode_frame(data, compressed)
        if self._turns is not None or not self._stream.try_send_data(frame):
            await self._send_in_turn(frame)

    async def _send_in_turn(self, frame: bytes) -> None:
        """Behind those who wait already: a message must not come to stand within another."""
        turns = self._turns
        if turns is None:
            turns = self._turns = trio.Lock()
        async with turns:
            await self._stream.send_data(frame)
        if not turns.locked():
            self._turns = None

    def _serialize(self, message: Message) -> bytes:
        try:
            data: bytes = message.SerializeToString()
        except (EncodeError, ValueError) as error:
            raise GRPCError(Status.INTERNAL, f"grpc: error while marshaling: {error}") from None
        if len(data) > self._limits.send_max:
            text = f"grpc: trying to send message larger than max ({len(data)} vs. {self._limits.send_max})"
            raise GRPCError(Status.RESOURCE_EXHAUSTED, text)
        return data

    async def send_trailing_metadata(
        self, status: Status = Status.OK, message: str = "", details: bytes | None = None, metadata: Pairs = ()
    ) -> None:
        """The status, and with it the end; never waits. Without headers before it, it goes out with them as one."""
        self.finish(status.value, message, details, metadata)

    def finish(self, code: int, message: str = "", details: bytes | None = None, metadata: Pairs = ()) -> None:
        """The same for a code that may be none of gRPC's own."""
        if self._ended:
            raise RuntimeError("the status of this call is sent already")
        self._end(code, message, details, encode_metadata(metadata))

    def _end(self, code: int, message: str, details: bytes | None, fields: list[Field]) -> None:
        if code or message or fields:
            trailers = _trailers(code, message, details, fields, self._trailer_room())
        else:
            trailers = _OK_TRAILERS
        self._ended = True
        if not self._headers_sent:
            self._headers_sent = True
            trailers = [*self._head(), *trailers]
        self._stream.send_headers(trailers, True)

    def _trailer_room(self) -> int:
        """Bytes for the status: of what the peer takes at once, without what a head has that goes with it."""
        most = self._limits.trailer_bytes_max
        peer_most = self._stream.header_list_bytes_max
        return (most if peer_most is None or peer_most > most else peer_most) - _HEAD_BYTES

    # --- passing on, for who does not look at messages ----------------------------------------------------------------

    @property
    def raw_stream(self) -> Stream:
        """The stream itself. Who uses it takes the caller's bytes there, and sends headers with `pass_headers`."""
        return self._stream

    @property
    def message_bytes_max(self) -> int:
        return self._limits.receive_max

    def peer_has_ended(self) -> None:
        """All of the caller's bytes were taken."""
        self._peer_ended = True

    def pass_headers(self, fields: Sequence[Field], end: bool = False) -> None:
        """Header fields as another server said them: the first block, or with `end` the last; never waits."""
        self._headers_sent = True
        self._ended = end
        self._stream.send_headers([*fields], end)

    # --- for the server ---------------------------------------------------------------------------------------------

    async def complete(self) -> None:
        """The handler has returned: send what waits, or the status that it left out."""
        if self._unsent is not None:
            frame, trailers = self._unsent
            await self._stream.send_data(frame, stall_s=self._limits.reply_stall_s)
            self._unsent = None
            self._stream.send_headers(trailers, True)
        elif not self._ended:
            if self._one_reply and not self._messages_sent:
                _logger.error("the handler of %s returned without a reply", self.path)
                self.finish(codes.INTERNAL, _INTERNAL)
            else:
                self.finish(codes.OK)

    def fail(self, code: int, message: str, details: bytes | None = None, fields: Sequence[Field] = ()) -> None:
        """The call ends so, whatever of its answer was still to come; nothing when all of it is sent."""
        if self._unsent is not None:
            self._unsent = None
            self._ended = False
        if not self._ended:
            self._end(code, message, details, [*fields])


Handle = Callable[[ServerCall], Awaitable[None]]


class GrpcServer:
    """Takes the streams of an HTTP/2 server and has them handled as calls."""

    def __init__(self, handle: Handle, limits: GrpcLimits | None = None) -> None:
        self._handle = handle
        self._limits = limits or GrpcLimits()

    async def on_stream(self, stream: Stream) -> None:
        """One call, from its headers to its status."""
        fields = dict(reversed(stream.headers))  # of a repeated name the first counts
        path = fields.get(b":path", b"")
        call = ServerCall(stream, fields, path.decode("utf-8", "replace"), self._limits)
        try:
            if not _is_plain(fields) and not _check(stream, fields):
                pass
            elif path[:1] != b"/" or path.find(b"/", 1) < 0:
                call.fail(codes.UNIMPLEMENTED, f'malformed method name: "{call.path}"')
            elif b"grpc-timeout" in fields:
                await self._run_until_deadline(call, fields[b"grpc-timeout"])
            else:
                await self._run(call)
        except Http2Error:
            pass  # the caller is gone

    async def _run_until_deadline(self, call: ServerCall, timeout: bytes) -> None:
        try:
            timeout_s = decode_timeout(timeout)
        except ValueError as error:
            _abort(call._stream, 400, codes.INTERNAL, f"malformed grpc-timeout: {error}")
            return
        if not timeout_s:
            call.fail(codes.DEADLINE_EXCEEDED, _DEADLINE_EXCEEDED)
            return
        # The stream has a scope already, that ends with it; one of its own would cost a third of a small call.
        scope = call._stream.scope
        assert scope is not None
        call.deadline = scope.deadline = trio.current_time() + timeout_s
        try:
            await self._run(call)
        finally:
            scope.deadline = math.inf
            if scope.cancel_called and not call._stream.closed:
                call.fail(codes.DEADLINE_EXCEEDED, _DEADLINE_EXCEEDED)

    async def _run(self, call: ServerCall) -> None:
        try:
            await self._handle(call)
            if call._unsent is not None or not call._ended:
                await call.complete()
        except GRPCError as error:
            _fail(call, error)
        except Exception as error:
            # Once a call: a handler's error is that call's status and nobody else's.
            self._fail_by(call, error)

    def _fail_by(self, call: ServerCall, error: Exception) -> None:
        causes = leaves(error)
        for cause in causes:
            if isinstance(cause, GRPCError):
                _fail(call, cause)
                return
        if call._stream.closed and all(isinstance(cause, Http2Error) for cause in causes):
            return  # the caller is gone, or has given the call up
        _logger.error("the handler of %s failed", call.path, exc_info=error)
        call.fail(codes.UNKNOWN, _INTERNAL)


def _is_plain(fields: dict[bytes, bytes]) -> bool:
    """True for the head that nearly every call has, of which no field need be looked at."""
    if fields.get(b"content-type") != _CONTENT_TYPE or fields.get(b":method") != b"POST":
        return False
    return b"-bin" not in b" ".join(fields)


def _check(stream: Stream, fields: dict[bytes, bytes]) -> bool:
    """What is no gRPC is refused with an HTTP status and, for those who can read it, a gRPC one."""
    content_type = fields.get(b"content-type", b"")
    if not codes.is_grpc(content_type):
        shown = content_type.decode("utf-8", "replace")
        _abort(stream, 415, codes.INVALID_ARGUMENT, f'invalid gRPC request content-type "{shown}"')
        return False
    try:
        for name, value in stream.headers:
            if name[-4:] == b"-bin":
                decode_values(name, value)
    except BadBinary as error:
        _abort(stream, 400, codes.INTERNAL, str(error))
        return False
    method = fields.get(b":method", b"")
    if method != b"POST":
        shown = method.decode("utf-8", "replace")
        _abort(stream, 405, codes.INTERNAL, f'Received a HEADERS frame with :method "{shown}" which should be POST')
        return False
    return True


def _abort(stream: Stream, http_status: int, code: int, message: str) -> None:
    """Refuse what is no call."""
    status = [(b"grpc-status", b"%d" % code), (b"grpc-message", codes.encode_message(message, _ABORT_BYTES_MAX))]
    stream.send_headers([(b":status", b"%d" % http_status), _HEADERS[1], *status], True)


def _fail(call: ServerCall, error: GRPCError) -> None:
    if call._ended and call._unsent is None:
        _logger.error("the handler of %s failed after its reply: %s", call.path, error)
        return
    details = error.details if isinstance(error.details, bytes) else None
    call.fail(
        error.status.value, error.message or "", details, [_ACCEPT] if isinstance(error, _UnknownEncoding) else ()
    )


def _trailers(code: int, message: str, details: bytes | None, fields: list[Field], bytes_max: int) -> list[Field]:
    """The status as header fields. What would not fit is left out: first the details, then the end of the message."""
    room = bytes_max - 2 * _FIELD_OVERHEAD - len(b"grpc-statusgrpc-message") - 2
    trailers: list[Field] = [(b"grpc-status", b"%d" % code)]
    if details:
        encoded = encode_binary(details)
        size = _FIELD_OVERHEAD + len(b"grpc-status-details-bin") + len(encoded)
        if size <= room:
            room -= size
            fields = [(b"grpc-status-details-bin", encoded), *fields]
    if message:
        trailers.append((b"grpc-message", codes.encode_message(message, room)))
    trailers += fields
    return trailers
