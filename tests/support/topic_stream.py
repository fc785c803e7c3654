"""A client of streaming subscriptions on grpcio, without an SDK. As a program it can be killed:

python -m tests.support.topic_stream PORT TOPIC ANSWERED    answers so many events, prints the data of each, and waits
"""

from __future__ import annotations

import queue
import sys
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any

import grpc

from edge_runtime.proto.dapr.proto.runtime.v1.appcallback_pb2 import TopicEventRequest, TopicEventResponse
from edge_runtime.proto.dapr.proto.runtime.v1.pubsub_pb2 import (
    SubscribeTopicEventsRequestAlpha1,
    SubscribeTopicEventsRequestInitialAlpha1,
    SubscribeTopicEventsRequestProcessedAlpha1,
    SubscribeTopicEventsResponseAlpha1,
)

METHOD = "/dapr.proto.runtime.v1.Dapr/SubscribeTopicEventsAlpha1"
SUCCESS, RETRY, DROP = TopicEventResponse.SUCCESS, TopicEventResponse.RETRY, TopicEventResponse.DROP
WAIT_S = 30.0


def begin(
    topic: str, pubsub: str = "pubsub", *, metadata: Mapping[str, str] | None = None, dead: str | None = None
) -> SubscribeTopicEventsRequestAlpha1:
    asked = SubscribeTopicEventsRequestInitialAlpha1(
        pubsub_name=pubsub, topic=topic, metadata=metadata or {}, dead_letter_topic=dead
    )
    return SubscribeTopicEventsRequestAlpha1(initial_request=asked)


def done(event_id: str, status: int = SUCCESS) -> SubscribeTopicEventsRequestAlpha1:
    said = TopicEventResponse(status=status)  # type: ignore[arg-type]
    return SubscribeTopicEventsRequestAlpha1(
        event_processed=SubscribeTopicEventsRequestProcessedAlpha1(id=event_id, status=said)
    )


class TopicStream:
    """One stream on a connection of its own. What it sends first is given; `opened` reads the answer to that."""

    def __init__(self, port: int, *first: SubscribeTopicEventsRequestAlpha1) -> None:
        options = (("grpc.use_local_subchannel_pool", 1),)
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}", options)
        self._sent: queue.Queue[SubscribeTopicEventsRequestAlpha1 | None] = queue.Queue()
        for message in first:
            self._sent.put(message)
        serializer: Any = SubscribeTopicEventsRequestAlpha1.SerializeToString
        method = self.channel.stream_stream(METHOD, serializer, SubscribeTopicEventsResponseAlpha1.FromString)
        self._call: Any = method(self._requests(), timeout=WAIT_S)

    def _requests(self) -> Iterator[SubscribeTopicEventsRequestAlpha1]:
        while (message := self._sent.get()) is not None:
            yield message

    def opened(self) -> TopicStream:
        assert next(self._call).HasField("initial_response")
        return self

    def event(self) -> TopicEventRequest:
        """The next event."""
        message: TopicEventRequest = next(self._call).event_message
        return message

    def events(self, count: int) -> list[TopicEventRequest]:
        return [self.event() for _ in range(count)]

    def answer(self, event: TopicEventRequest, status: int = SUCCESS) -> None:
        self.send(done(event.id, status))

    def send(self, message: SubscribeTopicEventsRequestAlpha1) -> None:
        self._sent.put(message)

    def half_close(self) -> None:
        self._sent.put(None)

    def cancel(self) -> None:
        self._call.cancel()
        self.half_close()

    def end(self) -> grpc.RpcError:
        """How the stream ended; events before that are passed over."""
        try:
            for _ in self._call:
                pass
        except grpc.RpcError as error:
            return error
        raise AssertionError("the stream ended without an error")

    def close(self) -> None:
        self.half_close()
        self.channel.close()

    def __enter__(self) -> TopicStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def subscribed(port: int, topic: str, **more: Any) -> TopicStream:
    """A stream whose subscription is up."""
    return TopicStream(port, begin(topic, **more)).opened()


def main(port: int, topic: str, answered: int) -> None:
    with subscribed(port, topic) as stream:
        while True:
            event = stream.event()
            if answered:
                answered -= 1
                stream.answer(event)
            print(event.data.decode(), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
