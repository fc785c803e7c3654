"""HTTP requests that come over HTTP/2: a stream's fields become a `Request`, and the handler's `Response` goes back.

The handler is the one that serves HTTP/1.1 and cannot tell the difference. A body that is here already is a plain one;
another is read when the handler asks for it, which is what gives the client leave to send more. A client that resets
its stream cancels the handler, and one that still sends when it has its answer is told to stop (the server does both).
Trailers are read past.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Final

import trio

from edge_runtime.model.http import EMPTY, Body, Request, Response
from edge_runtime.net.http2 import Http2Error, Http2Limits, Http2Server, Stream
from edge_runtime.net.http_date import HttpDate
from edge_runtime.net.stream import StreamBody
from edge_runtime.wire.http1 import ProtocolError
from edge_runtime.wire.http2.codes import CANCEL, INTERNAL_ERROR
from edge_runtime.wire.http2_fields import FIELD_OVERHEAD_BYTES, RequestFields, read_request, response_fields

Handler = Callable[[Request], Awaitable[Response]]

_logger = logging.getLogger("dapr.runtime.http")

HEADER_COUNT_MAX: Final = 128
_CONTINUE: Final = [(b":status", b"100")]
_TEXT: Final = ((b"content-type", b"text/plain; charset=utf-8"),)
_FAILED: Final = Response(500, _TEXT, Body(b"internal server error"))
# Over the limit, so that a request with too large headers is answered 431; what is larger still is reset.
_LIST_SLACK: Final = 4
_PIECE_BYTES: Final = 65536  # of a body, for which a client has so many seconds
_FIELDS_COUNTED: Final = 10  # as Go does it: so many fields' overhead is not counted as the header's bytes


def http_server(
    handler: Handler, header_bytes_max: int, *, idle_timeout_s: float = 600.0, stall_s: float = 120.0
) -> Http2Server:
    """A server of HTTP over HTTP/2, for connections that somebody else accepts; the limits are those of HTTP/1.1."""
    header_bytes_max += _FIELDS_COUNTED * FIELD_OVERHEAD_BYTES
    limits = Http2Limits(
        header_list_bytes_max=header_bytes_max * _LIST_SLACK,
        idle_max_s=idle_timeout_s,
        write_stall_s=stall_s,
        keepalive_idle_s=0.0,  # HTTP/1.1 does not ask idle clients either, and it would keep a small device awake
        ping_min_interval_s=0.0,
    )
    return Http2Server(HttpStreams(handler, header_bytes_max, stall_s).on_stream, limits)


class HttpStreams:
    """Answers the streams of a server, each in the task it is given."""

    def __init__(self, handler: Handler, header_bytes_max: int, body_read_stall_s: float) -> None:
        self._handler = handler
        self._header_bytes_max = header_bytes_max
        self._stall_s = body_read_stall_s
        self._date = HttpDate()

    async def on_stream(self, stream: Stream) -> None:
        """Have one request handled and send its response."""
        exchange = _Exchange(stream, self._stall_s)
        head_only = False
        try:
            fields = read_request(stream.headers, self._header_bytes_max, HEADER_COUNT_MAX)
            head_only = fields.method == "HEAD"
            response = await self._handle(exchange, fields)
        except ProtocolError as error:
            _logger.debug("refused a request from %s: %s", stream.peer, error.text)
            response = Response(error.status, _TEXT, Body(error.text.encode()))
        await self._answer(exchange, response, head_only)

    async def _handle(self, exchange: _Exchange, fields: RequestFields) -> Response:
        stream = exchange.stream
        body = exchange.open_body(fields.length, fields.expect_continue)
        request = Request(
            fields.method, fields.target, fields.headers, body,
            http_version=b"2.0", peer=stream.peer, local=stream.local, scheme=fields.scheme,
        )  # fmt: skip
        try:
            return await self._handler(request)
        except (ProtocolError, Http2Error):
            raise  # the request's body is malformed, or the client has left
        except Exception:
            _logger.exception("the handler of %s %s failed", fields.method, fields.target.decode("latin-1"))
            return _FAILED

    async def _answer(self, exchange: _Exchange, response: Response, head_only: bool) -> None:
        body = response.body
        exchange.responding = True
        if type(body) is not Body:
            await self._answer_stream(exchange, response, head_only)
            return
        stream = exchange.stream
        data = body.data
        bodiless = response.status in (204, 304)
        length = None if bodiless or (head_only and not data) else len(data)
        fields = response_fields(response.status, response.headers, length, self._date.now())
        if bodiless or head_only or not data:
            stream.send_headers(fields, end=True)
        else:
            stream.send_headers(fields)
            await _send(stream, data, self._stall_s)

    async def _answer_stream(self, exchange: _Exchange, response: Response, head_only: bool) -> None:
        """Head, then every piece when it comes. A body that fails midway ends in a reset, never in a false end."""
        body = response.body
        stream = exchange.stream
        bodiless = head_only or response.status in (204, 304)
        try:
            length = body.length if response.status not in (204, 304) else None
            fields = response_fields(response.status, response.headers, length, self._date.now())
            stream.send_headers(fields, end=bodiless)
            if not bodiless and not await _send_pieces(stream, body, self._stall_s):
                stream.reset(INTERNAL_ERROR)
        finally:
            await body.aclose()


class _Exchange:
    """A request and its response on their stream."""

    __slots__ = ("_expects_continue", "_stall_s", "responding", "stream")

    def __init__(self, stream: Stream, stall_s: float) -> None:
        self.stream = stream
        self.responding = False  # something of the response is on its way
        self._stall_s = stall_s
        self._expects_continue = False

    def open_body(self, length: int | None, expects_continue: bool) -> Body:
        """A plain body when it is here already, else one that reads on."""
        self._expects_continue = expects_continue
        piece = self.stream.take()
        if piece is None:
            return EMPTY
        if piece and self.stream.received_end:
            return Body(piece)
        return _RequestBody(self, length, piece)

    async def read_body(self) -> bytes:
        """The next piece of the request's body, b"" at its end."""
        piece = self.stream.take()
        if piece == b"":
            piece = await self._receive()
        return piece or b""

    async def _receive(self) -> bytes | None:
        if self._expects_continue and not self.responding:
            self._expects_continue = False
            self.stream.send_headers(_CONTINUE)
        with trio.move_on_after(self._stall_s):
            return await self.stream.receive()
        raise ProtocolError(408, "the request's body did not arrive in time")


class _RequestBody(StreamBody):
    """A request's body that was not all there with its head. Of no use after the response."""

    __slots__ = ("_exchange", "_first")

    def __init__(self, exchange: _Exchange, length: int | None, first: bytes) -> None:
        super().__init__(length)
        self._exchange = exchange
        self._first = first

    async def next_piece(self) -> bytes:
        if self._first:
            first, self._first = self._first, b""
            return first
        return await self._exchange.read_body()


async def _send_pieces(stream: Stream, body: Body, stall_s: float) -> bool:
    """False when the body failed, was not as long as it said, or is not taken."""
    left = body.length
    pieces = body.chunks()
    try:
        while True:
            try:
                piece = await anext(pieces, None)
            except Exception as error:
                _logger.warning("a response to %s broke off: %r", stream.peer or "a unix socket", error)
                return False
            if piece is None:
                break
            if left is not None:
                left -= len(piece)
                if left < 0:
                    _logger.warning("a response to %s is longer than it said", stream.peer or "a unix socket")
                    return False
            if not await _send(stream, piece, stall_s, end=False):
                return False
    finally:
        if isinstance(pieces, AsyncGenerator):
            await pieces.aclose()
    return not left and await _send(stream, b"", stall_s)


async def _send(stream: Stream, data: bytes, stall_s: float, end: bool = True) -> bool:
    """False when the client gives no leave to send; the stream is reset then."""
    if stream.try_send_data(data, end):
        return True
    for begin in range(0, len(data), _PIECE_BYTES):
        piece = data[begin : begin + _PIECE_BYTES]
        with trio.move_on_after(stall_s) as scope:
            await stream.send_data(piece, end and begin + _PIECE_BYTES >= len(data))
        if scope.cancelled_caught:
            stream.reset(CANCEL)
            return False
    return True
