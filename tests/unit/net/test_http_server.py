from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from edge_runtime.model.errors import BodyTooLarge
from edge_runtime.model.http import Body, Request, Response
from edge_runtime.net.connections import Connection
from edge_runtime.net.http_server import HttpServer, ServerLimits, serve_http
from edge_runtime.net.listeners import open_listeners, open_unix_listener
from edge_runtime.net.stream import StreamBody
from edge_runtime.wire.http1 import (
    CLOSED,
    END,
    NEED_DATA,
    Engine,
    ResponseHead,
    encode_chunk,
    encode_request,
    new_response_reader,
)

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST_CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
TEXT = [(b"content-type", b"text/plain")]
Handle = Callable[[Request], Awaitable[Response]]


class Client:
    """The other end: sends raw bytes, reads responses."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._reader = new_response_reader()

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def response(self, method: str = "GET") -> tuple[ResponseHead, bytes]:
        self._reader.expect(method)
        head = await self._event()
        assert isinstance(head, ResponseHead), head
        pieces: list[bytes] = []
        while isinstance(event := await self._event(), bytes):
            pieces.append(event)
        assert event is END
        return head, b"".join(pieces)

    async def ask(self, data: bytes) -> tuple[ResponseHead, bytes]:
        await self.send(data)
        return await self.response(data.split(b" ", 1)[0].decode())

    async def closed(self) -> bool:
        return await self._event() is CLOSED

    async def _event(self) -> object:
        while (event := self._reader.next_event()) is NEED_DATA:
            self._reader.feed(await self.stream.receive_some(65536))
        return event


class Served:
    """A running server and the way to it."""

    def __init__(self, server: HttpServer, port: int) -> None:
        self.server = server
        self._port = port
        self._clients: list[Client] = []

    async def connect(self) -> Client:
        client = Client(await trio.open_tcp_stream("127.0.0.1", self._port))
        self._clients.append(client)
        return client

    def close(self) -> None:
        for client in self._clients:
            client.stream.socket.close()


@asynccontextmanager
async def serving(
    handle: Handle,
    limits: ServerLimits = ServerLimits(),  # noqa: B008 a NamedTuple
    *,
    on_http2: Callable[[Connection, bytes, str, str], Awaitable[None]] | None = None,
    engine: Engine | None = None,
) -> AsyncIterator[Served]:
    async def serve(task_status: trio.TaskStatus[HttpServer]) -> None:
        await serve_http(listeners, handle, limits, on_http2=on_http2, engine=engine, task_status=task_status)

    async with open_listeners(["127.0.0.1"], 0) as listeners, trio.open_nursery() as nursery:
        server = await nursery.start(serve)
        served = Served(server, listeners[0].port)
        try:
            yield served
        finally:
            served.close()
            nursery.cancel_scope.cancel()


async def hello(request: Request) -> Response:
    return Response(200, TEXT, Body(b"hello"))


async def echo(request: Request) -> Response:
    return Response(200, TEXT, Body(await request.body.read()))


class Pieces(StreamBody):
    """A response's body that is given piece by piece; an exception among them is raised."""

    def __init__(self, *pieces: bytes | Exception, length: int | None = None) -> None:
        super().__init__(length)
        self._pieces = list(pieces)
        self.closed = trio.Event()

    async def next_piece(self) -> bytes:
        await trio.lowlevel.checkpoint()
        if not self._pieces:
            return b""
        piece = self._pieces.pop(0)
        if isinstance(piece, Exception):
            raise piece
        return piece

    async def aclose(self) -> None:
        self.closed.set()


# --- requests and responses -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["httptools", "h11"])
async def test_requests_follow_on_one_connection(engine: Engine) -> None:
    async with serving(hello, engine=engine) as served:
        client = await served.connect()
        for _ in range(3):
            head, body = await client.ask(GET)
            assert (head.status, body, head.keep_alive) == (200, b"hello", True)
            assert dict(head.headers)[b"content-type"] == b"text/plain"
        assert served.server.connections_open == 1


async def test_every_response_has_its_date() -> None:
    async with serving(hello) as served:
        head, _ = await (await served.connect()).ask(GET)
    date = dict(head.headers)[b"date"].decode()
    assert re.fullmatch(r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT", date)


async def test_the_handler_sees_the_request() -> None:
    seen: list[Request] = []

    async def note(request: Request) -> Response:
        seen.append(request)
        return Response(204)

    async with serving(note) as served:
        head, _ = await (await served.connect()).ask(b"PUT /a%2Fb?c HTTP/1.1\r\nHost: h\r\nX-Y: z\r\n\r\n")
    assert head.status == 204
    assert (seen[0].method, seen[0].target, seen[0].header(b"x-y")) == ("PUT", b"/a%2Fb?c", b"z")
    assert (seen[0].peer, seen[0].local, seen[0].http_version) == ("127.0.0.1", "127.0.0.1", b"1.1")


async def test_pipelined_answers_keep_their_order() -> None:
    async def name(request: Request) -> Response:
        if request.target == b"/0":
            await trio.lowlevel.checkpoint()
        return Response(200, (), Body(request.target))

    async with serving(name) as served:
        client = await served.connect()
        await client.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % n for n in range(100)))
        assert [(await client.response())[1] for _ in range(100)] == [b"/%d" % n for n in range(100)]


async def test_head_has_no_body() -> None:
    async with serving(hello) as served:
        client = await served.connect()
        head, body = await client.ask(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (dict(head.headers)[b"content-length"], body) == (b"5", b"")
        assert (await client.ask(GET))[1] == b"hello"


async def test_close_is_done_both_ways() -> None:
    async with serving(hello) as served:
        client = await served.connect()
        head, _ = await client.ask(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert dict(head.headers)[b"connection"] == b"close"
        assert await client.closed()


async def test_version_1_0_may_stay() -> None:
    async with serving(hello) as served:
        client = await served.connect()
        head, _ = await client.ask(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert dict(head.headers)[b"connection"] == b"keep-alive"
        head, _ = await client.ask(b"GET / HTTP/1.0\r\n\r\n")
        assert dict(head.headers)[b"connection"] == b"close"
        assert await client.closed()


async def test_a_failed_handler_is_500(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(request: Request) -> Response:
        if request.target == b"/fail":
            raise KeyError("oops")
        return Response(204)

    async with serving(fail) as served:
        client = await served.connect()
        head, _ = await client.ask(b"GET /fail HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (head.status, head.keep_alive) == (500, True)
        assert (await client.ask(GET))[0].status == 204
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "GET /fail" in caplog.text
    assert "oops" in caplog.text


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"1" * 9000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: 1\r\n" * 200 + b"\r\n", 431),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (POST_CHUNKED + b"x\r\n", 400),
        (GET + b"\0", 200),
    ],
)
async def test_bad_input_is_answered(data: bytes, status: int) -> None:
    async with serving(echo) as served:
        client = await served.connect()
        head, _ = await client.ask(data)
        if status == 200:
            head, _ = await client.response()
        assert head.status == status if status != 200 else 400
        assert not head.keep_alive
        assert await client.closed()


async def test_http2_is_handed_over() -> None:
    async def speak(connection: Connection, data: bytes, peer: str, local: str) -> None:
        assert (peer, local) == ("127.0.0.1", "127.0.0.1")
        await connection.send_all(b"h2:" + data + await connection.receive())

    async with serving(hello, on_http2=speak) as served:
        client = await served.connect()
        await client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        await trio.testing.wait_all_tasks_blocked(0.01)
        await client.send(b"settings")
        expected = b"h2:PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nsettings"
        received = b""
        while piece := await client.stream.receive_some(100):
            received += piece
        assert received == expected


async def test_http2_comes_first_or_not() -> None:
    async def speak(connection: Connection, data: bytes, peer: str, local: str) -> None:
        raise AssertionError

    async with serving(hello, on_http2=speak) as served:
        client = await served.connect()
        await client.ask(GET)
        assert (await client.ask(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))[0].status == 505


async def test_a_path_can_be_served(tmp_path: Path) -> None:
    async def peer(request: Request) -> Response:
        return Response(200, (), Body(request.peer.encode() + b"|" + request.local.encode()))

    async with open_unix_listener(str(tmp_path / "s")) as listeners, trio.open_nursery() as nursery:
        await nursery.start(serve_http, listeners, peer)
        stream = await trio.open_unix_socket(listeners[0].path)
        assert (await Client(stream).ask(GET))[1] == b"|"
        stream.socket.close()
        nursery.cancel_scope.cancel()


async def test_errors_of_http2_stay_inside(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(connection: Connection, data: bytes, peer: str, local: str) -> None:
        raise KeyError("oops")

    async with serving(hello, on_http2=fail) as served:
        client = await served.connect()
        await client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert await client.closed()
        assert (await (await served.connect()).ask(GET))[0].status == 200
    assert "oops" in caplog.text


# --- request bodies ---------------------------------------------------------------------------------------------------


async def test_a_small_body_is_plain() -> None:
    kinds: list[type[Body]] = []

    async def note(request: Request) -> Response:
        kinds.append(type(request.body))
        return Response(200, (), Body(await request.body.read()))

    async with serving(note) as served:
        client = await served.connect()
        assert (await client.ask(encode_request("POST", b"/", [(b"host", b"a")], b"abc")))[1] == b"abc"
        assert (await client.ask(POST_CHUNKED + b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"))[1] == b"abc"
    assert kinds == [Body, Body]


async def test_a_large_body_is_streamed() -> None:
    async def count(request: Request) -> Response:
        assert not request.body.buffered
        size = 0
        async for piece in request.body.chunks():
            assert piece
            size += len(piece)
        return Response(200, (), Body(b"%d of %d" % (size, request.body.length or 0)))

    async with serving(count) as served:
        client = await served.connect()
        for size in (200_000, 3_000_000):
            data = encode_request("POST", b"/", [(b"host", b"a")], b"x" * size)
            assert (await client.ask(data))[1] == b"%d of %d" % (size, size)
        chunks = encode_chunk(b"y" * 100_000) * 5 + b"0\r\n\r\n"
        assert (await client.ask(POST_CHUNKED + chunks))[1] == b"500000 of 0"


async def test_reading_has_a_limit() -> None:
    async def read(request: Request) -> Response:
        try:
            await request.body.read(100_000)
        except BodyTooLarge as error:
            return Response(400, (), Body(str(error).encode()))
        return Response(200)

    async with serving(read) as served:
        for data in (
            encode_request("POST", b"/", [(b"host", b"a")], b"x" * 200_000),
            POST_CHUNKED + encode_chunk(b"y" * 1000) * 200 + b"0\r\n\r\n",
        ):
            client = await served.connect()
            head, body = await client.ask(data)
            assert (head.status, body) == (400, b"stream too large")
            assert (await client.ask(GET))[0].status == 200  # what was left is read away


async def test_a_read_body_stays() -> None:
    async def twice(request: Request) -> Response:
        first = await request.body.read()
        assert request.body.buffered
        pieces = [piece async for piece in request.body.chunks()]
        return Response(200, (), Body(b"%d %d" % (first == await request.body.read(), first == b"".join(pieces))))

    async with serving(twice) as served:
        data = encode_request("POST", b"/", [(b"host", b"a")], b"x" * 200_000)
        assert (await (await served.connect()).ask(data))[1] == b"1 1"


async def test_continue_is_said_when_asked_for() -> None:
    asked = trio.Event()

    async def read(request: Request) -> Response:
        await asked.wait()
        return Response(200, (), Body(await request.body.read()))

    async with serving(read) as served:
        client = await served.connect()
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
        with trio.move_on_after(0.05) as nothing_yet:
            await client.stream.receive_some(100)
        assert nothing_yet.cancelled_caught
        asked.set()
        assert await client.stream.receive_some(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(b"abc")
        assert (await client.response())[1] == b"abc"
        assert (await client.ask(encode_request("POST", b"/", [(b"host", b"a")], b"d")))[1] == b"d"


async def test_continue_unsaid_closes() -> None:
    async with serving(hello) as served:
        client = await served.connect()
        head, _ = await client.ask(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
        assert (head.status, head.keep_alive) == (200, False)
        assert await client.closed()


async def test_an_unread_body_is_drained() -> None:
    async with serving(hello, ServerLimits(drain_bytes_max=100_000)) as served:
        client = await served.connect()
        data = encode_request("POST", b"/", [(b"host", b"a")], b"x" * 90_000)
        for _ in range(3):
            assert (await client.ask(data))[0].keep_alive


async def test_too_much_unread_closes() -> None:
    async with serving(hello, ServerLimits(drain_bytes_max=1000)) as served:
        client = await served.connect()
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n" + b"x" * 100)
        head, body = await client.response()
        assert (body, head.keep_alive) == (b"hello", False)
        assert await client.closed()
        client = await served.connect()
        await client.send(POST_CHUNKED + encode_chunk(b"x" * 70_000))
        assert (await client.response())[1] == b"hello"
        assert await client.closed()


async def test_a_large_body_is_seen_off() -> None:
    """A client that sends all of it before it reads must not find its connection reset."""
    data = encode_request("POST", b"/", [(b"host", b"a")], b"x" * 2**23)
    async with serving(hello) as served:
        client = await served.connect()
        await client.send(data)
        head, body = await client.response()
        assert (body, head.keep_alive) == (b"hello", False)
        assert await client.closed()


async def test_a_body_may_turn_bad() -> None:
    begun = trio.Event()

    async def read(request: Request) -> Response:
        begun.set()
        return Response(200, (), Body(await request.body.read()))

    async with serving(read) as served:
        client = await served.connect()
        await client.send(POST_CHUNKED + b"1\r\na\r\n")
        await begun.wait()
        head, _ = await client.ask(b"zz\r\n")
        assert (head.status, head.keep_alive) == (400, False)
        assert await client.closed()


async def test_a_body_dies_with_its_request() -> None:
    bodies: list[Body] = []

    async def keep(request: Request) -> Response:
        bodies.append(request.body)
        return Response(200)

    async with serving(keep) as served:
        await (await served.connect()).ask(encode_request("POST", b"/", [(b"host", b"a")], b"x" * 200_000))
        with pytest.raises(RuntimeError, match="answered"):
            await bodies[0].read()


async def test_back_pressure_reaches_the_client() -> None:
    go_on = trio.Event()

    async def wait(request: Request) -> Response:
        await go_on.wait()
        return Response(200, (), Body(b"%d" % len(await request.body.read())))

    async with serving(wait) as served, trio.open_nursery() as nursery:
        client = await served.connect()
        size = 30_000_000
        sent = trio.Event()

        async def send() -> None:
            await client.send(encode_request("POST", b"/", [(b"host", b"a")], b"x" * size))
            sent.set()

        nursery.start_soon(send)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert not sent.is_set()  # the sockets are full, and nothing was taken into memory
        go_on.set()
        assert (await client.response())[1] == b"%d" % size


# --- response bodies --------------------------------------------------------------------------------------------------


async def test_streams_are_chunked() -> None:
    body = Pieces(b"a" * 10, b"b" * 100_000)

    async def stream(request: Request) -> Response:
        return Response(200, TEXT, body)

    async with serving(stream) as served:
        head, received = await (await served.connect()).ask(GET)
        assert (head.body_length, received) == (None, b"a" * 10 + b"b" * 100_000)
        await body.closed.wait()


async def test_pieces_are_sent_at_once() -> None:
    go_on = trio.Event()

    class Slow(StreamBody):
        async def next_piece(self) -> bytes:
            if go_on.is_set():
                return b""
            await trio.lowlevel.checkpoint()
            if self.data:
                await go_on.wait()
                return b"second"
            self.data = b"begun"
            return b"first"

    async def stream(request: Request) -> Response:
        return Response(200, (), Slow(None))

    async with serving(stream) as served:
        client = await served.connect()
        await client.send(GET)
        received = b""
        while b"first" not in received:
            received += await client.stream.receive_some(1000)
        go_on.set()
        while b"0\r\n\r\n" not in received:
            received += await client.stream.receive_some(1000)


async def test_a_known_length_is_said() -> None:
    async def stream(request: Request) -> Response:
        return Response(200, (), Pieces(b"abc", b"de", length=5))

    async with serving(stream) as served:
        client = await served.connect()
        for _ in range(2):
            head, body = await client.ask(GET)
            assert (head.body_length, head.keep_alive, body) == (5, True, b"abcde")
        head, body = await client.ask(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (dict(head.headers)[b"content-length"], body) == (b"5", b"")


async def test_version_1_0_gets_no_chunks() -> None:
    async def stream(request: Request) -> Response:
        return Response(200, (), Pieces(b"abc", b"de"))

    async with serving(stream) as served:
        client = await served.connect()
        head, body = await client.ask(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert (head.keep_alive, body) == (False, b"abcde")


@pytest.mark.parametrize(
    ("length", "body"),
    [(None, (b"abc", OSError("gone"))), (5, (b"abc", OSError("gone"))), (5, (b"abc",)), (5, (b"abc", b"def"))],
)
async def test_a_broken_stream_is_a_reset(length: int | None, body: tuple[bytes | Exception, ...]) -> None:
    async def stream(request: Request) -> Response:
        return Response(200, (), Pieces(*body, length=length))

    async with serving(stream) as served:
        client = await served.connect()
        with pytest.raises(trio.BrokenResourceError):
            await client.ask(GET)


async def test_large_bodies_go_out_whole() -> None:
    async def large(request: Request) -> Response:
        return Response(200, (), Body(b"x" * 20_000_000))

    async with serving(large) as served:
        client = await served.connect()
        head, body = await client.ask(GET)
        assert (head.body_length, len(body)) == (20_000_000, 20_000_000)


# --- time, limits, the end --------------------------------------------------------------------------------------------


@pytest.fixture
def jumping_clock(autojump_clock: MockClock) -> MockClock:
    autojump_clock.autojump_threshold = 0.02  # real time in which the kernel hands on what was sent
    return autojump_clock


async def test_an_idle_connection_is_closed(jumping_clock: MockClock) -> None:
    async with serving(hello, ServerLimits(idle_timeout_s=100)) as served:
        client = await served.connect()
        await client.ask(GET)
        began = trio.current_time()
        assert await client.closed()
        assert 100 <= trio.current_time() - began <= 106


async def test_a_silent_connection_is_closed(jumping_clock: MockClock) -> None:
    async with serving(hello) as served:
        client = await served.connect()
        assert await client.closed()
        assert 10 <= trio.current_time() <= 11


async def test_a_slow_head_is_answered_408(jumping_clock: MockClock) -> None:
    async with serving(hello) as served, trio.open_nursery() as nursery:
        client = await served.connect()

        async def drip() -> None:
            for byte in b"GET / HTTP/1.1\r\nHost: a\r\nX-Slow: 1":
                await client.send(bytes([byte]))
                await trio.sleep(1)

        nursery.start_soon(drip)
        head, _ = await client.response()
        assert head.status == 408
        assert 10 <= trio.current_time() <= 11
        nursery.cancel_scope.cancel()


async def test_a_pipelined_head_may_not_rest(jumping_clock: MockClock) -> None:
    async with serving(hello) as served:
        client = await served.connect()
        head, _ = await client.ask(GET + b"GET / HT")
        assert head.status == 200
        head, _ = await client.response()
        assert head.status == 408
        assert 10 <= trio.current_time() <= 11


async def test_a_stalled_body_ends_its_handler(jumping_clock: MockClock) -> None:
    cancelled = trio.Event()

    async def read(request: Request) -> Response:
        try:
            await request.body.read()
        except trio.Cancelled:
            cancelled.set()
            raise
        return Response(200)

    async with serving(read, ServerLimits(body_read_stall_s=30)) as served:
        client = await served.connect()
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 50\r\n\r\nx")
        for _ in range(5):
            await trio.sleep(20)
            await client.send(b"x")
        assert not cancelled.is_set()
        await cancelled.wait()


async def test_a_client_that_reads_nothing_is_closed(jumping_clock: MockClock) -> None:
    body = Pieces(*[b"x" * 1_000_000] * 50)

    async def stream(request: Request) -> Response:
        return Response(200, (), body)

    async with serving(stream, ServerLimits(write_stall_s=30)) as served:
        client = await served.connect()
        await client.send(GET)
        await body.closed.wait()
        assert 30 <= trio.current_time() <= 40


async def test_a_slow_handler_has_all_the_time(jumping_clock: MockClock) -> None:
    async def slow(request: Request) -> Response:
        await trio.sleep(120)
        return Response(200)

    async with serving(slow) as served:
        client = await served.connect()
        for _ in range(2):
            assert (await client.ask(GET))[0].status == 200


@pytest.mark.parametrize("ending", ["close", "reset"])
async def test_a_client_that_leaves_cancels_its_handler(jumping_clock: MockClock, ending: str) -> None:
    cancelled = trio.Event()

    async def forever(request: Request) -> Response:
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()
        raise AssertionError

    async with serving(forever) as served:
        client = await served.connect()
        await client.send(GET)
        await trio.sleep(1)
        assert not cancelled.is_set()
        if ending == "reset":
            client.stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        await client.stream.aclose()
        await cancelled.wait()


async def test_a_client_may_leave_after_its_upload(jumping_clock: MockClock) -> None:
    cancelled = trio.Event()

    async def wait(request: Request) -> Response:
        await request.body.read()
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()
        raise AssertionError

    async with serving(wait) as served:
        client = await served.connect()
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\na")
        await trio.sleep(5)
        await client.send(b"b")
        await trio.sleep(5)
        await client.stream.aclose()
        await cancelled.wait()


@pytest.mark.parametrize("body", [b"Content-Length: 9\r\n\r\na", b"Transfer-Encoding: chunked\r\n\r\n9\r\na"])
async def test_a_client_may_leave_inside_its_upload(jumping_clock: MockClock, body: bytes) -> None:
    ended: list[BaseException] = []

    async def read(request: Request) -> Response:
        try:
            await request.body.read()
        except BaseException as error:
            ended.append(error)
            raise
        raise AssertionError

    async with serving(read) as served:
        client = await served.connect()
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\n" + body)
        await trio.sleep(1)
        await client.stream.send_eof()
        assert await client.closed()
        assert [type(error) for error in ended] == [trio.Cancelled]


async def test_a_client_that_leaves_ends_its_stream(jumping_clock: MockClock) -> None:
    class Endless(Pieces):
        async def next_piece(self) -> bytes:
            if self._pieces:
                return await super().next_piece()
            await trio.sleep_forever()
            raise AssertionError

    body = Endless(b"event")

    async def stream(request: Request) -> Response:
        return Response(200, (), body)

    async with serving(stream) as served:
        client = await served.connect()
        await client.send(GET)
        await trio.sleep(1)
        await client.stream.aclose()
        await body.closed.wait()


async def test_a_watched_client_may_pipeline(jumping_clock: MockClock) -> None:
    async def slow(request: Request) -> Response:
        await trio.sleep(3)
        return Response(200, (), Body(request.target))

    async with serving(slow) as served:
        client = await served.connect()
        await client.send(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n")
        await trio.sleep(1)
        await client.send(b"GET /2 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await client.response())[1] == b"/1"
        assert (await client.response())[1] == b"/2"
        assert (await client.ask(b"GET /3 HTTP/1.1\r\nHost: a\r\n\r\n"))[1] == b"/3"


async def test_idle_connections_make_room() -> None:
    async with serving(hello, ServerLimits(connections_max=3)) as served:
        clients = [await served.connect() for _ in range(3)]
        for client in clients:
            await client.ask(GET)
        newcomer = await served.connect()
        assert (await newcomer.ask(GET))[0].status == 200
        assert await clients[0].closed()
        assert (await clients[1].ask(GET))[0].status == 200


async def test_without_room_it_is_503() -> None:
    both = trio.Event()

    async def forever(request: Request) -> Response:
        if len(served.server.handling) == 2:
            both.set()
        await trio.sleep_forever()
        raise AssertionError

    async with serving(forever, ServerLimits(connections_max=2)) as served:
        clients = [await served.connect() for _ in range(2)]
        for client in clients:
            await client.send(GET)
        await both.wait()
        late = await served.connect()
        head, body = await late.response()
        assert (head.status, head.keep_alive) == (503, False)
        assert b"2 connections" in body
        assert served.server.refused_total == 1


async def test_draining_lets_requests_end(jumping_clock: MockClock) -> None:
    async def slow(request: Request) -> Response:
        await trio.sleep(5)
        return Response(200, (), Body(b"done"))

    async with serving(slow) as served, trio.open_nursery() as nursery:
        idle, busy = await served.connect(), await served.connect()
        await busy.send(GET)
        await trio.sleep(1)
        nursery.start_soon(served.server.drain, 10)
        assert await idle.closed()
        with pytest.raises(OSError):
            await served.connect()
        head, body = await busy.response()
        assert (body, head.keep_alive) == (b"done", False)
        assert await busy.closed()
        assert served.server.connections_open == 0


async def test_draining_ends_after_its_grace(jumping_clock: MockClock) -> None:
    async def forever(request: Request) -> Response:
        await trio.sleep_forever()
        raise AssertionError

    async with serving(forever) as served:
        client = await served.connect()
        await client.send(GET)
        await trio.sleep(1)
        began = trio.current_time()
        await served.server.drain(10)
        assert trio.current_time() - began == pytest.approx(10)
        assert await client.closed()


async def test_a_closed_listener_ends_nothing() -> None:
    async with open_listeners(["127.0.0.1"], 0) as (listener,), trio.open_nursery() as nursery:
        await nursery.start(serve_http, [listener], hello)
        stream = await trio.open_tcp_stream("127.0.0.1", listener.port)
        client = Client(stream)
        await client.ask(GET)
        listener.close()
        assert (await client.ask(GET))[0].status == 200
        stream.socket.close()
        nursery.cancel_scope.cancel()


async def test_fast_clients_do_not_starve_others() -> None:
    turns: list[bytes] = []

    async def note(request: Request) -> Response:
        turns.append(request.target)
        return Response(200)

    async with serving(note, ServerLimits(pipelined_max=4)) as served:
        flood, other = await served.connect(), await served.connect()
        await flood.send(b"GET /flood HTTP/1.1\r\nHost: a\r\n\r\n" * 500)
        await other.send(b"GET /other HTTP/1.1\r\nHost: a\r\n\r\n")
        await other.response()
    assert b"/other" in turns[:100]
