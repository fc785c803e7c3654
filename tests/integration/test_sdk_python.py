"""Apps with the official Python SDK over HTTP, against the real process."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.drivers import Driver, component, python
from tests.support.sidecar import READY, SERVING, Sidecar, free_port

pytestmark = pytest.mark.slow

RULED = {
    "apiVersion": "dapr.io/v2alpha1",
    "kind": "Subscription",
    "metadata": {"name": "ruled"},
    "spec": {
        "pubsubname": "pubsub",
        "topic": "ruled",
        "routes": {
            "rules": [{"match": 'event.type == "shop.widget"', "path": "/ruled/widgets"}],
            "default": "/ruled/other",
        },
    },
}


class Pair(NamedTuple):
    sidecar: Sidecar
    app: Driver

    def publish(self, topic: str, data: Any, content_type: str = "application/json", query: str = "") -> None:
        body = data if isinstance(data, bytes) else json.dumps(data).encode()
        path = f"/v1.0/publish/pubsub/{topic}{query}"
        assert self.sidecar.http("POST", path, body, {"content-type": content_type}).status == 204


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """An app with FastAPI that hosts an actor type too, beside a sidecar that asks for a token."""
    directory = tmp_path_factory.mktemp("pair")
    (directory / "pubsub.yaml").write_text(component("pubsub", "pubsub.sqlite", redeliverInterval="20ms"))
    (directory / "ruled.yaml").write_text(json.dumps(RULED))
    port, app_port = free_port(), free_port()
    with python("app.py", port, APP_PORT=str(app_port)) as app:
        flags = ("--resources-path", str(directory))
        environment = {"APP_API_TOKEN": "for the app"}
        with Sidecar(directory, *flags, app_id="py", app_port=app_port, port=port, environment=environment) as sidecar:
            yield Pair(sidecar, app)
            assert sidecar.stop() == 0
            app.stop()


def test_subscriptions_of_an_app_are_seen(pair: Pair) -> None:
    said = {item["topic"]: item for item in pair.sidecar.http("GET", "/v1.0/metadata").json()["subscriptions"]}
    assert said["events"]["rules"] == [{"path": "/events/pubsub/events"}]
    assert said["typed"]["rules"] == [{"path": "/typed-orders"}]
    assert said["raw"]["metadata"] == {"rawPayload": "true"}
    assert said["doomed"]["deadLetterTopic"] == "dead"
    assert said["events"]["type"] == "PROGRAMMATIC"
    assert said["ruled"]["type"] == "DECLARATIVE"


def test_an_app_gets_whole_events(pair: Pair) -> None:
    event = {"id": "e1", "source": "shop", "type": "shop.made", "specversion": "1.0", "data": [1]}
    for data, content_type in (
        ({"n": 2**60 + 1, "t": "grüße <&> 🌍"}, "application/json"),
        (b"some text", "text/plain"),
        (b"\x00\xff", "application/octet-stream"),
        (event, "application/cloudevents+json"),
    ):
        pair.publish("events", data, content_type)
    came = pair.app.gather({"events": 4})["events"]
    assert all(item["topic"] == "events" and item["pubsubname"] == "pubsub" for item in came)
    assert all(item["specversion"] == "1.0" and item["id"] for item in came)
    by_type = {item.get("datacontenttype"): item for item in came}
    assert by_type["application/json"]["data"] == {"n": 2**60 + 1, "t": "grüße <&> 🌍"}
    assert by_type["application/json"]["source"] == "py"
    assert by_type["text/plain"]["data"] == "some text"
    assert base64.b64decode(by_type["application/octet-stream"]["data_base64"]) == b"\x00\xff"
    assert {key: by_type[None][key] for key in event} == event


def test_events_fit_a_model(pair: Pair) -> None:
    pair.publish("typed", {"id": 7, "dish": "soup"})
    assert pair.app.wait_said("typed") == {"id": 7, "dish": "soup"}


def test_raw_events_come_in_an_envelope(pair: Pair) -> None:
    pair.publish("raw", b'{"raw": 1}', query="?metadata.rawPayload=true")
    came = pair.app.wait_said("raw")
    assert came["type"] == "application/cloudevents+json"
    assert came["event"]["datacontenttype"] == "application/octet-stream"
    assert base64.b64decode(came["event"]["data_base64"]) == b'{"raw": 1}'


def test_dead_letters_keep_their_topic(pair: Pair) -> None:
    """`DROP`, `RETRY`, a word that is no status, refusals and an app's own failure all end there; success does not."""
    answers = ["SUCCESS", "DROP", "RETRY", "PERHAPS", "500", "404", "raise"]
    for answer in answers:
        pair.publish("doomed", answer)
    came = pair.app.gather({"doomed": len(answers), "dead": len(answers) - 1})
    assert sorted(came["doomed"]) == sorted(answers)
    assert sorted(came["dead"]) == sorted([answer, "doomed"] for answer in answers if answer != "SUCCESS")


def test_a_refused_event_comes_again(pair: Pair) -> None:
    pair.publish("again", ["RETRY", "500", "429", "SUCCESS"])
    assert pair.app.gather({"again": 4})["again"] == ["RETRY", "500", "429", "SUCCESS"]


def test_declared_rules_choose_the_route(pair: Pair) -> None:
    pair.publish("ruled", {"n": 1}, query="?metadata.cloudevent.type=shop.widget")
    pair.publish("ruled", {"n": 2})
    came = pair.app.gather({"ruled": 2})["ruled"]
    assert sorted(came) == [["other", {"n": 2}], ["widgets", {"n": 1}]]


@pytest.fixture(scope="module")
def said(pair: Pair) -> dict[str, Any]:
    """What a client saw that called everything the app has."""
    with python("client.py", pair.sidecar.port, TARGET="py") as client:
        return client.results()


def test_the_client_invokes_an_app(said: dict[str, Any]) -> None:
    assert said["retries"] == 0, "every refusal below is one call"
    get = said["get"]
    assert (get["verb"], get["rest"], get["body"]) == ("GET", "me", "")
    assert get["query"] == [["a", "1"], ["a", "two words"], ["ü", "&=/"]]
    headers = get["headers"]
    assert headers["user-agent"].startswith("dapr-sdk-python/")
    assert headers["x-from-callback"] == "yes"
    assert headers["content-type"] == "application/json; charset=utf-8", "the SDK's own when none is given"
    assert headers["dapr-api-token"] == "for the app"
    assert headers["dapr-caller-app-id"] == headers["dapr-callee-app-id"] == "py"
    assert said["default"]["verb"] == "GET"
    posted = said["json"]
    assert (posted["verb"], posted["rest"], json.loads(posted["body"])) == ("POST", "a/b", {"n": 1})
    assert (posted["headers"]["x-note"], posted["headers"]["accept-language"]) == ("noted", "de")
    assert said["text"]["body"].encode("latin-1").decode() == "grüße"
    assert said["text"]["headers"]["content-type"] == "text/plain; charset=utf-8"
    assert said["bytes"]["body"].encode("latin-1") == bytes(range(256))
    assert said["bytes"]["headers"]["content-type"] == "application/octet-stream"
    assert said["message"]["body"] == "\n\x06packed"
    assert (said["delete"]["verb"], said["delete"]["rest"]) == ("DELETE", "x y")
    assert said["answer"] == [200, "application/octet-stream", True, True]
    assert said["created"] == 201
    assert said["async"] is True


def test_the_client_sees_refusals(said: dict[str, Any]) -> None:
    for status in (400, 404, 500, 503):
        assert said[f"status {status}"] == {"status": status, "code": "ERR_OWN", "message": "my own"}
    assert said["absent"]["status"] == 404
    assert (said["unknown app"]["status"], said["unknown app"]["code"]) == (500, "ERR_DIRECT_INVOKE")
    assert said["actor"] == [400, "ERR_ACTOR_NO_PLACEMENT"]


def test_a_client_starts_before_its_app(tmp_path: Path) -> None:
    """An app that makes its client first waits for outbound health, before it listens itself."""
    app_port = free_port()
    token = {"DAPR_API_TOKEN": "right"}
    with Sidecar(tmp_path, app_id="py", app_port=app_port, ready=SERVING, environment=token) as sidecar:
        assert sidecar.http("GET", "/v1.0/healthz").status == 500
        with python("early.py", sidecar.port, APP_PORT=str(app_port), **token) as app:
            app.wait_said("client is ready")
            sidecar.wait_line(READY)
            path = "/v1.0/invoke/py/method/self"
            assert sidecar.http("GET", path).status == 401
            assert sidecar.http("GET", path, headers={"dapr-api-token": "right"}).json() == {"asked": "myself"}


def test_a_client_with_a_wrong_token_is_refused(tmp_path: Path) -> None:
    with Sidecar(tmp_path, app_id="py", environment={"DAPR_API_TOKEN": "right"}) as sidecar:
        with python("refused.py", sidecar.port, DAPR_API_TOKEN="wrong") as client:
            assert client.results() == {"refused": [401, "invalid api token\n"]}
