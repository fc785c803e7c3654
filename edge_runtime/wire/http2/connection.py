"""One end of an HTTP/2 connection: bytes in, calls to its owner out, and frames gathered in `out`.

The plan: frames are read where they lie and never become objects; a stream's state is in the object that the owner
makes for it; what happens is told by a call instead of an event. What breaks a rule of one stream resets that stream,
what breaks a rule of the connection raises `ConnectionFault` after a GOAWAY, and nothing can be received after that.
Credit: a peer may send `window` bytes more than the owner has said to have taken, a stream's and the connection's.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

from edge_runtime.wire.http2.codes import (
    CONTINUATION,
    DATA,
    ENHANCE_YOUR_CALM,
    FLAG_ACK,
    FLAG_END_HEADERS,
    FLAG_END_STREAM,
    FLAG_PADDED,
    FLAG_PRIORITY,
    FLOW_CONTROL_ERROR,
    FRAME_BYTES_DEFAULT,
    FRAME_BYTES_MOST,
    FRAME_SIZE_ERROR,
    GOAWAY,
    HEADERS,
    NO_ERROR,
    PING,
    PREFACE,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    RST_STREAM,
    SETTING_ENABLE_PUSH,
    SETTING_HEADER_TABLE_SIZE,
    SETTING_INITIAL_WINDOW_SIZE,
    SETTING_MAX_CONCURRENT_STREAMS,
    SETTING_MAX_FRAME_SIZE,
    SETTING_MAX_HEADER_LIST_SIZE,
    SETTINGS,
    STREAM_CLOSED,
    STREAM_ID_MAX,
    WINDOW_DEFAULT,
    WINDOW_MAX,
    WINDOW_UPDATE,
    ConnectionFault,
)
from edge_runtime.wire.http2.engine import Engine, Header, Repeated
from edge_runtime.wire.http2.guard import Guard, GuardLimits
from edge_runtime.wire.http2.headers import content_length, request_fault, response_fault, trailers_fault

_HEAD: Final = struct.Struct(">BHBBI")
_WORD: Final = struct.Struct(">I")
_SETTING: Final = struct.Struct(">HI")
_ID_MASK: Final = 0x7FFFFFFF
_HEAD_BYTES: Final = 9
_REMEMBERED_STREAMS: Final = 1024  # that are over, so that what was on its way to them does no harm
_ENDED: Final = -1  # of a stream that is over without a reset of ours
_SMALL_BLOCK_BYTES: Final = 1024  # no header list is measured that comes from fewer
_BLOCK_FRAMES_MAX: Final = 64  # HEADERS and CONTINUATION of one header block


class WireLimits(NamedTuple):
    """What one end grants and takes."""

    streams_max: int = 256
    header_list_bytes_max: int = 65536
    stream_window_bytes: int = 524288  # at least 65535
    connection_window_bytes: int = 4194304  # at least 65535
    frame_bytes_max: int = FRAME_BYTES_DEFAULT
    guard: GuardLimits = GuardLimits()


class StreamState:
    """What both ends have to agree on about one stream."""

    __slots__ = ("bodiless", "closed", "granted", "head_received", "head_sent", "id", "left", "received_end", "room",
                 "sent_end", "taken")  # fmt: skip

    def __init__(self) -> None:
        self.id = 0
        self.room = 0  # bytes that may be sent; negative after the peer has made its window smaller
        self.granted = 0  # bytes that the peer may send
        self.taken = 0  # bytes that the owner has taken and that are not granted anew yet
        self.left: int | None = None  # bytes that are to come by the content-length
        self.bodiless = False  # a client's: the response to HEAD has none, whatever length it says
        self.head_sent = False
        self.head_received = False
        self.sent_end = False
        self.received_end = False
        self.closed = False


S = TypeVar("S", bound=StreamState)


class Owner(Protocol[S]):
    """Who is told what the peer does. None of these may call back into the connection's `receive`."""

    def new_stream(self) -> S | None:
        """The peer has sent a request: an object for it, or None to refuse it."""

    def headers_received(self, stream: S, headers: list[Header], end: bool) -> None:
        """A request to a server, a response (perhaps an informational one first) to a client."""

    def trailers_received(self, stream: S, headers: list[Header]) -> None:
        """The peer's last on this stream."""

    def data_received(self, stream: S, data: bytes, end: bool) -> None:
        """To be taken by `take`, whatever becomes of the stream."""

    def stream_reset(self, stream: S, code: int, remote: bool) -> None:
        """The stream is over, by the peer's will or, when not `remote`, because the peer broke a rule."""

    def stream_closed(self, stream: S) -> None:
        """Both ends have ended the stream, or one has reset it; comes after any other call."""

    def room_grew(self, stream: S | None) -> None:
        """More may be sent on one stream, or on any."""

    def settings_received(self) -> None:
        """The peer's settings, with its permission to open streams among them."""

    def pong_received(self, data: bytes) -> None:
        """The answer to a ping of ours."""

    def goaway_received(self, last_id: int, code: int, text: bytes) -> None:
        """The peer takes no more streams, and has not looked at ours above `last_id`."""


class Http2Connection(Generic[S]):
    """The state of one end."""

    __slots__ = (
        "_block", "_block_bytes", "_block_end", "_block_frames", "_block_id", "_client", "_decoder", "_encoder",
        "_granted", "_guard", "_handlers", "_last_in", "_last_out", "_limits", "_now", "_over", "_owner",
        "_peer_window", "_preface_left", "_rest", "_sent_since_ping", "_taken", "_taken_limit", "_window",
        "_window_taken_limit", "failed", "goaway_last", "out", "out_bytes", "peer_frame_bytes",
        "peer_header_list_bytes", "peer_streams_max", "room", "settled", "streams",
    )  # fmt: skip

    def __init__(self, owner: Owner[S], limits: WireLimits, engine: Engine, *, client: bool) -> None:
        self._owner = owner
        self._limits = limits
        self._client = client
        self._encoder = engine.new_encoder()
        # Twice the limit: what lies between is refused stream by stream, what lies above ends the connection.
        self._decoder = engine.new_decoder(2 * limits.header_list_bytes_max)
        self._guard = Guard(limits.guard)
        self._now = 0.0
        self._sent_since_ping = False
        self._rest = b""
        self._preface_left = b"" if client else PREFACE
        self._block: list[bytes] = []
        self._block_id = 0
        self._block_end = False
        self._block_bytes = 0
        self._block_frames = 0
        self._last_in = 0
        self._last_out = -1 if client else 0
        # Streams that ended lately. Of those that we have reset: how much the peer may have sent before it knew.
        self._over: dict[int, int] = {}
        self._granted = max(limits.connection_window_bytes, WINDOW_DEFAULT)
        self._taken = 0
        self._taken_limit = self._granted // 2
        self._window = max(limits.stream_window_bytes, WINDOW_DEFAULT)
        self._window_taken_limit = self._window // 2
        self._peer_window = WINDOW_DEFAULT
        self.room = WINDOW_DEFAULT  # bytes that may be sent on all streams together
        self.peer_frame_bytes = FRAME_BYTES_DEFAULT
        self.peer_header_list_bytes: int | None = None
        self.peer_streams_max = WINDOW_MAX
        self.settled = False  # the peer's first settings are here
        self.failed = False
        self.goaway_last: int | None = None  # the last stream that we have said to serve
        self.streams: dict[int, S] = {}
        self.out: list[bytes | memoryview] = []
        self.out_bytes = 0
        self._handlers: tuple[Callable[[int, int, bytes], None], ...] = (
            self._on_data, self._on_headers, self._on_priority, self._on_reset, self._on_settings, self._on_push,
            self._on_ping, self._on_goaway, self._on_window_update, self._on_continuation,
        )  # fmt: skip

    # --- output -----------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """The preface and our settings; the first thing on a connection."""
        limits = self._limits
        if self._client:
            self._put(PREFACE)
        settings = [
            (SETTING_INITIAL_WINDOW_SIZE, self._window),
            (SETTING_MAX_FRAME_SIZE, limits.frame_bytes_max),
            (SETTING_MAX_HEADER_LIST_SIZE, limits.header_list_bytes_max),
            (SETTING_ENABLE_PUSH, 0) if self._client else (SETTING_MAX_CONCURRENT_STREAMS, limits.streams_max),
        ]
        self._put_frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(*setting) for setting in settings))
        if self._granted > WINDOW_DEFAULT:
            self._put_frame(WINDOW_UPDATE, 0, 0, _WORD.pack(self._granted - WINDOW_DEFAULT))

    def take_out(self) -> bytes:
        """All that is to be sent."""
        data = b"".join(self.out)
        self.out.clear()
        self.out_bytes = 0
        return data

    def _put(self, data: bytes) -> None:
        self.out.append(data)
        self.out_bytes += len(data)

    def _put_frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        length = len(payload)
        self._put(_HEAD.pack(length >> 16, length & 0xFFFF, kind, flags, stream_id) + payload)

    def next_stream_id(self) -> int | None:
        """The client's next; None when there are no more on this connection."""
        return self._last_out + 2 if self._last_out + 2 <= STREAM_ID_MAX else None

    def open_stream(self, stream: S, headers: Sequence[Header], end: bool) -> None:
        """Send a request, as a client that has looked whether it may."""
        self._last_out += 2
        self._add(self._last_out, stream)
        stream.bodiless = headers[0][1] == b"HEAD"
        self.send_headers(stream, headers, end)

    def send_headers(self, stream: S, headers: Sequence[Header], end: bool = False) -> None:
        """Headers or trailers. The names are lower case, and the values without line breaks: nobody looks here."""
        block = self._encoder.encode(headers)
        most = self.peer_frame_bytes
        flags = FLAG_END_STREAM if end else 0
        if len(block) <= most:
            self._put_frame(HEADERS, flags | FLAG_END_HEADERS, stream.id, block)
        else:
            kind = HEADERS
            for begin in range(0, len(block), most):
                if begin + most >= len(block):
                    flags |= FLAG_END_HEADERS
                self._put_frame(kind, flags, stream.id, block[begin : begin + most])
                kind, flags = CONTINUATION, 0
        stream.head_sent = True
        self._sent_since_ping = True
        if end:
            self._end(stream)

    def sendable(self, stream: S) -> int:
        """How many bytes may be sent on the stream now; not above 0 when none."""
        return stream.room if stream.room < self.room else self.room

    def send_data(self, stream: S, data: bytes | memoryview, end: bool = False) -> None:
        """Not more than is `sendable`, except that nothing may always be sent."""
        size = len(data)
        stream.room -= size
        self.room -= size
        most = self.peer_frame_bytes
        out = self.out
        begin = 0
        while size - begin > most:
            out.append(_HEAD.pack(most >> 16, most & 0xFFFF, DATA, 0, stream.id))
            out.append(data[begin : begin + most])
            self.out_bytes += _HEAD_BYTES + most
            begin += most
        left = size - begin
        out.append(_HEAD.pack(left >> 16, left & 0xFFFF, DATA, FLAG_END_STREAM if end else 0, stream.id))
        if left:
            out.append(data[begin:] if begin else data)
        self.out_bytes += _HEAD_BYTES + left
        self._sent_since_ping = True
        if end:
            self._end(stream)

    def reset(self, stream: S, code: int) -> None:
        """End a stream at once; one that is closed already stays as it is."""
        if not stream.closed:
            self._put_frame(RST_STREAM, 0, stream.id, _WORD.pack(code))
            self._close(stream, reset=True)

    def take(self, stream: S, size: int) -> None:
        """So many bytes of what was received have been taken: the peer gets credit for as many, in larger pieces."""
        self._grant(size)
        if not stream.received_end and not stream.closed:
            stream.taken += size
            if stream.taken >= self._window_taken_limit:
                stream.granted += stream.taken
                self._put_frame(WINDOW_UPDATE, 0, stream.id, _WORD.pack(stream.taken))
                stream.taken = 0

    def _grant(self, size: int) -> None:
        self._taken += size
        if self._taken >= self._taken_limit:
            self._granted += self._taken
            self._put_frame(WINDOW_UPDATE, 0, 0, _WORD.pack(self._taken))
            self._taken = 0

    def ping(self, data: bytes) -> None:
        """Eight bytes."""
        self._put_frame(PING, 0, 0, data)

    def go_away(self, code: int = NO_ERROR, text: bytes = b"", last_id: int | None = None) -> None:
        """No more streams of the peer above `last_id`, which without a number is the last one seen."""
        last = self._last_in if last_id is None else last_id
        self.goaway_last = last if self.goaway_last is None else min(last, self.goaway_last)  # it must not grow
        self._put_frame(GOAWAY, 0, 0, struct.pack(">II", self.goaway_last, code) + text)

    # --- input ------------------------------------------------------------------------------------------------------

    def receive(self, data: bytes, now: float) -> None:
        """Handle what has arrived. Raises `ConnectionFault` when that is the end of the connection."""
        self._now = now
        try:
            self._receive(data)
        except ConnectionFault as fault:
            self.failed = True
            self._rest = b""
            self.go_away(fault.code, fault.text.encode())
            raise

    def _receive(self, data: bytes) -> None:
        if self._preface_left:
            data = self._read_preface(data)
        elif self._rest:
            data = self._rest + data
        most = self._limits.frame_bytes_max
        size = len(data)
        begin = 0
        while size - begin >= _HEAD_BYTES:
            high, low, kind, flags, stream_id = _HEAD.unpack_from(data, begin)
            length = high << 16 | low
            if length > most:
                raise ConnectionFault(FRAME_SIZE_ERROR, "a frame is larger than allowed")
            if not self.settled and kind != SETTINGS:
                raise ConnectionFault(PROTOCOL_ERROR, "the first frame is no SETTINGS")
            end = begin + _HEAD_BYTES + length
            if end > size:
                break
            if self._block_id and (kind != CONTINUATION or stream_id & _ID_MASK != self._block_id):
                raise ConnectionFault(PROTOCOL_ERROR, "a frame comes between those of a header block")
            if kind <= CONTINUATION:
                self._handlers[kind](flags, stream_id & _ID_MASK, data[begin + _HEAD_BYTES : end])
            else:
                self._guard.useless.hit(self._now)
            begin = end
        self._rest = data[begin:]

    def _read_preface(self, data: bytes) -> bytes:
        expected = self._preface_left
        if not data.startswith(expected[: len(data)]):
            raise ConnectionFault(PROTOCOL_ERROR, "the connection does not begin with HTTP/2's preface")
        self._preface_left = expected[len(data) :]
        return data[len(expected) :]

    def _on_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        size = len(payload)
        self._granted -= size
        if self._granted < 0:
            raise ConnectionFault(FLOW_CONTROL_ERROR, "more data than the connection's window allows")
        if flags & FLAG_PADDED:
            payload = _unpadded(payload)
        stream = self.streams.get(stream_id)
        if stream is None or stream.received_end or not stream.head_received:
            self._data_out_of_place(stream_id, stream, size)
            return
        stream.granted -= size
        if stream.granted < 0:
            self._grant(size)
            self._stream_fault(stream, FLOW_CONTROL_ERROR)
            return
        end = bool(flags & FLAG_END_STREAM)
        if size != len(payload):
            self.take(stream, size - len(payload))
        if not payload and not end:
            self._guard.useless.hit(self._now)
        if stream.left is not None:
            stream.left -= len(payload)
            if stream.left < 0 or (end and stream.left):
                self._grant(len(payload))
                self._stream_fault(stream, PROTOCOL_ERROR)
                return
        if end:
            stream.received_end = True
        self._owner.data_received(stream, payload, end)
        if end and stream.sent_end:
            self._close(stream)

    def _data_out_of_place(self, stream_id: int, stream: S | None, size: int) -> None:
        if not stream_id or self._is_idle(stream_id):
            raise ConnectionFault(PROTOCOL_ERROR, "data for a stream that was never opened")
        self._grant(size)
        if stream is not None:
            self._stream_fault(stream, STREAM_CLOSED if stream.received_end else PROTOCOL_ERROR)
            return
        credit = self._over.get(stream_id, _ENDED)
        if 0 < size <= credit:
            self._over[stream_id] = credit - size  # it has crossed our RST_STREAM
            return
        self._guard.useless.hit(self._now)
        if credit == _ENDED:
            self._put_frame(RST_STREAM, 0, stream_id, _WORD.pack(STREAM_CLOSED))

    def _on_headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        if not stream_id:
            raise ConnectionFault(PROTOCOL_ERROR, "headers for no stream")
        if flags & FLAG_PADDED:
            payload = _unpadded(payload)
        if flags & FLAG_PRIORITY:
            if len(payload) < 5:
                raise ConnectionFault(FRAME_SIZE_ERROR, "a HEADERS frame is too short")
            payload = payload[5:]
        if flags & FLAG_END_HEADERS:
            self._on_header_block(stream_id, bool(flags & FLAG_END_STREAM), payload)
            return
        self._block = [payload]
        self._block_bytes = len(payload)
        self._block_frames = 1
        self._block_id = stream_id
        self._block_end = bool(flags & FLAG_END_STREAM)

    def _on_continuation(self, flags: int, stream_id: int, payload: bytes) -> None:
        if not self._block_id:
            raise ConnectionFault(PROTOCOL_ERROR, "a CONTINUATION frame continues nothing")
        self._block.append(payload)
        self._block_bytes += len(payload)
        self._block_frames += 1
        if self._block_bytes > 2 * self._limits.header_list_bytes_max or self._block_frames > max(
            _BLOCK_FRAMES_MAX, self._limits.header_list_bytes_max // 1024
        ):
            raise ConnectionFault(ENHANCE_YOUR_CALM, "a header block does not end")
        if flags & FLAG_END_HEADERS:
            block = b"".join(self._block)
            self._block = []
            self._block_id = 0
            self._on_header_block(stream_id, self._block_end, block)

    def _on_header_block(self, stream_id: int, end: bool, block: bytes) -> None:
        headers = self._decoder.decode(block)
        too_large = len(block) > _SMALL_BLOCK_BYTES and (
            sum([len(name) + len(value) + 32 for name, value in headers]) > self._limits.header_list_bytes_max
        )
        stream = self.streams.get(stream_id)
        if stream is None:
            self._on_new_stream(stream_id, headers, end, too_large)
        elif stream.received_end:
            self._stream_fault(stream, STREAM_CLOSED)
        elif too_large:
            self._stream_fault(stream, FRAME_SIZE_ERROR)
        elif stream.head_received:
            self._on_trailers(stream, headers, end)
        else:
            self._on_response(stream, headers, end)

    def _on_new_stream(self, stream_id: int, headers: list[Header], end: bool, too_large: bool) -> None:
        if self._client or not stream_id & 1 or stream_id <= self._last_in:
            self._headers_out_of_place(stream_id)
            return
        self._last_in = stream_id
        if self.goaway_last is not None and stream_id > self.goaway_last:
            self._over_now(stream_id, self._window)  # the peer will see from the GOAWAY that nothing is done for it
            return
        if len(self.streams) >= self._limits.streams_max:
            self._refuse(stream_id, REFUSED_STREAM)
            return
        if too_large or not _is_sound(headers, "request", request_fault):
            self._refuse(stream_id, FRAME_SIZE_ERROR if too_large else PROTOCOL_ERROR)
            return
        length = content_length(headers)
        if length is not None and (length < 0 or (end and length)):
            self._refuse(stream_id, PROTOCOL_ERROR)
            return
        stream = self._owner.new_stream()
        if stream is None:
            self._refuse(stream_id, REFUSED_STREAM)
            return
        self._add(stream_id, stream)
        stream.left = length
        stream.head_received = True
        stream.received_end = end
        self._owner.headers_received(stream, headers, end)

    def _headers_out_of_place(self, stream_id: int) -> None:
        if self._over.get(stream_id, _ENDED) != _ENDED:
            self._guard.useless.hit(self._now)  # they have crossed our RST_STREAM
        elif stream_id in self._over:
            raise ConnectionFault(STREAM_CLOSED, "headers for a stream that has ended")
        else:
            raise ConnectionFault(PROTOCOL_ERROR, "headers for a stream that the peer cannot open")

    def _on_response(self, stream: S, headers: list[Header], end: bool) -> None:
        length = content_length(headers)
        if not _is_sound(headers, "response", response_fault) or (length is not None and length < 0):
            self._stream_fault(stream, PROTOCOL_ERROR)
            return
        if headers[0][1][:1] == b"1":
            if end:
                self._stream_fault(stream, PROTOCOL_ERROR)
            else:
                self._owner.headers_received(stream, headers, end)
            return
        stream.head_received = True
        if not end:
            stream.left = 0 if stream.bodiless or headers[0][1] in (b"204", b"304") else length
        else:
            stream.received_end = True  # of any length, as to a HEAD request
        self._owner.headers_received(stream, headers, end)
        if end and stream.sent_end:
            self._close(stream)

    def _on_trailers(self, stream: S, headers: list[Header], end: bool) -> None:
        if not end or stream.left or not _is_sound(headers, "trailers", trailers_fault):
            self._stream_fault(stream, PROTOCOL_ERROR)
            return
        stream.received_end = True
        self._owner.trailers_received(stream, headers)
        if stream.sent_end:
            self._close(stream)

    def _on_priority(self, flags: int, stream_id: int, payload: bytes) -> None:
        if not stream_id:
            raise ConnectionFault(PROTOCOL_ERROR, "a priority for no stream")
        if len(payload) != 5:
            stream = self.streams.get(stream_id)
            if stream is None:
                raise ConnectionFault(FRAME_SIZE_ERROR, "a PRIORITY frame has not its size")
            self._stream_fault(stream, FRAME_SIZE_ERROR)
            return
        self._guard.useless.hit(self._now)

    def _on_reset(self, flags: int, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFault(FRAME_SIZE_ERROR, "a RST_STREAM frame has not its size")
        stream = self.streams.get(stream_id)
        if stream is None:
            if not stream_id or self._is_idle(stream_id):
                raise ConnectionFault(PROTOCOL_ERROR, "a reset of a stream that was never opened")
            self._guard.useless.hit(self._now)
            return
        if not self._client and not stream.head_sent:
            self._guard.resets.hit(self._now)
        self._owner.stream_reset(stream, _WORD.unpack(payload)[0], True)
        self._close(stream)

    def _on_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionFault(PROTOCOL_ERROR, "settings for a stream")
        if len(payload) % 6 or (flags & FLAG_ACK and payload):
            raise ConnectionFault(FRAME_SIZE_ERROR, "a SETTINGS frame has not its size")
        if flags & FLAG_ACK:
            if not self.settled:
                raise ConnectionFault(PROTOCOL_ERROR, "the first frame is no SETTINGS")
            self._guard.useless.hit(self._now)
            return
        self._guard.settings.hit(self._now)
        window = self._peer_window
        for setting, value in _SETTING.iter_unpack(payload):
            if setting == SETTING_INITIAL_WINDOW_SIZE:
                if value > WINDOW_MAX:
                    raise ConnectionFault(FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE has a value that is not allowed")
                window = value
            else:
                self._apply_setting(setting, value)
        if window != self._peer_window:
            self._change_windows(window)  # once, for it looks at every stream
        self.settled = True
        self._put_frame(SETTINGS, FLAG_ACK, 0, b"")
        self._owner.settings_received()

    def _apply_setting(self, setting: int, value: int) -> None:
        if setting == SETTING_HEADER_TABLE_SIZE:
            self._encoder.set_table_bytes(value)
        elif setting == SETTING_ENABLE_PUSH:
            if value > (0 if self._client else 1):
                raise ConnectionFault(PROTOCOL_ERROR, "ENABLE_PUSH has a value that is not allowed")
        elif setting == SETTING_MAX_CONCURRENT_STREAMS:
            self.peer_streams_max = value
        elif setting == SETTING_MAX_FRAME_SIZE:
            if not FRAME_BYTES_DEFAULT <= value <= FRAME_BYTES_MOST:
                raise ConnectionFault(PROTOCOL_ERROR, "MAX_FRAME_SIZE has a value that is not allowed")
            self.peer_frame_bytes = value
        elif setting == SETTING_MAX_HEADER_LIST_SIZE:
            self.peer_header_list_bytes = value

    def _change_windows(self, window: int) -> None:
        change = window - self._peer_window
        self._peer_window = window
        for stream in self.streams.values():
            stream.room += change
            if stream.room > WINDOW_MAX:
                raise ConnectionFault(FLOW_CONTROL_ERROR, "a window is too large")
        if change > 0:
            self._owner.room_grew(None)

    def _on_push(self, flags: int, stream_id: int, payload: bytes) -> None:
        raise ConnectionFault(PROTOCOL_ERROR, "a push, which nobody has allowed")

    def _on_ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionFault(PROTOCOL_ERROR, "a ping for a stream")
        if len(payload) != 8:
            raise ConnectionFault(FRAME_SIZE_ERROR, "a PING frame has not its size")
        if flags & FLAG_ACK:
            self._guard.useless.hit(self._now)
            self._owner.pong_received(payload)
            return
        self._guard.ping(self._now, self._sent_since_ping)
        self._sent_since_ping = False
        self._put_frame(PING, FLAG_ACK, 0, payload)

    def _on_goaway(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionFault(PROTOCOL_ERROR, "a GOAWAY for a stream")
        if len(payload) < 8:
            raise ConnectionFault(FRAME_SIZE_ERROR, "a GOAWAY frame is too short")
        self._guard.useless.hit(self._now)
        last_id, code = struct.unpack_from(">II", payload)
        self._owner.goaway_received(last_id & _ID_MASK, code, payload[8:])

    def _on_window_update(self, flags: int, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFault(FRAME_SIZE_ERROR, "a WINDOW_UPDATE frame has not its size")
        increment = _WORD.unpack(payload)[0] & _ID_MASK
        if not stream_id:
            self.room += increment
            if not increment:
                raise ConnectionFault(PROTOCOL_ERROR, "a window grows by nothing")
            if self.room > WINDOW_MAX:
                raise ConnectionFault(FLOW_CONTROL_ERROR, "the connection's window is too large")
            if self.room <= increment:  # else nobody waits for it, and to look who does takes its time
                self._owner.room_grew(None)
            return
        stream = self.streams.get(stream_id)
        if stream is None:
            if self._is_idle(stream_id):
                raise ConnectionFault(PROTOCOL_ERROR, "a window of a stream that was never opened")
            return  # a response may be over long before the peer has taken it
        stream.room += increment
        if not increment:
            self._stream_fault(stream, PROTOCOL_ERROR)
        elif stream.room > WINDOW_MAX:
            self._stream_fault(stream, FLOW_CONTROL_ERROR)
        else:
            self._owner.room_grew(stream)

    def drop(self, stream: S) -> None:
        """Forget a stream that the peer has said it never looked at."""
        stream.closed = True
        if self.streams.pop(stream.id, None) is not None:
            self._over_now(stream.id, stream.granted)

    # --- streams ----------------------------------------------------------------------------------------------------

    def _add(self, stream_id: int, stream: S) -> None:
        self._guard.stream()
        stream.id = stream_id
        stream.room = self._peer_window
        stream.granted = self._window
        self.streams[stream_id] = stream

    def _is_idle(self, stream_id: int) -> bool:
        """True of a number that no stream has had yet."""
        if stream_id & 1 == self._client:
            return stream_id > self._last_out
        return stream_id > self._last_in

    def _end(self, stream: S) -> None:
        stream.sent_end = True
        if stream.received_end:
            self._close(stream)

    def _stream_fault(self, stream: S, code: int) -> None:
        """The peer broke a rule that harms one stream."""
        self._guard.resets.hit(self._now)
        self._put_frame(RST_STREAM, 0, stream.id, _WORD.pack(code))
        self._owner.stream_reset(stream, code, False)
        self._close(stream, reset=True)

    def _refuse(self, stream_id: int, code: int) -> None:
        self._guard.resets.hit(self._now)
        self._put_frame(RST_STREAM, 0, stream_id, _WORD.pack(code))
        self._over_now(stream_id, self._window)

    def _close(self, stream: S, reset: bool = False) -> None:
        stream.closed = True
        if self.streams.pop(stream.id, None) is not None:
            self._over_now(stream.id, max(stream.granted, 0) if reset else _ENDED)
            self._owner.stream_closed(stream)

    def _over_now(self, stream_id: int, credit: int) -> None:
        over = self._over
        over[stream_id] = credit
        if len(over) > _REMEMBERED_STREAMS:
            del over[next(iter(over))]


def _is_sound(headers: list[Header], kind: str, find_fault: Callable[[list[Header]], str | None]) -> bool:
    """Whether they can be what they came as; looked at once when the same come again."""
    if type(headers) is not Repeated:
        return find_fault(headers) is None
    if headers.sound_as != kind and find_fault(headers) is None:
        headers.sound_as = kind
    return headers.sound_as == kind


def _unpadded(payload: bytes) -> bytes:
    if not payload:
        raise ConnectionFault(FRAME_SIZE_ERROR, "a padded frame is empty")
    padding = payload[0]
    if padding >= len(payload):
        raise ConnectionFault(PROTOCOL_ERROR, "a frame has more padding than it is long")
    return payload[1 : len(payload) - padding]
