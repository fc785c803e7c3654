"""Valid traffic between our end of HTTP/2 and the one of h2: whatever the order of things, both agree on it.

A schedule opens streams, sends heads, data, trailers and resets in both directions, gives credit, changes settings,
pings, and delivers the bytes in pieces of any size at any time. At its end everything is delivered: what one side has
sent the other has got, and each knows how much the other may still send.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest

from edge_runtime.wire.http2 import Engine, Header, WireLimits, engine
from tests.unit.wire.http2.wires import End, Seen

ENGINES = [engine("jh2"), engine("h2")]
REQUEST: list[Header] = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/a"), (b":authority", b"node")]
OK: list[Header] = [(b":status", b"200")]
STREAMS_MAX = 12
LIMITS = WireLimits(streams_max=STREAMS_MAX, stream_window_bytes=70_000, connection_window_bytes=100_000)
# No MAX_FRAME_SIZE: h2 does not take a larger frame in the same bytes as the acknowledgment before it.
SETTINGS: list[dict[int, int]] = [
    {h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: size} for size in (0, 100, 65535, 100_000)
]
SETTINGS += [{h2.settings.SettingCodes.HEADER_TABLE_SIZE: size} for size in (0, 100, 4096, 65536)]


class Log:
    """What was said on a stream in one direction."""

    def __init__(self) -> None:
        self.heads: list[list[Header]] = []
        self.data = bytearray()
        self.ended = False
        self.untaken = 0

    def __repr__(self) -> str:
        return f"{self.heads} {len(self.data)} bytes, ended: {self.ended}"

    def begins(self, other: Log) -> bool:
        """Whether the other may be what came after it."""
        return self.heads == other.heads[: len(self.heads)] and other.data.startswith(self.data)


class Side:
    """One of the two ends; `sent` and `got` are by stream, `over` has the streams that either end has reset."""

    def __init__(self) -> None:
        self.sent: dict[int, Log] = {}
        self.got: dict[int, Log] = {}
        self.over: set[int] = set()

    def log(self, stream_id: int) -> Log:
        return self.got.setdefault(stream_id, Log())

    def open_streams(self) -> list[int]:
        """Those on which it may send."""
        known = self.sent.keys() | self.got.keys()
        return [one for one in known - self.over if one not in self.sent or not self.sent[one].ended]

    def say(self, stream_id: int, head: Sequence[Header] | None, data: bytes, end: bool) -> None:
        log = self.sent.setdefault(stream_id, Log())
        if head is not None:
            log.heads.append(list(head))
        log.data += data
        log.ended = end


class Ours(Side):
    def __init__(self, codec: Engine, client: bool) -> None:
        super().__init__()
        self.end = End(codec, client=client, limits=LIMITS)
        self.streams = self.end.seen
        self.pinged = 0

    def open(self, fields: list[Header], end: bool) -> int | None:
        wire = self.end.wire
        if len(wire.streams) >= min(wire.peer_streams_max, STREAMS_MAX):
            return None
        stream = Seen()
        wire.open_stream(stream, fields, end)
        self.streams[stream.id] = stream
        self.say(stream.id, fields, b"", end)
        return stream.id

    def room(self, stream_id: int) -> int:
        return self.end.wire.sendable(self.streams[stream_id])

    def send_headers(self, stream_id: int, fields: list[Header], end: bool) -> None:
        self.end.wire.send_headers(self.streams[stream_id], fields, end)
        self.say(stream_id, fields, b"", end)

    def send_data(self, stream_id: int, data: bytes, end: bool, _: random.Random) -> None:
        self.end.wire.send_data(self.streams[stream_id], data, end)
        self.say(stream_id, None, data, end)

    def reset(self, stream_id: int, code: int) -> None:
        self.end.wire.reset(self.streams[stream_id], code)
        self.over.add(stream_id)

    def take(self, stream_id: int, size: int) -> None:
        self.end.wire.take(self.streams[stream_id], size)

    def ping(self) -> None:
        self.end.wire.ping(b"question")
        self.pinged += 1

    def change(self, rng: random.Random) -> None:
        """Our settings never change."""

    def feed(self, data: bytes) -> None:
        self.end.wire.receive(data, 0.0)
        for stream_id, stream in self.streams.items():
            self._note(stream_id, stream)

    def _note(self, stream_id: int, stream: Seen) -> None:
        log = self.log(stream_id)
        log.heads = [*stream.headers, *([] if stream.trailers is None else [stream.trailers])]
        for piece in stream.data:
            log.data += piece
            log.untaken += len(piece)
        stream.data.clear()
        log.ended = stream.received_end
        if stream.reset is not None:
            assert stream.reset[1], "none of this is against a rule"
            self.over.add(stream_id)

    def out(self) -> bytes:
        return self.end.wire.take_out()


class Theirs(Side):
    def __init__(self, client: bool) -> None:
        super().__init__()
        config = h2.config.H2Configuration(client_side=client, header_encoding=None)
        self.h2 = h2.connection.H2Connection(config)
        if not client:
            initial = {h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: 5}
            self.h2.local_settings = h2.settings.Settings(client=False, initial_values=initial)
        self.h2.initiate_connection()
        self.pinged = 0
        self.ponged = 0
        self.asked = True  # settings that are not acknowledged yet

    def open(self, fields: list[Header], end: bool) -> int | None:
        if self.h2.open_outbound_streams >= self.h2.remote_settings.max_concurrent_streams:
            return None
        stream_id = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream_id, fields, end_stream=end)
        self.say(stream_id, fields, b"", end)
        return stream_id

    def room(self, stream_id: int) -> int:
        return self.h2.local_flow_control_window(stream_id)

    def send_headers(self, stream_id: int, fields: list[Header], end: bool) -> None:
        self.h2.send_headers(stream_id, fields, end_stream=end)
        self.say(stream_id, fields, b"", end)

    def send_data(self, stream_id: int, data: bytes, end: bool, rng: random.Random) -> None:
        data = data[: self.h2.max_outbound_frame_size - 100]
        padding = rng.randrange(20) if rng.random() < 0.3 and len(data) + 20 <= self.room(stream_id) else None
        self.h2.send_data(stream_id, data, end_stream=end, pad_length=padding)
        self.say(stream_id, None, data, end)

    def reset(self, stream_id: int, code: int) -> None:
        self.h2.reset_stream(stream_id, code)
        self.over.add(stream_id)

    def take(self, stream_id: int, size: int) -> None:
        self.h2.acknowledge_received_data(size, stream_id)

    def ping(self) -> None:
        self.h2.ping(b"question")
        self.pinged += 1

    def change(self, rng: random.Random) -> None:
        if rng.random() < 0.6 and not self.asked:  # one at a time: h2 takes an answer for that to all it has asked
            self.asked = True
            self.h2.update_settings(rng.choice(SETTINGS))
        else:
            self.h2.increment_flow_control_window(rng.randint(1, 1000))

    def feed(self, data: bytes) -> None:
        for event in self.h2.receive_data(data):
            self._note(event)

    def _note(self, event: h2.events.Event) -> None:
        if isinstance(
            event,
            h2.events.RequestReceived
            | h2.events.ResponseReceived
            | h2.events.InformationalResponseReceived
            | h2.events.TrailersReceived,
        ):
            if not isinstance(event, h2.events.InformationalResponseReceived):
                self.log(event.stream_id).heads.append([(name, value) for name, value in event.headers])
        elif isinstance(event, h2.events.DataReceived):
            log = self.log(event.stream_id)
            log.data += event.data
            log.untaken += event.flow_controlled_length
        elif isinstance(event, h2.events.StreamEnded):
            self.log(event.stream_id).ended = True
        elif isinstance(event, h2.events.StreamReset):
            assert event.remote_reset
            self.over.add(event.stream_id)
        elif isinstance(event, h2.events.SettingsAcknowledged):
            self.asked = False
        elif isinstance(event, h2.events.PingAckReceived):
            self.ponged += 1
        else:
            assert not isinstance(event, h2.events.ConnectionTerminated)

    def out(self) -> bytes:
        return self.h2.data_to_send()


End2 = Ours | Theirs


class Schedule:
    """A random conversation of a client and a server."""

    def __init__(self, rng: random.Random, codec: Engine, we_call: bool) -> None:
        self.rng = rng
        self.ours, self.theirs = Ours(codec, we_call), Theirs(not we_call)
        self.client: End2 = self.ours if we_call else self.theirs
        self.server: End2 = self.theirs if we_call else self.ours
        self.ends: list[End2] = [self.client, self.server]
        self.under_way: dict[End2, bytes] = {self.client: b"", self.server: b""}
        self.deliver_all()

    def other(self, end: End2) -> End2:
        return self.server if end is self.client else self.client

    def run(self, steps: int) -> None:
        steps_and_weights = {
            self.open: 3, self.head: 4, self.data: 10, self.finish: 3, self.reset: 1, self.take: 8, self.change: 1,
            self.ping: 1, self.deliver: 12,
        }  # fmt: skip
        actions = self.rng.choices(list(steps_and_weights), list(steps_and_weights.values()), k=steps)
        for action in actions:
            action(self.rng.choice(self.ends))
        self.settle()

    def fields(self) -> list[Header]:
        rng = self.rng
        names = rng.sample([b"a", b"content-type", b"x-long-name", b"authorization"], rng.randint(0, 3))
        return [(name, rng.choice([b"1", b"%d" % rng.randrange(10**6), b"v" * rng.randint(0, 300)])) for name in names]

    def open(self, _: End2) -> None:
        self.client.open([*REQUEST, *self.fields()], self.rng.random() < 0.2)

    def head(self, _: End2) -> None:
        waiting = [one for one in self.server.open_streams() if one not in self.server.sent]
        if waiting:
            self.server.send_headers(self.rng.choice(waiting), [*OK, *self.fields()], self.rng.random() < 0.1)

    def begun(self, end: End2) -> int | None:
        """A stream on which it may send data."""
        begun = [one for one in end.open_streams() if one in end.sent]
        return self.rng.choice(begun) if begun else None

    def data(self, end: End2) -> None:
        stream_id = self.begun(end)
        if stream_id is not None and end.room(stream_id) >= 0:  # below that, h2 does not take an empty frame either
            size = min(self.rng.choice((0, 1, 10, 1000, 16384, 40_000)), end.room(stream_id))
            end.send_data(stream_id, self.rng.randbytes(size), self.rng.random() < 0.1, self.rng)

    def finish(self, end: End2) -> None:
        stream_id = self.begun(end)
        if stream_id is not None:
            if self.rng.random() < 0.5 or end.room(stream_id) < 0:
                end.send_headers(stream_id, [(b"sum", b"1"), *self.fields()], True)
            else:
                end.send_data(stream_id, b"", True, self.rng)

    def reset(self, end: End2) -> None:
        streams = end.open_streams()
        if streams:
            end.reset(self.rng.choice(streams), self.rng.choice((0, 2, 7, 8)))

    def take(self, end: End2, whole: bool = False) -> None:
        for stream_id, log in end.got.items():
            if log.untaken and (whole or self.rng.random() < 0.5):
                size = log.untaken if whole else self.rng.randint(1, log.untaken)
                log.untaken -= size
                end.take(stream_id, size)

    def change(self, end: End2) -> None:
        end.change(self.rng)

    def ping(self, end: End2) -> None:
        end.ping()

    def deliver(self, end: End2, whole: bool = False) -> None:
        self.under_way[end] += end.out()
        data = self.under_way[end]
        size = len(data) if whole else self.rng.choice((1, 9, 100, len(data)))
        self.under_way[end] = data[size:]
        if data:
            self.other(end).feed(data[:size])

    def deliver_all(self) -> None:
        while True:
            for end in self.ends:
                self.deliver(end, whole=True)
            for end in self.ends:
                self.under_way[end] += end.out()
            if not any(self.under_way.values()):
                return

    def settle(self) -> None:
        self.deliver_all()
        for end in self.ends:
            self.take(end, whole=True)
        self.deliver_all()

    def check(self) -> None:
        ours, theirs = self.ours, self.theirs
        assert ours.over == theirs.over
        for sender, receiver in ((ours, theirs), (theirs, ours)):
            for stream_id, sent in sender.sent.items():
                got = receiver.got.get(stream_id, Log())
                if stream_id in ours.over:
                    assert got.begins(sent), (stream_id, sent, got)
                else:
                    assert (got.heads, got.data, got.ended) == (sent.heads, sent.data, sent.ended), stream_id
        wire, other = ours.end.wire, theirs.h2
        assert wire.room == other.inbound_flow_control_window
        assert wire._granted == other.outbound_flow_control_window
        for stream_id, stream in wire.streams.items():
            if not stream.sent_end:
                assert stream.room == other.remote_flow_control_window(stream_id) or stream.room > wire.room
            if not stream.received_end:
                assert min(stream.granted, wire._granted) == other.local_flow_control_window(stream_id)
        assert len(wire.streams) == other.open_inbound_streams + other.open_outbound_streams
        assert (theirs.ponged, len(ours.end.pongs)) == (theirs.pinged, ours.pinged)


def hold(schedules: int, seed: int) -> None:
    for number in range(schedules):
        rng = random.Random(f"{seed}/{number}")
        schedule = Schedule(rng, rng.choice(ENGINES), rng.random() < 0.5)
        schedule.run(rng.choice((30, 100, 400)))
        schedule.check()


@pytest.mark.slow
def test_both_ends_agree() -> None:
    hold(150, 1)


@pytest.mark.long
def test_both_ends_agree_for_long() -> None:
    hold(10_000, 2)
