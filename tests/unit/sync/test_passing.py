"""Calls of apps over a link, against a server on loopback that plays the other sidecar with an app behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing

from edge_runtime.model.errors import DriverError, Overloaded, Unreachable
from edge_runtime.model.http import Body, Request
from edge_runtime.observability.metrics import render
from edge_runtime.sync.far_app import far_request
from edge_runtime.sync.passing import PacedBody, PassedAnswer
from tests.brokers import until
from tests.unit.blocks.invoke.test_invoker import Chunked
from tests.unit.sync.test_link import HEALTH, open_link

CALL = b"/base/v1.0/invoke/a/method/x"
METADATA = b"/base/v1.0/metadata"
BASED_HEALTH = b"/base" + HEALTH


def request(body: bytes = b"", method: str = "POST") -> Request:
    return far_request("a", Request(method, b"/x", ((b"x-own", b"1"),), Body(body)))


def test_a_path_is_written_for_one_more_decoding() -> None:
    crossing = far_request("a b.c", Request("GET", b"/x/%2541?q=%41", (), Body()))
    assert crossing.target == b"/v1.0/invoke/a%20b.c/method/x/%252541?q=%41"


async def test_the_answer_is_the_app_s() -> None:
    async with open_link({CALL: (404, b"no", [(b"x-a", b"1")])}) as opened:
        await opened.state("up")
        answer = await opened.link.pass_on(request(b"body"))
        assert (answer.status, answer.body.data, answer.header(b"x-a")) == (404, b"no", b"1")
        assert (opened.far.app.last.target, opened.far.app.last.body) == (CALL, b"body")
        page = render((opened.metrics,))
        assert 'dapr_edge_link_calls_total{class="invocation",link="cloud",outcome="done"} 1' in page
        assert 'class="invocation",direction="sent"' in page


@pytest.mark.parametrize("status", [302, 401, 403, 500, 502, 503, 504])
async def test_no_answer_of_an_app_takes_the_link_down(status: int) -> None:
    async with open_link({CALL: (status, b"mine")}) as opened:
        await opened.state("up")
        assert (await opened.link.pass_on(request())).status == status
        assert opened.link.state.up
        assert opened.far.targets().count(BASED_HEALTH) == 1  # at the start


async def test_the_sidecar_s_own_401_is_looked_into() -> None:
    refusal = (401, b"invalid api token\n")
    async with open_link({CALL: refusal, METADATA: (200, b"{}")}, probe_s=0.02) as opened:
        await opened.state("up")
        assert (await opened.link.pass_on(request())).status == 401
        opened.far.answers[METADATA] = refusal
        with pytest.raises(Unreachable, match=r"refuses the token \(401\)"):
            await opened.link.pass_on(request())
        with pytest.raises(Unreachable, match="refuses the token"):
            await opened.link.pass_on(request())
        assert not opened.link.state.up


async def test_without_a_link_nothing_is_tried() -> None:
    async with open_link(fault="no secret") as opened:
        await opened.state("down")
        with pytest.raises(Unreachable, match="link cloud is down: no secret"):
            await opened.link.pass_on(request())
        assert opened.far.app.seen == []


async def test_an_app_may_take_its_time_while_the_sidecar_is_there() -> None:
    async with open_link({CALL: None}) as opened:
        await opened.state("up")
        async with trio.open_nursery() as nursery:

            async def call() -> None:
                with pytest.raises(Unreachable, match="the health check was answered 500"):
                    await opened.link.pass_on(request())
                nursery.cancel_scope.cancel()

            nursery.start_soon(call)
            await until(lambda: opened.far.targets().count(BASED_HEALTH) > 2)
            opened.far.answers[BASED_HEALTH] = (500, b"gone")
            await trio.sleep_forever()


async def test_an_answer_may_have_a_time_limit() -> None:
    async with open_link({CALL: None}) as opened:
        await opened.state("up")
        with pytest.raises(DriverError, match=r"link cloud: no answer within 0\.05 s") as caught:
            await opened.link.pass_on(request(), 0.05)
        assert not isinstance(caught.value, Unreachable)
        assert opened.link.state.up


async def test_calls_beyond_the_limit_are_refused() -> None:
    async with open_link({CALL: (200, b"x" * 100_000)}) as opened:
        await opened.state("up")
        link = opened.link
        link._limits = link._limits._replace(passed_on_max=1)
        answer = await link.pass_on(request())
        assert not answer.body.buffered
        with pytest.raises(Overloaded, match="link cloud: 1 calls of apps are in hand"):
            await link.pass_on(request())
        assert len(await answer.body.read()) == 100_000
        answer = await link.pass_on(request())
        await answer.body.aclose()
        await (await link.pass_on(request())).body.aclose()


async def test_a_broken_upload_is_the_caller_s_error() -> None:
    class Broken(Chunked):
        async def chunks(self) -> AsyncIterator[bytes]:
            yield b"x"
            raise KeyError("gone")

    async with open_link({CALL: None}) as opened:
        await opened.state("up")
        with pytest.raises(KeyError):
            await opened.link.pass_on(far_request("a", Request("POST", b"/x", (), Broken())))
        assert opened.link.state.up


async def test_pieces_wait_for_the_budget() -> None:
    asked: list[int] = []
    over: list[bool] = []

    async def admit(size: int) -> None:
        asked.append(size)

    class Pieces(Body):
        async def chunks(self) -> AsyncIterator[bytes]:
            yield b"a"
            yield b"b"

    paced = PacedBody(Pieces(), admit)
    assert [piece async for piece in paced.chunks()] == [b"a", b"b"]
    assert (len(asked), paced.buffered) == (2, False)
    passed = PassedAnswer(Pieces(), admit, lambda: over.append(True))
    assert await passed.read() == b"ab"
    assert (len(asked), over) == (5, [True])


async def test_the_health_is_confirmed_when_asked() -> None:
    async with open_link() as opened:
        await opened.state("up")
        await opened.link.confirm()
        opened.far.answers[BASED_HEALTH] = (200, b"<html>", [(b"content-type", b"text/html")])
        with pytest.raises(Unreachable, match="the health check was answered 200"):
            await opened.link.confirm()
        with pytest.raises(Unreachable):
            await opened.link.confirm()


async def test_grpc_calls_need_an_endpoint() -> None:
    async with open_link() as opened:
        await opened.state("up")
        with pytest.raises(DriverError, match=r"no spec\.endpoint\.grpc"):
            await opened.link.open_rpc("/a.B/C", ())
