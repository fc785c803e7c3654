"""What the app's answer to an event leads to, on the process with the durable broker."""

from __future__ import annotations

import base64
import json
import signal
import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.app import App, Received
from tests.support.resources import broker, resiliency, resources_flags, subscription, write
from tests.support.sidecar import Sidecar, request

pytestmark = pytest.mark.slow

Answer = tuple[int, Any]


class Script:
    """Answers a route with one answer after the other, and with success when there is none left."""

    def __init__(self, *answers: Answer) -> None:
        self._answers = list(answers)

    def __call__(self, _: Received) -> Answer:
        return self._answers.pop(0) if self._answers else (200, b"")


def publish(sidecar: Sidecar, topic: str, data: Any, query: str = "", **headers: str) -> None:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = sidecar.http("POST", f"/v1.0/publish/pubsub/{topic}{query}", data, sent)
    assert answer.status == 204, answer.body


# What the app says first, and how many calls it takes until the event is done with; in each the second event of the
# topic comes only after the first is (`order: strict`).
ANSWERS: dict[str, tuple[Answer, int, int]] = {
    # name: answer, calls without a dead-letter topic, copies with one
    "empty": ((200, b""), 1, 0),
    "text": ((200, b"fine"), 1, 0),
    "created": ((201, {"other": 1}), 1, 0),
    "success": ((200, {"status": "SUCCESS"}), 1, 0),
    "no-string": ((200, {"status": 5}), 1, 0),
    "blank": ((200, {"status": ""}), 1, 0),
    "retry": ((200, {"status": "RETRY"}), 2, 1),
    "lower": ((200, {"status": "success"}), 2, 1),
    "unknown": ((202, {"status": "LATER"}), 2, 1),
    "drop": ((200, {"status": "DROP"}), 1, 1),
    "not-found": ((404, b""), 1, 1),
    "moved": ((302, b""), 2, 1),
    "client": ((400, {"status": "SUCCESS"}), 2, 1),
    "server": ((503, {"status": "DROP"}), 2, 1),
}


def test_every_answer_has_its_outcome(tmp_path: Path) -> None:
    strict = {"order": "strict"}
    documents = [broker()]
    routes: dict[str, Script] = {}
    for name, (answer, _, _) in ANSWERS.items():
        documents.append(subscription(f"{name}-alone", f"/{name}-alone", metadata=strict))
        documents.append(
            subscription(f"{name}-dead", f"{name}-dead", metadata=strict, deadLetterTopic=f"{name}-letters")
        )
        documents.append(subscription(f"{name}-letters", f"/{name}-letters"))
        routes[f"/{name}-alone"], routes[f"/{name}-dead"] = Script(answer), Script(answer)
        routes[f"/{name}-letters"] = Script()
    resources = write(tmp_path / "r", "a.yaml", *documents)
    with App(routes) as app, Sidecar(tmp_path, *resources_flags(resources), app_port=app.port) as sidecar:
        for name in ANSWERS:
            for data in ("first", "second"):
                publish(sidecar, f"{name}-alone", data)
                publish(sidecar, f"{name}-dead", data)
        expected = sum(calls + 1 + 2 + copies for _, calls, copies in ANSWERS.values())
        came = defaultdict(list)
        for event in (app.next() for _ in range(expected)):
            came[event.path].append(event)
        assert sidecar.stop() == 0
        assert app.received.empty()
    for name, (_, calls, copies) in ANSWERS.items():
        assert [event.json()["data"] for event in came[f"/{name}-alone"]] == ["first"] * calls + ["second"], name
        assert [event.json()["data"] for event in came[f"/{name}-dead"]] == ["first", "second"], name
        letters = came[f"/{name}-letters"]
        assert [event.json()["data"] for event in letters] == ["first"] * copies, name
        for letter in letters:
            assert letter.body == came[f"/{name}-dead"][0].body  # the original bytes, with the original topic


def test_the_request_of_a_delivery(tmp_path: Path) -> None:
    resources = write(tmp_path / "r", "a.yaml", broker(), subscription("t", "in"))
    with App({"/in": Script()}) as app, Sidecar(tmp_path, *resources_flags(resources), app_port=app.port) as sidecar:
        trace = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"
        publish(sidecar, "t", {"n": 2**60}, "?metadata.color=blue", traceparent=trace, tracestate="a=b")
        event = app.next()
        assert (event.method, event.path) == ("POST", "/in")
        assert event.headers["content-type"] == "application/cloudevents+json"
        assert event.headers["pubsubname"] == "pubsub"
        assert event.headers["traceparent"].split("-")[1] == trace.split("-")[1]
        assert event.headers["tracestate"] == "a=b"
        assert event.headers["content-length"] == str(len(event.body))
        envelope = event.json()
        assert list(envelope) == sorted(envelope)
        assert set(envelope) == {
            *("data", "datacontenttype", "id", "pubsubname", "source", "specversion", "time", "topic", "traceid"),
            *("traceparent", "tracestate", "type"),
        }
        assert (envelope["source"], envelope["type"], envelope["specversion"]) == ("app", "com.dapr.event.sent", "1.0")
        assert (envelope["topic"], envelope["pubsubname"], envelope["data"]) == ("t", "pubsub", {"n": 2**60})
        assert envelope["datacontenttype"] == "application/json"
        assert envelope["traceid"] == envelope["traceparent"]


def test_content_types_reach_the_app(tmp_path: Path) -> None:
    resources = write(tmp_path / "r", "a.yaml", broker(), subscription("t", "/in", metadata={"order": "strict"}))
    with App({"/in": Script()}) as app, Sidecar(tmp_path, *resources_flags(resources), app_port=app.port) as sidecar:

        def event(body: bytes, kind: str, query: str = "") -> Any:
            publish(sidecar, "t", body, query, content_type=kind)
            return app.next().json()

        assert event(b"plain <&>", "text/plain")["data"] == "plain <&>"
        assert event(b"{oops", "application/json")["data"] == "{oops"
        assert event(b"\x00\xff", "application/octet-stream")["data_base64"] == base64.b64encode(b"\x00\xff").decode()
        assert event(b'{"a":1}', "application/vnd.x+json")["data"] == '{"a":1}'
        made = {"specversion": "1.0", "id": "mine", "source": "there", "type": "t", "data": {"n": 1}, "topic": "other"}
        given = event(json.dumps(made).encode(), "application/cloudevents+json")
        assert (given["id"], given["source"], given["topic"], given["data"]) == ("mine", "there", "t", {"n": 1})
        override = event(b"1", "application/json", "?metadata.cloudevent.id=x&metadata.cloudevent.source=y")
        assert (override["id"], override["source"], override["data"]) == ("x", "y", 1)


def test_raw_payloads_both_ways(tmp_path: Path) -> None:
    raw = {"rawPayload": "true", "order": "strict"}
    documents = (
        broker(),
        subscription("raw", "/raw", metadata=raw),
        subscription("odd", "/odd", deadLetterTopic="dead"),
    )
    bad_flag = subscription("flag", "/flag", metadata={"rawPayload": "maybe"}, deadLetterTopic="dead")
    dead = subscription("dead", "/dead", metadata=raw)
    resources = write(tmp_path / "r", "a.yaml", *documents, bad_flag, dead)
    routes = {"/raw": Script((500, b"")), "/odd": Script(), "/dead": Script(), "/flag": Script()}
    with App(routes) as app, Sidecar(tmp_path, *resources_flags(resources), app_port=app.port) as sidecar:
        publish(sidecar, "raw", b"\x00bytes", "?metadata.rawPayload=true", content_type="application/octet-stream")
        first, again = app.next(), app.next()
        for event in (first, again):
            envelope = event.json()
            assert base64.b64decode(envelope["data_base64"]) == b"\x00bytes"
            assert event.headers["content-type"] == "application/cloudevents+json"
            assert (envelope["source"], envelope["datacontenttype"]) == ("Dapr", "application/octet-stream")
        assert first.json()["id"] != again.json()["id"]  # a new one each time
        # What is no CloudEvent, and a flag that cannot be read, end in the dead letters.
        publish(sidecar, "odd", b"no event", "?metadata.rawPayload=true", content_type="text/plain")
        assert base64.b64decode(app.next().json()["data_base64"]) == b"no event"
        publish(sidecar, "flag", b"flagged", "?metadata.rawPayload=true", content_type="text/plain")
        assert base64.b64decode(app.next().json()["data_base64"]) == b"flagged"


def test_expired_events_do_not_reach_the_app(tmp_path: Path) -> None:
    """An envelope may carry its expiration; one that is past is done with, and copied to the dead letters."""
    documents = (broker(), subscription("t", "/in", deadLetterTopic="dead"), subscription("dead", "/dead"))
    resources = write(tmp_path / "r", "a.yaml", *documents)
    with (
        App({"/in": Script(), "/dead": Script()}) as app,
        Sidecar(tmp_path, *resources_flags(resources), app_port=app.port) as sidecar,
    ):
        old = {"specversion": "1.0", "id": "1", "source": "s", "type": "t", "data": 1}
        old["expiration"] = "2001-01-01T00:00:00Z"
        publish(sidecar, "t", json.dumps(old).encode(), content_type="application/cloudevents+json")
        # The copy has expired as well where it arrives, so nobody is called; the next event comes alone.
        publish(sidecar, "t", "fresh")
        event = app.next()
        assert (event.path, event.json()["data"]) == ("/in", "fresh")
        publish(sidecar, "t", "lives", "?metadata.ttlInSeconds=100")
        assert app.next().json()["data"] == "lives"


def test_a_policy_tries_before_the_dead_letters(tmp_path: Path) -> None:
    policies = {
        "retries": {
            "twice": {
                "policy": "constant",
                "duration": "5ms",
                "maxRetries": 2,
                "matching": {"httpStatusCodes": "500-599"},
            }
        }
    }
    targets = {"components": {"pubsub": {"inbound": {"retry": "twice"}}}}
    dead = {"deadLetterTopic": "dead"}
    documents = (
        broker(),
        subscription("dead", "/dead"),
        *(subscription(t, f"/{t}", **dead) for t in ("a", "b", "c", "d")),
    )
    resources = write(tmp_path / "r", "a.yaml", *documents)
    write(resources, "b.yaml", resiliency("res", policies, targets))
    failed: Answer = (500, b"")
    routes = {
        "/a": Script(failed, failed),  # well the third time
        "/b": Script(failed, failed, failed),  # never in time
        "/c": Script((400, b"")),  # not worth another attempt
        "/d": Script((200, {"status": "RETRY"}), (200, {"status": "RETRY"})),  # no HTTP error, so always worth one
        "/dead": Script(),
    }
    with App(routes) as app, Sidecar(tmp_path, *resources_flags(resources), app_port=app.port) as sidecar:

        def paths(topic: str, count: int) -> list[str]:
            publish(sidecar, topic, topic)
            return [app.next().path for _ in range(count)]

        assert paths("a", 3) == ["/a"] * 3
        assert paths("b", 4) == ["/b", "/b", "/b", "/dead"]
        assert paths("c", 2) == ["/c", "/dead"]
        assert paths("d", 3) == ["/d"] * 3
        text = sidecar.metrics()
        labels = 'flow_direction="inbound",name="res",namespace="",policy="retry",status="",target="Pubsub_pubsub"'
        assert f'dapr_resiliency_count{{app_id="app",{labels}}}' in text
        assert f'dapr_resiliency_activations_total{{app_id="app",{labels}}} 6' in text
        assert sidecar.stop() == 0
        assert app.received.empty()


def test_a_dead_letter_that_cannot_be_kept(tmp_path: Path) -> None:
    """The scopes forbid the dead-letter topic, so the event stays and comes again."""
    documents = (broker(publishingScopes="app=t"), subscription("t", "/in", deadLetterTopic="dead"))
    resources = write(tmp_path / "r", "a.yaml", *documents)
    with (
        App({"/in": Script((500, b""), (500, b""))}) as app,
        Sidecar(tmp_path, *resources_flags(resources), app_port=app.port) as sidecar,
    ):
        publish(sidecar, "t", "x")
        assert len({app.next().json()["id"] for _ in range(3)}) == 1
        assert "dead-letter topic dead" in sidecar.said


def test_strict_order_survives_refusals(tmp_path: Path) -> None:
    resources = write(tmp_path / "r", "a.yaml", broker(), subscription("t", "/in", metadata={"order": "strict"}))
    refused: set[int] = set()

    def refuse_once(came: Received) -> Answer:
        n = came.json()["data"]
        if n % 3 or n in refused:
            return 200, b""
        refused.add(n)
        return 500, b""

    with App({"/in": refuse_once}) as app, Sidecar(tmp_path, *resources_flags(resources), app_port=app.port) as sidecar:
        for n in range(10):
            publish(sidecar, "t", n)
        order = [app.next().json()["data"] for _ in range(14)]
    assert order == [0, 0, 1, 2, 3, 3, 4, 5, 6, 6, 7, 8, 9, 9]


class Held:
    """A route whose calls wait until they are let go."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.now = 0
        self.most = 0
        self._lock = threading.Lock()
        self.enough = threading.Semaphore(0)

    def __call__(self, _: Received) -> Answer:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        self.enough.release()
        self.let_go.wait(30)
        with self._lock:
            self.now -= 1
        return 200, b""


def test_an_event_in_hand_comes_again_after_a_kill(tmp_path: Path) -> None:
    resources = write(tmp_path / "r", "a.yaml", broker(), subscription("t", "/in"))
    held = Held()
    with App({"/in": held}) as app:
        with Sidecar(tmp_path, *resources_flags(resources), app_port=app.port) as sidecar:
            publish(sidecar, "t", "x")
            first = app.next()
            sidecar.kill()
            held.let_go.set()
        with Sidecar(tmp_path, *resources_flags(resources), app_port=app.port):
            assert app.next().json()["id"] == first.json()["id"]


def test_a_stop_lets_the_event_in_hand_finish(tmp_path: Path) -> None:
    resources = write(tmp_path / "r", "a.yaml", broker(), subscription("t", "/in", metadata={"order": "strict"}))
    held = Held()
    with App({"/in": held}) as app:
        with Sidecar(tmp_path, *resources_flags(resources), app_port=app.port) as sidecar:
            publish(sidecar, "t", "in hand")
            publish(sidecar, "t", "waits")
            assert app.next().json()["data"] == "in hand"
            sidecar.signal(signal.SIGTERM)
            sidecar.wait_line("stopping subscriptions")
            held.let_go.set()
            assert sidecar.wait() == 0
        assert app.received.empty()
        with Sidecar(tmp_path, *resources_flags(resources), app_port=app.port):
            assert app.next().json()["data"] == "waits"  # and not the other again


def test_a_failure_during_the_stop_is_no_dead_letter(tmp_path: Path) -> None:
    documents = (broker(), subscription("t", "/in", deadLetterTopic="dead"), subscription("dead", "/dead"))
    resources = write(tmp_path / "r", "a.yaml", *documents)
    let_go = threading.Event()
    status = [500]

    def fail(_: Received) -> Answer:
        let_go.wait(30)
        return status[0], b""

    with App({"/in": fail, "/dead": Script()}) as app:
        with Sidecar(tmp_path, *resources_flags(resources), app_port=app.port) as sidecar:
            publish(sidecar, "t", "x")
            first = app.next()
            sidecar.signal(signal.SIGTERM)
            sidecar.wait_line("stopping subscriptions")
            let_go.set()
            assert sidecar.wait() == 0
        status[0] = 200
        with Sidecar(tmp_path, *resources_flags(resources), app_port=app.port) as sidecar:
            again = app.next()
            assert (again.path, again.json()["id"]) == ("/in", first.json()["id"])


def test_concurrency_binds_all_calls_together(tmp_path: Path) -> None:
    resources = write(tmp_path / "r", "a.yaml", broker(), subscription("t", "/in"))
    held = Held()
    flags = ("--app-max-concurrency", "2", *resources_flags(resources))
    with App({"/in": held, "/direct": held}) as app, Sidecar(tmp_path, *flags, app_port=app.port) as sidecar:
        for n in range(4):
            publish(sidecar, "t", n)
        callers = [
            threading.Thread(target=request, args=(sidecar.port, "GET", "/v1.0/invoke/app/method/direct"))
            for _ in range(3)
        ]
        for _ in range(2):
            assert held.enough.acquire(timeout=30)
        for caller in callers:
            caller.start()
        # The API itself is not held up.
        assert sidecar.http("GET", "/v1.0/healthz").status == 204
        assert held.now == 2
        held.let_go.set()
        for caller in callers:
            caller.join()
        for _ in range(7):
            app.next()
        assert held.most == 2


@pytest.fixture
def bulk(tmp_path: Path) -> Iterator[tuple[App, Sidecar, dict[str, Any]]]:
    settings = {"enabled": True, "maxMessagesCount": 4, "maxAwaitDurationMs": 40}
    documents = (
        broker(),
        subscription("t", "/in", bulkSubscribe=settings, deadLetterTopic="dead"),
        subscription("dead", "/dead"),
        subscription("raw", "/raw", bulkSubscribe=settings, metadata={"rawPayload": "true"}),
    )
    resources = write(tmp_path / "r", "a.yaml", *documents)
    routes: dict[str, Any] = {"/dead": Script()}
    with App(routes) as app, Sidecar(tmp_path, *resources_flags(resources), app_port=app.port) as sidecar:
        yield app, sidecar, routes


def say(**by_data: str) -> Any:
    """Answers each entry by its data; what is not named is left out of the answer."""

    def answer(came: Received) -> Answer:
        entries = came.json()["entries"]
        said = [(entry["entryId"], by_data.get(str(entry["event"]["data"]))) for entry in entries]
        return 200, {"statuses": [{"entryId": i, "status": s} for i, s in said if s is not None]}

    return answer


def bulk_publish(sidecar: Sidecar, topic: str, *data: Any) -> None:
    entries = [{"entryId": str(n), "event": item, "contentType": "application/json"} for n, item in enumerate(data)]
    assert sidecar.http("POST", f"/v1.0-alpha1/publish/bulk/pubsub/{topic}", entries).status == 204


def test_batches_and_their_entries(bulk: tuple[App, Sidecar, dict[str, Any]]) -> None:
    app, sidecar, routes = bulk
    routes["/in"] = say(ok="SUCCESS", drop="DROP", retry="RETRY")
    bulk_publish(sidecar, "t", "ok", "drop", "retry", "silent")
    batch = app.next()
    body = batch.json()
    assert batch.headers["content-type"] == "application/json"
    assert (body["type"], body["topic"], body["pubsubname"]) == ("com.dapr.event.sent.bulk", "t", "pubsub")
    assert body["metadata"]["pubsubName"] == "pubsub"
    assert [entry["event"]["data"] for entry in body["entries"]] == ["ok", "drop", "retry", "silent"]
    for entry in body["entries"]:
        assert set(entry) == {"entryId", "event", "metadata", "contentType"}
        assert entry["contentType"] == "application/cloudevents+json"
    assert sorted(app.next().json()["data"] for _ in range(3)) == ["drop", "retry", "silent"]  # dead letters


@pytest.mark.parametrize(
    ("answer", "copies"),
    [((404, b""), 0), ((200, b""), 2), ((200, b"no json"), 2), ((500, b""), 2), ((200, {"statuses": []}), 2)],
)
def test_answers_to_a_whole_batch(bulk: tuple[App, Sidecar, dict[str, Any]], answer: Answer, copies: int) -> None:
    app, sidecar, routes = bulk
    routes["/in"] = lambda _: answer
    bulk_publish(sidecar, "t", 1, 2)
    assert len(app.next().json()["entries"]) == 2
    assert [app.next().path for _ in range(copies)] == ["/dead"] * copies
    routes["/in"] = say(end="SUCCESS")
    bulk_publish(sidecar, "t", "end")
    last = app.next()
    assert [entry["event"]["data"] for entry in last.json()["entries"]] == ["end"]


def test_raw_batches_are_base64(bulk: tuple[App, Sidecar, dict[str, Any]]) -> None:
    app, sidecar, routes = bulk
    routes["/raw"] = lambda came: (
        200,
        {"statuses": [{"entryId": entry["entryId"], "status": "SUCCESS"} for entry in came.json()["entries"]]},
    )
    publish(sidecar, "raw", b"\x01\x02", "?metadata.rawPayload=true", content_type="application/octet-stream")
    [entry] = app.next().json()["entries"]
    assert base64.b64decode(entry["event"]) == b"\x01\x02"
    assert entry["contentType"] == "application/octet-stream"
