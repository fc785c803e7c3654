"""Delivery to an app that speaks gRPC: `AppCallback` in place of routes, and its list of subscriptions.

An app that does not implement the call is no app that failed: its event is done with, and said to be lost.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from edge_runtime.blocks.pubsub.app import Batch, Event, Verdict
from edge_runtime.blocks.pubsub.rules import Routes, Rule, RuleError
from edge_runtime.blocks.pubsub.subscriptions import (
    BulkSettings,
    DiscoveryError,
    SubscriptionKind,
    SubscriptionSpec,
    with_defaults,
)
from edge_runtime.blocks.pubsub.topic_event import call_metadata, topic_event, topic_events, verdict_of, verdicts_of
from edge_runtime.model.errors import DriverError
from edge_runtime.model.trace import Trace
from edge_runtime.observability.trace import Tracer, valid_traceparent
from edge_runtime.proto.dapr.proto.runtime.v1.appcallback_pb2 import (
    ListTopicSubscriptionsResponse,
    TopicEventBulkResponse,
    TopicEventResponse,
    TopicRoutes,
    TopicSubscription,
)

logger: Final = logging.getLogger("dapr.runtime.processor.subscription")

_CALLBACK: Final = "/dapr.proto.runtime.v1.AppCallback/"
LIST: Final = f"{_CALLBACK}ListTopicSubscriptions"
EVENT: Final = f"{_CALLBACK}OnTopicEvent"
BULK: Final = f"{_CALLBACK}OnBulkTopicEvent"
BULK_ALPHA: Final = "/dapr.proto.runtime.v1.AppCallbackAlpha/OnBulkTopicEventAlpha1"
UNIMPLEMENTED: Final = 12


class GrpcCaller(Protocol):
    """How a gRPC app is called; the answer's `message` is of the type that was asked for."""

    async def unary(
        self,
        path: str,
        request: Message,
        reply_type: type[Message],
        *,
        metadata: Sequence[tuple[str, str | bytes]] = (),
        timeout_s: float | None = None,
    ) -> Any:
        """Raises `DriverError`; its `code` is the app's status, if it was the app that failed."""


class GrpcAppDelivery:
    """Events as calls of `OnTopicEvent` and `OnBulkTopicEvent`."""

    def __init__(self, caller: GrpcCaller, tracer: Tracer | None = None) -> None:
        """With a `tracer` that mints, each delivery is a span of its own under the event's trace."""
        self._caller = caller
        self._tracer = tracer if tracer is not None and tracer.minting else None
        self._bulk = BULK

    async def deliver(self, event: Event, path: str) -> Verdict:
        request = topic_event(event, path)
        metadata = call_metadata(event, self._continued(event.traceparent))
        try:
            reply = await self._caller.unary(EVENT, request, TopicEventResponse, metadata=metadata)
        except DriverError as error:
            if error.code != UNIMPLEMENTED:
                raise
            logger.warning("the app does not implement OnTopicEvent; an event of topic %s is lost", event.topic)
            return Verdict.IGNORED
        return verdict_of(reply.message.status, event.topic)

    def _continued(self, traceparent: str) -> str:
        if self._tracer is None or not valid_traceparent(traceparent):
            return traceparent
        return self._tracer.child(Trace(traceparent)).traceparent

    async def deliver_bulk(self, batch: Batch, path: str) -> Mapping[str, Verdict]:
        request = topic_events(batch, path)
        if not request.entries:
            return {}
        response = await self._call_bulk(request, (("pubsubname", batch.pubsub),))
        if response is None:
            logger.warning("the app implements no bulk delivery; events of topic %s are lost", batch.topic)
            return {entry.entry_id: Verdict.IGNORED for entry in request.entries}
        return verdicts_of(response, batch)

    async def _call_bulk(
        self, request: Message, metadata: Sequence[tuple[str, str | bytes]]
    ) -> TopicEventBulkResponse | None:
        """The answer under the name that the app knows, which is remembered; None when it knows neither."""
        for path in (self._bulk, BULK_ALPHA if self._bulk == BULK else BULK):
            try:
                reply = await self._caller.unary(path, request, TopicEventBulkResponse, metadata=metadata)
            except DriverError as error:
                if error.code != UNIMPLEMENTED:
                    raise
                continue
            if path != self._bulk:
                logger.info("the app takes batches by %s", path)
                self._bulk = path
            message: TopicEventBulkResponse = reply.message
            return message
        return None

    # --- discovery --------------------------------------------------------------------------------------------------

    async def list_subscriptions(self) -> Sequence[SubscriptionSpec]:
        """What the app asks for. Raises `DriverError` to be tried again, `DiscoveryError` for a bad rule."""
        try:
            reply = await self._caller.unary(LIST, Empty(), ListTopicSubscriptionsResponse)
        except DriverError as error:
            if error.code != UNIMPLEMENTED:
                raise
            logger.info("the app does not implement ListTopicSubscriptions; no subscriptions of its own")
            return ()
        return read_listed(reply.message)


def read_listed(response: ListTopicSubscriptionsResponse) -> list[SubscriptionSpec]:
    """The app's list. Raises `DiscoveryError` for an expression that is no CEL."""
    specs = [_spec(item) for item in response.subscriptions]
    try:
        for spec in specs:
            Routes(spec.rules)
    except RuleError as error:
        raise DiscoveryError(f"the app's answer to ListTopicSubscriptions has a bad rule: {error}") from None
    return specs


def _spec(item: TopicSubscription) -> SubscriptionSpec:
    bulk = item.bulk_subscribe
    return SubscriptionSpec(
        item.pubsub_name,
        item.topic,
        tuple(_rules(item.routes)),
        dict(item.metadata),
        item.dead_letter_topic,
        with_defaults(BulkSettings(bulk.enabled, bulk.max_messages_count, bulk.max_await_duration_ms)),
        SubscriptionKind.PROGRAMMATIC,
    )


def _rules(routes: TopicRoutes) -> list[Rule]:
    """Without any route everything goes to the empty path: the app tells events apart by their topic."""
    rules = [Rule(rule.match, rule.path) for rule in routes.rules]
    if routes.default or not rules:
        rules.append(Rule("", routes.default))
    return rules
