"""The gRPC face around rpcs of its own: token, lists, traces, counts, log, and what becomes of errors."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from google.protobuf.empty_pb2 import Empty
from google.protobuf.wrappers_pb2 import StringValue
from google.rpc.error_details_pb2 import ErrorInfo
from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError

from edge_runtime.api.grpc.face import GrpcFace
from edge_runtime.api.grpc.unary import RpcCall, unary
from edge_runtime.api.settings import FaceSettings
from edge_runtime.config.settings import ApiRule
from edge_runtime.model.errors import EdgeError, Kind
from edge_runtime.model.trace import NO_TRACE, Trace
from edge_runtime.observability.grpc_metrics import GrpcServerMetrics
from edge_runtime.observability.metrics import Metrics, render
from edge_runtime.observability.trace import Tracer, binary_of
from edge_runtime.security.access import ApiLists
from tests.support.grpc_call import FakeCall, answer, unpacked

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
DAPR = "/dapr.proto.runtime.v1.Dapr/"


class Echo:
    """Three rpcs under Dapr's names, and one of a service that no list knows."""

    def __init__(self) -> None:
        self.calls: list[RpcCall] = []

    @unary
    async def GetState(self, call: RpcCall, request: StringValue) -> StringValue:
        self.calls.append(call)
        if request.value == "edge":
            call.set_header("x-first", "1")
            call.set_trailer("x-last", "2")
            raise EdgeError(Kind.STATE_GET, "no")
        if request.value == "grpc":
            raise GRPCError(Status.NOT_FOUND, "gone", b"d")
        if request.value == "bug":
            raise ZeroDivisionError
        if request.value == "slow":
            await trio.sleep_forever()
        call.set_header("a", "1")
        call.set_header("b", "2")
        call.set_trailer("c", "3")
        call.set_trailer("d", "4")
        return request

    @unary
    async def InvokeService(self, call: RpcCall, request: StringValue) -> StringValue:
        return request

    async def SubscribeTopicEventsAlpha1(self, stream: Any) -> None:
        request = await stream.recv_message()
        if request.value == "edge":
            raise EdgeError(Kind.STATE_GET, "no")
        if request.value == "slow":
            await trio.sleep_forever()
        await stream.send_message(request)

    def __mapping__(self) -> dict[str, Handler]:
        one, many = Cardinality.UNARY_UNARY, Cardinality.STREAM_STREAM
        return {
            DAPR + "GetState": Handler(self.GetState, one, StringValue, StringValue),
            DAPR + "InvokeService": Handler(self.InvokeService, one, StringValue, StringValue),
            DAPR + "SubscribeTopicEventsAlpha1": Handler(
                self.SubscribeTopicEventsAlpha1, many, StringValue, StringValue
            ),
            "/other.Service/Get": Handler(self.GetState, one, StringValue, StringValue),
        }


class Bench:
    def __init__(self, *, tracer: Tracer | None = None, lists: ApiLists | None = None, **settings: Any) -> None:
        self.echo = Echo()
        self.proxied: list[tuple[str, Trace]] = []
        self.metrics = Metrics("me")
        self.face = GrpcFace(
            SimpleNamespace(),  # type: ignore[arg-type]
            FaceSettings(**settings),
            tracer or Tracer(None),
            GrpcServerMetrics(self.metrics),
            self._proxy,
            lists,
            [self.echo],
        )

    async def _proxy(self, call: Any, trace: Trace) -> int:
        self.proxied.append((call.path, trace))
        return 5

    async def ask(self, path: str, text: str = "", *metadata: tuple[str, str | bytes], **how: Any) -> FakeCall:
        return await answer(self.face, FakeCall(path, StringValue(value=text), metadata, **how))

    def counted(self, method: str, status: str) -> int:
        line = f'dapr_grpc_io_server_completed_rpcs{{app_id="me",grpc_server_method="{method}",'
        line += f'grpc_server_status="{status}"}} '
        return sum(int(row.removeprefix(line)) for row in render([self.metrics]).splitlines() if row.startswith(line))


@pytest.mark.parametrize("late", [False, True])
async def test_a_reply_has_its_metadata(late: bool) -> None:
    bench = Bench()
    call = await bench.ask("GetState", "hi", late=late)
    assert (call.status, call.replies) == (Status.OK, [StringValue(value="hi")])
    assert (call.initial, call.trailing) == ({"a": "1", "b": "2"}, {"c": "3", "d": "4"})
    assert bench.echo.calls[0].trace is NO_TRACE
    assert bench.counted(DAPR + "GetState", "OK") == 1


async def test_an_error_keeps_what_was_added() -> None:
    bench = Bench()
    call = await bench.ask("GetState", "edge")
    assert (call.status, call.message) == (Status.INTERNAL, "no")
    assert unpacked(call.details) == [ErrorInfo(reason="ERR_STATE_GET", domain="dapr.io")]
    assert (call.initial, call.trailing) == ({"x-first": "1"}, {"x-last": "2"})
    assert bench.counted(DAPR + "GetState", "Internal") == 1


async def test_a_grpc_error_goes_through() -> None:
    bench = Bench()
    call = await bench.ask("GetState", "grpc")
    assert (call.status, call.message, call.details, call.initial) == (Status.NOT_FOUND, "gone", b"d", None)
    assert bench.counted(DAPR + "GetState", "NotFound") == 1


async def test_a_bug_is_left_to_the_server() -> None:
    bench = Bench()
    with pytest.raises(ZeroDivisionError):
        await bench.ask("GetState", "bug")
    assert bench.counted(DAPR + "GetState", "Unknown") == 1


@pytest.mark.parametrize("path", ["GetState", "SubscribeTopicEventsAlpha1"])
async def test_a_call_given_up_is_counted(path: str, autojump_clock: trio.testing.MockClock) -> None:
    bench = Bench()
    with trio.move_on_after(1):
        await bench.ask(path, "slow")
    with trio.move_on_after(1):
        await bench.ask(path, "slow", deadline=trio.current_time() + 1)
    assert bench.counted(DAPR + path, "Canceled") == 1
    assert bench.counted(DAPR + path, "DeadlineExceeded") == 1


async def test_a_stream_is_served() -> None:
    bench = Bench()
    call = await bench.ask("SubscribeTopicEventsAlpha1", "x")
    assert call.replies == [StringValue(value="x")]
    call = await bench.ask("SubscribeTopicEventsAlpha1", "edge")
    assert (call.status, call.message) == (Status.INTERNAL, "no")
    assert bench.counted(DAPR + "SubscribeTopicEventsAlpha1", "OK") == 1
    assert bench.counted(DAPR + "SubscribeTopicEventsAlpha1", "Internal") == 1


async def test_an_unknown_path_is_proxied() -> None:
    bench = Bench()
    await bench.ask("/a.B/C", "", ("traceparent", TRACE))
    await bench.ask(DAPR + "NoSuch")
    assert bench.proxied == [("/a.B/C", Trace(TRACE)), (DAPR + "NoSuch", NO_TRACE)]
    assert bench.counted("/a.B/C", "NotFound") == 1


async def test_without_a_proxy_no_target_is_found() -> None:
    face = GrpcFace(SimpleNamespace(), FaceSettings(), Tracer(None), None, None, None, [Echo()])  # type: ignore[arg-type]
    call = await answer(face, FakeCall("/a.B/C", Empty()))
    text = "failed to proxy request: required metadata dapr-callee-app-id or dapr-app-id not found"
    assert (call.status, call.message) == (Status.UNKNOWN, text)


# --- token and lists


@pytest.mark.parametrize(
    ("metadata", "text"),
    [
        ((), "missing api token in request metadata"),
        ((("dapr-api-token", "wrong"),), "authentication error: api token mismatch"),
        ((("dapr-api-token", ""),), "authentication error: api token mismatch"),
        ((("dapr-api-token", "é"),), "authentication error: api token mismatch"),
        ((("dapr-api-token", "\udcff"),), "authentication error: api token mismatch"),
    ],
)
@pytest.mark.parametrize("path", ["GetState", "SubscribeTopicEventsAlpha1", "/a.B/C"])
async def test_no_call_without_the_token(path: str, metadata: tuple[tuple[str, str]], text: str) -> None:
    bench = Bench(token="secret")
    call = await bench.ask(path, "x", *metadata)
    assert (call.status, call.message) == (Status.UNAUTHENTICATED, "Unauthorized")
    info = ErrorInfo(reason="Unauthorized", domain="dapr.io", metadata={"http.code": "401", "http.error_message": text})
    assert unpacked(call.details) == [info]
    assert not bench.echo.calls
    assert not bench.proxied


async def test_the_token_is_taken_out() -> None:
    bench = Bench(token="secret")
    call = await bench.ask("GetState", "x", ("a", "1"), ("dapr-api-token", "secret"), ("b", "2"))
    assert call.status is Status.OK
    assert bench.echo.calls[0].metadata == [("a", "1"), ("b", "2")]


@pytest.mark.parametrize(
    ("allowed", "denied", "served"),
    [
        ([], [("state", "v1", "grpc")], False),
        ([], [("state", "v1", "GRPC")], True),
        ([], [("state", "v1", "http")], True),
        ([], [("state", "v1alpha1", "grpc")], True),
        ([("state", "v1", "grpc")], [], True),
        ([("secrets", "v1", "grpc")], [], False),
        ([("state", "v1", "grpc")], [("state", "v1", "grpc")], False),
    ],
)
async def test_lists_say_what_is_served(allowed: list[Any], denied: list[Any], served: bool) -> None:
    def rules(rows: list[Any]) -> list[ApiRule]:
        return [ApiRule(name=name, version=version, protocol=protocol) for name, version, protocol in rows]

    bench = Bench(lists=ApiLists(rules(allowed), rules(denied), protocol="grpc"))
    call = await bench.ask("GetState", "x")
    if served:
        assert call.status is Status.OK
    else:
        assert (call.status, call.message) == (Status.UNIMPLEMENTED, "Not Implemented")
        [info] = unpacked(call.details)
        assert isinstance(info, ErrorInfo)
        expected = {"http.code": "501", "http.error_message": "requested endpoint is not available"}
        assert dict(info.metadata) == expected
    # Services beside Dapr's own are in no list.
    assert (await bench.ask("/other.Service/Get", "x")).status is Status.OK
    await bench.ask("/a.B/C")
    assert len(bench.proxied) == 1


# --- traces


async def test_the_binary_context_comes_first() -> None:
    bench = Bench()
    other = TRACE.replace("b7ad", "b7ae")
    call = await bench.ask("GetState", "x", ("traceparent", other), ("grpc-trace-bin", binary_of(TRACE)))
    assert bench.echo.calls[0].trace == Trace(TRACE)
    assert call.initial == {"a": "1", "b": "2", "grpc-trace-bin": binary_of(TRACE)}


@pytest.mark.parametrize("binary", [b"", b"\0", b"\1" + binary_of(TRACE)[1:], "text"])
async def test_a_broken_one_is_passed_over(binary: bytes | str) -> None:
    bench = Bench()
    await bench.ask("GetState", "x", ("traceparent", TRACE), ("tracestate", "a=1"), ("grpc-trace-bin", binary))
    assert bench.echo.calls[0].trace == Trace(TRACE, "a=1")


@pytest.mark.parametrize("state", ["a=é", "a=\udcff"])
async def test_a_state_must_be_passed_on(state: str) -> None:
    bench = Bench()
    await bench.ask("GetState", "x", ("traceparent", TRACE), ("tracestate", state))
    assert bench.echo.calls[0].trace == Trace(TRACE)


async def test_a_tracer_begins_one() -> None:
    bench = Bench(tracer=Tracer(1.0))
    call = await bench.ask("GetState", "x")
    trace = bench.echo.calls[0].trace
    assert trace.traceparent
    assert call.initial is not None
    assert call.initial["grpc-trace-bin"] == binary_of(trace.traceparent)
    failed = await bench.ask("GetState", "grpc")
    assert failed.initial is not None
    assert set(failed.initial) == {"grpc-trace-bin"}


async def test_invocation_shows_no_context() -> None:
    call = await Bench(tracer=Tracer(1.0)).ask("InvokeService", "x", ("baggage", "a=1"))
    assert call.initial == {"baggage": "a=1"}


async def test_baggage_comes_back() -> None:
    bench = Bench()
    call = await bench.ask("GetState", "x", ("baggage", "a=1"), ("baggage", "b=2"))
    assert bench.echo.calls[0].trace == Trace(baggage="a=1,b=2")
    assert call.initial == {"a": "1", "b": "2", "baggage": "a=1,b=2"}


@pytest.mark.parametrize("baggage", ["a b", "a\u2003=1", "a=\udcff"])
async def test_broken_baggage_is_refused(baggage: str) -> None:
    bench = Bench()
    for path in ("GetState", "/a.B/C"):
        call = await bench.ask(path, "x", ("baggage", baggage))
        assert call.status is Status.INVALID_ARGUMENT
    assert not bench.proxied


async def test_nothing_is_traced_when_off() -> None:
    bench = Bench(traced=False, tracer=Tracer(0.0))
    call = await bench.ask("GetState", "x", ("traceparent", TRACE), ("baggage", "a b"))
    assert call.initial == {"a": "1", "b": "2"}
    assert bench.echo.calls[0].trace is NO_TRACE


# --- the log


@pytest.mark.parametrize(("agent", "shown"), [("grpc-go/1", {"useragent": "grpc-go/1"}), ("", {})])
async def test_calls_are_logged(caplog: pytest.LogCaptureFixture, agent: str, shown: dict[str, str]) -> None:
    bench = Bench(api_log=(False, False))
    caplog.set_level(logging.INFO, "dapr.runtime.grpc.api-info")
    await bench.ask("GetState", "edge", *([("user-agent", agent)] if agent else []))
    [record] = caplog.records
    assert record.getMessage() == "gRPC API Called"
    fields = record.__dict__["fields"]
    assert fields.pop("duration") >= 0
    assert fields == {"method": DAPR + "GetState", "code": 13, **shown}


async def test_neither_counts_nor_log_are_needed() -> None:
    face = GrpcFace(SimpleNamespace(), FaceSettings(), Tracer(None), None, None, None, [Echo()])  # type: ignore[arg-type]
    for path in ("GetState", "SubscribeTopicEventsAlpha1"):
        assert (await answer(face, FakeCall(path, StringValue(value="x")))).replies == [StringValue(value="x")]


async def test_no_log_unless_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    await Bench().ask("GetState", "x")
    assert not caplog.records
