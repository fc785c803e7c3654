"""Health, metadata, shutdown and the blocks without a driver, through a face."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from edge_runtime.api.http import health, unconfigured
from edge_runtime.api.http.face import Face, FaceSettings
from edge_runtime.blocks.metadata import Metadata
from edge_runtime.model.http import Body, Request, Response
from edge_runtime.observability.health import Health
from edge_runtime.observability.trace import Tracer


class Sidecar:
    def __init__(self) -> None:
        self.stopped: list[bool] = []
        self.health = Health(("runtime",))
        self.metadata = Metadata("me", "1.0")
        blocks: Any = SimpleNamespace(
            health=self.health, metadata=self.metadata, namespace="ns", shutdown=self.stopped.append
        )
        routes = (*health.ROUTES, *unconfigured.ROUTES)
        self.face = Face(blocks, routes, FaceSettings(), Tracer(None), None, None)

    async def ask(self, method: str, target: str, body: bytes = b"", **headers: bytes) -> Response:
        given = [(name.replace("_", "-").encode(), value) for name, value in headers.items()]
        return await self.face.handle(Request(method, target.encode(), given, Body(body)))


async def test_health_waits_for_every_target() -> None:
    sidecar = Sidecar()
    response = await sidecar.ask("GET", "/v1.0/healthz")
    assert response.status == 500
    assert json.loads(response.body.data) == {
        "errorCode": "ERR_HEALTH_NOT_READY",
        "message": "dapr is not ready: [runtime]",
    }
    sidecar.health.ready("runtime")
    assert (await sidecar.ask("GET", "/v1.0/healthz")).status == 204
    sidecar.health.unready("runtime")
    assert (await sidecar.ask("GET", "/v1.0/healthz")).status == 500


async def test_health_can_ask_for_an_app() -> None:
    sidecar = Sidecar()
    sidecar.health.ready("runtime")
    assert (await sidecar.ask("GET", "/v1.0/healthz?appid=me")).status == 204
    response = await sidecar.ask("GET", "/v1.0/healthz?appid=other")
    assert json.loads(response.body.data)["errorCode"] == "ERR_HEALTH_APPID_NOT_MATCH"


async def test_outbound_health_is_its_own() -> None:
    sidecar = Sidecar()
    assert (await sidecar.ask("GET", "/v1.0/healthz/outbound")).status == 500
    sidecar.health.outbound_ready = True
    assert (await sidecar.ask("GET", "/v1.0/healthz/outbound")).status == 204


async def test_metadata_can_be_added_to() -> None:
    sidecar = Sidecar()
    assert (await sidecar.ask("PUT", "/v1.0/metadata/cliPID", b"42")).status == 204
    document = json.loads((await sidecar.ask("GET", "/v1.0/metadata")).body.data)
    assert document["extended"]["cliPID"] == "42"


async def test_shutdown_can_be_forced() -> None:
    sidecar = Sidecar()
    assert (await sidecar.ask("POST", "/v1.0/shutdown")).status == 204
    assert (await sidecar.ask("POST", "/v1.0/shutdown", dapr_force_shutdown=b"TRUE")).status == 204
    assert sidecar.stopped == [False, True]


@pytest.mark.parametrize(
    ("method", "target", "status", "code"),
    [
        ("POST", "/v1.0-alpha1/unlock/l", 500, "ERR_LOCK_STORE_NOT_CONFIGURED"),
        ("PUT", "/v1.0/actors/T/1/method/m", 400, "ERR_ACTOR_NO_PLACEMENT"),
        ("POST", "/v1.0/workflows/dapr/w/start", 400, "ERR_ACTOR_NO_PLACEMENT"),
        ("PUT", "/v1.0-alpha1/crypto/c/encrypt", 500, "ERR_CRYPTO_PROVIDERS_NOT_CONFIGURED"),
        ("POST", "/v1.0-alpha1/subtlecrypto/c/sign", 501, "ERR_API_UNIMPLEMENTED"),
        ("POST", "/v1.0-alpha2/conversation/c/converse", 400, "ERR_CONVERSATION_NOT_FOUND"),
        ("GET", "/v1.0/jobs/j", 500, "DAPR_SCHEDULER_GET_JOB"),
    ],
)
async def test_blocks_without_driver_say_so(method: str, target: str, status: int, code: str) -> None:
    response = await Sidecar().ask(method, target)
    assert response.status == status
    assert json.loads(response.body.data)["errorCode"] == code


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"", 400, "ExpiryInSeconds is not positive in lock store l"),
        (b'{"expiryInSeconds":-1}', 400, "ExpiryInSeconds is not positive in lock store l"),
        (b'{"expiryInSeconds":1}', 500, "lock store is not configured"),
        (b'{"expiry_in_seconds":"1"}', 500, "lock store is not configured"),
        (b'{"expiryInSeconds":1.5}', 400, "failed deserializing HTTP body: expiryInSeconds: expected a whole number"),
        (b'{"expiryInSeconds":"x"}', 400, "failed deserializing HTTP body: expiryInSeconds: expected a whole number"),
        (b'{"expiryInSeconds":true}', 400, "failed deserializing HTTP body: expiryInSeconds: expected a whole number"),
        (b'{"expiryInSeconds":1%b}' % (b"0" * 400), 400, "failed deserializing HTTP body: expiryInSeconds: "),
        (b"[]", 400, "failed deserializing HTTP body: expected a JSON object"),
    ],
)
async def test_a_lock_needs_its_expiry(body: bytes, status: int, message: str) -> None:
    response = await Sidecar().ask("POST", "/v1.0-alpha1/lock/l", body)
    assert response.status == status
    assert json.loads(response.body.data)["message"].startswith(message)


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/v1.0/metadata"),
        ("GET", "/v1.0/workflows/dapr/i"),
        ("POST", "/v1.0-beta1/workflows/dapr/i/purge"),
        ("POST", "/v1.0/jobs/j"),
        ("POST", "/v1.0-alpha1/unlock/l"),
        ("POST", "/v1.0-alpha1/subtlecrypto/c/sign"),
        ("POST", "/v1.0-alpha2/conversation/c/converse"),
    ],
)
@pytest.mark.parametrize("body", [b"nope", b"[]", b"NaN", b'{"a":1} x', b'"\xff"'])
async def test_a_body_has_to_be_a_message(method: str, target: str, body: bytes) -> None:
    response = await Sidecar().ask(method, target, body)
    assert response.status == 400
    document = json.loads(response.body.data)
    assert document["errorCode"] == "ERR_MALFORMED_REQUEST"
    assert document["message"].startswith("failed deserializing HTTP body: ")


async def test_workflow_input_may_be_any_bytes() -> None:
    response = await Sidecar().ask("POST", "/v1.0/workflows/dapr/w/start", b"\xff")
    assert json.loads(response.body.data)["errorCode"] == "ERR_ACTOR_NO_PLACEMENT"
    response = await Sidecar().ask("POST", "/v1.0/workflows/dapr/w/start", b"a" * (4 * 2**20 + 1))
    assert json.loads(response.body.data)["errorCode"] == "ERR_BODY_READ"
