"""The transparent proxy between a client and an app, over real connections."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import trio
from google.protobuf.wrappers_pb2 import BytesValue
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from trio.testing import wait_all_tasks_blocked

from edge_runtime.api.grpc.proxy import NO_TARGET
from edge_runtime.api.grpc.relay import RETRIED_STREAM
from edge_runtime.channel.http import ChannelSettings
from edge_runtime.config.settings import AccessControl, AppPolicy, Operation
from edge_runtime.net.connections import Origin
from edge_runtime.net.grpc.client import GrpcClient, RpcError, open_grpc_client
from edge_runtime.net.grpc.server import GrpcLimits, ServerCall
from edge_runtime.observability.metrics import render
from edge_runtime.observability.trace import Tracer
from edge_runtime.security.access import AccessPolicy
from tests.loopback import loopback_app
from tests.support.grpc_invocation import Node, grpc_app, open_node
from tests.support.grpc_server import ECHO, UNARY, Handle, serve_grpc, table

TO_APP = [("dapr-app-id", "app")]


@asynccontextmanager
async def node_of(handle: Handle, *, app: Mapping[str, Any] | None = None, **options: Any) -> AsyncIterator[Node]:
    """The app `app` behind `handle`, called by the app `me`, which has no port."""
    limits = GrpcLimits(message_bytes_max=None)
    async with serve_grpc(handle, limits) as served:
        async with open_node({"me": None, "app": grpc_app(served.port, **(app or {}))}, **options) as node:
            yield node


async def unary(client: GrpcClient, path: str = "/t.T/Echo", value: bytes = b"x", **options: Any) -> bytes:
    options.setdefault("metadata", TO_APP)
    return (await client.unary(path, BytesValue(value=value), BytesValue, **options)).message.value


async def failure(client: GrpcClient, path: str = "/t.T/Echo", value: bytes = b"x", **options: Any) -> RpcError:
    with pytest.raises(RpcError) as caught:
        await unary(client, path, value, **options)
    return caught.value


def resiliency(**target: str) -> list[tuple[str, Mapping[str, Any]]]:
    policies = {
        "retries": {"few": {"duration": "10ms", "maxRetries": 2}, "none": {"maxRetries": 0}},
        "timeouts": {"short": "50ms"},
        "circuitBreakers": {"touchy": {"trip": "consecutiveFailures >= 2"}},
    }
    return [("r", {"policies": policies, "targets": {"apps": {"app": target}}})]


class Recorder:
    """An app that keeps what it was asked and answers as `answers` say, the last one again and again."""

    def __init__(self, *answers: Callable[[ServerCall], Awaitable[None]]) -> None:
        self.calls: list[ServerCall] = []
        self.requests: list[bytes] = []
        self._answers = list(answers) or [self.echo]

    async def __call__(self, call: ServerCall) -> None:
        call.bind(UNARY)
        self.calls.append(call)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        await answer(call)

    async def echo(self, call: ServerCall) -> None:
        message: Any = await call.recv_message()
        self.requests.append(message.value)
        call.reply(message)

    async def unavailable(self, call: ServerCall) -> None:
        message: Any = await call.recv_message()
        self.requests.append(message.value)
        raise GRPCError(Status.UNAVAILABLE, "not now", b"details")

    def metadata(self) -> dict[str, str | bytes]:
        return dict(self.calls[-1].metadata)


def answering(*names: str) -> Recorder:
    recorder = Recorder()
    recorder._answers = [getattr(recorder, name) for name in names]
    return recorder


# --- the four kinds ---------------------------------------------------------------------------------------------------


async def test_unary_calls_pass() -> None:
    async with node_of(ECHO) as node:
        assert await unary(node.client, value=b"hello") == b"hello"
        assert await unary(node.client, value=b"") == b""


async def test_large_messages_pass() -> None:
    async with node_of(ECHO) as node:
        value = bytes(3_000_000)
        assert await unary(node.client, value=value) == value


async def test_server_streams_pass() -> None:
    async with node_of(ECHO) as node, node.client.open_call("/t.T/Count", TO_APP) as call:
        await call.send_raw(False, BytesValue(value=b"300").SerializeToString())
        await call.end()
        found = []
        while (frame := await call.recv_raw()) is not None:
            found.append(BytesValue.FromString(frame[1]).value)
        assert found == [b"%d" % number for number in range(300)]
        assert call.status == 0


async def test_client_streams_pass() -> None:
    async with node_of(ECHO) as node, node.client.open_call("/t.T/Join", TO_APP) as call:
        for part in (b"a", b"b", b"c"):
            await call.send_raw(False, BytesValue(value=part).SerializeToString())
        await call.end()
        frame = await call.recv_raw()
        assert frame is not None
        assert BytesValue.FromString(frame[1]).value == b"abc"


async def test_both_sides_stream_in_turns() -> None:
    async with node_of(ECHO) as node, node.client.open_call("/t.T/Talk", TO_APP) as call:
        for part in (b"a", b"b", b"c"):
            await call.send_raw(False, BytesValue(value=part).SerializeToString())
            frame = await call.recv_raw()
            assert frame is not None
            assert BytesValue.FromString(frame[1]).value == part.upper()
        await call.end()
        assert await call.recv_raw() is None
        assert call.status == 0


async def test_compressed_frames_pass_untouched() -> None:
    async def odd(call: ServerCall) -> None:
        assert call.encoding == b"odd"
        frame = await call.recv_raw()
        await call.send_initial_metadata(encoding=b"odd")
        assert frame is not None
        await call.send_raw(*frame)

    async with node_of(odd) as node:
        async with node.client.open_call("/t.T/Odd", TO_APP, encoding=b"odd") as call:
            await call.send_raw(True, b"no known compression")
            await call.end()
            assert await call.recv_raw() == (True, b"no known compression")
            assert call.encoding == b"odd"


async def test_parallel_calls_do_not_mix() -> None:
    async with node_of(ECHO) as node, trio.open_nursery() as nursery:

        async def one(number: int) -> None:
            assert await unary(node.client, value=b"%d" % number) == b"%d" % number

        for number in range(100):
            nursery.start_soon(one, number)


# --- what is said around messages ---------------------------------------------------------------------------------


async def test_caller_metadata_arrives() -> None:
    app = Recorder()
    metadata = [*TO_APP, ("x-one", "1"), ("x-one", "2"), ("x-raw-bin", b"\0\1"), ("user-agent", "me")]
    async with node_of(app) as node:
        await unary(node.client, metadata=metadata)
    pairs = app.calls[-1].metadata
    assert [value for name, value in pairs if name == "x-one"] == ["1", "2"]
    assert ("x-raw-bin", b"\0\1") in pairs
    assert "dapr-app-id" not in dict(pairs)


async def test_apps_learn_who_calls_whom() -> None:
    app = Recorder()
    forged = [*TO_APP, ("dapr-caller-app-id", "somebody"), ("dapr-api-token", "mine")]
    async with node_of(app, app={"api_token": "secret"}) as node:
        await unary(node.client, metadata=forged)
    assert [value for name, value in app.calls[-1].metadata if name.startswith("dapr-")] == [
        "me",
        "default",
        "app",
        "secret",
    ]


async def test_callee_id_wins() -> None:
    app = Recorder()
    async with node_of(app) as node:
        await unary(node.client, metadata=[("dapr-app-id", "nobody"), ("dapr-callee-app-id", "app.default")])
    assert app.metadata()["dapr-callee-app-id"] == "app"


async def test_trace_is_continued() -> None:
    app = Recorder()
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with node_of(app, tracer=Tracer(1.0)) as node:
        await unary(node.client, metadata=[*TO_APP, ("traceparent", trace), ("tracestate", "a=1")])
    seen = app.metadata()
    assert str(seen["traceparent"])[:36] == trace[:36]
    assert seen["traceparent"] != trace
    assert seen["tracestate"] == "a=1"
    assert bytes.fromhex(str(seen["traceparent"])[36:52]) in bytes(seen["grpc-trace-bin"])  # type: ignore[arg-type]


async def test_status_headers_and_trailers_pass() -> None:
    async def refuse(call: ServerCall) -> None:
        await call.recv_message()
        await call.send_initial_metadata([("x-head", "1"), ("x-head-bin", b"\xff")])
        await call.send_trailing_metadata(Status.ABORTED, "nein – ü", b"details", [("x-tail", "2")])

    async with node_of(Recorder(refuse)) as node:
        error = await failure(node.client)
    assert (error.code, error.message, error.details) == (10, "nein – ü", b"details")
    assert list(error.initial) == [("x-head", "1"), ("x-head-bin", b"\xff")]
    assert list(error.trailing) == [("x-tail", "2")]


async def test_status_alone_passes() -> None:
    async with node_of(answering("unavailable")) as node:
        error = await failure(node.client)
    assert (error.code, error.message, error.details) == (14, "not now", b"details")


async def test_deadline_goes_along() -> None:
    app = Recorder()
    async with node_of(app) as node:
        await unary(node.client, timeout_s=30)
        assert app.calls[-1].deadline is not None
        await unary(node.client)
        assert app.calls[-1].deadline is None


async def test_passed_deadline_ends_the_call() -> None:
    async with node_of(ECHO) as node:
        error = await failure(node.client, "/t.T/Wait", timeout_s=0.05)
    assert error.code == 4


async def test_cancelled_call_ends_at_the_app() -> None:
    ended = trio.Event()
    begun = trio.Event()

    async def wait(call: ServerCall) -> None:
        begun.set()
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async with node_of(wait) as node, trio.open_nursery() as nursery:
        nursery.start_soon(unary, node.client)
        await begun.wait()
        assert node.channels["app"].waiting == 1
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await ended.wait()
            await node.channels["app"].drained()


async def test_app_may_answer_before_the_request_ends() -> None:
    async def early(call: ServerCall) -> None:
        await call.send_raw(False, b"early")
        await call.send_trailing_metadata()

    async with node_of(early) as node, node.client.open_call("/t.T/Early", TO_APP) as call:
        await call.send_raw(False, b"a")
        assert await call.recv_raw() == (False, b"early")
        assert await call.recv_raw() is None
        assert call.status == 0


async def test_slow_reader_holds_the_app_back() -> None:
    sent = 0

    async def flood(call: ServerCall) -> None:
        nonlocal sent
        await call.recv_raw()
        for _ in range(10_000):
            await call.send_raw(False, bytes(10_000))
            sent += 10_000

    async with node_of(flood) as node, node.client.open_call("/t.T/Flood", TO_APP) as call:
        await call.end()
        await call.recv_raw()
        await wait_all_tasks_blocked(0.05)
        assert sent < 20_000_000
        before = sent
        for _ in range(300):
            await call.recv_raw()
        await wait_all_tasks_blocked(0.05)
        assert sent > before


async def test_slow_readers_leave_others_alone() -> None:
    async def flood(call: ServerCall) -> None:
        await call.recv_raw()
        for _ in range(1000):
            await call.send_raw(False, bytes(100_000))

    async with node_of(table({"/t.T/Echo": ECHO, "/t.T/Flood": flood})) as node, AsyncExitStack() as stack:
        origin = Origin("http", "127.0.0.1", node.served.port)
        for _ in range(20):  # each on a connection of its own
            client = await stack.enter_async_context(open_grpc_client(origin))
            call = await stack.enter_async_context(client.open_call("/t.T/Flood", TO_APP))
            await call.end()
            with trio.fail_after(5):
                assert await call.recv_raw() is not None
        await wait_all_tasks_blocked(0.05)
        with trio.fail_after(5):
            assert await unary(node.client) == b"x"


# --- whom it reaches --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metadata", [[], [("dapr-app-id", "")]])
async def test_target_is_required(metadata: Sequence[tuple[str, str]]) -> None:
    async with node_of(ECHO) as node:
        error = await failure(node.client, metadata=metadata)
    assert (error.code, error.message) == (2, NO_TARGET)


async def test_unknown_app_is_said() -> None:
    async with node_of(ECHO) as node:
        error = await failure(node.client, metadata=[("dapr-app-id", "nobody")])
        assert (error.code, error.message) == (2, "failed to proxy request: couldn't find service: nobody")
        error = await failure(node.client, metadata=[("dapr-app-id", "a.b.c")])
        assert error.message == "failed to proxy request: invalid app id a.b.c"


async def test_app_must_speak_grpc() -> None:
    async with loopback_app() as app, open_node({"me": None, "app": ChannelSettings(app.origin.port)}) as node:
        error = await failure(node.client)
        assert (error.code, error.message) == (9, "app channel is not configured: app app does not speak gRPC")
        error = await failure(node.client, metadata=[("dapr-app-id", "me")])
        assert error.message == "app channel is not configured: app me was started without --app-port"


async def test_own_app_can_be_called() -> None:
    async with serve_grpc(ECHO) as served:
        policy = AccessPolicy(AccessControl(default_action="deny"), "grpc")
        async with open_node({"app": grpc_app(served.port)}, access=policy) as node:
            assert await unary(node.client, value=b"me") == b"me"


async def test_unhealthy_app_is_left_alone() -> None:
    async with node_of(ECHO) as node:
        node.channels["app"].healthy = False
        error = await failure(node.client)
    assert (error.code, error.message) == (13, "app is not in a healthy state")


async def test_access_control_looks_at_methods() -> None:
    operations = (Operation("/t.T/Echo", (), "allow"),)
    rules = AccessControl("deny", "public", (AppPolicy("me", "default", "public", "deny", operations),))
    async with node_of(ECHO, access=AccessPolicy(rules, "grpc")) as node:
        assert await unary(node.client) == b"x"
        error = await failure(node.client, "/t.T/Count")
    assert error.code == 7
    assert error.message == "access control policy has denied access to id: me operation: /t.T/Count verb: NONE"


async def test_access_control_sees_normalised_methods() -> None:
    operations = (Operation("/t.T/Count", (), "deny"),)
    rules = AccessControl("allow", "public", (AppPolicy("me", "default", "public", "allow", operations),))
    async with node_of(ECHO, access=AccessPolicy(rules, "grpc")) as node:
        for path in ("//t.T/Count", "/x/../t.T/Count", "/t.T/%43ount", "/t.T/./Count"):
            assert (await failure(node.client, path)).code == 7
        assert (await failure(node.client, "/t.T/Co%unt")).code == 3


# --- limits -----------------------------------------------------------------------------------------------------------


async def test_too_large_requests_are_refused() -> None:
    async with node_of(ECHO, message_bytes_max=1000) as node:
        error = await failure(node.client, value=bytes(1000))
    assert (error.code, error.message) == (8, "grpc: received message larger than max (1003 vs. 1000)")


async def test_too_large_answers_are_refused() -> None:
    async def large(call: ServerCall) -> None:
        await call.recv_raw()
        await call.send_raw(False, bytes(1001))

    async with node_of(large, app={"message_bytes_max": 1000}) as node:
        assert (await failure(node.client)).code == 8


async def test_too_large_later_message_is_refused() -> None:
    async with node_of(ECHO, message_bytes_max=1000) as node, node.client.open_call("/t.T/Talk", TO_APP) as call:
        await call.send_raw(False, BytesValue(value=b"a").SerializeToString())
        assert await call.recv_raw() is not None
        await call.send_raw(False, bytes(1001))
        assert await call.recv_raw() is None
        assert call.status == 8


# --- resiliency -------------------------------------------------------------------------------------------------------


async def test_failed_calls_are_tried_again() -> None:
    app = answering("unavailable", "unavailable", "echo")
    async with node_of(app, resources=resiliency(retry="few")) as node:
        assert await unary(node.client, value=b"again") == b"again"
    assert app.requests == [b"again"] * 3


async def test_message_before_an_error_is_no_answer() -> None:
    async def half(call: ServerCall) -> None:
        await call.recv_message()
        await call.send_message(BytesValue(value=b"half"))
        raise GRPCError(Status.UNAVAILABLE, "not now")

    app = Recorder(half)
    app._answers = [half, app.echo]
    async with node_of(app, resources=resiliency(retry="few")) as node:
        assert await unary(node.client, value=b"whole") == b"whole"


async def test_last_answer_is_the_callers() -> None:
    app = answering("unavailable")
    async with node_of(app, resources=resiliency(retry="few")) as node:
        error = await failure(node.client)
    assert (error.code, error.message, error.details) == (14, "not now", b"details")
    assert len(app.requests) == 3


async def test_streams_cannot_be_tried_again() -> None:
    async with node_of(ECHO, resources=resiliency(retry="few")) as node:
        async with node.client.open_call("/t.T/Talk", TO_APP) as call:
            await call.send_raw(False, b"")
            assert await call.recv_raw() is not None
            await call.send_raw(False, b"")
            assert await call.recv_raw() is None
            assert (call.status, call.message) == (9, RETRIED_STREAM)
        error = await failure(node.client, "/t.T/Count", b"2")
        assert (error.code, error.message) == (9, RETRIED_STREAM)


async def test_marked_streams_pass() -> None:
    async with node_of(ECHO, resources=resiliency(retry="few", timeout="short")) as node:
        async with node.client.open_call("/t.T/Count", [*TO_APP, ("dapr-stream", "true")]) as call:
            await call.send_raw(False, BytesValue(value=b"20").SerializeToString())
            await call.end()
            found = 0
            while await call.recv_raw() is not None:
                found += 1
            assert (found, call.status) == (20, 0)


async def test_policy_timeout_ends_the_call() -> None:
    async with node_of(ECHO, resources=resiliency(timeout="short")) as node:
        error = await failure(node.client, "/t.T/Wait")
    assert (error.code, error.message) == (4, "context deadline exceeded")


async def test_timed_out_attempts_are_tried_again() -> None:
    async def hang(call: ServerCall) -> None:
        await trio.sleep_forever()

    app = Recorder(hang)
    app._answers = [hang, app.echo]
    async with node_of(app, resources=resiliency(timeout="short", retry="few")) as node:
        assert await unary(node.client) == b"x"


async def test_breaker_opens() -> None:
    async with node_of(answering("unavailable"), resources=resiliency(circuitBreaker="touchy")) as node:
        for _ in range(2):
            assert (await failure(node.client)).message == "not now"
        error = await failure(node.client)
    assert error.code == 14
    assert error.message == "circuit breaker is open"


async def test_absent_app_is_unavailable(autojump_clock: Any) -> None:
    async with serve_grpc(ECHO) as served:
        port = served.port
    async with open_node({"me": None, "app": grpc_app(port)}) as node:
        error = await failure(node.client)
    assert error.code == 14
    assert "connection refused" in error.message


# --- metrics ----------------------------------------------------------------------------------------------------------


async def test_calls_are_counted() -> None:
    async with node_of(table({"/t.T/Echo": ECHO})) as node:
        await unary(node.client)
        await failure(node.client, "/t.T/None")
        page = render([node.metrics])
    labels = 'app_id="me",grpc_client_method="/t.T/Echo",grpc_client_status="OK"'
    assert f"dapr_grpc_io_client_completed_rpcs{{{labels}}} 1" in page
    assert (
        'dapr_grpc_io_server_completed_rpcs{app_id="me",grpc_server_method="/t.T/Echo",grpc_server_status="OK"} 1'
        in page
    )
    assert 'dapr_runtime_service_invocation_req_sent_total{app_id="me",dst_app_id="app",type="streaming"} 2' in page
    assert (
        'runtime_service_invocation_res_recv_total{app_id="me",src_app_id="app",status="0",type="streaming"} 1' in page
    )


# --- answers that nobody can read -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trailers", "code", "text"),
    [
        ([(b"grpc-status", b"-1")], 13, "malformed grpc-status"),
        ([(b"grpc-status", b"0"), (b"x-tail-bin", b"!!!!")], 13, "malformed binary metadata"),
        ([(b"grpc-status", b"5"), (b"grpc-message", b"gone"), (b"grpc-status-details-bin", b"!!!!")], 5, "gone"),
        ([(b"grpc-status", b"99"), (b"grpc-message", b"odd")], 99, "odd"),
    ],
)
async def test_what_cannot_be_read_is_not_passed_on(trailers: list[tuple[bytes, bytes]], code: int, text: str) -> None:
    async def answer(call: ServerCall) -> None:
        await call.recv_message()
        await call.send_initial_metadata()
        call.pass_headers(trailers, True)

    async with node_of(Recorder(answer)) as node:
        error = await failure(node.client)
        page = render([node.metrics])
    assert (error.code, text in error.message) == (code, True)
    assert f'grpc_server_status="{"Unknown" if code == 99 else "NotFound" if code == 5 else "Internal"}"' in page


async def test_an_unreadable_head_is_not_passed_on() -> None:
    async def answer(call: ServerCall) -> None:
        await call.recv_message()
        head = [(b":status", b"200"), (b"content-type", b"application/grpc"), (b"x-head-bin", b"!")]
        call.pass_headers([*head, (b"grpc-status", b"0")], True)

    async with node_of(Recorder(answer)) as node:
        error = await failure(node.client)
    assert (error.code, "malformed binary metadata" in error.message, list(error.initial)) == (13, True, [])
