"""gRPC calls over one HTTP/2 connection to one origin, made with the first call and made again when it is lost.

A call is sent twice only when the peer surely never saw it: it refused the stream, or said with GOAWAY that it stopped
before it. Calls that find no connection share one attempt to connect. A unary call without a time limit has no timer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, Generic, NamedTuple, TypeVar

import trio
from google.protobuf.message import DecodeError

from edge_runtime import __version__
from edge_runtime.model.errors import DriverError
from edge_runtime.net.connections import CONNECT_TIMEOUT_S, ConnectFailed, open_connection
from edge_runtime.net.grpc.limits import GrpcLimits
from edge_runtime.net.http2 import Http2Error, Http2Limits, StreamReset, open_http2_client
from edge_runtime.net.lifetimes import open_with_tasks
from edge_runtime.wire.grpc import status as codes
from edge_runtime.wire.grpc.frames import BadFrame, FrameReader, MessageTooLarge, encode_frame
from edge_runtime.wire.grpc.gzips import BadGzip, inflate
from edge_runtime.wire.grpc.metadata import BadBinary, Field, decode_metadata, encode_metadata
from edge_runtime.wire.grpc.status import Ending
from edge_runtime.wire.grpc.timeouts import encode_timeout

if TYPE_CHECKING:
    import ssl

    from google.protobuf.message import Message

    from edge_runtime.net.connections import Dial, Origin
    from edge_runtime.net.http2 import Http2Client, Stream

M = TypeVar("M", bound="Message")
Pairs = Iterable[tuple[str, str | bytes]]
Metadata = Sequence[tuple[str, str | bytes]]

_CANCEL: Final = 8
_TURN: Final = 63  # messages, and one more
_NO_ERROR: Final = 0
# Before a call is sent again that was surely not processed: a server may refuse a stream when it has just ended one.
_PAUSES_S: Final = (0.001, 0.005, 0.025, 0.125)
_HEADS_MAX: Final = 256  # paths whose headers are kept ready
_KEPT_PATH_MAX: Final = 256  # characters; a longer one is some caller's choice
_USER_AGENT: Final = f"edge-runtime/{__version__}".encode()
_LATE: Final = Ending(codes.DEADLINE_EXCEEDED, "context deadline exceeded")
_NO_TRAILERS: Final = Ending(codes.INTERNAL, "server closed the stream without sending trailers")
_NO_REPLY: Final = Ending(
    codes.INTERNAL, "cardinality violation: received no response message from non-server-streaming RPC"
)
_MORE_REPLIES: Final = Ending(
    codes.INTERNAL, "cardinality violation: expected <EOF> for non server-streaming RPCs, but received another message"
)


class Reply(NamedTuple, Generic[M]):
    """The answer of a unary call that went well."""

    message: M
    initial: Metadata
    trailing: Metadata


class RpcError(DriverError):
    """A call ended with a status other than OK, said by the peer or found out here.

    `code` is the gRPC code; `details` is a serialized google.rpc.Status, empty when there is none.
    """

    code: int

    def __init__(self, ending: Ending, initial: Metadata = (), trailing: Metadata = ()) -> None:
        super().__init__(f"rpc error: code = {codes.code_name(ending.code)} desc = {ending.message}", code=ending.code)
        self.message = ending.message
        self.details = ending.details
        self.initial = initial
        self.trailing = trailing


class _Line:
    """A connection with the calls that are on it, or the attempt to make one."""

    __slots__ = ("calls", "connection", "failure", "ready")

    def __init__(self) -> None:
        self.connection: Http2Client | None = None
        self.failure = ""
        self.ready = trio.Event()
        self.calls = 0

    @property
    def usable(self) -> bool:
        return self.connection is not None and self.connection.usable

    def leave(self) -> None:
        """A call is over. With the last one a connection ends that takes no more."""
        self.calls -= 1
        if not self.calls and self.connection is not None and not self.connection.usable:
            self.connection.end("the connection takes no more calls")


class GrpcClient:
    """Calls one origin; made by `open_grpc_client`."""

    def __init__(
        self,
        origin: Origin,
        tls: ssl.SSLContext | None,
        limits: GrpcLimits,
        http2_limits: Http2Limits,
        connect_timeout_s: float,
        dial: Dial,
        nursery: trio.Nursery,
    ) -> None:
        self._origin = origin
        self._tls = tls
        self._limits = limits
        self._http2_limits = http2_limits
        self._connect_timeout_s = connect_timeout_s
        self._dial = dial
        self._nursery = nursery
        self._line: _Line | None = None
        self._heads: dict[str, list[Field]] = {}
        self._closed = False

    @property
    def connected(self) -> bool:
        return self._line is not None and self._line.usable

    async def unary(
        self,
        path: str,
        request: Message | bytes,
        reply_type: type[M],
        *,
        metadata: Pairs = (),
        timeout_s: float | None = None,
    ) -> Reply[M]:
        """One message for one message. Raises `RpcError`, or `ConnectFailed` when there is no connection."""
        frame = encode_frame(self._serialized(request))
        head = self._head(path, metadata, timeout_s)
        if timeout_s is None:
            return await self._unary(head, frame, reply_type)
        with trio.move_on_after(timeout_s):
            return await self._unary(head, frame, reply_type)
        raise RpcError(_LATE)

    @asynccontextmanager
    async def open_call(
        self,
        path: str,
        metadata: Pairs = (),
        timeout_s: float | None = None,
        *,
        encoding: bytes | None = None,
        accept_encoding: bytes | None = None,
    ) -> AsyncIterator[ClientCall]:
        """A call of any kind for as long as the block lasts; one that has not ended by then is cancelled.

        Raises `ConnectFailed`, and `RpcError` when the time is over.
        """
        head = self._head(path, metadata, timeout_s)
        if encoding is not None:
            head = [*head, (b"grpc-encoding", encoding)]
        if accept_encoding is not None:
            head = [*head, (b"grpc-accept-encoding", accept_encoding)]
        with trio.CancelScope() as scope:
            if timeout_s is not None:
                scope.deadline = trio.current_time() + timeout_s
            line, stream = await self._open_stream(head)
            call = ClientCall(stream, self._limits.receive_max)
            try:
                yield call
            finally:
                call.close()
                line.leave()
        if scope.cancelled_caught:
            raise RpcError(_LATE)

    async def open_stream(self, path: str, fields: Sequence[Field]) -> tuple[Stream, Callable[[], None]]:
        """A stream for who passes on what another caller says: the path, and header fields as they came.

        The function must be called once the call is over. Raises `RpcError`, or `ConnectFailed`.
        """
        line, stream = await self._open_stream([*(self._heads.get(path) or self._new_head(path))[:4], *fields])
        return stream, line.leave

    def close(self) -> None:
        """Makes no further connection."""
        self._closed = True

    # --- requests ---------------------------------------------------------------------------------------------------

    def _head(self, path: str, metadata: Pairs, timeout_s: float | None) -> list[Field]:
        head = self._heads.get(path)
        if head is None:
            head = self._new_head(path)
        if timeout_s is not None:
            head = [*head, (b"grpc-timeout", encode_timeout(timeout_s))]
        return [*head, *encode_metadata(metadata)] if metadata else head

    def _new_head(self, path: str) -> list[Field]:
        head = [
            (b":method", b"POST"),
            (b":scheme", b"http" if self._tls is None else b"https"),
            (b":path", path.encode()),
            (b":authority", self._origin.authority.encode()),
            (b"content-type", b"application/grpc"),
            (b"user-agent", _USER_AGENT),
            (b"te", b"trailers"),
        ]
        if len(path) <= _KEPT_PATH_MAX:
            if len(self._heads) >= _HEADS_MAX:
                self._heads.clear()
            self._heads[path] = head
        return head

    def _serialized(self, request: Message | bytes) -> bytes:
        data: bytes = request if isinstance(request, bytes) else request.SerializeToString()
        if len(data) > self._limits.send_max:
            text = f"trying to send message larger than max ({len(data)} vs. {self._limits.send_max})"
            raise RpcError(Ending(codes.RESOURCE_EXHAUSTED, text))
        return data

    async def _unary(self, head: list[Field], frame: bytes, reply_type: type[M]) -> Reply[M]:
        pauses = iter(_PAUSES_S)
        while True:
            line, stream = await self._open_stream(head)
            try:
                return await _exchange(stream, frame, reply_type, self._limits.receive_max)
            except Http2Error as error:
                pause_s = next(pauses, None)
                if pause_s is None or not error.unprocessed:
                    raise RpcError(_ending_of(error)) from error
            except BaseException:
                stream.reset(_CANCEL)
                raise
            finally:
                line.leave()
            await trio.sleep(pause_s)

    # --- the connection ---------------------------------------------------------------------------------------------

    async def _open_stream(self, head: list[Field]) -> tuple[_Line, Stream]:
        attempts = len(_PAUSES_S)
        while True:
            attempts -= 1
            line = self._line
            if line is None or not line.usable:
                line = await self._connected_line()
            connection = line.connection
            assert connection is not None
            line.calls += 1
            try:
                return line, await connection.open_stream(head)
            except Http2Error as error:
                line.leave()
                if not attempts or not error.unprocessed:
                    raise RpcError(_ending_of(error)) from error
            except BaseException:
                line.leave()
                raise

    async def _connected_line(self) -> _Line:
        """A line with a connection. Whoever comes first starts to connect; all that come meanwhile wait with it."""
        line = self._line
        if line is None or line.ready.is_set():
            if self._closed:  # nobody would be left to end it
                raise ConnectFailed(f"{self._origin}: the sidecar no longer calls there")
            line = self._line = _Line()
            self._nursery.start_soon(self._hold, line)
        await line.ready.wait()
        if line.connection is None:
            raise ConnectFailed(line.failure)
        return line

    async def _hold(self, line: _Line) -> None:
        """Connects, and keeps the connection until it is of no more use."""
        try:
            async with open_http2_client(
                self._origin, self._tls, self._http2_limits, timeout_s=self._connect_timeout_s, dial=self._dial
            ) as connection:
                # Not before the peer has said how many streams it takes: what it refuses costs more than this wait.
                await connection.settled.wait()
                if connection.lost is not None:
                    raise ConnectFailed(
                        f"{self._origin}: error reading server preface: {connection.lost}; does it speak gRPC?"
                    )
                line.connection = connection
                line.ready.set()
                await connection.gone.wait()
        except (ConnectFailed, Http2Error) as error:
            line.failure = str(error)
        finally:
            line.ready.set()


class ClientCall:
    """A call of any kind in raw messages. When `recv_raw` has said None, `status` and what belongs to it are known."""

    __slots__ = ("_ending", "_initial", "_reader", "_received", "_stream", "_trailing", "_writable")

    def __init__(self, stream: Stream, message_bytes_max: int) -> None:
        self._stream = stream
        self._reader = FrameReader(message_bytes_max)
        self._initial: Metadata | None = None
        self._trailing: Metadata = ()
        self._ending: Ending | None = None
        self._received = 0  # messages
        self._writable = True

    @property
    def status(self) -> int | None:
        """The gRPC code; None while the call goes on."""
        return None if self._ending is None else self._ending.code

    @property
    def message(self) -> str:
        return "" if self._ending is None else self._ending.message

    @property
    def details(self) -> bytes:
        """A serialized google.rpc.Status, empty when there is none."""
        return b"" if self._ending is None else self._ending.details

    @property
    def trailing(self) -> Metadata:
        return self._trailing

    @property
    def encoding(self) -> bytes | None:
        """The peer's `grpc-encoding`, once `initial` is there."""
        return next((value for name, value in self._stream.headers if name == b"grpc-encoding"), None)

    async def send_raw(self, compressed: bool, data: bytes) -> bool:
        """One message; waits while the peer takes no more. False: it listens no longer, and its status says why."""
        return await self._send(encode_frame(data, compressed), False)

    async def end(self) -> None:
        """No further message will be sent."""
        await self._send(b"", True)
        self._writable = False

    async def _send(self, data: bytes, end: bool) -> bool:
        if not self._writable:
            return False
        try:
            if not self._stream.try_send_data(data, end):
                await self._stream.send_data(data, end)
        except Http2Error:
            self._writable = False
        return self._writable

    async def initial(self) -> Metadata:
        """The peer's first headers; empty when the call failed without any."""
        if self._initial is None:
            self._initial = ()
            try:
                await self._stream.response()
                ending = _refusal(self._stream.headers)
                if ending is None:
                    self._initial = decode_metadata(self._stream.headers)
                else:
                    self._end(ending, self._stream.headers)
            except Http2Error as error:
                self._end(_ending_of(error))
            except BadBinary as error:
                self._end(Ending(codes.INTERNAL, str(error)))
        return self._initial

    async def recv_raw(self) -> tuple[bool, bytes] | None:
        """The next message with whether it is compressed; None at the end."""
        if self._initial is None:
            await self.initial()
        if self._received & _TURN == _TURN:  # many small messages come at once, and others have to have their turn
            await trio.lowlevel.checkpoint()
        while self._ending is None:
            try:
                frame = self._reader.next_frame()
                if frame is not None:
                    self._received += 1
                    return frame
                data = await self._stream.receive()
                if data is None:
                    self._finish()
                else:
                    self._reader.feed(data)
            except Http2Error as error:
                self._end(_ending_of(error))
            except MessageTooLarge as error:
                self._end(Ending(codes.RESOURCE_EXHAUSTED, str(error)))
            except BadFrame as error:
                self._end(Ending(codes.INTERNAL, str(error)))
        return None

    def _finish(self) -> None:
        """The peer has said all."""
        ending, fields = _ending_fields(self._stream)
        if not self._reader.empty:
            ending = Ending(codes.INTERNAL, "unexpected EOF")
        self._end(ending, fields)

    def _end(self, ending: Ending, fields: Iterable[Field] = ()) -> None:
        try:
            self._trailing = decode_metadata(fields)
        except BadBinary as error:
            ending = Ending(codes.INTERNAL, str(error))
        self._ending = ending

    def close(self) -> None:
        """Gives the stream up unless both sides have ended it, and what nobody has taken of it."""
        self._stream.reset(_CANCEL)


async def _exchange(stream: Stream, frame: bytes, reply_type: type[M], message_bytes_max: int) -> Reply[M]:
    """A unary call on its own stream."""
    if stream.try_send_data(frame, True):
        return await _answer(stream, reply_type, message_bytes_max)
    failure: DriverError | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_send_beside, stream, frame)
        try:
            reply = await _answer(stream, reply_type, message_bytes_max)
        except DriverError as error:
            failure = error  # raised behind the nursery, which would wrap it
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    stream.reset(_NO_ERROR)  # when the answer needed no more of the request
    return reply


async def _send_beside(stream: Stream, frame: bytes) -> None:
    """Send what needs more than one window, while the answer may be coming, perhaps because it is too much."""
    try:
        await stream.send_data(frame, True)
    except Http2Error:
        pass  # who waits for the answer hears of it


async def _answer(stream: Stream, reply_type: type[M], message_bytes_max: int) -> Reply[M]:
    await stream.response()
    headers = stream.headers
    refusal = _refusal(headers)
    if refusal is not None:
        stream.reset(_CANCEL)
        raise RpcError(refusal, (), _metadata(headers))
    data = await _read_message(stream, message_bytes_max)
    ending, trailers = _ending_fields(stream)
    trailing = _metadata(trailers)
    initial = () if trailers is headers else _metadata(headers)
    if ending.code != codes.OK:
        raise RpcError(ending, initial, trailing)
    if data is None:
        raise RpcError(_NO_REPLY, initial, trailing)
    compressed, body = data
    if compressed:
        body = _inflated(body, headers, message_bytes_max)
    try:
        return Reply(reply_type.FromString(body), initial, trailing)
    except DecodeError as error:
        text = f"grpc: failed to unmarshal the received message: {error}"
        raise RpcError(Ending(codes.INTERNAL, text), initial, trailing) from None


async def _read_message(stream: Stream, message_bytes_max: int) -> tuple[bool, bytes] | None:
    """The one message of an answer, read to the answer's end; None when it has none."""
    reader = FrameReader(message_bytes_max)
    found: tuple[bool, bytes] | None = None
    try:
        while True:
            data = await stream.receive()
            if data is None:
                break
            reader.feed(data)
            while (frame := reader.next_frame()) is not None:
                if found is not None:
                    raise RpcError(_MORE_REPLIES)
                found = frame
    except MessageTooLarge as error:
        raise RpcError(Ending(codes.RESOURCE_EXHAUSTED, str(error))) from None
    except BadFrame as error:
        raise RpcError(Ending(codes.INTERNAL, str(error))) from None
    if not reader.empty:
        raise RpcError(Ending(codes.INTERNAL, "unexpected EOF"))
    return found


def _refusal(headers: Sequence[Field]) -> Ending | None:
    """What a first header block says that begins no gRPC answer."""
    ending = codes.ending_from_head(headers)
    if ending is None:
        return None
    return codes.ending_from_trailers(headers) or ending


def _ending_fields(stream: Stream) -> tuple[Ending, Sequence[Field]]:
    """The status of an answer that has ended, and the header block that had it."""
    trailers = stream.trailers
    if trailers is not None:
        return codes.ending_from_trailers(trailers) or Ending(codes.UNKNOWN), trailers
    return codes.ending_from_trailers(stream.headers) or _NO_TRAILERS, stream.headers


def _metadata(fields: Sequence[Field]) -> Metadata:
    try:
        return decode_metadata(fields)
    except BadBinary as error:
        raise RpcError(Ending(codes.INTERNAL, str(error))) from None


def _inflated(body: bytes, headers: Sequence[Field], message_bytes_max: int) -> bytes:
    encoding = next((value for name, value in headers if name == b"grpc-encoding"), b"")
    if encoding in (b"", b"identity"):
        text = "grpc: compressed flag set with identity or empty encoding"
        raise RpcError(Ending(codes.INTERNAL, text))
    if encoding != b"gzip":
        text = f'grpc: Decompressor is not installed for grpc-encoding "{encoding.decode("latin-1")}"'
        raise RpcError(Ending(codes.INTERNAL, text))
    try:
        return inflate(body, message_bytes_max)
    except MessageTooLarge as error:
        raise RpcError(Ending(codes.RESOURCE_EXHAUSTED, str(error))) from None
    except BadGzip as error:
        text = f"grpc: failed to decompress the received message: {error}"
        raise RpcError(Ending(codes.INTERNAL, text)) from None


def _ending_of(error: Http2Error) -> Ending:
    if isinstance(error, StreamReset):
        return codes.ending_from_reset(error.reset_code)
    return Ending(codes.UNAVAILABLE, f"error reading from server: {error}")


_DEFAULT_LIMITS: Final = GrpcLimits()
# No pings of ours, which the peer may find too many, and as many streams as the peer takes, but for a bound. What it
# still sends for streams that we have cancelled is no fault of its own.
CLIENT_HTTP2_LIMITS: Final = Http2Limits(
    streams_max=8192, keepalive_idle_s=0.0, idle_max_s=0.0, useless_frames_max=1_000_000
)


@asynccontextmanager
async def open_grpc_client(
    origin: Origin,
    tls: ssl.SSLContext | None = None,
    limits: GrpcLimits = _DEFAULT_LIMITS,
    http2_limits: Http2Limits = CLIENT_HTTP2_LIMITS,
    *,
    connect_timeout_s: float = CONNECT_TIMEOUT_S,
    dial: Dial = open_connection,
) -> AsyncIterator[GrpcClient]:
    """A client for as long as the block lasts."""
    async with open_with_tasks(
        lambda tasks: GrpcClient(origin, tls, limits, http2_limits, connect_timeout_s, dial, tasks)
    ) as client:
        yield client
