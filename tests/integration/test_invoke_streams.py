"""Bodies of any size in both directions, slow and leaving callers, limits."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from edge_runtime.api.http.face import FaceSettings
from edge_runtime.model.errors import DriverError
from edge_runtime.model.http import Body
from tests.loopback import LoopbackApp, Talk, always, loopback_app
from tests.support.invocation import open_sidecar

UNLIMITED = FaceSettings(body_limit_bytes=None)
PIECE = b"x" * 65536


class Flow(Body):
    """A request body that is made while it is sent."""

    def __init__(self, count: int, *, declared: bool) -> None:
        super().__init__()
        self._count = count
        self._declared = declared

    @property
    def length(self) -> int | None:
        return self._count * len(PIECE) if self._declared else None

    @property
    def buffered(self) -> bool:
        return False

    async def chunks(self) -> AsyncIterator[bytes]:
        for _ in range(self._count):
            yield PIECE


async def swallow(talk: Talk) -> None:
    """Counts what comes and says the number."""
    while await talk.head() is not None:
        size = 0
        async for piece in talk.pieces():
            size += len(piece)
        await talk.answer(b"%d" % size)


async def reflect(talk: Talk) -> None:
    """Sends back what comes, while it comes."""
    while await talk.head() is not None:
        await talk.begin_answer()
        async for piece in talk.pieces():
            await talk.chunk(piece)
        await talk.chunk(b"")


async def pour(talk: Talk) -> None:
    """Answers with as many pieces as the last part of the path says."""
    while (head := await talk.head()) is not None:
        async for _ in talk.pieces():
            pass
        await talk.begin_answer()
        for _ in range(int(head.target.rsplit(b"/", 1)[1])):
            await talk.chunk(PIECE)
        await talk.chunk(b"")


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("declared", [True, False])
async def test_large_request_reaches_app(declared: bool) -> None:
    async with loopback_app(swallow) as me, open_sidecar({"me": me}, settings=UNLIMITED) as sidecar:
        response = await sidecar.call("POST", b"/v1.0/invoke/me/method/x", Flow(100, declared=declared))
        assert response.body.data == b"%d" % (100 * len(PIECE))


async def test_both_directions_stream_at_once() -> None:
    async with loopback_app(reflect) as me, open_sidecar({"me": me}, settings=UNLIMITED) as sidecar:
        response = await sidecar.call("POST", b"/v1.0/invoke/me/method/x", Flow(100, declared=False))
        assert sum([len(piece) async for piece in response.body.chunks()]) == 100 * len(PIECE)


@pytest.mark.slow
async def test_bodies_cost_no_memory() -> None:
    count = 50 * 2**20 // len(PIECE)
    async with loopback_app(reflect) as me, open_sidecar({"me": me}, settings=UNLIMITED) as sidecar:
        peak = 0
        for round_number in range(3):
            response = await sidecar.call("POST", b"/v1.0/invoke/me/method/x", Flow(count, declared=True))
            size = 0
            async for piece in response.body.chunks():
                size += len(piece)
                peak = max(peak, resident_bytes())
            assert size == count * len(PIECE)
            if round_number == 0:
                # The first round loads what is loaded late and settles the allocator.
                before = peak = resident_bytes()
    # Client, sidecar and app are all in this process.
    assert peak - before < 8 * 2**20


@pytest.mark.slow
async def test_slow_consumer_holds_app_back() -> None:
    async with loopback_app(pour) as me, open_sidecar({"me": me}) as sidecar:
        before = resident_bytes()
        response = await sidecar.call("GET", b"/v1.0/invoke/me/method/pour/3200")
        await wait_all_tasks_blocked(0.2)
        assert resident_bytes() - before < 32 * 2**20  # of 200 MiB: what the two sockets' buffers hold, and no more
        size = 0
        async for piece in response.body.chunks():
            size += len(piece)
        assert size == 3200 * len(PIECE)


async def test_body_limit_refuses_excess() -> None:
    settings = FaceSettings(body_limit_bytes=100_000)
    async with loopback_app(swallow) as me, open_sidecar({"me": me}, settings=settings) as sidecar:
        for declared in (True, False):
            response = await sidecar.call("POST", b"/v1.0/invoke/me/method/x", Flow(3, declared=declared))
            assert response.status == 500
            message = "failed to invoke, id: me, err: stream too large"
            assert json.loads(await response.body.read())["message"] == message


async def test_early_answer_comes_through() -> None:
    async def refuse(talk: Talk) -> None:
        await talk.head()
        await talk.answer(b"no", 413)
        await trio.sleep_forever()

    async with loopback_app(refuse) as me, open_sidecar({"me": me}, settings=UNLIMITED) as sidecar:
        response = await sidecar.call("POST", b"/v1.0/invoke/me/method/x", Flow(1000, declared=True))
        assert (response.status, await response.body.read()) == (413, b"no")


async def test_events_arrive_one_by_one() -> None:
    proceed = trio.Event()

    async def events(talk: Talk) -> None:
        await talk.request()
        await talk.begin_answer(headers=[(b"content-type", b"text/event-stream"), (b"x-app", b"1")])
        await talk.chunk(b"data: 1\n\n")
        await proceed.wait()
        await talk.chunk(b"data: 2\n\n")
        await talk.chunk(b"")

    async with loopback_app(events) as me, open_sidecar({"me": me}) as sidecar:
        accept = [(b"accept", b"text/event-stream")]
        response = await sidecar.call("GET", b"/v1.0/invoke/me/method/events", headers=accept)
        assert response.header(b"content-type") == b"text/event-stream"
        assert response.header(b"cache-control") == b"no-cache"
        assert response.header(b"x-app") == b"1"
        pieces = response.body.chunks()
        assert await anext(pieces) == b"data: 1\n\n"
        proceed.set()
        assert await anext(pieces) == b"data: 2\n\n"
        assert [piece async for piece in pieces] == []


async def left_by(app: LoopbackApp) -> None:
    while app.open_connections:
        await trio.lowlevel.checkpoint()


async def test_leaving_caller_cancels_call() -> None:
    async def silent(talk: Talk) -> None:
        await talk.request()
        await talk.request()

    async with loopback_app(silent) as me, open_sidecar({"me": me}) as sidecar:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(sidecar.call, "POST", b"/v1.0/invoke/me/method/x", b"data")
                while not me.seen:
                    await trio.lowlevel.checkpoint()
                scope.cancel()
        await left_by(me)


async def test_leaving_caller_ends_stream() -> None:
    async with loopback_app(pour) as me, open_sidecar({"me": me}) as sidecar:
        response = await sidecar.call("GET", b"/v1.0/invoke/me/method/pour/100000")
        await anext(response.body.chunks())
        await response.body.aclose()
        await left_by(me)


async def test_leaving_uploader_ends_upload() -> None:
    class Stuck(Flow):
        async def chunks(self) -> AsyncIterator[bytes]:
            yield PIECE
            await trio.sleep_forever()

    async with loopback_app(swallow) as me, open_sidecar({"me": me}, settings=UNLIMITED) as sidecar:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sidecar.call, "POST", b"/v1.0/invoke/me/method/x", Stuck(9, declared=True))
            while not me.open_connections:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        await left_by(me)


async def test_cut_answer_stays_cut() -> None:
    async def cut(talk: Talk) -> None:
        await talk.request()
        await talk.begin_answer()
        await talk.chunk(PIECE)

    async with loopback_app(cut) as me, open_sidecar({"me": me}) as sidecar:
        response = await sidecar.call("GET", b"/v1.0/invoke/me/method/x")
        with pytest.raises(DriverError):
            await response.body.read()


async def test_gzip_answer_is_unpacked() -> None:
    import gzip

    packed = gzip.compress(PIECE * 10)
    answer = always(packed, headers=[(b"content-encoding", b"gzip")])
    async with loopback_app(answer) as me, open_sidecar({"me": me}) as sidecar:
        response = await sidecar.call("GET", b"/v1.0/invoke/me/method/x")
        assert response.header(b"content-encoding") is None
        assert await response.body.read() == PIECE * 10
        wanting = [(b"accept-encoding", b"gzip")]
        response = await sidecar.call("GET", b"/v1.0/invoke/me/method/x", headers=wanting)
        assert response.header(b"content-encoding") == b"gzip"
        assert response.body.data == packed


async def test_app_serves_as_many_as_allowed() -> None:
    proceed = trio.Event()

    async def slow(talk: Talk) -> None:
        while await talk.request() is not None:
            await proceed.wait()
            await talk.answer(b"done")

    done: list[bytes] = []
    async with loopback_app(slow) as me, open_sidecar({"me": me}, max_concurrency=2) as sidecar:

        async def call() -> None:
            done.append((await sidecar.call("GET", b"/v1.0/invoke/me/method/x")).body.data)

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(call)
            await wait_all_tasks_blocked(0.05)
            assert len(me.seen) == 2
            proceed.set()
    assert done == [b"done"] * 5


async def test_redirects_are_not_followed() -> None:
    answer = always(b"", 302, [(b"location", b"/elsewhere")])
    async with loopback_app(answer) as me, open_sidecar({"me": me}) as sidecar:
        response = await sidecar.call("GET", b"/v1.0/invoke/me/method/x")
        assert (response.status, response.header(b"location")) == (302, b"/elsewhere")
        assert len(me.seen) == 1
