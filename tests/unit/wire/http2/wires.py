"""An owner that writes down what it is told, and frames as bytes."""

from __future__ import annotations

import struct
from typing import NamedTuple

import pytest

from edge_runtime.wire.http2 import (
    ConnectionFault,
    Engine,
    Header,
    Http2Connection,
    StreamState,
    WireLimits,
    engine,
)
from edge_runtime.wire.http2 import codes as c

ENGINES = pytest.mark.parametrize("codec", [engine("jh2"), engine("h2")], ids=["jh2", "h2"])
REQUEST: list[Header] = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/a"), (b":authority", b"node")]
OK: list[Header] = [(b":status", b"200")]
END_BLOCK = c.FLAG_END_HEADERS
END_BOTH = c.FLAG_END_HEADERS | c.FLAG_END_STREAM


class Frame(NamedTuple):
    kind: int
    flags: int
    stream_id: int
    payload: bytes

    @property
    def code(self) -> int:
        """Of a RST_STREAM or GOAWAY."""
        return struct.unpack(">I", self.payload[:4] if self.kind == c.RST_STREAM else self.payload[4:8])[0]


def frame(kind: int, flags: int = 0, stream_id: int = 0, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream_id.to_bytes(4, "big") + payload


def settings(*pairs: tuple[int, int]) -> bytes:
    return frame(c.SETTINGS, 0, 0, b"".join(struct.pack(">HI", *pair) for pair in pairs))


def word(number: int) -> bytes:
    return struct.pack(">I", number)


def frames(data: bytes) -> list[Frame]:
    """A client's preface is left out."""
    data = data.removeprefix(c.PREFACE)
    found = []
    while data:
        size = int.from_bytes(data[:3], "big")
        found.append(Frame(data[3], data[4], int.from_bytes(data[5:9], "big"), data[9 : 9 + size]))
        assert len(found[-1].payload) == size
        data = data[9 + size :]
    return found


class Seen(StreamState):
    """A stream and what was said about it."""

    __slots__ = ("data", "headers", "reset", "trailers")

    def __init__(self) -> None:
        super().__init__()
        self.headers: list[list[Header]] = []
        self.trailers: list[Header] | None = None
        self.data: list[bytes] = []
        self.reset: tuple[int, bool] | None = None


class End:
    """One end of a connection."""

    def __init__(self, codec: Engine, *, client: bool = False, limits: WireLimits = WireLimits()) -> None:  # noqa: B008
        self.wire: Http2Connection[Seen] = Http2Connection(self, limits, codec, client=client)
        self.encoder = codec.new_encoder()  # of a made-up peer
        self.decoder = codec.new_decoder(2**20)
        self.seen: dict[int, Seen] = {}
        self.grown: list[int] = []
        self.pongs: list[bytes] = []
        self.goaways: list[tuple[int, int, bytes]] = []
        self.closed: list[int] = []
        self.settled = 0
        self.refuse = False
        self.wire.begin()

    # --- a made-up peer ---------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """The peer begins as it shall; what we say to it is forgotten."""
        self.give(settings())
        self.wire.take_out()

    def give(self, data: bytes, now: float = 0.0) -> list[Frame]:
        """What the peer sends, in one piece; what we answer."""
        if not self.wire.settled and not self.wire._client:
            data = c.PREFACE + data
        self.wire.receive(data, now)
        return frames(self.wire.take_out())

    def fault(self, data: bytes, now: float = 0.0) -> str:
        """The same when it ends the connection: the reason, which the GOAWAY has too."""
        with pytest.raises(ConnectionFault) as caught:
            self.give(data, now)
        goaway = frames(self.wire.take_out())[-1]
        assert goaway.kind == c.GOAWAY
        assert goaway.code == caught.value.code
        assert goaway.payload[8:].decode() == caught.value.text
        assert self.wire.failed
        return c.code_name(caught.value.code)

    def head(
        self, stream_id: int = 1, headers: list[Header] = REQUEST, flags: int = END_BLOCK, prefix: bytes = b""
    ) -> bytes:
        return frame(c.HEADERS, flags, stream_id, prefix + self.encoder.encode(headers))

    # --- the owner --------------------------------------------------------------------------------------------------

    def new_stream(self) -> Seen | None:
        return None if self.refuse else Seen()

    def headers_received(self, stream: Seen, headers: list[Header], end: bool) -> None:
        self.seen[stream.id] = stream
        stream.headers.append(headers)

    def trailers_received(self, stream: Seen, headers: list[Header]) -> None:
        stream.trailers = headers

    def data_received(self, stream: Seen, data: bytes, end: bool) -> None:
        stream.data.append(data)

    def stream_reset(self, stream: Seen, code: int, remote: bool) -> None:
        stream.reset = (code, remote)

    def stream_closed(self, stream: Seen) -> None:
        assert stream.closed
        self.closed.append(stream.id)

    def room_grew(self, stream: Seen | None) -> None:
        self.grown.append(0 if stream is None else stream.id)

    def settings_received(self) -> None:
        self.settled += 1

    def pong_received(self, data: bytes) -> None:
        self.pongs.append(data)

    def goaway_received(self, last_id: int, code: int, text: bytes) -> None:
        self.goaways.append((last_id, code, text))


def server(codec: Engine, limits: WireLimits = WireLimits()) -> End:  # noqa: B008
    end = End(codec, limits=limits)
    end.settle()
    return end


def pair(codec: Engine, other: Engine | None = None) -> tuple[End, End]:
    """A client and a server that have greeted one another."""
    ends = End(codec, client=True), End(other or codec)
    exchange(*ends)
    return ends


def exchange(client: End, server: End) -> None:
    """Until neither has anything to say."""
    while client.wire.out or server.wire.out:
        server.wire.receive(client.wire.take_out(), 0.0)
        client.wire.receive(server.wire.take_out(), 0.0)


def opened(client: End, headers: list[Header] = REQUEST, end: bool = False) -> Seen:
    stream = Seen()
    client.wire.open_stream(stream, headers, end)
    return stream
