"""Events to an app that speaks gRPC: what it is asked, what it gets, and what its answers do."""

from __future__ import annotations

import json
import queue
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from edge_runtime.proto.dapr.proto.runtime.v1.appcallback_pb2 import (
    BulkSubscribeConfig,
    HealthCheckResponse,
    TopicEventBulkRequest,
    TopicEventBulkResponse,
    TopicEventBulkResponseEntry,
    TopicEventResponse,
    TopicRoutes,
    TopicRule,
    TopicSubscription,
)
from tests.support.callback_app import BULK, BULK_ALPHA, EVENT, HEALTH, LIST, Answer, CallbackApp, subscriptions
from tests.support.resources import broker, component, resiliency, resources_flags, subscription, write
from tests.support.sidecar import Sidecar, free_port
from tests.support.topic_stream import subscribed

pytestmark = pytest.mark.slow
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SUCCESS, RETRY, DROP = TopicEventResponse.SUCCESS, TopicEventResponse.RETRY, TopicEventResponse.DROP


def on(topic: str, *, pubsub: str = "pubsub", **more: Any) -> TopicSubscription:
    return TopicSubscription(pubsub_name=pubsub, topic=topic, **more)


def done(_: object) -> Message:
    return TopicEventResponse()


def by_data(request: Any) -> Message | grpc.StatusCode:
    """The app does what the event's data say: a status by its number, or the name of a code."""
    said = json.loads(request.data)
    return grpc.StatusCode[said] if isinstance(said, str) else TopicEventResponse(status=said)


@contextmanager
def running(
    directory: Path, app: CallbackApp, *documents: dict[str, Any], flags: tuple[str, ...] = (), **more: Any
) -> Iterator[Sidecar]:
    policy = {"retries": {"twice": {"policy": "constant", "duration": "10ms", "maxRetries": 1}}}
    targets = {"components": {"retried": {"inbound": {"retry": "twice"}}}}
    resources = write(directory / "r", "all.yaml", broker(), component("memory", "pubsub.in-memory"), *documents)
    write(resources, "resiliency.yaml", resiliency("r", policy, targets))
    options = ("--app-protocol", "grpc", *resources_flags(resources), *flags)
    with Sidecar(directory, *options, app_port=app.port, **more) as sidecar:
        yield sidecar
        assert sidecar.stop() == 0


def publish(sidecar: Sidecar, topic: str, data: Any, *, pubsub: str = "pubsub", headers: Any = None) -> None:
    sent = {"content-type": "application/json", **(headers or {})}
    answer = sidecar.http("POST", f"/v1.0/publish/{pubsub}/{topic}", json.dumps(data).encode(), sent)
    assert answer.status == 204


# --- what the app is asked, and what it gets --------------------------------------------------------------------------


@pytest.mark.parametrize("pubsub", ["pubsub", "memory"])
def test_an_event_is_called_in(tmp_path: Path, pubsub: str) -> None:
    rules = [TopicRule(match='event.data.kind == "big"', path="/big")]
    routed = on("routed", pubsub=pubsub, routes=TopicRoutes(rules=rules, default="/all"))
    environment = {"APP_API_TOKEN": "secret"}
    answers: dict[str, Answer] = {LIST: subscriptions(on("plain", pubsub=pubsub), routed), EVENT: done}
    with CallbackApp(answers) as app, running(tmp_path, app, environment=environment) as sidecar:
        assert app.next_asked().metadata["dapr-api-token"] == "secret"
        query = "?metadata.shade=blue"
        body = b'{"exact":9007199254740993}'
        sent = {"content-type": "application/json", "traceparent": TRACE}
        assert sidecar.http("POST", f"/v1.0/publish/{pubsub}/plain{query}", body, sent).status == 204
        called = app.next()
        request, metadata = called.request, called.metadata
        assert (called.path, request.path, request.topic, request.pubsub_name) == (EVENT, "", "plain", pubsub)
        assert request.data == body
        assert request.extensions["traceparent"][:36] == TRACE[:36]
        assert (metadata["dapr-api-token"], metadata["shade"]) == ("secret", "blue")
        assert str(metadata["traceparent"])[:36] == TRACE[:36]
        # grpc-trace-bin comes too, but gRPC's own server keeps it to itself
        publish(sidecar, "routed", {"kind": "big"}, pubsub=pubsub)
        assert app.next().request.path == "/big"
        publish(sidecar, "routed", {"kind": "small"}, pubsub=pubsub)
        assert app.next().request.path == "/all"
        rows = sidecar.http("GET", "/v1.0/metadata").json()["subscriptions"]
        assert [(row["topic"], row["type"]) for row in rows] == [
            ("plain", "PROGRAMMATIC"),
            ("routed", "PROGRAMMATIC"),
        ]


def test_declared_subscriptions_need_no_list(tmp_path: Path) -> None:
    with CallbackApp({EVENT: done}) as app, running(tmp_path, app, subscription("t", "/in")) as sidecar:
        publish(sidecar, "t", 1)
        assert app.next().request.path == "/in"
        assert app.asked.empty()  # ListTopicSubscriptions is not implemented, and that is no failure


def test_the_list_is_asked_for_again_while_the_app_fails(tmp_path: Path) -> None:
    failures = queue.SimpleQueue[bool]()
    failures.put(True)

    def once_failing(request: object) -> Message | grpc.StatusCode:
        return grpc.StatusCode.INTERNAL if not failures.empty() and failures.get() else subscriptions(on("t"))(request)

    with CallbackApp({LIST: once_failing, EVENT: done}) as app, running(tmp_path, app) as sidecar:
        publish(sidecar, "t", 1)
        assert app.next().request.data == b"1"
        assert app.asked.qsize() == 2


# --- what answers do --------------------------------------------------------------------------------------------------


def test_answers_decide(tmp_path: Path) -> None:
    """Refused events come again, dropped ones do not, and an event for a call that is not there is lost."""
    listed = subscriptions(on("t"), on("buried", dead_letter_topic="dead"))
    with CallbackApp({LIST: listed, EVENT: by_data}) as app, running(tmp_path, app) as sidecar:
        for again in (RETRY, 9, "INTERNAL", "UNAVAILABLE"):
            publish(sidecar, "t", again)
            assert [app.next().request.data for _ in range(2)] == [json.dumps(again).encode()] * 2
            answers, app.answers[EVENT] = app.answers[EVENT], done
            while app.next().request.data != json.dumps(again).encode():
                pass
            app.answers[EVENT] = answers
        with subscribed(sidecar.grpc_port, "dead") as graveyard:
            for data in (SUCCESS, "UNIMPLEMENTED", DROP, RETRY, "NOT_FOUND"):
                publish(sidecar, "buried", data)
                event = _of(app, "buried")
                assert json.loads(event.data) == data
            buried = [json.loads(graveyard.event().data) for _ in range(3)]
        assert buried == [DROP, RETRY, "NOT_FOUND"]
        assert "an event of topic buried is lost" in sidecar.said


def _of(app: CallbackApp, topic: str) -> Any:
    while True:
        request = app.next().request
        if request.topic == topic:
            return request


def test_the_inbound_policy_tries_again(tmp_path: Path) -> None:
    listed = subscriptions(on("t", pubsub="retried", dead_letter_topic="dead"))
    with CallbackApp({LIST: listed, EVENT: by_data}) as app, running(tmp_path, app, broker("retried")) as sidecar:
        with subscribed(sidecar.grpc_port, "dead", pubsub="retried") as graveyard:
            publish(sidecar, "t", "INTERNAL", pubsub="retried")
            assert graveyard.event().data == b'"INTERNAL"'
        assert app.calls.qsize() == 2


def test_an_app_that_restarts_gets_its_events(tmp_path: Path) -> None:
    answers: dict[str, Answer] = {LIST: subscriptions(on("t")), EVENT: done}
    port = free_port()
    with CallbackApp(answers, port) as app, running(tmp_path, app) as sidecar:
        publish(sidecar, "t", 1)
        assert app.next().request.data == b"1"
        app.__exit__(None, None, None)
        publish(sidecar, "t", 2)
        sidecar.wait_line("an event of topic t on pubsub pubsub")
        with CallbackApp(answers, port) as other:
            # The first answer may have been cut off with its server: then that event comes again, before this one.
            assert b"2" in (event.request.data for event in iter(other.next, None))


# --- batches ----------------------------------------------------------------------------------------------------------


class Batches:
    """Takes what comes; an entry whose data is in `refused` is not named in the answer, once."""

    def __init__(self, *refused: int) -> None:
        self.refused = set(refused)
        self.taken: queue.Queue[int] = queue.Queue()

    def __call__(self, request: TopicEventBulkRequest) -> Message:
        response = TopicEventBulkResponse()
        for entry in request.entries:
            number = json.loads(entry.cloud_event.data)
            if number in self.refused:
                self.refused.discard(number)
            else:
                response.statuses.append(TopicEventBulkResponseEntry(entry_id=entry.entry_id))
                self.taken.put(number)
        return response


@pytest.mark.parametrize("path", [BULK, BULK_ALPHA])
def test_batches_arrive_by_either_name(tmp_path: Path, path: str) -> None:
    bulk = BulkSubscribeConfig(enabled=True, max_messages_count=5, max_await_duration_ms=50)
    batches = Batches(3)
    answers: dict[str, Answer] = {LIST: subscriptions(on("t", bulk_subscribe=bulk)), path: batches}
    with CallbackApp(answers) as app, running(tmp_path, app) as sidecar:
        for number in range(12):
            publish(sidecar, "t", number)
        assert sorted(batches.taken.get(timeout=30) for _ in range(12)) == list(range(12))
        called = app.next()
        assert (called.path, called.request.type) == (path, "com.dapr.event.sent.bulk")
        assert dict(called.request.metadata) == {"pubsubName": "pubsub"}
        entry = called.request.entries[0]
        assert (entry.content_type, entry.cloud_event.type) == ("application/cloudevents+json", "com.dapr.event.sent")
        assert sidecar.said.count("takes batches by") == (path == BULK_ALPHA)


# --- health -----------------------------------------------------------------------------------------------------------


def test_health_checks_gate_the_app(tmp_path: Path) -> None:
    """Unhealthy: nothing is subscribed. Healthy again: the app is asked anew. Streams go on throughout."""
    well: list[bool] = []
    listed = [subscriptions(on("first")), subscriptions(on("second"))]
    answers: dict[str, Answer] = {
        HEALTH: lambda _: HealthCheckResponse() if well else grpc.StatusCode.UNAVAILABLE,
        LIST: lambda request: (listed.pop(0) if listed else subscriptions())(request),
        EVENT: done,
    }
    checks = ("--enable-app-health-check", "--app-health-probe-interval", "1", "--app-health-threshold", "1")
    with CallbackApp(answers) as app, running(tmp_path, app, flags=checks) as sidecar:
        assert app.next_asked().path == HEALTH
        with subscribed(sidecar.grpc_port, "streamed") as stream:
            publish(sidecar, "streamed", 0)
            stream.answer(stream.event())
            publish(sidecar, "first", 1)
            well.append(True)
            assert app.next().request.data == b"1"
            well.clear()
            sidecar.wait_line("stopping subscriptions")
            publish(sidecar, "second", 2)
            publish(sidecar, "streamed", 3)
            assert stream.event().data == b"3"
            assert app.calls.empty()
            well.append(True)
            assert app.next().request.data == b"2"
        text = sidecar.metrics()
        for code in ("OK", "Unavailable"):
            assert f'dapr_grpc_io_healthprobes_completed_count{{app_id="app",grpc_client_status="{code}"}}' in text
