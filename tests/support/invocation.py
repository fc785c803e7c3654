"""One sidecar's HTTP face over real sockets, with only service invocation behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import trio

from edge_runtime.api.http import invoke
from edge_runtime.api.http.face import Face, FaceSettings
from edge_runtime.blocks.invoke import Invoker, LocalPeers, Peer
from edge_runtime.channel.endpoints import EndpointSettings, open_endpoint, open_outside
from edge_runtime.channel.http import ChannelSettings, HttpChannel, open_http_channel
from edge_runtime.model.http import Body, Header, Request, Response
from edge_runtime.net.connections import Origin
from edge_runtime.net.http_client import HttpClient, open_http_client
from edge_runtime.net.http_server import HttpServer, ServerLimits, serve_http
from edge_runtime.net.listeners import open_listeners
from edge_runtime.observability.metrics import Metrics
from edge_runtime.observability.trace import Tracer
from edge_runtime.resiliency.policies import Policies
from tests.loopback import LoopbackApp


class Sidecar:
    """`call` is an app that talks to it. `channels` are those to the apps of the node, by app id."""

    def __init__(self, client: HttpClient, port: int, channels: dict[str, HttpChannel], server: HttpServer) -> None:
        self._client = client
        self.origin = Origin("http", "127.0.0.1", port)
        self.channels = channels
        self.server = server

    async def call(
        self, method: str, target: bytes, body: Body | bytes = b"", headers: Sequence[Header] = ()
    ) -> Response:
        content = body if isinstance(body, Body) else Body(body)
        return await self._client.send(self.origin, Request(method, target, headers, content))


@asynccontextmanager
async def open_sidecar(
    apps: Mapping[str, LoopbackApp],
    *,
    endpoints: Sequence[EndpointSettings] = (),
    resources: Sequence[tuple[str, Mapping[str, Any]]] = (),
    settings: FaceSettings | None = None,
    max_concurrency: int = -1,
    app_token: str = "",
) -> AsyncIterator[Sidecar]:
    """The sidecar of the first of `apps`; the others are its neighbours on the node."""
    async with AsyncExitStack() as stack:
        peers = LocalPeers()
        channels: dict[str, HttpChannel] = {}
        for app_id, app in apps.items():
            channel = ChannelSettings(app.origin.port, max_concurrency=max_concurrency, api_token=app_token)
            channels[app_id] = await stack.enter_async_context(open_http_channel(channel))
            peers.add(Peer(app_id, "", channels[app_id], None, Metrics(app_id)))
        own = next(iter(apps))
        me = peers.find(own, "default")
        assert me is not None
        metrics = Metrics(own)
        invoker = Invoker(
            me,
            peers,
            policies=Policies(resources, metrics, own),
            metrics=metrics,
            outside=await stack.enter_async_context(open_outside(ChannelSettings(0, api_token=app_token))),
            endpoints={
                one.name: await stack.enter_async_context(open_endpoint(one, ChannelSettings(0))) for one in endpoints
            },
        )
        blocks: Any = type("Blocks", (), {"invoker": invoker})
        face = Face(blocks, invoke.ROUTES, settings or FaceSettings(), Tracer(None), None, invoke.fallback)
        listeners = await stack.enter_async_context(open_listeners(("127.0.0.1",), 0))
        nursery = await stack.enter_async_context(trio.open_nursery())
        server = await nursery.start(serve_http, listeners, face.handle, ServerLimits())
        client = await stack.enter_async_context(open_http_client())
        yield Sidecar(client, listeners[0].socket.getsockname()[1], channels, server)
        client.close()
        await server.drain(5)
