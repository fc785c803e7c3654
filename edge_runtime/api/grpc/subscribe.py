"""The rpc of streaming subscriptions: its messages on one side, the block's events and replies on the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from grpclib.const import Status
from grpclib.exceptions import GRPCError

from edge_runtime.blocks.pubsub.app import DeliveryFailed, Event, Verdict
from edge_runtime.blocks.pubsub.streams import End, Outcome, StreamsFull, StreamsStopped
from edge_runtime.blocks.pubsub.topic_event import topic_event, verdict_of
from edge_runtime.model.errors import DriverError
from edge_runtime.proto.dapr.proto.runtime.v1.pubsub_pb2 import (
    SubscribeTopicEventsRequestInitialAlpha1,
    SubscribeTopicEventsResponseAlpha1,
    SubscribeTopicEventsResponseInitialAlpha1,
)

if TYPE_CHECKING:
    from edge_runtime.api.blocks import Blocks
    from edge_runtime.net.grpc.server import ServerCall

# What Dapr's SDKs see at the end of a stream; UNKNOWN makes them subscribe again.
_TEXTS: Final = {End.CLIENT: "EOF", End.STOPPED: "stream closed"}


class SubscribeRpcs:
    """`SubscribeTopicEventsAlpha1`."""

    blocks: Blocks

    async def SubscribeTopicEventsAlpha1(self, stream: ServerCall) -> None:
        """A topic's events on a stream, and the client's replies on its other half."""
        asked = await _initial_request(stream)
        client = _Client(stream, asked.topic)
        try:
            end = await self.blocks.streams.serve(
                asked.pubsub_name, asked.topic, dict(asked.metadata), asked.dead_letter_topic, client
            )
        except StreamsFull as error:
            raise GRPCError(Status.RESOURCE_EXHAUSTED, str(error)) from error
        except StreamsStopped as error:
            raise GRPCError(Status.UNAVAILABLE, str(error)) from error
        except DriverError as error:
            raise GRPCError(Status.UNKNOWN, str(error)) from error
        raise client.failure or GRPCError(Status.UNKNOWN, _TEXTS[end])


async def _initial_request(stream: ServerCall) -> SubscribeTopicEventsRequestInitialAlpha1:
    request: Any = await stream.recv_message()
    if request is None:
        raise GRPCError(Status.UNKNOWN, "EOF")
    if not request.HasField("initial_request"):
        raise GRPCError(Status.UNKNOWN, "initial request is required")
    asked: SubscribeTopicEventsRequestInitialAlpha1 = request.initial_request
    if not asked.pubsub_name:
        raise GRPCError(Status.UNKNOWN, "pubsubName is required")
    if not asked.topic:
        raise GRPCError(Status.UNKNOWN, "topic is required")
    return asked


class _Client:
    """The client of one stream. What it does wrong, or what was wrong with the stream, ends it and is kept."""

    def __init__(self, stream: ServerCall, topic: str) -> None:
        self._stream = stream
        self._topic = topic
        self.failure: GRPCError | DriverError | None = None

    async def opened(self) -> None:
        message = SubscribeTopicEventsResponseAlpha1(initial_response=SubscribeTopicEventsResponseInitialAlpha1())
        try:
            await self._stream.send_message(message)
        except (DriverError, GRPCError) as error:
            self.failure = error

    def prepare(self, event: Event, path: str) -> tuple[str, SubscribeTopicEventsResponseAlpha1]:
        message = topic_event(event, path)
        return message.id, SubscribeTopicEventsResponseAlpha1(event_message=message)

    async def send(self, message: SubscribeTopicEventsResponseAlpha1) -> None:
        try:
            await self._stream.send_message(message)
        except GRPCError as error:
            raise DeliveryFailed(error.message or "", code=error.status.value) from error

    async def receive(self) -> Outcome | None:
        if self.failure is not None:
            return None
        try:
            request: Any = await self._stream.recv_message()
        except (DriverError, GRPCError) as error:
            self.failure = error
            return None
        if request is None:
            return None
        if not request.HasField("event_processed"):
            self.failure = GRPCError(Status.UNKNOWN, "duplicate initial request received")
            return None
        processed = request.event_processed
        return Outcome(processed.id, self._verdict(processed.status.status))

    def _verdict(self, status: int) -> Verdict | DeliveryFailed:
        try:
            return verdict_of(status, self._topic)
        except DeliveryFailed as error:
            return error
