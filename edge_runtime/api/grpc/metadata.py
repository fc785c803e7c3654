"""What the sidecar says of itself, and its shutdown, over gRPC."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from google.protobuf.empty_pb2 import Empty

from edge_runtime.api.grpc.unary import RpcCall, unary
from edge_runtime.blocks.metadata import PLACEMENT, AppConnection
from edge_runtime.config.values import format_go_duration
from edge_runtime.proto.dapr.proto.runtime.v1.metadata_pb2 import (
    ActorRuntime,
    AppConnectionHealthProperties,
    AppConnectionProperties,
    GetMetadataRequest,
    GetMetadataResponse,
    MetadataHTTPEndpoint,
    MetadataResiliency,
    MetadataScheduler,
    MetadataWorkflows,
    PubsubSubscription,
    PubsubSubscriptionRule,
    PubsubSubscriptionRules,
    RegisteredComponents,
    SetMetadataRequest,
)

if TYPE_CHECKING:
    from edge_runtime.api.blocks import Blocks
    from edge_runtime.proto.dapr.proto.runtime.v1.dapr_pb2 import ShutdownRequest


class MetadataRpcs:
    """Metadata and shutdown of one app's sidecar."""

    blocks: Blocks

    @unary
    async def GetMetadata(self, call: RpcCall, request: GetMetadataRequest) -> GetMetadataResponse:
        metadata = self.blocks.metadata
        return GetMetadataResponse(
            id=metadata.app_id,
            runtime_version=metadata.runtime_version,
            enabled_features=metadata.features,
            registered_components=[
                RegisteredComponents(name=one.name, type=one.type, version=one.version, capabilities=one.capabilities)
                for one in metadata.components
            ],
            extended_metadata=metadata.extended,
            subscriptions=[_subscription(row) for row in metadata.subscriptions()],
            http_endpoints=[MetadataHTTPEndpoint(name=name) for name in metadata.endpoints],
            resiliencies=[MetadataResiliency(name=name) for name in metadata.resiliencies],
            app_connection_properties=_connection(metadata.connection),
            actor_runtime=ActorRuntime(runtime_status=ActorRuntime.DISABLED, placement=PLACEMENT),
            scheduler=MetadataScheduler(),
            workflows=MetadataWorkflows(),
        )

    @unary
    async def SetMetadata(self, call: RpcCall, request: SetMetadataRequest) -> Empty:
        """Keep a text under a key, in memory only; one without a key is left out."""
        if request.key:
            self.blocks.metadata.put(request.key, request.value)
        return Empty()

    @unary
    async def Shutdown(self, call: RpcCall, request: ShutdownRequest) -> Empty:
        """Begin a graceful stop and answer at once; forced, the process ends with code 1 after 100 ms."""
        forced = call.get("dapr-force-shutdown")
        self.blocks.shutdown(isinstance(forced, str) and forced.lower() == "true")
        return Empty()


def _subscription(row: Mapping[str, Any]) -> PubsubSubscription:
    rules = [PubsubSubscriptionRule(match=rule.get("match", ""), path=rule["path"]) for rule in row.get("rules", ())]
    return PubsubSubscription(
        pubsub_name=row["pubsubname"],
        topic=row["topic"],
        metadata=row.get("metadata"),
        rules=PubsubSubscriptionRules(rules=rules),
        dead_letter_topic=row["deadLetterTopic"],
        type=row["type"],
    )


def _connection(connection: AppConnection | None) -> AppConnectionProperties | None:
    if connection is None:
        return None
    health = None
    if connection.health is not None:
        path, interval_s, timeout_s, threshold = connection.health
        health = AppConnectionHealthProperties(
            health_check_path=path,
            health_probe_interval=format_go_duration(interval_s),
            health_probe_timeout=format_go_duration(timeout_s),
            health_threshold=threshold,
        )
    return AppConnectionProperties(
        port=connection.port,
        protocol=connection.protocol,
        channel_address=connection.channel_address,
        max_concurrency=max(connection.max_concurrency, 0),
        health=health,
    )
