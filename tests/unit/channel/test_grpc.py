"""The channel to an app that speaks gRPC."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from google.protobuf.wrappers_pb2 import BytesValue
from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError
from trio.testing import wait_all_tasks_blocked

from edge_runtime.channel.grpc import HEALTH_CHECK, ON_INVOKE, GrpcAppChannel, grpc_origin, open_grpc_channel
from edge_runtime.channel.http import AppUnhealthy, ChannelSettings
from edge_runtime.model.errors import BodyTooLarge, ConfigError
from edge_runtime.model.http import Body, Request
from edge_runtime.net.connections import ConnectFailed, Origin
from edge_runtime.net.grpc.client import RpcError
from edge_runtime.net.grpc.server import ServerCall
from edge_runtime.observability.metrics import Metrics, render
from edge_runtime.proto.dapr.proto.common.v1.common_pb2 import InvokeRequest, InvokeResponse
from tests.support.grpc_invocation import grpc_app
from tests.support.grpc_server import Handle, serve_grpc

EVENT = "/dapr.proto.runtime.v1.AppCallback/OnTopicEvent"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class App:
    """Echoes on every path, OnInvoke's data too. `gate` holds it back; `most` is how many calls it had at once."""

    def __init__(self) -> None:
        self.calls: list[ServerCall] = []
        self.gate = trio.Event()
        self.gate.set()
        self.now = self.most = 0

    async def __call__(self, call: ServerCall) -> None:
        types = (InvokeRequest, InvokeResponse) if call.path == ON_INVOKE else (BytesValue, BytesValue)
        call.bind(Handler(None, Cardinality.UNARY_UNARY, *types))
        request: Any = await call.recv_message()
        self.calls.append(call)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await self.gate.wait()
        finally:
            self.now -= 1
        if call.path == ON_INVOKE:
            request = InvokeResponse(data=request.data, content_type=request.content_type)
        call.reply(request)

    def values(self, name: str) -> list[str | bytes]:
        return [value for key, value in self.calls[-1].metadata if key == name]


@asynccontextmanager
async def channel_to(handle: Handle, metrics: Metrics | None = None, **settings: Any) -> AsyncIterator[GrpcAppChannel]:
    async with serve_grpc(handle) as served, open_grpc_channel(grpc_app(served.port, **settings), metrics) as channel:
        yield channel


async def event(channel: GrpcAppChannel, path: str = EVENT, **options: Any) -> bytes:
    return (await channel.unary(path, BytesValue(value=b"x"), BytesValue, **options)).message.value


def test_address_is_taken_from_flags() -> None:
    assert grpc_origin(grpc_app(3000)) == Origin("grpc", "127.0.0.1", 3000)
    assert grpc_origin(ChannelSettings(1, "[::1]", "grpcs")) == Origin("grpcs", "::1", 1)
    with pytest.raises(ConfigError, match="--app-protocol http is not gRPC"):
        grpc_origin(ChannelSettings(1))


async def test_token_goes_with_calls() -> None:
    app = App()
    async with channel_to(app, api_token="t") as channel:
        await event(channel, metadata=[("dapr-api-token", "callers"), ("x-own", "1")])
        assert (app.values("dapr-api-token"), app.values("x-own")) == (["t"], ["1"])
        _, over = await channel.open_stream("/t.T/Any", [(b"content-type", b"application/grpc")])
        over()


async def test_probe_has_no_token() -> None:
    app = App()
    async with channel_to(app, api_token="t") as channel:
        channel.healthy = False
        assert await channel.probe("/healthz") == 0
        assert app.calls[-1].path == HEALTH_CHECK
        assert app.values("dapr-api-token") == []


async def test_probe_says_the_code() -> None:
    async def ill(call: ServerCall) -> None:
        raise GRPCError(Status.NOT_FOUND, "ill")

    async with channel_to(ill) as channel:
        assert await channel.probe() == 5


async def test_probe_of_nobody_fails() -> None:
    async with serve_grpc(App()) as served:
        port = served.port
    async with open_grpc_channel(grpc_app(port)) as channel:
        with pytest.raises(ConnectFailed):
            await channel.probe()


async def test_shut_gate_refuses_calls() -> None:
    app = App()
    async with channel_to(app) as channel:
        channel.healthy = False
        with pytest.raises(AppUnhealthy, match="app is not in a healthy state"):
            await event(channel)
        with pytest.raises(AppUnhealthy):
            await channel.send(Request("GET", b"/x", []))
        with pytest.raises(AppUnhealthy):
            await channel.open_stream("/t.T/Any", [])
        assert (app.calls, channel.waiting) == ([], 0)


async def test_concurrency_is_limited() -> None:
    app = App()
    app.gate = trio.Event()
    async with channel_to(app, max_concurrency=2) as channel, trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(event, channel)
        await wait_all_tasks_blocked(0.02)
        assert (app.now, channel.waiting) == (2, 5)
        nursery.start_soon(event, channel, "/t.T/Other")
        await wait_all_tasks_blocked(0.02)
        assert app.now == 3
        app.gate.set()
    assert channel.waiting == 0


async def test_draining_waits_for_calls() -> None:
    app = App()
    app.gate = trio.Event()
    async with channel_to(app) as channel, trio.open_nursery() as nursery:
        await channel.drained()
        nursery.start_soon(event, channel)
        _, over = await channel.open_stream("/t.T/Any", [(b"content-type", b"application/grpc")])
        drained = trio.Event()

        async def drain() -> None:
            await channel.drained()
            drained.set()

        nursery.start_soon(drain)
        app.gate.set()
        await wait_all_tasks_blocked(0.02)
        assert not drained.is_set()
        over()
        await drained.wait()


async def test_http_request_is_an_invocation() -> None:
    app = App()
    async with channel_to(app) as channel:
        headers = [(b"traceparent", TRACE.encode()), (b"content-type", b"text/css")]
        response = await channel.send(Request("PUT", b"/a/b", headers, Body(b"data")))
        assert (response.status, response.body.data) == (200, b"data")
        assert response.header(b"content-type") == b"text/css"
        assert app.values("traceparent") == [TRACE]
        assert bytes.fromhex(TRACE[3:35]) in bytes(app.values("grpc-trace-bin")[0])  # type: ignore[arg-type]


async def test_http_body_is_limited() -> None:
    async with channel_to(App(), message_bytes_max=10) as channel:
        with pytest.raises(BodyTooLarge):
            await channel.send(Request("PUT", b"/a", [], Body(bytes(11))))


async def test_streamed_body_outlives_a_failed_connection() -> None:
    class Streamed(Body):
        @property
        def buffered(self) -> bool:
            return False

        async def read(self, limit_bytes: int | None = None) -> bytes:
            data, self.data = self.data, b""
            return data

    request = Request("PUT", b"/a", [], Streamed(b"data"))
    async with serve_grpc(App()) as served:
        port = served.port
    async with open_grpc_channel(grpc_app(port)) as channel:
        with pytest.raises(ConnectFailed):
            await channel.send(request)
    async with channel_to(App()) as channel:
        assert (await channel.send(request)).body.data == b"data"


async def test_error_of_the_app_is_an_answer() -> None:
    async def refuse(call: ServerCall) -> None:
        await call.send_trailing_metadata(Status.PERMISSION_DENIED, "no")

    async with channel_to(refuse) as channel:
        response = await channel.send(Request("GET", b"/a", []))
        assert (response.status, response.body.data) == (403, b'{"code":7,"message":"no"}')
        with pytest.raises(RpcError):
            await channel.on_invoke(InvokeRequest(), [])


async def test_calls_are_counted() -> None:
    async def refuse(call: ServerCall) -> None:
        raise GRPCError(Status.NOT_FOUND, "no")

    metrics = Metrics("app")
    async with channel_to(refuse, metrics) as channel:
        with pytest.raises(RpcError):
            await event(channel)
        channel.count("/t.T/Any", 0, 0.0, 5, 2000)
        channel.count("/t.T/" + "x" * 300, 0, 0.0, 5, 2000)
    page = render([metrics])
    labels = f'app_id="app",grpc_client_method="{EVENT}",grpc_client_status="NotFound"'
    assert f"dapr_grpc_io_client_completed_rpcs{{{labels}}} 1" in page
    assert f"dapr_grpc_io_client_roundtrip_latency_count{{{labels}}} 1" in page
    assert f'dapr_grpc_io_client_sent_bytes_per_rpc_sum{{app_id="app",grpc_client_method="{EVENT}"}} 3' in page
    assert 'dapr_grpc_io_client_received_bytes_per_rpc_sum{app_id="app",grpc_client_method="/t.T/Any"} 2000' in page
    assert 'dapr_grpc_io_client_received_bytes_per_rpc_sum{app_id="app",grpc_client_method="other"} 2000' in page
