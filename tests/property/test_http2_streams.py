"""The server's end of HTTP/2 over mutated connections: nothing hangs, leaks or fails by an error of ours.

The corpus is what a client of another make (h2) says on good connections. A mutation flips bits, cuts, splices, doubles
and swaps frames, or writes over lengths, types and stream numbers. Two claims are held: the wire answers the same
however its input is cut; and a server over sockets ends each connection, with every task and stream of it.
"""

from __future__ import annotations

import logging
import random
import socket
from collections.abc import Callable

import h2.config
import h2.connection
import h2.settings
import pytest
import trio

from edge_runtime.net.connections import Connection
from edge_runtime.net.http2 import Http2Limits, Http2Server, Stream
from edge_runtime.wire.http2 import ConnectionFault, Engine, GuardLimits, Header, Http2Connection, WireLimits, engine
from edge_runtime.wire.http2 import codes as c
from tests.unit.wire.http2.wires import End, Seen, frames, opened

ENGINES = (engine("jh2"), engine("h2"))
HEADERS = [
    (":method", "POST"), (":scheme", "http"), (":path", "/dapr.proto.runtime.v1.Dapr/GetState"), (":authority", "node"),
    ("te", "trailers"), ("content-type", "application/grpc"), ("user-agent", "grpc-python/1.85"),
]  # fmt: skip
LIMITS = Http2Limits(streams_max=5, header_list_bytes_max=4000, resets_max=20, useless_frames_max=50, settings_max=10)
WIRE_LIMITS = WireLimits(5, 4000, guard=GuardLimits(resets_max=20, useless_frames_max=50, settings_max=10))
RawFrame = tuple[int, int, int, bytes]
FrameChange = Callable[[random.Random, list[RawFrame]], None]
ByteChange = Callable[[random.Random, bytearray], None]
INTERESTING = (0, 1, 4, 5, 8, 9, 127, 128, 255)


def connection() -> h2.connection.H2Connection:
    client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    client.initiate_connection()
    return client


def unary() -> bytes:
    client = connection()
    for stream_id in (1, 3, 5):
        client.send_headers(stream_id, HEADERS)
        client.send_data(stream_id, b"\0\0\0\0\x05hello", end_stream=True)
    return client.data_to_send()


def streaming() -> bytes:
    client = connection()
    client.send_headers(1, HEADERS, priority_weight=3, priority_depends_on=0)
    client.send_headers(3, [*HEADERS, ("content-length", "12")])
    client.send_data(3, b"hello", pad_length=7)
    client.send_data(1, b"x" * 5000)
    client.ping(b"are you?")
    client.prioritize(1, 5, 3)
    client.send_data(3, b"again!!", end_stream=True)
    client.send_data(1, b"")
    client.send_headers(1, [("checksum", "abc")], end_stream=True)
    return client.data_to_send()


def leaving() -> bytes:
    client = connection()
    client.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 100, 65027: 1})
    client.send_headers(1, HEADERS, end_stream=True)
    client.send_headers(3, HEADERS)
    client.reset_stream(3, 8)
    client.increment_flow_control_window(100000)
    client.increment_flow_control_window(1000, 1)
    client.send_headers(5, [*HEADERS, *((f"x-{number}", "y" * number) for number in range(50))])
    client.close_connection(0, b"bye")
    return client.data_to_send()


def continued() -> bytes:
    """A header block over several frames, which h2 only does for large ones."""
    data = unary()
    found = frames(data)
    pieces = []
    for kind, flags, stream_id, payload in found:
        if kind != c.HEADERS or len(payload) < 3:
            pieces.append((kind, flags, stream_id, payload))
            continue
        pieces.append((kind, flags & ~c.FLAG_END_HEADERS, stream_id, payload[:2]))
        pieces.append((c.CONTINUATION, 0, stream_id, payload[2:3]))
        pieces.append((c.CONTINUATION, c.FLAG_END_HEADERS, stream_id, payload[3:]))
    return c.PREFACE + b"".join(map(encoded, pieces))


def encoded(one: RawFrame) -> bytes:
    kind, flags, stream_id, payload = one
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream_id.to_bytes(4, "big") + payload


def replies() -> bytes:
    """What a server says to three requests; behind a client's preface, so that it is changed as the others are."""
    server = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
    server.initiate_connection()
    server.receive_data(unary())
    for stream_id in (1, 3, 5):
        server.send_headers(stream_id, [(":status", "100")])
        server.send_headers(stream_id, [(":status", "200"), ("content-type", "application/grpc")])
        server.send_data(stream_id, b"\0\0\0\0\x05hello", pad_length=stream_id)
        server.ping(b"are you?")
        server.send_headers(stream_id, [("grpc-status", "0")], end_stream=True)
    server.close_connection(0, b"bye", 3)
    return c.PREFACE + server.data_to_send()


CORPUS = tuple(make() for make in (unary, streaming, leaving, continued))


def flip(rng: random.Random, data: bytearray) -> None:
    for _ in range(rng.randint(1, 4)):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def overwrite(rng: random.Random, data: bytearray) -> None:
    data[rng.randrange(len(data))] = rng.choice(INTERESTING)


def cut(rng: random.Random, data: bytearray) -> None:
    begin = rng.randrange(len(data))
    del data[begin : begin + rng.choice((1, 1, 2, 9, 50, len(data)))]


def splice(rng: random.Random, data: bytearray) -> None:
    other = rng.choice(CORPUS)
    begin = rng.randrange(len(other))
    at = rng.randrange(len(data))
    data[at:at] = other[begin : begin + rng.choice((1, 4, 9, 40, 500))]


def on_frames(change: FrameChange, rng: random.Random, data: bytearray) -> None:
    """Changes whole frames, as long as they are whole."""
    if not data.startswith(c.PREFACE):
        return
    try:
        found: list[RawFrame] = [tuple(one) for one in frames(bytes(data))]
    except (AssertionError, IndexError):
        return
    if found:
        change(rng, found)
    data[:] = c.PREFACE + b"".join(map(encoded, found))


def double(rng: random.Random, found: list[RawFrame]) -> None:
    at = rng.randrange(len(found))
    found[at:at] = [found[at]] * rng.choice((1, 1, 2, 60))


def swap(rng: random.Random, found: list[RawFrame]) -> None:
    one, other = rng.randrange(len(found)), rng.randrange(len(found))
    found[one], found[other] = found[other], found[one]


def retype(rng: random.Random, found: list[RawFrame]) -> None:
    at = rng.randrange(len(found))
    kind, flags, stream_id, payload = found[at]
    field = rng.randrange(4)
    found[at] = (
        rng.randrange(12) if field == 0 else kind,
        rng.randrange(256) if field == 1 else flags,
        rng.choice((0, 1, 2, 3, 7, 2**31 - 1, 2**31)) if field == 2 else stream_id,
        rng.randbytes(rng.choice((0, 1, 4, 5, 6, 8, 30))) if field == 3 else payload,
    )


REPLIES = (replies(),)
BYTE_CHANGES: tuple[ByteChange, ...] = (flip, overwrite, cut, splice)
FRAME_CHANGES: tuple[FrameChange, ...] = (double, swap, retype)


def mutated(rng: random.Random, corpus: tuple[bytes, ...] = CORPUS) -> bytes:
    data = bytearray(rng.choice(corpus))
    for _ in range(rng.choice((0, 1, 1, 1, 2, 2, 3, 5))):
        if not data:
            break
        if rng.random() < 0.5:
            on_frames(rng.choice(FRAME_CHANGES), rng, data)
        else:
            rng.choice(BYTE_CHANGES)(rng, data)
    return bytes(data)


# --- the wire ---------------------------------------------------------------------------------------------------------


class Answering(End):
    """Takes what comes, and answers when a request has ended."""

    def headers_received(self, stream: Seen, headers: list[Header], end: bool) -> None:
        super().headers_received(stream, headers, end)
        if end:
            self._answer(stream)

    def data_received(self, stream: Seen, data: bytes, end: bool) -> None:
        super().data_received(stream, data, end)
        self.wire.take(stream, len(data))
        if end:
            self._answer(stream)

    def trailers_received(self, stream: Seen, headers: list[Header]) -> None:
        super().trailers_received(stream, headers)
        self._answer(stream)

    def _answer(self, stream: Seen) -> None:
        wire: Http2Connection[Seen] = self.wire
        wire.send_headers(stream, [(b":status", b"200")])
        if wire.sendable(stream) >= 5:
            wire.send_data(stream, b"reply")
        wire.send_headers(stream, [(b"grpc-status", b"0")], True)


def outcome_of(pieces: list[bytes], codec: Engine) -> tuple[object, ...]:
    """All that an end answers, and what is left of it."""
    end = Answering(codec, limits=WIRE_LIMITS)
    fault = None
    try:
        for piece in pieces:
            end.wire.receive(piece, 0.0)
    except ConnectionFault as caught:
        fault = str(caught)
    wire = end.wire
    answers = frames(wire.take_out())
    assert len(wire.streams) <= 5
    assert all(not stream.closed for stream in wire.streams.values())
    assert set(wire.streams).isdisjoint(end.closed)
    assert len(end.closed) == len(set(end.closed))
    for stream_id in end.closed:
        assert stream_id in end.seen
    seen = [(one.id, one.headers, one.trailers, b"".join(one.data), one.reset) for one in end.seen.values()]
    return fault, answers, seen, sorted(wire.streams)


def hold_the_wire(inputs: int, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(inputs):
        data = mutated(rng)
        cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randint(0, 6)))
        pieces = [data[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
        codec = rng.choice(ENGINES)
        whole = outcome_of([data], codec)
        assert outcome_of(pieces, codec) == whole, (data, cuts)
        others = [outcome_of([data], other) for other in ENGINES]
        if "COMPRESSION" not in f"{others[0][0]}{others[1][0]}":
            assert others[0][0] == others[1][0], data
            assert others[0][2] == others[1][2], data


def hold_the_client(inputs: int, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(inputs):
        data = mutated(rng, REPLIES).removeprefix(c.PREFACE)
        end = End(rng.choice(ENGINES), client=True, limits=WIRE_LIMITS)
        streams = [opened(end, end=bool(number)) for number in range(3)]
        try:
            end.wire.receive(data, 0.0)
        except ConnectionFault:
            pass
        frames(end.wire.take_out())
        for stream in streams:
            assert stream.closed == (stream.id in end.closed) == (stream.id not in end.wire.streams)


# --- the server -------------------------------------------------------------------------------------------------------


async def converse(stream: Stream) -> None:
    """Sends back what comes."""
    stream.send_headers([(b":status", b"200")])
    while (data := await stream.receive()) is not None:
        await stream.send_data(data)
    stream.send_headers([(b"grpc-status", b"0")], end=True)


async def exchange(server: Http2Server, data: bytes) -> bytes:
    """What is answered to these bytes, until the server has ended the connection."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    answered = b""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve_connection, Connection(theirs), data[:100], "peer", "here")
        client = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        async with client:
            try:
                await client.send_all(data[100:])
                await client.send_eof()
                while piece := await client.receive_some(65536):
                    answered += piece
            except trio.BrokenResourceError:
                pass
    return answered


async def hold_the_server(inputs: int, seed: int) -> None:
    rng = random.Random(seed)
    servers = [Http2Server(converse, LIMITS, engine=codec) for codec in ENGINES]
    for _ in range(inputs):
        data = mutated(rng)
        server = rng.choice(servers)
        with trio.fail_after(20):
            answered = await exchange(server, data)
        assert (server.connections_open, server.streams_open) == (0, 0), data
        answers = frames(answered)
        assert not answers or answers[0].kind == c.SETTINGS


@pytest.mark.slow
def test_the_wire_takes_anything() -> None:
    hold_the_wire(1500, 1)


@pytest.mark.slow
async def test_the_server_takes_anything(caplog: pytest.LogCaptureFixture) -> None:
    await hold_the_server(1500, 2)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.slow
def test_the_client_takes_anything() -> None:
    hold_the_client(3000, 5)


@pytest.mark.long
def test_the_wire_takes_anything_for_long() -> None:
    hold_the_wire(100_000, 3)


@pytest.mark.long
async def test_the_server_takes_anything_for_long(caplog: pytest.LogCaptureFixture) -> None:
    await hold_the_server(100_000, 4)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
