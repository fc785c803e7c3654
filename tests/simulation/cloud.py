"""The cloud: a broker's topic, a sidecar for each node, and an app that reads the topic with the receiver check.

The broker gives at least once, and now and then again what it gave before. A sidecar answers as Dapr does, or as
whatever stands before it does when something is wrong.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct

from edge_runtime.proto.dapr.proto.runtime.v1.appcallback_pb2 import TopicEventRequest, TopicEventResponse
from edge_runtime.proto.dapr.proto.runtime.v1.pubsub_pb2 import (
    SubscribeTopicEventsRequestAlpha1,
    SubscribeTopicEventsResponseAlpha1,
    SubscribeTopicEventsResponseInitialAlpha1,
)
from edge_runtime.receiver import Receiver, identity_of
from tests.simulation.network import Call
from tests.simulation.stage import Stage

_OWN: Final = ("id", "source", "type", "specversion", "datacontenttype", "data")


class Troubles(NamedTuple):
    """How often a publish is answered otherwise than it should be."""

    failed: float = 0.04  # 500
    busy: float = 0.02  # 429
    away: float = 0.02  # 502 to 504, and redirects
    page: float = 0.01  # a captive portal's
    unready: float = 0.01  # the component is not there yet
    stranger: float = 0.01  # a refusal that no sidecar has spoken
    unknown_token: float = 0.002


class Saved:
    """What the receiver check keeps: it is written together with what the app has done."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def load(self, node: str) -> str | None:
        return self._texts.get(node)

    def save(self, node: str, text: str) -> None:
        self._texts[node] = text


class Reader:
    """An app that gets every event at least once and acts on each one once."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.events: list[dict[str, Any]] = []
        self.ids: set[str] = set()
        self._saved = Saved()
        self._receiver = Receiver(self._saved)

    def restart(self) -> None:
        self._receiver = Receiver(self._saved)

    def get(self, event: dict[str, Any]) -> bool:
        """Whether it was acted on."""
        identity = identity_of(event)
        if self._receiver.seen(identity):
            return False
        if identity is None and event["id"] in self.ids:
            return False  # of no edge node: what comes twice is the app's own affair
        if event["id"] in self.ids:
            self.stage.fail(f"event {event['id']} was acted on twice")
        self._receiver.mark(identity)
        self.ids.add(event["id"])
        self.events.append(event)
        return True


class Broker:
    """One topic, and its reader in the cloud."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.log: list[dict[str, Any]] = []
        self.reader = Reader(stage)
        self.faulty = True
        self.listeners: list[Callable[[], None]] = []
        self.acted: Callable[[dict[str, Any], bool], None] = lambda event, late: None

    def append(self, event: dict[str, Any], *, late: bool = False) -> None:
        self.log.append(event)
        chance = self.stage.chance
        if self.faulty and chance.random() < 0.05:
            self.reader.restart()
        if self.reader.get(event):
            self.acted(event, late)
        if self.faulty and chance.random() < 0.05:
            again = chance.choice(self.log)
            self.stage.after(chance.uniform(0, 30), lambda: self.reader.get(again))
        for tell in self.listeners:
            tell()


class Sidecar:
    """One node's sidecar: it answers publishes, and gives the topic to who subscribes."""

    def __init__(self, stage: Stage, broker: Broker, troubles: Troubles, poisoned: str) -> None:
        self.stage, self.broker, self.troubles = stage, broker, troubles
        self.poisoned = poisoned  # a key whose events it refuses for good
        self.listens = True
        self.healthy = True
        self.faulty = True
        self.refused: set[str] = set()
        self.next = 0  # how far its subscriber has acknowledged
        self._call: Call | None = None
        self._given: dict[str, int] = {}
        broker.listeners.append(self._give)

    # --- HTTP

    def answer(self, request: bytes, *, late: bool = False) -> bytes | None:
        """What it says to a request; None when it is not there."""
        if not self.listens:
            return None
        head, _, body = request.partition(b"\r\n\r\n")
        method, target, _ = head.split(b"\r\n", 1)[0].split(b" ")
        path = target.partition(b"?")[0]
        if path.startswith(b"/v1.0/healthz"):
            return _http(204) if self.healthy else _http(500)
        if path == b"/v1.0/metadata":
            return _http(200, b"{}", "application/json")
        if not path.startswith(b"/v1.0/publish/"):
            self.stage.fail(f"{method!r} {target!r} is no call that this link should make")
            return _http(404)
        return self._refusal() or self._publish(json.loads(body), late)

    def _refusal(self) -> bytes | None:
        if not self.healthy:
            return _http(503)
        if not self.faulty:
            return None
        fault = self.stage.chance.random()
        for rate, answers in zip(self.troubles, _ANSWERS, strict=True):
            if fault < rate:
                return self.stage.chance.choice(answers)
            fault -= rate
        return None

    def _publish(self, event: dict[str, Any], late: bool) -> bytes:
        if self.poisoned and event["data"]["key"] == self.poisoned:
            self.refused.add(event["id"])
            return _said(403, "ERR_PUBSUB_FORBIDDEN")
        self.broker.append(event, late=late)
        return _http(204)

    # --- a subscription: one event after the other, each until it is acknowledged

    def streamed(self, call: Call, data: bytes) -> None:
        """The node says something on its stream."""
        request = SubscribeTopicEventsRequestAlpha1.FromString(data)
        if request.HasField("initial_request"):
            if self._call is not None:
                self._call.break_off()
            self._call = call
            self._given.clear()
            initial = SubscribeTopicEventsResponseInitialAlpha1()
            call.push(SubscribeTopicEventsResponseAlpha1(initial_response=initial).SerializeToString())
            self._give()
        elif call is self._call:
            processed = request.event_processed
            place = self._given.pop(processed.id, None)
            if processed.status.status == TopicEventResponse.SUCCESS:
                self.next = max(self.next, -1 if place is None else place + 1)
                self._give()
            else:
                self.stage.after(0.5, self._give)

    def left(self, call: Call) -> None:
        if call is self._call:
            self._call = None
            self._given.clear()

    def _give(self) -> None:
        call, chance = self._call, self.stage.chance
        if call is None or self._given:
            return
        place = self.next
        if self.faulty and self.next and chance.random() < 0.03:
            place = chance.randrange(self.next)  # once more what was acknowledged already
        elif self.next >= len(self.broker.log):
            return
        event = self.broker.log[place]
        self._given[event["id"]] = place
        call.push(_event_message(event))


def _event_message(event: dict[str, Any]) -> bytes:
    """As Dapr has it on a stream."""
    extensions = Struct()
    ParseDict({name: value for name, value in event.items() if name not in _OWN}, extensions)
    request = TopicEventRequest(
        id=event["id"],
        source=event["source"],
        type=event["type"],
        spec_version=event["specversion"],
        data_content_type="application/json",
        data=json.dumps(event["data"]).encode(),
        extensions=extensions,
        topic="orders",
        pubsub_name="kafka",
    )
    return SubscribeTopicEventsResponseAlpha1(event_message=request).SerializeToString()


def _http(status: int, body: bytes = b"", content_type: str = "") -> bytes:
    kind = f"Content-Type: {content_type}\r\n" if content_type else ""
    return f"HTTP/1.1 {status} X\r\n{kind}Content-Length: {len(body)}\r\n\r\n".encode() + (
        b"" if status == 204 else body
    )


def _said(status: int, code: str) -> bytes:
    return _http(status, json.dumps({"errorCode": code, "message": "no"}).encode(), "application/json")


# In the order of `Troubles`.
_ANSWERS: Final = (
    (_http(500), _said(500, "ERR_PUBSUB_PUBLISH_MESSAGE")),
    (_http(429),),
    (_http(502), _http(503), _http(504), _http(302)),
    (_http(200, b"<html>log in", "text/html"),),
    (_said(404, "ERR_PUBSUB_NOT_FOUND"), _said(400, "ERR_PUBSUB_NOT_CONFIGURED")),
    (_http(403, b"denied by policy", "text/plain"),),
    (_http(401),),
)
