"""A streaming subscription at the other sidecar: one topic, subscribed to whenever the link is up."""

from __future__ import annotations

import logging
import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Final

import trio
from google.protobuf.message import DecodeError

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
from edge_runtime.sync.link import Link

logger: Final = logging.getLogger("dapr.runtime.link")

PATH: Final = "/dapr.proto.runtime.v1.Dapr/SubscribeTopicEventsAlpha1"
SUCCESS: Final = TopicEventResponse.SUCCESS
DROP: Final = TopicEventResponse.DROP
BACKOFF: Final = Backoff(0.5, 60.0)
Status = TopicEventResponse.TopicEventResponseStatus


class Subscription(ABC):
    """One topic of the other sidecar. Events are taken one after the other, and answered when they are."""

    def __init__(self, link: Link, pubsub: str, topic: str, metadata: Sequence[tuple[str, str]] = ()) -> None:
        self.link = link
        self.subscribed = False
        self.last_error = ""
        self._pubsub = pubsub
        self._topic = topic
        self._metadata = metadata
        self._pause_s = BACKOFF.first_s
        self._hurried = trio.Event()

    @abstractmethod
    async def take(self, event: TopicEventRequest) -> Status:
        """Returns when the event need not come again, with what its broker is told."""

    def hurry(self) -> None:
        self._hurried.set()

    def failed(self, reason: str) -> None:
        """Told by who supervises the route."""
        self.last_error = reason

    async def rest(self, pause_s: float) -> None:
        self._hurried = trio.Event()
        with trio.move_on_after(pause_s):
            await self._hurried.wait()

    async def run(self) -> None:
        """Subscribe whenever the link is up, until cancelled."""
        while True:
            await self.link.until_up()
            since = trio.current_time()
            try:
                await self._subscribe(since)
            except Unreachable:
                continue  # the link says when there is more
            except DriverError as error:
                self.last_error = str(error)
                logger.warning(
                    "cloud link %s: topic %s of %s: %s; tried again in %.1f s",
                    self.link.name, self._topic, self._pubsub, error, self._pause_s,
                )  # fmt: skip
            finally:
                self.subscribed = False
            await self.rest(self._pause_s * (0.8 + 0.4 * random.random()))
            self._pause_s = min(self._pause_s * 2, BACKOFF.most_s)

    async def _subscribe(self, since: float) -> None:
        """One stream, until it ends; raises why."""
        asked = SubscribeTopicEventsRequestInitialAlpha1(
            pubsub_name=self._pubsub, topic=self._topic, metadata=dict(self._metadata)
        )
        error: DriverError
        try:
            async with self.link.open_call(PATH, kind="topics-down") as call:
                await call.send_raw(False, SubscribeTopicEventsRequestAlpha1(initial_request=asked).SerializeToString())
                await self._receive(call)
            error = DriverError(f"the stream has ended: {call.message or call.status}", code=call.status)
        except Unreachable:
            raise
        except DriverError as failure:
            error = failure
        await self.link.judge_rpc(error, since)
        raise error

    async def _receive(self, call: ClientCall) -> None:
        while (frame := await call.recv_raw()) is not None:
            self.link.heard()
            try:
                response = SubscribeTopicEventsResponseAlpha1.FromString(frame[1])
            except DecodeError as error:
                raise DriverError(f"an event is unreadable: {error}") from None
            if not response.HasField("event_message"):
                self._pause_s = BACKOFF.first_s
                self.subscribed, self.last_error = True, ""
                continue
            event = response.event_message
            status = await self.take(event)
            await self.link.admit(0)
            processed = SubscribeTopicEventsRequestProcessedAlpha1(
                id=event.id, status=TopicEventResponse(status=status)
            )
            await call.send_raw(False, SubscribeTopicEventsRequestAlpha1(event_processed=processed).SerializeToString())
