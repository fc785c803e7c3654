"""HTTP/2 with as little as a load generator and a benchmark's app need: frames, windows, field lists.

It keeps every rule that a peer can see (windows both ways, frame sizes, acknowledgements) and takes no more CPU than
that, because what is measured sits at the other end.
"""

from __future__ import annotations

import socket
import struct
from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

from jh2._hazmat import Decoder, Encoder

Fields = Sequence[tuple[bytes, bytes]]

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW, _CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
_END_STREAM, _END_HEADERS, _PADDED, _PRIORITY, _ACK = 1, 4, 8, 32, 1
_WINDOW_BYTES: Final = 2**24  # what a peer may send before it is read; given back by halves
_READ_BYTES: Final = 1 << 20
_head: Final = struct.Struct(">IBI")  # length and type share the first four bytes


class Event(NamedTuple):
    """`fields` begin or end a stream, `data` is its content, `ended` its last event; `code` is a reset's."""

    stream: int
    fields: list[tuple[bytes, bytes]] | None
    data: bytes
    ended: bool
    code: int | None = None


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return _head.pack(len(payload) << 8 | kind, flags, stream) + payload


class _Sending:
    """A stream's outgoing half: what the windows have held back."""

    __slots__ = ("closing", "queue", "window")

    def __init__(self, window: int) -> None:
        self.window = window
        self.queue: deque[memoryview] = deque()
        self.closing: Fields | bool = False  # to be said after the queue: trailers, or a bare end


class Peer:
    """One connection, either side. `read` takes what has come, `flush` sends what may go; neither waits."""

    def __init__(self, sock: socket.socket, *, client: bool) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        self.socket = sock
        self._decoder = Decoder()
        self._encoder = Encoder()
        self._input = b""
        self._preface = b"" if client else _PREFACE
        self._output = bytearray()
        self._ready: deque[int] = deque()
        self._sending: dict[int, _Sending] = {}
        self._window = 65_535
        self._first_window = 65_535
        self._frame_max = 16_384
        self._taken = 0
        self._taken_of: dict[int, int] = {}
        self._block = b""
        self._ended = False
        self._next_stream = 1
        settings = struct.pack(">HIHI", 4, _WINDOW_BYTES, 3, 2**31 - 1)
        self._output += (_PREFACE if client else b"") + frame(_SETTINGS, 0, 0, settings)
        self._output += frame(_WINDOW, 0, 0, struct.pack(">I", _WINDOW_BYTES - 65_535))

    # --- sending ---

    def open(self, fields: Fields) -> int:
        """Begin a stream with these fields."""
        stream = self._next_stream
        self._next_stream += 2
        self.begin(stream)
        self.headers(stream, fields)
        return stream

    def begin(self, stream: int) -> None:
        self._sending[stream] = _Sending(self._first_window)

    def headers(self, stream: int, fields: Fields) -> None:
        self._output += frame(_HEADERS, _END_HEADERS, stream, self._encoded(fields))

    def _encoded(self, fields: Fields) -> bytes:
        return self._encoder.encode([(name, value, False) for name, value in fields])

    def send(self, stream: int, data: bytes) -> None:
        """Content, as the windows allow."""
        sending = self._sending[stream]
        sending.queue.append(memoryview(data))
        self._ready.append(stream)

    def end(self, stream: int, trailers: Fields | None = None) -> None:
        sending = self._sending[stream]
        sending.closing = trailers if trailers is not None else True
        self._ready.append(stream)

    def reset(self, stream: int, code: int = 8) -> None:
        self._sending.pop(stream, None)
        self._taken_of.pop(stream, None)
        self._output += frame(_RESET, 0, stream, struct.pack(">I", code))

    def unsent(self, stream: int) -> int:
        """Bytes of the stream's content that are still here."""
        sending = self._sending.get(stream)
        return sum(map(len, sending.queue)) if sending is not None else 0

    def flush(self) -> bool:
        """Send; True when all that the windows allow has gone."""
        output = self._output
        while True:
            while self._ready and len(output) < _READ_BYTES:
                self._write(self._ready.popleft())
            if not output:
                return True
            try:
                sent = self.socket.send(output)
            except BlockingIOError:
                return False
            del output[:sent]
            if output:
                return False

    def _write(self, stream: int) -> None:
        sending = self._sending.get(stream)
        if sending is None:
            return
        queue = sending.queue
        while queue:
            piece = queue[0]
            size = min(len(piece), sending.window, self._window, self._frame_max)
            if size <= 0:
                return
            last = size == len(piece)
            closes = last and len(queue) == 1 and sending.closing is True
            self._output += _head.pack(size << 8 | _DATA, _END_STREAM if closes else 0, stream)
            self._output += piece[:size]
            sending.window -= size
            self._window -= size
            if last:
                queue.popleft()
            else:
                queue[0] = piece[size:]
            if closes:
                del self._sending[stream]
                return
        closing = sending.closing
        if closing is True:
            self._output += frame(_DATA, _END_STREAM, stream)
            del self._sending[stream]
        elif closing is not False:
            self._output += frame(_HEADERS, _END_STREAM | _END_HEADERS, stream, self._encoded(closing))
            del self._sending[stream]

    # --- receiving ---

    def read(self) -> list[Event] | None:
        """What has come; None when the peer has closed."""
        try:
            data = self.socket.recv(_READ_BYTES)
        except BlockingIOError:
            return []
        if not data:
            return None
        data = self._input + data if self._input else data
        at = 0
        if self._preface:
            if len(data) < len(_PREFACE):
                self._input = data
                return []
            at = len(_PREFACE)
            self._preface = b""
        events: list[Event] = []
        end = len(data)
        while end - at >= 9:
            first, flags, stream = _head.unpack_from(data, at)
            following = at + 9 + (first >> 8)
            if following > end:
                break
            self._take(first & 0xFF, flags, stream & 0x7FFFFFFF, data[at + 9 : following], events)
            at = following
        self._input = data[at:]
        return events

    def _take(self, kind: int, flags: int, stream: int, payload: bytes, events: list[Event]) -> None:
        if kind == _DATA:
            self._took(stream, len(payload), bool(flags & _END_STREAM))
            if flags & _PADDED:
                payload = payload[1 : len(payload) - payload[0]]
            events.append(Event(stream, None, payload, bool(flags & _END_STREAM)))
        elif kind in (_HEADERS, _CONTINUATION):
            if flags & _PADDED and kind == _HEADERS:
                payload = payload[1 : len(payload) - payload[0]]
            if flags & _PRIORITY and kind == _HEADERS:
                payload = payload[5:]
            self._block += payload
            self._ended = bool(flags & _END_STREAM) if kind == _HEADERS else self._ended
            if flags & _END_HEADERS:
                fields = [(name, value) for name, value, _ in self._decoder.decode(self._block, True)]
                self._block = b""
                events.append(Event(stream, fields, b"", self._ended))
        elif kind == _WINDOW:
            self._widen(stream, int.from_bytes(payload, "big") & 0x7FFFFFFF)
        elif kind == _SETTINGS and not flags & _ACK:
            self._settle(payload)
        elif kind == _PING and not flags & _ACK:
            self._output += frame(_PING, _ACK, 0, payload)
        elif kind == _RESET:
            self._sending.pop(stream, None)
            self._taken_of.pop(stream, None)
            events.append(Event(stream, None, b"", True, int.from_bytes(payload, "big")))
        elif kind == _GOAWAY and payload[4:8] != b"\0\0\0\0":
            raise ConnectionError(f"the peer said goodbye: {payload[4:]!r}")

    def _took(self, stream: int, size: int, ended: bool) -> None:
        """Give windows back by halves."""
        self._taken += size
        if self._taken > _WINDOW_BYTES // 2:
            self._output += frame(_WINDOW, 0, 0, struct.pack(">I", self._taken))
            self._taken = 0
        if ended:
            self._taken_of.pop(stream, None)
            return
        taken = self._taken_of.get(stream, 0) + size
        if taken > _WINDOW_BYTES // 2:
            self._output += frame(_WINDOW, 0, stream, struct.pack(">I", taken))
            taken = 0
        self._taken_of[stream] = taken

    def _widen(self, stream: int, size: int) -> None:
        if not stream:
            self._window += size
            self._ready.extend(self._sending)
        elif stream in self._sending:
            self._sending[stream].window += size
            self._ready.append(stream)

    def _settle(self, payload: bytes) -> None:
        for name, value in struct.iter_unpack(">HI", payload):
            if name == 4:
                for sending in self._sending.values():
                    sending.window += value - self._first_window
                self._first_window = value
                self._ready.extend(self._sending)
            elif name == 5:
                self._frame_max = value
            elif name == 1:
                self._encoder.header_table_size = min(value, 4096)
        self._output += frame(_SETTINGS, _ACK, 0)
