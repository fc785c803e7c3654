"""Cloud links between two real nodes: the second plays the sidecar in the cloud, and is asked for Dapr's API only."""

from __future__ import annotations

import json
import re
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest

from edge_runtime.receiver import Receiver, identity_of, identity_of_headers
from tests.integration.test_mqtt_tls import Authority
from tests.support.app import App, Received
from tests.support.line import Line, Mode, end
from tests.support.resources import component, write
from tests.support.sidecar import WAIT_S, Sidecar

pytestmark = pytest.mark.slow

UP = "cloud link cloud is up"
DOWN = "cloud link cloud is down"
OUT = "{topicsUp: [{pubsub: pubsub, topic: orders}]}"
BOTH = (
    "{topicsUp: [{pubsub: pubsub, topic: orders}, {pubsub: pubsub, topic: commands}], "
    "topicsDown: [{remotePubsub: pubsub, remoteTopic: commands}]}"
)


def write_link(directory: Path, http: str, grpc: str = "", routes: str = OUT, more: str = "") -> list[str]:
    """The flags of a node with this link."""
    directory.mkdir(exist_ok=True)
    endpoint = f"{{http: '{http}', grpc: '{grpc}'}}" if grpc else f"{{http: '{http}'}}"
    (directory / "link.yaml").write_text(
        "apiVersion: edge-runtime.io/v1alpha1\nkind: CloudLink\nmetadata: {name: cloud}\n"
        f"spec:\n  endpoint: {endpoint}\n  routes: {routes}\n{more}"
    )
    return ["--resources-path", str(directory)]


def url(port: int) -> str:
    return f"http://127.0.0.1:{port}"


def subscriber(topic: str) -> App:
    """An app that gets the topic's events one after the other: so they come in the order that they were taken in."""
    rows = [{"pubsubname": "pubsub", "topic": topic, "route": "/events", "metadata": {"concurrency": "1"}}]
    return App({"/dapr/subscribe": lambda came: (200, rows), "/events": lambda came: (200, b"")})


def publish(node: Sidecar, data: Any, topic: str = "orders", query: str = "") -> None:
    answer = node.http("POST", f"/v1.0/publish/pubsub/{topic}{query}", data)
    assert answer.status == 204, answer.body


def until(condition: Callable[[], Any], timeout_s: float = WAIT_S) -> Any:
    """What the condition says once it holds."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not come to that"
        threading.Event().wait(0.02)
    return value


class Measured(Protocol):
    def metrics(self) -> str: ...


def metric(node: Measured, name: str, **labels: str) -> float:
    """The sum of the samples that have these labels."""
    total = 0.0
    for line in node.metrics().splitlines():
        if line.startswith(f"dapr_{name}{{") and all(f'{key}="{value}"' in line for key, value in labels.items()):
            total += float(line.rpartition(" ")[2])
    return total


class Pair:
    """An edge node, the line, and the cloud's node with an app that gets `orders`."""

    def __init__(self, cloud: Sidecar, cloud_app: App, line: Line, grpc_line: Line) -> None:
        self.cloud = cloud
        self.cloud_app = cloud_app
        self.line = line
        self.grpc_line = grpc_line

    def cut(self, mode: Mode) -> None:
        self.line.cut(mode)
        self.grpc_line.cut(mode)

    def mend(self) -> None:
        self.line.mend()
        self.grpc_line.mend()


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with ExitStack() as stack:
        app = stack.enter_context(subscriber("orders"))
        cloud = stack.enter_context(Sidecar(tmp_path / "cloud", app_id="cloud", app_port=app.port))
        line = stack.enter_context(Line(cloud.port))
        grpc_line = stack.enter_context(Line(cloud.grpc_port))
        yield Pair(cloud, app, line, grpc_line)


@contextmanager
def edge_of(pair: Pair, tmp_path: Path, routes: str = OUT, more: str = "", **options: Any) -> Iterator[Sidecar]:
    flags = write_link(tmp_path / "resources", url(pair.line.port), url(pair.grpc_line.port), routes, more)
    with Sidecar(tmp_path / "edge", *flags, app_id="edge", **options) as node:
        yield node


def test_an_event_goes_up_whole_and_known(pair: Pair, tmp_path: Path) -> None:
    with edge_of(pair, tmp_path) as edge:
        publish(edge, {"n": 1, "precise": 12345678901234567890}, query="?metadata.cloudevent.id=mine")
        event = pair.cloud_app.next().json()
        assert (event["id"], event["source"], event["data"]["precise"]) == ("mine", "edge", 12345678901234567890)
        assert (event["topic"], event["pubsubname"]) == ("orders", "pubsub")
        assert re.fullmatch(r"[0-9a-f]+", event["edgenode"])
        publish(edge, "two")
        second = pair.cloud_app.next().json()
        assert second["data"] == "two"
        assert second["edgenode"] == event["edgenode"]
        assert second["edgeepoch"] == event["edgeepoch"]
        assert int(second["edgesequence"]) > int(event["edgesequence"])
        until(lambda: metric(edge, "edge_outbox_entries") == 0)
        assert metric(edge, "edge_link_up", link="cloud") == 1
        assert edge.stop() == 0


def test_only_documented_paths_cross(pair: Pair, tmp_path: Path) -> None:
    with edge_of(pair, tmp_path, BOTH, "  probe: {interval: 200ms}\n") as edge:
        publish(edge, 1, query="?metadata.partitionKey=a%20b")
        pair.cloud_app.next()
        publish(pair.cloud, 2, "commands")
        until(pair.grpc_line.rpcs)
        until(lambda: pair.line.requests().count("GET /v1.0/healthz/outbound") > 1)
        assert edge.stop() == 0
    assert set(pair.grpc_line.rpcs()) == {"/dapr.proto.runtime.v1.Dapr/SubscribeTopicEventsAlpha1"}
    query = "metadata.partitionKey=&metadata.edgenode=&metadata.edgeepoch=&metadata.edgesequence="
    assert {re.sub(r"(=)[^&]*", r"\1", request) for request in pair.line.requests()} == {
        "GET /v1.0/healthz/outbound",
        f"POST /v1.0/publish/pubsub/orders?{query}",
    }


def test_local_apps_get_the_event_as_ever(pair: Pair, tmp_path: Path) -> None:
    with subscriber("orders") as local, edge_of(pair, tmp_path, app_port=local.port) as edge:
        publish(edge, {"n": 1})
        here, there = local.next().json(), pair.cloud_app.next().json()
        assert "edgenode" not in here
        assert here["id"] == there["id"]


def test_raw_bytes_and_bulk_go_up_too(pair: Pair, tmp_path: Path) -> None:
    with edge_of(pair, tmp_path) as edge:
        entries = [
            {"entryId": str(n), "event": {"n": n}, "contentType": "application/json", "metadata": {}} for n in range(20)
        ]
        assert edge.http("POST", "/v1.0/publish/bulk/pubsub/orders", entries).status == 204
        assert [pair.cloud_app.next().json()["data"]["n"] for _ in range(20)] == list(range(20))
        publish(edge, b'{"specversion":"1.0","id":"raw","source":"x","type":"t"}', query="?metadata.rawPayload=true")
        event = pair.cloud_app.next().json()
        assert event["id"] == "raw"
        assert "edgenode" not in event


def test_raw_bytes_are_known_by_their_headers(tmp_path: Path) -> None:
    rows = [{"pubsubname": "pubsub", "topic": "orders", "route": "/events", "metadata": {"rawPayload": "true"}}]
    routes: Any = {"/dapr/subscribe": lambda came: (200, rows), "/events": lambda came: (200, b"")}
    with App(routes) as app, Sidecar(tmp_path / "cloud", app_id="cloud", app_port=app.port) as cloud:
        with Sidecar(tmp_path / "edge", *write_link(tmp_path / "resources", url(cloud.port))) as edge:
            publish(edge, b"\x00", query="?metadata.rawPayload=true")
            came = app.next()
            assert came.json()["data_base64"] == "AA=="
            identity = identity_of_headers(came.headers)
            assert identity is not None
            assert identity.sequence > 0
            assert identity_of(came.json()) is None


@pytest.mark.parametrize("mode", [Mode.REFUSE, Mode.HOLE])
def test_what_is_published_meanwhile_comes_in_order(pair: Pair, tmp_path: Path, mode: Mode) -> None:
    with edge_of(pair, tmp_path, more="  probe: {interval: 1s}\n") as edge:
        publish(edge, 0)
        first = pair.cloud_app.next().json()
        pair.cut(mode)
        for number in range(1, 20):
            publish(edge, number)
        edge.wait_line(DOWN)
        assert metric(edge, "edge_link_up") == 0
        assert metric(edge, "edge_outbox_entries") > 0
        pair.mend()
        edge.wait_line(UP)
        arrived: list[int] = []
        receiver = Receiver()
        receiver.mark(identity_of(first))
        while len(arrived) < 19:
            event = pair.cloud_app.next().json()
            if not receiver.seen(identity_of(event)):
                receiver.mark(identity_of(event))
                arrived.append(event["data"])
        assert arrived == list(range(1, 20))


def test_a_node_that_starts_without_a_line_takes_events(tmp_path: Path) -> None:
    flags = write_link(tmp_path / "resources", "http://127.0.0.1:9")
    with Sidecar(tmp_path / "edge", *flags) as edge:
        until(lambda: f"{DOWN}: dial tcp 127.0.0.1:9: connect: connection refused" in edge.said)
        publish(edge, 1)
        assert metric(edge, "edge_outbox_entries") == 1
        assert edge.stop() == 0


def test_events_come_down_and_never_go_up_again(pair: Pair, tmp_path: Path) -> None:
    with subscriber("commands") as local, edge_of(pair, tmp_path, BOTH, app_port=local.port) as edge:
        until(lambda: metric(edge, "edge_link_bytes_total", **{"class": "topics-down", "direction": "received"}))
        publish(pair.cloud, {"do": "it", "n": 0.1}, "commands", "?metadata.cloudevent.type=order")
        event = local.next().json()
        assert (event["data"], event["source"], event["type"]) == ({"do": "it", "n": 0.1}, "cloud", "order")
        assert (event["topic"], event["pubsubname"], event["datacontenttype"]) == (
            "commands",
            "pubsub",
            "application/json",
        )
        publish(edge, "my own", "commands")  # goes up, comes down again, and is known
        assert local.next().json()["data"] == "my own"
        publish(edge, "last", "orders")
        assert pair.cloud_app.next().json()["data"] == "last"
        publish(pair.cloud, "after", "commands")
        assert local.next().json()["data"] == "after"
        assert local.received.empty()
        assert metric(edge, "edge_outbox_forwarded_total") == 2


def test_the_stream_comes_back_after_a_cut(pair: Pair, tmp_path: Path) -> None:
    with subscriber("commands") as local, edge_of(pair, tmp_path, BOTH, app_port=local.port) as edge:
        publish(pair.cloud, 1, "commands")
        assert local.next().json()["data"] == 1
        pair.cut(Mode.REFUSE)
        edge.wait_line(DOWN)
        publish(pair.cloud, 2, "commands")
        pair.mend()
        edge.wait_line(UP)
        # The first may come again: its acknowledgement may not have been through when the line was cut.
        assert 2 in (came.json()["data"] for came in iter(local.next, None))


def test_what_cannot_be_published_here_is_held_in_order(pair: Pair, tmp_path: Path) -> None:
    """The component comes later, as space on a full disk would."""
    rows = [{"pubsubname": "later", "topic": "commands", "route": "/events"}]
    routes = "{topicsDown: [{remotePubsub: pubsub, remoteTopic: commands, pubsub: later}]}"
    app = App({"/dapr/subscribe": lambda came: (200, rows), "/events": lambda came: (200, b"")})
    with app as local, edge_of(pair, tmp_path, routes, app_port=local.port) as edge:
        for number in range(5):
            publish(pair.cloud, number, "commands")
        until(
            lambda: (
                "is held until it can be published: no app of this node has a pub/sub component 'later'" in edge.said
            )
        )
        (route,) = edge.http("GET", "/edge/v1/sync/cloud").json()["routes"]
        assert (route["received"], route["refused"]) == (0, 0)
        assert "no app of this node has a pub/sub component 'later'" in route["lastError"]
        write(tmp_path / "resources", "later.yaml", component("later", "pubsub.in-memory", {}))
        edge.signal(signal.SIGHUP)
        numbers: list[int] = []
        while len(numbers) < 5:
            data = local.next().json()["data"]
            if data not in numbers:
                numbers.append(data)
        assert numbers == list(range(5))


def test_apps_can_follow_the_link(pair: Pair, tmp_path: Path) -> None:
    with subscriber("edge.links") as local, edge_of(pair, tmp_path, app_port=local.port) as edge:
        pair.cut(Mode.REFUSE)
        publish(edge, 1)
        edge.wait_line(DOWN)
        pair.mend()
        states = []
        while states[-2:] != ["down", "up"]:
            event = local.next().json()
            assert event["data"]["link"] == "cloud"
            assert event["type"] == "io.edge-runtime.link.state"
            states.append(event["data"]["state"])
            assert (event["data"]["reason"] == "") == (states[-1] == "up")


def test_a_link_comes_and_goes_with_a_reload(pair: Pair, tmp_path: Path) -> None:
    with edge_of(pair, tmp_path, more="  routs: {}\n") as edge:
        assert "unknown field 'spec.routs' is ignored" in edge.said
        link = tmp_path / "resources" / "link.yaml"
        text = link.read_text()
        link.unlink()
        edge.signal(signal.SIGHUP)
        edge.wait_line("dapr initialized")
        publish(edge, "only here")
        link.write_text(text.replace("  routs: {}\n", ""))
        edge.signal(signal.SIGHUP)
        until(lambda: edge.said.count("dapr initialized") == 3)
        publish(edge, "there too")
        assert pair.cloud_app.next().json()["data"] == "there too"


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_a_wrong_token_stops_the_link_and_loses_nothing(tmp_path: Path) -> None:
    with ExitStack() as stack:
        app = stack.enter_context(subscriber("orders"))
        cloud = stack.enter_context(
            Sidecar(tmp_path / "cloud", app_id="cloud", app_port=app.port, environment={"DAPR_API_TOKEN": "right"})
        )
        flags = write_link(
            tmp_path / "resources",
            url(cloud.port),
            more="  token: {secretKeyRef: {name: token}}\nauth: {secretStore: secretstore}\n",
        )
        edge = stack.enter_context(
            Sidecar(tmp_path / "edge", *flags, app_id="edge", environment={"EDGE_SECRET_token": "expired"})
        )
        until(lambda: UP in edge.said)
        publish(edge, "kept")
        assert "the sidecar refuses the token (401)" in edge.wait_line(DOWN)
        link = tmp_path / "resources" / "link.yaml"
        link.write_text(link.read_text().replace("{secretKeyRef: {name: token}}", "{value: right}"))
        edge.signal(signal.SIGHUP)
        assert app.next().json()["data"] == "kept"


def test_a_wrong_authority_is_named(tmp_path: Path) -> None:
    right, wrong = Authority(tmp_path, "right"), Authority(tmp_path, "wrong")
    server = right.issue("server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server.certificate, server.key)
    context.load_verify_locations(cadata=right.text)
    context.verify_mode = ssl.CERT_REQUIRED
    client = right.issue("client")

    def tls(authority: Authority) -> str:
        values = {
            "ca": authority.text,
            "clientCert": client.certificate.read_text(),
            "clientKey": client.key.read_text(),
        }
        return f"  tls: {json.dumps({name: {'value': text} for name, text in values.items()})}\n"

    with ExitStack() as stack:
        app = stack.enter_context(subscriber("orders"))
        cloud = stack.enter_context(Sidecar(tmp_path / "cloud", app_id="cloud", app_port=app.port))
        line = stack.enter_context(Line(cloud.port, context))
        flags = write_link(tmp_path / "resources", f"https://127.0.0.1:{line.port}", more=tls(wrong))
        edge = stack.enter_context(Sidecar(tmp_path / "edge", *flags, app_id="edge"))
        until(lambda: DOWN in edge.said)
        assert "certificate verify failed" in edge.said
        publish(edge, "kept")
        write_link(tmp_path / "resources", f"https://127.0.0.1:{line.port}", more=tls(right))
        edge.signal(signal.SIGHUP)
        assert app.next().json()["data"] == "kept"


HEALTHY = {"/v1.0/healthz/outbound": lambda came: (204, b"")}


def fake_cloud(status: Callable[[str], int]) -> App:
    """A sidecar that answers publishes as `status` says for the partition key."""

    def answer(came: Received) -> tuple[int, bytes]:
        code = status(key_of(came))
        said = {"errorCode": "ERR_PUBSUB_FORBIDDEN", "message": "because"}
        return code, b"" if code == 204 else json.dumps(said).encode()

    return App({**HEALTHY, "/v1.0/publish/pubsub/orders": answer})


def key_of(came: Received) -> str:
    found = re.search(r"metadata\.partitionKey=([^&]*)", came.path)
    return found[1] if found else ""


def test_one_key_that_fails_holds_up_no_other(tmp_path: Path) -> None:
    with fake_cloud(lambda key: 500 if key == "bad" else 204) as cloud:
        flags = write_link(tmp_path / "resources", url(cloud.port))
        with Sidecar(tmp_path / "edge", *flags) as edge:
            publish(edge, "first", query="?metadata.partitionKey=bad")
            for number in range(10):
                publish(edge, number, query="?metadata.partitionKey=good")
            good: list[int] = []
            while len(good) < 10:
                came = cloud.next()
                if key_of(came) == "good":
                    good.append(came.json()["data"])
            assert good == list(range(10))
            assert metric(edge, "edge_link_up") == 1
            until(lambda: metric(edge, "edge_outbox_entries") == 1)


@pytest.mark.parametrize("status", [400, 403, 404])
def test_a_considered_refusal_is_a_dead_letter(tmp_path: Path, status: int) -> None:
    with fake_cloud(lambda key: status if key == "bad" else 204) as cloud:
        flags = write_link(tmp_path / "resources", url(cloud.port))
        with Sidecar(tmp_path / "edge", *flags) as edge:
            publish(edge, "first", query="?metadata.partitionKey=bad")
            publish(edge, "second", query="?metadata.partitionKey=good")
            until(lambda: metric(edge, "edge_outbox_dead_letters") == 1)
            until(lambda: metric(edge, "edge_outbox_entries") == 0)
            assert re.search(rf"answered {status}: .*because", edge.said)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (403, b"blocked by the firewall"),
        (404, b'{"errorCode": "ERR_PUBSUB_NOT_FOUND", "message": "pubsub pubsub is not found"}'),
        (200, b"please log in"),
    ],
)
def test_what_no_sidecar_decided_is_tried_again(tmp_path: Path, status: int, body: bytes) -> None:
    """A portal, a firewall, a component that is not loaded yet: none of them may cost an event."""
    answers = [(status, body), (status, body)]

    def answer(came: Received) -> tuple[int, bytes]:
        return answers.pop() if answers else (204, b"")

    with App({**HEALTHY, "/v1.0/publish/pubsub/orders": answer}) as cloud:
        flags = write_link(tmp_path / "resources", url(cloud.port))
        with Sidecar(tmp_path / "edge", *flags) as edge:
            publish(edge, "kept")
            until(lambda: not answers and metric(edge, "edge_outbox_entries") == 0)
            assert metric(edge, "edge_outbox_dead_letters") == 0


def test_a_sidecar_that_is_away_behind_its_gate_is_down(tmp_path: Path) -> None:
    healthy = threading.Event()
    healthy.set()

    def answer(came: Received) -> tuple[int, bytes]:
        return 204 if healthy.is_set() else 503, b""

    with App({"/v1.0/healthz/outbound": answer, "/v1.0/publish/pubsub/orders": answer}) as cloud:
        flags = write_link(tmp_path / "resources", url(cloud.port), more="  probe: {interval: 500ms}\n")
        with Sidecar(tmp_path / "edge", *flags) as edge:
            healthy.clear()
            publish(edge, 1)
            assert "answered 503" in edge.wait_line(DOWN)
            healthy.set()
            edge.wait_line(UP)
            until(lambda: metric(edge, "edge_outbox_entries") == 0)


def test_a_captive_portal_is_no_delivery(tmp_path: Path) -> None:
    page = (200, b"<html>please pay</html>", {"content-type": "text/html"})
    with App({"/v1.0/healthz/outbound": lambda came: page, "/v1.0/publish/pubsub/orders": lambda came: page}) as portal:
        flags = write_link(tmp_path / "resources", url(portal.port))
        with Sidecar(tmp_path / "edge", *flags) as edge:
            publish(edge, 1)
            until(lambda: "please pay" in edge.said)
            assert metric(edge, "edge_outbox_entries") == 1


def test_a_full_route_refuses(tmp_path: Path) -> None:
    routes = "{topicsUp: [{pubsub: pubsub, topic: orders, limits: {size: 4Ki}}]}"
    flags = write_link(tmp_path / "resources", "http://127.0.0.1:9", routes=routes)
    with Sidecar(tmp_path / "edge", *flags) as edge:
        publish(edge, "x" * 2000)
        answer = edge.http("POST", "/v1.0/publish/pubsub/orders", "x" * 2000)
        assert answer.status == 500
        assert b"limits.size of the CloudLink's route" in answer.body
        assert metric(edge, "component_pubsub_egress_count", success="true") == 1


# --- budget, proxy, ledger --------------------------------------------------------------------------------------------


def test_a_proxy_is_asked_to_connect(pair: Pair, tmp_path: Path) -> None:
    with Tunnel("Basic bWU6cGFzcw==") as tunnel:
        more = f"  proxy: http://me:pass@127.0.0.1:{tunnel.port}\n"
        with edge_of(pair, tmp_path, BOTH, more) as edge:
            publish(edge, 1)
            assert pair.cloud_app.next().json()["data"] == 1
            assert f"CONNECT 127.0.0.1:{pair.line.port} HTTP/1.1" in tunnel.asked
            until(lambda: f"CONNECT 127.0.0.1:{pair.grpc_line.port} HTTP/1.1" in tunnel.asked)
            assert edge.stop() == 0


class Tunnel:
    """An HTTP proxy that knows CONNECT only, and wants to be told a password."""

    def __init__(self, authorization: str) -> None:
        self.asked: list[str] = []
        self._authorization = authorization
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._line = Line(0)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client = self._listener.accept()[0]
            except OSError:
                return
            try:
                self._answer(client)
            except OSError:
                client.close()

    def _answer(self, client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            data = client.recv(1)
            if not data:
                raise ConnectionError
            head += data
        lines = head.decode().split("\r\n")
        self.asked.append(lines[0])
        if f"Proxy-Authorization: {self._authorization}" not in lines:
            client.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
            client.close()
            return
        target = int(lines[0].split()[1].rpartition(":")[2])
        client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        threading.Thread(target=self._line.carry, args=(client, target), daemon=True).start()

    def __enter__(self) -> Tunnel:
        return self

    def __exit__(self, *error: object) -> None:
        end((self._listener,))
        self._line.close()


def test_every_byte_is_counted_and_the_day_ends(pair: Pair, tmp_path: Path) -> None:
    with edge_of(pair, tmp_path, more="  budget: {bytesPerDay: 20k}\n") as edge:
        for number in range(40):
            publish(edge, f"{number}:{'x' * 1000}")
        edge.wait_line("cloud link cloud is out-of-budget: the day's bytes are spent until")
        up = metric(edge, "edge_link_bytes_total", direction="sent")
        down = metric(edge, "edge_link_bytes_total", direction="received")
        assert up == pair.line.bytes_up
        assert 0 <= pair.line.bytes_down - down < 500  # the answer that was broken off
        assert 20_000 <= up + down < 22_000
        assert metric(edge, "edge_outbox_entries") > 10
        edge.kill()
    with edge_of(pair, tmp_path, more="  budget: {bytesPerDay: 20k}\n") as edge:  # nor does a restart begin a new day
        until(lambda: "out-of-budget" in edge.said)
        assert pair.line.bytes_up == up


def test_a_second_has_its_bytes(pair: Pair, tmp_path: Path) -> None:
    with edge_of(pair, tmp_path, more="  budget: {bytesPerSecond: 20k}\n") as edge:
        for number in range(40):
            publish(edge, f"{number}:{'x' * 1500}")
        began = time.monotonic()
        for _ in range(40):
            pair.cloud_app.next()
        seconds = time.monotonic() - began
        # What crossed while events were still being published had its seconds too.
        assert pair.line.bytes_up + pair.line.bytes_down <= 20_000 * (seconds + 10)
        assert metric(edge, "edge_link_up") == 1


def test_a_closed_window_keeps_what_is_published(pair: Pair, tmp_path: Path) -> None:
    hour = time.localtime().tm_hour
    begin, end = (hour + 2) % 24, (hour + 3) % 24
    window = f"  windows: [{{from: '{begin:02}:00', to: '{end:02}:00'}}]\n"
    with edge_of(pair, tmp_path, more=window) as edge:
        until(lambda: "cloud link cloud is waiting: waits for its window, which opens at" in edge.said)
        publish(edge, 1)
        assert metric(edge, "edge_outbox_entries") == 1
        assert pair.line.bytes_up == 0


def test_a_kill_under_load_loses_and_repeats_nothing(pair: Pair, tmp_path: Path) -> None:
    accepted: list[int] = []
    number = 0
    for _ in range(3):
        with edge_of(pair, tmp_path) as edge:
            killer = threading.Timer(0.4, edge.kill)
            killer.start()
            try:
                while True:
                    number += 1
                    key = number % 5
                    answer = edge.http(
                        "POST", f"/v1.0/publish/pubsub/orders?metadata.partitionKey={key}", {"n": number, "key": key}
                    )
                    assert answer.status == 204
                    accepted.append(number)
            except OSError:
                pass
            killer.join()
    receiver = Receiver()
    arrived: list[dict[str, int]] = []
    with edge_of(pair, tmp_path) as edge:
        until(lambda: metric(edge, "edge_link_up") == 1)
        until(lambda: metric(edge, "edge_outbox_entries") == 0)
        publish(edge, {"n": -1, "key": -1})
        while not arrived or arrived[-1]["n"] != -1:
            event = pair.cloud_app.next().json()
            identity = identity_of(event)
            assert identity is not None
            if not receiver.seen(identity):
                receiver.mark(identity)
                arrived.append(event["data"])
    numbers = [one["n"] for one in arrived[:-1]]
    assert len(numbers) == len(set(numbers))
    assert set(accepted) <= set(numbers) <= set(range(1, number + 1))
    assert len(numbers) - len(accepted) <= 3  # taken, but the kill was faster than the answer
    for key in range(5):
        own = [one["n"] for one in arrived if one["key"] == key]
        assert own == sorted(own)
