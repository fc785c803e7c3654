"""Apps with the official JavaScript SDK over gRPC, against the real process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.app import App, Received
from tests.support.drivers import Driver, component, javascript
from tests.support.resources import broker, write
from tests.support.sidecar import Sidecar, free_port

pytestmark = pytest.mark.slow


class Pair(NamedTuple):
    sidecar: Sidecar
    app: Driver

    def publish(self, topic: str, data: Any) -> None:
        assert self.sidecar.http("POST", f"/v1.0/publish/pubsub/{topic}", data).status == 204


def client(script: str, sidecar: Sidecar, **environment: str) -> dict[str, Any]:
    """What the program said."""
    with javascript(script, sidecar.port, DAPR_GRPC_PORT=str(sidecar.grpc_port), **environment) as program:
        return program.results()


def codes(said: dict[str, Any]) -> dict[str, tuple[str, str | None]]:
    """The refusals among what was said: code and reason."""
    return {name: (value["code"], value["reason"]) for name, value in said.items() if _is_refusal(value)}


def _is_refusal(value: Any) -> bool:
    return isinstance(value, dict) and "code" in value


def _sorted(values: list[Any]) -> list[Any]:
    return sorted(values, key=json.dumps)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """A DaprServer that started before its sidecar, with a token on the way to the app."""
    directory = tmp_path_factory.mktemp("pair")
    write(directory / "resources", "pubsub.yaml", broker())
    write(
        directory / "resources",
        "state.yaml",
        component("statestore", "state.sqlite", connectionString=str(directory / "s.db")),
    )
    port, grpc_port, app_port = free_port(), free_port(), free_port()
    with javascript("grpc_server.mjs", port, DAPR_GRPC_PORT=str(grpc_port), APP_PORT=str(app_port)) as app:
        app.wait_said("starting")
        flags = ("--resources-path", str(directory / "resources"), "--app-protocol", "grpc")
        ports = {"app_port": app_port, "port": port, "grpc_port": grpc_port}
        environment = {"APP_API_TOKEN": "for the app"}
        with Sidecar(directory, *flags, "--enable-app-health-check", **ports, environment=environment) as sidecar:
            app.wait_said("started")
            yield Pair(sidecar, app)
            assert sidecar.stop() == 0
            assert app.stop() == 0


def test_state_is_what_the_client_expects(pair: Pair) -> None:
    said = client("grpc_state.mjs", pair.sidecar)
    assert codes(said) == {
        "too.large": ("RESOURCE_EXHAUSTED", None),
        "etag.stale": ("ABORTED", "ERR_STATE_SAVE"),
        "etag.delete.stale": ("ABORTED", "ERR_STATE_DELETE"),
        "first.again": ("ABORTED", "ERR_STATE_SAVE"),
        "transaction.stale": ("INTERNAL", "ERR_STATE_TRANSACTION"),
        "transaction.wrong": ("UNIMPLEMENTED", "ERR_NOT_SUPPORTED_STATE_OPERATION"),
        "query.wrong": ("INTERNAL", "DAPR_STATE_QUERY_FAILED"),
        "store.unknown.get": ("INVALID_ARGUMENT", "DAPR_STATE_NOT_FOUND"),
        "store.unknown.save": ("INVALID_ARGUMENT", "DAPR_STATE_NOT_FOUND"),
        "key.illegal": ("INVALID_ARGUMENT", "DAPR_STATE_ILLEGAL_KEY"),
    }
    assert said["key.illegal"]["kinds"] == ["ResourceInfo", "BadRequest", "ErrorInfo"]
    assert {name: value for name, value in said.items() if not _is_refusal(value)} == {
        "saved": "done",
        "same": True,
        "long": True,
        "absent": "",
        "strong": 42,
        "bulk": {"number": [42, True], "string": ["plain", True], "absent": ["", False]},
        "etag.right": "done",
        "etag.kept": 43,
        "etag.delete.right": "done",
        "etag.gone": "",
        "first.new": "done",
        "delete": "done",
        "delete.absent": "done",
        "ttl": "done",
        "transaction": "done",
        "transaction.kept": ["one", ""],
        "transaction.undone": "one",
        "query": [["Cem", 22], ["Ann", 20]],
        "many": True,
    }
    assert "metadata.ttlexpiretime" in pair.sidecar.http("GET", "/v1.0/state/statestore/short").headers


def test_subscriptions_of_a_server_are_seen(pair: Pair) -> None:
    said = {item["topic"]: item for item in pair.sidecar.http("GET", "/v1.0/metadata").json()["subscriptions"]}
    assert {item["type"] for item in said.values()} == {"PROGRAMMATIC"}
    assert said["plain"]["rules"] == [{"path": "/pubsub--plain--default"}]
    assert [rule["path"] for rule in said["ruled"]["rules"]] == [
        "/pubsub--ruled--widgets",
        "/pubsub--ruled--large",
        "/pubsub--ruled--other",
    ]
    assert said["doomed"]["deadLetterTopic"] == "dead"
    assert said["raw"]["metadata"] == {"rawPayload": "true"}


def test_a_server_gets_what_a_client_publishes(pair: Pair) -> None:
    said = client("grpc_publish.mjs", pair.sidecar)
    assert codes(said) == {
        "pubsub.unknown": ("INVALID_ARGUMENT", "DAPR_PUBSUB_NOT_FOUND"),
        "raw.wrong": ("INVALID_ARGUMENT", "DAPR_PUBSUB_METADATA_DESERIALIZATION"),
    }
    assert said["bulk.unknown"] == [["lost", "DAPR_PUBSUB_NOT_FOUND"]]
    assert said["bulk.twins"] == [["x", "DAPR_PUBSUB_MARSHAL_EVENTS"]] * 2
    assert [said["bulk"], said["bulk entries"], said["bulk subscribed"]] == [[], [], []]
    plain = [
        {"text": "grüße <&> 🌍", "n": [1, 2.5, None]},
        *("a string", "some bytes", [1, "two"], "<a/>", {"made": True}, {"ttl": True}),
        *("one", {"two": 2}, {"three": 3}),
    ]
    expected = {
        "deep": [{"deep": True}],
        "named": [{"named": True}],
        "raw": [{"raw": True}],
        "ruled/widgets": [{"size": 1}],
        "ruled/large": [{"size": 11}],
        "ruled/other": [{"size": 2}],
        "bulk": [{"n": n} for n in range(1, 6)],
    }
    came = pair.app.gather({"plain": len(plain), **{name: len(values) for name, values in expected.items()}})
    assert _sorted([event["data"] for event in came["plain"]]) == _sorted(plain)
    assert {event["headers"]["dapr-api-token"] for event in came["plain"]} == {"for the app"}
    assert {name: _sorted(came[name]) for name in expected} == {n: _sorted(v) for n, v in expected.items()}


def test_an_answer_decides_what_becomes_of_an_event(pair: Pair) -> None:
    for id, answers in (("a", ["RETRY", "RETRY"]), ("b", ["DROP"]), ("c", ["throw"]), ("d", [])):
        pair.publish("answers", {"id": id, "answers": answers})
    came = pair.app.gather({"answers": 6})["answers"]
    tries = [(item["id"], item["answer"]) for item in came]
    assert sorted(tries) == [*[("a", "RETRY")] * 2, ("a", "SUCCESS"), ("b", "DROP"), ("c", "throw"), ("d", "SUCCESS")]


def test_dead_letters_go_to_their_topic(pair: Pair) -> None:
    for answer in ("ok", "drop", "retry"):
        pair.publish("doomed", {"answer": answer})
    came = pair.app.gather({"doomed": 3, "dead": 2})
    assert sorted(came["doomed"]) == ["drop", "ok", "retry"]
    assert _sorted(came["dead"]) == [{"answer": "drop"}, {"answer": "retry"}]


def test_bulk_entries_are_answered_one_by_one(pair: Pair) -> None:
    """Through the older callback: this SDK answers the newer one with HTTP 404."""
    events = [{"id": 1, "answer": "SUCCESS"}, {"id": 2, "answer": "RETRY"}, {"id": 3, "answer": "DROP"}]
    entries = [{"entryId": str(n), "event": event, "contentType": "application/json"} for n, event in enumerate(events)]
    assert pair.sidecar.http("POST", "/v1.0/publish/bulk/pubsub/bulk-answers", entries).status == 204
    came = pair.app.gather({"bulk-answers": 4})["bulk-answers"]
    assert sorted((item["id"], item["n"]) for item in came) == [(1, 1), (2, 1), (2, 2), (3, 1)]


def test_the_invoker_reaches_the_listener(pair: Pair) -> None:
    said = client("grpc_invoke.mjs", pair.sidecar, TARGET="app")
    for verb in ("GET", "DELETE", "POST", "PUT", "PATCH"):
        assert said[verb]["verb"] == verb
        assert json.loads(said[verb]["sent"]) == {"verb": verb, "text": "grüße"}
        assert said[verb]["type"] == "application/json"
    assert (said["deep"]["verb"], said["deep"]["sent"]) == ("PUT", "[1,2]")
    assert (said["string"]["sent"], said["string"]["type"]) == ("a string", "text/plain")
    assert said["long"] is said["many"] is True
    assert said["absent"]["error"] == "COULD_NOT_PARSE_RESULT", "the SDK's server answers what it does not know"
    assert said["unknown app"]["code"] == "INTERNAL"
    over_http = pair.sidecar.http("PUT", "/v1.0/invoke/app/method/echo?a=1", [1])
    assert over_http.json() == {"verb": "put", "sent": "[1]", "query": "a=1", "type": "application/json"} | {
        "verb": "PUT"
    }


def test_the_invoker_reaches_an_http_app(tmp_path: Path) -> None:
    def echo(came: Received) -> tuple[int, Any]:
        return 200, {"verb": came.method, "sent": came.body.decode(), "type": came.headers["content-type"]}

    with App({"/echo": echo, "/deep/er/echo": echo}) as app, Sidecar(tmp_path, app_port=app.port) as sidecar:
        said = client("grpc_invoke.mjs", sidecar, WEB="app")
    for verb in ("GET", "DELETE", "POST", "PUT", "PATCH"):
        assert said[verb]["verb"] == verb
        assert json.loads(said[verb]["sent"]) == {"verb": verb, "text": "grüße"}
    assert said["long"] is said["many"] is True
    assert codes({"absent": said["absent"]}) == {"absent": ("NOT_FOUND", said["absent"]["reason"])}


def test_the_other_calls_of_the_client(tmp_path: Path) -> None:
    secrets = tmp_path / "secrets.json"
    secrets.write_text(json.dumps({"password": "pa$$", "db": {"user": "ann"}}))
    write(tmp_path / "resources", "s.yaml", component("secrets", "secretstores.local.file", secretsFile=str(secrets)))
    flags = ("--resources-path", str(tmp_path / "resources"))
    with Sidecar(tmp_path, *flags, environment={"DAPR_API_TOKEN": "right"}, app_id="js") as sidecar:
        said = client("grpc_face.mjs", sidecar, DAPR_API_TOKEN="right")
        assert sidecar.wait() == 0, "the client asked for its end"
    assert (said["fresh"], said["initialized"], said["healthy"]) == (False, True, True)
    assert said["metadata"]["id"] == "js"
    assert said["metadata"]["components"] == ["secrets"]
    assert "daprRuntimeVersion" in said["metadata"]["extended"]
    assert said["metadata.kept"] == "grüße"
    assert said["secret"] == {"password": "pa$$"}
    assert said["secret.nested"] == {"db:user": "ann"}
    assert said["secret.bulk"] == {"password": {"password": "pa$$"}, "db:user": {"db:user": "ann"}}
    assert said["shut"] is True
    assert codes(said) == {
        "secret.absent": ("INTERNAL", "ERR_SECRET_GET"),
        "secret.store": ("INVALID_ARGUMENT", "ERR_SECRET_STORE_NOT_FOUND"),
        "binding": ("INTERNAL", "ERR_INVOKE_OUTPUT_BINDING"),
        "configuration": ("FAILED_PRECONDITION", "ERR_CONFIGURATION_STORE_NOT_CONFIGURED"),
        "lock": ("FAILED_PRECONDITION", None),
        "unlock": ("FAILED_PRECONDITION", None),
        "encrypt": ("INTERNAL", None),
        "decrypt": ("INTERNAL", None),
        "token.wrong": ("UNAUTHENTICATED", "Unauthorized"),
    }
