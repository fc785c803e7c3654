"""What ends early, late or badly, and what of it others may notice."""

from __future__ import annotations

import contextvars
from collections.abc import Awaitable, Callable, Sequence

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from edge_runtime.model.http import EMPTY, Request, Response
from edge_runtime.net.http2 import Http2Server, Stream
from edge_runtime.net.http_server import HttpServer, ServerLimits, serve_http
from edge_runtime.net.listeners import Listener, open_listeners
from edge_runtime.wire.http2 import codes as c
from edge_runtime.wire.http2 import engine
from tests.unit.net.http2.serving import LIMITS, OK, REQUEST, TRAILERS, RawClient, ask, echo, read_all, serving
from tests.unit.wire.http2.wires import END_BOTH, frame, word

Serve = Callable[..., Awaitable[None]]
variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="")


async def test_a_handler_sees_no_variable_of_another() -> None:
    seen = []

    async def note(stream: Stream) -> None:
        seen.append(variable.get())
        variable.set("set")
        await echo(stream)

    async with serving(note) as served, served.client() as client:
        for _ in range(4):
            await ask(client)
    assert seen == [""] * 4


async def test_tasks_that_fail_when_cancelled_harm_no_other(caplog: pytest.LogCaptureFixture) -> None:
    async def fail_late() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise KeyError("oops")

    async def fail(stream: Stream) -> None:
        if stream.headers == REQUEST:
            await echo(stream)
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail_late)
            await trio.sleep_forever()

    async with serving(fail) as served, served.client() as client:
        stream = await client.open_stream([*REQUEST, (b"fail", b"1")])
        await wait_all_tasks_blocked(0.01)
        stream.reset(c.CANCEL)
        await wait_all_tasks_blocked(0.01)
        assert (await ask(client))[1] == b"hello"
        assert served.server.streams_open == 0
    assert "oops" in caplog.text


async def test_a_cancelled_server_says_goodbye() -> None:
    async with trio.open_nursery() as nursery, open_listeners(["127.0.0.1"], 0) as listeners:
        await nursery.start(serve_on(Http2Server(echo)), listeners)
        stream = await trio.open_tcp_stream("127.0.0.1", listeners[0].port)
        async with stream:
            raw = RawClient(stream, engine("jh2"))
            await raw.greet()
            await raw.send(raw.head(1, END_BOTH))
            await raw.next(c.HEADERS)
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                goaway = await raw.next(c.GOAWAY)
    assert (goaway.payload[:4], goaway.code) == (word(1), c.NO_ERROR)


def serve_on(server: Http2Server, limits: ServerLimits = ServerLimits()) -> Serve:  # noqa: B008
    async def serve(
        listeners: Sequence[Listener], task_status: trio.TaskStatus[HttpServer] = trio.TASK_STATUS_IGNORED
    ) -> None:
        on_http2 = server.serve_connection
        await serve_http(listeners, _refuse, limits, on_http2=on_http2, task_status=task_status)

    return serve


async def _refuse(request: Request) -> Response:
    return Response(400, (), EMPTY)


async def test_a_drain_cuts_no_answer_short(autojump_clock: MockClock) -> None:
    body = b"x" * 2**25  # more than the kernel takes

    async def answer(stream: Stream) -> None:
        stream.send_headers(OK)
        await stream.send_data(body)
        stream.send_headers(TRAILERS, end=True)

    limits = LIMITS._replace(write_buffer_bytes_max=2**26, keepalive_idle_s=0.0)
    async with serving(answer, limits) as served, trio.open_nursery() as nursery:
        async with served.raw((c.SETTING_INITIAL_WINDOW_SIZE, 2**31 - 1)) as raw:
            await raw.send(frame(c.WINDOW_UPDATE, 0, 0, word(2**30)), raw.head(1, END_BOTH))
            await raw.next(c.HEADERS)
            nursery.start_soon(served.server.drain, 60.0)
            await trio.sleep(7)
            size, found = 0, await raw.next(c.DATA, c.HEADERS)
            while found.kind == c.DATA:
                size += len(found.payload)
                found = await raw.next(c.DATA, c.HEADERS)
            assert (size, found.kind) == (2**25, c.HEADERS)
            await raw.next()
            assert raw.ended


async def test_a_sender_hears_that_the_stream_was_ended() -> None:
    failed = trio.Event()

    async def end_beside(stream: Stream) -> None:
        stream.send_headers(OK)

        async def send() -> None:
            with pytest.raises(RuntimeError, match="nothing can follow"):
                await stream.send_data(b"x" * 10_000_000)
            failed.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await wait_all_tasks_blocked(0.01)
            assert not stream.try_send_data(b"", end=True), "it would come to stand within the other's data"
            with pytest.raises(trio.BusyResourceError):
                await stream.send_data(b"", end=True)
            stream.send_headers(TRAILERS, end=True)

    async with serving(end_beside) as served, served.raw() as raw:
        await raw.send(raw.head(1, END_BOTH))
        with trio.fail_after(5):
            await failed.wait()


async def test_an_error_in_a_flush_ends_one_connection(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(echo) as served, served.client() as good, served.client() as bad:
        await ask(bad)
        monkeypatch.setattr(bad, "flush", lambda: 1 // 0)
        stream = await bad.open_stream(REQUEST)
        with pytest.raises(Exception, match="an error of ours"):
            await stream.response()
        assert (await ask(good))[1] == b"hello"
    assert "ZeroDivisionError" in caplog.text
    assert not [record for record in caplog.records if record.name.startswith("trio")]


async def test_small_pieces_are_joined() -> None:
    pieces: list[int] = []
    go_on = trio.Event()

    async def count(stream: Stream) -> None:
        await go_on.wait()
        pieces.append(len(stream._pieces))
        stream.send_headers(OK)
        await stream.send_data(await read_all(stream), end=True)

    async with serving(count) as served, served.raw() as raw:
        await raw.send(raw.head(), frame(c.DATA, 0, 1, b"ab") * 10_000, frame(c.DATA, c.FLAG_END_STREAM, 1))
        await wait_all_tasks_blocked(0.05)
        go_on.set()
        size = 0
        while not (found := await raw.next(c.DATA)).flags:
            size += len(found.payload)
        assert size + len(found.payload) == 20_000
    assert pieces[0] <= 20


async def test_idle_connections_make_room_for_new_ones() -> None:
    limits = ServerLimits(connections_max=2)
    go_on = trio.Event()

    async def wait(stream: Stream) -> None:
        await go_on.wait()
        await echo(stream)

    async with trio.open_nursery() as nursery, open_listeners(["127.0.0.1"], 0) as listeners:
        server = Http2Server(wait)
        await nursery.start(serve_on(server, limits), listeners)
        raws = []
        for busy in (False, True):
            raws.append(RawClient(await trio.open_tcp_stream("127.0.0.1", listeners[0].port), engine("jh2")))
            await raws[-1].greet()
            await raws[-1].next(c.SETTINGS)
            if busy:
                await raws[-1].send(raws[-1].head(1, END_BOTH))
                while not server.streams_open:
                    await trio.lowlevel.checkpoint()
        third = RawClient(await trio.open_tcp_stream("127.0.0.1", listeners[0].port), engine("jh2"))
        await third.greet()
        assert (await third.next(c.SETTINGS)).kind == c.SETTINGS
        assert (await raws[0].next(c.GOAWAY)).code == c.NO_ERROR
        go_on.set()
        assert (await raws[1].next(c.HEADERS)).stream_id == 1
        for raw in (*raws, third):
            await raw.stream.aclose()
        nursery.cancel_scope.cancel()


async def test_streams_that_were_held_back_begin_one_by_one() -> None:
    begun: list[int] = []

    async def answer(stream: Stream) -> None:
        begun.append(stream.id)
        stream.send_headers(OK)
        await stream.send_data(b"x" * 10_000, end=True)

    limits = LIMITS._replace(waiting_bytes_max=1000)
    async with serving(answer, limits) as served, served.raw((c.SETTING_INITIAL_WINDOW_SIZE, 0)) as raw:
        await raw.send(*(raw.head(number, END_BOTH) for number in range(1, 21, 2)))
        await wait_all_tasks_blocked(0.02)
        assert len(begun) == 1
        await raw.send(frame(c.WINDOW_UPDATE, 0, begun[0], word(9500)))
        await wait_all_tasks_blocked(0.02)
        assert len(begun) == 2, "the answer to the next waits already"
        await raw.send(frame(c.WINDOW_UPDATE, 0, 0, word(100_000)))
        for number in range(1, 21, 2):
            await raw.send(frame(c.WINDOW_UPDATE, 0, number, word(10_000)))
        while len(begun) < 10:
            await trio.lowlevel.checkpoint()
