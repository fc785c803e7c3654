"""State routes between two real nodes: the second plays the sidecar in the cloud, and is asked for Dapr's API only."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.proto.dapr.proto.common.v1.common_pb2 import InvokeRequest, InvokeResponse
from edge_runtime.sync.merge import digest
from tests.integration.cli import ask, environment
from tests.integration.test_apps_of_one_node import template, wait_until_all_serve
from tests.integration.test_cloud_links import DOWN, metric, until, url, write_link
from tests.support.app import App, Received
from tests.support.callback_app import INVOKE, CallbackApp
from tests.support.drivers import python
from tests.support.line import Line, Mode
from tests.support.resources import broker, component, write
from tests.support.sidecar import Program, Sidecar, free_port, request

pytestmark = pytest.mark.slow

CONFLICTS = "/edge/v1/conflicts"
STORE = "/v1.0/state/statestore"
RPC = "/dapr.proto.runtime.v1.Dapr/"
SUBSCRIBE = f"{RPC}SubscribeTopicEventsAlpha1"
POLL = "poll: 300ms"


def route(more: str = "", keys: str = "orders/*") -> str:
    """The routes of a link with one state route."""
    return f"{{state: [{{store: statestore, keys: '{keys}', {POLL}{', ' if more else ''}{more}}}]}}"


def save(node: Sidecar, key: str, value: Any) -> None:
    answer = node.http("POST", STORE, [{"key": key, "value": value}])
    assert answer.status == 204, answer.body


def load(node: Sidecar, key: str) -> Any:
    """None when there is nothing."""
    answer = node.http("GET", f"{STORE}/{key.replace('/', '%2F')}")
    return answer.json() if answer.status == 200 else None


def remove(node: Sidecar, key: str) -> None:
    assert node.http("DELETE", f"{STORE}/{key.replace('/', '%2F')}").status == 204


class Pair:
    """The cloud's node and the line to it."""

    def __init__(self, cloud: Sidecar, line: Line, grpc_line: Line) -> None:
        self.cloud = cloud
        self.line = line
        self.grpc_line = grpc_line

    def cut(self) -> None:
        self.line.cut(Mode.REFUSE)
        self.grpc_line.cut(Mode.REFUSE)

    def mend(self) -> None:
        self.line.mend()
        self.grpc_line.mend()


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with ExitStack() as stack:
        cloud = stack.enter_context(Sidecar(tmp_path / "cloud", app_id="cloud"))
        line = stack.enter_context(Line(cloud.port))
        yield Pair(cloud, line, stack.enter_context(Line(cloud.grpc_port)))


@contextmanager
def edge_of(
    pair: Pair,
    tmp_path: Path,
    routes: str,
    more: str = "",
    flags: Sequence[str] = (),
    *,
    grpc: bool = True,
    **options: Any,
) -> Iterator[Sidecar]:
    grpc_url = url(pair.grpc_line.port) if grpc else ""
    link = write_link(tmp_path / "resources", url(pair.line.port), grpc_url, routes, more)
    with Sidecar(tmp_path / "edge", *link, *flags, **{"app_id": "edge", **options}) as node:
        yield node


@pytest.mark.parametrize("grpc", [False, True], ids=["http", "grpc"])
def test_changes_cross_both_ways(pair: Pair, tmp_path: Path, grpc: bool) -> None:
    with edge_of(pair, tmp_path, route(), grpc=grpc) as edge:
        save(edge, "orders/1", {"n": 1})
        save(edge, "other", 1)
        until(lambda: load(pair.cloud, "orders/1") == {"n": 1})
        save(pair.cloud, "orders/1", {"n": 2})
        until(lambda: load(edge, "orders/1") == {"n": 2})
        remove(edge, "orders/1")
        until(lambda: load(pair.cloud, "orders/1") is None)
        assert load(pair.cloud, "other") is None
        assert edge.stop() == 0


def test_a_new_key_comes_by_the_change_topic(pair: Pair, tmp_path: Path) -> None:
    slow = "changeTopic: {pubsub: pubsub, topic: changes}, direction: down"
    with edge_of(pair, tmp_path, route(slow).replace(POLL, "poll: 1h")) as edge:
        save(pair.cloud, "orders/1", 1)
        save(pair.cloud, "orders/2", 2)
        save(pair.cloud, "orders/3", 3)
        until(lambda: SUBSCRIBE in pair.grpc_line.rpcs())
        for event, query in (
            ({"key": "orders/1"}, ""),
            ({"keys": ["cloud||orders/2", "else"]}, ""),
            ({"total": 3}, "?metadata.cloudevent.key=orders/3"),
        ):
            assert pair.cloud.http("POST", f"/v1.0/publish/pubsub/changes{query}", event).status == 204
        until(lambda: [load(edge, f"orders/{n}") for n in (1, 2)] == [1, 2])
        save(pair.cloud, "orders/1", "later")
        assert pair.cloud.http("POST", "/v1.0/publish/pubsub/changes", "something has changed").status == 204
        until(lambda: load(edge, "orders/1") == "later")
        assert load(edge, "else") is None


def test_offline_writes_arrive_when_the_link_is_back(pair: Pair, tmp_path: Path) -> None:
    with edge_of(pair, tmp_path, route(), "  probe: {interval: 300ms}\n") as edge:
        save(edge, "orders/kept", 0)
        save(edge, "orders/gone", 0)
        until(lambda: load(pair.cloud, "orders/gone") == 0)
        pair.cut()
        edge.wait_line(DOWN)
        for number in range(1, 20):
            save(edge, "orders/kept", number)
        save(edge, "orders/new", 1)
        remove(edge, "orders/gone")
        until(lambda: metric(edge, "edge_state_route_pending_keys") == 3)
        edge.kill()
    with edge_of(pair, tmp_path, route(), "  probe: {interval: 300ms}\n") as edge:
        save(edge, "orders/new", 2)
        pair.mend()
        until(lambda: load(pair.cloud, "orders/kept") == 19)
        until(lambda: (load(pair.cloud, "orders/new"), load(pair.cloud, "orders/gone")) == (2, None))
        until(lambda: metric(edge, "edge_state_route_pending_keys") == 0)
        assert metric(edge, "edge_state_route_keys_total", action="conflicts") == 0


@contextmanager
def conflict_of(pair: Pair, tmp_path: Path, policy: str, **options: Any) -> Iterator[Sidecar]:
    """Both sides had count 1; the cloud wrote 7, and later the edge 2, while there was no line."""
    routes = route(f"conflict: {policy}")
    with edge_of(pair, tmp_path, routes, "  probe: {interval: 300ms}\n", **options) as edge:
        save(edge, "orders/1", {"count": 1})
        until(lambda: load(pair.cloud, "orders/1") == {"count": 1})
        until(lambda: metric(edge, "edge_state_route_keys_total", action="fetched") >= 2)
        pair.cut()
        edge.wait_line(DOWN)
        save(pair.cloud, "orders/1", {"count": 7, "by": "ops"})
        save(edge, "orders/1", {"count": 2, "new": True})
        pair.mend()
        yield edge


def settled(pair: Pair, edge: Sidecar, value: Any) -> None:
    until(lambda: load(edge, "orders/1") == value)
    until(lambda: load(pair.cloud, "orders/1") == value)


@pytest.mark.parametrize(
    ("policy", "kept", "loser"),
    [
        ("remote-wins", {"count": 7, "by": "ops"}, "local"),
        ("local-wins", {"count": 2, "new": True}, "remote"),
        ("last-writer", {"count": 7, "by": "ops"}, "local"),
        ("merge", {"count": 7, "by": "ops", "new": True}, "local"),
        ("keep-both", {"count": 7, "by": "ops"}, "local"),
    ],
)
def test_a_conflict_is_settled_by_the_policy(pair: Pair, tmp_path: Path, policy: str, kept: Any, loser: str) -> None:
    with conflict_of(pair, tmp_path, policy) as edge:
        settled(pair, edge, kept)
        assert metric(edge, "edge_state_route_keys_total", action="conflicts") == 1
        entry = edge.http("GET", f"{CONFLICTS}/statestore?versions=true").json()["conflicts"][0]
        assert (entry["key"], entry["policy"], entry["losers"]) == ("orders/1", policy, [loser])
        assert entry["local"]["value"] == {"count": 2, "new": True}
        assert entry["remote"]["value"] == {"count": 7, "by": "ops"}


def test_an_http_app_decides(pair: Pair, tmp_path: Path) -> None:
    dead = threading.Event()

    def answer(came: Received) -> tuple[int, Any]:
        if not dead.is_set():
            return 503, b""
        asked = came.json()
        return 200, {"count": asked["local"]["value"]["count"] + asked["remote"]["value"]["count"]}

    with App({"/edge/conflicts/statestore": answer}) as app:
        with conflict_of(pair, tmp_path, "app", app_port=app.port) as edge:
            asked = app.next().json()
            assert (asked["link"], asked["store"], asked["key"]) == ("cloud", "statestore", "orders/1")
            assert asked["base"]["value"] == {"count": 1}
            assert asked["local"]["at"].startswith("20")
            save(edge, "orders/2", "others go on")
            until(lambda: load(pair.cloud, "orders/2") == "others go on")
            assert load(edge, "orders/1") == {"count": 2, "new": True}
            dead.set()
            settled(pair, edge, {"count": 9})


def test_a_grpc_app_decides(pair: Pair, tmp_path: Path) -> None:
    def answer(asked: InvokeRequest) -> InvokeResponse:
        assert asked.method == "edge/conflicts/statestore"
        question = json.loads(asked.data.value)
        assert (question["key"], question["base"]) == ("orders/1", {"value": {"count": 1}})
        reply = InvokeResponse(content_type="application/json")
        reply.data.value = b'{"count": 3}'
        return reply

    with CallbackApp({INVOKE: answer}) as app:
        with conflict_of(pair, tmp_path, "app", app_port=app.port, flags=["--app-protocol", "grpc"]) as edge:
            settled(pair, edge, {"count": 3})


# --- values that are no JSON ------------------------------------------------------------------------------------------

KEPT: dict[str, Any] = {
    "orders/text": "hello",
    "orders/bytes": {"bytes": bytes(range(256)).hex()},
    "orders/empty": "",
    "orders/number": "12345678901234567890.10",
    "orders/spelled": '{ "a" : 1 }',
    "orders/zeros": {"bytes": "0000"},
}


def as_hex(values: dict[str, Any]) -> dict[str, str]:
    return {key: value["bytes"] if isinstance(value, dict) else value.encode().hex() for key, value in values.items()}


def sdk(node: Sidecar, save: dict[str, Any] | None = None, read: Sequence[str] = ()) -> dict[str, str]:
    """What an app with the official SDK reads of these keys, in hexadecimal digits, after it has saved."""
    environment = {"DAPR_GRPC_PORT": str(node.grpc_port), "SAVE": json.dumps(save or {}), "READ": json.dumps(read)}
    with python("grpc_bytes.py", node.port, **environment) as program:
        found: dict[str, str] = program.results()["read"]
        return found


def test_what_sdks_save_crosses_byte_for_byte(pair: Pair, tmp_path: Path) -> None:
    with edge_of(pair, tmp_path, route("changeTopic: {pubsub: pubsub, topic: changes}")) as edge:
        sdk(edge, KEPT)
        assert sdk(pair.cloud, read=list(KEPT)) == as_hex(KEPT)
        until(lambda: SUBSCRIBE in pair.grpc_line.rpcs())
        down = {key.replace("/", "/down-"): value for key, value in KEPT.items()}
        sdk(pair.cloud, down)
        assert pair.cloud.http("POST", "/v1.0/publish/pubsub/changes", {"keys": list(down)}).status == 204
        assert sdk(edge, read=list(down)) == as_hex(down)
        sdk(pair.cloud, {"orders/text": "good-bye"})
        until(lambda: sdk(edge, read=["orders/text"]) == as_hex({"orders/text": "good-bye"}))
        until(lambda: metric(edge, "edge_state_route_pending_keys") == 0)
        assert metric(edge, "edge_state_route_refused_keys") == 0
        assert metric(edge, "edge_state_route_keys_total", action="conflicts") == 0


def test_without_grpc_bytes_come_down_and_are_refused_up(pair: Pair, tmp_path: Path) -> None:
    down = {key: value for key, value in KEPT.items() if key != "orders/spelled"}  # which HTTP does not keep
    with edge_of(pair, tmp_path, route(), grpc=False) as edge:
        for key in down:
            save(edge, key, 0)
        until(lambda: [load(pair.cloud, key) for key in down] == [0] * len(down))
        sdk(pair.cloud, down)
        until(lambda: sdk(edge, read=list(down)) == as_hex(down))
        sdk(edge, {"orders/new": "hello"})
        until(lambda: metric(edge, "edge_state_route_refused_keys") == 1)
        (refused,) = edge.http("GET", f"{CONFLICTS}/statestore/refused").json()["refused"]
        assert refused["key"] == "orders/new"
        assert "add spec.endpoint.grpc to link cloud" in refused["reason"]
        write_link(tmp_path / "resources", url(pair.line.port), url(pair.grpc_line.port), route())
        edge.signal(signal.SIGHUP)
        until(lambda: edge.said.count("dapr initialized") == 2)
        assert edge.http("POST", f"{CONFLICTS}/statestore/retry", {"all": True}).json() == {"retried": 1}
        assert sdk(pair.cloud, read=["orders/new"]) == as_hex({"orders/new": "hello"})


def test_a_value_past_the_remote_s_limit_is_refused(pair: Pair, tmp_path: Path) -> None:
    """Each fits, together they do not; one fits not at all, as this node's own limit is higher."""
    with edge_of(pair, tmp_path, route(), flags=["--max-body-size", "8Mi"]) as edge:
        for number in range(5):
            save(edge, f"orders/{number}", "x" * 1_500_000)
        until(lambda: all(load(pair.cloud, f"orders/{number}") for number in range(5)))
        for number in range(5):
            save(pair.cloud, f"orders/{number}", "y" * 1_500_000)
        until(lambda: all(load(edge, f"orders/{number}")[:1] == "y" for number in range(5)))
        save(edge, "orders/huge", "z" * 5_000_000)
        until(lambda: metric(edge, "edge_state_route_refused_keys") == 1)
        (refused,) = edge.http("GET", f"{CONFLICTS}/statestore/refused").json()["refused"]
        assert refused["key"] == "orders/huge"
        assert "--max-body-size" in refused["reason"]


# --- seen and resolved ------------------------------------------------------------------------------------------------


def test_a_loser_is_shown_and_restored(pair: Pair, tmp_path: Path) -> None:
    # Command lines find sidecars by the app's id, whoever started them: this one is nobody else's.
    app = f"edge-{pair.cloud.port}"
    with conflict_of(pair, tmp_path, "remote-wins", app_id=app, environment=environment(tmp_path)) as edge:
        settled(pair, edge, {"count": 7, "by": "ops"})
        until(lambda: metric(edge, "edge_state_route_keys_total", action="conflicts"))
        assert edge.http("GET", CONFLICTS).json()["stores"][0]["unresolved"] == 1
        (entry,) = json.loads(ask(tmp_path, "conflicts", "list", "-a", app, "--json").stdout)["conflicts"]
        shown = ask(tmp_path, "conflicts", "show", "-a", app, str(entry["id"])).stdout
        assert '{"count": 2, "new": true}' in shown
        assert "orders/1" in ask(tmp_path, "conflicts", "list", "-a", app).stdout
        done = ask(tmp_path, "conflicts", "resolve", "-a", app, str(entry["id"]), "--use", "local")
        assert "1 conflict resolved" in done.stdout, done
        settled(pair, edge, {"count": 2, "new": True})
        assert edge.http("GET", CONFLICTS).json()["stores"][0]["unresolved"] == 0
        assert edge.http("GET", f"{CONFLICTS}/statestore/entries/99").status == 404
        assert "No conflicts" in ask(tmp_path, "conflicts", "list", "-a", app).stdout
        assert edge.stop() == 0
    flags = ("--state-dir", str(tmp_path / "edge"), "--resolved", "--json")
    (kept,) = json.loads(ask(tmp_path, "conflicts", "list", *flags).stdout)["conflicts"]
    assert (kept["key"], kept["resolved"]) == (f"{app}||orders/1", True)
    told = ask(tmp_path, "conflicts", "resolve", "-a", app, "--all")
    assert (told.returncode, "start it first" in told.stdout + told.stderr) == (1, True)


class Cloud:
    """A sidecar in the cloud with a state store that refuses what `refuses` says, and has a stamp beside a key."""

    def __init__(self) -> None:
        self.items: dict[str, tuple[Any, str]] = {}
        self.refuses: Callable[[str], bool] = lambda key: False
        self.saves: list[str] = []
        self._etags = 0
        routes = {
            "/v1.0/healthz/outbound": lambda came: (204, b""),
            "/v1.0/state/statestore": self._save,
            "/v1.0/state/statestore/bulk": self._bulk,
        }
        self.app = App(routes)

    def put(self, key: str, value: Any) -> None:
        self._etags += 1
        self.items[key] = value, str(self._etags)

    def _save(self, came: Received) -> tuple[int, Any]:
        (item,) = came.json()
        self.saves.append(item["key"])
        if self.refuses(item["key"]):
            return 400, {"errorCode": "ERR_STATE_SAVE", "message": "the key is not allowed"}
        found = self.items.get(item["key"])
        first = item.get("options", {}).get("concurrency") == "first-write"
        if (found is None or found[1] != item["etag"]) if "etag" in item else (first and found is not None):
            return 409, {"errorCode": "ERR_STATE_SAVE", "message": "etag mismatch"}
        self.put(item["key"], item["value"])
        return 204, b""

    def _bulk(self, came: Received) -> tuple[int, Any]:
        rows = []
        for key in came.json()["keys"]:
            value, etag = self.items.get(key, (None, None))
            rows.append({"key": key, "data": value, "etag": etag} if etag else {"key": key})
        return 200, rows


def test_a_refused_key_stops_no_other_and_can_be_tried_again(tmp_path: Path) -> None:
    cloud = Cloud()
    cloud.refuses = lambda key: key == "orders/bad"
    with cloud.app:
        flags = write_link(tmp_path / "resources", url(cloud.app.port), routes=route())
        with Sidecar(tmp_path / "edge", *flags, app_id="edge") as edge:
            save(edge, "orders/bad", 1)
            save(edge, "orders/good", 1)
            until(lambda: "orders/good" in cloud.items)
            until(lambda: metric(edge, "edge_state_route_refused_keys") == 1)
            (refused,) = edge.http("GET", f"{CONFLICTS}/statestore/refused").json()["refused"]
            assert refused["key"] == "orders/bad"
            assert "the key is not allowed" in refused["reason"]
            status = edge.http("GET", "/edge/v1/sync/cloud").json()["routes"][0]
            assert (status["route"], status["name"], status["refused"]) == ("state", "statestore/edge||orders/*", 1)
            assert "the key is not allowed" in status["lastError"]
            assert cloud.saves.count("orders/bad") == 1
            save(edge, "orders/bad", 2)
            until(lambda: cloud.saves.count("orders/bad") == 2)
            cloud.refuses = lambda key: False
            until(lambda: metric(edge, "edge_state_route_refused_keys") == 1)
            answer = edge.http("POST", f"{CONFLICTS}/statestore/retry", {"keys": ["orders/bad"]})
            assert answer.json() == {"retried": 1}
            until(lambda: cloud.items.get("orders/bad", (None,))[0] == 2)


def test_a_stamp_of_next_year_is_not_believed(tmp_path: Path) -> None:
    """Believed, it would win for a year against what is written later. Not believed, it counts as written when seen."""
    cloud = Cloud()
    with cloud.app:
        flags = write_link(tmp_path / "resources", url(cloud.app.port), routes=route("conflict: last-writer"))
        with Sidecar(tmp_path / "edge", *flags, app_id="edge") as edge:
            save(edge, "orders/1", 1)
            until(lambda: "orders/1~hlc" in cloud.items)
            stamp = cloud.items["orders/1~hlc"][0]["at"]
            ahead = f"{int(stamp[:12], 16) + 366 * 86_400_000:012x}{stamp[12:]}"
            cloud.put("orders/1~hlc", {"of": digest(b"7").hex(), "at": ahead})
            cloud.put("orders/1", 7)
            until(lambda: load(edge, "orders/1") == 7)
            save(edge, "orders/1", 8)
            until(lambda: cloud.items["orders/1"][0] == 8)
            until(lambda: cloud.items["orders/1~hlc"][0]["of"] == digest(b"8").hex())
            assert cloud.items["orders/1~hlc"][0]["at"] < ahead


# --- routes that come, go and meet ------------------------------------------------------------------------------------


def test_a_reload_goes_on_with_the_new_policy(pair: Pair, tmp_path: Path) -> None:
    with edge_of(pair, tmp_path, route()) as edge:
        save(edge, "orders/1", 1)
        until(lambda: load(pair.cloud, "orders/1") == 1)
        pair.cut()
        edge.wait_line(DOWN)
        save(edge, "orders/1", 2)
        save(pair.cloud, "orders/1", 3)
        write_link(tmp_path / "resources", url(pair.line.port), url(pair.grpc_line.port), route("conflict: local-wins"))
        edge.signal(signal.SIGHUP)
        until(lambda: edge.said.count("dapr initialized") == 2)
        pair.mend()
        settled(pair, edge, 2)
        (tmp_path / "resources" / "link.yaml").unlink()
        edge.signal(signal.SIGHUP)
        until(lambda: edge.said.count("dapr initialized") == 3)
        save(edge, "orders/1", 4)
        write_link(tmp_path / "resources", url(pair.line.port), url(pair.grpc_line.port), route())
        edge.signal(signal.SIGHUP)
        settled(pair, edge, 4)


@pytest.mark.parametrize("shared", [False, True], ids=["own-keys", "shared-keys"])
def test_two_apps_follow_their_keys_over_one_link(pair: Pair, tmp_path: Path, shared: bool) -> None:
    remote_keys = "orders/*" if shared else "{appID}/orders/*"
    write_link(tmp_path / "resources", url(pair.line.port), routes=route(f"remoteKeys: '{remote_keys}'"))
    store = {"connectionString": str(tmp_path / "shared.db"), "keyPrefix": "name" if shared else "appid"}
    write(tmp_path / "resources", "store.yaml", component("statestore", "state.sqlite", store), broker())
    ports = {"one": free_port(), "two": free_port()}
    path = template(tmp_path, ports, {})
    document = json.loads(path.read_text())
    document["common"] = {"resourcesPath": str(tmp_path / "resources")}
    path.write_text(json.dumps(document))
    flags = ["--no-attach", "--state-dir", str(tmp_path / "state"), "-f", str(path)]
    with Program([sys.executable, "-m", "edge_runtime", "run", *flags]) as program:
        wait_until_all_serve(program, ports)
        for name, port in ports.items():
            assert request(port, "POST", STORE, [{"key": "orders/1", "value": name}]).status == 204
        if shared:
            until(lambda: load(pair.cloud, "orders/1") == "two")
        else:
            until(lambda: load(pair.cloud, "one/orders/1") == "one")
            until(lambda: load(pair.cloud, "two/orders/1") == "two")
        assert request(ports["one"], "POST", "/v1.0/shutdown").status == 204
        key = "orders/1" if shared else "two/orders/1"
        save(pair.cloud, key, "from above")
        until(lambda: request(ports["two"], "GET", f"{STORE}/orders%2F1").json() == "from above")
        assert program.stop() == 0


def test_routes_that_cannot_be_are_left_out_and_said(pair: Pair, tmp_path: Path) -> None:
    routes = (
        "{state: [{store: statestore, keys: 'a/*', poll: 300ms}, {store: statestore, keys: a/1},"
        " {store: missing, keys: b}, {store: volatile, keys: c}, {store: sealed, keys: d}]}"
    )
    key: dict[str, Any] = {"primaryEncryptionKey": {"secretKeyRef": {"name": "key", "key": "key"}}}
    documents = [
        component("statestore", "state.sqlite", {"connectionString": str(tmp_path / "state.db")}),
        component("volatile", "state.in-memory"),
        component("secretstore", "secretstores.local.env", {"prefix": "EDGE_SECRET_"}),
        component(
            "sealed",
            "state.sqlite",
            {"connectionString": str(tmp_path / "sealed.db"), **key},
            auth={"secretStore": "secretstore"},
        ),
        broker(),
    ]
    write(tmp_path / "resources", "components.yaml", *documents)
    with edge_of(pair, tmp_path, routes, environment={"EDGE_SECRET_key": "ab" * 32}) as edge:
        assert "routes.state[1] (statestore, a/1): left out, as its keys overlap with those of app edge" in edge.said
        assert "routes.state[2] (missing, b): left out: this app has no state store 'missing'" in edge.said
        assert "routes.state[3] (volatile, c): left out: 'volatile' is a state.in-memory" in edge.said
        assert "routes.state[4] (sealed, d): left out: the values of 'sealed' are encrypted" in edge.said
        save(edge, "a/1", 1)
        until(lambda: load(pair.cloud, "a/1") == 1)


def test_only_documented_calls_cross(pair: Pair, tmp_path: Path) -> None:
    more = "conflict: last-writer, changeTopic: {pubsub: pubsub, topic: changes}"
    with edge_of(pair, tmp_path, route(more)) as edge:
        save(edge, "orders/1", 1)
        until(lambda: load(pair.cloud, "orders/1") == 1)
        remove(edge, "orders/1")
        until(lambda: load(pair.cloud, "orders/1") is None)
        until(lambda: SUBSCRIBE in pair.grpc_line.rpcs())
        assert edge.stop() == 0
    calls = {f"{RPC}{name}" for name in ("GetBulkState", "SaveState", "DeleteState")}
    assert set(pair.grpc_line.rpcs()) == {SUBSCRIBE, *calls}
    assert set(pair.line.requests()) == {"GET /v1.0/healthz/outbound"}


def test_without_grpc_only_documented_requests_cross(pair: Pair, tmp_path: Path) -> None:
    with edge_of(pair, tmp_path, route("conflict: last-writer"), grpc=False) as edge:
        save(edge, "orders/1", 1)
        until(lambda: load(pair.cloud, "orders/1") == 1)
        remove(edge, "orders/1")
        until(lambda: load(pair.cloud, "orders/1") is None)
        assert edge.stop() == 0
    assert pair.grpc_line.rpcs() == []
    assert set(pair.line.requests()) == {
        "GET /v1.0/healthz/outbound",
        "POST /v1.0/state/statestore",
        "POST /v1.0/state/statestore/bulk",
        "DELETE /v1.0/state/statestore/orders%2F1?concurrency=first-write",
    }
