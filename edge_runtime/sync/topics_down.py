"""Events of the other sidecar on their way down: a streaming subscription there, a durable publish here.

An event is acknowledged after the local publish, one after the other, so order stays. One that cannot be published here
now is held, unanswered, and tried again: nothing overtakes it, and if the stream ends meanwhile the other sidecar has
not been told that it was taken. One that never can be is answered DROP: the rules of the other side say what becomes of
it. What an edge node sent is known by its identity: a repeat is dropped, and so is what this very node once sent up.
Nothing that came down goes up again: it is given to the broker itself, not to the publish of an app.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec
from google.protobuf.json_format import MessageToDict, SerializeToJsonError

from edge_runtime.config.links import TopicDown
from edge_runtime.model.errors import DriverError
from edge_runtime.proto.dapr.proto.runtime.v1.appcallback_pb2 import TopicEventRequest
from edge_runtime.receiver import Receiver, identity_of
from edge_runtime.sync.link import Link
from edge_runtime.sync.subscription import BACKOFF, DROP, SUCCESS, Status, Subscription
from edge_runtime.wire import cloudevents

logger: Final = logging.getLogger("dapr.runtime.link")

_RUNS_MAX: Final = 2048
_TEXT_TYPES: Final = ("application/xml",)

# Gives an event to the local broker: component, topic, envelope. Durable, as far as the broker is, when it returns.
PublishHere = Callable[[str, str, bytes], Awaitable[None]]


class TopicDownRoute(Subscription):
    """One topic's way down."""

    kind: Final = "topicsDown"

    def __init__(self, topic: TopicDown, link: Link, publish: PublishHere, node: Callable[[], str]) -> None:
        super().__init__(link, topic.remote_pubsub, topic.remote_topic, topic.metadata)
        self.topic = topic
        self._publish = publish
        self._node = node
        self._receiver = Receiver(runs_max=_RUNS_MAX, nodes_max=256)
        self.name = f"{topic.remote_pubsub}/{topic.remote_topic}"
        self._received = self._refused = 0

    async def status(self) -> dict[str, Any]:
        return {
            "to": f"{self.topic.pubsub}/{self.topic.topic}",
            "subscribed": self.subscribed,
            "received": self._received,
            "refused": self._refused,
            "lastError": self.last_error,
        }

    async def dry_run(self, limit: int) -> dict[str, Any]:
        """What comes down is known only when it comes."""
        return {}

    async def take(self, event: TopicEventRequest) -> Status:
        """Publish it here, unless it is a repeat or our own. Returns when that is done, or can never be."""
        topic = self.topic
        members = event_members(event, topic.pubsub, topic.topic)
        identity = identity_of(members)
        data = msgspec.json.encode(members)
        pause_s = BACKOFF.first_s
        while True:
            try:
                if identity is None or not (identity.node == self._node() or self._receiver.seen(identity)):
                    await self._publish(topic.pubsub, topic.topic, data)
                    self._receiver.mark(identity)
                    self._received += 1
                self.last_error = ""
                return SUCCESS
            except DriverError as error:
                where = f"cloud link {self.link.name}: topic {topic.topic} of {topic.pubsub}"
                if error.permanent:
                    logger.warning("%s: event %s is refused for good: %s", where, event.id, error)
                    self.last_error = str(error)
                    self._refused += 1
                    return DROP
                if self.last_error != str(error):
                    logger.warning("%s: event %s is held until it can be published: %s", where, event.id, error)
                self.last_error = str(error)
            await self.rest(pause_s)
            pause_s = min(pause_s * 2, BACKOFF.most_s)


def event_members(event: TopicEventRequest, pubsub: str, topic: str) -> Mapping[str, Any]:
    """The CloudEvent that a stream's message stands for, at its place here."""
    members: dict[str, Any] = {}
    for name, value in event.extensions.fields.items():
        try:
            member = MessageToDict(value)
        except SerializeToJsonError:
            continue  # no JSON number: an attribute that cannot be passed on must not stop its event
        if member is not None:
            members[name] = _exact(member)
    members.update(
        id=event.id,
        source=event.source or cloudevents.DEFAULT_SOURCE,
        type=event.type or cloudevents.EVENT_TYPE,
        specversion=event.spec_version or "1.0",
        datacontenttype=event.data_content_type or cloudevents.PLAIN_TEXT,
        pubsubname=pubsub,
        topic=topic,
    )
    members.update(_data(event.data, members["datacontenttype"]))
    return members


def _exact(value: Any) -> Any:
    """A Struct knows doubles only: whole numbers were whole."""
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


def _data(data: bytes, content_type: str) -> Mapping[str, Any]:
    kind = cloudevents.media_type(content_type)
    if kind in (cloudevents.JSON_TYPE, cloudevents.CLOUD_EVENT):
        try:
            return {"data": msgspec.Raw(cloudevents.compact_json(data))}  # every digit of a number stays
        except ValueError:
            pass
    if kind.startswith("text/") or kind in _TEXT_TYPES or kind == cloudevents.JSON_TYPE:
        try:
            return {"data": data.decode()}
        except UnicodeDecodeError:
            pass
    return {"data_base64": base64.b64encode(data).decode()}
