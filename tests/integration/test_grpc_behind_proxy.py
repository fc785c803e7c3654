"""The gRPC API behind a reverse proxy, which opens connections of its own and writes headers in its own way."""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edge_runtime.proto.dapr.proto.common.v1 import common_pb2
from edge_runtime.proto.dapr.proto.runtime.v1 import state_pb2
from tests.support.grpc_client import WAIT_S, DaprClient
from tests.support.sidecar import Program, Sidecar, free_port

pytestmark = pytest.mark.slow

CONFIGURATION = """
daemon off; master_process off; pid {place}/pid; error_log {place}/errors;
events {{}}
http {{
  access_log off; client_max_body_size 0;
  client_body_temp_path {place}/1; proxy_temp_path {place}/2; fastcgi_temp_path {place}/3;
  uwsgi_temp_path {place}/4; scgi_temp_path {place}/5;
  server {{ listen 127.0.0.1:{port} http2; location / {{ grpc_pass grpc://127.0.0.1:{target}; }} }}
}}
"""


@contextmanager
def nginx(place: Path, target: int) -> Iterator[int]:
    """The port of a proxy in front of the target."""
    found = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin")
    if found is None:
        pytest.skip("nginx is not installed: install the package nginx-light to test behind it")
    port = free_port()
    (place / "nginx.conf").write_text(CONFIGURATION.format(place=place, port=port, target=target))
    with Program([found, "-e", str(place / "errors"), "-c", str(place / "nginx.conf")]):
        deadline = time.monotonic() + WAIT_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except ConnectionRefusedError:
                assert time.monotonic() < deadline, (place / "errors").read_text()
        yield port


def test_calls_pass_a_reverse_proxy(tmp_path: Path) -> None:
    with Sidecar(tmp_path / "state") as sidecar, nginx(tmp_path, sidecar.grpc_port) as port, DaprClient(port) as client:
        value = os.urandom(1_000_000)
        items = [common_pb2.StateItem(key="k", value=value)]
        client.reply("SaveState", state_pb2.SaveStateRequest(store_name="statestore", states=items))
        for _ in range(3):
            got = client.reply("GetState", state_pb2.GetStateRequest(store_name="statestore", key="k"))
            assert got.data == value
        missing = client.ask("GetState", state_pb2.GetStateRequest(store_name="none", key="k"))
        assert (missing.code, missing.reason) == ("INVALID_ARGUMENT", "DAPR_STATE_NOT_FOUND")
