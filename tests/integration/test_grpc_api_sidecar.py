"""Metadata, shutdown and secrets of a running sidecar over gRPC."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import ErrorInfo

from edge_runtime.proto.dapr.proto.runtime.v1 import metadata_pb2 as pb
from edge_runtime.proto.dapr.proto.runtime.v1.dapr_pb2 import ShutdownRequest
from edge_runtime.proto.dapr.proto.runtime.v1.secret_pb2 import (
    GetBulkSecretRequest,
    GetBulkSecretResponse,
    GetSecretRequest,
    SecretResponse,
)
from tests.support.app import App
from tests.support.grpc_client import DaprClient
from tests.support.sidecar import Sidecar

pytestmark = pytest.mark.slow

RESOURCES = """
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: vault}
spec: {type: secretstores.local.file, version: v1, metadata: [{name: secretsFile, value: "PLACE/secrets.json"}]}
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: multi}
spec: {type: secretstores.local.file, version: v1, metadata: [
  {name: secretsFile, value: "PLACE/secrets.json"}, {name: multiValued, value: "true"}]}
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: bus}
spec: {type: pubsub.in-memory, version: v1}
---
apiVersion: dapr.io/v2alpha1
kind: Subscription
metadata: {name: declared}
spec: {pubsubname: bus, topic: a, deadLetterTopic: dead, metadata: {x: "y"}, routes: {
  rules: [{match: 'event.type == "x"', path: /x}], default: /a}}
---
apiVersion: dapr.io/v1alpha1
kind: HTTPEndpoint
metadata: {name: outside}
spec: {baseUrl: "http://127.0.0.1:1"}
"""
# Of this kind only the first document of a file is read.
RESILIENCY = """
apiVersion: dapr.io/v1alpha1
kind: Resiliency
metadata: {name: patient}
spec: {policies: {timeouts: {t: 5s}}, targets: {apps: {x: {timeout: t}}}}
"""
CONFIGURATION = """
apiVersion: dapr.io/v1alpha1
kind: Configuration
metadata: {name: c}
spec:
  features: [{name: Some, enabled: true}]
  secrets: {scopes: [{storeName: vault, deniedSecrets: [hidden]}]}
"""


@pytest.fixture(scope="module")
def sidecar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    place = tmp_path_factory.mktemp("sidecar")
    resources = place / "resources"
    resources.mkdir()
    (resources / "all.yaml").write_text(RESOURCES.replace("PLACE", str(place)))
    (resources / "resiliency.yaml").write_text(RESILIENCY)
    (place / "config.yaml").write_text(CONFIGURATION)
    (place / "secrets.json").write_text('{"plain":"p","nested":{"in":"é"},"hidden":"h"}')
    wanted = [{"pubsubname": "bus", "topic": "b", "route": "/b"}]
    with (
        App({"/dapr/subscribe": lambda _: (200, wanted), "/healthz": lambda _: (200, b"")}) as app,
        Sidecar(
            place / "node",
            *("--resources-path", str(resources), "--config", str(place / "config.yaml")),
            *("--enable-app-health-check", "--app-health-probe-interval", "1", "--app-max-concurrency", "7"),
            app_id="me",
            app_port=app.port,
        ) as sidecar,
    ):
        yield sidecar


@pytest.fixture(scope="module")
def client(sidecar: Sidecar) -> Iterator[DaprClient]:
    with DaprClient(sidecar.grpc_port) as client:
        yield client


# --- metadata ---------------------------------------------------------------------------------------------------------


def test_the_sidecar_describes_itself(sidecar: Sidecar, client: DaprClient) -> None:
    said: pb.GetMetadataResponse = client.reply("GetMetadata", pb.GetMetadataRequest())
    over_http = sidecar.http("GET", "/v1.0/metadata").json()
    assert (said.id, said.runtime_version) == ("me", over_http["runtimeVersion"])
    assert list(said.enabled_features) == over_http["enabledFeatures"] == ["Some"]
    components = [(one.name, one.type, one.version, list(one.capabilities)) for one in said.registered_components]
    assert components == [
        (one["name"], one["type"], one["version"], one.get("capabilities", [])) for one in over_http["components"]
    ]
    assert [one.name for one in said.http_endpoints] == ["outside"]
    assert [one.name for one in said.resiliencies] == [one["name"] for one in over_http["resiliencies"]]
    actors = said.actor_runtime
    assert (actors.runtime_status, actors.host_ready) == (pb.ActorRuntime.DISABLED, False)
    assert actors.placement == over_http["actorRuntime"]["placement"]
    assert said.HasField("scheduler")
    assert said.workflows.connected_workers == 0


def test_the_app_is_described(sidecar: Sidecar, client: DaprClient) -> None:
    connection = client.reply("GetMetadata", pb.GetMetadataRequest()).app_connection_properties
    over_http = sidecar.http("GET", "/v1.0/metadata").json()["appConnectionProperties"]
    assert (connection.port, connection.protocol, connection.channel_address) == (
        over_http["port"],
        "http",
        "127.0.0.1",
    )
    assert connection.max_concurrency == over_http["maxConcurrency"] == 7
    health = connection.health
    assert (health.health_check_path, health.health_threshold) == ("/healthz", 3)
    assert (health.health_probe_interval, health.health_probe_timeout) == ("1s", "500ms")


def test_subscriptions_are_listed(client: DaprClient) -> None:
    said = client.reply("GetMetadata", pb.GetMetadataRequest())
    declared, programmed = sorted(said.subscriptions, key=lambda row: str(row.topic))
    rule = pb.PubsubSubscriptionRule
    assert declared == pb.PubsubSubscription(
        pubsub_name="bus",
        topic="a",
        metadata={"x": "y"},
        rules=pb.PubsubSubscriptionRules(rules=[rule(match='event.type == "x"', path="/x"), rule(path="/a")]),
        dead_letter_topic="dead",
        type=pb.DECLARATIVE,
    )
    assert (programmed.topic, programmed.type) == ("b", pb.PROGRAMMATIC)


def test_entries_are_shared_with_http(sidecar: Sidecar, client: DaprClient) -> None:
    client.reply("SetMetadata", pb.SetMetadataRequest(key="a", value="é"))
    client.reply("SetMetadata", pb.SetMetadataRequest(key="", value="x"))
    assert sidecar.http("PUT", "/v1.0/metadata/b", b"2").status == 204
    extended = dict(client.reply("GetMetadata", pb.GetMetadataRequest()).extended_metadata)
    assert extended == sidecar.http("GET", "/v1.0/metadata").json()["extended"]
    assert (extended["a"], extended["b"], "" in extended) == ("é", "2", False)
    assert extended["daprRuntimeVersion"]


@pytest.mark.parametrize(
    ("metadata", "code", "line"),
    [((), 0, "Daprd shutdown gracefully"), ((("dapr-force-shutdown", "true"),), 1, "")],
)
def test_a_sidecar_can_be_told_to_end(
    tmp_path: Path, metadata: tuple[tuple[str, str], ...], code: int, line: str
) -> None:
    with Sidecar(tmp_path) as sidecar, DaprClient(sidecar.grpc_port) as client:
        client.reply("Shutdown", ShutdownRequest(), *metadata)
        assert sidecar.wait() == code
        assert line in sidecar.said


# --- secrets ----------------------------------------------------------------------------------------------------------


def test_secrets_are_given(client: DaprClient) -> None:
    secret = client.reply("GetSecret", GetSecretRequest(store_name="vault", key="nested:in"))
    assert dict(secret.data) == {"nested:in": "é"}
    secret = client.reply("GetSecret", GetSecretRequest(store_name="multi", key="nested"))
    assert dict(secret.data) == {"in": "é"}


def test_all_secrets_are_those_allowed(client: DaprClient) -> None:
    found = client.reply("GetBulkSecret", GetBulkSecretRequest(store_name="vault"))
    expected = {"plain": {"plain": "p"}, "nested:in": {"nested:in": "é"}}
    assert found == GetBulkSecretResponse(data={name: SecretResponse(secrets=one) for name, one in expected.items()})


SECRETS: list[tuple[str, Message, str, str, str]] = [
    (
        "GetSecret",
        GetSecretRequest(store_name="x", key="plain"),
        "INVALID_ARGUMENT",
        "ERR_SECRET_STORE_NOT_FOUND",
        "failed finding secret store with key x",
    ),
    (
        "GetBulkSecret",
        GetBulkSecretRequest(store_name="x"),
        "INVALID_ARGUMENT",
        "ERR_SECRET_STORE_NOT_FOUND",
        "failed finding secret store with key x",
    ),
    (
        "GetSecret",
        GetSecretRequest(store_name="vault", key="hidden"),
        "PERMISSION_DENIED",
        "ERR_PERMISSION_DENIED",
        'access denied by policy to get "hidden" from "vault"',
    ),
    (
        "GetSecret",
        GetSecretRequest(store_name="vault", key="gone"),
        "INTERNAL",
        "ERR_SECRET_GET",
        "failed getting secret with key gone from secret store vault: ",
    ),
]


@pytest.mark.parametrize(("rpc", "request_", "code", "reason", "start"), SECRETS)
def test_errors_are_told(client: DaprClient, rpc: str, request_: Message, code: str, reason: str, start: str) -> None:
    answered = client.ask(rpc, request_)
    assert answered.code == code
    assert answered.message.startswith(start)
    assert answered.parts == [ErrorInfo(reason=reason, domain="dapr.io")]


def test_without_a_store_none_is_configured(tmp_path: Path) -> None:
    resources = tmp_path / "resources"
    resources.mkdir()
    component = {"apiVersion": "dapr.io/v1alpha1", "kind": "Component", "metadata": {"name": "s"}}
    component |= {"spec": {"type": "state.in-memory", "version": "v1"}}
    (resources / "a.yaml").write_text(json.dumps(component))
    with (
        Sidecar(tmp_path / "node", "--resources-path", str(resources)) as sidecar,
        DaprClient(sidecar.grpc_port) as client,
    ):
        for rpc, request in (
            ("GetSecret", GetSecretRequest(store_name="x")),
            ("GetBulkSecret", GetBulkSecretRequest()),
        ):
            answered = client.ask(rpc, request)
            assert (answered.code, answered.message) == ("FAILED_PRECONDITION", "secret store is not configured")
