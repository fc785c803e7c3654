"""The client against real sockets on loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from edge_runtime.model.errors import BodyTooLarge
from edge_runtime.model.http import Body, Request
from edge_runtime.net.connections import ConnectFailed, Origin
from edge_runtime.net.http_client import ClientLimits, ExchangeFailed, HttpClient, open_http_client
from tests.loopback import LoopbackApp, Talk, always, loopback_app, raw


class Pieces(Body):
    """A stream for tests; `declared` None is chunked."""

    def __init__(self, pieces: AsyncIterator[bytes], declared: int | None = None) -> None:
        super().__init__()
        self._pieces = pieces
        self._declared = declared

    @property
    def length(self) -> int | None:
        return self._declared

    @property
    def buffered(self) -> bool:
        return False

    def chunks(self) -> AsyncIterator[bytes]:
        return self._pieces


async def counted(number: int, size: int = 65536) -> AsyncIterator[bytes]:
    for _ in range(number):
        await trio.lowlevel.checkpoint()
        yield b"x" * size


def post(body: Body | bytes = b"") -> Request:
    return Request("POST", b"/x", [], body if isinstance(body, Body) else Body(body))


GET = Request("GET", b"/x?q=1", [(b"a", b"1")])


async def test_small_answer_is_in_memory() -> None:
    async with loopback_app() as app, open_http_client() as client:
        response = await client.send(app.origin, post(b"hello"))
        assert (response.status, response.body.buffered, response.body.data) == (200, True, b"hello")
        assert response.header(b"content-length") is None
        assert app.last.values(b"host") == [f"127.0.0.1:{app.origin.port}".encode()]
        assert app.last.values(b"content-length") == [b"5"]


async def test_connections_are_kept_alive() -> None:
    async with loopback_app() as app, open_http_client() as client:
        for _ in range(5):
            await client.send(app.origin, GET)
        assert app.connections == 1
        assert client.idle_connections == 1
        assert app.last.target == b"/x?q=1"


async def test_closed_idle_connection_is_replaced() -> None:
    async def once(talk: Talk) -> None:
        await talk.request()
        await talk.answer(b"bye")

    async with loopback_app(once) as app, open_http_client() as client:
        for _ in range(3):
            response = await client.send(app.origin, post(b"x"))
            assert response.body.data == b"bye"
            await wait_all_tasks_blocked()
        assert app.connections == 3


def hang_up_on_second(talk_count: list[int]) -> object:
    async def converse(talk: Talk) -> None:
        talk_count.append(1)
        if len(talk_count) > 1:
            while await talk.request() is not None:
                await talk.answer(b"again")
        await talk.request()
        await talk.answer(b"first")
        await talk.request()  # and no answer

    return converse


async def test_idempotent_request_is_sent_again() -> None:
    async with loopback_app(hang_up_on_second([])) as app, open_http_client() as client:  # type: ignore[arg-type]
        assert (await client.send(app.origin, GET)).body.data == b"first"
        assert (await client.send(app.origin, GET)).body.data == b"again"
        assert app.connections == 2


async def test_post_is_not_sent_twice() -> None:
    async with loopback_app(hang_up_on_second([])) as app, open_http_client() as client:  # type: ignore[arg-type]
        assert (await client.send(app.origin, post(b"1"))).body.data == b"first"
        with pytest.raises(ExchangeFailed, match="EOF"):
            await client.send(app.origin, post(b"2"))
        assert [seen.body for seen in app.seen] == [b"1", b"2"]


async def test_refused_connection_is_said() -> None:
    async with loopback_app() as app:
        gone = app.origin
    async with open_http_client() as client:
        with pytest.raises(ConnectFailed, match=f"dial tcp 127.0.0.1:{gone.port}: connect: connection refused"):
            await client.send(gone, GET)


async def test_names_are_resolved() -> None:
    async with loopback_app() as app, open_http_client() as client:
        origin = Origin("http", "localhost", app.origin.port)
        assert (await client.send(origin, post(b"x"))).body.data == b"x"
        assert app.last.values(b"host") == [f"localhost:{app.origin.port}".encode()]


async def test_connect_timeout_is_said(autojump_clock: trio.testing.MockClock) -> None:
    async with open_http_client(ClientLimits(connect_timeout_s=3)) as client:
        # TEST-NET-1 leads nowhere; with a clock that jumps nothing is waited for.
        with pytest.raises(ConnectFailed, match="dial tcp"):
            await client.send(Origin("http", "192.0.2.1", 9), GET)


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort", b"short"),
        (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", b"until the end"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", b"x"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n", b"abc"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    ],
)
async def test_odd_answers_are_read(answer: bytes, body: bytes) -> None:
    async with loopback_app(raw(answer)) as app, open_http_client() as client:
        response = await client.send(app.origin, GET)
        assert await response.body.read() == body


@pytest.mark.parametrize(
    "answer",
    [b"", b"HTTP/1.1 200", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"],
)
async def test_no_answer_is_an_error(answer: bytes) -> None:
    async with loopback_app(raw(answer)) as app, open_http_client() as client:
        with pytest.raises(ExchangeFailed):
            await client.send(app.origin, GET)
        assert app.connections == 1


async def test_cut_chunks_are_an_error() -> None:
    cut = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n"
    async with loopback_app(raw(cut)) as app, open_http_client() as client:
        response = await client.send(app.origin, GET)
        with pytest.raises(ExchangeFailed):
            await response.body.read()


async def test_large_header_is_refused() -> None:
    answer = always(headers=[(b"x-large", b"x" * 9000)])
    async with loopback_app(answer) as app, open_http_client() as client:
        with pytest.raises(ExchangeFailed, match="larger than 8192 bytes"):
            await client.send(app.origin, GET)
    async with loopback_app(answer) as app, open_http_client(ClientLimits(head_bytes_max=16384)) as client:
        assert (await client.send(app.origin, GET)).status == 200


async def test_head_has_no_body() -> None:
    answer = raw(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
    async with loopback_app(answer) as app, open_http_client() as client:
        response = await client.send(app.origin, Request("HEAD", b"/", []))
        assert response.body.data == b""


async def test_large_answer_is_streamed() -> None:
    async with loopback_app(always(b"y" * 300_000)) as app, open_http_client() as client:
        response = await client.send(app.origin, GET)
        assert not response.body.buffered
        assert response.body.length is None
        assert client.idle_connections == 0
        assert await response.body.read() == b"y" * 300_000
        assert client.idle_connections == 1
        await response.body.aclose()
        assert client.idle_connections == 1


async def test_read_limit_is_kept() -> None:
    async with loopback_app(always(b"y" * 300_000)) as app, open_http_client() as client:
        response = await client.send(app.origin, GET)
        with pytest.raises(BodyTooLarge):
            await response.body.read(1000)
        assert client.idle_connections == 0


async def test_closed_answer_drops_connection() -> None:
    async with loopback_app(always(b"y" * 300_000)) as app, open_http_client() as client:
        response = await client.send(app.origin, GET)
        await response.body.aclose()
        assert client.idle_connections == 0
        assert [piece async for piece in response.body.chunks()] == []


@pytest.mark.parametrize("declared", [None, 20 * 65536])
async def test_streamed_request_arrives(declared: int | None) -> None:
    async with loopback_app() as app, open_http_client() as client:
        response = await client.send(app.origin, post(Pieces(counted(20), declared)))
        assert len(await response.body.read()) == 20 * 65536
        assert client.idle_connections == 1
        assert app.last.values(b"transfer-encoding") == ([b"chunked"] if declared is None else [])


async def test_large_buffered_request_arrives() -> None:
    async with loopback_app() as app, open_http_client() as client:
        response = await client.send(app.origin, post(b"z" * 5_000_000))
        assert await response.body.read() == b"z" * 5_000_000


async def test_short_stream_is_an_error() -> None:
    async with loopback_app() as app, open_http_client() as client:
        with pytest.raises(ExchangeFailed, match="1000 bytes instead of the 2000"):
            await client.send(app.origin, post(Pieces(counted(1, 1000), 2000)))


async def test_error_of_body_reaches_caller() -> None:
    async def failing() -> AsyncIterator[bytes]:
        yield b"x"
        raise BodyTooLarge

    async with loopback_app() as app, open_http_client() as client:
        with pytest.raises(BodyTooLarge):
            await client.send(app.origin, post(Pieces(failing())))


async def test_early_answer_is_returned() -> None:
    async def refuse(talk: Talk) -> None:
        await talk.head()
        await talk.answer(b"too much", 413)
        await trio.sleep_forever()

    async with loopback_app(refuse) as app, open_http_client() as client:
        response = await client.send(app.origin, post(b"z" * 50_000_000))
        assert (response.status, await response.body.read()) == (413, b"too much")
        assert client.idle_connections == 0


async def test_both_directions_flow_at_once() -> None:
    async def pipe(talk: Talk) -> None:
        await talk.head()
        await talk.begin_answer()
        async for piece in talk.pieces():
            await talk.chunk(piece)
        await talk.chunk(b"")
        await trio.sleep_forever()

    async with loopback_app(pipe) as app, open_http_client() as client:
        response = await client.send(app.origin, post(Pieces(counted(300))))
        total = 0
        async for piece in response.body.chunks():
            total += len(piece)
        assert total == 300 * 65536


async def test_answer_before_end_of_request() -> None:
    """What a conversation over one exchange needs: each side's pieces arrive while the other goes on."""
    send, receive = trio.open_memory_channel[bytes](0)

    async def pipe(talk: Talk) -> None:
        await talk.head()
        await talk.begin_answer()
        async for piece in talk.pieces():
            await talk.chunk(piece.upper())
        await talk.chunk(b"")

    async def questions() -> AsyncIterator[bytes]:
        async for piece in receive:
            yield piece

    async with loopback_app(pipe) as app, open_http_client() as client:
        response = await client.send(app.origin, post(Pieces(questions())))
        answers = response.body.chunks()
        for word in (b"one", b"two"):
            await send.send(word)
            assert await anext(answers) == word.upper()
        await send.aclose()
        assert [piece async for piece in answers] == []


async def test_cancelled_call_hangs_up() -> None:
    async def silent(talk: Talk) -> None:
        await talk.request()
        assert await talk.request() is None
        gone.set()

    gone = trio.Event()
    async with loopback_app(silent) as app, open_http_client() as client, trio.open_nursery() as nursery:
        nursery.start_soon(client.send, app.origin, post(b"x"))
        await wait_all_tasks_blocked()
        while not app.seen:
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await gone.wait()


async def test_connections_are_limited() -> None:
    proceed = trio.Event()

    async def slow(talk: Talk) -> None:
        while await talk.request() is not None:
            await proceed.wait()
            await talk.answer(b"x")

    async with loopback_app(slow) as app, open_http_client(ClientLimits(connections_max=2)) as client:
        async with trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(client.send, app.origin, GET)
            while app.connections < 2:
                await trio.lowlevel.checkpoint()
            await wait_all_tasks_blocked(0.01)
            assert app.connections == 2
            proceed.set()
        assert app.connections == 2
        assert len(app.seen) == 6


async def test_idle_connections_are_limited() -> None:
    async def burst(client: HttpClient, app: LoopbackApp) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(client.send, app.origin, GET)

    async with loopback_app() as app, open_http_client(ClientLimits(idle_max=3)) as client:
        await burst(client, app)
        assert client.idle_connections <= 3
        await client.send(app.origin, GET)
        assert client.idle_connections <= 3


async def test_old_idle_connections_go(autojump_clock: trio.testing.MockClock) -> None:
    async with loopback_app() as app, open_http_client(ClientLimits(idle_s=30)) as client:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(client.send, app.origin, GET)
        kept = client.idle_connections
        await trio.sleep(31)
        await client.send(app.origin, GET)
        assert client.idle_connections == kept - 1


async def test_pools_of_gone_origins_are_forgotten() -> None:
    async with open_http_client(ClientLimits(idle_max=2)) as client:
        for _ in range(6):
            async with loopback_app() as app:
                await client.send(app.origin, GET)
        assert client.idle_connections == 2
        assert len(client._idle) <= 4


async def test_closing_ends_everything() -> None:
    async with loopback_app(always(b"y" * 3_000_000)) as app:
        async with open_http_client() as client:
            await client.send(app.origin, Request("GET", b"/", []))
        while app.open_connections:
            await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("body", [Body(b"x"), Pieces(counted(1))])
async def test_closed_client_opens_nothing(body: Body) -> None:
    async with loopback_app() as app:
        async with open_http_client() as client:
            pass
        with pytest.raises(ExchangeFailed, match="no longer calls"):
            await client.send(app.origin, post(body))
        assert client.idle_connections == 0
        assert client._slots.value == ClientLimits().connections_max


async def test_error_of_block_stays_itself() -> None:
    with pytest.raises(KeyError):
        async with open_http_client():
            raise KeyError("x")
