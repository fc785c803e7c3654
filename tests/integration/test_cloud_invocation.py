"""Apps in the cloud, called over a link: the second node plays the sidecar there, with apps of both kinds behind it."""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from edge_runtime.proto.dapr.proto.common.v1.common_pb2 import InvokeRequest, InvokeResponse
from tests.integration.test_cloud_links import DOWN, UP, metric, until, url, write_link
from tests.integration.test_grpc_invoke import invoke, pairs
from tests.support.app import App, Received
from tests.support.drivers import javascript, python
from tests.support.grpc_app import UNLIMITED, GrpcApp
from tests.support.line import Line, Mode, end
from tests.support.sidecar import WAIT_S, Program, Sidecar, free_port

pytestmark = pytest.mark.slow

ROUTES = "{invocation: [{appID: billing}, {appID: ledger}]}"
TOKEN = {"DAPR_API_TOKEN": "cloud-token"}
LINK_TOKEN = "  token: {value: cloud-token}\n"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def show(came: Received) -> tuple[int, Any, dict[str, str]]:
    return 200, {"verb": came.method, "path": came.path}, {"x-head": "h"}


def say_status(came: Received) -> tuple[int, Any]:
    return int(came.path.rpartition("/")[2]), b"as the app says"


def echo(came: Received) -> tuple[int, Any]:
    return 200, {"verb": came.method, "query": came.path, "sent": json.loads(came.body) if came.body else None}


def billing() -> App:
    statuses = (201, 302, 400, 401, 404, 418, 500, 502, 503)
    return App(
        {
            "/do/it": show,
            "/a%20b": show,
            "/": show,
            "/echo": echo,
            "/deep/er/echo": echo,
            "/token": lambda came: (401, b"invalid api token"),
            **{f"/status/{status}": say_status for status in statuses},
        }
    )


def on_invoke(request: InvokeRequest, context: grpc.ServicerContext) -> InvokeResponse:
    if request.method == "fail":
        context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")
    context.send_initial_metadata((("x-head", "h"),))
    reply = InvokeResponse(content_type=request.content_type)
    reply.data.value = request.data.value
    return reply


class TwoApps(Program):
    """One process with both apps; the ports are those of the sidecar of `billing`."""

    def __init__(self, place: Path, billing: int, ledger: int) -> None:
        self.port, self.grpc_port = free_port(), free_port()
        place.mkdir()
        apps = [
            {"appID": "billing", "appPort": billing, "daprHTTPPort": self.port, "daprGRPCPort": self.grpc_port},
            {"appID": "ledger", "appPort": ledger, "appProtocol": "grpc"},
        ]
        for app in apps:
            app |= {"appDirPath": str(place), "daprdLogDestination": "console"}
        path = place / "dapr.yaml"
        path.write_text(json.dumps({"version": 1, "apps": apps}))
        flags = ["--no-attach", "--state-dir", str(place / "state"), "-f", str(path)]
        super().__init__([sys.executable, "-m", "edge_runtime", "run", *flags], {**os.environ, **TOKEN})

    def __enter__(self) -> TwoApps:
        return self


class Cloud:
    """What a test holds: the apps there, the lines between, and the node here."""

    def __init__(self, billing: App, ledger: GrpcApp, line: Line, grpc_line: Line, edge: Sidecar) -> None:
        self.billing = billing
        self.ledger = ledger
        self.line = line
        self.grpc_line = grpc_line
        self.edge = edge

    def cut(self, mode: Mode) -> None:
        self.line.cut(mode)
        self.grpc_line.cut(mode)

    def mend(self) -> None:
        self.line.mend()
        self.grpc_line.mend()


@contextmanager
def open_cloud(place: Path, routes: str = ROUTES, more: str = "", **options: Any) -> Iterator[Cloud]:
    """One process in the cloud serves both apps; the link leads to the first one's sidecar."""
    with ExitStack() as stack:
        app = stack.enter_context(billing())
        ledger = stack.enter_context(GrpcApp(on_invoke))
        cloud = stack.enter_context(TwoApps(place / "cloud", app.port, ledger.port))
        line = stack.enter_context(Line(cloud.port))
        grpc_line = stack.enter_context(Line(cloud.grpc_port))
        flags = write_link(place / "resources", url(line.port), url(grpc_line.port), routes, LINK_TOKEN + more)
        edge = stack.enter_context(Sidecar(place / "edge", *flags, app_id="edge", **options))
        until(lambda: UP in edge.said)
        yield Cloud(app, ledger, line, grpc_line, edge)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with open_cloud(tmp_path_factory.mktemp("cloud")) as cloud:
        yield cloud
        assert cloud.edge.stop() == 0


@pytest.fixture
def cloud(shared: Cloud) -> Cloud:
    while not shared.billing.received.empty():
        shared.billing.received.get()
    while not shared.ledger.received.empty():
        shared.ledger.received.get()
    return shared


@pytest.mark.parametrize("verb", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_every_verb_crosses(cloud: Cloud, verb: str) -> None:
    answer = cloud.edge.http(verb, "/v1.0/invoke/billing/method/do/it?a=1&b=%20", b"body")
    assert (answer.status, answer.json()) == (200, {"verb": verb, "path": "/do/it?a=1&b=%20"})
    assert (answer.headers["x-head"], answer.headers["content-type"]) == ("h", "application/json")
    assert cloud.billing.next().body == b"body"


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/do/it", {"dapr-app-id": "billing"}),
        ("/do/it", {"authorization": "Basic ZGFwci1hcHAtaWQ6YmlsbGluZw=="}),
        ("/v1.0/invoke/billing.default/method/do/it", {}),
    ],
)
def test_every_form_of_target_crosses(cloud: Cloud, path: str, headers: dict[str, str]) -> None:
    assert cloud.edge.http("GET", path, headers=headers).json() == {"verb": "GET", "path": "/do/it"}


def test_paths_arrive_as_at_an_app_here(cloud: Cloud) -> None:
    cloud.edge.http("GET", "/v1.0/invoke/billing/method/a%2520b/%2541+x")
    assert cloud.billing.next().path == "/a%20b/%41+x"
    cloud.edge.http("GET", "/v1.0/invoke/billing/method/")
    assert cloud.billing.next().path == "/"


def test_what_must_stay_does_not_cross(cloud: Cloud) -> None:
    headers = {
        "dapr-api-token": "local",
        "dapr-caller-app-id": "liar",
        "connection": "close, x-hop",
        "x-hop": "1",
        "te": "trailers",
        "authorization": "Bearer theirs",
        "x-own": "1",
        "edge-queue": "false",
        "traceparent": TRACE,
    }
    cloud.edge.http("GET", "/v1.0/invoke/billing/method/do/it", headers=headers)
    came = cloud.billing.next()
    assert came.headers["authorization"] == "Bearer theirs"
    assert came.headers["x-own"] == "1"
    assert came.headers["traceparent"][:35] == TRACE[:35]
    assert came.headers["dapr-caller-app-id"] == "billing"  # the cloud's sidecar says who calls
    assert not {"dapr-api-token", "x-hop", "te", "edge-queue"} & came.headers.keys()


@pytest.mark.parametrize("status", [201, 302, 400, 401, 404, 418, 500, 502, 503])
def test_the_app_s_own_status_is_the_answer(cloud: Cloud, status: int) -> None:
    answer = cloud.edge.http("GET", f"/v1.0/invoke/billing/method/status/{status}")
    assert (answer.status, answer.body) == (status, b"as the app says")
    assert metric(cloud.edge, "edge_link_up") == 1


def test_an_app_may_refuse_in_the_sidecar_s_words(cloud: Cloud) -> None:
    answer = cloud.edge.http("GET", "/v1.0/invoke/billing/method/token")
    assert (answer.status, answer.body) == (401, b"invalid api token")
    assert metric(cloud.edge, "edge_link_up") == 1


def test_bodies_stream_both_ways(cloud: Cloud) -> None:
    body = bytes(range(256)) * 4096 * 3  # 3 MiB
    answer = cloud.edge.http("POST", "/v1.0/invoke/ledger/method/echo", body, {"content-type": "a/b"})
    assert (answer.status, answer.body == body, answer.headers["content-type"]) == (200, True, "a/b")
    assert metric(cloud.edge, "edge_link_bytes_total", **{"class": "invocation"}) > 2 * len(body)


def test_a_grpc_app_is_called_over_http_too(cloud: Cloud) -> None:
    answer = cloud.edge.http("POST", "/v1.0/invoke/ledger/method/fail", b"x")
    assert (answer.status, answer.json()) == (404, {"code": 5, "message": "no such thing"})


def test_invoke_service_reaches_both_kinds(cloud: Cloud) -> None:
    reply, call = invoke(cloud.edge.grpc_port, "ledger", "do/it", "POST", metadata=(("x-own", "1"),))
    assert (reply.content_type, reply.data.value) == ("text/plain", b"question")
    assert ("x-head", "h") in pairs(call.initial_metadata())
    came = cloud.ledger.next()
    assert (came.metadata["x-own"], came.metadata["dapr-caller-app-id"]) == ("1", "billing")
    assert "dapr-api-token" not in came.metadata
    reply, call = invoke(cloud.edge.grpc_port, "billing", "do/it", "PUT", "a=1")
    assert json.loads(reply.data.value) == {"verb": "PUT", "path": "/do/it?a=1"}
    assert ("dapr-http-status", "200") in pairs(call.initial_metadata())
    with pytest.raises(grpc.RpcError) as caught:
        invoke(cloud.edge.grpc_port, "ledger", "fail")
    error: Any = caught.value
    assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "no such thing")


@pytest.fixture
def channel(cloud: Cloud) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{cloud.edge.grpc_port}", options=UNLIMITED) as channel:
        yield channel


TARGET = (("dapr-app-id", "ledger"),)


def test_any_grpc_service_is_reached(cloud: Cloud, channel: grpc.Channel) -> None:
    echo = channel.unary_unary("/some.Service/Echo")
    assert echo(b"hello", metadata=(*TARGET, ("x-own-bin", b"\xff")), timeout=WAIT_S) == b"hello"
    came = cloud.ledger.next()
    assert (came.method, came.metadata["x-own-bin"]) == ("/some.Service/Echo", b"\xff")
    assert came.left_s is not None
    assert came.metadata["dapr-caller-app-id"] == "billing"
    assert not {"dapr-app-id", "dapr-api-token"} & came.metadata.keys()


def test_grpc_streams_cross(cloud: Cloud, channel: grpc.Channel) -> None:
    talk = channel.stream_stream("/some.Service/Talk")
    asked = [b"%d" % number for number in range(200)]
    assert list(talk(iter(asked), metadata=TARGET, timeout=WAIT_S)) == asked
    count = channel.unary_stream("/some.Service/Count")
    assert sum(map(len, count(b"500 10000", metadata=TARGET, timeout=WAIT_S))) == 5_000_000
    fail = channel.unary_unary("/some.Service/Fail")
    with pytest.raises(grpc.RpcError) as caught:
        fail(b"x", metadata=TARGET, timeout=WAIT_S)
    error: Any = caught.value
    assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "nicht da – ü")
    assert ("x-tail", "t") in pairs(error.trailing_metadata())


def echo_works(channel: grpc.Channel) -> bool:
    return channel.unary_unary("/some.Service/Echo")(b"x", metadata=TARGET, timeout=WAIT_S) == b"x"


def test_a_grpc_call_cannot_wait(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/some.Service/Echo")(b"x", metadata=(*TARGET, ("edge-queue", "true")), timeout=WAIT_S)
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "cannot be queued" in error.details()


def test_only_documented_calls_cross(cloud: Cloud) -> None:
    paths = {re.sub(r"/method/.*", "/method/…", one).partition(" ")[2] for one in cloud.line.requests()}
    assert paths <= {
        "/v1.0/healthz/outbound",
        "/v1.0/metadata",
        "/v1.0/invoke/billing/method/…",
        "/v1.0/invoke/billing.default/method/…",
        "/v1.0/invoke/ledger/method/…",
    }
    assert {path for path in cloud.grpc_line.rpcs() if not path.startswith("/some.Service/")} <= {
        "/dapr.proto.runtime.v1.Dapr/InvokeService"
    }


def test_an_id_without_a_route_stays_unknown(cloud: Cloud) -> None:
    answer = cloud.edge.http("GET", "/v1.0/invoke/nobody/method/x")
    assert answer.json() == {
        "errorCode": "ERR_DIRECT_INVOKE",
        "message": "failed to invoke, id: nobody, err: couldn't find service: nobody",
    }


def test_the_official_sdk_calls_both(cloud: Cloud) -> None:
    ports = {"DAPR_GRPC_PORT": str(cloud.edge.grpc_port), "DAPR_API_METHOD_INVOCATION_PROTOCOL": "grpc"}
    with python("grpc_far.py", cloud.edge.port, TARGET="ledger", WEB="billing", **ports) as program:
        said = program.results()
    assert said["grpc"] == "hello"
    assert said["web"] == {"verb": "PUT", "path": "/do/it?a=1"}
    assert said["http"] == {"verb": "POST", "path": "/do/it"}


def test_the_official_javascript_sdk_calls_too(cloud: Cloud) -> None:
    with javascript("invoke.mjs", cloud.edge.port, TARGET="billing") as program:
        said = program.results()
    for verb in ("GET", "DELETE", "POST", "PUT", "PATCH"):
        assert (said[verb]["verb"], said[verb]["query"]) == (verb, "/echo?a=1&b=two%20words")
    assert (said["deep"]["verb"], said["deep"]["sent"]) == ("PUT", [1, 2])
    assert (said["long"], said["many"], said["absent"]) == (True, True, 404)
    assert [said[f"status {status}"]["status"] for status in (404, 418, 500, 503)] == [404, 418, 500, 503]


class Talker:
    """An app that answers while it is still asked: it takes a chunk, says one, takes the rest, says the last."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(WAIT_S)
        self.port: int = self._listener.getsockname()[1]
        self.go_on = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection = self._listener.accept()[0]
            except OSError:
                return
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with connection:
            if not read_until(connection, b"one").startswith(b"POST /talk"):
                return  # who only looks whether the app is there
            connection.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n")
            if self.go_on.wait(WAIT_S):
                read_until(connection, b"two")
                connection.sendall(b"4\r\nlast\r\n0\r\n\r\n")

    def __enter__(self) -> Talker:
        return self

    def __exit__(self, *error: object) -> None:
        end((self._listener,))


def read_until(connection: socket.socket, end: bytes) -> bytes:
    """What comes, up to these bytes, or to the end, of whatever kind it is."""
    found = b""
    try:
        while end not in found and (piece := connection.recv(65536)):
            found += piece
    except ConnectionResetError:
        pass
    return found


@contextmanager
def talking(place: Path) -> Iterator[tuple[Talker, Line, Sidecar, socket.socket]]:
    """The beginning of such a talk over a link, as a client of the node here has it."""
    with ExitStack() as stack:
        app = stack.enter_context(Talker())
        flags = ["--disable-init-endpoints", "config,subscribe"]
        cloud = stack.enter_context(Sidecar(place / "cloud", *flags, app_id="billing", app_port=app.port))
        line = stack.enter_context(Line(cloud.port))
        flags = write_link(place / "resources", url(line.port), routes=ROUTES)
        edge = stack.enter_context(Sidecar(place / "edge", *flags, app_id="edge"))
        until(lambda: UP in edge.said)
        client = stack.enter_context(socket.create_connection(("127.0.0.1", edge.port), WAIT_S))
        head = b"POST /v1.0/invoke/billing/method/talk HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
        client.sendall(head + b"3\r\none\r\n")
        assert read_until(client, b"first").startswith(b"HTTP/1.1 200")
        yield app, line, edge, client


def test_both_sides_speak_at_the_same_time(tmp_path: Path) -> None:
    with talking(tmp_path) as (app, _, _, client):
        app.go_on.set()
        client.sendall(b"3\r\ntwo\r\n0\r\n\r\n")
        assert b"last" in read_until(client, b"0\r\n\r\n")


def test_an_answer_that_a_cut_breaks_off_does_not_look_whole(tmp_path: Path) -> None:
    with talking(tmp_path) as (_, line, edge, client):
        line.cut(Mode.REFUSE)
        rest = read_until(client, b"never")
        assert b"0\r\n\r\n" not in rest
        answer = edge.http("GET", "/v1.0/invoke/billing/method/x")
        assert (answer.status, b"link cloud" in answer.body) == (500, True)


@pytest.mark.parametrize("mode", [Mode.REFUSE, Mode.HOLE])
def test_without_the_link_a_call_fails_at_once(tmp_path: Path, mode: Mode) -> None:
    with open_cloud(tmp_path, more="  probe: {interval: 500ms}\n") as cloud:
        assert cloud.edge.http("GET", "/v1.0/invoke/billing/method/do/it").status == 200
        cloud.cut(mode)
        cloud.edge.wait_line(DOWN)
        answer = cloud.edge.http("GET", "/v1.0/invoke/billing/method/do/it")
        assert (answer.status, answer.json()["errorCode"]) == (500, "ERR_DIRECT_INVOKE")
        assert answer.json()["message"].startswith("failed to invoke, id: billing, err: link cloud is down: ")
        with pytest.raises(grpc.RpcError) as caught:
            invoke(cloud.edge.grpc_port, "ledger", "do/it", "POST")
        error: Any = caught.value
        assert error.code() is grpc.StatusCode.INTERNAL
        assert error.details().startswith("failed to invoke, id: ledger, err: link cloud is down: ")
        with grpc.insecure_channel(f"127.0.0.1:{cloud.edge.grpc_port}") as channel:
            with pytest.raises(grpc.RpcError) as caught:
                echo_works(channel)
            error = caught.value
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            assert error.details().startswith("link cloud is down")
            cloud.mend()
            cloud.edge.wait_line(UP)
            assert cloud.edge.http("GET", "/v1.0/invoke/billing/method/do/it").status == 200
            assert echo_works(channel)
        assert cloud.edge.stop() == 0


def test_an_app_of_this_node_comes_first(tmp_path: Path) -> None:
    with App({"/do/it": lambda came: (200, b"here")}) as here:
        with open_cloud(tmp_path, "{invocation: [{appID: edge}]}", app_port=here.port) as cloud:
            assert cloud.edge.http("GET", "/v1.0/invoke/edge/method/do/it").body == b"here"


def test_a_wrong_token_is_the_link_s_and_not_the_app_s(tmp_path: Path) -> None:
    with billing() as app, Sidecar(tmp_path / "cloud", app_id="billing", app_port=app.port, environment=TOKEN) as cloud:
        flags = write_link(
            tmp_path / "resources", url(cloud.port), url(cloud.grpc_port), ROUTES, "  token: {value: old}\n"
        )
        with Sidecar(tmp_path / "edge", *flags, app_id="edge") as edge:
            until(lambda: UP in edge.said)
            answer = edge.http("GET", "/v1.0/invoke/billing/method/do/it")
            assert answer.status == 500
            assert "the sidecar refuses the token (401)" in answer.json()["message"]
            assert "refuses the token" in edge.wait_line(DOWN)
            with pytest.raises(grpc.RpcError) as caught:
                invoke(edge.grpc_port, "billing", "do/it", "POST")
            error: Any = caught.value
            assert "refuses the token" in error.details()


def test_a_policy_makes_the_call_again(tmp_path: Path) -> None:
    attempts: list[int] = []
    lock = threading.Lock()

    def third(came: Received) -> tuple[int, Any]:
        with lock:
            attempts.append(1)
            return (200, b"at last") if len(attempts) == 3 else (503, b"not yet")

    policy = (
        "apiVersion: dapr.io/v1alpha1\nkind: Resiliency\nmetadata: {name: tries}\nspec:\n  policies:\n"
        "    retries: {thrice: {policy: constant, duration: 10ms, maxRetries: 3}}\n"
        "  targets: {apps: {billing: {retry: thrice}}}\n"
    )
    with App({"/do/it": third}) as app, Sidecar(tmp_path / "cloud", app_id="billing", app_port=app.port) as cloud:
        flags = write_link(tmp_path / "resources", url(cloud.port), routes=ROUTES)
        (tmp_path / "resources" / "policy.yaml").write_text(policy)
        with Sidecar(tmp_path / "edge", *flags, app_id="edge") as edge:
            until(lambda: UP in edge.said)
            answer = edge.http("POST", "/v1.0/invoke/billing/method/do/it", b"x")
            assert (answer.status, answer.body, len(attempts)) == (200, b"at last", 3)


def test_a_slow_app_is_waited_for(tmp_path: Path) -> None:
    go, there = threading.Event(), threading.Event()

    def slowly(came: Received) -> tuple[int, Any]:
        there.set()
        go.wait(WAIT_S)
        return 200, b"slow"

    with App({"/slow": slowly}) as app, Sidecar(tmp_path / "cloud", app_id="billing", app_port=app.port) as cloud:
        flags = write_link(tmp_path / "resources", url(cloud.port), routes=ROUTES, more="  probe: {interval: 100ms}\n")
        with Sidecar(tmp_path / "edge", *flags, app_id="edge") as edge:
            until(lambda: UP in edge.said)
            answers: list[bytes] = []
            caller = threading.Thread(
                target=lambda: answers.append(edge.http("GET", "/v1.0/invoke/billing/method/slow").body)
            )
            caller.start()
            assert there.wait(WAIT_S)
            until(lambda: metric(edge, "edge_link_bytes_total", **{"class": "probe", "direction": "received"}) > 400)
            go.set()
            caller.join(WAIT_S)
            assert answers == [b"slow"]
