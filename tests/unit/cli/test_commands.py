"""The commands that ask and end, with the machine's apps replaced by a list."""

import io
import json
import os
import signal
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.__main__ import main
from edge_runtime.cli import calling, instances, invoke, list, publish, state, stop
from edge_runtime.cli.arguments import Parsed, UsageError, parse
from edge_runtime.cli.control import ControlError, NodeControl
from edge_runtime.cli.http import Address, Answer, Unreachable
from edge_runtime.cli.instances import Instance
from edge_runtime.model.errors import ConfigError


def instance(app_id: str = "a", **changes: Any) -> Instance:
    base = Instance(app_id, 3500, 50001, 80, True, 0.0, 10, {"cliPID": "11", "appPID": "12", "appCommand": "run me"})
    return base._replace(**changes)


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> "FakeMachine":
    machine = FakeMachine()
    for module in (list, stop):
        monkeypatch.setattr(module, "find_instances", lambda environment: machine.instances)
    for asking in (calling, state):
        monkeypatch.setattr(asking, "find_instance", machine.find)
    for sending in (invoke, publish, state):
        monkeypatch.setattr(sending, "request", machine.request)
    monkeypatch.setattr(os, "kill", lambda pid, number: machine.killed.append((pid, number)))
    monkeypatch.setattr(NodeControl, "detach", lambda control, app_id: machine.detached.append((control.path, app_id)))
    monkeypatch.setattr(list, "now", lambda: 7200.0)
    return machine


class FakeMachine:
    def __init__(self) -> None:
        self.instances: Sequence[Instance] = ()
        self.killed: Any = []
        self.detached: Any = []
        self.requests: Any = []
        self.answer = Answer(200, "OK", b"")

    def find(self, app_id: str, environment: Any) -> Instance | None:
        return next((one for one in self.instances if one.app_id == app_id), None)

    def request(self, method: str, address: Address, target: str, body: bytes = b"", headers: Any = ()) -> Answer:
        self.requests.append((method, str(address), target, body, dict(headers)))
        return self.answer


def parsed(options: Any, *argv: str) -> Parsed:
    return parse(options, argv)


# --- list -------------------------------------------------------------------------------------------------------------


def test_list_has_the_columns_of_dapr(running: FakeMachine, capsys: pytest.CaptureFixture[str]) -> None:
    running.instances = [instance(extended={"appCommand": "x" * 30, "cliPID": "11", "appPID": "12"})]
    assert main(["list"]) == 0
    header, row = capsys.readouterr().out.splitlines()
    assert [word.strip() for word in header.split("  ") if word] == [
        *("APP ID", "HTTP PORT", "GRPC PORT", "APP PORT", "COMMAND", "AGE", "CREATED", "DAPRD PID", "CLI PID"),
        "APP PID",
    ]
    assert row.split()[:6] == ["a", "3500", "50001", "80", "x" * 17 + "...", "2h"]


def test_list_has_the_keys_of_dapr(running: FakeMachine, capsys: pytest.CaptureFixture[str]) -> None:
    running.instances = [instance()]
    assert main(["list", "-o", "json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert tuple(row) == (
        *("appId", "httpPort", "grpcPort", "appPort", "metricsEnabled", "command", "age", "created", "daprdPid"),
        *("cliPid", "appPid", "maxRequestBodySize", "httpReadBufferSize", "runTemplatePath", "appLogPath"),
        *("daprdLogPath", "runTemplateName"),
    )
    assert (row["cliPid"], row["appPid"], row["age"]) == (11, 12, "2h")


@pytest.mark.parametrize(("flag", "text"), [((), "No Dapr instances found.\n"), (("--json",), "[]")])
def test_nothing_runs(running: FakeMachine, capsys: pytest.CaptureFixture[str], flag: tuple[str], text: str) -> None:
    assert main(["list", *flag]) == 0
    assert capsys.readouterr().out == text


def test_unknown_format_is_refused(running: FakeMachine, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "-o", "xml"]) == 1
    assert "An invalid output format was specified." in capsys.readouterr().err


def test_numbers_of_others_may_be_bad() -> None:
    assert instance(extended={"cliPID": "many"}).cli_pid == 0


def test_socket_is_asked_instead_of_the_port() -> None:
    assert instance(socket_directory="/s").address == Address(path="/s/dapr-a-http.socket")


# --- stop -------------------------------------------------------------------------------------------------------------


def test_process_of_one_app_is_signalled(running: FakeMachine) -> None:
    running.instances = [instance(), instance("b", extended={"cliPID": "21"}, daprd_pid=20)]
    assert main(["stop", "a"]) == 0
    assert running.killed == [(11, signal.SIGTERM)]


def test_app_among_several_is_detached(running: FakeMachine) -> None:
    shared = {"extended": {"cliPID": "10"}, "node": "/run/10.sock"}
    running.instances = [instance(**shared), instance("b", **shared)]
    assert main(["stop", "-a", "a"]) == 0
    assert running.killed == []
    assert running.detached == [("/run/10.sock", "a")]


def test_guest_is_stopped_by_its_own_process(running: FakeMachine) -> None:
    running.instances = [
        instance(node="/n", extended={"cliPID": "11"}),
        instance("b", node="/n", extended={"cliPID": "12"}),
    ]
    main(["stop", "b"])
    assert running.killed == [(12, signal.SIGTERM)]


def test_stop_reports_as_json(running: FakeMachine, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stop", "nobody", "--json"]) == 0
    (one,) = json.loads(capsys.readouterr().out)
    assert (one["stopped"], one["message"]) == (
        False,
        "failed to stop app id nobody: couldn't find app id nobody",
    )


def test_failed_detach_is_reported(running: FakeMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(control: NodeControl, app_id: str) -> None:
        raise ControlError(404, "it has gone")

    monkeypatch.setattr(NodeControl, "detach", refuse)
    shared = [instance(app_id, node="/n", extended={}) for app_id in "ab"]
    assert stop.end(shared[0], shared) == "it has gone"


def test_stop_wants_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stop"]) == 255
    assert "name the app to stop" in capsys.readouterr().err


def test_run_file_names_its_apps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = str(tmp_path / "dapr.yaml")
    found = [instance("other"), instance("mine", extended={"runTemplatePath": path})]
    monkeypatch.setattr(instances, "find_instances", lambda environment: found)
    assert [one.app_id for one in instances.instances_of_run_file(path, {})] == ["mine"]
    assert [one.app_id for one in instances.instances_of_run_file(str(tmp_path), {})] == ["mine"]


# --- invoke and publish -----------------------------------------------------------------------------------------------


def test_method_is_called(
    running: FakeMachine, capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAPR_API_TOKEN", "secret")
    running.instances = [instance()]
    running.answer = Answer(200, "OK", b"\xffanswer")
    assert main(["invoke", "-a", "a", "-m", "go?x=1", "-d", "{}", "-v", "put"]) == 0
    assert running.requests == [
        (
            "PUT",
            "127.0.0.1:3500",
            "/v1.0/invoke/a/method/go?x=1",
            b"{}",
            {b"dapr-api-token": b"secret", b"content-type": b"application/json"},
        )
    ]
    assert capsysbinary.readouterr().out.startswith(b"\xffanswer\n")


def test_refused_call_shows_the_status(running: FakeMachine, capsys: pytest.CaptureFixture[str]) -> None:
    running.instances = [instance()]
    running.answer = Answer(404, "Not Found", b"why")
    assert main(["invoke", "-a", "a", "-m", "go"]) == 1
    assert "error invoking app a: 404 Not Found" in capsys.readouterr().err
    assert main(["invoke", "-a", "a", "-m", "go", "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == {
        "appId": "a",
        "error": "error invoking app a: 404 Not Found",
        "status": 404,
        "body": "why",
    }


def test_refused_call_tells_the_reason(running: FakeMachine, capsys: pytest.CaptureFixture[str]) -> None:
    running.instances = [instance()]
    running.answer = Answer(500, "Internal Server Error", b'{"message": "failed to invoke, id: a"}')
    assert main(["invoke", "-a", "a", "-m", "go"]) == 1
    assert "error invoking app a: 500 Internal Server Error (failed to invoke, id: a)" in capsys.readouterr().err


def test_app_that_does_not_run(running: FakeMachine, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["invoke", "-a", "x", "-m", "go"]) == 1
    assert "app ID x not found" in capsys.readouterr().err


def test_event_is_published(running: FakeMachine, capsys: pytest.CaptureFixture[str]) -> None:
    running.instances = [instance()]
    running.answer = Answer(204, "No Content", b"")
    words = ["publish", "-i", "a", "-p", "pubsub", "-t", "t", "-d", "{}", "-m", '{"ttl": 5, "k": "a b&c"}']
    assert main(words) == 0
    assert running.requests[0][2] == "/v1.0/publish/pubsub/t?metadata.ttl=5&metadata.k=a%20b%26c"
    assert "Event published successfully" in capsys.readouterr().out


def test_refused_event_is_explained(running: FakeMachine, capsys: pytest.CaptureFixture[str]) -> None:
    running.instances = [instance()]
    running.answer = Answer(404, "Not Found", b'{"message": "no such pubsub"}')
    assert main(["publish", "-i", "a", "-p", "p", "-t", "t"]) == 1
    said = capsys.readouterr()
    assert "http://localhost:3500/v1.0/publish/p/t" in said.out
    assert "Error publishing topic t: unexpected status code 404 on publishing to t in p (no such pubsub)" in said.err


def test_envelope_is_recognised() -> None:
    whole = {"id": "1", "source": "s", "specversion": "1.0", "type": "t", "data": 1}
    assert publish.content_type(json.dumps(whole).encode()) == b"application/cloudevents+json"
    assert publish.content_type(b'{"id": "1"}') == b"application/json"
    assert publish.content_type(b"\xff") == b"application/json"


def test_metadata_must_be_an_object() -> None:
    with pytest.raises(UsageError, match="expected a JSON object"):
        publish.query("[1]")
    assert publish.query("{}") == ""


def test_data_comes_from_one_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = calling.DATA_OPTIONS
    (tmp_path / "f").write_bytes(b"\x00file")
    assert calling.data_of(parsed(options)) == b""
    assert calling.data_of(parsed(options, "-d", "é")) == "é".encode()
    assert calling.data_of(parsed(options, "-f", str(tmp_path / "f"))) == b"\x00file"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"piped")))
    assert calling.data_of(parsed(options, "-f", "-")) == b"piped"
    with pytest.raises(UsageError, match="Only one of --data and --data-file"):
        calling.data_of(parsed(options, "-d", "x", "-f", "y"))
    with pytest.raises(ConfigError, match="Error reading payload from '/no/where'"):
        calling.data_of(parsed(options, "-f", "/no/where"))


def test_required_flags_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["publish", "-i", "a"]) == 255
    assert 'required flag(s) "pubsub", "topic" not set' in capsys.readouterr().err


# --- state ------------------------------------------------------------------------------------------------------------


def test_value_is_stored_as_it_is(running: FakeMachine) -> None:
    running.instances = [instance()]
    running.answer = Answer(204, "No Content", b"")
    assert main(["state", "set", "-a", "a", "k", '{"n": 1.10}', "--etag", "7"]) == 0
    assert main(["state", "set", "-a", "a", "k", "plain"]) == 0
    assert [request[3] for request in running.requests] == [
        b'[{"key":"k","value":{"n": 1.10},"etag":"7"}]',
        b'[{"key":"k","value":"plain"}]',
    ]


def test_key_is_read(running: FakeMachine, capsys: pytest.CaptureFixture[str]) -> None:
    running.instances = [instance()]
    running.answer = Answer(200, "OK", b"[1, 2]")
    assert main(["state", "get", "-a", "a", "-s", "s", "a/b"]) == 0
    assert running.requests[0][2] == "/v1.0/state/s/a%2Fb"
    assert capsys.readouterr().out == "[1, 2]\n"


def test_missing_key_is_a_failure(running: FakeMachine, capsys: pytest.CaptureFixture[str]) -> None:
    running.instances = [instance()]
    running.answer = Answer(204, "No Content", b"")
    assert main(["state", "get", "-a", "a", "k", "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == {"error": "key 'k' is not in statestore", "key": "k"}


def test_delete_is_conditional(running: FakeMachine) -> None:
    running.instances = [instance()]
    running.answer = Answer(204, "No Content", b"")
    assert main(["state", "delete", "-a", "a", "k", "--etag", "7"]) == 0
    assert running.requests[0][4][b"if-match"] == b"7"


def test_refusal_is_passed_on(running: FakeMachine, capsys: pytest.CaptureFixture[str]) -> None:
    running.instances = [instance()]
    running.answer = Answer(409, "Conflict", b'{"message": "etag mismatch"}')
    assert main(["state", "delete", "-a", "a", "k"]) == 1
    assert "etag mismatch" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("gett", "-a", "a", "k"), 'did you mean "get"?'),
        (("get", "-a", "a"), "expected edge-runtime state"),
        (("get", "k"), 'required flag(s) "app-id" not set'),
        (("set", "-a", "a", "k"), "expected a value or --data-file"),
        (("list", "-a", "a", "--limit", "0"), "--limit 0: expected a number from 1 to 1000"),
    ],
)
def test_mistakes_are_named(
    running: FakeMachine, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], text: str
) -> None:
    running.instances = [instance()]
    assert main(["state", *words]) == 255
    assert text in capsys.readouterr().err


def test_keys_are_listed(
    running: FakeMachine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: Any = []

    def keys(control: NodeControl, *arguments: Any) -> Any:
        asked.append(arguments)
        return ["one", "two"]

    monkeypatch.setattr(NodeControl, "keys", keys)
    running.instances = [instance(node="/n")]
    assert main(["state", "list", "-a", "a", "--prefix", "o", "--after", "on", "--limit", "5"]) == 0
    assert asked == [("a", "statestore", "o", "on", 5)]
    assert capsys.readouterr().out == "one\ntwo\n"


def test_nothing_to_read_is_told(running: FakeMachine, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["state", "list", "-a", "a", "--state-dir", str(tmp_path)]) == 1
    assert f"there is no file {tmp_path}/statestore.db" in capsys.readouterr().err


def test_missing_key_of_a_file_is_a_failure(
    running: FakeMachine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(sqlite3.connect(tmp_path / "statestore.db")) as file:
        file.execute(
            "CREATE TABLE state (key TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL, is_binary BOOLEAN NOT NULL,"
            " etag TEXT NOT NULL, expiration_time TIMESTAMP, update_time TIMESTAMP NOT NULL)"
        )
    assert main(["state", "get", "-a", "a", "k", "--state-dir", str(tmp_path)]) == 1
    assert f"key 'k' is not in {tmp_path}/statestore.db" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "words"), [("statestore.db", ("state", "list", "-a", "a")), ("node.db", ("topics", "-o", "json"))]
)
def test_file_of_something_else_is_named(
    running: FakeMachine, tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, words: tuple[str, ...]
) -> None:
    (tmp_path / file).write_bytes(b"no database" * 1000)
    assert main([*words, "--state-dir", str(tmp_path)]) == 1
    assert f"{tmp_path}/{file}: it cannot be used: the file is not an SQLite database" in capsys.readouterr().err


def test_missing_log_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["topics", "--state-dir", str(tmp_path)]) == 1
    assert f"there is no file {tmp_path}/node.db" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [("state", "get", "-a", "a", "k"), ("invoke", "-a", "a", "-m", "m"), ("publish", "-i", "a", "-p", "p", "-t", "t")],
)
def test_missing_token_is_named(
    running: FakeMachine, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    running.instances = [instance()]
    running.answer = Answer(401, "Unauthorized", b"invalid api token")
    assert main(words) == 1
    assert "set DAPR_API_TOKEN" in capsys.readouterr().err


# --- asking -----------------------------------------------------------------------------------------------------------


def test_nobody_answers(tmp_path: Path) -> None:
    from edge_runtime.cli.http import request

    with pytest.raises(Unreachable, match="No such file"):
        request("GET", Address(path=str(tmp_path / "s")), "/")
    with pytest.raises(Unreachable, match="cannot be asked for"):
        request("GET", Address(1), "/a b\r\n")
