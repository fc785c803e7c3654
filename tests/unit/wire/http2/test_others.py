"""Our end against one of another make: h2's whole connection, which checks what it receives."""

from __future__ import annotations

from typing import TypeVar

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings

from edge_runtime.wire.http2 import Engine
from edge_runtime.wire.http2 import codes as c
from tests.unit.wire.http2.wires import ENGINES, OK, REQUEST, End, opened

E = TypeVar("E", bound=h2.events.Event)
TRAILERS = [(b"grpc-status", b"0")]


class Other:
    """The other make."""

    def __init__(self, *, client: bool) -> None:
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=client))
        self.h2.initiate_connection()
        self.events: list[h2.events.Event] = []

    def exchange(self, end: End) -> None:
        """Until neither has anything to say."""
        while True:
            theirs = self.h2.data_to_send()
            if theirs:
                end.wire.receive(theirs, 0.0)
            ours = end.wire.take_out()
            if ours:
                self.events += self.h2.receive_data(ours)
            if not theirs and not ours:
                return

    def take(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]


@ENGINES
def test_h2_calls_us(codec: Engine) -> None:
    other, end = Other(client=True), End(codec)
    other.exchange(end)
    for stream_id in range(1, 41, 2):
        other.h2.send_headers(stream_id, REQUEST)
        other.h2.send_data(stream_id, b"question", pad_length=9)
        other.h2.send_headers(stream_id, [(b"sum", b"1")], end_stream=True)
        other.exchange(end)
        asked = end.seen[stream_id]
        assert (asked.headers, asked.data, asked.trailers) == ([REQUEST], [b"question"], [(b"sum", b"1")])
        end.wire.send_headers(asked, OK)
        end.wire.send_data(asked, b"x" * 40000)
        end.wire.send_headers(asked, TRAILERS, True)
        other.exchange(end)
        for event in other.take(h2.events.DataReceived):
            other.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        assert sum(len(event.data) for event in other.take(h2.events.DataReceived)) == 40000
        assert other.take(h2.events.TrailersReceived)[0].headers == TRAILERS
        other.events.clear()
    assert not end.wire.streams


@ENGINES
def test_we_call_h2(codec: Engine) -> None:
    other, end = Other(client=False), End(codec, client=True)
    other.exchange(end)
    for stream_id in range(1, 41, 2):
        stream = opened(end, [*REQUEST, (b"number", b"%d" % stream_id)])
        end.wire.send_data(stream, b"question", True)
        other.exchange(end)
        (request,) = other.take(h2.events.RequestReceived)
        assert list(request.headers) == [*REQUEST, (b"number", b"%d" % stream_id)]
        other.h2.send_headers(stream_id, OK)
        other.h2.send_data(stream_id, b"answer", pad_length=3)
        other.h2.send_headers(stream_id, TRAILERS, end_stream=True)
        other.exchange(end)
        assert (stream.headers, stream.data, stream.trailers) == ([OK], [b"answer"], TRAILERS)
        other.events.clear()
    assert not end.wire.streams


@ENGINES
def test_settings_change_meanwhile(codec: Engine) -> None:
    other, end = Other(client=True), End(codec)
    other.h2.send_headers(1, REQUEST)
    other.exchange(end)
    code = h2.settings.SettingCodes
    other.h2.update_settings({code.INITIAL_WINDOW_SIZE: 10, code.MAX_FRAME_SIZE: 20000, code.HEADER_TABLE_SIZE: 0})
    other.exchange(end)
    stream = end.seen[1]
    assert (end.wire.sendable(stream), end.wire.peer_frame_bytes) == (10, 20000)
    end.wire.send_headers(stream, [*OK, (b"large", bytes(range(128, 256)) * 160)])
    end.wire.send_data(stream, b"0123456789")
    other.exchange(end)
    assert other.take(h2.events.DataReceived)[0].data == b"0123456789"
    other.h2.increment_flow_control_window(30000, 1)
    other.exchange(end)
    end.wire.send_data(stream, b"x" * 30000, True)
    other.exchange(end)
    assert [len(event.data) for event in other.take(h2.events.DataReceived)] == [10, 20000, 10000]


@ENGINES
def test_resets_and_goodbyes_are_understood(codec: Engine) -> None:
    other, end = Other(client=True), End(codec)
    other.h2.send_headers(1, REQUEST)
    other.exchange(end)
    end.wire.reset(end.seen[1], c.REFUSED_STREAM)
    end.wire.go_away(c.ENHANCE_YOUR_CALM, b"too_many_pings")
    other.exchange(end)
    assert other.take(h2.events.StreamReset)[0].error_code == h2.errors.ErrorCodes.REFUSED_STREAM
    goodbye = other.take(h2.events.ConnectionTerminated)[0]
    assert (goodbye.error_code, goodbye.last_stream_id) == (h2.errors.ErrorCodes.ENHANCE_YOUR_CALM, 1)
    assert goodbye.additional_data == b"too_many_pings"
