from __future__ import annotations

import pytest
import trio

from edge_runtime.net.http2 import Stream
from tests.unit.net.http2.serving import OK, REQUEST, TRAILERS, ask, echo, read_all, serving

ENGINES = pytest.mark.parametrize("codec", ["jh2", "h2"])


@ENGINES
async def test_a_call_goes_there_and_back(codec: str) -> None:
    async with serving(echo, codec=codec) as served, served.client() as client:
        assert await ask(client) == (OK, b"hello", TRAILERS)
        assert await ask(client, b"") == (OK, b"", TRAILERS)
    assert served.server.connections_open == 0


@ENGINES
async def test_large_messages_wait_for_credit(codec: str) -> None:
    body = bytes(range(256)) * 4 * 4096
    async with serving(echo, codec=codec) as served, served.client() as client, trio.open_nursery() as nursery:
        stream = await client.open_stream(REQUEST)
        nursery.start_soon(stream.send_data, body, True)
        assert await read_all(stream) == body


async def test_many_streams_share_a_connection() -> None:
    async with serving(echo) as served, served.client() as client:
        bodies: dict[int, bytes] = {}

        async def call(number: int) -> None:
            bodies[number] = (await ask(client, b"%d" % number * 1000))[1]

        async with trio.open_nursery() as nursery:
            for number in range(1000):
                nursery.start_soon(call, number)
        assert bodies == {number: b"%d" % number * 1000 for number in range(1000)}


async def test_who_does_not_take_holds_back() -> None:
    go_on = trio.Event()

    async def slow(stream: Stream) -> None:
        await go_on.wait()
        await echo(stream)

    body = b"x" * 3000000
    async with serving(slow) as served, served.client() as client, trio.open_nursery() as nursery:
        stream = await client.open_stream(REQUEST)
        nursery.start_soon(stream.send_data, body, True)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert not stream.sent_end
        go_on.set()
        assert await read_all(stream) == body
