"""Apps with the official Go SDK, which speaks gRPC alone, against the real process: today's, and one of 2023."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.app import App, Received
from tests.support.drivers import SDK, Driver, component, python
from tests.support.resources import broker, write
from tests.support.sidecar import Sidecar, free_port

pytestmark = pytest.mark.slow


class Programs(NamedTuple):
    """The drivers, built."""

    today: Path
    old: Path

    def client(self, scenario: str, sidecar: Sidecar, **environment: str) -> dict[str, Any]:
        """What a driver said."""
        command = [str(self.today), scenario] if scenario != "old" else [str(self.old)]
        with Driver(command, {"DAPR_GRPC_PORT": str(sidecar.grpc_port), **environment}) as program:
            return program.results()


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    """Built once. Go keeps what it downloaded and compiled, so that the next time takes a second."""
    directory = tmp_path_factory.mktemp("go")
    return Programs(build(SDK / "go", directory / "today"), build(SDK / "go" / "old", directory / "old"))


def build(module: Path, program: Path) -> Path:
    found = shutil.which("go")
    if found is None:
        pytest.skip("Go is not installed: install Go 1.22.6 or later to test with the Go SDK")

    def go(*words: str) -> subprocess.CompletedProcess[str]:
        # No other Go than the one here is fetched.
        environment = {**os.environ, "GOTOOLCHAIN": "local", "CGO_ENABLED": "0"}
        return subprocess.run([found, *words], cwd=module, env=environment, capture_output=True, text=True, timeout=170)

    downloaded = go("mod", "download")
    if downloaded.returncode:
        pytest.skip(f"the modules of the Go SDK are not here and cannot be fetched: {downloaded.stderr[-500:]}")
    built = go("build", "-o", str(program), ".")
    assert built.returncode == 0, built.stderr
    return program


class Pair(NamedTuple):
    sidecar: Sidecar
    app: Driver
    programs: Programs

    def client(self, scenario: str, **environment: str) -> dict[str, Any]:
        return self.programs.client(scenario, self.sidecar, **environment)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, programs: Programs) -> Iterator[Pair]:
    """A callback service with a health check, beside a sidecar that shows it the token it asks for."""
    directory = tmp_path_factory.mktemp("pair")
    write(directory / "resources", "pubsub.yaml", broker())
    write(
        directory / "resources",
        "state.yaml",
        component("statestore", "state.sqlite", connectionString=str(directory / "s.db")),
    )
    app_port = free_port()
    environment = {"APP_API_TOKEN": "for the app"}
    with Driver([str(programs.today), "app"], {"APP_PORT": str(app_port), **environment}) as app:
        app.wait_said("starting")
        flags = ("--resources-path", str(directory / "resources"), "--app-protocol", "grpc")
        health = ("--enable-app-health-check", "--app-health-probe-interval", "1")
        with Sidecar(directory, *flags, *health, app_id="go", app_port=app_port, environment=environment) as sidecar:
            yield Pair(sidecar, app, programs)
            assert sidecar.stop() == 0
            assert app.stop() == 0


def codes(said: dict[str, Any]) -> dict[str, tuple[str, str | None]]:
    """The refusals among what was said: code and reason."""
    return {name: (value["code"], value.get("reason")) for name, value in said.items() if _is_refusal(value)}


def _is_refusal(value: Any) -> bool:
    return isinstance(value, dict) and "code" in value


def test_state_is_what_the_client_expects(pair: Pair) -> None:
    said = pair.client("state")
    assert codes(said) == {
        "ttl.wrong": ("Internal", "ERR_STATE_SAVE"),
        "bulk.delete.stale": ("Aborted", "ERR_STATE_BULK_DELETE"),
        "etag.stale": ("Aborted", "ERR_STATE_SAVE"),
        "etag.delete.stale": ("Aborted", "ERR_STATE_DELETE"),
        "first.again": ("Aborted", "ERR_STATE_SAVE"),
        "transaction.stale": ("Internal", "ERR_STATE_TRANSACTION"),
        "transaction.wrong": ("Unimplemented", "ERR_NOT_SUPPORTED_STATE_OPERATION"),
        "query.wrong": ("Internal", "DAPR_STATE_QUERY_FAILED"),
        "too long": ("ResourceExhausted", None),
        "store.unknown.get": ("InvalidArgument", "DAPR_STATE_NOT_FOUND"),
        "store.unknown.save": ("InvalidArgument", "DAPR_STATE_NOT_FOUND"),
        "store.unknown.delete": ("InvalidArgument", "DAPR_STATE_NOT_FOUND"),
        "key.illegal": ("InvalidArgument", "DAPR_STATE_ILLEGAL_KEY"),
    }
    assert said["key.illegal"]["resource"] == ["state", "statestore"]
    assert said["key.illegal"]["field"] == "a||b"
    assert {name: value for name, value in said.items() if not _is_refusal(value)} == {
        "same": True,
        "absent": [0, ""],
        "ttl": True,
        "delete": "done",
        "delete.absent": "done",
        "bulk": [21, "absent", 0, "19", ""],
        "bulk.delete": "done",
        "bulk.deleted": ["", "", "10"],
        "etag.first": "done",
        "etag.right": "done",
        "etag.kept": "2",
        "etag.delete.right": "done",
        "first.new": "done",
        "transaction": "done",
        "transaction.kept": ["one", ""],
        "transaction.undone": ["one", ""],
        "query": ["Cem", "Ann", {"name": "Ann", "age": 20}],
        "long": True,
        "many": True,
    }


def test_a_client_comes_by_a_socket_file(tmp_path: Path, programs: Programs) -> None:
    flags = ("--unix-domain-socket", str(tmp_path))
    with Sidecar(tmp_path, *flags, app_id="go") as sidecar:
        said = programs.client("stream", sidecar, DAPR_SOCKET=str(tmp_path / "dapr-go-grpc.socket"))
    assert (said["retry"], said["flying"], said["left"]) == (True, [0, 1, 2], True)


def test_a_service_gets_what_a_client_publishes(pair: Pair) -> None:
    said = pair.client("publish")
    assert codes(said) == {
        "pubsub.unknown": ("InvalidArgument", "DAPR_PUBSUB_NOT_FOUND"),
        "raw.wrong": ("InvalidArgument", "DAPR_PUBSUB_METADATA_DESERIALIZATION"),
    }
    assert said["bulk"] == ["done", 0]
    assert (said["bulk.unknown"][0]["reason"], said["bulk.unknown"][1]) == ("DAPR_PUBSUB_NOT_FOUND", 1)
    assert (said["bulk.twins"][0]["reason"], said["bulk.twins"][1]) == ("DAPR_PUBSUB_MARSHAL_EVENTS", 2)
    came = pair.app.gather({"events": 4, "raw": 1, "ruled": 2, "bulk": 4})
    assert sorted((event["data"], event["content_type"]) for event in came["events"]) == [
        (b"\x00\xff".decode("utf-8", "replace"), "application/octet-stream"),
        ("some text", "text/plain"),
        ('{"n":1,"t":"grüße \\u003c\\u0026\\u003e 🌍"}', "application/json"),
        ("{}", "application/json"),
    ]
    assert {event["type"] for event in came["events"]} == {"com.dapr.event.sent", "shop.sold"}
    assert {(event["topic"], event["pubsub"], event["source"]) for event in came["events"]} == {
        ("events", "pubsub", "go")
    }
    assert [event["data"] for event in came["raw"]] == ['{"raw":1}']
    assert sorted(came["ruled"]) == [["other", {"size": 2}], ["widgets", {"size": 1}]]
    assert sorted(event["data"] for event in came["bulk"]) == ["entry", "one", "two", '{"n":3}']


def test_an_error_decides_what_becomes_of_an_event(pair: Pair) -> None:
    """With retry it comes again, without it is dropped."""
    for answers in (["retry", "retry", "success"], ["drop", "never asked"]):
        assert pair.sidecar.http("POST", "/v1.0/publish/pubsub/again", answers).status == 204
    assert sorted(pair.app.gather({"again": 4})["again"]) == ["drop", "retry", "retry", "success"]


def test_a_client_subscribes_by_stream(pair: Pair) -> None:
    said = pair.client("stream")
    assert codes(said) == {"refused.unknown": ("InvalidArgument", "DAPR_PUBSUB_NOT_FOUND")}
    assert said["whole"] == {
        "id": True,
        "source": "go",
        "type": "com.dapr.event.sent",
        "version": "1.0",
        "content_type": "application/json",
        "topic": "answers",
        "pubsub": "pubsub",
        "data": {"n": 1},
    }
    assert (said["retry"], said["flying"], said["left"]) == (True, [0, 1, 2], True)
    assert said["dead"] == ["dropped", "dead"]
    assert said["handled"] == ["event", "event"]


def test_the_client_invokes_a_service(pair: Pair) -> None:
    said = pair.client("invoke", TARGET="go")
    for verb in ("GET", "POST", "PUT", "DELETE", "PATCH"):
        assert said[verb] == {"data": verb, "content_type": "text/plain", "verb": verb, "query": "a=1&b=two%20words"}
    assert said["nothing"] == ""
    assert (said["custom"]["data"], said["custom"]["content_type"]) == ('{"a":[1]}', "application/json")
    metadata = said["metadata"]
    assert metadata["x-note"] == ["noted"]
    assert metadata["dapr-api-token"] == ["for the app"]
    assert metadata["dapr-caller-app-id"] == metadata["dapr-callee-app-id"] == ["go"]
    assert metadata["traceparent"][0].split("-")[1] == "0af7651916cd43dd8448eb211c80319c"
    assert said["many"] is True
    assert codes(said) == {
        "refused": ("ResourceExhausted", None),
        "absent": ("Unknown", None),
        "unknown app": ("Internal", None),
        "late": ("DeadlineExceeded", None),
    }
    assert said["refused"]["message"] == "too much"
    assert said["absent"]["message"] == "method not implemented: no-such-method"
    pair.app.wait_said("gone")


def test_the_client_invokes_an_http_app(tmp_path: Path, programs: Programs) -> None:
    def echo(came: Received) -> tuple[int, Any]:
        return 200, {"verb": came.method, "path": came.path, "data": came.body.decode()}

    def same(came: Received) -> tuple[int, Any]:
        return 200, came.body

    def headers(came: Received) -> tuple[int, Any]:
        return 200, {"x-note": came.headers["x-note"], "traceparent": came.headers["traceparent"]}

    routes = {"/echo": echo, "/same": same, "/metadata": headers, "/nothing": lambda came: (204, b"")}
    refusing = {"/refuse": lambda came: (429, {"too": "much"}), "/hang": lambda came: (503, b"")}
    with App({**routes, **refusing}) as app, Sidecar(tmp_path, app_id="web", app_port=app.port) as sidecar:
        said = programs.client("invoke", sidecar, WEB="web")
    for verb in ("POST", "PUT", "DELETE", "PATCH"):
        assert said[verb] == {"verb": verb, "path": "/echo?a=1&b=two%20words", "data": verb}
    assert said["GET"]["verb"] == "GET"
    assert said["nothing"] == ""
    assert said["custom"]["data"] == '{"a":[1]}'
    assert said["metadata"]["x-note"] == "noted"
    assert said["metadata"]["traceparent"].split("-")[1] == "0af7651916cd43dd8448eb211c80319c"
    assert said["many"] is True
    assert {name: code for name, (code, _) in codes(said).items()} == {
        "refused": "ResourceExhausted",
        "absent": "NotFound",
        "unknown app": "Internal",
        "late": "Unavailable",
    }
    assert said["refused"]["metadata"] == {"http.code": "429", "http.error_message": '{"too": "much"}'}


def test_a_service_of_ones_own_is_reached(tmp_path: Path, programs: Programs) -> None:
    """It is written in Python; its caller in Go."""
    app_port = free_port()
    with python("grpc_app.py", 0, APP_PORT=str(app_port)) as app:
        app.wait_said("starting")
        with Sidecar(tmp_path, "--app-protocol", "grpc", app_id="py", app_port=app_port) as sidecar:
            said = programs.client("proxy", sidecar, TARGET="py")
            assert sorted(app.gather({"gone": 2})["gone"]) == ["cancelled", "late"]
        app.stop()
    assert said["one"] == "grüße"
    for name in ("long", "packed", "parallel", "parallel.streams"):
        assert said[name] is True, name
    assert said["several"] == ["0", "1", "2", "3", "4"]
    assert (said["joined"], said["each"]) == (["a,b,c"], ["a", "b", "c"])
    assert said["metadata"] == {
        "dapr-caller-app-id": "py",
        "dapr-caller-namespace": "default",
        "dapr-callee-app-id": "py",
        "x-note": "noted",
        "x-note-bin": "00ff",
    }
    assert said["initial"] == [["before"], "[00ff]"]
    assert said["trailing"] == [["after"], "[fe01]"]
    assert (said["late"], said["cancelled"]) == ("DeadlineExceeded", "Canceled")
    assert said["fail"] == {
        "code": "OutOfRange",
        "message": "nicht möglich: 100 % 🌍",
        "reason": "OWN_REASON",
        "metadata": {"asked": "this"},
    }
    assert said["break off"] == {"code": "DataLoss", "message": "no more"}
    assert said["untargeted"]["code"] == "Unknown"
    assert "no-such-app" in said["unknown app"]["message"]


def test_the_other_calls_of_the_client(tmp_path: Path, programs: Programs) -> None:
    secrets = tmp_path / "secrets.json"
    secrets.write_text(json.dumps({"password": "pa$$", "db": {"user": "ann"}}))
    write(tmp_path / "resources", "s.yaml", component("secrets", "secretstores.local.file", secretsFile=str(secrets)))
    write(tmp_path / "resources", "t.yaml", component("statestore", "state.in-memory"))
    flags = ("--resources-path", str(tmp_path / "resources"))
    with Sidecar(tmp_path, *flags, environment={"DAPR_API_TOKEN": "right"}, app_id="go") as sidecar:
        said = programs.client("face", sidecar, DAPR_API_TOKEN="right")
        assert sidecar.wait() == 0, "the client asked for its end"
    components = ["secrets secretstores.local.file", "statestore state.in-memory"]
    assert said["metadata"] == {"id": "go", "components": components}
    assert said["metadata.kept"] == "grüße"
    assert said["secret"] == {"password": "pa$$"}
    assert said["secret.bulk"] == {"password": {"password": "pa$$"}, "db:user": {"db:user": "ann"}}
    assert said["shut"] == "done"
    stream = said.pop("token.wrong.stream")  # the SDK shows `EOF` when the refusal is there before its first word
    assert stream["code"] == "Unauthenticated" or stream["message"] == "EOF"
    assert "placement service is not configured" in said["workflow"]["message"]
    assert codes(said) == {
        "secret.absent": ("Internal", "ERR_SECRET_GET"),
        "secret.store": ("InvalidArgument", "ERR_SECRET_STORE_NOT_FOUND"),
        "binding": ("Internal", "ERR_INVOKE_OUTPUT_BINDING"),
        "configuration": ("FailedPrecondition", "ERR_CONFIGURATION_STORE_NOT_CONFIGURED"),
        "lock": ("FailedPrecondition", None),
        "unlock": ("FailedPrecondition", None),
        "encrypt": ("Internal", None),
        "decrypt": ("Internal", None),
        "job": ("Internal", "DAPR_SCHEDULER_SCHEDULE_JOB"),
        "job.delete": ("Internal", "DAPR_SCHEDULER_DELETE_JOB"),
        "actor": ("Unavailable", None),
        "reminder": ("Unavailable", None),
        "workflow": ("Unknown", None),  # the SDK keeps the text alone
        "token.wrong": ("Unauthenticated", "Unauthorized"),
        "late": ("DeadlineExceeded", None),
    }


def test_a_client_of_2023_is_served(tmp_path: Path, programs: Programs) -> None:
    def same(came: Received) -> tuple[int, Any]:
        return 200, came.body

    # With components of its own the node has no built-in ones: what the client asks for besides is not configured.
    store = component("statestore", "state.sqlite", connectionString=str(tmp_path / "s.db"))
    flags = ("--resources-path", str(write(tmp_path / "resources", "all.yaml", store, broker())))
    with App({"/same": same}) as app, Sidecar(tmp_path, *flags, app_id="old", app_port=app.port) as sidecar:
        said = programs.client("old", sidecar, TARGET="old")
        assert sidecar.wait() == 0
    assert said == {
        "state": {"name": "old"},
        "query": "old",
        "bulk": 0,
        "invoke": "old",
        "lock": "FailedPrecondition",
        "unlock": "FailedPrecondition",
        "configuration": "FailedPrecondition",
        "encrypt": "Internal",
        "decrypt": "Internal",
        "binding": "Internal",
        "unknown": "InvalidArgument",
        "shut": True,
    }
