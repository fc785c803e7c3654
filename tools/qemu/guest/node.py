"""The node as its users see it: its files, its two APIs, its broker."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import struct
import subprocess
import time
from pathlib import Path
from typing import Any

import device

HTTP_PORT, GRPC_PORT, APP_PORT, BROKER_PORT = 3500, 50001, 8000, 1883
CONFIGURATION = Path("/etc/edge-runtime")
ROUTE = "pubsub.mqtt3%2Fgateway%2Fbroker"
ANSWER_S = 120.0

DAPR_YAML = f"""\
version: 1
apps:
- appID: gateway
  appDirPath: .
  appPort: {APP_PORT}
"""
RESOURCES = f"""\
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {{name: statestore}}
spec:
  type: state.sqlite
  version: v1
  metadata:
  - {{name: connectionString, value: /var/lib/edge-runtime/statestore.db}}
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {{name: pubsub}}
spec: {{type: pubsub.sqlite, version: v1}}
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {{name: broker}}
spec:
  type: pubsub.mqtt3
  version: v1
  metadata:
  - {{name: url, value: "mqtt://127.0.0.1:{BROKER_PORT}"}}
  - {{name: outboxBytesMax, value: 512Mi}}
---
apiVersion: dapr.io/v2alpha1
kind: Subscription
metadata: {{name: orders}}
spec:
  pubsubname: pubsub
  topic: orders
  routes: {{default: /orders}}
---
apiVersion: dapr.io/v2alpha1
kind: Subscription
metadata: {{name: readings}}
spec:
  pubsubname: broker
  topic: readings
  routes: {{default: /readings}}
"""


def configure() -> None:
    """An app that is somewhere on port 8000, with a topic of the node and one of a broker."""
    (CONFIGURATION / "components").mkdir(parents=True, exist_ok=True)
    for name, text in {"dapr.yaml": DAPR_YAML, "components/all.yaml": RESOURCES}.items():
        path = CONFIGURATION / name
        path.write_text(text)
        path.chmod(0o644)
    (CONFIGURATION / "components").chmod(0o755)


def restart() -> None:
    device.run("systemctl", "restart", device.UNIT)
    until_served()


def until_served() -> None:
    device.until("the sidecar answers", serves)


def serves() -> bool:
    try:
        return call("GET", "/v1.0/healthz/outbound")[0] == 204
    except (OSError, http.client.HTTPException):
        return False


def call(method: str, path: str, body: Any = None, port: int = HTTP_PORT) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_S)
    try:
        data = None if body is None else json.dumps(body).encode()
        connection.request(method, path, data, {"content-type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def doctor() -> dict[str, dict[str, Any]]:
    """What it says of each thing it looks at, by name."""
    _, text = device.attempt("edge-runtime", "doctor", "--json")
    return {row["name"]: row for row in json.loads(text)["checks"]}


def outbox_numbers() -> list[int]:
    """The numbers of all events that wait for the broker, the oldest first."""
    status, text = call("GET", f"/edge/v1/outbox/{ROUTE}/export")
    if status == 404:
        return []
    device.expect(status == 200, f"the outbox cannot be read: {status} {text[-300:]!r}")
    # A line has what the driver kept, which has the event's text.
    return [int(json.loads(json.loads(line)["payload"]["data"])["data"]["n"]) for line in text.splitlines()]


def grpc_metadata() -> bytes:
    """The answer to GetMetadata over gRPC, by as much HTTP/2 as one call needs."""
    with socket.create_connection(("127.0.0.1", GRPC_PORT), timeout=ANSWER_S) as wire:
        headers = b"".join(
            b"\x10" + _text(name) + _text(value)
            for name, value in {
                ":method": "POST",
                ":scheme": "http",
                ":path": "/dapr.proto.runtime.v1.Dapr/GetMetadata",
                ":authority": "localhost",
                "te": "trailers",
                "content-type": "application/grpc",
            }.items()
        )
        wire.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(4, 0, 0, b""))
        wire.sendall(_frame(1, 4, 1, headers) + _frame(0, 1, 1, bytes(5)))
        stream, message = wire.makefile("rb"), b""
        while True:
            head = stream.read(9)
            device.expect(len(head) == 9, "the gRPC connection ended without an answer")
            size, kind, flags, number = int.from_bytes(head[:3], "big"), head[3], head[4], head[5:]
            body = stream.read(size)
            if kind == 4 and not flags & 1:
                wire.sendall(_frame(4, 1, 0, b""))
            if kind == 0 and number == b"\0\0\0\1":
                message += body
            if kind in (0, 1) and flags & 1 and number == b"\0\0\0\1":
                return message[5:]
            device.expect(kind not in (3, 7), f"the gRPC call was refused: frame {kind}, {body!r}")


def _text(text: str) -> bytes:
    return bytes([len(text)]) + text.encode()


def _frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return struct.pack(">I", len(body))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + body


class Broker:
    """Mosquitto, which keeps nothing on disk. While the block lasts, or until it is stopped."""

    def __enter__(self) -> Broker:
        folder = Path("/run/broker")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        settings = folder / "mosquitto.conf"
        settings.write_text(f"listener {BROKER_PORT} 127.0.0.1\nallow_anonymous true\npersistence false\n")
        command = ["mosquitto", "-c", str(settings)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        device.until("the broker listens", _broker_listens)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()


def _broker_listens() -> bool:
    try:
        socket.create_connection(("127.0.0.1", BROKER_PORT), timeout=5).close()
    except OSError:
        return False
    return True


def journal(*filters: str) -> list[dict[str, Any]]:
    text = device.run("journalctl", "-b", "-u", device.UNIT, "-o", "json", "--no-pager", *filters)
    return [json.loads(line) for line in text.splitlines()]


def settle(seconds: float) -> None:
    """Let the start's own work end: what is measured is a node that nobody uses."""
    os.sync()
    time.sleep(seconds)
