"""Publishing over gRPC: one message, or many."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.empty_pb2 import Empty

from edge_runtime.api.grpc.unary import RpcCall, unary
from edge_runtime.blocks.pubsub.publish import NO_METADATA, Entry, publish_error
from edge_runtime.proto.dapr.proto.runtime.v1.pubsub_pb2 import (
    BulkPublishRequest,
    BulkPublishResponse,
    PublishEventRequest,
)

if TYPE_CHECKING:
    from edge_runtime.api.blocks import Blocks


class PubSubRpcs:
    """The publishing rpcs of one app; subscribing is another's."""

    blocks: Blocks

    @unary
    async def PublishEvent(self, call: RpcCall, request: PublishEventRequest) -> Empty:
        """When it is answered the message is as safe as its broker makes it."""
        publisher = self.blocks.publisher
        pubsub, topic = request.pubsub_name, request.topic
        metadata = dict(request.metadata) if request.metadata else NO_METADATA
        publisher.require(pubsub, topic, metadata)
        await publisher.publish(pubsub, topic, request.data, request.data_content_type, metadata, call.trace)
        return Empty()

    @unary
    async def BulkPublishEvent(self, call: RpcCall, request: BulkPublishRequest) -> BulkPublishResponse:
        """As in Dapr, one entry that fails is an error of the whole: a caller that reads no list loses nothing."""
        publisher = self.blocks.publisher
        pubsub, topic = request.pubsub_name, request.topic
        metadata = dict(request.metadata) if request.metadata else NO_METADATA
        publisher.require(pubsub, topic, metadata)
        entries = [
            Entry(entry.entry_id, entry.event, entry.content_type, dict(entry.metadata) if entry.metadata else None)
            for entry in request.entries
        ]
        failures = await publisher.bulk_publish(pubsub, topic, entries, metadata, call.trace)
        if failures:
            raise publish_error(pubsub, topic, failures[0].error)
        return BulkPublishResponse()

    # Released SDKs call it by its first name.
    BulkPublishEventAlpha1 = BulkPublishEvent
