"""What a call adds, holds and unpacks."""

from __future__ import annotations

import gzip
import zlib

import pytest
import trio

from edge_runtime.channel.calls import Calls, completed_headers
from edge_runtime.channel.metrics import HttpClientMetrics
from edge_runtime.model.errors import DriverError
from edge_runtime.model.http import Body, Request, Response
from edge_runtime.net.http_client import open_http_client
from edge_runtime.observability.metrics import Metrics, render
from tests.loopback import Talk, always, loopback_app, raw

GET = Request("GET", b"/x?y", [])
AGENT = (b"user-agent", b"Go-http-client/1.1")
GZIP = (b"accept-encoding", b"gzip")
PACKED = gzip.compress(b"x" * 1000)


@pytest.mark.parametrize(
    ("method", "given", "sent", "asked"),
    [
        ("GET", [], [AGENT, GZIP], True),
        ("GET", [(b"user-agent", b"curl")], [(b"user-agent", b"curl"), GZIP], True),
        ("GET", [(b"accept-encoding", b"br")], [(b"accept-encoding", b"br"), AGENT], False),
        ("GET", [(b"range", b"bytes=0-")], [(b"range", b"bytes=0-"), AGENT], False),
        ("HEAD", [], [AGENT], False),
        ("GET", [(b"dapr-api-token", b"t")], [(b"dapr-api-token", b"t"), AGENT, GZIP], True),
    ],
)
def test_missing_headers_are_added(
    method: str, given: list[tuple[bytes, bytes]], sent: list[tuple[bytes, bytes]], asked: bool
) -> None:
    assert completed_headers(method, given, b"") == (sent, asked)


def test_token_replaces_callers() -> None:
    given = [(b"dapr-api-token", b"theirs"), (b"user-agent", b"x"), (b"accept-encoding", b"x")]
    assert completed_headers("GET", given, b"ours") == ([*given[1:], (b"dapr-api-token", b"ours")], False)


async def test_places_last_until_body_ends() -> None:
    async with loopback_app(always(b"y" * 300_000)) as app, open_http_client() as client:
        calls = Calls(client, max_concurrency=1)
        first = await calls.send(app.origin, GET)
        second: list[Response] = []

        async def call() -> None:
            second.append(await calls.send(app.origin, GET))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert len(app.seen) == 1
            assert len(await first.body.read()) == 300_000
        await second[0].body.aclose()
        await second[0].body.aclose()
        assert (await calls.send(app.origin, GET)).status == 200


async def test_small_answers_free_places() -> None:
    async with loopback_app(always(b"small")) as app, open_http_client() as client:
        calls = Calls(client, max_concurrency=1)
        for _ in range(3):
            assert (await calls.send(app.origin, GET)).body.data == b"small"


async def test_failed_calls_free_places() -> None:
    async with loopback_app(raw(b"nonsense\r\n\r\n")) as app, open_http_client() as client:
        calls = Calls(client, max_concurrency=1)
        for _ in range(3):
            with pytest.raises(DriverError):
                await calls.send(app.origin, GET)


async def test_cancelled_wait_takes_no_place() -> None:
    proceed = trio.Event()

    async def slow(talk: Talk) -> None:
        while await talk.request() is not None:
            await proceed.wait()
            await talk.answer(b"x")

    async with loopback_app(slow) as app, open_http_client() as client, trio.open_nursery() as nursery:
        calls = Calls(client, max_concurrency=1)
        nursery.start_soon(calls.send, app.origin, GET)
        while not app.seen:
            await trio.lowlevel.checkpoint()
        with trio.move_on_after(0) as scope:
            await calls.send(app.origin, GET)
        assert scope.cancelled_caught
        proceed.set()
        assert (await calls.send(app.origin, GET)).status == 200
        assert len(app.seen) == 2


async def test_waiting_calls_are_served_in_order() -> None:
    async with loopback_app() as app, open_http_client() as client:
        calls = Calls(client, max_concurrency=1)
        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(calls.send, app.origin, Request("PUT", b"/%d" % number, [], Body(b"x")))
                await trio.lowlevel.checkpoint()
        assert [seen.target for seen in app.seen] == [b"/%d" % number for number in range(10)]


@pytest.mark.parametrize("size", [0, 10, 200_000, 3_000_000])
async def test_asked_gzip_is_unpacked(size: int) -> None:
    plain = b"0123456789" * (size // 10)
    answer = always(gzip.compress(plain), headers=[(b"content-encoding", b"gzip"), (b"a", b"b")])
    async with loopback_app(answer) as app, open_http_client() as client:
        response = await Calls(client).send(app.origin, GET)
        assert app.last.values(b"accept-encoding") == [b"gzip"]
        assert list(response.headers) == [(b"a", b"b")]
        assert await response.body.read() == plain


async def test_wanted_gzip_stays_packed() -> None:
    packed = gzip.compress(b"x" * 100)
    async with (
        loopback_app(always(packed, headers=[(b"content-encoding", b"gzip")])) as app,
        open_http_client() as client,
    ):
        response = await Calls(client).send(app.origin, Request("GET", b"/", [(b"accept-encoding", b"gzip")]))
        assert response.header(b"content-encoding") == b"gzip"
        assert response.body.data == packed


async def test_gzip_members_are_joined() -> None:
    packed = gzip.compress(b"one ") + gzip.compress(b"two")
    async with (
        loopback_app(always(packed, headers=[(b"content-encoding", b"gzip")])) as app,
        open_http_client() as client,
    ):
        response = await Calls(client).send(app.origin, GET)
        assert await response.body.read() == b"one two"


@pytest.mark.parametrize(
    "packed", [b"no gzip at all", PACKED[:-9], PACKED[:5]], ids=["plain", "cut off", "header cut off"]
)
async def test_bad_gzip_is_an_error(packed: bytes) -> None:
    async with (
        loopback_app(always(packed, headers=[(b"content-encoding", b"gzip")])) as app,
        open_http_client() as client,
    ):
        response = await Calls(client).send(app.origin, GET)
        with pytest.raises(DriverError, match="gzip body"):
            await response.body.read()


async def test_gzip_bomb_comes_in_pieces() -> None:
    compressor = zlib.compressobj(9, wbits=31)
    packed = b"".join(compressor.compress(bytes(2**20)) for _ in range(50)) + compressor.flush()
    async with (
        loopback_app(always(packed, headers=[(b"content-encoding", b"gzip")])) as app,
        open_http_client() as client,
    ):
        response = await Calls(client).send(app.origin, GET)
        sizes = [len(piece) async for piece in response.body.chunks()]
        assert sum(sizes) == 50 * 2**20
        assert max(sizes) <= 65536


async def test_calls_are_counted() -> None:
    metrics = Metrics("a")
    async with loopback_app(always(b"y" * 2000, 201)) as app, open_http_client() as client:
        calls = Calls(client, metrics=HttpClientMetrics(metrics))
        for _ in range(2):
            await calls.send(app.origin, Request("POST", b"/orders?x=1", [], Body(b"z" * 3000)))
    page = render([metrics])
    labels = 'app_id="a",method="POST",path="/orders",status="201"'
    assert f"dapr_http_client_completed_count{{{labels}}} 2" in page
    assert f"dapr_http_client_roundtrip_latency_count{{{labels}}} 2" in page
    assert 'dapr_http_client_sent_bytes_sum{app_id="a",method="POST",path="/orders",status=""} 6000' in page
    assert 'dapr_http_client_received_bytes_sum{app_id="a"} 4000' in page
