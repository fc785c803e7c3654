"""HTTP requests over HTTP/2, on the server that also speaks HTTP/1.1."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from edge_runtime.model.errors import BodyTooLarge
from edge_runtime.model.http import Body, Request, Response
from edge_runtime.net.connections import Origin
from edge_runtime.net.http2 import Http2Client, Stream, StreamReset, open_http2_client
from edge_runtime.net.http2_http import http_server
from edge_runtime.net.http_server import serve_http
from edge_runtime.net.listeners import open_listeners
from edge_runtime.wire.http2.codes import CANCEL, INTERNAL_ERROR, NO_ERROR
from tests.unit.net.test_http_client import Pieces

Handle = Callable[[Request], Awaitable[Response]]
Fields = list[tuple[bytes, bytes]]
GET: Fields = [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"node"), (b":path", b"/x?q=1")]
POST: Fields = [(b":method", b"POST"), *GET[1:]]


class Api:
    """Requests that the handler saw, and a client of its server."""

    def __init__(self, client: Http2Client, origin: Origin, seen: list[Request]) -> None:
        self.client = client
        self.origin = origin
        self.seen = seen

    async def begin(self, fields: Fields = GET, body: bytes | None = None) -> Stream:
        stream = await self.client.open_stream(fields, end=body is None)
        if body is not None:
            await stream.send_data(body, end=True)
        return stream

    async def ask(self, fields: Fields = GET, body: bytes | None = None) -> tuple[dict[bytes, bytes], bytes]:
        return await answer(await self.begin(fields, body))


async def answer(stream: Stream) -> tuple[dict[bytes, bytes], bytes]:
    headers = dict(await stream.response())
    return headers, await read_all(stream)


async def read_all(stream: Stream) -> bytes:
    pieces = []
    while (piece := await stream.receive()) is not None:
        pieces.append(piece)
    return b"".join(pieces)


@asynccontextmanager
async def api(handle: Handle, header_bytes_max: int = 8192, stall_s: float = 120.0) -> AsyncIterator[Api]:
    seen: list[Request] = []

    async def noting(request: Request) -> Response:
        seen.append(request)
        return await handle(request)

    server = http_server(noting, header_bytes_max, stall_s=stall_s)
    async with open_listeners(["127.0.0.1"], 0) as listeners, trio.open_nursery() as nursery:

        async def serve(task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED) -> None:
            await serve_http(listeners, noting, on_http2=server.serve_connection, task_status=task_status)

        await nursery.start(serve)
        origin = Origin("http", "127.0.0.1", listeners[0].port)
        async with open_http2_client(origin) as client:
            yield Api(client, origin, seen)
        nursery.cancel_scope.cancel()


async def echo(request: Request) -> Response:
    return Response(200, [(b"content-type", b"text/plain")], Body(await request.body.read()))


async def echo_stream(request: Request) -> Response:
    return Response(200, (), Pieces(request.body.chunks()))


def saying(status: int, headers: Fields, body: Body) -> Handle:
    async def handle(_: Request) -> Response:
        return Response(status, headers, body)

    return handle


async def pieces_of(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        await trio.lowlevel.checkpoint()
        yield piece


async def test_request_is_as_over_http1() -> None:
    async with api(echo) as served:
        headers, body = await served.ask([*POST, (b"a", b"1"), (b"cookie", b"x=1"), (b"cookie", b"y=2")], b"hello")
        assert (headers[b":status"], headers[b"content-length"], body) == (b"200", b"5", b"hello")
        assert headers[b"date"].endswith(b" GMT")
        request = served.seen[0]
        assert (request.method, request.target, request.scheme) == ("POST", b"/x?q=1", "http")
        assert request.headers == [(b"host", b"node"), (b"a", b"1"), (b"cookie", b"x=1; y=2")]
        assert (request.peer, request.local, request.http_version) == ("127.0.0.1", "127.0.0.1", b"2.0")


async def test_requests_share_the_connection() -> None:
    release = trio.Event()

    async def handle(request: Request) -> Response:
        if request.target == b"/slow":
            await release.wait()
        return Response(200, (), Body(request.target))

    async with api(handle) as served:
        slow = await served.begin([*GET[:3], (b":path", b"/slow")])
        assert (await served.ask())[1] == b"/x?q=1"
        release.set()
        assert (await answer(slow))[1] == b"/slow"


async def test_empty_body_is_plain() -> None:
    async with api(echo) as served:
        assert (await served.ask())[0][b"content-length"] == b"0"
        await served.ask(POST, b"")
        assert [request.body.data for request in served.seen] == [b"", b""]


async def test_head_has_no_body() -> None:
    async with api(saying(200, [(b"x", b"y")], Body(b"hello"))) as served:
        headers, body = await served.ask([(b":method", b"HEAD"), *GET[1:]])
        assert (headers[b"content-length"], headers[b"x"], body) == (b"5", b"y", b"")


@pytest.mark.parametrize("body", [Body(b"hello"), Pieces(pieces_of(b"hello"))])
async def test_no_content_has_none(body: Body) -> None:
    async with api(saying(204, [], body)) as served:
        headers, data = await served.ask()
        assert (headers[b":status"], b"content-length" in headers, data) == (b"204", False, b"")


async def test_connection_headers_stay_here() -> None:
    headers = [
        (b"connection", b"close"),
        (b"transfer-encoding", b"chunked"),
        (b"content-length", b"9"),
        (b"X", b"a\nb"),
    ]
    async with api(saying(200, headers, Body(b"1"))) as served:
        found, _ = await served.ask()
        assert found.keys() == {b":status", b"x", b"content-length", b"date"}
        assert (found[b"x"], found[b"content-length"]) == (b"a b", b"1")


async def test_bodies_stream_both_ways() -> None:
    async with api(echo_stream) as served:
        stream = await served.client.open_stream(POST)
        headers = dict(await stream.response())
        assert b"content-length" not in headers
        for number in range(5):
            await stream.send_data(b"%d" % number)
            assert await stream.receive() == b"%d" % number
        await stream.send_data(b"", end=True)
        assert await stream.receive() is None


async def test_large_bodies_pass_whole() -> None:
    data = bytes(range(256)) * 40_000
    async with api(echo) as served, trio.open_nursery() as nursery:
        stream = await served.client.open_stream(POST)
        nursery.start_soon(stream.send_data, data, True)
        assert (await answer(stream))[1] == data


async def test_unread_body_holds_the_client_back() -> None:
    async def handle(_: Request) -> Response:
        await trio.sleep_forever()
        raise AssertionError

    async with api(handle) as served, trio.open_nursery() as nursery:
        stream = await served.client.open_stream(POST)
        sent = 0

        async def send() -> None:
            nonlocal sent
            while True:
                await stream.send_data(b"x" * 65536)
                sent += 65536

        nursery.start_soon(send)
        await wait_all_tasks_blocked(0.05)
        assert 0 < sent <= 2 * 524288
        nursery.cancel_scope.cancel()


async def test_slow_reader_holds_the_handler_back() -> None:
    made = 0

    async def many() -> AsyncIterator[bytes]:
        nonlocal made
        while True:
            made += 65536
            yield b"x" * 65536

    async with api(saying(200, [], Pieces(many()))) as served:
        stream = await served.begin()
        await stream.response()
        await wait_all_tasks_blocked(0.05)
        before = made
        await wait_all_tasks_blocked(0.05)
        assert made == before <= 2_000_000
        stream.reset()


async def test_reset_cancels_the_handler() -> None:
    cancelled = trio.Event()

    async def handle(_: Request) -> Response:
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()
        raise AssertionError

    async with api(handle) as served:
        stream = await served.begin()
        await wait_all_tasks_blocked()
        stream.reset(CANCEL)
        with trio.fail_after(5):
            await cancelled.wait()


async def test_reset_ends_the_response_stream() -> None:
    closed = trio.Event()

    class Noting(Pieces):
        async def aclose(self) -> None:
            closed.set()

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 1000

    async with api(saying(200, [], Noting(endless()))) as served:
        stream = await served.begin()
        await stream.receive()
        stream.reset(CANCEL)
        with trio.fail_after(5):
            await closed.wait()


async def test_expectation_is_met_when_read() -> None:
    gate = trio.Event()

    async def handle(request: Request) -> Response:
        await gate.wait()
        return await echo(request)

    async with api(handle) as served:
        informed: list[Fields] = []
        received = served.client.headers_received

        def noting(stream: Stream, headers: Fields, end: bool) -> None:
            informed.append(headers)
            received(stream, headers, end)

        served.client.headers_received = noting  # type: ignore[method-assign]
        stream = await served.client.open_stream([*POST, (b"expect", b"100-continue"), (b"content-length", b"2")])
        await wait_all_tasks_blocked(0.05)
        assert informed == []
        gate.set()
        await wait_all_tasks_blocked(0.05)
        assert informed == [[(b":status", b"100")]]
        await stream.send_data(b"hi", end=True)
        assert (await answer(stream))[1] == b"hi"


async def test_large_headers_are_answered_431() -> None:
    async with api(echo, header_bytes_max=2000) as served:
        headers, body = await served.ask([*GET, (b"x", b"y" * 4000)])
        assert (headers[b":status"], served.seen) == (b"431", [])
        assert b"more than" in body
        assert (await served.ask([*GET, *[(b"x", b"y")] * 200]))[0][b":status"] == b"431"
        with pytest.raises(StreamReset):
            await served.ask([*GET, (b"x", b"y" * 12_000)])
        assert (await served.ask())[0][b":status"] == b"200"


async def test_malformed_requests_are_answered_400() -> None:
    async with api(echo) as served:
        assert (await served.ask([*GET[:3], (b":path", b"x")]))[0][b":status"] == b"400"
        assert served.seen == []


async def test_trailers_are_read_past() -> None:
    async with api(echo) as served:
        stream = await served.client.open_stream(POST)
        await stream.send_data(b"hello")
        stream.send_headers([(b"a", b"b")], end=True)
        assert (await answer(stream))[1] == b"hello"


async def test_false_length_is_no_request() -> None:
    async with api(echo) as served:
        for body in (b"four", b"sixsix"):
            with pytest.raises(StreamReset):
                await served.ask([*POST, (b"content-length", b"5")], body)
        assert (await served.ask())[0][b":status"] == b"200"


async def test_early_answer_stops_the_upload() -> None:
    async with api(saying(200, [], Body(b"enough"))) as served:
        stream = await served.client.open_stream(POST)
        assert (await answer(stream))[1] == b"enough"
        with pytest.raises(StreamReset) as error:
            await stream.send_data(b"x" * 10_000_000)
        assert error.value.reset_code == NO_ERROR


async def test_failing_handler_is_answered_500(caplog: pytest.LogCaptureFixture) -> None:
    async def handle(_: Request) -> Response:
        raise ZeroDivisionError

    async with api(handle) as served:
        headers, body = await served.ask()
        assert (headers[b":status"], body) == (b"500", b"internal server error")
        assert "the handler of GET /x?q=1 failed" in caplog.text


async def failing() -> AsyncIterator[bytes]:
    yield b"some"
    raise OSError("gone")


@pytest.mark.parametrize(
    "body",
    [Pieces(failing()), Pieces(pieces_of(b"12345"), 4), Pieces(pieces_of(b"123"), 4)],
    ids=["fails", "long", "short"],
)
async def test_broken_response_is_reset(body: Body, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    async with api(saying(200, [], body)) as served:
        with pytest.raises(StreamReset) as error:
            await served.ask()
        assert error.value.reset_code == INTERNAL_ERROR


async def test_body_limit_is_kept() -> None:
    async def handle(request: Request) -> Response:
        try:
            await request.body.read(10)
        except BodyTooLarge:
            return Response(413)
        return Response(200)

    async with api(handle) as served:
        assert (await served.ask(POST, b"x" * 10))[0][b":status"] == b"200"
        assert (await served.ask(POST, b"x" * 11))[0][b":status"] == b"413"
        assert (await served.ask([*POST, (b"content-length", b"100000")], b"x" * 100_000))[0][b":status"] == b"413"


async def test_stalled_body_is_answered_408(autojump_clock: MockClock) -> None:
    async with api(echo) as served:
        stream = await served.client.open_stream(POST)
        await stream.send_data(b"some")
        headers, _ = await answer(stream)
        assert headers[b":status"] == b"408"


async def test_stalled_reader_is_given_up(autojump_clock: MockClock) -> None:
    async with api(saying(200, [], Body(b"x" * 10_000_000))) as served:
        stream = await served.begin()
        await stream.response()
        await trio.sleep(500)
        with pytest.raises(StreamReset) as error:
            await read_all(stream)
        assert error.value.reset_code == CANCEL
        assert (await served.begin()) is not None
