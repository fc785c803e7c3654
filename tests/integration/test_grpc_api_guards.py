"""What stands before the rpcs of a running sidecar: token, lists, trace, log; and what is counted of them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from google.protobuf.empty_pb2 import Empty
from google.rpc.error_details_pb2 import ErrorInfo

from edge_runtime.net.connections import Origin
from edge_runtime.net.grpc.client import open_grpc_client
from edge_runtime.observability.trace import binary_of, traceparent_of
from edge_runtime.proto.dapr.proto.common.v1.common_pb2 import StateItem
from edge_runtime.proto.dapr.proto.runtime.v1.metadata_pb2 import GetMetadataRequest
from edge_runtime.proto.dapr.proto.runtime.v1.secret_pb2 import GetSecretRequest
from edge_runtime.proto.dapr.proto.runtime.v1.state_pb2 import (
    GetStateRequest,
    GetStateResponse,
    QueryStateRequest,
    SaveStateRequest,
)
from tests.support.grpc_client import DaprClient
from tests.support.sidecar import Sidecar

pytestmark = pytest.mark.slow

DAPR = "/dapr.proto.runtime.v1.Dapr/"
TRACE = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"
GET = GetStateRequest(store_name="statestore", key="k")
NO_TARGET = "failed to proxy request: required metadata dapr-callee-app-id or dapr-app-id not found"


def configuration(place: Path, **spec: object) -> tuple[str, str]:
    """The flag that names a Configuration."""
    document = {"apiVersion": "dapr.io/v1alpha1", "kind": "Configuration", "metadata": {"name": "c"}, "spec": spec}
    (place / "config.yaml").write_text(json.dumps(document))
    return "--config", str(place / "config.yaml")


def test_every_call_needs_the_token(tmp_path: Path) -> None:
    with (
        Sidecar(tmp_path, environment={"DAPR_API_TOKEN": "let-me-in"}) as sidecar,
        DaprClient(sidecar.grpc_port) as client,
    ):
        for rpc in ("GetState", "/a.B/C", DAPR + "NoSuch", "/TaskHubSidecarService/Hello"):
            for metadata, text in (
                ((), "missing api token in request metadata"),
                ((("dapr-api-token", "wrong"),), "authentication error: api token mismatch"),
            ):
                answered = client.ask(rpc, GET, *metadata)
                assert (answered.code, answered.message) == ("UNAUTHENTICATED", "Unauthorized"), rpc
                details = {"http.code": "401", "http.error_message": text}
                assert answered.parts == [ErrorInfo(reason="Unauthorized", domain="dapr.io", metadata=details)], rpc
        token = ("dapr-api-token", "let-me-in")
        assert client.ask("GetState", GET, token).code == "OK"
        assert client.ask("/a.B/C", GET, token).message == NO_TARGET


@pytest.mark.parametrize(
    ("api", "served"),
    [
        ({"denied": [{"name": "state", "version": "v1", "protocol": "grpc"}]}, {"QueryStateAlpha1", "GetSecret"}),
        ({"allowed": [{"name": "state", "version": "v1", "protocol": "grpc"}]}, {"GetState", "SaveState"}),
        (
            {"allowed": [{"name": "state", "version": "v1", "protocol": "http"}]},
            {"GetState", "SaveState", "QueryStateAlpha1", "GetSecret"},
        ),
    ],
)
def test_lists_say_what_is_served(tmp_path: Path, api: dict[str, object], served: set[str]) -> None:
    requests = {
        "GetState": GET,
        "SaveState": SaveStateRequest(store_name="statestore"),
        "QueryStateAlpha1": QueryStateRequest(store_name="statestore", query="{}"),
        "GetSecret": GetSecretRequest(store_name="none", key="k"),
    }
    with (
        Sidecar(tmp_path / "node", *configuration(tmp_path, api=api)) as sidecar,
        DaprClient(sidecar.grpc_port) as client,
    ):
        answers = {rpc: client.ask(rpc, request) for rpc, request in requests.items()}
        assert {rpc for rpc, answered in answers.items() if answered.code != "UNIMPLEMENTED"} == served
        for answered in answers.values():
            if answered.code == "UNIMPLEMENTED":
                details = {"http.code": "501", "http.error_message": "requested endpoint is not available"}
                info = ErrorInfo(reason="Not Implemented", domain="dapr.io", metadata=details)
                assert (answered.message, answered.parts) == ("Not Implemented", [info])
        # Only Dapr's own rpcs are listed.
        assert client.ask("/a.B/C", GET).message == NO_TARGET
        assert sidecar.http("GET", "/v1.0/secrets/none/k").status in (401, 404, 400)


def test_unknown_methods_have_no_target(tmp_path: Path) -> None:
    with Sidecar(tmp_path) as sidecar, DaprClient(sidecar.grpc_port) as client:
        for path in (DAPR + "NoSuch", "/grpc.health.v1.Health/Check", "/a.B/C"):
            answered = client.ask(path, Empty())
            assert (answered.code, answered.message, answered.details) == ("UNKNOWN", NO_TARGET, None)


@pytest.mark.parametrize("rate", ["1", "", "0"])
async def test_contexts_come_back(tmp_path: Path, rate: str) -> None:
    flags = configuration(tmp_path, tracing={"samplingRate": rate}) if rate else ()
    with Sidecar(tmp_path / "node", *flags) as sidecar:
        async with open_grpc_client(Origin("http", "127.0.0.1", sidecar.grpc_port)) as client:

            async def initial(*metadata: tuple[str, str | bytes]) -> dict[str, str | bytes]:
                reply = await client.unary(DAPR + "GetState", GET, GetStateResponse, metadata=metadata)
                return {name: value for name, value in reply.initial if name in ("grpc-trace-bin", "baggage")}

            alone = await initial()
            text = await initial(("traceparent", TRACE), ("baggage", "a=1,b=2;p"))
            binary = await initial(("traceparent", TRACE.replace("01-", "02-")), ("grpc-trace-bin", binary_of(TRACE)))
    if rate == "0":
        assert alone == text == binary == {}
        return
    assert text.pop("baggage") == "a=1,b=2;p"
    if rate == "1":  # a span of our own, in the caller's trace
        assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01", _trace(alone))
        for found in (text, binary):
            assert _trace(found)[:36] == TRACE[:36]
            assert _trace(found) != TRACE
    else:
        assert alone == {}
        assert _trace(text) == _trace(binary) == TRACE


def _trace(initial: dict[str, str | bytes]) -> str:
    value = initial["grpc-trace-bin"]
    assert isinstance(value, bytes)
    return traceparent_of(value)


def test_broken_baggage_is_refused(tmp_path: Path) -> None:
    with Sidecar(tmp_path) as sidecar, DaprClient(sidecar.grpc_port) as client:
        assert client.ask("GetState", GET, ("baggage", "no baggage")).code == "INVALID_ARGUMENT"
        assert client.ask("GetState", GET, ("baggage", "a=1")).initial["baggage"] == "a=1"


def test_calls_are_logged_when_asked_for(tmp_path: Path) -> None:
    flags = ("--enable-api-logging", "--log-as-json", "--log-level", "error")
    with Sidecar(tmp_path, *flags, ready="") as sidecar:
        _wait_until_serving(sidecar)
        with DaprClient(sidecar.grpc_port) as client:
            client.ask("GetState", GET)
            client.ask("GetState", GetStateRequest(store_name="none"))
            client.ask("/a.B/C", GET)
            lines = [json.loads(sidecar.wait_line("gRPC API Called")) for _ in range(3)]
    assert [(line["method"], line["code"]) for line in lines] == [
        (DAPR + "GetState", "0"),
        (DAPR + "GetState", "3"),
        ("/a.B/C", "2"),
    ]
    for line in lines:
        assert line["useragent"].startswith("grpc-python/")
        assert int(line["duration"]) >= 0
        assert (line["scope"], line["level"], line["app_id"]) == ("dapr.runtime.grpc.api-info", "info", "app")


def _wait_until_serving(sidecar: Sidecar) -> None:
    """By calling: at this log level it does not say so."""
    with DaprClient(sidecar.grpc_port) as client:
        client.wait_until_connected()


def test_calls_are_counted(tmp_path: Path) -> None:
    with Sidecar(tmp_path) as sidecar, DaprClient(sidecar.grpc_port) as client:
        item = StateItem(key="k", value=b"x" * 5000)
        client.reply("SaveState", SaveStateRequest(store_name="statestore", states=[item]))
        client.reply("GetState", GET)
        client.reply("GetState", GET)
        client.ask("GetState", GetStateRequest(store_name="none"))
        client.reply("GetMetadata", GetMetadataRequest())
        page = sidecar.metrics()

    def labels(rpc: str, status: str = "") -> str:
        shown = f'{{app_id="app",grpc_server_method="{DAPR}{rpc}"'
        return f'{shown},grpc_server_status="{status}"}}' if status else shown + "}"

    server = "dapr_grpc_io_server_"
    for line in (
        f"{server}completed_rpcs{labels('GetState', 'OK')} 2",
        f"{server}completed_rpcs{labels('GetState', 'InvalidArgument')} 1",
        f"{server}completed_rpcs{labels('GetMetadata', 'OK')} 1",
        f"{server}server_latency_count{labels('GetState', 'OK')} 2",
        f"{server}received_bytes_per_rpc_count{labels('GetState')} 3",
        f"{server}sent_bytes_per_rpc_count{labels('GetState')} 3",
        f"{server}sent_bytes_per_rpc_count{labels('SaveState')} 1",
        f"{server}sent_bytes_per_rpc_sum{labels('SaveState')} 0",
    ):
        assert line in page.splitlines(), line
    received = re.search(rf"{server}received_bytes_per_rpc_sum{re.escape(labels('SaveState'))} (\d+)", page)
    assert received
    assert int(received[1]) > 5000
