from __future__ import annotations

import socket
import struct

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from edge_runtime.net.connections import Connection
from edge_runtime.net.http2 import ConnectionLost, Http2Limits, Stream, StreamReset
from edge_runtime.wire.http2 import codes as c
from tests.unit.net.http2.serving import (
    ENGINES,
    LIMITS,
    OK,
    REQUEST,
    TRAILERS,
    Served,
    ask,
    echo,
    read_all,
    serving,
)
from tests.unit.wire.http2.wires import END_BOTH, frame, settings, word


async def gone(served: Served) -> None:
    """When the server has no connection left."""
    while served.server.connections_open:  # noqa: ASYNC110 there is no event of it
        await trio.sleep(0.1)


PING = frame(c.PING, 0, 0, b"12345678")


# --- streams ----------------------------------------------------------------------------------------------------------


async def test_a_reset_cancels_the_handler() -> None:
    begun, ended = trio.Event(), trio.Event()

    async def wait(stream: Stream) -> None:
        begun.set()
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async with serving(wait) as served, served.client() as client:
        stream = await client.open_stream(REQUEST)
        await begun.wait()
        stream.reset(c.CANCEL)
        await ended.wait()
        await wait_all_tasks_blocked()
        assert served.server.streams_open == 0
        with pytest.raises(StreamReset):
            await stream.response()
        assert client.usable


async def test_others_do_not_feel_a_reset() -> None:
    async def wait_or_echo(stream: Stream) -> None:
        if stream.headers != REQUEST:
            await trio.sleep_forever()
        await echo(stream)

    async with serving(wait_or_echo) as served, served.client() as client:
        for _ in range(20):
            stream = await client.open_stream([*REQUEST, (b"wait", b"1")])
            await wait_all_tasks_blocked()
            stream.reset(c.CANCEL)
            assert (await ask(client))[1] == b"hello"


async def test_a_lost_connection_cancels_all(autojump_clock: MockClock) -> None:
    begun, cancelled = 0, 0

    async def wait(stream: Stream) -> None:
        nonlocal begun, cancelled
        begun += 1
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            cancelled += 1
            raise

    async with serving(wait) as served:
        async with served.raw() as raw:
            await raw.send(*(raw.head(number) for number in range(1, 21, 2)))
            while begun < 10:
                await trio.lowlevel.checkpoint()
        await gone(served)
    assert cancelled == 10
    assert served.server.streams_open == 0


async def test_a_handler_that_fails_harms_its_stream(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(stream: Stream) -> None:
        if stream.headers != REQUEST:
            raise KeyError("oops")
        await echo(stream)

    async with serving(fail) as served, served.client() as client:
        stream = await client.open_stream([*REQUEST, (b"fail", b"1")], end=True)
        with pytest.raises(StreamReset) as caught:
            await stream.response()
        assert caught.value.reset_code == c.INTERNAL_ERROR
        assert (await ask(client))[1] == b"hello"
    assert "oops" in caplog.text


async def test_a_handler_that_just_returns_resets() -> None:
    async def leave(stream: Stream) -> None:
        stream.send_headers(OK)

    async with serving(leave) as served, served.client() as client:
        stream = await client.open_stream(REQUEST, end=True)
        assert await stream.response() == OK
        with pytest.raises(StreamReset, match="INTERNAL_ERROR"):
            await stream.receive()


async def test_an_early_answer_stops_the_request() -> None:
    async def answer(stream: Stream) -> None:
        stream.send_headers(OK)
        stream.send_headers(TRAILERS, end=True)

    async with serving(answer) as served, served.client() as client:
        stream = await client.open_stream(REQUEST)
        with pytest.raises(StreamReset, match="NO_ERROR"):
            await stream.send_data(b"x" * 3000000)
        assert await stream.response() == OK
        assert await stream.receive() is None
        assert stream.trailers == TRAILERS


async def test_an_end_may_be_an_empty_frame() -> None:
    async with serving(echo) as served, served.raw() as raw:
        await raw.send(raw.head(), frame(c.DATA, 0, 1, b"abc"))
        assert (await raw.next(c.HEADERS)).flags & c.FLAG_END_STREAM == 0
        assert (await raw.next(c.DATA)).payload == b"abc"
        await raw.send(frame(c.DATA, c.FLAG_END_STREAM, 1))
        assert (await raw.next(c.HEADERS)).flags & c.FLAG_END_STREAM


async def test_one_task_a_direction() -> None:
    async with serving(echo) as served, served.client() as client, trio.open_nursery() as nursery:
        stream = await client.open_stream(REQUEST)
        await stream.response()
        nursery.start_soon(stream.receive)
        await wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await stream.receive()
        nursery.cancel_scope.cancel()


async def test_a_send_can_be_given_up() -> None:
    async def never_take(stream: Stream) -> None:
        await trio.sleep_forever()

    async with serving(never_take) as served, served.client() as client, trio.open_nursery() as nursery:
        stream = await client.open_stream(REQUEST)
        nursery.start_soon(stream.send_data, b"x" * 2**20)
        await wait_all_tasks_blocked(0.01)
        with pytest.raises(trio.BusyResourceError):
            await stream.send_data(b"x" * 2**20)
        assert not stream.try_send_data(b"x")
        nursery.cancel_scope.cancel()
    assert not client.senders


async def test_nothing_follows_an_end() -> None:
    async with serving(echo) as served, served.client() as client:
        stream = await client.open_stream(REQUEST, end=True)
        with pytest.raises(RuntimeError):
            stream.send_headers(TRAILERS, end=True)
        with pytest.raises(RuntimeError):
            await stream.send_data(b"x")


async def test_answers_leave_together(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[bytes] = []
    try_send = Connection.try_send

    def count(self: Connection, data: bytes) -> int:
        sent.append(data)
        return try_send(self, data)

    async with serving(echo) as served, served.raw() as raw:
        await raw.next(c.SETTINGS)
        await raw.next(c.SETTINGS)
        await wait_all_tasks_blocked()
        monkeypatch.setattr(Connection, "try_send", count)
        await raw.send(*(raw.head(number, END_BOTH) for number in range(1, 41, 2)))
        assert sorted([(await raw.next(c.HEADERS)).stream_id for _ in range(40)]) == sorted([*range(1, 41, 2)] * 2)
        assert len(sent) == 1


async def test_tasks_are_used_again() -> None:
    tasks = set()

    async def note(stream: Stream) -> None:
        tasks.add(id(trio.lowlevel.current_task()))
        await echo(stream)

    async with serving(note) as served, served.client() as client:
        for _ in range(50):
            await ask(client)
    assert len(tasks) == 1


# --- back-pressure ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@ENGINES
async def test_large_messages_need_no_memory(codec: str) -> None:
    piece = bytes(2**20)
    received = 0

    async def count(stream: Stream) -> None:
        nonlocal received
        while (data := await stream.receive()) is not None:
            received += len(data)
            assert len(data) <= LIMITS.stream_window_bytes
        stream.send_headers(OK, end=True)

    async with serving(count, codec=codec) as served, served.client() as client:
        stream = await client.open_stream(REQUEST)
        for _ in range(256):
            await stream.send_data(piece)
            assert client.wire.out_bytes <= LIMITS.write_buffer_bytes_max + 2**16
        await stream.send_data(b"", end=True)
        await stream.response()
    assert received == 2**28


async def test_senders_take_turns() -> None:
    """Streams that share a window are all served, none waits for another's end."""
    body = b"x" * 1000000
    async with serving(echo) as served, served.client() as client:
        ends: list[int] = []

        async def call(number: int) -> None:
            stream = await client.open_stream(REQUEST)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.send_data, body, True)
                assert await read_all(stream) == body
            ends.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(call, number)
    assert sorted(ends) == list(range(20))


async def test_a_window_may_shrink_while_we_send() -> None:
    async def send(stream: Stream) -> None:
        stream.send_headers(OK)
        await stream.send_data(b"x" * 100, end=True)

    async with serving(send) as served, served.raw((c.SETTING_INITIAL_WINDOW_SIZE, 40)) as raw:
        await raw.send(raw.head(1, END_BOTH))
        assert len((await raw.next(c.DATA)).payload) == 40
        await raw.send(settings((c.SETTING_INITIAL_WINDOW_SIZE, 10)), frame(c.WINDOW_UPDATE, 0, 1, word(50)))
        assert len((await raw.next(c.DATA)).payload) == 20
        await raw.send(settings((c.SETTING_INITIAL_WINDOW_SIZE, 1000)))
        last = await raw.next(c.DATA)
        assert (len(last.payload), last.flags) == (40, c.FLAG_END_STREAM)


async def test_who_never_reads_is_given_up(autojump_clock: MockClock) -> None:
    async def flood(stream: Stream) -> None:
        stream.send_headers(OK)
        while True:
            await stream.send_data(b"x" * 100000)

    window = (c.SETTING_INITIAL_WINDOW_SIZE, 2**31 - 1)
    limits = Http2Limits(keepalive_idle_s=0.0)
    async with serving(flood, limits) as served, served.raw(window) as raw:
        await raw.send(frame(c.WINDOW_UPDATE, 0, 0, word(2**30)), raw.head())
        while not served.server.streams_open:
            await trio.lowlevel.checkpoint()
        begun = trio.current_time()
        await gone(served)
        assert trio.current_time() - begun == pytest.approx(60, abs=1)


async def test_answers_nobody_reads_are_limited(autojump_clock: MockClock) -> None:
    """Replies to pings are no data: no window holds them back, the buffer's limit does."""
    limits = Http2Limits(pings_max=10**9, write_buffer_bytes_max=10000, ping_min_interval_s=0.0)
    async with serving(echo, limits) as served, served.raw() as raw:
        with pytest.raises(trio.BrokenResourceError):
            await raw.send(*[PING] * 10**6)
        await gone(served)


# --- the watch --------------------------------------------------------------------------------------------------------


async def test_who_does_not_read_begins_no_more() -> None:
    begun = 0

    async def large(stream: Stream) -> None:
        nonlocal begun
        begun += 1
        stream.send_headers(OK)
        await stream.send_data(b"x" * 1_000_000, True)

    async with serving(large, LIMITS._replace(waiting_bytes_max=3_000_000)) as served, served.client() as client:
        streams = [await client.open_stream(REQUEST, end=True) for _ in range(20)]
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert 3 < begun < 7
        async with trio.open_nursery() as nursery:
            for stream in streams:
                nursery.start_soon(read_all, stream)
        assert begun == 20


async def test_a_silent_client_is_asked(autojump_clock: MockClock) -> None:
    async with serving(echo) as served, served.raw() as raw:
        begun = trio.current_time()
        asked = await raw.next(c.PING)
        assert trio.current_time() - begun == pytest.approx(10, abs=0.1)
        await raw.send(frame(c.PING, c.FLAG_ACK, 0, asked.payload))
        await raw.next(c.PING)
        assert trio.current_time() - begun == pytest.approx(20, abs=0.2)
        await raw.next()
        assert trio.current_time() - begun == pytest.approx(25, abs=0.3)
        assert served.server.connections_open == 0


async def test_idle_connections_are_said_goodbye(autojump_clock: MockClock) -> None:
    async with serving(echo) as served, served.client() as client:
        await ask(client)
        begun = trio.current_time()
        await gone(served)
        assert trio.current_time() - begun == pytest.approx(180, abs=1)
        assert not client.usable


async def test_busy_connections_are_never_idle(autojump_clock: MockClock) -> None:
    async def slow(stream: Stream) -> None:
        await trio.sleep(1000)
        await echo(stream)

    async with serving(slow) as served, served.client() as client:
        assert (await ask(client))[1] == b"hello"


async def test_settings_have_to_come(autojump_clock: MockClock) -> None:
    async with serving(echo) as served, await trio.open_tcp_stream(served.origin.host, served.origin.port) as stream:
        await stream.send_all(c.PREFACE)
        begun = trio.current_time()
        while await stream.receive_some(1000):
            pass
        assert trio.current_time() - begun == pytest.approx(10, abs=0.1)


async def test_early_pings_end_the_connection(autojump_clock: MockClock) -> None:
    async with serving(echo) as served, served.raw() as raw:
        for _ in range(4):
            await raw.send(PING)
            await trio.sleep(5)
        goaway = await raw.next(c.GOAWAY)
        assert (goaway.code, goaway.payload[8:]) == (c.ENHANCE_YOUR_CALM, b"too_many_pings")
        await raw.next()
        assert raw.ended


async def test_workers_that_only_ping_are_kept(autojump_clock: MockClock) -> None:
    limits = Http2Limits(idle_max_s=0.0)
    async with serving(echo, limits) as served, served.raw() as raw:
        for _ in range(100):
            await raw.send(PING)
            while not (await raw.next(c.PING)).flags:
                pass
            await trio.sleep(8)
        assert served.server.connections_open == 1


# --- the end ----------------------------------------------------------------------------------------------------------


async def test_draining_waits_for_streams() -> None:
    go_on = trio.Event()

    async def slow(stream: Stream) -> None:
        await go_on.wait()
        await echo(stream)

    async with serving(slow) as served, served.client() as client, trio.open_nursery() as nursery:
        stream = await client.open_stream(REQUEST)
        while not served.server.streams_open:
            await trio.lowlevel.checkpoint()
        nursery.start_soon(served.server.drain, 10.0)
        while client.usable:
            await trio.lowlevel.checkpoint()
        with pytest.raises(ConnectionLost) as caught:
            await client.open_stream(REQUEST)
        assert caught.value.unprocessed
        go_on.set()
        await stream.send_data(b"late", end=True)
        assert await read_all(stream) == b"late"
    assert served.server.connections_open == 0


async def test_streams_in_flight_are_served_while_draining(autojump_clock: MockClock) -> None:
    async with serving(echo) as served, served.raw() as raw, trio.open_nursery() as nursery:
        await raw.send(raw.head(), PING)
        await raw.next(c.PING)
        nursery.start_soon(served.server.drain, 10.0)
        first = await raw.next(c.GOAWAY)
        assert (first.payload[:4], first.code) == (word(2**31 - 1), c.NO_ERROR)
        ping = await raw.next(c.PING)
        await raw.send(raw.head(3, END_BOTH), frame(c.PING, c.FLAG_ACK, 0, ping.payload), raw.head(5, END_BOTH))
        assert (await raw.next(c.GOAWAY)).payload[:4] == word(3)
        assert [(await raw.next(c.HEADERS)).stream_id for _ in range(2)] == [3, 3]
        await raw.send(frame(c.DATA, c.FLAG_END_STREAM, 1))
        assert (await raw.next(c.HEADERS)).stream_id == 1
        await raw.next()
        assert raw.ended


async def test_goodbyes_need_no_answer(autojump_clock: MockClock) -> None:
    async with serving(echo, LIMITS._replace(keepalive_idle_s=0.0)) as served, served.raw() as raw:
        await raw.send(raw.head(1, END_BOTH))
        await raw.next(c.HEADERS)
        begun = trio.current_time()
        await served.server.drain(60.0)
        assert trio.current_time() - begun < 7
        assert [(await raw.next(c.GOAWAY)).payload[:4] for _ in range(2)] == [word(2**31 - 1), word(1)]


async def test_draining_ends_at_its_deadline(autojump_clock: MockClock) -> None:
    async def hang(stream: Stream) -> None:
        await trio.sleep_forever()

    async with serving(hang) as served, served.client() as client:
        stream = await client.open_stream(REQUEST)
        while not served.server.streams_open:
            await trio.lowlevel.checkpoint()
        begun = trio.current_time()
        await served.server.drain(7.0)
        assert 7 <= trio.current_time() - begun < 8
        with pytest.raises(ConnectionLost):
            await stream.response()


async def test_new_connections_hear_of_the_drain() -> None:
    async with serving(echo) as served:
        await served.server.drain(1.0)
        async with served.raw() as raw:
            assert (await raw.next(c.GOAWAY)).code == c.NO_ERROR


async def test_a_client_may_break_off_while_we_send(autojump_clock: MockClock) -> None:
    async def flood(stream: Stream) -> None:
        stream.send_headers(OK)
        while True:
            await stream.send_data(b"x" * 100000)

    window = (c.SETTING_INITIAL_WINDOW_SIZE, 2**31 - 1)
    async with serving(flood) as served:
        for rounds in range(4):
            async with served.raw(window) as raw:
                await raw.send(frame(c.WINDOW_UPDATE, 0, 0, word(2**30)), raw.head())
                for _ in range(rounds):
                    await raw.next(c.DATA)
                assert isinstance(raw.stream, trio.SocketStream)
                raw.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await gone(served)
        assert served.server.streams_open == 0


# --- what bad clients do ----------------------------------------------------------------------------------------------


async def test_a_bad_client_harms_itself_only() -> None:
    async with serving(echo) as served, served.client() as good:
        for bad in (
            frame(c.HEADERS, c.FLAG_END_HEADERS, 1, b"\xff" * 100),
            frame(c.SETTINGS) * 1000,
            frame(c.CONTINUATION, 0, 1),
            b"\xff" * 100000,
        ):
            async with served.raw() as raw:
                await raw.send(bad)
                assert (await raw.next(c.GOAWAY)).kind == c.GOAWAY
                await raw.next()
                assert raw.ended
            assert (await ask(good))[1] == b"hello"


async def test_resets_do_not_multiply_tasks() -> None:
    """A handler that takes its time to end counts as a stream until it has."""
    running = 0
    go_on = trio.Event()

    async def stubborn(stream: Stream) -> None:
        nonlocal running
        running += 1
        with trio.CancelScope(shield=True):
            await go_on.wait()

    limits = Http2Limits(streams_max=5)
    async with serving(stubborn, limits) as served, served.raw() as raw:
        await raw.send(*(raw.head(number) for number in range(1, 11, 2)))
        while running < 5:
            await trio.lowlevel.checkpoint()
        await raw.send(*(frame(c.RST_STREAM, 0, number, word(c.CANCEL)) for number in range(1, 11, 2)))
        await raw.send(raw.head(11))
        refused = await raw.next(c.RST_STREAM)
        assert (refused.stream_id, refused.code) == (11, c.REFUSED_STREAM)
        go_on.set()
        while served.server.streams_open:
            await trio.lowlevel.checkpoint()
        await raw.send(raw.head(13))
        while running < 6:
            await trio.lowlevel.checkpoint()
