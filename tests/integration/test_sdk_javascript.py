"""Apps with the official JavaScript SDK over HTTP, against the real process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.drivers import Driver, component, javascript
from tests.support.sidecar import Sidecar, free_port

pytestmark = pytest.mark.slow


class Pair(NamedTuple):
    sidecar: Sidecar
    app: Driver


def test_state_is_what_the_client_expects(tmp_path: Path) -> None:
    with Sidecar(tmp_path) as sidecar:
        with javascript("state.mjs", sidecar.port) as client:
            said = client.results()
        lives = [
            "metadata.ttlexpiretime" in sidecar.http("GET", f"/v1.0/state/statestore/{key}").headers
            for key in ("short", "brief", "t2", "t1")
        ]
    assert lives == [True, True, True, False]
    refused = {name: (value.pop("status"), value["error_msg"]) for name, value in said.items() if _is_error(value)}
    assert {name: (status, body["errorCode"]) for name, (status, body) in refused.items()} == {
        "etag.stale": (409, "ERR_STATE_SAVE"),
        "etag.delete.stale": (409, "ERR_STATE_DELETE"),
        "first.again": (409, "ERR_STATE_SAVE"),
        "transaction.stale": (500, "ERR_STATE_TRANSACTION"),
        "transaction.wrong": (400, "ERR_NOT_SUPPORTED_STATE_OPERATION"),
        "query.wrong": (500, "ERR_STATE_QUERY"),
        "store.unknown.get": (400, "ERR_STATE_STORE_NOT_FOUND"),
        "store.unknown.save": (400, "ERR_STATE_STORE_NOT_FOUND"),
        "store.unknown.query": (400, "ERR_STATE_STORE_NOT_FOUND"),
        "key.missing": (400, "ERR_MALFORMED_REQUEST"),
        "key.illegal": (400, "ERR_MALFORMED_REQUEST"),
    }
    assert said["etag.stale"]["error"] == "Conflict", "the SDK shows the reason phrase"
    assert refused["store.unknown.get"][1]["details"][0]["reason"] == "DAPR_STATE_NOT_FOUND"
    assert {name: value for name, value in said.items() if not _is_error(value)} == {
        "saved": "saved",
        "same": True,
        "absent": "",
        "strong": 42,
        "bulk": [
            {"key": "number", "data": 42, "etag": "string"},
            {"key": "string", "data": "plain", "etag": "string"},
            {"key": "absent", "etag": "undefined"},
        ],
        "etag.right": "saved",
        "etag.kept": 43,
        "etag.delete.right": "saved",
        "etag.gone": "",
        "first.new": "saved",
        "delete": "saved",
        "delete.absent": "saved",
        "ttl.item": "saved",
        "ttl.call": "saved",
        "transaction": [{"n": 1}, "two", ""],
        "transaction.undone": {"n": 1},
        "query": [["person-3", "Dan"], ["person-1", "Ben"]],
        "query.pages": [["person-0", "person-1"], ["person-2"]],
        "query.none": {"results": []},
        "connections": 1,
        "many": True,
    }


def _is_error(value: Any) -> bool:
    return isinstance(value, dict) and "error_msg" in value


def test_the_other_calls_of_the_client(tmp_path: Path) -> None:
    resources = tmp_path / "resources"
    resources.mkdir()
    secrets = tmp_path / "secrets.json"
    secrets.write_text(json.dumps({"password": "pa$$", "db": {"user": "ann"}}))
    (resources / "s.yaml").write_text(component("secrets", "secretstores.local.file", secretsFile=str(secrets)))
    (resources / "t.yaml").write_text(component("statestore", "state.in-memory"))
    with Sidecar(
        tmp_path, "--resources-path", str(resources), environment={"DAPR_API_TOKEN": "right"}, app_id="js"
    ) as sidecar:
        with javascript("face.mjs", sidecar.port, DAPR_API_TOKEN="right") as client:
            said = client.results()
        assert sidecar.wait() == 0, "the client asked for its end"
    assert said["fresh"] is False
    assert said["initialized"] is True
    assert said["healthy"] is True
    assert said["metadata"]["id"] == "js"
    assert said["metadata"]["components"] == ["secrets", "statestore"]
    assert said["metadata"]["extended"]["daprRuntimeVersion"] == said["metadata"]["runtimeVersion"]
    assert said["metadata.kept"] == "a word"
    assert said["secret"] == {"password": "pa$$"}
    assert said["secret.nested"] == {"db:user": "ann"}
    assert said["secret.bulk"] == {"password": {"password": "pa$$"}, "db:user": {"db:user": "ann"}}
    assert said.pop("token.wrong") == {"error": "Unauthorized", "error_msg": "invalid api token\n", "status": 401}
    assert {name: _refusal(value) for name, value in said.items() if _is_error(value)} == {
        "secret.absent": (500, "ERR_SECRET_GET"),
        "secret.store": (401, "ERR_SECRET_STORE_NOT_FOUND"),
        "binding": (500, "ERR_INVOKE_OUTPUT_BINDING"),
        "lock": (500, "ERR_LOCK_STORE_NOT_CONFIGURED"),
        "unlock": (500, "ERR_LOCK_STORE_NOT_CONFIGURED"),
        "workflow": (400, "ERR_ACTOR_NO_PLACEMENT"),
    }
    assert said["shut"] is True


def _refusal(value: Any) -> tuple[int, str]:
    return value["status"], value["error_msg"]["errorCode"]


def test_a_client_waits_for_its_sidecar(tmp_path: Path) -> None:
    port = free_port()
    with javascript("waiting.mjs", port) as client:
        client.wait_line("Awaiting Sidecar to be Started")
        with Sidecar(tmp_path, port=port):
            assert client.results()["waited"] is True


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """A DaprServer that started before its sidecar, and one that asks for a token on the way to the app."""
    directory = tmp_path_factory.mktemp("pair")
    (directory / "pubsub.yaml").write_text(component("pubsub", "pubsub.sqlite", redeliverInterval="20ms"))
    port, app_port = free_port(), free_port()
    with javascript("server.mjs", port, APP_PORT=str(app_port)) as app:
        app.wait_said("starting")
        flags = ("--resources-path", str(directory))
        environment = {"APP_API_TOKEN": "for the app"}
        with Sidecar(directory, *flags, app_id="js", app_port=app_port, port=port, environment=environment) as sidecar:
            app.wait_said("started")
            yield Pair(sidecar, app)
            assert app.stop() == 0
            assert sidecar.stop() == 0


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
    with javascript("publish.mjs", pair.sidecar.port) as client:
        said = client.results()
    assert {name: _refusal(value) for name, value in said.items() if _is_error(value)} == {
        "pubsub.unknown": (404, "ERR_PUBSUB_NOT_FOUND"),
        "raw.wrong": (400, "ERR_PUBSUB_REQUEST_METADATA"),
        "event.wrong": (500, "ERR_PUBSUB_CLOUD_EVENTS_SER"),
    }
    assert said["bulk.unknown"][0]["event"] == "lost"
    assert _refusal(said["bulk.unknown"][0]["error"]) == (404, "ERR_PUBSUB_NOT_FOUND")
    assert [_refusal(item["error"]) for item in said["bulk.twins"]] == [(400, "ERR_PUBSUB_EVENTS_SER")] * 2
    assert [said["bulk"], said["bulk entries"], said["bulk subscribed"]] == [[], [], []]
    plain = [
        {"text": "grüße <&> 🌍", "n": [1, 2.5, None]},
        *("a string", "42", "some bytes", {"packed": True}, [1, "two"], "<a/>", '{"kept":"as text"}'),
        *({"made": True}, {"ttl": True}, "one", {"two": 2}, {"made": True}, {"three": 3}, "four"),
    ]
    expected = {
        "deep": [{"deep": True}],
        "named": [{"named": True}],
        "raw": [{"raw": True}, "raw text"],
        "ruled/widgets": [{"size": 1}],
        "ruled/large": [{"size": 11}],
        "ruled/other": [{"size": 2}],
        "bulk": [{"n": n} for n in range(1, 6)],
    }
    came = pair.app.gather({"plain": len(plain) + 1, **{name: len(values) for name, values in expected.items()}})
    # An event without data is handed to the callback whole.
    (whole,) = [value for value in came["plain"] if isinstance(value, dict) and "specversion" in value]
    assert whole["topic"] == "plain"
    assert _sorted([value for value in came["plain"] if value is not whole]) == _sorted(plain)
    assert {name: _sorted(came[name]) for name in expected} == {n: _sorted(v) for n, v in expected.items()}


def _sorted(values: list[Any]) -> list[Any]:
    return sorted(values, key=json.dumps)


def test_an_answer_decides_what_becomes_of_an_event(pair: Pair) -> None:
    for id, answers in (("a", ["RETRY", "RETRY"]), ("b", ["DROP"]), ("c", ["throw"]), ("d", [])):
        pair.sidecar.http("POST", "/v1.0/publish/pubsub/answers", {"id": id, "answers": answers})
    came = pair.app.gather({"answers": 6})["answers"]
    tries = [(item["id"], item["answer"]) for item in came]
    assert sorted(tries) == [*[("a", "RETRY")] * 2, ("a", "SUCCESS"), ("b", "DROP"), ("c", "throw"), ("d", "SUCCESS")]


def test_dead_letters_go_to_their_topic(pair: Pair) -> None:
    for answer in ("ok", "drop", "retry"):
        pair.sidecar.http("POST", "/v1.0/publish/pubsub/doomed", {"answer": answer})
    came = pair.app.gather({"doomed": 3, "dead": 2})
    assert sorted(came["doomed"]) == ["drop", "ok", "retry"]
    assert _sorted(came["dead"]) == [{"answer": "drop"}, {"answer": "retry"}]


def test_bulk_entries_are_answered_one_by_one(pair: Pair) -> None:
    events = [{"id": 1, "answer": "SUCCESS"}, {"id": 2, "answer": "RETRY"}, {"id": 3, "answer": "DROP"}]
    entries = [{"entryId": str(n), "event": event, "contentType": "application/json"} for n, event in enumerate(events)]
    assert pair.sidecar.http("POST", "/v1.0/publish/bulk/pubsub/bulk-answers", entries).status == 204
    came = pair.app.gather({"bulk-answers": 4})["bulk-answers"]
    assert sorted((item["id"], item["n"]) for item in came) == [(1, 1), (2, 1), (2, 2), (3, 1)]


def test_the_invoker_reaches_the_listener(pair: Pair) -> None:
    with javascript("invoke.mjs", pair.sidecar.port, TARGET="js") as client:
        said = client.results()
    for verb in ("GET", "DELETE", "POST", "PUT", "PATCH"):
        echo = said[verb]
        assert echo["verb"] == verb
        assert echo["query"] == "/echo?a=1&b=two%20words"
        assert echo["extra"] == verb
        assert echo["agent"].startswith("dapr-sdk-js/")
        assert echo["token"] == "for the app"
        assert echo["caller"] == "js"
        if verb != "GET":
            assert (echo["sent"], echo["type"]) == ({"verb": verb, "text": "grüße"}, "application/json")
    assert said["default"]["verb"] == "GET"
    assert (said["deep"]["verb"], said["deep"]["sent"]) == ("PUT", [1, 2])
    assert (said["string"]["sent"], said["string"]["type"]) == ("a string", "text/plain")
    assert said["typed"]["sent"] == {"a": 1}
    assert said["long"] is True
    assert said["nothing"] == {"closed": True}
    assert said["text"] == {"value": "just text"}
    assert said["created"] == {"value": {"code": "201"}}
    for status in (400, 404, 418, 500, 503):
        error = said[f"status {status}"]
        assert (error["status"], error["error_msg"]) == (status, {"code": str(status)})
    assert said["absent"] == 404
    assert _refusal(said["unknown app"]) == (500, "ERR_DIRECT_INVOKE")
    assert said["many"] is True
