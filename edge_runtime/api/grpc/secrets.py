"""Secrets over gRPC: one secret, or all of a store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_runtime.api.grpc.unary import RpcCall, unary
from edge_runtime.proto.dapr.proto.runtime.v1.secret_pb2 import (
    GetBulkSecretRequest,
    GetBulkSecretResponse,
    GetSecretRequest,
    GetSecretResponse,
    SecretResponse,
)

if TYPE_CHECKING:
    from edge_runtime.api.blocks import Blocks


class SecretsRpcs:
    """The secrets rpcs of one app."""

    blocks: Blocks

    @unary
    async def GetSecret(self, call: RpcCall, request: GetSecretRequest) -> GetSecretResponse:
        secret = await self.blocks.secrets.get(request.store_name, request.key, dict(request.metadata))
        return GetSecretResponse(data=secret)

    @unary
    async def GetBulkSecret(self, call: RpcCall, request: GetBulkSecretRequest) -> GetBulkSecretResponse:
        """What the scopes deny is left out."""
        found = await self.blocks.secrets.bulk_get(request.store_name, dict(request.metadata))
        return GetBulkSecretResponse(data={name: SecretResponse(secrets=secret) for name, secret in found.items()})
