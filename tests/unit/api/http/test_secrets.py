"""`v1.0/secrets` through the face."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

import pytest

from edge_runtime.api.blocks import Blocks
from edge_runtime.api.http.face import Face, FaceSettings
from edge_runtime.api.http.secrets import ROUTES
from edge_runtime.blocks.secrets import Secrets
from edge_runtime.config.settings import SecretScope
from edge_runtime.model.errors import DriverError
from edge_runtime.model.http import Body, Request
from edge_runtime.observability.trace import Tracer
from edge_runtime.security.access import SecretScopes


class Store:
    features: frozenset[str] = frozenset()

    async def get(self, name: str, metadata: Mapping[str, str]) -> Mapping[str, str]:
        if name == "missing":
            raise DriverError("secret missing not found")
        return {name: "é <&>", **metadata}

    async def bulk_get(self, metadata: Mapping[str, str]) -> Mapping[str, Mapping[str, str]]:
        return {"b": {"b": "2"}, "a": {"a": "1"}, "denied": {"denied": "3"}}


class _Blocks:
    """Stands for the app's blocks; these handlers call no other."""

    def __init__(self, secrets: Secrets) -> None:
        self.secrets = secrets


def face(stores: Mapping[str, Any]) -> Face:
    secrets = Secrets(stores, SecretScopes([SecretScope("vault", denied=("denied",))]))
    return Face(cast(Blocks, _Blocks(secrets)), ROUTES, FaceSettings(body_limit_bytes=64), Tracer(None), None, None)


async def ask(target: str, body: bytes = b"", stores: Mapping[str, Any] | None = None) -> tuple[int, Any]:
    request = Request("GET", target.encode(), [], Body(body))
    response = await face({"vault": Store()} if stores is None else stores).handle(request)
    data = response.body.data
    return response.status, json.loads(data) if data else None


ANSWERS = [
    ("/v1.0/secrets/vault/a", 200, {"a": "é <&>"}),
    ("/v1.0/secrets/vault/a%2Fb", 200, {"a/b": "é <&>"}),
    ("/v1.0/secrets/vault/a?metadata.version=3&metadata.version=4&x=1", 200, {"a": "é <&>", "version": "3"}),
    ("/v1.0/secrets/vault/bulk", 200, {"a": {"a": "1"}, "b": {"b": "2"}}),
]


@pytest.mark.parametrize(("target", "status", "value"), ANSWERS, ids=[row[0] for row in ANSWERS])
async def test_secrets_are_given(target: str, status: int, value: Any) -> None:
    assert await ask(target) == (status, value)


REFUSALS = [
    ("/v1.0/secrets/other/a", 401, "ERR_SECRET_STORE_NOT_FOUND", "failed finding secret store with key other"),
    ("/v1.0/secrets/other/bulk", 401, "ERR_SECRET_STORE_NOT_FOUND", "failed finding secret store with key other"),
    (
        "/v1.0/secrets/vault/denied",
        403,
        "ERR_PERMISSION_DENIED",
        'access denied by policy to get "denied" from "vault"',
    ),
    (
        "/v1.0/secrets/vault/missing",
        500,
        "ERR_SECRET_GET",
        "failed getting secret with key missing from secret store vault: secret missing not found",
    ),
]


@pytest.mark.parametrize(("target", "status", "code", "message"), REFUSALS, ids=[row[0] for row in REFUSALS])
async def test_refusals_have_daprs_words(target: str, status: int, code: str, message: str) -> None:
    assert await ask(target) == (status, {"errorCode": code, "message": message})


async def test_no_store_at_all_is_said() -> None:
    status, value = await ask("/v1.0/secrets/vault/a", stores={})
    assert (status, value["errorCode"]) == (500, "ERR_SECRET_STORES_NOT_CONFIGURED")


@pytest.mark.parametrize("body", [b"{}", b' {"key": "other", "unknown": [1]} ', b'{"metadata": {"a": "b"}}'])
async def test_message_in_the_body_is_passed_over(body: bytes) -> None:
    assert await ask("/v1.0/secrets/vault/a", body) == (200, {"a": "é <&>"})


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b"text", b'{"key": 1}', b'{"metadata": []}', b'{"metadata": {"a": 1}}', b"\xff"]
)
async def test_other_bodies_are_malformed(body: bytes) -> None:
    for target in ("/v1.0/secrets/vault/a", "/v1.0/secrets/vault/bulk"):
        status, value = await ask(target, body)
        assert (status, value["errorCode"]) == (400, "ERR_MALFORMED_REQUEST")
        assert value["message"].startswith("failed deserializing HTTP body: ")


async def test_body_past_the_limit_is_refused() -> None:
    status, value = await ask("/v1.0/secrets/vault/a", b" " * 65)
    assert (status, value) == (
        400,
        {"errorCode": "ERR_BODY_READ", "message": "failed to read request body: stream too large"},
    )
