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
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec
import trio
from google.protobuf.json_format import MessageToDict, SerializeToJsonError
from google.protobuf.message import DecodeError

from edge_runtime.config.links import TopicDown
from edge_runtime.model.errors import DriverError, Unreachable
from edge_runtime.model.ports import Backoff
from edge_runtime.net.grpc.client import ClientCall
from edge_runtime.proto.dapr.proto.runtime.v1.appcallback_pb2 import TopicEventRequest, TopicEventResponse
from edge_runtime.proto.dapr.proto.runtime.v1.pubsub_pb2 import (
    SubscribeTopicEventsRequestAlpha1,
    SubscribeTopicEventsRequestInitialAlpha1,
    SubscribeTopicEventsRequestProcessedAlpha1,
    SubscribeTopicEventsResponseAlpha1,
)
from edge_runtime.receiver import Receiver, identity_of
from edge_runtime.sync.link import Link
from edge_runtime.wire import cloudevents

logger: Final = logging.getLogger("dapr.runtime.link")

PATH: Final = "/dapr.proto.runtime.v1.Dapr/SubscribeTopicEventsAlpha1"
SUCCESS: Final = TopicEventResponse.SUCCESS
DROP: Final = TopicEventResponse.DROP
_BACKOFF: Final = Backoff(0.5, 60.0)
_RUNS_MAX: Final = 2048
_TEXT_TYPES: Final = ("application/xml",)

# Gives an event to the local broker: component, topic, envelope. Durable, as far as the broker is, when it returns.
PublishHere = Callable[[str, str, bytes], Awaitable[None]]


class TopicDownRoute:
    """One topic's way down."""

    kind: Final = "topicsDown"

    def __init__(self, topic: TopicDown, link: Link, publish: PublishHere, node: Callable[[], str]) -> None:
        self.topic = topic
        self._link = link
        self._publish = publish
        self._node = node
        self._receiver = Receiver(runs_max=_RUNS_MAX, nodes_max=256)
        self._pause_s = _BACKOFF.first_s
        self.name = f"{topic.remote_pubsub}/{topic.remote_topic}"
        self._subscribed = False
        self._received = self._refused = 0
        self._last_error = ""
        self._hurried = trio.Event()

    async def status(self) -> dict[str, Any]:
        return {
            "to": f"{self.topic.pubsub}/{self.topic.topic}",
            "subscribed": self._subscribed,
            "received": self._received,
            "refused": self._refused,
            "lastError": self._last_error,
        }

    async def dry_run(self, limit: int) -> dict[str, Any]:
        """What comes down is known only when it comes."""
        return {}

    def hurry(self) -> None:
        self._hurried.set()

    def failed(self, reason: str) -> None:
        """Told by who supervises the route."""
        self._last_error = reason

    async def _rest(self, pause_s: float) -> None:
        self._hurried = trio.Event()
        with trio.move_on_after(pause_s):
            await self._hurried.wait()

    async def run(self) -> None:
        """Subscribe whenever the link is up, until cancelled."""
        while True:
            await self._link.until_up()
            since = trio.current_time()
            try:
                await self._subscribe(since)
            except Unreachable:
                continue  # the link says when there is more
            except DriverError as error:
                topic = self.topic
                self._last_error = str(error)
                logger.warning(
                    "cloud link %s: topic %s of %s: %s; tried again in %.0f s",
                    self._link.name, topic.remote_topic, topic.remote_pubsub, error, self._pause_s,
                )  # fmt: skip
            finally:
                self._subscribed = False
            await self._rest(self._pause_s * (0.8 + 0.4 * random.random()))
            self._pause_s = min(self._pause_s * 2, _BACKOFF.most_s)

    async def _subscribe(self, since: float) -> None:
        """One stream, until it ends; raises why."""
        topic = self.topic
        asked = SubscribeTopicEventsRequestInitialAlpha1(
            pubsub_name=topic.remote_pubsub, topic=topic.remote_topic, metadata=dict(topic.metadata)
        )
        error: DriverError
        try:
            async with self._link.open_call(PATH, kind="topics-down") as call:
                await call.send_raw(False, SubscribeTopicEventsRequestAlpha1(initial_request=asked).SerializeToString())
                await self._receive(call)
            error = DriverError(f"the stream has ended: {call.message or call.status}", code=call.status)
        except Unreachable:
            raise
        except DriverError as failure:
            error = failure
        await self._link.judge_rpc(error, since)
        raise error

    async def _receive(self, call: ClientCall) -> None:
        while (frame := await call.recv_raw()) is not None:
            self._link.heard()
            try:
                response = SubscribeTopicEventsResponseAlpha1.FromString(frame[1])
            except DecodeError as error:
                raise DriverError(f"an event is unreadable: {error}") from None
            if not response.HasField("event_message"):
                self._pause_s = _BACKOFF.first_s
                self._subscribed, self._last_error = True, ""
                continue
            event = response.event_message
            status = await self._take(event)
            await self._link.admit(0)
            processed = SubscribeTopicEventsRequestProcessedAlpha1(
                id=event.id, status=TopicEventResponse(status=status)
            )
            await call.send_raw(False, SubscribeTopicEventsRequestAlpha1(event_processed=processed).SerializeToString())

    async def _take(self, event: TopicEventRequest) -> TopicEventResponse.TopicEventResponseStatus:
        """Publish it here, unless it is a repeat or our own. Returns when that is done, or can never be."""
        topic = self.topic
        members = event_members(event, topic.pubsub, topic.topic)
        identity = identity_of(members)
        data = msgspec.json.encode(members)
        pause_s = _BACKOFF.first_s
        while True:
            try:
                if identity is None or not (identity.node == self._node() or self._receiver.seen(identity)):
                    await self._publish(topic.pubsub, topic.topic, data)
                    self._receiver.mark(identity)
                    self._received += 1
                self._last_error = ""
                return SUCCESS
            except DriverError as error:
                where = f"cloud link {self._link.name}: topic {topic.topic} of {topic.pubsub}"
                if error.permanent:
                    logger.warning("%s: event %s is refused for good: %s", where, event.id, error)
                    self._last_error = str(error)
                    self._refused += 1
                    return DROP
                if self._last_error != str(error):
                    logger.warning("%s: event %s is held until it can be published: %s", where, event.id, error)
                self._last_error = str(error)
            await self._rest(pause_s)
            pause_s = min(pause_s * 2, _BACKOFF.most_s)


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
