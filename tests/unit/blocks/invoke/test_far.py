"""Apps behind cloud links: who is called, what crosses, and what waits."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence

import pytest

from edge_runtime.blocks.invoke import Invoker, LocalPeers, Peer
from edge_runtime.blocks.invoke.far import Wait, addresses_sidecar, far_peer, wait_of
from edge_runtime.model.errors import BadMetadata, EdgeError, Kind, Overloaded, Unreachable
from edge_runtime.model.http import Body, Header, Request, Response
from edge_runtime.model.trace import NO_TRACE
from edge_runtime.observability.metrics import Metrics, render
from edge_runtime.resiliency.policies import Policies
from tests.unit.blocks.invoke.test_invoker import App


class FarApp(App):
    """An app on the other side, that also keeps what is to wait."""

    def __init__(self, *answers: Response | Exception) -> None:
        super().__init__(*answers)
        self.kept: list[tuple[Request, str, float | None]] = []
        self.full = False

    async def queue(self, request: Request, key: str, ttl_s: float | None) -> str:
        if self.full:
            raise Overloaded("there is no room")
        self.kept.append((request, key, ttl_s))
        return "n-1-2"


class Links:
    """Leads to one app."""

    def __init__(self, far: FarApp) -> None:
        self.far = far
        self.asked: list[tuple[str, str]] = []

    def find(self, app_id: str, namespace: str) -> Peer | None:
        self.asked.append((app_id, namespace))
        return far_peer("far", self.far) if app_id == "far" else None


def invoker(far: FarApp, metrics: Metrics | None = None) -> Invoker:
    metrics = metrics or Metrics("me")
    own = Peer("me", "", App(), None, metrics)
    peers = LocalPeers()
    peers.add(own)
    made = Invoker(own, peers, policies=Policies((), metrics, "me"), metrics=metrics, outside=App())
    made.far = Links(far)
    return made


async def call(made: Invoker, target: str = "far", headers: Sequence[Header] = (), body: bytes = b"") -> Response:
    return await made.invoke(target, b"a/b", b"?q", Request("PUT", b"", headers, Body(body)), NO_TRACE)


async def test_what_the_node_has_not_goes_far() -> None:
    far, metrics = FarApp(Response(404, (), Body(b"no"))), Metrics("me")
    made = invoker(far, metrics)
    answer = await call(made, body=b"x")
    assert (answer.status, answer.body.data, far.last.target, far.last.body.data) == (404, b"no", b"/a/b?q", b"x")
    assert 'service_invocation_res_recv_total{app_id="me",src_app_id="far",status="404",type="streaming"} 1' in render(
        [metrics]
    )
    await call(made, "me")
    await call(made, "far.prod")
    assert isinstance(made.far, Links)
    assert made.far.asked == [("far", ""), ("far", "prod")]


async def test_names_and_tokens_stay_here() -> None:
    far = FarApp()
    pairs = [
        (b"dapr-api-token", b"t"), (b"dapr-caller-app-id", b"x"), (b"edge-queue", b"false"), (b"edge-queue-key", b"k"),
        (b"authorization", b"Basic " + base64.b64encode(b"Dapr-App-Id:far")), (b"x-own", b"1"),
    ]  # fmt: skip
    await call(invoker(far), headers=pairs)
    assert far.last.headers == [(b"x-own", b"1")]
    assert not addresses_sidecar((b"authorization", b"Basic " + base64.b64encode(b"me:pass")))
    assert not addresses_sidecar((b"authorization", b"Basic ?"))


async def test_a_link_that_is_away_fails_the_call_once() -> None:
    far = FarApp(Unreachable("link cloud is down: no way"))
    with pytest.raises(EdgeError, match="failed to invoke, id: far, err: link cloud is down: no way") as caught:
        await call(invoker(far))
    assert (caught.value.kind, len(far.sent)) == (Kind.INVOKE_FAILED, 1)


async def test_a_call_waits_when_it_asks_to() -> None:
    far = FarApp()
    asks = ((b"edge-queue", b"true"), (b"edge-queue-key", b"k"), (b"edge-queue-ttl", b"1m"), (b"x-own", b"1"))
    answer = await call(invoker(far), headers=asks)
    request, key, ttl_s = far.kept[0]
    assert (request.target, request.headers, key, ttl_s) == (b"/a/b?q", [(b"x-own", b"1")], "k", 60.0)
    assert (answer.status, answer.header(b"edge-tracking-id"), far.sent) == (202, b"n-1-2", [])
    assert answer.header(b"location") == b"/edge/v1/invocations/n-1-2"
    assert json.loads(answer.body.data)["state"] == "waiting"


@pytest.mark.parametrize("target", ["me", "http://x", "nobody"])
async def test_only_calls_over_a_link_wait(target: str) -> None:
    with pytest.raises(EdgeError) as caught:
        await call(invoker(FarApp()), target, ((b"edge-queue", b"1"),))
    assert caught.value.kind is (Kind.INVOKE_FAILED if target == "nobody" else Kind.INVOKE_NOT_QUEUED)


async def test_a_full_queue_is_said() -> None:
    far = FarApp()
    far.full = True
    with pytest.raises(EdgeError, match="err: there is no room"):
        await call(invoker(far), headers=((b"edge-queue", b"true"),))


def test_how_a_call_waits_is_read() -> None:
    assert wait_of(()) is None
    assert wait_of(((b"edge-queue", b"0"), (b"edge-queue-ttl", b"?"))) is None
    assert wait_of(((b"edge-queue", b"true"),)) == Wait()
    assert wait_of(((b"edge-queue", b"true"), (b"edge-queue-ttl", b"90"))) == Wait("", 90.0)
    for name, value in ((b"edge-queue", b"yes"), (b"edge-queue-ttl", b"0"), (b"edge-queue-ttl", b"soon")):
        with pytest.raises(BadMetadata, match=name.decode()):
            wait_of(((name, value), (b"edge-queue", b"true")))
