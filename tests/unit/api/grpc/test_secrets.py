"""Secrets over gRPC through the face."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from google.protobuf.message import Message
from grpclib.const import Status

from edge_runtime.api.grpc.face import GrpcFace
from edge_runtime.api.settings import FaceSettings
from edge_runtime.blocks.secrets import Secrets
from edge_runtime.config.settings import SecretScope
from edge_runtime.model.errors import DriverError
from edge_runtime.observability.trace import Tracer
from edge_runtime.proto.dapr.proto.runtime.v1.secret_pb2 import (
    GetBulkSecretRequest,
    GetBulkSecretResponse,
    GetSecretRequest,
    GetSecretResponse,
    SecretResponse,
)
from edge_runtime.security.access import SecretScopes
from tests.support.grpc_call import FakeCall, answer, reason


class Store:
    features: frozenset[str] = frozenset()

    async def get(self, name: str, metadata: Mapping[str, str]) -> Mapping[str, str]:
        if name == "missing":
            raise DriverError("secret missing not found")
        return {name: "é", **metadata}

    async def bulk_get(self, metadata: Mapping[str, str]) -> Mapping[str, Mapping[str, str]]:
        if metadata:
            raise DriverError("off")
        return {"a": {"a": "1", "b": "2"}, "denied": {"denied": "3"}}


async def ask(rpc: str, request: Message, stores: Mapping[str, Any] | None = None) -> FakeCall:
    scopes = SecretScopes([SecretScope("vault", denied=("denied",))])
    blocks: Any = SimpleNamespace(secrets=Secrets({"vault": Store()} if stores is None else stores, scopes))
    return await answer(GrpcFace(blocks, FaceSettings(), Tracer(None), None, None), FakeCall(rpc, request))


async def test_a_secret_has_its_values() -> None:
    call = await ask("GetSecret", GetSecretRequest(store_name="vault", key="a", metadata={"version": "3"}))
    assert call.replies == [GetSecretResponse(data={"a": "é", "version": "3"})]


async def test_all_secrets_are_those_allowed() -> None:
    call = await ask("GetBulkSecret", GetBulkSecretRequest(store_name="vault"))
    assert call.replies == [GetBulkSecretResponse(data={"a": SecretResponse(secrets={"a": "1", "b": "2"})})]


NONE = (Status.FAILED_PRECONDITION, "secret store is not configured")
UNKNOWN = (Status.INVALID_ARGUMENT, "failed finding secret store with key x")
DENIED = (Status.PERMISSION_DENIED, 'access denied by policy to get "denied" from "vault"')
MISSING = (
    Status.INTERNAL,
    "failed getting secret with key missing from secret store vault: secret missing not found",
)
OFF = (Status.INTERNAL, "failed getting secrets from secret store vault: off")


@pytest.mark.parametrize(
    ("rpc", "request_", "stores", "expected", "why"),
    [
        ("GetSecret", GetSecretRequest(store_name="x", key="a"), {}, NONE, "ERR_SECRET_STORES_NOT_CONFIGURED"),
        ("GetSecret", GetSecretRequest(store_name="x", key="a"), None, UNKNOWN, "ERR_SECRET_STORE_NOT_FOUND"),
        ("GetSecret", GetSecretRequest(store_name="vault", key="denied"), None, DENIED, "ERR_PERMISSION_DENIED"),
        ("GetSecret", GetSecretRequest(store_name="vault", key="missing"), None, MISSING, "ERR_SECRET_GET"),
        ("GetBulkSecret", GetBulkSecretRequest(store_name="x"), {}, NONE, "ERR_SECRET_STORES_NOT_CONFIGURED"),
        ("GetBulkSecret", GetBulkSecretRequest(store_name="x"), None, UNKNOWN, "ERR_SECRET_STORE_NOT_FOUND"),
        ("GetBulkSecret", GetBulkSecretRequest(store_name="vault", metadata={"a": "b"}), None, OFF, "ERR_SECRET_GET"),
    ],
)
async def test_refusals_have_their_codes(
    rpc: str, request_: Message, stores: Mapping[str, Any] | None, expected: tuple[Status, str], why: str
) -> None:
    call = await ask(rpc, request_, stores)
    assert (call.status, call.message) == expected
    assert reason(call.details) == why
