"""Configuration over gRPC: settings, and streams of what changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from grpclib.const import Status
from grpclib.exceptions import GRPCError

from edge_runtime.api.grpc.unary import RpcCall, unary
from edge_runtime.blocks.configuration import End, SubscriptionsStopped
from edge_runtime.model.errors import DriverError
from edge_runtime.proto.dapr.proto.runtime.v1.configuration_pb2 import (
    GetConfigurationRequest,
    GetConfigurationResponse,
    SubscribeConfigurationResponse,
    UnsubscribeConfigurationRequest,
    UnsubscribeConfigurationResponse,
)

if TYPE_CHECKING:
    from edge_runtime.api.blocks import Blocks
    from edge_runtime.model.ports import ConfigurationItem
    from edge_runtime.net.grpc.server import ServerCall


class ConfigurationRpcs:
    """The configuration rpcs of one app, under their stable names and their first ones."""

    blocks: Blocks

    @unary
    async def GetConfiguration(self, call: RpcCall, request: GetConfigurationRequest) -> GetConfigurationResponse:
        items = await self.blocks.configuration.get(request.store_name, list(request.keys), dict(request.metadata))
        response = GetConfigurationResponse()
        _put(response, items)
        return response

    @unary
    async def UnsubscribeConfiguration(
        self, call: RpcCall, request: UnsubscribeConfigurationRequest
    ) -> UnsubscribeConfigurationResponse:
        """An id that is not known is no error, but told in the reply."""
        try:
            await self.blocks.configuration.unsubscribe(request.store_name, request.id)
        except DriverError as error:
            return UnsubscribeConfigurationResponse(ok=False, message=str(error))
        return UnsubscribeConfigurationResponse(ok=True)

    async def SubscribeConfiguration(self, stream: ServerCall) -> None:
        """The first message has the subscription's id and no items."""
        request: Any = await stream.recv_message()
        if request is None:
            raise GRPCError(Status.UNKNOWN, "EOF")
        client = _Client(stream)
        try:
            end = await self.blocks.configuration.stream(
                request.store_name, list(request.keys), dict(request.metadata), client
            )
        except SubscriptionsStopped as error:
            raise GRPCError(Status.UNAVAILABLE, str(error)) from error
        if client.failure is not None:
            raise client.failure
        if end is End.STOPPED:
            raise GRPCError(Status.UNKNOWN, "stream closed")

    GetConfigurationAlpha1 = GetConfiguration
    UnsubscribeConfigurationAlpha1 = UnsubscribeConfiguration
    SubscribeConfigurationAlpha1 = SubscribeConfiguration


class _Client:
    """The client of one stream. What was wrong with the stream ends it and is kept."""

    def __init__(self, stream: ServerCall) -> None:
        self._stream = stream
        self.failure: GRPCError | DriverError | None = None

    async def send(self, subscription_id: str, items: Mapping[str, ConfigurationItem]) -> bool:
        message = SubscribeConfigurationResponse(id=subscription_id)
        _put(message, items)
        try:
            await self._stream.send_message(message)
        except (DriverError, GRPCError) as error:
            self.failure = error
            return False
        return True


def _put(
    response: GetConfigurationResponse | SubscribeConfigurationResponse, items: Mapping[str, ConfigurationItem]
) -> None:
    for key, item in items.items():
        found = response.items[key]
        found.value = item.value
        found.version = item.version
        found.metadata.update(item.metadata)
