"""The invoker's decisions, with channels that keep what they were sent."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import pytest
import trio

from edge_runtime.blocks.invoke import Invoker, LocalPeers, Peer
from edge_runtime.blocks.invoke.invoker import forwarding_headers
from edge_runtime.config.settings import AccessControl, AppPolicy, Operation
from edge_runtime.model.errors import DriverError, EdgeError, Kind
from edge_runtime.model.http import EMPTY, Body, Header, Request, Response, StatusResponse
from edge_runtime.model.trace import NO_TRACE, Trace
from edge_runtime.net.connections import ConnectFailed, Origin
from edge_runtime.net.urls import Url, parse_url
from edge_runtime.observability.metrics import Metrics, render
from edge_runtime.resiliency.policies import Policies
from edge_runtime.security.access import AccessPolicy

Answer = Response | Exception


class App:
    """A channel: answers from a list (the last one again and again) and keeps what it was sent."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers) or [Response(200)]
        self.sent: list[Request] = []
        self.origins: list[Origin] = []

    async def send(self, request: Request) -> Response:
        await trio.lowlevel.checkpoint()
        self.sent.append(Request(request.method, request.target, request.headers, request.body))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def send_to(self, origin: Origin, request: Request) -> Response:
        self.origins.append(origin)
        return await self.send(request)

    @property
    def last(self) -> Request:
        return self.sent[-1]

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.last.headers if key == name]


class Loaded(App):
    """An HTTPEndpoint."""

    base: Url = parse_url("https://api.example/v2/")
    headers: Sequence[Header] = ((b"authorization", b"Bearer endpoint"), (b"x-extra", b"1"))


class Chunked(Body):
    """A body of unknown length."""

    @property
    def length(self) -> int | None:
        return None

    @property
    def buffered(self) -> bool:
        return False

    async def chunks(self) -> AsyncIterator[bytes]:
        yield b"x"


class Declared(Chunked):
    """A stream whose length is known."""

    @property
    def length(self) -> int | None:
        return 4

    async def read(self, limit_bytes: int | None = None) -> bytes:
        return b"data"


def resiliency(**targets: Any) -> list[tuple[str, Mapping[str, Any]]]:
    policies = {
        "retries": {
            "few": {"duration": "1s", "maxRetries": 2},
            "away": {"duration": "1s", "maxRetries": 2, "matching": {"gRPCStatusCodes": "14"}},
        },
        "timeouts": {"short": "1s"},
        "circuitBreakers": {"touchy": {"trip": "consecutiveFailures >= 2"}},
    }
    return [("r", {"policies": policies, "targets": {"apps": targets}})]


class Node:
    """The apps `me` and `other` on one node, with a URL side and an endpoint."""

    def __init__(
        self,
        other: App | None = None,
        *,
        me: App | None = None,
        access: AccessPolicy | None = None,
        resources: Sequence[tuple[str, Mapping[str, Any]]] = (),
    ) -> None:
        self.me = me or App()
        self.other = other or App()
        self.outside = App()
        self.endpoint = Loaded()
        self.metrics = Metrics("me")
        self.other_metrics = Metrics("other")
        peers = LocalPeers()
        peers.add(Peer("other", "", self.other, access, self.other_metrics))
        peers.add(Peer("far", "ns2", self.other, None, self.other_metrics))
        peers.add(Peer("deaf", "default", None, None, Metrics()))
        self.own = Peer("me", "", self.me, AccessPolicy(AccessControl(default_action="deny")), self.metrics)
        peers.add(self.own)
        self.invoker = Invoker(
            self.own,
            peers,
            policies=Policies(resources, self.metrics, "me"),
            metrics=self.metrics,
            outside=self.outside,
            endpoints={"api": self.endpoint},
            host_address="10.0.0.5",
            host_name="node",
        )

    async def call(
        self,
        target: str,
        method: bytes = b"orders",
        *,
        verb: str = "POST",
        query: bytes = b"",
        headers: list[Header] | None = None,
        body: Body | None = None,
        trace: Trace = NO_TRACE,
    ) -> Response:
        request = Request(verb, b"/ignored", headers or [], body or Body(b"data"))
        return await self.invoker.invoke(target, method, query, request, trace)


async def failure(call: Callable[[], Any]) -> EdgeError:
    with pytest.raises(EdgeError) as caught:
        await call()
    return caught.value


# --- targets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["me", "me.default"])
async def test_own_id_goes_to_own_app(target: str) -> None:
    node = Node()
    await node.call(target, b"a b", query=b"?x=%20")
    assert (node.me.last.method, node.me.last.target, node.me.last.body.data) == ("POST", b"/a%20b?x=%20", b"data")
    assert node.other.sent == []


@pytest.mark.parametrize("target", ["other", "other.default", "far.ns2"])
async def test_other_apps_are_called_directly(target: str) -> None:
    node = Node()
    await node.call(target, b"")
    assert node.other.last.target == b"/"


@pytest.mark.parametrize(
    ("target", "origin", "path"),
    [
        ("http://host", Origin("http", "host", 80), b"/orders?q"),
        ("https://host:8443/base/", Origin("https", "host", 8443), b"/base/orders?q"),
        ("http://[::1]:1/a b", Origin("http", "::1", 1), b"/a%20b/orders?q"),
    ],
)
async def test_urls_are_called(target: str, origin: Origin, path: bytes) -> None:
    node = Node()
    for _ in range(2):
        await node.call(target, query=b"?q", headers=[(b"a", b"1")])
    assert node.outside.origins == [origin] * 2
    assert node.outside.last.target == path
    assert node.outside.last.headers == [(b"a", b"1")]


async def test_endpoints_are_called_by_name() -> None:
    node = Node()
    await node.call("api", headers=[(b"authorization", b"mine"), (b"a", b"1")])
    assert node.endpoint.origins == [Origin("https", "api.example", 443)]
    assert node.endpoint.last.target == b"/v2/orders"
    assert node.endpoint.last.headers == [(b"a", b"1"), (b"authorization", b"Bearer endpoint"), (b"x-extra", b"1")]


async def test_empty_method_keeps_base_path() -> None:
    node = Node()
    await node.call("api", b"")
    assert node.endpoint.last.target == b"/v2/"


@pytest.mark.parametrize(
    ("target", "method", "detail"),
    [
        ("a.b.c", b"x", "invalid app id a.b.c"),
        ("a.", b"x", "invalid app id a."),
        ("nobody", b"x", "couldn't find service: nobody"),
        ("other.elsewhere", b"x", "couldn't find service: other"),
        ("deaf", b"x", "app channel is not initialized"),
        ("other", b"100%", "invalid URL escape '%'"),
        ("other", b"a?b", "the method holds '?'"),
        ("other", b"a\x00b", "the method holds a control character"),
        ("http://", b"x", "'http://' names no host"),
        ("http://user:pw@host", b"x", "the URL of host holds a user name or password"),
    ],
)
async def test_unusable_targets_are_said(target: str, method: bytes, detail: str) -> None:
    error = await failure(lambda: Node().call(target, method))
    assert error.kind is Kind.INVOKE_FAILED
    assert error.message.startswith(f"failed to invoke, id: {target}, err: {detail}")


async def test_absent_own_app_is_said() -> None:
    node = Node()
    node.own.channel = None
    error = await failure(lambda: node.call("me"))
    assert error.message == "failed to invoke, id: me, err: cannot invoke local endpoint: app channel not initialized"


async def test_unknown_verb_becomes_post() -> None:
    node = Node()
    await node.call("other", verb="BREW")
    assert node.other.last.method == "POST"


async def test_connect_is_refused() -> None:
    assert (await failure(lambda: Node().call("other", verb="CONNECT"))).kind is Kind.INVOKE_FAILED


# --- headers ----------------------------------------------------------------------------------------------------------

CLIENT_SENT: list[Header] = [
    (b"host", b"sidecar"),
    (b"dapr-app-id", b"other"),
    (b"dapr-api-token", b"token"),
    (b"authorization", b"Basic x"),
    (b"dapr-caller-app-id", b"forged"),
    (b"connection", b"close"),
    (b"x-forwarded-for", b"1.2.3.4"),
]


async def test_own_app_sees_identity() -> None:
    node = Node()
    await node.call("me", headers=CLIENT_SENT)
    assert node.me.last.headers == [
        (b"dapr-api-token", b"token"),
        (b"authorization", b"Basic x"),
        (b"x-forwarded-for", b"1.2.3.4"),
        (b"dapr-caller-app-id", b"me"),
        (b"dapr-caller-namespace", b"default"),
        (b"dapr-callee-app-id", b"me"),
    ]


async def test_other_app_sees_forwarding() -> None:
    node = Node()
    await node.call("other", headers=CLIENT_SENT)
    assert node.other.values(b"dapr-caller-app-id") == [b"forged", b"me"]
    assert node.other.values(b"dapr-callee-app-id") == [b"other"]
    assert node.other.values(b"x-forwarded-for") == [b"1.2.3.4", b"10.0.0.5"]
    assert node.other.values(b"x-forwarded-host") == [b"node"]
    assert node.other.values(b"forwarded") == [b"for=10.0.0.5;by=10.0.0.5;host=node"]
    assert node.other.values(b"host") == []
    assert node.other.values(b"dapr-app-id") == []


@pytest.mark.parametrize(
    ("address", "name", "forwarded"),
    [("fe80::1", "n", b'for="[fe80::1]";by="[fe80::1]";host=n'), ("", "n", b"host=n"), ("", "", None)],
)
def test_forwarded_is_written(address: str, name: str, forwarded: bytes | None) -> None:
    assert dict(forwarding_headers(address, name)).get(b"forwarded") == forwarded


async def test_trace_replaces_callers() -> None:
    node = Node()
    sent: list[Header] = [(b"traceparent", b"old"), (b"tracestate", b"old"), (b"baggage", b"a=1")]
    await node.call("other", headers=sent, trace=Trace("00-new", "state"))
    assert node.other.values(b"traceparent") == [b"00-new"]
    assert node.other.values(b"tracestate") == [b"state"]
    assert node.other.values(b"baggage") == [b"a=1"]
    await node.call("other", headers=sent, trace=Trace("00-newer"))
    assert node.other.values(b"traceparent") == [b"00-newer"]
    assert node.other.values(b"tracestate") == []
    await node.call("other", headers=sent)
    assert node.other.values(b"traceparent") == [b"old"]


# --- answers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 204, 302, 399])
async def test_good_answers_pass_unchanged(status: int) -> None:
    answer = Response(status, [(b"a", b"b")], Body(b"x"))
    response = await Node(App(answer)).call("other")
    assert (response.status, list(response.headers), response.body.data) == (status, [(b"a", b"b")], b"x")


@pytest.mark.parametrize("status", [400, 404, 500, 599])
async def test_bare_failures_get_json_type(status: int) -> None:
    response = await Node(App(Response(status, [(b"a", b"b")]))).call("other")
    assert list(response.headers) == [(b"a", b"b"), (b"content-type", b"application/json")]
    typed = Response(status, [(b"content-type", b"text/plain")])
    response = await Node(App(typed)).call("other")
    assert list(response.headers) == [(b"content-type", b"text/plain")]


@pytest.mark.parametrize(("target", "kept"), [("me", [(b"x-app", b"1")]), ("other", [])])
async def test_event_streams_are_relayed(target: str, kept: list[Header]) -> None:
    answer = Response(201, [(b"x-app", b"1"), (b"content-type", b"text/event-stream; charset=utf-8")], Body(b"data: 1"))
    node = Node(App(answer), me=App(answer))
    response = await node.call(target, verb="GET", headers=[(b"accept", b"text/event-stream")])
    assert response.status == 200
    assert list(response.headers) == [
        *kept,
        (b"content-type", b"text/event-stream"),
        (b"cache-control", b"no-cache"),
        (b"connection", b"keep-alive"),
    ]
    assert (response.body.length, response.body.buffered) == (None, False)
    assert [piece async for piece in response.body.chunks()] == [b"data: 1"]


@pytest.mark.parametrize(("accept", "status"), [(b"text/event-stream, */*", 200), (b"text/event-stream", 404)])
async def test_other_streams_pass_unchanged(accept: bytes, status: int) -> None:
    response = await Node(App(Response(status, [(b"content-type", b"a/b")]))).call(
        "other", headers=[(b"accept", accept)]
    )
    assert (response.status, list(response.headers)) == (status, [(b"content-type", b"a/b")])


# --- access -----------------------------------------------------------------------------------------------------------


def denying(caller: str) -> AccessPolicy:
    operation = Operation("/orders/*", ("POST",), "deny")
    policy = AppPolicy(caller, "default", "public", "allow", (operation,))
    return AccessPolicy(AccessControl("allow", "public", (policy,)))


async def test_denied_call_is_403() -> None:
    node = Node(access=denying("me"))
    error = await failure(lambda: node.call("other", b"Orders/1"))
    assert error.kind is Kind.INVOKE_DENIED
    assert error.message.startswith(
        "failed to invoke, id: other, err: access control policy has denied access to id: me"
    )
    assert node.other.sent == []
    page = render([node.other_metrics])
    labels = 'app_id="other",namespace="default",trustDomain="public"'
    assert f"dapr_runtime_acl_app_policy_action_blocked_total{{{labels}}} 1" in page


@pytest.mark.parametrize("method", [b"%6frders/1", b"orders%2F1", b"stock/%2e%2e/orders/1", b"./%2e/Orders/1"])
async def test_encoding_evades_no_denial(method: bytes) -> None:
    node = Node(access=denying("me"))
    assert (await failure(lambda: node.call("other", method))).kind is Kind.INVOKE_DENIED
    assert node.other.sent == []


async def test_other_operations_are_allowed() -> None:
    node = Node(access=denying("me"))
    assert (await node.call("other", b"orders/1", verb="GET")).status == 200
    assert (await node.call("other", b"stock")).status == 200


async def test_own_app_needs_no_permission() -> None:
    assert (await Node().call("me")).status == 200


# --- retries ----------------------------------------------------------------------------------------------------------


async def test_unreachable_peer_is_tried_again(autojump_clock: trio.testing.MockClock) -> None:
    down = ConnectFailed("connection refused")
    node = Node(App(down, down, down, Response(201)))
    begun = trio.current_time()
    assert (await node.call("other", body=Chunked())).status == 201
    assert trio.current_time() - begun == pytest.approx(3)


async def test_retries_come_to_an_end(autojump_clock: trio.testing.MockClock) -> None:
    node = Node(App(ConnectFailed("connection refused")))
    error = await failure(lambda: node.call("other"))
    assert error.message == "failed to invoke, id: other, err: connection refused"
    assert len(node.other.sent) == 4


async def test_answered_calls_are_not_repeated(autojump_clock: trio.testing.MockClock) -> None:
    node = Node(App(ConnectFailed("refused"), Response(503)))
    assert (await node.call("other")).status == 503
    assert len(node.other.sent) == 2


async def test_broken_calls_are_not_repeated(autojump_clock: trio.testing.MockClock) -> None:
    node = Node(App(ConnectFailed("refused"), DriverError("broken")))
    error = await failure(lambda: node.call("other"))
    assert error.message.endswith("err: broken")
    assert len(node.other.sent) == 2


@pytest.mark.parametrize("target", ["me", "http://host", "api"])
async def test_only_peers_have_built_in_retries(target: str) -> None:
    node = Node(me=App(ConnectFailed("refused")))
    node.outside.answers = node.endpoint.answers = [ConnectFailed("refused")]
    await failure(lambda: node.call(target))
    assert len(node.me.sent) + len(node.outside.sent) + len(node.endpoint.sent) == 1


async def test_policy_repeats_bad_answers(autojump_clock: trio.testing.MockClock) -> None:
    closed: list[bytes] = []

    class Watched(Body):
        async def aclose(self) -> None:
            closed.append(self.data)

    answers = [Response(500, (), Watched(b"%d" % number)) for number in range(3)]
    node = Node(App(*answers), resources=resiliency(other={"retry": "few"}))
    response = await node.call("other", body=Declared())
    assert (response.status, response.body.data) == (500, b"2")
    assert closed == [b"0", b"1"]
    assert [sent.body.data for sent in node.other.sent] == [b"data"] * 3


@pytest.mark.parametrize(("code", "attempts"), [(14, 3), (5, 1)])
async def test_codes_of_grpc_apps_are_matched(code: int, attempts: int, autojump_clock: trio.testing.MockClock) -> None:
    node = Node(App(StatusResponse(code, 500, (), EMPTY)), resources=resiliency(other={"retry": "away"}))
    assert (await node.call("other")).status == 500
    assert len(node.other.sent) == attempts


async def test_bad_stream_is_kept_for_the_caller(autojump_clock: trio.testing.MockClock) -> None:
    closed: list[float] = []

    class Stream(Chunked):
        async def read(self, limit_bytes: int | None = None) -> bytes:
            closed.append(trio.current_time())
            return b"why"

    answers = [Response(500, (), Stream()) for _ in range(3)]
    node = Node(App(*answers), resources=resiliency(other={"retry": "few"}))
    response = await node.call("other")
    assert (response.status, response.body.data) == (500, b"why")
    assert closed == [0.0, 1.0, 2.0]


async def test_left_call_closes_last_answer(autojump_clock: trio.testing.MockClock) -> None:
    closed: list[bytes] = []

    class Watched(Body):
        async def aclose(self) -> None:
            closed.append(self.data)

    node = Node(App(Response(500, (), Watched(b"x"))), resources=resiliency(other={"retry": "few"}))
    with trio.move_on_after(0.5):
        await node.call("other")
    assert closed == [b"x"]


async def test_large_body_is_not_kept(autojump_clock: trio.testing.MockClock) -> None:
    class Large(Declared):
        @property
        def length(self) -> int | None:
            return 2**30

    node = Node(App(Response(500)), resources=resiliency(other={"retry": "few"}))
    assert (await node.call("other", body=Large())).status == 500
    assert len(node.other.sent) == 1


async def test_tables_stay_bounded() -> None:
    node = Node()
    for number in range(1100):
        await node.call(f"http://host{number}")
    assert len(node.invoker._urls) == 256
    assert len(node.invoker._unguarded) == 1024


async def test_policy_ends_with_good_answer(autojump_clock: trio.testing.MockClock) -> None:
    node = Node(App(Response(500), DriverError("broken"), Response(200)), resources=resiliency(other={"retry": "few"}))
    assert (await node.call("other")).status == 200
    assert len(node.other.sent) == 3


async def test_policy_holds_for_every_target(autojump_clock: trio.testing.MockClock) -> None:
    node = Node(me=App(Response(500)), resources=resiliency(me={"retry": "few"}, api={"retry": "few"}))
    node.endpoint.answers = [Response(500)]
    await node.call("me")
    await node.call("api")
    assert (len(node.me.sent), len(node.endpoint.sent)) == (3, 3)


async def test_chunked_body_is_sent_once(autojump_clock: trio.testing.MockClock) -> None:
    node = Node(App(Response(500), DriverError("broken")), resources=resiliency(other={"retry": "few"}))
    assert (await node.call("other", body=Chunked())).status == 500
    assert len(node.other.sent) == 1
    error = await failure(lambda: node.call("other", body=Chunked()))
    assert error.message.endswith("err: broken")
    assert len(node.other.sent) == 2


async def test_broken_streams_trip_the_breaker(autojump_clock: trio.testing.MockClock) -> None:
    node = Node(App(DriverError("broken")), resources=resiliency(other={"retry": "few", "circuitBreaker": "touchy"}))
    for _ in range(3):
        error = await failure(lambda: node.call("other", body=Chunked()))
    assert error.message.endswith("circuit breaker is open")
    assert len(node.other.sent) == 2


async def test_begun_stream_is_not_sent_again(autojump_clock: trio.testing.MockClock) -> None:
    class Slow(App):
        async def send(self, request: Request) -> Response:
            await super().send(request)
            await trio.sleep_forever()
            raise AssertionError

    node = Node(Slow(), resources=resiliency(other={"timeout": "short", "retry": "few"}))
    error = await failure(lambda: node.call("other", body=Chunked()))
    assert error.message.endswith("context deadline exceeded")
    assert len(node.other.sent) == 1


async def test_unreached_stream_is_tried_again(autojump_clock: trio.testing.MockClock) -> None:
    node = Node(App(ConnectFailed("refused"), Response(200)), resources=resiliency(other={"retry": "few"}))
    assert (await node.call("other", body=Chunked())).status == 200
    assert len(node.other.sent) == 2


async def test_policy_timeout_is_said(autojump_clock: trio.testing.MockClock) -> None:
    class Hanging(App):
        async def send(self, request: Request) -> Response:
            await trio.sleep_forever()
            raise AssertionError

    node = Node(Hanging(), resources=resiliency(other={"timeout": "short"}))
    error = await failure(lambda: node.call("other"))
    assert error.message == "failed to invoke, id: other, err: context deadline exceeded"


# --- counting ---------------------------------------------------------------------------------------------------------


async def test_calls_between_apps_are_counted() -> None:
    node = Node(App(Response(404)))
    await node.call("other")
    await node.call("me")
    mine, theirs = render([node.metrics]), render([node.other_metrics])
    assert 'dapr_runtime_service_invocation_req_sent_total{app_id="me",dst_app_id="other",type="streaming"} 1' in mine
    received = 'app_id="me",src_app_id="other",status="404",type="streaming"'
    assert f"dapr_runtime_service_invocation_res_recv_total{{{received}}} 1" in mine
    assert (
        'dapr_runtime_service_invocation_res_recv_latency_ms_count{app_id="me",src_app_id="other",status="404"}' in mine
    )
    assert 'dapr_runtime_service_invocation_req_recv_total{app_id="other",src_app_id="me"} 1' in theirs
    assert 'dapr_runtime_service_invocation_res_sent_total{app_id="other",dst_app_id="me",status="404"} 1' in theirs


async def test_returning_peer_is_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    peers = LocalPeers()
    old, new = (Peer("a", "", None, None, Metrics()) for _ in range(2))
    peers.add(old)
    peers.remove(old, returns=True)
    found: list[Peer | None] = []

    async def call() -> None:
        found.append(peers.find("a", "default") or await peers.wait_for("a", "default"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call)
        await trio.sleep(1)
        peers.add(new)
    assert found == [new]
    peers.remove(new, returns=True)
    assert await peers.wait_for("a", "default") is None
    assert trio.current_time() == 11.0
    assert await peers.wait_for("a", "default") is None
    assert trio.current_time() == 11.0
    peers.add(old)
    peers.remove(old)
    assert await peers.wait_for("a", "default") is None


def test_peers_come_and_go() -> None:
    peers = LocalPeers()
    old, new = (Peer("a", "", None, None, Metrics()) for _ in range(2))
    peers.add(old)
    peers.add(new)
    peers.remove(old)
    assert peers.find("a", "default") is new
    peers.remove(new)
    assert peers.find("a", "default") is None


# --- what gRPC asks ---------------------------------------------------------------------------------------------------


async def test_apps_are_found_by_name() -> None:
    node = Node()
    found = await node.invoker.find("me.default")
    assert (found.peer, found.own) == (node.own, True)
    found = await node.invoker.find("far.ns2")
    assert (found.peer.app_id, found.own) == ("far", False)
    assert found.peer.grpc is None
    with pytest.raises(DriverError, match="couldn't find service: far"):
        await node.invoker.find("far")


def test_urls_and_endpoints_are_no_apps() -> None:
    invoker = Node().invoker
    assert invoker.names_app("other")
    assert not invoker.names_app("HTTP://other")
    assert not invoker.names_app("https://other")


async def test_other_apps_are_tried_until_they_connect(autojump_clock: trio.testing.MockClock) -> None:
    node = Node()
    attempts = 0

    async def attempt() -> str:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise ConnectFailed("refused")
        return "done"

    other = await node.invoker.find("other")
    assert await node.invoker.run(other, attempt) == "done"
    attempts = 0
    with pytest.raises(ConnectFailed):
        await node.invoker.run(await node.invoker.find("me"), attempt)
    assert attempts == 1


async def test_calls_run_under_the_policy(autojump_clock: trio.testing.MockClock) -> None:
    node = Node(resources=resiliency(other={"retry": "few"}))
    attempts = 0

    async def attempt() -> None:
        nonlocal attempts
        attempts += 1
        raise DriverError("no", code=14)

    with pytest.raises(DriverError):
        await node.invoker.run(await node.invoker.find("other"), attempt)
    assert attempts == 3


async def test_introduction_names_both_apps() -> None:
    invoker = Node().invoker
    other = await invoker.find("other")
    told = dict(invoker.introduction(other))
    assert (told[b"dapr-caller-app-id"], told[b"dapr-callee-app-id"]) == (b"me", b"other")
    assert b"forwarded" in told
    assert b"forwarded" not in dict(invoker.introduction(other, forwarded=False))
    assert b"forwarded" not in dict(invoker.introduction(await invoker.find("me")))
