"""An app with `dapr.ext.grpc`: methods, subscriptions, health and a service of its own; says what comes."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import echo
from dapr.ext.grpc import App, InvokeMethodRequest, InvokeMethodResponse, Rule, SubscriptionMessage, TopicEventResponse
from google.protobuf.wrappers_pb2 import StringValue
from lines import say

app = App(thread_pool=ThreadPoolExecutor(120))
tries: Counter[str] = Counter()
healthy = threading.Event()
healthy.set()


def shown(event: SubscriptionMessage) -> dict[str, Any]:
    return {
        "id": event.id(),
        "source": event.source(),
        "type": event.type(),
        "version": event.spec_version(),
        "content_type": event.data_content_type(),
        "topic": event.topic(),
        "pubsub": event.pubsub_name(),
        "data": event.raw_data().decode("latin-1"),
        "extensions": event.extensions(),
        "metadata": {key: value for key, value in event.metadata().items() if not key.endswith("-bin")},
    }


# methods


@app.method(name="echo")
def same(request: InvokeMethodRequest) -> InvokeMethodResponse:
    said = {
        "data": request.text(),
        "content_type": request.content_type,
        "metadata": {key: values for key, values in request.metadata.items() if not key.endswith("-bin")},
    }
    return InvokeMethodResponse(json.dumps(said), "application/json", headers=(("x-own", "header"),))


@app.method(name="packed")
def packed(request: InvokeMethodRequest) -> StringValue:
    came = StringValue()
    request.unpack(came)
    return StringValue(value=came.value * 2)


@app.method(name="bytes")
def some_bytes(request: InvokeMethodRequest) -> InvokeMethodResponse:
    return InvokeMethodResponse(request.data, "application/octet-stream")


@app.method(name="nothing")
def nothing(request: InvokeMethodRequest) -> None:
    return None


@app.method(name="deep/er/path")
def deep(request: InvokeMethodRequest) -> bytes:
    return b'"deep"'


@app.method(name="raise")
def failing(request: InvokeMethodRequest) -> None:
    raise RuntimeError("on purpose")


@app.method(name="slow")
def slow(request: InvokeMethodRequest) -> None:
    """Longer than any caller waits; ends with the process."""
    threading.Event().wait(5)


# subscriptions


@app.subscribe(pubsub_name="pubsub", topic="events")
def events(event: SubscriptionMessage) -> None:
    say("events", shown(event))


@app.subscribe(pubsub_name="pubsub", topic="legacy")
def legacy(event: Any) -> None:
    """Without an annotation the SDK hands over an event of its old kind."""
    say("legacy", [event.EventID() != "", event.EventType(), event.Subject(), event.Data().decode()])


@app.subscribe(pubsub_name="pubsub", topic="raw", metadata={"rawPayload": "true"})
def raw(event: SubscriptionMessage) -> TopicEventResponse:
    say("raw", shown(event))
    return TopicEventResponse("success")


@app.subscribe(pubsub_name="pubsub", topic="doomed", dead_letter_topic="dead")
def doomed(event: SubscriptionMessage) -> TopicEventResponse:
    answer = event.data()
    say("doomed", answer)
    if answer == "raise":
        raise RuntimeError("on purpose")
    return TopicEventResponse(answer)


@app.subscribe(pubsub_name="pubsub", topic="dead")
def dead(event: SubscriptionMessage) -> None:
    say("dead", [event.data(), event.topic()])


@app.subscribe(pubsub_name="pubsub", topic="again")
def again(event: SubscriptionMessage) -> TopicEventResponse:
    answer = event.data()[tries[event.id()]]
    tries[event.id()] += 1
    say("again", answer)
    if answer == "raise":
        raise RuntimeError("on purpose")
    return TopicEventResponse(answer)


@app.subscribe(pubsub_name="pubsub", topic="ruled", disable_topic_validation=True)  # what makes it the default
def ruled_other(event: SubscriptionMessage) -> None:
    say("ruled", ["other", event.data()])


@app.subscribe(pubsub_name="pubsub", topic="ruled", rule=Rule('event.type == "shop.widget"', 1))
def ruled_widgets(event: SubscriptionMessage) -> None:
    say("ruled", ["widgets", event.data()])


@app.subscribe(pubsub_name="pubsub", topic="ruled", rule=Rule("event.data.size > 10", 2))
def ruled_large(event: SubscriptionMessage) -> None:
    say("ruled", ["large", event.data()])


@app.subscribe(pubsub_name="pubsub", topic="bulk")
def bulk(event: SubscriptionMessage) -> None:
    say("bulk", [event.data(), event.raw_data().decode(), event.data_content_type()])


@app.subscribe(pubsub_name="pubsub", topic="by-route")
def by_route(event: SubscriptionMessage) -> TopicEventResponse:
    """The test has a declarative Subscription lead here that wants bulk delivery, for which the SDK has no words."""
    came = event.data()
    tries[f"bulk-{came['id']}"] += 1
    say("by-route", [came["id"], tries[f"bulk-{came['id']}"]])
    return TopicEventResponse(came["answer"] if tries[f"bulk-{came['id']}"] == 1 else "success")


@app.register_health_check
def check() -> None:
    if not healthy.is_set():
        raise RuntimeError("ill on purpose")


def turn(*_: object) -> None:
    """The test makes the app ill and well again by a signal."""
    healthy.clear() if healthy.is_set() else healthy.set()


signal.signal(signal.SIGUSR1, turn)


app.add_external_service(echo.add_to, object())
say("starting")
app.run(int(os.environ["APP_PORT"]), "127.0.0.1")
