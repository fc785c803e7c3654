"""The services of the gRPC API: Dapr's rpcs, put together from a mixin an area."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_runtime.api.grpc.bindings import BindingsRpcs
from edge_runtime.api.grpc.configuration import ConfigurationRpcs
from edge_runtime.api.grpc.invoke import InvokeRpcs
from edge_runtime.api.grpc.metadata import MetadataRpcs
from edge_runtime.api.grpc.pubsub import PubSubRpcs
from edge_runtime.api.grpc.reflection import Service, reflection_services
from edge_runtime.api.grpc.secrets import SecretsRpcs
from edge_runtime.api.grpc.state import StateRpcs
from edge_runtime.api.grpc.subscribe import SubscribeRpcs
from edge_runtime.api.grpc.unconfigured import UnconfiguredRpcs
from edge_runtime.proto.dapr.proto.runtime.v1.dapr_grpc import DaprBase

if TYPE_CHECKING:
    from edge_runtime.api.blocks import Blocks


class Dapr(
    StateRpcs,
    PubSubRpcs,
    SecretsRpcs,
    BindingsRpcs,
    ConfigurationRpcs,
    MetadataRpcs,
    InvokeRpcs,
    SubscribeRpcs,
    UnconfiguredRpcs,
    DaprBase,
):
    """Every rpc of `dapr.proto.runtime.v1.Dapr`."""

    def __init__(self, blocks: Blocks) -> None:
        self.blocks = blocks


def services_of(blocks: Blocks) -> tuple[Service, ...]:
    """Everything that the gRPC port of an app serves itself."""
    dapr = Dapr(blocks)
    return dapr, *reflection_services([dapr])
