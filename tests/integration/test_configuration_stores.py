"""Settings through the real process: set by the command line, read and followed over both APIs."""

from __future__ import annotations

import json
import queue
import signal
import threading
from pathlib import Path
from typing import Any

import grpc
import pytest

from edge_runtime.proto.dapr.proto.runtime.v1.configuration_pb2 import (
    SubscribeConfigurationRequest,
    SubscribeConfigurationResponse,
)
from tests.integration.cli import Run, ask
from tests.support.app import App
from tests.support.grpc_app import GrpcApp
from tests.support.resources import component, resources_flags, write
from tests.support.sidecar import WAIT_S, Sidecar

pytestmark = pytest.mark.slow
TAKEN: Any = {f"/configuration/configstore/{key}": lambda came: (200, b"") for key in ("a", "b")}


def put(place: Path, key: str, value: str, *flags: str) -> None:
    done = ask(place, "config", "set", key, value, *flags)
    assert done.returncode == 0, done.stderr


class Stream:
    """`SubscribeConfiguration` on grpcio: the messages in `came`, and how it ended."""

    def __init__(self, sidecar: Sidecar, *keys: str, store: str = "configstore", version: str = "") -> None:
        self.came: queue.Queue[SubscribeConfigurationResponse] = queue.Queue()
        self.code: queue.Queue[grpc.StatusCode] = queue.Queue()
        self.channel = grpc.insecure_channel(f"127.0.0.1:{sidecar.grpc_port}", (("grpc.use_local_subchannel_pool", 1),))
        serializer: Any = SubscribeConfigurationRequest.SerializeToString
        path = f"/dapr.proto.runtime.v1.Dapr/SubscribeConfiguration{version}"
        method = self.channel.unary_stream(path, serializer, SubscribeConfigurationResponse.FromString)
        self.call: Any = method(SubscribeConfigurationRequest(store_name=store, keys=keys), timeout=WAIT_S)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        try:
            for message in self.call:
                self.came.put(message)
        except grpc.RpcError:
            pass
        self.code.put(self.call.code())

    def next(self) -> SubscribeConfigurationResponse:
        return self.came.get(timeout=WAIT_S)

    def values(self) -> dict[str, str]:
        return {key: item.value for key, item in self.next().items.items()}


def test_an_app_is_told_of_what_the_command_line_sets(tmp_path: Path) -> None:
    with App(TAKEN) as app, Sidecar(tmp_path / "state", app_port=app.port) as sidecar:
        assert sidecar.http("GET", "/v1.0/configuration/configstore").status == 204
        found = sidecar.http("GET", "/v1.0/configuration/configstore/subscribe?key=a").json()["id"]
        put(tmp_path, "b", "unseen")
        put(tmp_path, "a", "1", "-m", "unit=s", "--version", "v1")
        came = app.next()
        assert (came.method, came.path) == ("POST", "/configuration/configstore/a")
        item = {"value": "1", "version": "v1", "metadata": {"unit": "s"}}
        assert came.json() == {"id": found, "items": {"a": item}}
        assert sidecar.http("GET", "/v1.0/configuration/configstore?key=a").json() == {"a": item}
        assert ask(tmp_path, "config", "delete", "a").returncode == 0
        assert app.next().json() == {"id": found, "items": {"a": {}}}
        path = f"/v1.0/configuration/configstore/{found}/unsubscribe"
        assert sidecar.http("GET", path).json() == {"ok": True}
        assert sidecar.http("GET", path).status == 500
        assert sidecar.stop() == 0


def test_a_stream_is_told_until_it_is_unsubscribed(tmp_path: Path) -> None:
    with Sidecar(tmp_path / "state") as sidecar:
        stream = Stream(sidecar, "a")
        first = stream.next()
        assert first.id
        assert not first.items
        put(tmp_path, "a", "1")
        assert stream.values() == {"a": "1"}
        path = f"/v1.0-alpha1/configuration/configstore/{first.id}/unsubscribe"
        assert sidecar.http("GET", path).json() == {"ok": True}
        assert stream.code.get(timeout=WAIT_S) is grpc.StatusCode.OK


def test_a_client_that_leaves_unsubscribes(tmp_path: Path) -> None:
    with Sidecar(tmp_path / "state") as sidecar:
        stream = Stream(sidecar, "a", version="Alpha1")
        found = stream.next().id
        stream.call.cancel()
        assert stream.code.get(timeout=WAIT_S) is grpc.StatusCode.CANCELLED
        path = f"/v1.0/configuration/configstore/{found}/unsubscribe"
        while sidecar.http("GET", path).status == 200:
            pass  # the reset may arrive after this request; then the id is ended twice
        assert "does not exist" in sidecar.http("GET", path).json()["message"]
        bells = tmp_path / "state" / "configstore.db-configuration" / "bells"
        assert not list(bells.iterdir())


def test_a_reload_ends_streams_and_keeps_the_app_subscribed(tmp_path: Path) -> None:
    with App(TAKEN) as app, Sidecar(tmp_path / "state", app_port=app.port) as sidecar:
        sidecar.http("GET", "/v1.0/configuration/configstore/subscribe")
        stream = Stream(sidecar)
        stream.next()
        sidecar.signal(signal.SIGHUP)
        sidecar.wait_line("dapr initialized")
        assert stream.code.get(timeout=WAIT_S) is grpc.StatusCode.UNKNOWN
        put(tmp_path, "a", "1")
        assert list(app.next().json()["items"]) == ["a"]
        assert sidecar.stop() == 0


def test_a_grpc_app_is_told_by_invocation(tmp_path: Path) -> None:
    from edge_runtime.proto.dapr.proto.common.v1.common_pb2 import InvokeRequest, InvokeResponse

    invoked: queue.Queue[InvokeRequest] = queue.Queue()

    def on_invoke(request: InvokeRequest, context: Any) -> InvokeResponse:
        invoked.put(request)
        return InvokeResponse()

    flags = ("--app-protocol", "grpc")
    with GrpcApp(on_invoke) as app, Sidecar(tmp_path / "state", *flags, app_port=app.port) as sidecar:
        sidecar.http("GET", "/v1.0/configuration/configstore/subscribe")
        put(tmp_path, "a", "1")
        came = invoked.get(timeout=WAIT_S)
        assert came.method == "configuration/configstore/a"
        assert json.loads(came.data.value)["items"]["a"]["value"] == "1"


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    with Sidecar(tmp_path / "state") as sidecar:
        answer = sidecar.http("GET", "/v1.0/configuration/other?key=a")
        assert (answer.status, answer.json()["errorCode"]) == (400, "ERR_CONFIGURATION_STORE_NOT_FOUND")
        answer = sidecar.http("GET", "/v1.0/configuration/configstore/subscribe")
        assert (answer.status, answer.json()["errorCode"]) == (500, "ERR_APP_CHANNEL_NIL")
    resources = write(tmp_path / "r", "a.yaml", component("s", "state.in-memory"))
    with Sidecar(tmp_path / "state", *resources_flags(resources)) as sidecar:
        answer = sidecar.http("GET", "/v1.0/configuration/s")
        assert (answer.status, answer.json()["errorCode"]) == (500, "ERR_CONFIGURATION_STORE_NOT_CONFIGURED")


def test_the_store_of_a_file_is_found_by_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "own.db"
    fields = {"connectionString": str(file), "tableName": "settings"}
    resources = write(tmp_path / "r", "a.yaml", component("own", "configuration.sqlite", fields))
    with Sidecar(tmp_path / "state", *resources_flags(resources)) as sidecar:
        put(tmp_path, "a", "1", "-s", "own", "-d", str(resources))
        assert sidecar.http("GET", "/v1.0/configuration/own").json() == {"a": {"value": "1", "version": "1"}}
        listed = sidecar.http("GET", "/v1.0/metadata").json()["components"]
        assert listed == [{"name": "own", "type": "configuration.sqlite", "version": "v1"}]
        done = ask(tmp_path, "config", "get", "a", "--file", str(file), "--table", "settings", "--json")
        assert json.loads(done.stdout) == {"key": "a", "value": "1", "version": "1", "metadata": {}}


def test_changes_can_be_watched(tmp_path: Path) -> None:
    put(tmp_path, "a", "1")
    with Run(tmp_path, "config", "watch") as watch:
        watch.wait_line("a = 1")
        put(tmp_path, "b", "2")
        watch.wait_line("b = 2")
        assert ask(tmp_path, "config", "delete", "a").returncode == 0
        watch.wait_line("a deleted")
        watch.signal(signal.SIGINT)
        assert watch.wait() == 130
