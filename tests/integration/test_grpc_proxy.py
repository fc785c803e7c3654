"""gRPC's own client and server with the real process between them: what the proxy passes, and what it refuses."""

from __future__ import annotations

import json
import queue
import re
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.support.grpc_app import UNLIMITED, GrpcApp, call
from tests.support.resources import resiliency, resources_flags, write
from tests.support.sidecar import READY, WAIT_S, Program, Sidecar, free_port

pytestmark = pytest.mark.slow

TARGET = (("dapr-app-id", "app"),)
MIB = 2**20


@pytest.fixture(scope="module")
def app() -> Iterator[GrpcApp]:
    with GrpcApp() as app:
        yield app


@pytest.fixture(scope="module")
def sidecar(tmp_path_factory: pytest.TempPathFactory, app: GrpcApp) -> Iterator[Sidecar]:
    place = tmp_path_factory.mktemp("proxy")
    with Sidecar(
        place, "--app-protocol", "grpc", app_port=app.port, environment={"APP_API_TOKEN": "apps-own"}
    ) as sidecar:
        yield sidecar
        assert sidecar.stop() == 0


@pytest.fixture(scope="module")
def channel(sidecar: Sidecar) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{sidecar.grpc_port}", options=UNLIMITED) as channel:
        yield channel


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> None:
    if "app" in request.fixturenames:
        app = request.getfixturevalue("app")
        while not app.received.empty():
            app.received.get()


def refusal(channel: grpc.Channel, path: str, body: bytes = b"x", **options: Any) -> Any:
    options.setdefault("metadata", TARGET)
    with pytest.raises(grpc.RpcError) as caught:
        call(channel, "unary_unary", path)(body, timeout=WAIT_S, **options)
    return caught.value


def test_a_unary_call_passes_with_all_around_it(channel: grpc.Channel, app: GrpcApp) -> None:
    metadata = (*TARGET, ("x-one", "1"), ("x-raw-bin", b"\0\xff"))
    reply, done = call(channel, "unary_unary", "/some.Service/Echo").with_call(b"hello", metadata=metadata, timeout=20)
    came = app.next()
    assert (reply, came.body, came.method) == (b"hello", b"hello", "/some.Service/Echo")
    assert (came.metadata["x-one"], came.metadata["x-raw-bin"]) == ("1", b"\0\xff")
    assert came.metadata["dapr-caller-app-id"] == "app"
    assert came.metadata["dapr-callee-app-id"] == "app"
    assert came.metadata["dapr-api-token"] == "apps-own"
    assert "dapr-app-id" not in came.metadata
    assert came.left_s is not None
    assert 0 < came.left_s <= 20
    assert {("x-head", "h"), ("x-head-bin", b"\0h")} <= {(p.key, p.value) for p in done.initial_metadata()}
    assert {("x-tail", "t"), ("x-tail-bin", b"\0t")} <= {(p.key, p.value) for p in done.trailing_metadata()}


def test_an_error_passes_with_its_details(channel: grpc.Channel, app: GrpcApp) -> None:
    error = refusal(channel, "/some.Service/Fail")
    assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "nicht da – ü")
    trailers = {(pair.key, pair.value) for pair in error.trailing_metadata()}
    assert {("x-tail", "t"), ("grpc-status-details-bin", b"\x08\x05\x12\x01d")} <= trailers


def test_streams_pass(channel: grpc.Channel, app: GrpcApp) -> None:
    counted = call(channel, "unary_stream", "/some.Service/Count")(b"1000 100", metadata=TARGET, timeout=WAIT_S)
    assert [len(message) for message in counted] == [100] * 1000
    parts = (bytes(size) for size in range(300))
    assert call(channel, "stream_unary", "/some.Service/Join")(parts, metadata=TARGET, timeout=WAIT_S) == b"44850"
    said: queue.Queue[bytes | None] = queue.Queue()
    heard = call(channel, "stream_stream", "/some.Service/Talk")(iter(said.get, None), metadata=TARGET, timeout=WAIT_S)
    for word in (b"a", b"", b"ccc"):
        said.put(word)
        assert next(heard) == word
    said.put(None)
    assert list(heard) == []


@pytest.mark.parametrize("way", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_messages_pass(channel: grpc.Channel, app: GrpcApp, way: grpc.Compression) -> None:
    body = b"again and " * 10_000
    assert call(channel, "unary_unary", "/some.Service/Echo")(body, metadata=TARGET, compression=way) == body


def test_100_calls_at_once_pass(channel: grpc.Channel, app: GrpcApp) -> None:
    echo = call(channel, "unary_unary", "/some.Service/Echo")

    def one(number: int) -> bool:
        body = b"%d" % number * (number * 10)
        return bool(echo(body, metadata=TARGET, timeout=WAIT_S) == body)

    with ThreadPoolExecutor(100) as pool:
        assert all(pool.map(one, range(300)))


def test_cancelling_ends_the_call_at_the_app(channel: grpc.Channel, app: GrpcApp) -> None:
    pending = call(channel, "unary_unary", "/some.Service/Wait").future(b"", metadata=TARGET)
    assert app.waiting.wait(WAIT_S)
    pending.cancel()
    assert app.cancelled.wait(WAIT_S)


def test_a_deadline_ends_the_call(channel: grpc.Channel, app: GrpcApp) -> None:
    app.cancelled.clear()
    with pytest.raises(grpc.RpcError) as caught:
        call(channel, "unary_unary", "/some.Service/Wait")(b"", metadata=TARGET, timeout=0.2)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert app.cancelled.wait(WAIT_S)


def test_nobody_named_is_unknown(channel: grpc.Channel) -> None:
    error = refusal(channel, "/some.Service/Echo", metadata=())
    assert error.code() is grpc.StatusCode.UNKNOWN
    wanted = "failed to proxy request: required metadata dapr-callee-app-id or dapr-app-id not found"
    assert error.details() == wanted
    assert refusal(channel, "/dapr.proto.runtime.v1.Dapr/NoSuchMethod", metadata=()).details() == wanted
    assert refusal(channel, "/grpc.health.v1.Health/Check", metadata=()).details() == wanted


def test_an_unknown_app_is_said(channel: grpc.Channel) -> None:
    error = refusal(channel, "/some.Service/Echo", metadata=(("dapr-app-id", "nobody"),))
    assert (error.code(), error.details()) == (
        grpc.StatusCode.UNKNOWN,
        "failed to proxy request: couldn't find service: nobody",
    )


def test_unknown_methods_are_the_apps_to_refuse(channel: grpc.Channel, app: GrpcApp) -> None:
    error = refusal(channel, "/some.Service/NoSuchMethod")
    assert (error.code(), error.details()) == (grpc.StatusCode.UNIMPLEMENTED, "Method not found!")


def test_messages_are_limited(channel: grpc.Channel, app: GrpcApp) -> None:
    assert len(call(channel, "unary_unary", "/some.Service/Echo")(bytes(4 * MIB), metadata=TARGET)) == 4 * MIB
    error = refusal(channel, "/some.Service/Echo", bytes(4 * MIB + 1))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    answer = call(channel, "unary_stream", "/some.Service/Count")(b"1 %d" % (5 * MIB), metadata=TARGET)
    with pytest.raises(grpc.RpcError) as caught:
        list(answer)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_calls_are_counted(channel: grpc.Channel, sidecar: Sidecar, app: GrpcApp) -> None:
    call(channel, "unary_unary", "/counted.Service/Echo")(b"x", metadata=TARGET)
    page = sidecar.metrics()
    for side in ("client", "server"):
        labels = rf'app_id="app",grpc_{side}_method="/counted.Service/Echo",grpc_{side}_status="OK"'
        assert re.search(rf"^dapr_grpc_io_{side}_completed_rpcs{{{labels}}} 1$", page, re.MULTILINE)


def test_tokens_guard_the_proxy(tmp_path: Path, app: GrpcApp) -> None:
    with (
        Sidecar(
            tmp_path, "--app-protocol", "grpc", app_port=app.port, environment={"DAPR_API_TOKEN": "mine"}
        ) as sidecar,
        grpc.insecure_channel(f"127.0.0.1:{sidecar.grpc_port}") as channel,
    ):
        assert refusal(channel, "/some.Service/Echo").code() is grpc.StatusCode.UNAUTHENTICATED
        metadata = (*TARGET, ("dapr-api-token", "mine"))
        assert call(channel, "unary_unary", "/some.Service/Echo")(b"x", metadata=metadata) == b"x"
        assert "dapr-api-token" not in app.next().metadata


def test_retries_are_for_single_messages(tmp_path: Path, app: GrpcApp) -> None:
    policies = {"retries": {"twice": {"policy": "constant", "duration": "10ms", "maxRetries": 2}}}
    write(tmp_path / "r", "r.yaml", resiliency("r", policies, {"apps": {"app": {"retry": "twice"}}}))
    flags = ("--app-protocol", "grpc", *resources_flags(tmp_path / "r"))
    with (
        Sidecar(tmp_path, *flags, app_port=app.port) as sidecar,
        grpc.insecure_channel(f"127.0.0.1:{sidecar.grpc_port}") as channel,
    ):
        assert refusal(channel, "/some.Service/Fail").details() == "nicht da – ü"
        assert app.received.qsize() == 3
        counted = call(channel, "unary_stream", "/some.Service/Count")
        with pytest.raises(grpc.RpcError) as caught:
            list(counted(b"5 1", metadata=TARGET))
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert caught.value.details() == "cannot use resiliency policies with retries on streaming RPCs"
        assert len(list(counted(b"5 1", metadata=(*TARGET, ("dapr-stream", "true"))))) == 5


def test_calls_outlive_a_reload(tmp_path: Path, app: GrpcApp) -> None:
    with (
        Sidecar(tmp_path, "--app-protocol", "grpc", app_port=app.port) as sidecar,
        grpc.insecure_channel(f"127.0.0.1:{sidecar.grpc_port}") as channel,
    ):
        said: queue.Queue[bytes | None] = queue.Queue()
        heard = call(channel, "stream_stream", "/some.Service/Talk")(iter(said.get, None), metadata=TARGET)
        said.put(b"before")
        assert next(heard) == b"before"
        sidecar.signal(signal.SIGHUP)
        sidecar.wait_line("Going over to the new files")
        sidecar.wait_line(READY)
        assert call(channel, "unary_unary", "/some.Service/Echo")(b"new", metadata=TARGET, timeout=WAIT_S) == b"new"
        said.put(b"after")
        assert next(heard) == b"after"
        said.put(None)
        assert list(heard) == []
        assert sidecar.stop() == 0


ACCESS = """
apiVersion: dapr.io/v1alpha1
kind: Configuration
metadata: {name: callee}
spec:
  accessControl:
    defaultAction: deny
    policies:
      - appId: one
        namespace: default
        trustDomain: public
        defaultAction: deny
        operations: [{name: /some.Service/Echo, action: allow}]
"""


def test_apps_of_one_node_reach_each_other(tmp_path: Path, app: GrpcApp) -> None:
    (tmp_path / "callee.yaml").write_text(ACCESS)
    ports = {"one": free_port(), "two": free_port()}
    common = {"appDirPath": str(tmp_path), "daprdLogDestination": "console"}
    apps = [
        {**common, "appID": "one", "daprGRPCPort": ports["one"], "daprHTTPPort": free_port()},
        {
            **common,
            "appID": "two",
            "daprGRPCPort": ports["two"],
            "daprHTTPPort": free_port(),
            "appPort": app.port,
            "appProtocol": "grpc",
            "configFilePath": str(tmp_path / "callee.yaml"),
        },
    ]
    path = tmp_path / "dapr.yaml"
    path.write_text(json.dumps({"version": 1, "apps": apps}))
    flags = ["--no-attach", "--state-dir", str(tmp_path / "state"), "-f", str(path)]
    with Program([sys.executable, "-m", "edge_runtime", "run", *flags]) as program:
        for _ in apps:
            program.wait_line(READY)
        with grpc.insecure_channel(f"127.0.0.1:{ports['one']}") as channel:
            to_two = (("dapr-app-id", "two"),)
            assert call(channel, "unary_unary", "/some.Service/Echo")(b"x", metadata=to_two) == b"x"
            came = app.next()
            assert came.metadata["dapr-caller-app-id"] == "one"
            assert came.metadata["dapr-callee-app-id"] == "two"
            denied = refusal(channel, "/some.Service/Fail", metadata=to_two)
            assert denied.code() is grpc.StatusCode.PERMISSION_DENIED
            own = refusal(channel, "/some.Service/Echo", metadata=(("dapr-app-id", "one"),))
            assert own.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert program.stop() == 0


def resident_mib(pid: int) -> float:
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096 / MIB


def test_a_gigabyte_passes_in_flat_memory(channel: grpc.Channel, sidecar: Sidecar, app: GrpcApp) -> None:
    call(channel, "unary_unary", "/some.Service/Echo")(bytes(MIB), metadata=TARGET)
    before = resident_mib(sidecar.pid)
    peak = before
    for message in call(channel, "unary_stream", "/some.Service/Count")(b"1024 %d" % MIB, metadata=TARGET):
        assert len(message) == MIB
        peak = max(peak, resident_mib(sidecar.pid))

    def parts() -> Iterator[bytes]:
        nonlocal peak
        for _ in range(1024):
            peak = max(peak, resident_mib(sidecar.pid))
            yield bytes(MIB)

    assert call(channel, "stream_unary", "/some.Service/Join")(parts(), metadata=TARGET) == b"%d" % 2**30
    assert peak < before + 8
