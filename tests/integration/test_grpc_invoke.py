"""Service invocation with apps that speak gRPC, through the real process: over HTTP, and by `InvokeService`."""

from __future__ import annotations

import json
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status as RpcStatus

from edge_runtime.proto.dapr.proto.common.v1.common_pb2 import HTTPExtension, InvokeRequest, InvokeResponse
from edge_runtime.proto.dapr.proto.runtime.v1.invoke_pb2 import InvokeServiceRequest
from tests.support.app import App, Received
from tests.support.grpc_app import GrpcApp
from tests.support.sidecar import SERVING, WAIT_S, Sidecar

pytestmark = pytest.mark.slow

PATH = "/dapr.proto.runtime.v1.Dapr/InvokeService"
TRACE = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"


def answer(request: InvokeRequest, context: grpc.ServicerContext) -> InvokeResponse:
    """An echo; the methods `fail` and `odd` end with an error, the second with details that nobody knows."""
    context.send_initial_metadata((("x-head", "h"), ("x-raw-bin", b"\xff")))
    context.set_trailing_metadata((("x-tail", "t"),))
    if request.method in ("fail", "odd"):
        status = RpcStatus(code=5, message="no such thing")
        detail = status.details.add()
        if request.method == "fail":
            detail.Pack(ErrorInfo(reason="GONE", domain="shop"))
        else:
            detail.type_url = "type.googleapis.com/nobody.Knows"
        context.set_trailing_metadata((("x-tail", "t"), ("grpc-status-details-bin", status.SerializeToString())))
        context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")
    reply = InvokeResponse(content_type=request.content_type)
    reply.data.value = request.data.value
    return reply


@pytest.fixture(scope="module")
def app() -> Iterator[GrpcApp]:
    with GrpcApp(answer) as app:
        yield app


@pytest.fixture(scope="module")
def sidecar(tmp_path_factory: pytest.TempPathFactory, app: GrpcApp) -> Iterator[Sidecar]:
    place = tmp_path_factory.mktemp("invoke")
    with Sidecar(
        place, "--app-protocol", "grpc", app_port=app.port, environment={"APP_API_TOKEN": "apps-own"}
    ) as sidecar:
        yield sidecar
        assert sidecar.stop() == 0


@pytest.fixture(autouse=True)
def nothing_left(app: GrpcApp) -> None:
    while not app.received.empty():
        app.received.get()


def invoke(port: int, target: str, method: str, verb: str = "", query: str = "", **options: Any) -> Any:
    """The reply and the finished call."""
    message = InvokeRequest(method=method, content_type="text/plain")
    message.data.value = b"question"
    if verb:
        message.http_extension.CopyFrom(HTTPExtension(verb=verb, querystring=query))
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary(PATH, InvokeServiceRequest.SerializeToString, InvokeResponse.FromString)
        return call.with_call(InvokeServiceRequest(id=target, message=message), timeout=WAIT_S, **options)


def pairs(metadata: Any) -> set[tuple[str, str | bytes]]:
    return {(pair.key, pair.value) for pair in metadata}


# --- over HTTP --------------------------------------------------------------------------------------------------------


def test_http_request_becomes_a_message(sidecar: Sidecar, app: GrpcApp) -> None:
    headers = {"content-type": "text/css", "authorization": "Bearer b", "x-own": "1", "traceparent": TRACE}
    reply = sidecar.http("PUT", "/v1.0/invoke/app/method/do/it%20now?a=1&b=%20", b"\0\xff", headers)
    came = app.next()
    message = InvokeRequest.FromString(came.body)
    assert (message.method, message.content_type, message.data.value) == ("do/it now", "text/css", b"\0\xff")
    assert message.http_extension == HTTPExtension(verb="PUT", querystring="a=1&b=%20")
    assert came.metadata["dapr-authorization"] == "Bearer b"
    assert came.metadata["x-own"] == "1"
    assert came.metadata["dapr-caller-app-id"] == "app"
    assert came.metadata["dapr-api-token"] == "apps-own"
    assert str(came.metadata["traceparent"])[:35] == TRACE[:35]
    assert (reply.status, reply.headers["content-type"], reply.body) == (200, "text/css", b"\0\xff")
    assert reply.headers["x-head"] == "h"
    assert "x-raw-bin" not in reply.headers


def test_status_becomes_json(sidecar: Sidecar, app: GrpcApp) -> None:
    reply = sidecar.http("GET", "/v1.0/invoke/app/method/fail")
    assert (reply.status, reply.headers["content-type"]) == (404, "application/json")
    detail = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "GONE", "domain": "shop"}
    assert reply.json() == {"code": 5, "message": "no such thing", "details": [detail]}


def test_status_that_has_no_json_is_said(sidecar: Sidecar, app: GrpcApp) -> None:
    reply = sidecar.http("GET", "/v1.0/invoke/app/method/odd")
    assert (reply.status, reply.json()["errorCode"]) == (500, "ERR_MALFORMED_RESPONSE")


def test_other_forms_of_target_work(sidecar: Sidecar, app: GrpcApp) -> None:
    assert sidecar.http("POST", "/any/path", b"x", {"dapr-app-id": "app"}).body == b"x"
    assert InvokeRequest.FromString(app.next().body).method == "any/path"


# --- InvokeService ----------------------------------------------------------------------------------------------------


def test_message_reaches_the_app(sidecar: Sidecar, app: GrpcApp) -> None:
    reply, call = invoke(
        sidecar.grpc_port, "app", "do/it", "POST", "a=1", metadata=(("x-own", "1"), ("x-raw-bin", b"\xfe"))
    )
    came = app.next()
    message = InvokeRequest.FromString(came.body)
    assert (message.method, message.http_extension.querystring) == ("do/it", "a=1")
    assert (came.metadata["x-own"], came.metadata["x-raw-bin"]) == ("1", b"\xfe")
    assert str(came.metadata["dapr-user-agent"]).startswith("grpc-python/")
    assert str(came.metadata["dapr-authority"]) == f"127.0.0.1:{sidecar.grpc_port}"
    assert came.left_s is None
    assert (reply.content_type, reply.data.value) == ("text/plain", b"question")
    assert {("x-head", "h"), ("x-raw-bin", b"\xff")} <= pairs(call.initial_metadata())
    assert ("x-tail", "t") in pairs(call.trailing_metadata())


def test_error_of_the_app_is_the_callers(sidecar: Sidecar, app: GrpcApp) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        invoke(sidecar.grpc_port, "app", "fail")
    error: Any = caught.value
    assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "no such thing")
    details = dict(pairs(error.trailing_metadata()))["grpc-status-details-bin"]
    info = ErrorInfo()
    assert RpcStatus.FromString(details).details[0].Unpack(info)
    assert info.reason == "GONE"


def test_unknown_target_is_named(sidecar: Sidecar) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        invoke(sidecar.grpc_port, "nobody", "x", "GET")
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.INTERNAL
    assert error.details() == "failed to invoke, id: nobody, err: couldn't find service: nobody"


def test_http_app_is_called_over_http(tmp_path: Path) -> None:
    def make(came: Received) -> tuple[int, Any, dict[str, str]]:
        status = 201 if came.method == "PUT" else 409
        return status, {"verb": came.method}, {"x-head": "h"}

    with App({"/do/it": make}) as app, Sidecar(tmp_path, app_port=app.port) as sidecar:
        reply, call = invoke(sidecar.grpc_port, "app", "do/it", "PUT", "a=1")
        came = app.received.get(timeout=WAIT_S)
        assert (came.method, came.path, came.body) == ("PUT", "/do/it?a=1", b"question")
        assert came.headers["content-type"] == "text/plain"
        assert json.loads(reply.data.value) == {"verb": "PUT"}
        assert {("dapr-http-status", "201"), ("x-head", "h")} <= pairs(call.initial_metadata())
        with pytest.raises(grpc.RpcError) as caught:
            invoke(sidecar.grpc_port, "app", "do/it", "GET")
        error: Any = caught.value
        assert error.code() is grpc.StatusCode.ALREADY_EXISTS
        assert ("dapr-http-status", "409") in pairs(error.initial_metadata())
        assert sidecar.stop() == 0


# --- the app --------------------------------------------------------------------------------------------------------


def test_app_with_tls_is_called(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    request = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    subject = ["-subj", "/CN=nobody", "-days", "2", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*request, *subject], check=True, capture_output=True)
    assert ssl.OPENSSL_VERSION
    tls = grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())])
    with GrpcApp(answer, tls=tls) as app, Sidecar(tmp_path, "--app-protocol", "grpcs", app_port=app.port) as sidecar:
        assert sidecar.http("POST", "/v1.0/invoke/app/method/x", b"hidden").body == b"hidden"
        with grpc.insecure_channel(f"127.0.0.1:{sidecar.grpc_port}") as channel:
            echo = channel.unary_unary("/some.Service/Echo")
            assert echo(b"too", metadata=(("dapr-app-id", "app"),), timeout=WAIT_S) == b"too"
        assert sidecar.stop() == 0


def test_unhealthy_app_is_left_alone(tmp_path: Path) -> None:
    flags = ("--app-protocol", "grpc", "--enable-app-health-check", "--app-health-probe-interval", "1")
    with GrpcApp(answer) as app:
        with Sidecar(tmp_path, *flags, "--app-health-threshold", "1", app_port=app.port) as sidecar:
            sidecar.wait_line("App entered healthy status")
            assert sidecar.http("POST", "/v1.0/invoke/app/method/x", b"1").status == 200
            app.healthy = False
            sidecar.wait_line("App entered un-healthy status")
            reply = sidecar.http("POST", "/v1.0/invoke/app/method/x", b"1")
            assert (reply.status, reply.json()["errorCode"]) == (500, "ERR_DIRECT_INVOKE")
            assert reply.json()["message"].endswith("err: app is not in a healthy state")
            with pytest.raises(grpc.RpcError) as caught:
                invoke(sidecar.grpc_port, "app", "x")
            error: Any = caught.value
            assert error.code() is grpc.StatusCode.INTERNAL
            assert error.details() == "failed to invoke, id: app, err: app is not in a healthy state"
            app.healthy = True
            sidecar.wait_line("App entered healthy status")
            assert sidecar.http("POST", "/v1.0/invoke/app/method/x", b"1").status == 200


def test_app_that_comes_back_is_called_again(tmp_path: Path) -> None:
    with GrpcApp(answer) as app:
        port = app.port
        sidecar = Sidecar(tmp_path, "--app-protocol", "grpc", app_port=port)
    with sidecar:
        reply = sidecar.http("POST", "/v1.0/invoke/app/method/x", b"1")
        assert (reply.status, reply.json()["errorCode"]) == (500, "ERR_DIRECT_INVOKE")
        with GrpcApp(answer, port):
            assert sidecar.http("POST", "/v1.0/invoke/app/method/x", b"1").body == b"1"


def test_nothing_of_grpc_loads_for_an_http_app(tmp_path: Path) -> None:
    with Sidecar(tmp_path, ready=SERVING) as sidecar, open(f"/proc/{sidecar.pid}/maps", encoding="ascii") as maps:
        assert not [line for line in maps if "google/_upb" in line or "jh2" in line]
