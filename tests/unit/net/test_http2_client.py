"""The HTTP/2 client for h2c apps, against an app by another HTTP/2 library."""

from __future__ import annotations

from collections.abc import AsyncIterator

import h2.settings
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from edge_runtime.model.http import Body, Request
from edge_runtime.net.connections import ConnectFailed, Origin
from edge_runtime.net.http2_client import H2cClient, open_h2c_client
from edge_runtime.net.http_client import ExchangeFailed
from tests.loopback_http2 import Exchange, Http2App, always, loopback_http2
from tests.unit.net.test_http_client import Pieces, counted, post

GET = Request("GET", b"/x?q=1", [(b"a", b"1")])
CANCEL = 8
ONE_STREAM = {int(h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS): 1}


async def test_small_answer_is_in_memory() -> None:
    async with loopback_http2() as app, open_h2c_client() as client:
        response = await client.send(app.origin, post(b"hello"))
        assert (response.status, response.body.buffered, response.body.data) == (200, True, b"hello")
        assert (app.last.method, app.last.target, app.last.body) == ("POST", b"/x", b"hello")
        assert app.last.values(b"content-length") == [b"5"]


async def test_head_of_request_is_http2() -> None:
    fields: list[list[tuple[bytes, bytes]]] = []

    async def converse(exchange: Exchange) -> None:
        fields.append(exchange.fields)
        await exchange.answer()

    headers = [(b"a", b"1"), (b"connection", b"close"), (b"te", b"trailers"), (b"host", b"b")]
    async with loopback_http2(converse) as app, open_h2c_client() as client:
        await client.send(app.origin, Request("GET", b"/x?q=1", headers))
        authority = f"127.0.0.1:{app.origin.port}".encode()
        assert fields == [
            [
                (b":method", b"GET"), (b":scheme", b"http"), (b":authority", authority), (b":path", b"/x?q=1"),
                (b"a", b"1"),
            ]
        ]  # fmt: skip


async def test_calls_share_one_connection() -> None:
    gate = trio.Event()

    async def converse(exchange: Exchange) -> None:
        await exchange.request()
        await gate.wait()
        await exchange.answer(b"done")

    async with loopback_http2(converse) as app, open_h2c_client() as client, trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(client.send, app.origin, GET)
        await wait_all_tasks_blocked(0.05)
        assert (app.connections, app.streams) == (1, 20)
        gate.set()


async def test_lost_connection_is_replaced() -> None:
    async with loopback_http2() as app, open_h2c_client() as client:
        await client.send(app.origin, GET)
        await app.wires[0].stream.aclose()
        await wait_all_tasks_blocked(0.05)
        assert (await client.send(app.origin, GET)).status == 200
        assert app.connections == 2


async def test_goodbye_lets_open_calls_end() -> None:
    gate = trio.Event()

    async def converse(exchange: Exchange) -> None:
        await exchange.request()
        await gate.wait()
        await exchange.answer(b"done")

    async with loopback_http2(converse) as app, open_h2c_client() as client, trio.open_nursery() as nursery:
        nursery.start_soon(client.send, app.origin, GET)
        await wait_all_tasks_blocked(0.05)
        # What the library says of itself ends it; its GOAWAY is written by hand.
        await app.wires[0].stream.send_all(b"\0\0\x08\x07\0\0\0\0\0" + b"\0\0\0\x01" + b"\0\0\0\0")
        await wait_all_tasks_blocked(0.05)
        nursery.start_soon(client.send, app.origin, GET)
        await wait_all_tasks_blocked(0.05)
        assert app.connections == 2
        gate.set()
        await wait_all_tasks_blocked(0.05)
        assert len(app.seen) == 2


async def test_refused_stream_is_sent_again() -> None:
    async def converse(exchange: Exchange) -> None:
        if exchange.id == 1:
            await exchange.reset(7)
        else:
            await exchange.answer((await exchange.request()).body)

    async with loopback_http2(converse) as app, open_h2c_client() as client:
        assert (await client.send(app.origin, post(b"x"))).body.data == b"x"
        assert app.streams == 2


async def test_processed_request_is_not_sent_again() -> None:
    async def converse(exchange: Exchange) -> None:
        await exchange.request()
        await exchange.reset(2)

    async with loopback_http2(converse) as app, open_h2c_client() as client:
        with pytest.raises(ExchangeFailed, match="stream reset by the peer: INTERNAL_ERROR"):
            await client.send(app.origin, GET)
        assert app.streams == 1


async def test_lost_call_is_not_sent_again() -> None:
    async def converse(exchange: Exchange) -> None:
        await exchange.request()
        await exchange.wire.stream.aclose()

    async with loopback_http2(converse) as app, open_h2c_client() as client:
        with pytest.raises(ExchangeFailed, match="connection"):
            await client.send(app.origin, GET)
        assert app.streams == 1


async def test_refused_connection_is_said() -> None:
    async with loopback_http2() as app:
        gone = app.origin
    async with open_h2c_client() as client:
        with pytest.raises(ConnectFailed, match=f"dial tcp 127.0.0.1:{gone.port}: connect: connection refused"):
            await client.send(gone, GET)


async def test_http1_app_is_said() -> None:
    async def speak_http1(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with trio.open_nursery() as nursery, open_h2c_client() as client:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, speak_http1, listeners)
        origin = Origin("h2c", "127.0.0.1", listeners[0].socket.getsockname()[1])
        with pytest.raises(ExchangeFailed):
            await client.send(origin, GET)
        nursery.cancel_scope.cancel()


async def test_large_answer_is_a_stream() -> None:
    data = bytes(range(256)) * 4000
    async with loopback_http2(always(data)) as app, open_h2c_client() as client:
        response = await client.send(app.origin, GET)
        assert not response.body.buffered
        assert response.body.length is None
        assert await response.body.read() == data


async def test_unread_answer_holds_the_app_back() -> None:
    sent = 0

    async def converse(exchange: Exchange) -> None:
        nonlocal sent
        await exchange.begin()
        while True:
            await exchange.send(b"x" * 65536)
            sent += 65536

    async with loopback_http2(converse) as app, open_h2c_client() as client:
        response = await client.send(app.origin, GET)
        await wait_all_tasks_blocked(0.05)
        assert sent <= 1_000_000
        await response.body.aclose()
        await wait_all_tasks_blocked(0.05)
        assert app.resets == [CANCEL]


async def test_bodies_stream_both_ways() -> None:
    async def converse(exchange: Exchange) -> None:
        await exchange.begin()
        async for piece in exchange.pieces():
            await exchange.send(piece)
        await exchange.end()

    put, pieces = trio.open_memory_channel[bytes](0)
    async with loopback_http2(converse) as app, open_h2c_client() as client:
        response = await client.send(app.origin, post(Pieces(pieces)))
        chunks = response.body.chunks()
        for number in range(5):
            await put.send(b"%d" % number)
            assert await anext(chunks) == b"%d" % number
        put.close()
        assert await anext(chunks, None) is None


async def test_large_upload_passes_whole() -> None:
    async with loopback_http2() as app, open_h2c_client() as client:
        response = await client.send(app.origin, post(b"x" * 3_000_000))
        assert len(await response.body.read()) == 3_000_000
        response = await client.send(app.origin, post(Pieces(counted(20))))
        assert len(await response.body.read()) == 20 * 65536
        assert app.last.values(b"content-length") == []


async def test_early_answer_ends_the_upload() -> None:
    async def converse(exchange: Exchange) -> None:
        await exchange.answer(b"enough", 413)

    async with loopback_http2(converse) as app, open_h2c_client() as client:
        response = await client.send(app.origin, post(Pieces(counted(1_000_000))))
        assert (response.status, response.body.data) == (413, b"enough")
        await wait_all_tasks_blocked(0.05)
        assert app.resets == [CANCEL]


async def broken() -> AsyncIterator[bytes]:
    yield b"some"
    raise ZeroDivisionError


async def test_failing_body_is_raised() -> None:
    async with loopback_http2() as app, open_h2c_client() as client:
        with pytest.raises(ZeroDivisionError):
            await client.send(app.origin, post(Pieces(broken())))
        with pytest.raises(ExchangeFailed, match="not have the 5 bytes"):
            await client.send(app.origin, post(Pieces(counted(2), 5)))
        await wait_all_tasks_blocked(0.05)
        assert len(app.resets) == 2
        assert (await client.send(app.origin, GET)).status == 200
        assert app.connections == 1


async def test_lost_call_gives_its_body_up() -> None:
    given_up = trio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield b"some"
        try:
            await trio.sleep_forever()
        finally:
            given_up.set()

    async def converse(exchange: Exchange) -> None:
        await exchange.reset(2)

    async with loopback_http2(converse) as app, open_h2c_client() as client:
        with pytest.raises(ExchangeFailed):
            await client.send(app.origin, post(Pieces(endless())))
        with trio.fail_after(5):
            await given_up.wait()


async def test_cancelled_call_is_reset() -> None:
    async def converse(exchange: Exchange) -> None:
        await exchange.request()
        await exchange.reset_by_peer.wait()

    async with loopback_http2(converse) as app, open_h2c_client() as client:
        with trio.move_on_after(0.05):
            await client.send(app.origin, GET)
        await wait_all_tasks_blocked(0.05)
        assert app.resets == [CANCEL]


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 304)])
async def test_length_without_body_is_taken(method: str, status: int) -> None:
    async def converse(exchange: Exchange) -> None:
        await exchange.request()
        await exchange.begin(status, [(b"content-length", b"5")])
        await exchange.end()

    async with loopback_http2(converse) as app, open_h2c_client() as client:
        response = await client.send(app.origin, Request(method, b"/", []))
        assert (response.status, response.body.data) == (status, b"")


async def test_informational_answers_are_skipped() -> None:
    async def converse(exchange: Exchange) -> None:
        await exchange.request()
        await exchange.begin(103)
        await exchange.answer(b"final")

    async with loopback_http2(converse) as app, open_h2c_client() as client:
        response = await client.send(app.origin, GET)
        assert (response.status, await response.body.read()) == (200, b"final")


async def test_trailers_are_read_past() -> None:
    async def converse(exchange: Exchange) -> None:
        await exchange.request()
        await exchange.begin()
        await exchange.send(b"body")
        await exchange.end([(b"x", b"y")])

    async with loopback_http2(converse) as app, open_h2c_client() as client:
        response = await client.send(app.origin, GET)
        assert await response.body.read() == b"body"


async def test_large_headers_are_taken() -> None:
    fields = [(b"x%d" % number, b"y" * 1000) for number in range(50)]
    async with loopback_http2(always(b"", 200, fields)) as app, open_h2c_client() as client:
        response = await client.send(app.origin, GET)
        assert len(response.headers) == 50


async def test_calls_beyond_the_streams_connect_anew() -> None:
    async def converse(exchange: Exchange) -> None:
        if (await exchange.request()).target == b"/nested":
            await exchange.answer(b"in")
            return
        inner = await client.send(app.origin, Request("GET", b"/nested", []))
        await exchange.answer(await inner.body.read())

    async with loopback_http2(converse, ONE_STREAM) as app, open_h2c_client() as client:
        await client.send(app.origin, Request("GET", b"/nested", []))
        response = await client.send(app.origin, GET)
        assert await response.body.read() == b"in"
        assert app.connections == 2


async def test_idle_connection_is_closed(autojump_clock: MockClock) -> None:
    async with loopback_http2() as app, open_h2c_client() as client:
        await client.send(app.origin, GET)
        await trio.sleep(1000)
        assert app.open_connections == 0
        await client.send(app.origin, GET)
        assert app.connections == 2


async def test_closed_client_calls_no_more() -> None:
    async def ask(client: H2cClient, app: Http2App) -> None:
        with pytest.raises(ExchangeFailed, match="no longer calls there"):
            await client.send(app.origin, GET)

    async with loopback_http2() as app, open_h2c_client() as client:
        client.close()
        await ask(client, app)


async def test_error_of_the_block_comes_out_alone() -> None:
    async def fail() -> None:
        async with open_h2c_client() as client:
            await client.send(app.origin, GET)
            raise ZeroDivisionError

    async with loopback_http2() as app:
        with pytest.raises(ZeroDivisionError):
            await fail()


async def test_malformed_request_is_an_error() -> None:
    async with loopback_http2() as app, open_h2c_client() as client:
        with pytest.raises(ValueError, match="no request"):
            await client.send(app.origin, Request("GET", b"/a b", []))
        assert (await client.send(app.origin, Request("GET", b"/", [], Body(b"")))).status == 200
