"""What a sidecar and its app say to each other before anything is delivered."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support.app import App, Received
from tests.support.resources import broker, component, resources_flags, routed, subscription, write
from tests.support.sidecar import READY, SERVING, Sidecar, free_port

pytestmark = pytest.mark.slow


def empty(_: Received) -> tuple[int, Any]:
    return 200, b""


def subscriptions(sidecar: Sidecar) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = sidecar.http("GET", "/v1.0/metadata").json()["subscriptions"]
    return found


def test_the_api_is_served_before_the_app(tmp_path: Path) -> None:
    port = free_port()
    flags = ("--enable-api-logging=false",)
    environment = {"APP_API_TOKEN": "for the app"}
    with Sidecar(tmp_path, *flags, app_port=port, ready=SERVING, environment=environment) as sidecar:
        sidecar.wait_line(f"waiting on port {port}")
        answer = sidecar.http("GET", "/v1.0/healthz")
        assert (answer.status, answer.json()["errorCode"]) == (500, "ERR_HEALTH_NOT_READY")
        assert answer.json()["message"] == "dapr is not ready: [runtime]"
        assert sidecar.http("GET", "/v1.0/healthz/outbound").status == 204
        assert sidecar.http("POST", "/v1.0/state/statestore", [{"key": "early", "value": 1}]).status == 204
        assert sidecar.http("POST", "/v1.0/publish/pubsub/early", {"n": 1}).status == 204
        listed = [{"pubsubname": "pubsub", "topic": "early", "route": "in"}]
        with App({"/dapr/subscribe": lambda _: (200, listed), "/in": empty}, port) as app:
            sidecar.wait_line(f"application discovered on port {port}")
            sidecar.wait_line(READY)
            assert sidecar.http("GET", "/v1.0/healthz").status == 204
            wrong = sidecar.http("GET", "/v1.0/healthz?appid=other")
            assert (wrong.status, wrong.json()["errorCode"]) == (500, "ERR_HEALTH_APPID_NOT_MATCH")
            assert sidecar.http("GET", "/v1.0/healthz?appid=app").status == 204
            asked = [app.asked.get_nowait(), app.asked.get_nowait()]
            assert [(item.method, item.path) for item in asked] == [("GET", "/dapr/config"), ("GET", "/dapr/subscribe")]
            for item in asked:
                assert item.headers["content-type"] == "application/json"
                assert item.headers["dapr-app-id"] == "app"
                assert item.headers["dapr-api-token"] == "for the app"
            assert app.asked.empty()
            event = app.next()
            assert (event.path, event.json()["data"]) == ("/in", {"n": 1})
            assert event.headers["dapr-api-token"] == "for the app"
            assert sidecar.stop() == 0


def test_lines_come_in_order(tmp_path: Path) -> None:
    with App({}) as app, Sidecar(tmp_path, app_port=app.port) as sidecar:
        wanted = (
            "Starting Dapr Runtime -- version",
            "Log level set to: info",
            "app id: app",
            "Component loaded: pubsub (pubsub.sqlite/v1)",
            f"HTTP server is running on port {sidecar.port}",
            f"application discovered on port {app.port}",
            READY,
        )
        places = [next(i for i, line in enumerate(sidecar.lines) if text in line) for text in wanted]
        assert places == sorted(places), sidecar.said


def test_init_endpoints_can_be_skipped(tmp_path: Path) -> None:
    resources = write(tmp_path / "r", "a.yaml", broker(), subscription("t", "/in"))
    flags = ("--disable-init-endpoints", "Config, subscribe", *resources_flags(resources))
    with App({"/in": empty}) as app, Sidecar(tmp_path, *flags, app_port=app.port) as sidecar:
        assert app.asked.empty()
        assert sidecar.http("POST", "/v1.0/publish/pubsub/t", b"x", {"content-type": "text/plain"}).status == 204
        assert app.next().json()["data"] == "x"


def test_unknown_init_endpoints_are_fatal(tmp_path: Path) -> None:
    with Sidecar(tmp_path, "--disable-init-endpoints=subscribe,none", ready="") as sidecar:
        assert sidecar.wait() != 0
        assert "--disable-init-endpoints" in sidecar.said


def test_without_a_broker_none_is_asked(tmp_path: Path) -> None:
    resources = write(tmp_path / "r", "a.yaml", component("s", "state.in-memory"))
    with App({}) as app, Sidecar(tmp_path, *resources_flags(resources), app_port=app.port):
        assert app.next_asked("/dapr/config").method == "GET"
        assert app.asked.empty()


V1 = {"pubsubname": "pubsub", "topic": "v1", "route": "v1-path"}
V2 = {
    "pubsubname": "pubsub",
    "topic": "v2",
    "routes": {"rules": [{"match": "event.type == 'a'", "path": "/a"}], "default": "/d"},
}
BOTH = {"pubsubname": "pubsub", "topic": "both", "route": "/r", "routes": {"rules": [{"match": "", "path": "/a"}]}}
FULL = {
    "PubsubName": "pubsub",
    "TOPIC": "full",
    "route": "/f",
    "deadLetterTopic": "dead",
    "metadata": {"rawPayload": "true"},
    "bulkSubscribe": {"enabled": True, "maxMessagesCount": 3, "maxAwaitDurationMs": 5},
}


def test_discovery_answers(tmp_path: Path) -> None:
    """Each reading of the files asks the app again, so one process shows all answers."""
    resources = write(tmp_path / "r", "a.yaml", broker(), subscription("declared", "/in"))
    answer: list[tuple[int, Any]] = [(404, b"")]
    config: list[tuple[int, Any]] = [(500, b"")]
    routes = {"/dapr/subscribe": lambda _: answer[0], "/dapr/config": lambda _: config[0]}
    with App(routes) as app, Sidecar(tmp_path, *resources_flags(resources), app_port=app.port) as sidecar:

        def topics(status: int, body: Any, said: str = "") -> list[str]:
            answer[0] = (status, body)
            sidecar.signal(signal.SIGHUP)
            app.next_asked("/dapr/subscribe")
            if said:
                sidecar.wait_line(said)
            sidecar.wait_line(READY)
            return [item["topic"] for item in subscriptions(sidecar)]

        app.next_asked("/dapr/subscribe")
        assert [item["topic"] for item in subscriptions(sidecar)] == ["declared"]
        assert topics(200, b"") == ["declared"]
        assert topics(200, b"[]") == ["declared"]
        assert topics(200, b"null") == ["declared"]
        assert topics(500, b"oops", "answered 500") == ["declared"]
        assert topics(204, b"", "answered 204") == ["declared"]
        assert topics(200, [V1, V2, BOTH, FULL]) == ["declared", "v1", "v2", "both", "full"]
        rows = {item["topic"]: item for item in subscriptions(sidecar)}
        assert rows["v1"] == {
            "pubsubname": "pubsub",
            "topic": "v1",
            "rules": [{"path": "v1-path"}],
            "deadLetterTopic": "",
            "type": "PROGRAMMATIC",
        }
        assert rows["v2"]["rules"] == [{"match": "event.type == 'a'", "path": "/a"}, {"path": "/d"}]
        assert rows["both"]["rules"] == [{"path": "/a"}, {"path": "/r"}]
        assert (rows["full"]["deadLetterTopic"], rows["full"]["metadata"]) == ("dead", {"rawPayload": "true"})
        assert rows["declared"]["type"] == "DECLARATIVE"
        assert topics(200, [{"pubsubname": "pubsub", "topic": "pathless"}], "without a route") == ["declared"]
        # Config that cannot be used is no config; actors are named, not served yet.
        config[0] = (200, b"{bad")
        assert topics(404, b"", "/dapr/config") == ["declared"]
        config[0] = (200, {"entities": ["Cat"], "actorIdleTimeout": "1h"})
        assert topics(404, b"", "Cat") == ["declared"]
        assert sidecar.stop() == 0


@pytest.mark.parametrize(
    "body",
    [
        b"{not json",
        json.dumps(
            [{"pubsubname": "pubsub", "topic": "t", "routes": {"rules": [{"match": "event.(", "path": "/x"}]}}]
        ).encode(),
    ],
)
def test_a_bad_answer_stops_all_subscriptions(tmp_path: Path, body: bytes) -> None:
    resources = write(tmp_path / "r", "a.yaml", broker(), subscription("declared", "/in"))
    routes = {"/dapr/subscribe": lambda _: (200, body), "/in": empty, "/direct": empty}
    with App(routes) as app, Sidecar(tmp_path, *resources_flags(resources), app_port=app.port) as sidecar:
        assert "no subscription of app app starts" in sidecar.said
        assert sidecar.http("POST", "/v1.0/publish/pubsub/declared", {}).status == 204
        assert sidecar.http("GET", "/v1.0/invoke/app/method/direct").status == 200
        assert app.next().path == "/direct"
        assert sidecar.stop() == 0
        assert app.received.empty()


def test_precedence_of_subscriptions(tmp_path: Path) -> None:
    first = subscription("a", "/first", name="first")
    second = subscription("a", "/second", name="second")
    replaced = subscription("b", "/declared")
    foreign = subscription("c", "/foreign", scopes=["other"])
    resources = write(tmp_path / "r", "a.yaml", broker(), first, second, replaced, foreign)
    listed = [{"pubsubname": "pubsub", "topic": "b", "route": route} for route in ("/one", "/two")]
    routes = {"/dapr/subscribe": lambda _: (200, listed), "/first": empty, "/two": empty}
    with App(routes) as app, Sidecar(tmp_path, *resources_flags(resources), app_port=app.port) as sidecar:
        found = {item["topic"]: (item["rules"][0]["path"], item["type"]) for item in subscriptions(sidecar)}
        assert found == {"a": ("/first", "DECLARATIVE"), "b": ("/two", "PROGRAMMATIC")}
        for topic in "ab":
            assert sidecar.http("POST", f"/v1.0/publish/pubsub/{topic}", {}).status == 204
        assert {app.next().path, app.next().path} == {"/first", "/two"}


def test_rules_decide_the_path(tmp_path: Path) -> None:
    rules = [
        {"match": 'event.type == "vip"', "path": "/vip"},
        {"match": "event.data.n > 10", "path": "/many"},
        {"match": 'has(event.data.list) && "x" in event.data.list', "path": "/in"},
    ]
    documents = (routed("r", {"rules": rules, "default": "/rest"}), routed("strict", {"rules": rules[1:2]}))
    resources = write(tmp_path / "r", "a.yaml", broker(), *documents)
    routes = dict.fromkeys(("/vip", "/many", "/in", "/rest"), empty)
    with App(routes) as app, Sidecar(tmp_path, *resources_flags(resources), app_port=app.port) as sidecar:

        def path(topic: str, data: Any, query: str = "") -> str:
            assert sidecar.http("POST", f"/v1.0/publish/pubsub/{topic}{query}", data).status == 204
            return app.next().path

        assert path("r", {"n": 1}, "?metadata.cloudevent.type=vip") == "/vip"
        assert path("r", {"n": 11}) == "/many"
        assert path("r", {"n": 1, "list": ["x"]}) == "/in"
        assert path("r", {"n": 1}) == "/rest"
        # Nothing matches: acknowledged. The next event shows that it is out of the way.
        assert sidecar.http("POST", "/v1.0/publish/pubsub/strict", {"n": 1}).status == 204
        assert path("strict", {"n": 99}) == "/many"
        # The counter of what came in says drop and success.
        assert 'process_status="drop",status="success",topic="strict"} 1' in sidecar.metrics()


def test_scopes_of_a_component_bind_subscribers(tmp_path: Path) -> None:
    scoped = broker(subscriptionScopes="app=allowed", publishingScopes="app=allowed,denied")
    documents = (scoped, subscription("allowed", "/in"), subscription("denied", "/never"))
    resources = write(tmp_path / "r", "a.yaml", *documents)
    with App({"/in": empty}) as app, Sidecar(tmp_path, *resources_flags(resources), app_port=app.port) as sidecar:
        assert "do not allow this app to subscribe to topic denied" in sidecar.said
        assert sidecar.http("POST", "/v1.0/publish/pubsub/denied", {}).status == 204
        assert sidecar.http("POST", "/v1.0/publish/pubsub/other", {}).status == 403
        assert sidecar.http("POST", "/v1.0/publish/pubsub/allowed", {}).status == 204
        assert app.next().path == "/in"
