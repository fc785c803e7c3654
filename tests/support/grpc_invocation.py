"""One sidecar's gRPC server over real sockets, with the proxy and `InvokeService` behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from edge_runtime.api.grpc.face import GrpcFace
from edge_runtime.api.grpc.proxy import Proxy
from edge_runtime.api.settings import FaceSettings
from edge_runtime.blocks.invoke import Invoker, LocalPeers, Peer
from edge_runtime.channel.endpoints import open_outside
from edge_runtime.channel.grpc import GrpcAppChannel, open_grpc_channel
from edge_runtime.channel.http import ChannelSettings, HttpChannel, open_http_channel
from edge_runtime.net.connections import Origin
from edge_runtime.net.grpc.client import GrpcClient, open_grpc_client
from edge_runtime.net.grpc.limits import GrpcLimits
from edge_runtime.observability.grpc_metrics import GrpcServerMetrics
from edge_runtime.observability.metrics import Metrics
from edge_runtime.observability.trace import Tracer
from edge_runtime.resiliency.policies import Policies
from edge_runtime.security.access import AccessPolicy
from tests.support.grpc_server import Served, serve_grpc

Channel = GrpcAppChannel | HttpChannel


class Node:
    """`client` is an app that talks to the sidecar of the first app. `channels` are those to all apps, by id."""

    def __init__(
        self, client: GrpcClient, served: Served, channels: Mapping[str, Channel], peers: LocalPeers, metrics: Metrics
    ) -> None:
        self.client = client
        self.served = served
        self.channels = channels
        self.peers = peers
        self.metrics = metrics


@asynccontextmanager
async def open_node(
    apps: Mapping[str, ChannelSettings | None],
    *,
    access: AccessPolicy | None = None,
    resources: Sequence[tuple[str, Mapping[str, Any]]] = (),
    settings: FaceSettings | None = None,
    tracer: Tracer | None = None,
    message_bytes_max: int | None = 4 * 2**20,
) -> AsyncIterator[Node]:
    """The first of `apps` calls; None is one without an app port. `access` is that of all."""
    async with AsyncExitStack() as stack:
        peers = LocalPeers()
        channels: dict[str, Channel] = {}
        metrics = Metrics(next(iter(apps)))
        for app_id, channel in apps.items():
            if channel is not None:
                opened = open_grpc_channel(channel, metrics) if channel.protocol[:4] == "grpc" else None
                channels[app_id] = await stack.enter_async_context(opened or open_http_channel(channel))
            peers.add(Peer(app_id, "", channels.get(app_id), access, Metrics(app_id)))
        own = peers.find(metrics.app_id or "", "default")
        assert own is not None
        policies = Policies(resources, metrics, own.app_id)
        outside = await stack.enter_async_context(open_outside(ChannelSettings(0)))
        invoker = Invoker(own, peers, policies=policies, metrics=metrics, outside=outside, host_address="10.0.0.1")
        blocks: Any = type("Blocks", (), {"invoker": invoker})
        face = GrpcFace(
            blocks,
            settings or FaceSettings(),
            tracer or Tracer(None),
            GrpcServerMetrics(metrics),
            Proxy(invoker).handle,
        )
        served = await stack.enter_async_context(serve_grpc(face.handle, GrpcLimits(message_bytes_max)))
        client = await stack.enter_async_context(
            open_grpc_client(Origin("http", "127.0.0.1", served.port), limits=GrpcLimits(message_bytes_max=None))
        )
        yield Node(client, served, channels, peers, metrics)


def grpc_app(port: int, **settings: Any) -> ChannelSettings:
    return ChannelSettings(port, protocol="grpc", **settings)
