"""Metadata and shutdown over gRPC through the face."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from google.protobuf.message import Message
from grpclib.const import Status

from edge_runtime.api.grpc.face import GrpcFace
from edge_runtime.api.settings import FaceSettings
from edge_runtime.blocks.metadata import EXTENDED_ENTRIES_MAX, AppConnection, LoadedComponent, Metadata
from edge_runtime.observability.trace import Tracer
from edge_runtime.proto.dapr.proto.runtime.v1 import metadata_pb2 as pb
from edge_runtime.proto.dapr.proto.runtime.v1.dapr_pb2 import ShutdownRequest
from tests.support.grpc_call import FakeCall, answer


class Sidecar:
    def __init__(self, **facts: Any) -> None:
        self.stopped: list[bool] = []
        self.metadata = Metadata("me", "1.19", **facts)
        blocks: Any = SimpleNamespace(metadata=self.metadata, shutdown=self.stopped.append)
        self.face = GrpcFace(blocks, FaceSettings(), Tracer(None), None, None)

    async def ask(self, rpc: str, request: Message, *metadata: tuple[str, str]) -> FakeCall:
        return await answer(self.face, FakeCall(rpc, request, metadata))

    async def said(self) -> pb.GetMetadataResponse:
        reply: Any = (await self.ask("GetMetadata", pb.GetMetadataRequest())).replies[0]
        assert isinstance(reply, pb.GetMetadataResponse)
        return reply


async def test_a_sidecar_alone_says_little() -> None:
    assert await Sidecar().said() == pb.GetMetadataResponse(
        id="me",
        runtime_version="1.19",
        extended_metadata={"daprRuntimeVersion": "1.19"},
        actor_runtime=pb.ActorRuntime(runtime_status=pb.ActorRuntime.DISABLED, placement="placement: disconnected"),
        scheduler=pb.MetadataScheduler(),
        workflows=pb.MetadataWorkflows(),
    )


async def test_everything_loaded_is_listed() -> None:
    rows = [
        {"pubsubname": "p", "topic": "a", "deadLetterTopic": "", "type": "DECLARATIVE", "rules": [{"path": "/a"}]},
        {
            "pubsubname": "p",
            "topic": "b",
            "metadata": {"x": "y"},
            "rules": [{"match": "event.type == 'x'", "path": "/x"}, {"path": "/b"}],
            "deadLetterTopic": "dead",
            "type": "PROGRAMMATIC",
        },
        {"pubsubname": "p", "topic": "c", "deadLetterTopic": "", "type": "STREAMING"},
    ]
    sidecar = Sidecar(features=["F"], subscriptions=lambda: rows)
    sidecar.metadata.components.append(LoadedComponent("s", "state.sqlite", "v1", ["ETAG", "ACTOR"]))
    sidecar.metadata.endpoints.append("e")
    sidecar.metadata.resiliencies.append("r")
    said = await sidecar.said()
    component = pb.RegisteredComponents(name="s", type="state.sqlite", version="v1", capabilities=["ETAG", "ACTOR"])
    assert list(said.registered_components) == [component]
    assert list(said.enabled_features) == ["F"]
    assert list(said.http_endpoints) == [pb.MetadataHTTPEndpoint(name="e")]
    assert list(said.resiliencies) == [pb.MetadataResiliency(name="r")]
    declared, programmed, streamed = said.subscriptions
    assert declared == pb.PubsubSubscription(
        pubsub_name="p",
        topic="a",
        rules=pb.PubsubSubscriptionRules(rules=[pb.PubsubSubscriptionRule(path="/a")]),
        type=pb.DECLARATIVE,
    )
    assert [(rule.match, rule.path) for rule in programmed.rules.rules] == [("event.type == 'x'", "/x"), ("", "/b")]
    assert (programmed.metadata, programmed.dead_letter_topic, programmed.type) == ({"x": "y"}, "dead", pb.PROGRAMMATIC)
    assert streamed.type == pb.STREAMING


@pytest.mark.parametrize(
    ("connection", "expected"),
    [
        (
            AppConnection(80, "grpc", "127.0.0.1", -1),
            pb.AppConnectionProperties(port=80, protocol="grpc", channel_address="127.0.0.1"),
        ),
        (
            AppConnection(80, "http", "h", 3, ("/healthz", 5.0, 0.5, 3)),
            pb.AppConnectionProperties(
                port=80,
                protocol="http",
                channel_address="h",
                max_concurrency=3,
                health=pb.AppConnectionHealthProperties(
                    health_check_path="/healthz",
                    health_probe_interval="5s",
                    health_probe_timeout="500ms",
                    health_threshold=3,
                ),
            ),
        ),
    ],
)
async def test_the_app_is_described(connection: AppConnection, expected: pb.AppConnectionProperties) -> None:
    assert (await Sidecar(connection=connection).said()).app_connection_properties == expected


async def test_entries_are_kept() -> None:
    sidecar = Sidecar()
    for key, value in (("cliPID", "1"), ("cliPID", "2"), ("", "x")):
        assert (await sidecar.ask("SetMetadata", pb.SetMetadataRequest(key=key, value=value))).status is Status.OK
    expected = {"cliPID": "2", "daprRuntimeVersion": "1.19"}
    assert dict((await sidecar.said()).extended_metadata) == expected
    assert sidecar.metadata.document()["extended"] == expected


async def test_entries_are_limited() -> None:
    sidecar = Sidecar(extended={str(number): "" for number in range(EXTENDED_ENTRIES_MAX)})
    call = await sidecar.ask("SetMetadata", pb.SetMetadataRequest(key="more"))
    assert call.status not in (Status.OK, Status.UNKNOWN)
    assert f"more than {EXTENDED_ENTRIES_MAX} metadata entries" in call.message


async def test_shutdown_can_be_forced() -> None:
    sidecar = Sidecar()
    for metadata in ((), (("dapr-force-shutdown", "TRUE"),), (("dapr-force-shutdown", "1"),)):
        assert (await sidecar.ask("Shutdown", ShutdownRequest(), *metadata)).status is Status.OK
    assert sidecar.stopped == [False, True, False]
