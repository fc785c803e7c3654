"""Calls of cloud apps and bindings that wait for the link: kept over cuts and kills, sent in order, and asked about."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from edge_runtime.proto.dapr.proto.runtime.v1.binding_pb2 import InvokeBindingRequest
from edge_runtime.receiver import Receiver, identity_of_headers
from tests.integration.cli import Run, ask
from tests.integration.test_cloud_links import DOWN, UP, metric, until, url, write_link
from tests.integration.test_grpc_invoke import invoke, pairs
from tests.support.app import App, Received
from tests.support.drivers import component
from tests.support.grpc_client import DaprClient
from tests.support.line import Line, Mode
from tests.support.sidecar import Answer, Sidecar, free_port, request

pytestmark = pytest.mark.slow

QUEUE = {"edge-queue": "true"}
ROUTES = (
    "{invocation: [{appID: billing, queued: true}, {appID: direct}], bindings: [{name: mail, remoteName: files,"
    " queued: true}, {name: now, remoteName: files}, {name: lost, remoteName: nowhere}]}"
)


class Cloud:
    def __init__(self, app: App, line: Line, grpc_line: Line, place: Path, routes: str, more: str) -> None:
        self.app = app
        self.line = line
        self.grpc_line = grpc_line
        self._place = place
        self._routes = routes
        self._more = more

    def cut(self, mode: Mode = Mode.REFUSE) -> None:
        self.line.cut(mode)
        self.grpc_line.cut(mode)

    def mend(self) -> None:
        self.line.mend()
        self.grpc_line.mend()

    @contextmanager
    def edge(self, **options: Any) -> Iterator[Sidecar]:
        """A life of the node here; its state outlives it."""
        more = f"  probe: {{interval: 1s}}\n{self._more}"
        flags = write_link(self._place / "resources", url(self.line.port), url(self.grpc_line.port), self._routes, more)
        with Sidecar(self._place / "edge", *flags, app_id="edge", **options) as edge:
            yield edge


@contextmanager
def open_cloud(place: Path, answers: Any = None, routes: str = ROUTES, more: str = "") -> Iterator[Cloud]:
    """`answers` are the app's, by path."""
    with ExitStack() as stack:
        app = stack.enter_context(App(answers or {"/do/it": lambda came: (201, {"n": came.headers.get("x-n")})}))
        (place / "there").mkdir()
        (place / "there" / "files.yaml").write_text(
            component("files", "bindings.localstorage", rootPath=str(place / "files"))
        )
        flags = ["--resources-path", str(place / "there")]
        cloud = stack.enter_context(Sidecar(place / "cloud", *flags, app_id="billing", app_port=app.port))
        line = stack.enter_context(Line(cloud.port))
        grpc_line = stack.enter_context(Line(cloud.grpc_port))
        yield Cloud(app, line, grpc_line, place, routes, more)


def call(edge: Sidecar, path: str = "do/it", body: Any = None, **headers: str) -> Answer:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return edge.http("POST", f"/v1.0/invoke/billing/method/{path}", body, {**QUEUE, **sent})


def accepted(edge: Sidecar, path: str = "do/it", body: Any = None, **headers: str) -> str:
    """The id of a call that waits."""
    answer = call(edge, path, body, **headers)
    assert answer.status == 202, answer.body
    document = answer.json()
    assert answer.headers["edge-tracking-id"] == document["id"]
    assert answer.headers["location"] == document["location"] == f"/edge/v1/invocations/{document['id']}"
    return str(document["id"])


def outcome(edge: Sidecar, call_id: str) -> dict[str, Any]:
    answer = edge.http("GET", f"/edge/v1/invocations/{call_id}")
    assert answer.status == 200, answer.body
    found: dict[str, Any] = answer.json()
    return found


def ended(edge: Sidecar, call_id: str) -> dict[str, Any]:
    """Its outcome, once there is one."""
    return dict(until(lambda: (row := outcome(edge, call_id))["state"] not in ("waiting", "sending") and row))


def down(edge: Sidecar) -> None:
    until(lambda: metric(edge, "edge_link_up") == 0)


def test_a_call_waits_and_its_answer_is_kept(tmp_path: Path) -> None:
    with open_cloud(tmp_path) as cloud, cloud.edge() as edge:
        until(lambda: UP in edge.said)
        cloud.cut()
        down(edge)
        call_id = accepted(edge, "do/it?a=1", b"body", x_n="7", content_type="text/plain", edge_queue_key="k")
        row = outcome(edge, call_id)
        assert (row["state"], row["link"], row["appID"], row["key"]) == ("waiting", "cloud", "billing", "k")
        assert (row["caller"], row["method"], row["path"]) == ("edge", "POST", "/do/it?a=1")
        cloud.mend()
        row = ended(edge, call_id)
        assert (row["state"], row["status"], row["answer"]["status"]) == ("done", 201, 201)
        assert json.loads(row["answer"]["body"]) == {"n": "7"}
        assert ["content-type", "application/json"] in row["answer"]["headers"]
        came = cloud.app.next()
        assert (came.method, came.path, came.body) == ("POST", "/do/it?a=1", b"body")
        assert not {"edge-queue", "edge-queue-key"} & came.headers.keys()
        identity = identity_of_headers(came.lines)
        assert identity is not None
        assert call_id == f"{identity.node}-{identity.epoch}-{identity.sequence}"
        listed = edge.http("GET", "/edge/v1/invocations?state=done").json()
        assert [one["id"] for one in listed["invocations"]] == [call_id]
        assert "answer" not in listed["invocations"][0]
        assert edge.http("GET", "/edge/v1/invocations?state=failed").json()["invocations"] == []
        assert edge.stop() == 0


def test_outcomes_outlive_a_kill(tmp_path: Path) -> None:
    with open_cloud(tmp_path) as cloud:
        with cloud.edge() as edge:
            done = accepted(edge, x_n="1")
            assert ended(edge, done)["status"] == 201
            until(lambda: metric(edge, "edge_outbox_forwarded_total") == 1)
            cloud.cut()
            down(edge)
            waiting = [accepted(edge, x_n=str(number)) for number in range(2, 12)]
            until(lambda: outcome(edge, done)["state"] == "done")
            edge.kill()
        cloud.mend()
        with cloud.edge() as edge:
            for call_id in waiting:
                assert ended(edge, call_id)["status"] == 201
        numbers = [cloud.app.next().headers["x-n"] for _ in range(11)]
        assert numbers == [str(number) for number in range(1, 12)]  # of one key: in their order


def test_a_kill_under_load_loses_and_repeats_nothing(tmp_path: Path) -> None:
    with open_cloud(tmp_path) as cloud:
        ids: dict[str, int] = {}
        number = 0
        for _ in range(3):
            with cloud.edge() as edge:
                killer = threading.Timer(0.4, edge.kill)
                killer.start()
                try:
                    while True:
                        number += 1
                        ids[accepted(edge, x_n=str(number), edge_queue_key=str(number % 3))] = number
                except OSError:
                    pass
                killer.join()
        with cloud.edge() as edge:
            for call_id in ids:
                assert ended(edge, call_id)["status"] == 201
            until(lambda: metric(edge, "edge_outbox_entries") == 0)
        receiver, arrived = Receiver(), []
        while True:
            try:
                came = cloud.app.received.get_nowait()
            except queue.Empty:
                break
            identity = identity_of_headers(came.lines)
            if not receiver.seen(identity):
                receiver.mark(identity)
                arrived.append(int(came.headers["x-n"]))
        assert len(arrived) == len(set(arrived))
        assert set(ids.values()) <= set(arrived) <= set(range(1, number + 1))
        for key in range(3):
            own = [one for one in arrived if one % 3 == key]
            assert own == sorted(own)


def test_what_counts_as_an_outcome(tmp_path: Path) -> None:
    tries: list[str] = []

    def at_last(came: Received) -> tuple[int, Any]:
        tries.append(came.path)
        return (200, b"at last") if len(tries) == 2 else (503, b"busy")

    answers = {
        "/no": lambda came: (404, b"no such bill"),
        "/later": at_last,
        "/large": lambda came: (200, b"x" * 200_000),
        "/page": lambda came: (200, b"<p>", {"content-type": "text/html"}),
        "/denied": lambda came: (403, {"errorCode": "ERR_DIRECT_INVOKE", "message": "denied by policy"}),
    }
    with open_cloud(tmp_path, answers) as cloud, cloud.edge() as edge:
        paths = {path: accepted(edge, path, edge_queue_key=path) for path in ("no", "later", "large", "page", "denied")}
        rows = {path: ended(edge, call_id) for path, call_id in paths.items()}
        assert (rows["no"]["state"], rows["no"]["status"]) == ("done", 404)
        assert rows["no"]["answer"]["body"] == "no such bill"
        assert (rows["later"]["state"], rows["later"]["answer"]["body"], len(tries)) == ("done", "at last", 2)
        large = rows["large"]["answer"]
        assert (len(large["body"]), large["truncated"]) == (65536, True)
        assert rows["page"]["status"] == 200
        assert rows["denied"]["state"] == "failed"
        assert "denied by policy" in rows["denied"]["reason"]
        dead = edge.http("GET", "/edge/v1/outbox/link%2Fcloud%2Finvoke%2Fbilling/dead").json()["deadLetters"]
        assert [letter["id"] for letter in dead] == [paths["denied"]]
        assert metric(edge, "edge_link_up") == 1


def test_time_to_live_and_drops_are_outcomes(tmp_path: Path) -> None:
    routes = "{invocation: [{appID: billing, queued: true, limits: {size: 2Ki, whenFull: drop-oldest}}]}"
    with open_cloud(tmp_path, routes=routes) as cloud, cloud.edge() as edge:
        cloud.cut()
        down(edge)
        late = accepted(edge, edge_queue_ttl="1")
        until(lambda: outcome(edge, late)["state"] == "expired")
        first, second = (accepted(edge, body=b"x" * 900) for _ in range(2))
        row = until(lambda: (row := outcome(edge, first))["state"] == "dropped" and row) if second else {}
        assert row["reason"] == "full"
        assert outcome(edge, late)["state"] == "dropped"
        assert call(edge, body=b"x" * 3000).status == 500


def test_an_expired_call_is_a_dead_letter(tmp_path: Path) -> None:
    with open_cloud(tmp_path) as cloud, cloud.edge() as edge:
        cloud.cut()
        down(edge)
        call_id = accepted(edge, edge_queue_ttl="10ms")
        until(lambda: outcome(edge, call_id)["state"] == "expired")
        cloud.mend()
        until(lambda: "endedAt" in outcome(edge, call_id))
        row = outcome(edge, call_id)
        assert (row["state"], row["reason"]) == ("expired", "its time to live, 0.01 s, passed before it could be sent")
        assert cloud.app.received.empty()


def test_what_cannot_wait_is_told(tmp_path: Path) -> None:
    with open_cloud(tmp_path) as cloud, cloud.edge() as edge:
        for target in ("nobody", "edge", "http://127.0.0.1:1"):
            answer = edge.http("POST", f"/v1.0/invoke/{target}/method/x", b"", QUEUE)
            assert answer.status in (400, 500), target
            assert "err: " in answer.json()["message"]
        answer = edge.http("POST", "/v1.0/invoke/direct/method/x", b"", QUEUE)
        assert "does not say queued: true" in answer.json()["message"]
        assert "expected true or false" in call(edge, edge_queue="maybe").json()["message"]
        assert "edge-queue-ttl is '-1'" in call(edge, edge_queue_ttl="-1").json()["message"]
        answer = edge.http("GET", "/edge/v1/invocations/node-1-2")
        assert (answer.status, answer.json()["errorCode"]) == (404, "ERR_EDGE_INVOCATION_NOT_FOUND")
        assert edge.http("GET", "/edge/v1/invocations?state=lost").status == 400


def test_a_full_queue_refuses(tmp_path: Path) -> None:
    routes = "{invocation: [{appID: billing, queued: true, limits: {size: 2Ki}}]}"
    with open_cloud(tmp_path, routes=routes) as cloud, cloud.edge() as edge:
        cloud.cut()
        down(edge)
        accepted(edge, body=b"x" * 1500)
        answer = call(edge, body=b"x" * 1500)
        assert (answer.status, answer.json()["errorCode"]) == (500, "ERR_DIRECT_INVOKE")
        assert "limits.size of the CloudLink's route" in answer.json()["message"]


def test_grpc_callers_can_queue(tmp_path: Path) -> None:
    with open_cloud(tmp_path) as cloud, cloud.edge() as edge:
        reply, done = invoke(edge.grpc_port, "billing", "do/it", "PUT", "a=1", metadata=(("edge-queue", "true"),))
        call_id = json.loads(reply.data.value)["id"]
        assert {("edge-tracking-id", call_id), ("dapr-http-status", "202")} <= pairs(done.initial_metadata())
        row = ended(edge, call_id)
        assert (row["method"], row["path"], row["status"]) == ("PUT", "/do/it?a=1", 201)
        with pytest.raises(grpc.RpcError) as caught:
            invoke(edge.grpc_port, "edge", "x", "PUT", metadata=(("edge-queue", "true"),))
        error: Any = caught.value
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION


def test_the_command_line_shows_calls(tmp_path: Path) -> None:
    with open_cloud(tmp_path) as cloud:
        with cloud.edge() as edge:
            call_id = accepted(edge, edge_queue_key="k")
            ended(edge, call_id)
            until(lambda: metric(edge, "edge_outbox_entries") == 0)
            edge.stop()
        place = ["--state-dir", str(tmp_path / "edge")]
        listed = ask(tmp_path, "invocations", "list", *place)
        assert call_id in listed.stdout
        assert "POST billing/do/it" in listed.stdout
        shown = json.loads(ask(tmp_path, "invocations", "show", call_id, "--json", *place).stdout)
        assert (shown["state"], shown["answer"]["status"]) == ("done", 201)
        assert ask(tmp_path, "invocations", "list", "--state", "waiting", *place).stdout == "No calls found.\n"
        missing = ask(tmp_path, "invocations", "show", "a-1-2", *place)
        assert (missing.returncode, "there is no call" in missing.stdout + missing.stderr) == (1, True)


def test_the_command_line_asks_the_sidecar_too(tmp_path: Path) -> None:
    port = free_port()
    write_link(tmp_path / "resources", "http://127.0.0.1:9", routes="{invocation: [{appID: billing, queued: true}]}")
    words = ("run", "-a", "calls-app", "-H", str(port), "--resources-path", str(tmp_path / "resources"))
    with Run(tmp_path, *words) as node:
        node.wait_line("You're up and running!")
        answer = request(port, "POST", "/v1.0/invoke/billing/method/x", b"", QUEUE)
        assert answer.status == 202
        asked = ask(tmp_path, "invocations", "list", "-a", "calls-app", "--json")
        (row,) = json.loads(asked.stdout)["invocations"]
        assert (row["id"], row["state"], row["caller"]) == (answer.json()["id"], "waiting", "calls-app")
        shown = ask(tmp_path, "invocations", "show", row["id"], "-a", "calls-app")
        assert json.loads(shown.stdout)["path"] == "/x"
        dropped = ask(tmp_path, "outbox", "drop", "-a", "calls-app", "link/cloud/invoke/billing", row["id"])
        assert dropped.returncode == 0
        shown = ask(tmp_path, "invocations", "show", row["id"], "-a", "calls-app", "--json")
        assert (json.loads(shown.stdout)["state"], json.loads(shown.stdout)["reason"]) == ("dropped", "discarded")
        missing = ask(tmp_path, "invocations", "show", "no-1-2", "-a", "calls-app", "--json")
        assert (missing.returncode, "there is no call" in json.loads(missing.stdout)["error"]) == (1, True)
        assert ask(tmp_path, "invocations", "list", "--state", "lost").returncode == 255


# --- bindings ---------------------------------------------------------------------------------------------------------


def bind(edge: Sidecar, name: str, operation: str, data: Any = None, **metadata: str) -> Answer:
    body = {"operation": operation, "metadata": metadata, **({} if data is None else {"data": data})}
    return edge.http("POST", f"/v1.0/bindings/{name}", body)


def test_a_binding_is_called_directly(tmp_path: Path) -> None:
    with open_cloud(tmp_path) as cloud, cloud.edge() as edge:
        until(lambda: UP in edge.said)
        created = bind(edge, "now", "create", {"n": 12345678901234567890}, fileName="a.json")
        assert created.status == 200, created.body
        read = bind(edge, "now", "get", fileName="a.json")
        assert (read.status, read.body) == (200, b'{"n":12345678901234567890}')
        answer = bind(edge, "now", "get", fileName="missing")
        assert (answer.status, answer.json()["errorCode"]) == (500, "ERR_INVOKE_OUTPUT_BINDING")
        message = answer.json()["message"]
        assert message.startswith("error invoking output binding now: link cloud: answered 500: error invoking output ")
        components = edge.http("GET", "/v1.0/metadata").json()["components"]
        assert {"name": "now", "type": "bindings.cloudlink", "version": "v1", "capabilities": ["OUTPUT_BINDING"]} in (
            components
        )
        with DaprClient(edge.grpc_port) as client:
            raw = InvokeBindingRequest(name="now", operation="create", data=b"\xff\0", metadata={"fileName": "b"})
            client.reply("InvokeBinding", raw)
            asked = InvokeBindingRequest(name="now", operation="get", metadata={"fileName": "b"})
            assert client.reply("InvokeBinding", asked).data == b"\xff\0"
        cloud.cut()
        edge.wait_line(DOWN)
        answer = bind(edge, "now", "get", fileName="a.json")
        assert (answer.status, "link cloud is down" in answer.json()["message"]) == (500, True)


def test_a_queued_binding_waits_its_turn(tmp_path: Path) -> None:
    with open_cloud(tmp_path) as cloud, cloud.edge() as edge:
        until(lambda: UP in edge.said)
        cloud.cut()
        down(edge)
        answers = [bind(edge, "mail", "create", {"n": n}, fileName="f", partitionKey="k") for n in range(5)]
        assert [answer.status for answer in answers] == [204] * 5
        ids = [answer.headers["metadata.edge-tracking-id"] for answer in answers]
        row = outcome(edge, ids[0])
        assert (row["state"], row["binding"], row["operation"]) == ("waiting", "mail", "create")
        cloud.mend()
        row = ended(edge, ids[-1])
        assert (row["state"], row["answer"]["status"]) == ("done", 200)
        assert (tmp_path / "files" / "f").read_bytes() == b'{"n":4}'
        (link,) = edge.http("GET", "/edge/v1/sync").json()["links"]
        shown = {(route["route"], route["name"]): route for route in link["routes"]}
        assert shown.keys() == {
            ("invocation", "billing"), ("invocation", "direct"), ("bindings", "mail"), ("bindings", "now"),
            ("bindings", "lost"),
        }  # fmt: skip
        assert (shown["bindings", "mail"]["to"], shown["bindings", "mail"]["deadLetters"]) == ("files", 0)
        routes = edge.http("GET", "/edge/v1/outbox").json()["routes"]
        assert {route["route"] for route in routes} == {"link/cloud/invoke/billing", "link/cloud/binding/mail"}


def test_raw_data_wait_too(tmp_path: Path) -> None:
    with open_cloud(tmp_path) as cloud, cloud.edge() as edge:
        data = bytes(range(256))
        with DaprClient(edge.grpc_port) as client:
            raw = InvokeBindingRequest(name="mail", operation="create", data=data, metadata={"fileName": "raw"})
            call_id = client.reply("InvokeBinding", raw).metadata["edge-tracking-id"]
        assert ended(edge, call_id)["state"] == "done"
        assert (tmp_path / "files" / "raw").read_bytes() == data


def test_a_component_of_the_name_comes_first(tmp_path: Path) -> None:
    with open_cloud(tmp_path) as cloud:
        (tmp_path / "resources").mkdir()
        (tmp_path / "resources" / "now.yaml").write_text(
            component("now", "bindings.localstorage", rootPath=str(tmp_path / "here"))
        )
        with cloud.edge() as edge:
            assert "has a component for 'now', which comes first" in edge.said
            bind(edge, "now", "create", "x", fileName="a")
            assert (tmp_path / "here" / "a").exists()
            assert not (tmp_path / "files" / "a").exists()
