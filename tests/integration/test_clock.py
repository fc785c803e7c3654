"""A node whose wall clock is set while it runs: from 1970, into a year far ahead, and back."""

from __future__ import annotations

import json
import sqlite3
import ssl
import time
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import pytest

from edge_runtime.model.hlc import DRIFT_MAX_MS, unpack
from tests.brokers import Mosquitto
from tests.integration.test_cloud_links import DOWN, UP, metric, publish, subscriber, until, url, write_link
from tests.integration.test_mqtt_tls import Authority
from tests.support.app import App, Received
from tests.support.line import Line, Mode
from tests.support.resources import component, resources_flags, write
from tests.support.sidecar import Sidecar
from tests.support.wall_clock import SYNCHRONIZED, WallClock, needs_wall_clock

pytestmark = [pytest.mark.slow, needs_wall_clock]

BATTERYLESS = 100.0
IN_2040 = 2_208_988_800.0


def test_a_board_from_1970_waits_for_its_clock(tmp_path: Path) -> None:
    """No certificate is valid in 1970. What was published then is as young as it is."""
    authority = Authority(tmp_path, "authority")
    server = authority.issue("server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server.certificate, server.key)
    clock = WallClock(tmp_path, BATTERYLESS)
    with ExitStack() as stack:
        app = stack.enter_context(subscriber("orders"))
        cloud = stack.enter_context(Sidecar(tmp_path / "cloud", app_id="cloud", app_port=app.port))
        line = stack.enter_context(Line(cloud.port, context))
        tls = f"  tls: {{ca: {json.dumps({'value': authority.text})}}}\n"
        flags = write_link(tmp_path / "resources", f"https://127.0.0.1:{line.port}", more=tls)
        edge = stack.enter_context(Sidecar(tmp_path / "edge", *flags, app_id="edge", environment=clock.environment))
        until(lambda: DOWN in edge.said)
        assert "certificate is not yet valid" in edge.said
        assert "this node's clock says 1970-01-01: when that is wrong, set it" in edge.said
        publish(edge, "early", query="?metadata.ttlInSeconds=3600")
        assert metric(edge, "edge_outbox_entries") == 1
        clock.set(time.time(), SYNCHRONIZED)
        assert app.next().json()["data"] == "early"
        assert UP in edge.said
        assert metric(edge, "edge_outbox_dead_letters") == 0


def test_a_broker_waits_for_the_clock(tmp_path: Path) -> None:
    """A certificate of 2026 means nothing in 1970; the broker is reached when the clock is set, and gets what waits."""
    authority = Authority(tmp_path, "authority")
    pair = authority.issue("broker")
    clock = WallClock(tmp_path, BATTERYLESS)
    routes = {"/dapr/subscribe": [{"pubsubname": "events", "topic": "t", "route": "/t"}], "/t": b""}
    with ExitStack() as stack:
        app = stack.enter_context(App({path: partial(answer, body) for path, body in routes.items()}))
        mosquitto = Mosquitto(tmp_path / "broker", f"certfile {pair.certificate}", f"keyfile {pair.key}")
        stack.enter_context(mosquitto)
        fields = {"url": f"mqtts://127.0.0.1:{mosquitto.port}", "caCert": authority.text}
        flags = resources_flags(write(tmp_path / "r", "a.yaml", component("events", "pubsub.mqtt3", fields)))
        node = Sidecar(tmp_path / "node", *flags, app_port=app.port, environment=clock.environment)
        stack.enter_context(node)
        assert "certificate is not yet valid; this machine's clock says 1970-01-01: when that is wrong" in node.said
        assert node.http("POST", "/v1.0/publish/events/t", "early").status == 204
        clock.set(time.time(), SYNCHRONIZED)
        assert app.next().json()["data"] == "early"


def answer(body: object, _: Received) -> tuple[int, object]:
    return 200, body


def test_a_year_that_never_was_costs_nothing(tmp_path: Path) -> None:
    clock = WallClock(tmp_path, time.time())
    with ExitStack() as stack:
        app = stack.enter_context(subscriber("orders"))
        cloud = stack.enter_context(Sidecar(tmp_path / "cloud", app_id="cloud", app_port=app.port))
        line = stack.enter_context(Line(cloud.port))
        flags = write_link(tmp_path / "resources", url(line.port), more="  probe: {interval: 1s}\n")
        line.cut(Mode.REFUSE)
        edge = stack.enter_context(Sidecar(tmp_path / "edge", *flags, app_id="edge", environment=clock.environment))
        publish(edge, 1)
        clock.set(IN_2040)
        publish(edge, 2)
        clock.set(time.time() - 3 * 86400)
        publish(edge, 3)
        stamps = stamps_of(tmp_path)
        assert stamps[1] >= (IN_2040 - 1) * 1000
        assert stamps[2] >= stamps[1], "nobody vouches for this clock, so it is waited for"
        clock.set(time.time(), SYNCHRONIZED)
        published = [1, 2, 3]

        def is_back() -> bool:
            published.append(published[-1] + 1)
            publish(edge, published[-1])
            return abs(stamps_of(tmp_path)[-1] - time.time() * 1000) < DRIFT_MAX_MS

        until(is_back)
        line.mend()
        assert [app.next().json()["data"] for _ in published] == published
        assert metric(edge, "edge_outbox_dropped_total") == 0


def stamps_of(place: Path) -> list[int]:
    """When entries that wait were stamped, in milliseconds."""
    with closing(sqlite3.connect(place / "edge" / "node.db")) as connection:
        return [unpack(hlc).ms for (hlc,) in connection.execute("SELECT hlc FROM outbox_entry ORDER BY id")]
