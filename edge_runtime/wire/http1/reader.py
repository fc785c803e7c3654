"""Readers: bytes in, events out, no I/O. What an engine does is only the header lines of a head that passed the gate.

A reader has three kinds of answer: an event, an error, or NEED_DATA. Invariant: `_buffer[_position:]` is what has come
in and is not yet part of an event. After an error a reader is of no more use.
"""

from __future__ import annotations

from typing import Final

from edge_runtime.wire.http1.body import Chunks
from edge_runtime.wire.http1.events import (
    CLOSED,
    END,
    NEED_DATA,
    Http2Preface,
    IncompleteMessage,
    Limits,
    ProtocolError,
    RequestHead,
    ResponseHead,
    Signal,
)
from edge_runtime.wire.http1.grammar import (
    HeaderParser,
    Refused,
    ascii_target,
    headers_by_gate,
    lower_coding,
    match_request,
    match_response,
    origin_form,
    refuse,
    request_framing,
    response_framing,
    search_blank_line,
    with_crlf,
)

_INTERIM_MAX: Final = 16
# What llhttp knows and h11 takes alike; the header lines of any other request are parsed below a start line of ours.
_PLAIN_METHODS: Final = frozenset((b"GET", b"POST", b"PUT", b"DELETE", b"HEAD", b"OPTIONS", b"PATCH"))
_HTTP2_HEAD: Final = b"PRI * HTTP/2.0\r\n\r\n"


class _Reader:
    """What both directions share: the buffer, finding a head, and reading a body."""

    __slots__ = (
        "_body_left",
        "_buffer",
        "_chunks",
        "_closed",
        "_in_body",
        "_limits",
        "_parse",
        "_position",
        "_searched",
    )

    _status = 400
    _no_start_line = "no start line"

    def __init__(self, parse: HeaderParser, limits: Limits) -> None:
        self._parse = parse
        self._limits = limits
        self._buffer = b""
        self._position = 0
        self._searched = 0  # bytes after _position known to hold no end of the head
        self._closed = False
        self._in_body = False
        self._body_left: int | None = 0  # None: up to the end of the input
        self._chunks: Chunks | None = None

    def feed(self, data: bytes) -> None:
        """Take input; b"" says that there will be no more."""
        if not data:
            self._closed = True
        elif self._position == len(self._buffer):
            self._buffer = data
            self._position = 0
        else:
            self._buffer = self._buffer[self._position :] + data
            self._position = 0

    @property
    def idle(self) -> bool:
        """True between two messages, with nothing of the next one here."""
        return not self._in_body and self._position == len(self._buffer)

    @property
    def in_body(self) -> bool:
        """True from a head to its END."""
        return self._in_body

    def unread(self) -> bytes:
        """What has come in and is not yet part of an event."""
        return self._buffer[self._position :]

    def _next_of_body(self) -> bytes | Signal:
        if self._chunks is not None:
            event, self._position = self._chunks.read(self._buffer, self._position)
            if event is NEED_DATA and self._closed:
                raise IncompleteMessage(self._status, "the input ended inside a chunked body")
        elif self._body_left == 0:
            event = END
        else:
            event = self._next_of_length()
        if event is END:
            self._in_body = False
            self._chunks = None
        return event

    def _next_of_length(self) -> bytes | Signal:
        left = self._body_left
        start = self._position
        piece = self._buffer[start:] if left is None else self._buffer[start : start + left]
        if piece:
            self._position = start + len(piece)
            if left is not None:
                self._body_left = left - len(piece)
            return piece
        if not self._closed:
            return NEED_DATA
        if left is not None:
            raise IncompleteMessage(self._status, f"the input ended {left} bytes before the end of the body")
        return END

    def _start_body(self, length: int | None, chunked: bool) -> None:
        self._in_body = True
        self._body_left = length
        self._chunks = Chunks(self._limits, self._status) if chunked else None

    def _find_head(self) -> bytes | Signal:
        """The next head with CRLF line ends, moved past; NEED_DATA or CLOSED when it is not here yet."""
        start = self._position
        buffer = self._buffer
        if start == len(buffer):
            return CLOSED if self._closed else NEED_DATA
        if buffer[start] < 0x21:
            raise ProtocolError(self._status, self._no_start_line)
        blank = search_blank_line(buffer, start + self._searched)
        end = len(buffer) if blank is None else blank.end()
        if end - start > self._limits.header_bytes_max:
            self._refuse_large_head()
        if blank is None:
            if self._closed:
                raise IncompleteMessage(self._status, "the input ended inside a head")
            self._searched = max(0, end - start - 2)
            return NEED_DATA
        self._position = end
        self._searched = 0
        return buffer[start:end]

    def _refuse_large_head(self) -> None:
        size = self._limits.header_bytes_max
        status = 431 if self._status == 400 else self._status
        raise ProtocolError(status, f"the start line and headers are larger than {size} bytes")

    def _check_count(self, count: int) -> None:
        if count > self._limits.header_count_max:
            status = 431 if self._status == 400 else self._status
            raise ProtocolError(status, f"more than {self._limits.header_count_max} headers")


class RequestReader(_Reader):
    """Reads the requests of one connection."""

    __slots__ = ()

    def next_event(self) -> RequestHead | bytes | Signal:
        """The next head, piece of its body, or signal. Raises `ProtocolError`."""
        if self._in_body:
            return self._next_of_body()
        head = self._find_head()
        if not isinstance(head, bytes):
            return head
        match = match_request(head)
        if match is None:
            head = self._with_crlf(head)
            match = match_request(head)
            if match is None:
                refuse(head, "request head")
        method, target, http_version, lines = match.groups()
        if target[0] != 0x2F:  # "/"
            target = origin_form(method, target)
            head = b""
        if not target.isascii():
            target = ascii_target(target)
            head = b""
        if not head or method not in _PLAIN_METHODS:
            head = b"GET / HTTP/" + http_version + b"\r\n" + lines + b"\r\n"
        self._check_count(lines.count(b"\n"))
        try:
            headers = self._parse(head)
        except Refused as error:
            request_framing(headers_by_gate(lines), http_version)
            raise ProtocolError(400, str(error)) from None
        length, chunked, keep_alive, expect_continue = request_framing(headers, http_version)
        body_length = None if chunked else length or 0
        self._start_body(body_length, chunked)
        if chunked:
            lower_coding(headers)
        return RequestHead(method.decode(), target, headers, http_version, keep_alive, expect_continue, body_length)

    def _with_crlf(self, head: bytes) -> bytes:
        if head == _HTTP2_HEAD:
            self._position -= len(head)
            raise Http2Preface
        return with_crlf(head)


class ResponseReader(_Reader):
    """Reads the responses of one connection; `expect` tells it beforehand what the next one answers."""

    __slots__ = ("_method",)

    _status = 502
    _no_start_line = "what came is no HTTP/1.1; does it speak gRPC, HTTP/2 or TLS?"

    def __init__(self, parse: HeaderParser, limits: Limits) -> None:
        super().__init__(parse, limits)
        self._method: str | None = None

    def expect(self, method: str) -> None:
        """A request with this method was sent: the next response is its answer."""
        self._method = method

    def next_event(self) -> ResponseHead | bytes | Signal:
        """The next final head (interim ones are skipped), piece of its body, or signal. Raises `ProtocolError`."""
        if self._in_body:
            return self._next_of_body()
        for _ in range(_INTERIM_MAX):
            head = self._find_head()
            if not isinstance(head, bytes):
                return head
            if self._method is None:
                raise ProtocolError(502, "a response that nobody asked for")
            response = self._read_head(head, self._method)
            if response is not None:
                self._method = None
                return response
        raise ProtocolError(502, f"more than {_INTERIM_MAX} interim responses")

    def _read_head(self, head: bytes, method: str) -> ResponseHead | None:
        match = match_response(head)
        if match is None:
            head = with_crlf(head)
            match = match_response(head)
            if match is None:
                raise ProtocolError(502, "malformed response head")
        http_version, code, reason, lines = match.groups()
        self._check_count(lines.count(b"\n"))
        try:
            headers = self._parse(head)
            framing = response_framing(headers, http_version)
        except Refused as error:
            raise ProtocolError(502, str(error)) from None
        except ProtocolError as error:
            raise ProtocolError(502, error.text) from None
        status = int(code)
        if status < 200:
            if status == 101:
                raise ProtocolError(502, "the server switched protocols without being asked")
            return None
        length, chunked, keep_alive, _ = framing
        if method == "HEAD" or status in (204, 304) or (method == "CONNECT" and status < 300):
            length, chunked = 0, False
        elif length is None and not chunked:
            keep_alive = False
        self._start_body(None if chunked else length, chunked)
        if chunked:
            lower_coding(headers)
        return ResponseHead(status, reason or b"", headers, http_version, keep_alive, None if chunked else length)
