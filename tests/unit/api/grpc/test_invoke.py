"""`InvokeService` with apps of both protocols, over real connections."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from google.rpc.error_details_pb2 import ErrorInfo
from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError

from edge_runtime.channel.http import ChannelSettings
from edge_runtime.config.settings import AccessControl, AppPolicy, Operation
from edge_runtime.net.grpc.client import Reply, RpcError
from edge_runtime.net.grpc.server import ServerCall
from edge_runtime.observability.trace import Tracer
from edge_runtime.proto.dapr.proto.common.v1.common_pb2 import HTTPExtension, InvokeRequest, InvokeResponse
from edge_runtime.proto.dapr.proto.runtime.v1.invoke_pb2 import InvokeServiceRequest
from edge_runtime.security.access import AccessPolicy
from tests.loopback import LoopbackApp, always, loopback_app
from tests.support.grpc_call import unpacked
from tests.support.grpc_invocation import Node, grpc_app, open_node
from tests.support.grpc_server import serve_grpc

PATH = "/dapr.proto.runtime.v1.Dapr/InvokeService"
ON_INVOKE = "/dapr.proto.runtime.v1.AppCallback/OnInvoke"


class App:
    """A gRPC app: answers OnInvoke and keeps what it was asked."""

    def __init__(self, failures: int = 0) -> None:
        self.calls: list[ServerCall] = []
        self.requests: list[InvokeRequest] = []
        self._failures = failures

    async def __call__(self, call: ServerCall) -> None:
        assert call.path == ON_INVOKE
        call.bind(Handler(None, Cardinality.UNARY_UNARY, InvokeRequest, InvokeResponse))
        request: Any = await call.recv_message()
        self.calls.append(call)
        self.requests.append(request)
        if self._failures:
            self._failures -= 1
            await call.send_initial_metadata([("x-head", "h")])
            await call.send_trailing_metadata(Status.NOT_FOUND, "no such thing", b"\x08\x05", [("x-tail", "t")])
            return
        reply = InvokeResponse(content_type="text/plain")
        reply.data.value = b"answer to " + request.data.value
        call.reply(reply, [("x-head", "h")], [("x-tail", "t")])

    @property
    def metadata(self) -> list[tuple[str, str | bytes]]:
        return self.calls[-1].metadata


@asynccontextmanager
async def grpc_node(app: App, **options: Any) -> AsyncIterator[Node]:
    async with serve_grpc(app) as served, open_node({"me": None, "app": grpc_app(served.port)}, **options) as node:
        yield node


@asynccontextmanager
async def http_node(app: LoopbackApp, **options: Any) -> AsyncIterator[Node]:
    async with open_node({"me": None, "app": ChannelSettings(app.origin.port)}, **options) as node:
        yield node


def request(
    target: str = "app", method: str = "do/it", verb: str = "", query: str = "", **fields: Any
) -> InvokeServiceRequest:
    message = InvokeRequest(method=method, content_type="text/plain", **fields)
    message.data.value = b"question"
    if verb:
        message.http_extension.CopyFrom(HTTPExtension(verb=verb, querystring=query))
    return InvokeServiceRequest(id=target, message=message)


async def invoke(
    node: Node, sent: InvokeServiceRequest, metadata: Sequence[tuple[str, str | bytes]] = (), **options: Any
) -> Reply[InvokeResponse]:
    return await node.client.unary(PATH, sent, InvokeResponse, metadata=metadata, **options)


async def failure(node: Node, sent: InvokeServiceRequest, **options: Any) -> RpcError:
    with pytest.raises(RpcError) as caught:
        await invoke(node, sent, **options)
    return caught.value


def resiliency(**target: str) -> list[tuple[str, Mapping[str, Any]]]:
    policies = {"retries": {"few": {"duration": "10ms", "maxRetries": 2}}}
    return [("r", {"policies": policies, "targets": {"apps": {"app": target}}})]


# --- apps that speak gRPC ---------------------------------------------------------------------------------------------


async def test_request_and_reply_pass() -> None:
    app = App()
    async with grpc_node(app) as node:
        sent = request(verb="PUT", query="a=1")
        reply = await invoke(node, sent)
    assert app.requests == [sent.message]
    assert (reply.message.content_type, reply.message.data.value) == ("text/plain", b"answer to question")
    assert ("x-head", "h") in reply.initial
    assert ("x-tail", "t") in reply.trailing


async def test_app_error_keeps_its_words() -> None:
    async with grpc_node(App(failures=1)) as node:
        error = await failure(node, request())
    assert (error.code, error.message, error.details) == (5, "no such thing", b"\x08\x05")
    assert ("x-head", "h") in error.initial
    assert ("x-tail", "t") in error.trailing


async def test_metadata_crosses_under_other_names() -> None:
    app = App()
    async with grpc_node(app) as node:
        await invoke(
            node, request(), [("x-own", "1"), ("authorization", "B"), ("x-raw-bin", b"\xff"), ("user-agent", "me")]
        )
    pairs = app.metadata
    assert {("x-own", "1"), ("dapr-authorization", "B"), ("x-raw-bin", b"\xff")} <= set(pairs)
    assert "authorization" not in dict(pairs)
    assert str(dict(pairs)["dapr-authority"]).startswith("127.0.0.1:")


async def test_app_learns_its_caller() -> None:
    app = App()
    async with grpc_node(app) as node:
        await invoke(node, request(), [("dapr-caller-app-id", "forged")])
    pairs = app.metadata
    assert [value for name, value in pairs if name == "dapr-caller-app-id"] == ["me"]
    assert dict(pairs)["dapr-callee-app-id"] == "app"
    assert dict(pairs)["x-forwarded-for"] == "10.0.0.1"


async def test_trace_goes_along() -> None:
    app = App()
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with grpc_node(app, tracer=Tracer(None)) as node:
        await invoke(node, request(), [("traceparent", parent)])
    pairs = app.metadata
    assert [value for name, value in pairs if name == "traceparent"] == [parent]
    assert bytes.fromhex("b7ad6b7169203331") in bytes(dict(pairs)["grpc-trace-bin"])  # type: ignore[arg-type]


async def test_deadline_stays_behind() -> None:
    app = App()
    async with grpc_node(app) as node:
        await invoke(node, request(), timeout_s=30)
    assert app.calls[-1].deadline is None


async def test_errors_are_tried_again_by_policy() -> None:
    app = App(failures=2)
    async with grpc_node(app, resources=resiliency(retry="few")) as node:
        assert (await invoke(node, request())).message.data.value == b"answer to question"
    assert len(app.requests) == 3


async def test_access_control_refuses() -> None:
    operations = (Operation("/do/it", (), "allow"),)
    rules = AccessControl("deny", "public", (AppPolicy("me", "default", "public", "deny", operations),))
    app = App()
    async with grpc_node(app, access=AccessPolicy(rules, "grpc")) as node:
        await invoke(node, request(method="//do/./it"))
        error = await failure(node, request(method="other"))
    assert error.code == 7
    assert "access control policy has denied access to id: me operation: /other verb: NONE" in error.message
    assert len(app.requests) == 1


async def test_unhealthy_app_is_left_alone() -> None:
    async with grpc_node(App()) as node:
        node.channels["app"].healthy = False
        error = await failure(node, request())
    assert (error.code, error.message) == (13, "failed to invoke, id: app, err: app is not in a healthy state")


# --- apps that speak HTTP ---------------------------------------------------------------------------------------------


async def test_verb_and_query_are_used() -> None:
    answer = always(status=201, headers=[(b"content-type", b"text/css"), (b"x-head", b"h")], body=b"made")
    async with loopback_app(answer) as app, http_node(app) as node:
        reply = await invoke(node, request(verb="PUT", query="a=1&b=%20"), [("x-own", "1"), ("x-raw-bin", b"\0")])
        seen = app.last
    assert (seen.method, seen.target, seen.body) == ("PUT", b"/do/it?a=1&b=%20", b"question")
    assert seen.values(b"content-type") == [b"text/plain"]
    assert seen.values(b"x-own") == [b"1"]
    assert seen.values(b"x-raw-bin") == []
    assert seen.values(b"dapr-caller-app-id") == [b"me"]
    assert (reply.message.content_type, reply.message.data.value) == ("text/css", b"made")
    initial = dict(reply.initial)
    assert (initial["dapr-http-status"], initial["x-head"], initial["dapr-content-type"]) == ("201", "h", "text/css")


async def test_http_error_is_an_error() -> None:
    answer = always(status=404, headers=[(b"x-head", b"h")], body=b"nothing here")
    async with loopback_app(answer) as app, http_node(app) as node:
        error = await failure(node, request(verb="GET"))
    assert (error.code, error.message) == (5, "Not Found")
    (info,) = [part for part in unpacked(error.details) if isinstance(part, ErrorInfo)]
    assert dict(info.metadata) == {"http.code": "404", "http.error_message": "nothing here"}
    assert dict(error.initial)["dapr-http-status"] == "404"
    assert dict(error.initial)["x-head"] == "h"


@pytest.mark.parametrize(
    ("verb", "reason"),
    [("", "missing HTTP extension field"), ("NONE", "invalid HTTP verb"), ("CONNECT", "invalid HTTP verb")],
)
async def test_verb_is_required(verb: str, reason: str) -> None:
    async with loopback_app() as app, http_node(app) as node:
        error = await failure(node, request(verb=verb))
        assert app.seen == []
    assert error.code == 13
    assert error.message == f"failed to invoke, id: app, err: rpc error: code = InvalidArgument desc = {reason}"


async def test_too_large_answer_is_refused() -> None:
    async with loopback_app(always(body=bytes(2000))) as app, http_node(app, message_bytes_max=1000) as node:
        assert (await failure(node, request(verb="GET"))).code == 8


# --- nobody to call ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("nobody", "couldn't find service: nobody"),
        ("a.b.c", "invalid app id a.b.c"),
        ("me", "cannot invoke local endpoint: app channel not initialized"),
    ],
)
async def test_absent_target_is_named(target: str, reason: str) -> None:
    async with grpc_node(App()) as node:
        error = await failure(node, request(target, verb="GET"))
    assert (error.code, error.message) == (13, f"failed to invoke, id: {target}, err: {reason}")


async def test_absent_app_is_said(autojump_clock: Any) -> None:
    async with serve_grpc(App()) as served:
        port = served.port
    async with open_node({"me": None, "app": grpc_app(port)}) as node:
        error = await failure(node, request())
    assert error.code == 13
    assert error.message.startswith(f"failed to invoke, id: app, err: dial tcp 127.0.0.1:{port}: connect: ")


async def test_reply_of_a_broken_app_is_unavailable() -> None:
    async def vanish(call: ServerCall) -> None:
        raise GRPCError(Status.UNAVAILABLE, "gone")

    async with serve_grpc(vanish) as served, open_node({"me": None, "app": grpc_app(served.port)}) as node:
        with trio.fail_after(5):
            assert (await failure(node, request())).code == 14


async def test_control_characters_of_the_app_become_blanks() -> None:
    async def answer(call: ServerCall) -> None:
        call.bind(Handler(None, Cardinality.UNARY_UNARY, InvokeRequest, InvokeResponse))
        await call.recv_message()
        head = [(b":status", b"200"), (b"content-type", b"application/grpc"), (b"x-head", b"a\x01b"), (b"x!y", b"1")]
        call.pass_headers(head)
        await call.raw_stream.send_data(bytes(5))
        call.pass_headers([(b"grpc-status", b"0"), (b"x-tail", b"c\x7fd")], True)

    async with serve_grpc(answer) as served, open_node({"me": None, "app": grpc_app(served.port)}) as node:
        reply = await invoke(node, request())
    assert ("x-head", "a b") in reply.initial
    assert "x!y" not in dict(reply.initial)
    assert ("x-tail", "c d") in reply.trailing
