"""Apps with the official Python SDK over gRPC, blocking and with asyncio, against the real process."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from edge_runtime.proto.dapr.proto.runtime.v1.dapr_grpc import DaprBase
from tests.integration.cli import Run
from tests.support.app import App, Received, Route
from tests.support.drivers import Driver, component, python
from tests.support.resources import broker, document, routed, subscription, write
from tests.support.sidecar import Sidecar, free_port

pytestmark = pytest.mark.slow
both_clients = pytest.mark.parametrize("kind", ["sync", "aio"])

SECRETS = {"password": "pa$$", "db": {"user": "ann"}, "denied": "hidden"}


class Pair(NamedTuple):
    sidecar: Sidecar
    app: Driver

    def publish(self, topic: str, data: Any, query: str = "") -> None:
        body = json.dumps(data).encode()
        path = f"/v1.0/publish/pubsub/{topic}{query}"
        assert self.sidecar.http("POST", path, body, {"content-type": "application/json"}).status == 204


def client(script: str, sidecar: Sidecar, **environment: str) -> dict[str, Any]:
    """What the program said."""
    ports = {"DAPR_GRPC_PORT": str(sidecar.grpc_port), "DAPR_API_METHOD_INVOCATION_PROTOCOL": "grpc"}
    with python(script, sidecar.port, **{**ports, **environment}) as program:
        return program.results()


def codes(said: dict[str, Any], *parts: str) -> dict[str, tuple[Any, ...]]:
    """The refusals among what was said: the code, and the named parts of the error's details."""
    return {
        name: (value["code"], *(value.get("ErrorInfo", {}).get(part, value.get(part)) for part in parts))
        for name, value in said.items()
        if isinstance(value, dict) and "code" in value
    }


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """An app with `dapr.ext.grpc`, whose health is asked for, beside a sidecar that shows it a token."""
    directory = tmp_path_factory.mktemp("pair")
    ruled = routed("by-rule", {"default": "by-route"}, bulkSubscribe={"enabled": True, "maxAwaitDurationMs": 100})
    traced = document("Configuration", "traced", {"tracing": {"samplingRate": "1"}})
    write(directory, "traced.yaml", traced)
    write(directory / "resources", "all.yaml", broker(), subscription("declared", "events"), ruled)
    write(
        directory / "resources",
        "state.yaml",
        component("statestore", "state.sqlite", connectionString=str(directory / "s.db")),
    )
    app_port = free_port()
    with python("grpc_app.py", 0, APP_PORT=str(app_port)) as app:
        app.wait_said("starting")
        flags = (
            *("--resources-path", str(directory / "resources"), "--config", str(directory / "traced.yaml")),
            *("--app-protocol", "grpc"),
            *("--enable-app-health-check", "--app-health-probe-interval", "1", "--app-health-threshold", "1"),
        )
        environment = {"APP_API_TOKEN": "for the app"}
        with Sidecar(directory, *flags, app_id="py", app_port=app_port, environment=environment) as sidecar:
            yield Pair(sidecar, app)
            assert sidecar.stop() == 0
            app.stop()


# state


@both_clients
def test_state_is_what_the_client_expects(pair: Pair, kind: str) -> None:
    said = client("grpc_state.py", pair.sidecar, CLIENT=kind)
    assert codes(said, "reason") == {
        "bulk.stale": ("ABORTED", "ERR_STATE_SAVE"),
        "etag.stale": ("ABORTED", "ERR_STATE_SAVE"),
        "etag.wrong": ("ABORTED", "ERR_STATE_SAVE"),
        "etag.delete.stale": ("ABORTED", "ERR_STATE_DELETE"),
        "first.again": ("ABORTED", "ERR_STATE_SAVE"),
        "ttl.wrong": ("INTERNAL", "ERR_STATE_SAVE"),
        "transaction.stale": ("INTERNAL", "ERR_STATE_TRANSACTION"),
        "query.wrong": ("INTERNAL", "DAPR_STATE_QUERY_FAILED"),
        "store.unknown.get": ("INVALID_ARGUMENT", "DAPR_STATE_NOT_FOUND"),
        "store.unknown.bulk": ("INVALID_ARGUMENT", "DAPR_STATE_NOT_FOUND"),
        "store.unknown.save": ("INVALID_ARGUMENT", "DAPR_STATE_NOT_FOUND"),
        "store.unknown.delete": ("INVALID_ARGUMENT", "DAPR_STATE_NOT_FOUND"),
        "store.unknown.transaction": ("INVALID_ARGUMENT", "DAPR_STATE_NOT_FOUND"),
        "store.unknown.query": ("INVALID_ARGUMENT", "DAPR_STATE_NOT_FOUND"),
        "key.illegal": ("INVALID_ARGUMENT", "DAPR_STATE_ILLEGAL_KEY"),
        "key.empty": ("INVALID_ARGUMENT", "ERR_STATE_SAVE"),
        "too.large": ("RESOURCE_EXHAUSTED", None),
    }
    assert said["store.unknown.get"] == {
        "code": "INVALID_ARGUMENT",
        "message": "state store nowhere is not found",
        "error_code": "DAPR_STATE_NOT_FOUND",
        "ErrorInfo": {"reason": "DAPR_STATE_NOT_FOUND", "domain": "dapr.io", "metadata": {"appID": "py"}},
    }
    illegal = said["key.illegal"]
    assert illegal["BadRequest"]["field_violations"][0]["field"] == "a||b"
    assert illegal["ResourceInfo"] == {"resource_type": "state", "resource_name": "statestore"}
    assert {name: value for name, value in said.items() if not isinstance(value, dict)} == {
        "same": [True] * 5,
        "absent": ["", ""],
        "delete": "done",
        "delete.absent": "done",
        "deleted": "",
        "bulk": [["absent", "", False, ""], ["bulk-0", "0", True, ""], ["bulk-1", "1", True, ""]],
        "bulk.count": 21,
        "bulk.absent": [["", ""]],
        "bulk.none": 0,
        "etag.right": "done",
        "etag.empty": "done",
        "etag.kept": "2",
        "etag.delete.right": "done",
        "first.new": "done",
        "transaction": "done",
        "transaction.none": "done",
        "transaction.kept": ["", "one", "two"],
        "query": [["Dan", 19], ["Ann", 30]],
        "query.rest": ["Cem"],
        "large": "done",
        "large.same": 4 * 1024 * 1024 - 100,
        "many": True,
        "ended": None,
    }
    lives = [
        "metadata.ttlexpiretime" in pair.sidecar.http("GET", f"/v1.0/state/statestore/{key}").headers
        for key in ("bulk-2", "t2", "t1")
    ]
    assert lives == [True, True, False]
    for key in ("f", "bulk-0"):
        assert pair.sidecar.http("DELETE", f"/v1.0/state/statestore/{key}").status == 204


# publish and subscribe


def test_subscriptions_of_an_app_are_seen(pair: Pair) -> None:
    said = {item["topic"]: item for item in pair.sidecar.http("GET", "/v1.0/metadata").json()["subscriptions"]}
    assert said["events"]["type"] == "PROGRAMMATIC"
    assert said["raw"]["metadata"] == {"rawPayload": "true"}
    assert said["doomed"]["deadLetterTopic"] == "dead"
    assert [rule["path"] for rule in said["ruled"]["rules"][:2]] == ["ruled_widgets", "ruled_large"]
    assert said["by-rule"]["type"] == "DECLARATIVE"


@both_clients
def test_an_app_gets_what_a_client_publishes(pair: Pair, kind: str) -> None:
    said = client("grpc_publish.py", pair.sidecar, CLIENT=kind)
    assert codes(said, "reason") == {
        "pubsub.unknown": ("INVALID_ARGUMENT", "DAPR_PUBSUB_NOT_FOUND"),
        "pubsub.empty": ("INVALID_ARGUMENT", "DAPR_PUBSUB_NAME_EMPTY"),
        "topic.empty": ("INVALID_ARGUMENT", "DAPR_PUBSUB_TOPIC_NAME_EMPTY"),
        "raw.wrong": ("INVALID_ARGUMENT", "DAPR_PUBSUB_METADATA_DESERIALIZATION"),
        "event.wrong": ("INVALID_ARGUMENT", "DAPR_PUBSUB_CLOUD_EVENT_CREATION"),
        "several.unknown": ("INVALID_ARGUMENT", "DAPR_PUBSUB_NOT_FOUND"),
        "several.twins": ("INVALID_ARGUMENT", "DAPR_PUBSUB_MARSHAL_EVENTS"),
    }
    assert said["pubsub.unknown"]["message"] == "pubsub nowhere is not found"
    resource = said["topic.empty"]["ResourceInfo"]
    assert (resource["resource_type"], resource["resource_name"]) == ("pubsub", "pubsub")
    assert {name: value for name, value in said.items() if not isinstance(value, dict)} == {
        **dict.fromkeys(("json", "text", "untyped", "bytes", "event", "overridden", "raw"), "done"),
        "several": [],
        "ended": None,
    }
    came = pair.app.gather({"events": 6, "raw": 1, "bulk": 3})
    check_events(came["events"])
    assert came["raw"][0]["data"] == '{"raw": 1}'
    assert came["raw"][0]["content_type"] == "application/octet-stream"
    assert sorted(event[1:] for event in came["bulk"]) == [
        ["first", "text/plain"],
        ["second", "text/plain"],
        ['{"n":3}', "application/json"],
    ]


def check_events(events: list[dict[str, Any]]) -> None:
    assert all(event["topic"] == "events" and event["pubsub"] == "pubsub" for event in events)
    assert all(event["version"] == "1.0" and event["id"] for event in events)
    assert {event["metadata"]["dapr-api-token"] for event in events} == {"for the app"}
    assert all("traceparent" in event["metadata"] for event in events)
    by_data = {event["data"].encode("latin-1"): event for event in events}
    numbers = next(data for data in by_data if data.startswith(b'{"n"'))
    assert json.loads(numbers) == {"n": 2**60 + 1, "t": "grüße <&> 🌍"}
    assert by_data[numbers]["content_type"] == "application/json"
    assert by_data[b"some text"]["content_type"] == by_data[b"no type"]["content_type"] == "text/plain"
    assert by_data[b"\x00\xff"]["content_type"] == "application/octet-stream"
    assert by_data[b"no type"]["source"] == "py"
    assert by_data[b"no type"]["type"] == "com.dapr.event.sent"
    assert {"topic", "pubsubname", "time", "traceid", "traceparent"} <= by_data[b"no type"]["extensions"].keys()
    own = by_data[b"[1]"]
    assert (own["id"], own["source"], own["type"]) == ("e1", "shop", "shop.made")
    assert (by_data[b"{}"]["id"], by_data[b"{}"]["type"]) == ("own", "shop.sold")


def test_handlers_without_annotation_get_old_events(pair: Pair) -> None:
    pair.publish("legacy", {"n": 1})
    assert pair.app.wait_said("legacy") == [True, "com.dapr.event.sent", "legacy", '{"n":1}']


def test_a_declared_subscription_leads_to_a_handler(pair: Pair) -> None:
    pair.publish("declared", {"n": 1})
    assert pair.app.wait_said("events")["topic"] == "declared"


def test_dead_letters_keep_their_topic(pair: Pair) -> None:
    answers = ["success", "drop", "retry", "raise"]
    for answer in answers:
        pair.publish("doomed", answer)
    came = pair.app.gather({"doomed": len(answers), "dead": len(answers) - 1})
    assert sorted(came["doomed"]) == sorted(answers)
    assert sorted(came["dead"]) == [["drop", "dead"], ["raise", "dead"], ["retry", "dead"]]


def test_a_refused_event_comes_again(pair: Pair) -> None:
    pair.publish("again", ["retry", "raise", "retry", "success"])
    assert pair.app.gather({"again": 4})["again"] == ["retry", "raise", "retry", "success"]


def test_rules_choose_the_handler(pair: Pair) -> None:
    pair.publish("ruled", {"size": 1}, query="?metadata.cloudevent.type=shop.widget")
    pair.publish("ruled", {"size": 11})
    pair.publish("ruled", {"size": 2})
    came = pair.app.gather({"ruled": 3})["ruled"]
    assert sorted(came) == [["large", {"size": 11}], ["other", {"size": 2}], ["widgets", {"size": 1}]]


def test_bulk_entries_are_answered_one_by_one(pair: Pair) -> None:
    answers = ["success", "retry", "drop"]
    entries = [
        {"entryId": str(n), "event": {"id": n, "answer": answer}, "contentType": "application/json"}
        for n, answer in enumerate(answers)
    ]
    assert pair.sidecar.http("POST", "/v1.0/publish/bulk/pubsub/by-rule", entries).status == 204
    assert sorted(pair.app.gather({"by-route": 4})["by-route"]) == [[0, 1], [1, 1], [1, 2], [2, 1]]


# streaming subscriptions


@both_clients
def test_a_client_subscribes_by_stream(pair: Pair, kind: str) -> None:
    said = client("grpc_stream.py", pair.sidecar, CLIENT=kind)
    assert codes(said, "message") == {
        "refused.unknown": ("INVALID_ARGUMENT", "pubsub nowhere is not found"),
        "refused.no pubsub": ("UNKNOWN", "pubsubName is required"),
        "refused.no topic": ("UNKNOWN", "topic is required"),
    }
    whole = said.pop("whole")
    assert {"topic", "pubsubname", "time", "traceid"} <= set(whole.pop("extensions"))
    assert whole == {
        "id": True,
        "source": "py",
        "type": "com.dapr.event.sent",
        "version": "1.0",
        "content_type": "application/json",
        "topic": "whole",
        "pubsub": "pubsub",
        "data": {"n": 1},
    }
    assert {name: value for name, value in said.items() if not isinstance(value, dict)} == {
        "retry": [True, "again"],
        "flying": [0, 1, 2],
        "dead": ["dropped", "dead"],
        "left": True,
        "raw": ["application/octet-stream", '{"raw": 1}'],
        "handled": ["a", "a", "b", "b"],
        "ended": None,
    }


@both_clients
def test_a_stream_comes_back_with_its_sidecar(tmp_path: Path, kind: str) -> None:
    """A graceful stop and a kill, with one subscription over both. After the kill an event may come once more."""
    port, grpc_port = free_port(), free_port()
    ports = {"port": port, "grpc_port": grpc_port}
    write(tmp_path / "resources", "pubsub.yaml", broker())

    def sidecar() -> Sidecar:
        return Sidecar(tmp_path, "--resources-path", str(tmp_path / "resources"), app_id="py", **ports)

    def publish(running: Sidecar, data: str) -> None:
        assert running.http("POST", "/v1.0/publish/pubsub/lasting", data).status == 204

    with sidecar() as first:
        program = python("grpc_reconnect.py", port, DAPR_GRPC_PORT=str(grpc_port), CLIENT=kind)
        with program:
            program.wait_said("subscribed")
            publish(first, "one")
            assert program.wait_said("came") == "one"
            assert first.stop() == 0
            with sidecar() as second:
                publish(second, "two")
                assert program.wait_said("came") == "two"
                second.kill()
            with sidecar() as third:
                publish(third, "last")
                assert program.results()["came"] == "last"


# invocation


@both_clients
def test_the_client_invokes_a_grpc_app(pair: Pair, kind: str) -> None:
    said = client("grpc_invoke.py", pair.sidecar, CLIENT=kind, TARGET="py")
    echo = said["echo"]
    assert (echo["type"], echo["value"]["data"]) == ("application/json", "grüße")
    assert echo["value"]["content_type"] == "text/plain; charset=utf-8"
    assert echo["headers"]["x-own"] == ["header"]
    metadata = echo["value"]["metadata"]
    assert metadata["dapr-api-token"] == ["for the app"]
    assert metadata["dapr-caller-app-id"] == metadata["dapr-callee-app-id"] == ["py"]
    assert "traceparent" in metadata
    assert said["echo.metadata"]["value"]["metadata"]["x-note"] == ["noted"]
    assert said["echo.http"]["value"]["data"] == '{"a": 1}'
    assert said["bytes"]["value"].encode("latin-1") == bytes(range(256))
    assert said["packed"] == {"packed": "abab"}
    assert said["nothing"]["value"] == ""
    assert said["deep"]["value"] == "deep"
    assert said["many"] is True
    assert codes(said) == {
        "raise": ("UNKNOWN",),
        "absent": ("UNIMPLEMENTED",),
        "late": ("DEADLINE_EXCEEDED",),
        "unknown": ("INTERNAL",),
    }
    assert said["raise"]["message"] == "Exception calling application: on purpose"
    assert said["unknown"]["message"].startswith("failed to invoke, id: no-such-app, err: ")


def test_an_http_caller_reaches_a_grpc_app(pair: Pair) -> None:
    headers = {"content-type": "text/plain", "x-note": "noted"}
    answer = pair.sidecar.http("POST", "/v1.0/invoke/py/method/echo", b"over http", headers)
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    came = answer.json()
    assert (came["data"], came["content_type"]) == ("over http", "text/plain")
    assert came["metadata"]["x-note"] == ["noted"]
    assert pair.sidecar.http("POST", "/v1.0/invoke/py/method/no-such-method", b"").status == 501
    assert pair.sidecar.http("POST", "/v1.0/invoke/py/method/raise", b"").status == 500


def web() -> App:
    """An HTTP app that answers with what came."""

    def echo(came: Received) -> tuple[int, Any]:
        headers = {name: value for name, value in came.headers.items() if name != "traceparent"}
        return 200, {"verb": came.method, "path": came.path, "body": came.body.decode("latin-1"), "headers": headers}

    def status(came: Received) -> tuple[int, Any]:
        return int(came.path.rpartition("/")[2]), {"own": "body"}

    routes: dict[str, Route] = {"/echo/me": echo, "/echo/a/b": echo}
    routes["/bytes"] = lambda came: (200, bytes(range(256)), {"content-type": "application/octet-stream", "x-own": "a"})
    statuses = (201, 400, 401, 403, 404, 408, 409, 418, 429, 500, 501, 503, 504)
    return App(routes | {f"/status/{code}": status for code in statuses})


@both_clients
def test_the_client_invokes_an_http_app(tmp_path: Path, kind: str) -> None:
    with web() as app, Sidecar(tmp_path, app_id="web", app_port=app.port) as sidecar:
        said = client("grpc_invoke.py", sidecar, CLIENT=kind, WEB="web")
    for verb in ("GET", "POST", "PUT", "DELETE", "PATCH"):
        answer = said[verb]
        assert answer["headers"]["dapr-http-status"] == ["200"]
        assert answer["type"] == "application/json"
        came = answer["value"]
        assert (came["verb"], came["body"]) == (verb, "" if verb == "GET" else verb)
        assert came["path"] == "/echo/me?a=1&a=two+words&%C3%BC=%26%3D%2F"
        assert came["headers"]["dapr-caller-app-id"] == "web"
    assert (said["json"]["value"]["path"], said["json"]["value"]["body"]) == ("/echo/a/b", '{"n": 1}')
    assert said["json"]["value"]["headers"]["content-type"] == "application/json"
    assert said["bytes"]["value"].encode("latin-1") == bytes(range(256))
    assert said["bytes"]["headers"]["x-own"] == ["a"]
    assert said["created"]["headers"]["dapr-http-status"] == ["201"]
    refused = codes(said)
    assert [refused[f"status {code}"][0] for code in (400, 401, 403, 404, 408, 409, 418, 429, 500, 501, 503, 504)] == [
        *("INTERNAL", "UNAUTHENTICATED", "PERMISSION_DENIED", "NOT_FOUND", "CANCELLED", "ALREADY_EXISTS"),
        *("UNKNOWN", "RESOURCE_EXHAUSTED", "UNKNOWN", "UNIMPLEMENTED", "UNAVAILABLE", "DEADLINE_EXCEEDED"),
    ]
    assert said["status 404"]["message"] == "Not Found"
    assert said["status 404"]["ErrorInfo"]["metadata"] == {"http.code": "404", "http.error_message": '{"own": "body"}'}
    assert "missing HTTP extension field" in said["no verb"]["message"]
    assert "invalid HTTP verb" in said["connect"]["message"]


# proxy


def test_a_service_of_ones_own_is_reached(pair: Pair) -> None:
    said = client("grpc_proxy.py", pair.sidecar, TARGET="py")
    assert pair.app.gather({"gone": 2})["gone"] == ["cancelled", "late"], "the app hears when a caller gives up"
    said["metadata"].remove(["dapr-api-token", "for the app"])
    assert said["traced"] is True
    check_proxied(said, caller="py")


def check_proxied(said: dict[str, Any], caller: str) -> None:
    for name in ("several", "joined", "each", "long", "packed", "metadata.long", "deadline"):
        assert said[name] is True, name
    assert (said["one"], said["callee"], said["none"]) == ("grüße", "x", [])
    assert said["parallel"] is said["parallel.streams"] is True
    assert sorted(said["metadata"]) == [
        ["dapr-callee-app-id", "py"],
        ["dapr-caller-app-id", caller],
        *(["x-note", "noted"], ["x-note", "twice"], ["x-note-bin", "00ff"]),
    ]
    assert said["initial"] == [["x-first", "before"], ["x-first-bin", "b'\\x00\\xff'"]]
    assert said["trailing"] == [["x-last", "after"], ["x-last-bin", "b'\\xfe\\x01'"]]
    assert said["fail"] == {
        "code": "OUT_OF_RANGE",
        "message": "nicht möglich: 100 % 🌍",
        "ErrorInfo": {"reason": "OWN_REASON", "domain": "sdk.test", "metadata": {"asked": "this"}},
    }
    assert said["fail.trailing"] == ["after the refusal"]
    assert said["break off"] == {"code": "DATA_LOSS", "message": "no more", "answers": ["1", "2"]}
    assert (said["hanging"], said["cancelled"], said["late"]) == ("hanging", "CANCELLED", "DEADLINE_EXCEEDED")
    untargeted = "failed to proxy request: required metadata dapr-callee-app-id or dapr-app-id not found"
    assert said["untargeted"] == {"code": "UNKNOWN", "message": untargeted}
    assert "no-such-app" in said["unknown app"]["message"]


def test_apps_of_one_node_reach_each_other(tmp_path: Path) -> None:
    """The caller's sidecar and the callee's are one process, as are those of an app that speaks HTTP."""
    app_port = free_port()
    ports = {name: (free_port(), free_port()) for name in ("caller", "py", "web")}
    with web() as web_app, python("grpc_app.py", 0, APP_PORT=str(app_port)) as app:
        app.wait_said("starting")
        own: dict[str, dict[str, Any]] = {
            "py": {"appPort": app_port, "appProtocol": "grpc"},
            "web": {"appPort": web_app.port},
        }
        apps = [
            {"appID": name, "appDirPath": ".", "daprHTTPPort": port, "daprGRPCPort": grpc_port, **own.get(name, {})}
            for name, (port, grpc_port) in ports.items()
        ]
        write(tmp_path, "dapr.yaml", {"version": 1, "common": {"daprdLogDestination": "console"}, "apps": apps})
        with Run(tmp_path, "run", "--no-attach", "-f", "dapr.yaml") as node:
            for _ in ports:
                node.wait_line("dapr initialized. Status: Running")
            environment = {"DAPR_GRPC_PORT": str(ports["caller"][1]), "CLIENT": "sync"}
            with python("grpc_proxy.py", ports["caller"][0], TARGET="py", **environment) as program:
                check_proxied(program.results(), caller="caller")
            invoking = {**environment, "DAPR_API_METHOD_INVOCATION_PROTOCOL": "grpc"}
            with python("grpc_invoke.py", ports["caller"][0], TARGET="py", **invoking) as program:
                metadata = program.results()["echo"]["value"]["metadata"]
            with python("grpc_invoke.py", ports["caller"][0], WEB="web", **invoking) as program:
                headers = program.results()["json"]["value"]["headers"]
            assert metadata["dapr-caller-app-id"] == ["caller"]
            assert headers["dapr-caller-app-id"] == "caller"
            assert node.stop() == 0


# the rest


def test_large_messages_pass_when_allowed(tmp_path: Path) -> None:
    with Sidecar(tmp_path, "--max-body-size", "16Mi") as sidecar:
        said = client("grpc_large.py", sidecar)
    assert said == {"state": True, "stream": True, "refused": "RESOURCE_EXHAUSTED", "ended": None}


@both_clients
def test_the_other_calls_of_the_client(tmp_path: Path, kind: str) -> None:
    (tmp_path / "secrets.json").write_text(json.dumps(SECRETS))
    store = component("secrets", "secretstores.local.file", secretsFile=str(tmp_path / "secrets.json"))
    write(tmp_path / "resources", "s.yaml", store)
    write(tmp_path / "resources", "t.yaml", component("statestore", "state.in-memory"))
    scopes = {"secrets": {"scopes": [{"storeName": "secrets", "deniedSecrets": ["denied"]}]}}
    write(tmp_path, "config.yaml", document("Configuration", "scoped", scopes))
    flags = ("--resources-path", str(tmp_path / "resources"), "--config", str(tmp_path / "config.yaml"))
    with Sidecar(tmp_path, *flags, app_id="py") as sidecar:
        said = client("grpc_face.py", sidecar, CLIENT=kind)
        assert sidecar.wait() == 0, "the client asked for its end"
    assert said["metadata.id"] == "py"
    assert said["metadata.components"] == [
        ["secrets", "secretstores.local.file", "v1"],
        ["statestore", "state.in-memory", "v1"],
    ]
    assert {"ETAG", "TRANSACTIONAL", "TTL"} <= set(said["metadata.capabilities"]["statestore"])
    assert "daprRuntimeVersion" in said["metadata.extended"]
    assert said["metadata.kept"] == "grüße"
    assert said["secret"] == {"password": "pa$$"}
    assert said["secret.nested"] == {"db:user": "ann"}
    assert said["secret.bulk"] == {"password": {"password": "pa$$"}, "db:user": {"db:user": "ann"}}
    assert said["shut"] is True
    assert codes(said, "reason") == {
        "secret.absent": ("INTERNAL", "ERR_SECRET_GET"),
        "secret.denied": ("PERMISSION_DENIED", "ERR_PERMISSION_DENIED"),
        "secret.store": ("INVALID_ARGUMENT", "ERR_SECRET_STORE_NOT_FOUND"),
        "secret.bulk.store": ("INVALID_ARGUMENT", "ERR_SECRET_STORE_NOT_FOUND"),
        "binding": ("INTERNAL", "ERR_INVOKE_OUTPUT_BINDING"),
        "configuration": ("FAILED_PRECONDITION", "ERR_CONFIGURATION_STORE_NOT_CONFIGURED"),
        "configuration.unsubscribe": ("FAILED_PRECONDITION", "ERR_CONFIGURATION_STORE_NOT_CONFIGURED"),
        "lock": ("FAILED_PRECONDITION", None),
        "unlock": ("FAILED_PRECONDITION", None),
        "conversation": ("INVALID_ARGUMENT", None),
        "conversation.1": ("INVALID_ARGUMENT", None),
        "encrypt": ("INTERNAL", None),
        "decrypt": ("INTERNAL", None),
        "job": ("INTERNAL", "DAPR_SCHEDULER_SCHEDULE_JOB"),
        "job.get": ("INTERNAL", "DAPR_SCHEDULER_GET_JOB"),
        "job.delete": ("INTERNAL", "DAPR_SCHEDULER_DELETE_JOB"),
    }


@both_clients
def test_only_the_right_token_opens(tmp_path: Path, kind: str) -> None:
    """The asyncio client has no token in its streams, whatever it is told."""
    with Sidecar(tmp_path, environment={"DAPR_API_TOKEN": "right"}) as sidecar:
        said = client("grpc_token.py", sidecar, CLIENT=kind, RIGHT="right")
    assert said.pop("right") == ""
    if kind == "sync":
        assert said.pop("right.stream") == "open"
    if kind == "aio":
        # With any server, an asyncio stream that is refused at once may show an error of grpcio's own instead.
        said = {name: value for name, value in said.items() if value["message"] != "Internal error from Core"}
    assert {(value["code"], value["message"]) for value in said.values()} == {("UNAUTHENTICATED", "Unauthorized")}
    texts = {name: value["ErrorInfo"]["metadata"]["http.error_message"] for name, value in said.items()}
    assert texts.pop("missing") == "missing api token in request metadata"
    assert texts.pop("wrong") == "authentication error: api token mismatch"
    if kind == "sync":
        assert texts.pop("wrong.stream") == "authentication error: api token mismatch"
    assert set(texts.values()) <= {"missing api token in request metadata"}


def test_every_rpc_has_an_answer(pair: Pair) -> None:
    """Nothing asked of it, each says what is missing. What the SDK has beyond Dapr 1.19 goes to the proxy."""
    said = client("grpc_every_rpc.py", pair.sidecar)
    served = {name for name in vars(DaprBase) if name[0].isupper()} - {"Shutdown"}
    assert served <= said.keys()
    proxied = {name for name, value in said.items() if value.get("message", "").startswith("failed to proxy request")}
    assert proxied == said.keys() - served
    unknown = {name for name in served if said[name]["code"] == "UNKNOWN"}
    assert unknown == {"SubscribeTopicEventsAlpha1"}, "which has the text alone"
    later = {name for name in served if said[name]["code"] == "UNIMPLEMENTED"}
    assert all(name.startswith("Subtle") for name in later), "left out of Dapr's releases too"


def test_an_app_that_is_ill_gets_no_calls(pair: Pair) -> None:
    def call() -> int:
        return pair.sidecar.http("POST", "/v1.0/invoke/py/method/nothing", b"").status

    assert call() == 200
    pair.app.signal(signal.SIGUSR1)
    pair.sidecar.wait_line("entered un-healthy status")
    assert call() == 500
    pair.publish("again", ["success"])
    pair.app.signal(signal.SIGUSR1)
    assert pair.app.wait_said("again") == "success"
    assert call() == 200
