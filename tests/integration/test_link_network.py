"""A link over a network that is really there: cables pulled and plugged, packets that vanish, names that come late."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_cloud_links import DOWN, UP, until, write_link
from tests.support.namespace import Namespace, ip, need_namespaces
from tests.support.sidecar import Sidecar

pytestmark = pytest.mark.slow

EDGE, FAR, PORT = "192.0.2.1", "192.0.2.2", 3500


class Wire:
    """The edge's network and the cloud's, a cable between them, and a sidecar there that takes every publish."""

    def __init__(self, edge: Namespace, far: Namespace) -> None:
        self.edge = edge
        self.far = far
        self.published: list[str] = []
        wire = self

        class Cloud(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_any(self) -> None:
                data = self.rfile.read(int(self.headers.get("content-length") or 0))
                if self.command == "POST":
                    wire.published.append(data.decode())
                self.send_response(204)
                self.send_header("content-length", "0")
                self.end_headers()

            do_GET = do_POST = do_any

            def log_message(self, *args: Any) -> None:
                """Tests look at `published`."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                """Cables that are pulled leave broken connections."""

        self._server = far.run(lambda: Server(("0.0.0.0", PORT), Cloud))
        self._thread = far.start(lambda: self._server.serve_forever(poll_interval=0.05))

    def publish(self, node: Sidecar, number: int) -> None:
        answer = self.edge.run(lambda: node.http("POST", "/v1.0/publish/pubsub/orders", f"<{number}>"))
        assert answer.status == 204, answer.body

    def arrived(self, number: int) -> None:
        until(lambda: any(f"\\u003c{number}\\u003e" in data for data in self.published))

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def wire() -> Iterator[Wire]:
    need_namespaces()
    with Namespace() as edge, Namespace() as far:
        edge.join(far, "cable", f"{EDGE}/24", f"{FAR}/24")
        opened = Wire(edge, far)
        yield opened
        opened.close()


@contextmanager
def edge_node(wire: Wire, place: Path, host: str = FAR, more: str = "  probe: {interval: 1h}\n") -> Iterator[Sidecar]:
    """Whose link asks nothing by itself for an hour: what it notices, the kernel has told it."""
    flags = write_link(place / "resources", f"http://{host}:{PORT}", more=more)
    with ExitStack() as stack:
        yield wire.edge.run(lambda: stack.enter_context(Sidecar(place / "edge", *flags, app_id="edge")))


@pytest.mark.parametrize("end", ["here", "there"])
def test_a_cable_that_is_pulled_and_plugged_is_noticed(wire: Wire, tmp_path: Path, end: str) -> None:
    network = wire.edge if end == "here" else wire.far
    with edge_node(wire, tmp_path) as node:
        until(lambda: UP in node.said)
        for number in range(3):
            network.set_link("cable", up=False)
            assert "the network has changed, and there is no way to the sidecar" in node.wait_line(DOWN)
            wire.publish(node, number)
            network.set_link("cable", up=True)
            node.wait_line(UP)
            wire.arrived(number)
        assert node.stop() == 0


def test_a_route_that_goes_is_noticed(wire: Wire, tmp_path: Path) -> None:
    """The cable stays, and so does the address: only the way is gone."""
    wire.far.run(lambda: ip("address", "add", "198.51.100.7/32", "dev", "lo"))
    route = ("198.51.100.0/24", "via", FAR)
    wire.edge.run(lambda: ip("route", "add", *route))
    with edge_node(wire, tmp_path, "198.51.100.7") as node:
        until(lambda: UP in node.said)
        wire.edge.run(lambda: ip("route", "delete", *route))
        node.wait_line(DOWN)
        wire.edge.run(lambda: ip("route", "add", *route))
        node.wait_line(UP)


def test_packets_that_vanish_are_noticed_by_a_probe(wire: Wire, tmp_path: Path) -> None:
    """No kernel tells of it, and no socket: what is sent is acknowledged by nobody."""
    with edge_node(wire, tmp_path, more="  probe: {interval: 1s}\n") as node:
        until(lambda: UP in node.said)
        wire.far.run(lambda: ip("address", "delete", f"{FAR}/24", "dev", "cable"))
        wire.publish(node, 1)
        node.wait_line(DOWN)
        wire.far.run(lambda: ip("address", "add", f"{FAR}/24", "dev", "cable"))
        node.wait_line(UP)
        wire.arrived(1)


def test_a_name_that_comes_late_is_found(wire: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hosts, wrapper = tmp_path / "hosts", tmp_path / "python"
    hosts.write_text("127.0.0.1 localhost\n")
    wrapper.write_text(
        "#!/bin/sh\n"
        f'exec unshare --mount sh -c \'mount --bind {hosts} /etc/hosts && exec {sys.executable} "$@"\' sh "$@"\n'
    )
    wrapper.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(wrapper))
    with edge_node(wire, tmp_path, "cloud.example", "  probe: {interval: 1s}\n") as node:
        until(
            lambda: f"{DOWN}: dial tcp cloud.example:{PORT}: connect: temporary failure in name resolution" in node.said
        )
        wire.publish(node, 1)
        hosts.write_text(f"127.0.0.1 localhost\n{FAR} cloud.example\n")
        node.wait_line(UP)
        wire.arrived(1)
