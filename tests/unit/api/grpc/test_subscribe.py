"""The rpc of streaming subscriptions: its first message, what goes wrong, how it ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from edge_runtime.api.grpc.subscribe import SubscribeRpcs
from edge_runtime.blocks.pubsub.app import DeliveryFailed, Event, Verdict
from edge_runtime.blocks.pubsub.streams import Client, End, NotSubscribed, Outcome, StreamsFull, StreamsStopped
from edge_runtime.model.errors import DriverError, EdgeError, Kind
from edge_runtime.proto.dapr.proto.runtime.v1.appcallback_pb2 import TopicEventResponse
from edge_runtime.proto.dapr.proto.runtime.v1.pubsub_pb2 import (
    SubscribeTopicEventsRequestAlpha1,
    SubscribeTopicEventsRequestInitialAlpha1,
    SubscribeTopicEventsRequestProcessedAlpha1,
    SubscribeTopicEventsResponseAlpha1,
)


def initial(pubsub: str = "pubsub", topic: str = "t", **more: Any) -> SubscribeTopicEventsRequestAlpha1:
    asked = SubscribeTopicEventsRequestInitialAlpha1(pubsub_name=pubsub, topic=topic, **more)
    return SubscribeTopicEventsRequestAlpha1(initial_request=asked)


def processed(event_id: str, status: int = 0) -> SubscribeTopicEventsRequestAlpha1:
    reply = SubscribeTopicEventsRequestProcessedAlpha1(
        id=event_id,
        status=TopicEventResponse(status=status),  # type: ignore[arg-type]
    )
    return SubscribeTopicEventsRequestAlpha1(event_processed=reply)


class FakeCall:
    """A call whose requests are there already."""

    def __init__(self, *requests: SubscribeTopicEventsRequestAlpha1 | Exception) -> None:
        self.requests = list(requests)
        self.sent: list[SubscribeTopicEventsResponseAlpha1] = []
        self.refuses: Exception | None = None

    async def recv_message(self) -> SubscribeTopicEventsRequestAlpha1 | None:
        await trio.lowlevel.checkpoint()
        request = self.requests.pop(0) if self.requests else None
        if isinstance(request, Exception):
            raise request
        return request

    async def send_message(self, message: SubscribeTopicEventsResponseAlpha1) -> None:
        await trio.lowlevel.checkpoint()
        if self.refuses is not None:
            raise self.refuses
        self.sent.append(message)


class FakeStreams:
    """Reads every reply, after one event; or fails."""

    def __init__(self, failure: Exception | None = None, end: End = End.CLIENT) -> None:
        self.failure = failure
        self.end = end
        self.asked: tuple[Any, ...] = ()
        self.replies: list[Outcome] = []
        self.between: Callable[[], None] = lambda: None

    async def serve(self, pubsub: str, topic: str, metadata: Mapping[str, str], dead: str, client: Client) -> End:
        self.asked = (pubsub, topic, metadata, dead)
        if self.failure is not None:
            raise self.failure
        await client.opened()
        event_id, message = client.prepare(Event("pubsub", "t", b'{"id":"1"}'), "/")
        assert event_id == "1"
        self.between()
        await client.send(message)
        while (reply := await client.receive()) is not None:
            self.replies.append(reply)
        return self.end


async def serve(call: FakeCall, streams: FakeStreams | None = None) -> Exception:
    rpcs = SubscribeRpcs()
    rpcs.blocks = SimpleNamespace(streams=streams or FakeStreams())  # type: ignore[assignment]
    with pytest.raises((GRPCError, DriverError, EdgeError)) as raised:
        await rpcs.SubscribeTopicEventsAlpha1(call)  # type: ignore[arg-type]
    return raised.value


def said(error: Exception) -> tuple[Status, str | None]:
    assert isinstance(error, GRPCError)
    return error.status, error.message


async def test_the_first_answer_opens_the_stream() -> None:
    call = FakeCall(
        initial(metadata={"k": "v"}, dead_letter_topic="dead"), processed("1"), processed("2", 2), processed("3", 1)
    )
    streams = FakeStreams()
    assert said(await serve(call, streams)) == (Status.UNKNOWN, "EOF")
    assert streams.asked == ("pubsub", "t", {"k": "v"}, "dead")
    opened, event = call.sent
    assert opened.HasField("initial_response")
    assert (event.event_message.id, event.event_message.path) == ("1", "/")
    first, second, third = streams.replies
    assert (first, second) == (Outcome("1", Verdict.SUCCESS), Outcome("2", Verdict.DROP))
    assert isinstance(third.verdict, DeliveryFailed)


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (processed("1"), "initial request is required"),
        (SubscribeTopicEventsRequestAlpha1(), "initial request is required"),
        (initial(pubsub=""), "pubsubName is required"),
        (initial(topic=""), "topic is required"),
    ],
)
async def test_the_first_message_is_checked(request_: SubscribeTopicEventsRequestAlpha1, text: str) -> None:
    call = FakeCall(request_)
    assert said(await serve(call)) == (Status.UNKNOWN, text)
    assert call.sent == []


async def test_a_stream_without_messages_ends() -> None:
    assert said(await serve(FakeCall())) == (Status.UNKNOWN, "EOF")


@pytest.mark.parametrize("second", [initial(), SubscribeTopicEventsRequestAlpha1()])
async def test_a_second_beginning_ends_the_stream(second: SubscribeTopicEventsRequestAlpha1) -> None:
    streams = FakeStreams()
    error = await serve(FakeCall(initial(), processed("1"), second, processed("2")), streams)
    assert said(error) == (Status.UNKNOWN, "duplicate initial request received")
    assert len(streams.replies) == 1


@pytest.mark.parametrize(
    ("failure", "status", "text"),
    [
        (NotSubscribed("not allowed"), Status.UNKNOWN, "not allowed"),
        (StreamsFull("full"), Status.RESOURCE_EXHAUSTED, "full"),
        (StreamsStopped("stopping"), Status.UNAVAILABLE, "stopping"),
    ],
)
async def test_a_stream_that_cannot_be_served(failure: Exception, status: Status, text: str) -> None:
    assert said(await serve(FakeCall(initial()), FakeStreams(failure))) == (status, text)


async def test_an_unknown_component_is_the_faces_to_say() -> None:
    failure = EdgeError(Kind.PUBSUB_NOT_FOUND, "pubsub x is not found")
    assert await serve(FakeCall(initial()), FakeStreams(failure)) is failure


async def test_a_stopped_stream_asks_for_another() -> None:
    streams = FakeStreams(end=End.STOPPED)
    assert said(await serve(FakeCall(initial()), streams)) == (Status.UNKNOWN, "stream closed")


@pytest.mark.parametrize("failure", [DriverError("lost"), GRPCError(Status.INTERNAL, "no message")])
async def test_a_broken_stream_ends_with_its_error(failure: Exception) -> None:
    assert await serve(FakeCall(initial(), failure, processed("1"))) is failure
    call = FakeCall(initial(), processed("1"))
    call.refuses = failure
    streams = FakeStreams()
    streams.between = lambda: setattr(call, "refuses", None)
    assert await serve(call, streams) is failure
    assert streams.replies == []


async def test_an_event_that_is_too_large_is_no_end() -> None:
    call = FakeCall(initial(), processed("1"))
    streams = FakeStreams()
    streams.between = lambda: setattr(call, "refuses", GRPCError(Status.RESOURCE_EXHAUSTED, "too large"))
    with pytest.raises(DeliveryFailed, match="too large") as raised:
        await streams.serve("p", "t", {}, "", _client_of(call))
    assert raised.value.code == Status.RESOURCE_EXHAUSTED.value


def _client_of(call: FakeCall) -> Client:
    from edge_runtime.api.grpc.subscribe import _Client

    return _Client(call, "t")  # type: ignore[arg-type]
