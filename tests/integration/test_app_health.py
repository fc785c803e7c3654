"""App health checks on the process: what an unhealthy app is spared, and what goes on."""

from __future__ import annotations

import queue
from pathlib import Path
from typing import Any

import pytest

from tests.support.app import App, Received, Route
from tests.support.resources import broker, resources_flags, write
from tests.support.sidecar import Sidecar

pytestmark = pytest.mark.slow
LISTED = [{"pubsubname": "pubsub", "topic": "t", "route": "/in"}]


class Checked:
    """An app whose probes a test answers one by one: `say(True)` returns when the probe has been answered."""

    def __init__(self) -> None:
        self._answers: queue.Queue[bool] = queue.Queue()
        self._answered: queue.Queue[Received] = queue.Queue()

    def __call__(self, came: Received) -> tuple[int, Any]:
        well = self._answers.get(timeout=30)
        self._answered.put(came)
        return (204 if well else 500), b""

    def say(self, well: bool) -> Received:
        self._answers.put(well)
        return self._answered.get(timeout=30)


def flags(threshold: int, *more: str) -> tuple[str, ...]:
    return (
        "--enable-app-health-check",
        *("--app-health-check-path", "well"),
        *("--app-health-probe-interval", "1", "--app-health-probe-timeout", "1000"),
        *("--app-health-threshold", str(threshold)),
        *more,
    )


def test_an_unhealthy_app_is_left_alone(tmp_path: Path) -> None:
    probe = Checked()
    resources = write(tmp_path / "r", "a.yaml", broker())
    routes: dict[str, Route] = {
        "/well": probe,
        "/in": lambda _: (200, b""),
        "/direct": lambda _: (200, b"here"),
        "/dapr/subscribe": lambda _: (200, LISTED),
    }
    environment = {"APP_API_TOKEN": "secret"}
    with App(routes) as app:
        options = flags(1, *resources_flags(resources))
        with Sidecar(tmp_path, *options, app_port=app.port, environment=environment) as sidecar:
            # Start-up is over, the app has not been asked yet.
            assert sidecar.http("GET", "/v1.0/healthz").status == 204
            probed = probe.say(False)
            assert "dapr-api-token" not in probed.headers
            assert app.asked.empty()
            refused = sidecar.http("GET", "/v1.0/invoke/app/method/direct")
            assert (refused.status, refused.json()["errorCode"]) == (500, "ERR_DIRECT_INVOKE")
            assert "app is not in a healthy state" in refused.json()["message"]
            assert sidecar.http("POST", "/v1.0/publish/pubsub/t", "one").status == 204

            probe.say(True)
            sidecar.wait_line("App entered healthy status")
            assert [app.next_asked(path).path for path in ("/dapr/config", "/dapr/subscribe")]
            assert sidecar.http("GET", "/v1.0/invoke/app/method/direct").body == b"here"
            sidecar.wait_line("subscribes to topic t")
            assert next_event(app).json()["data"] == "one"  # published before there was a subscriber

            probe.say(False)
            sidecar.wait_line("App entered un-healthy status")
            sidecar.wait_line("stopping subscriptions")
            assert sidecar.http("POST", "/v1.0/publish/pubsub/t", "two").status == 204
            assert sidecar.http("GET", "/v1.0/invoke/app/method/direct").status == 500
            assert sidecar.http("GET", "/v1.0/healthz").status == 204
            assert sidecar.http("GET", "/v1.0/metadata").json()["subscriptions"][0]["topic"] == "t"

            probe.say(True)
            assert next_event(app).json()["data"] == "two"
            assert app.asked.empty()  # discovery is not repeated
            text = sidecar.metrics()
            for status in ("204", "500"):
                assert f'dapr_http_healthprobes_completed_count{{app_id="app",status="{status}"}} 2' in text


def next_event(app: App) -> Any:
    """The next event; direct calls are passed over."""
    while True:
        came = app.next()
        if came.path == "/in":
            return came


def test_failures_need_not_follow_one_another(tmp_path: Path) -> None:
    """A pass below the threshold does not clear the count."""
    probe = Checked()
    with App({"/well": probe}) as app, Sidecar(tmp_path, *flags(2), app_port=app.port) as sidecar:
        probe.say(True)
        sidecar.wait_line("App entered healthy status")
        for well in (False, True, False):
            probe.say(well)
        sidecar.wait_line("App entered un-healthy status")


@pytest.mark.parametrize("path", ["well", "/well"])
def test_a_slow_probe_or_redirect_fails(tmp_path: Path, path: str) -> None:
    status = [302]
    routes = {"/well": lambda _: (status[0], b"")}
    options = flags(1, "--app-health-check-path", path, "--log-level", "debug")
    with App(routes) as app, Sidecar(tmp_path, *options, app_port=app.port) as sidecar:
        app.next()
        app.next()
        assert "entered" not in sidecar.said
        status[0] = 299
        sidecar.wait_line("App entered healthy status")


def test_a_timeout_past_the_interval_is_fatal(tmp_path: Path) -> None:
    options = ("--enable-app-health-check", "--app-health-probe-interval=1", "--app-health-probe-timeout=1001")
    with Sidecar(tmp_path, *options, app_port=1, ready="") as sidecar:
        assert sidecar.wait() == 1
        assert "--app-health-probe-timeout" in sidecar.said


def test_a_stop_before_health_is_clean(tmp_path: Path) -> None:
    with App({"/well": lambda _: (500, b"")}) as app, Sidecar(tmp_path, *flags(1), app_port=app.port) as sidecar:
        app.next()
        assert sidecar.stop() == 0


def test_an_unhealthy_app_ends_a_blocked_shutdown(tmp_path: Path) -> None:
    probe = Checked()
    options = flags(1, "--dapr-block-shutdown-duration=10m")
    with App({"/well": probe}) as app, Sidecar(tmp_path, *options, app_port=app.port) as sidecar:
        probe.say(True)
        sidecar.wait_line("App entered healthy status")
        sidecar.process.terminate()
        sidecar.wait_line("Blocking shutdown")
        assert sidecar.http("GET", "/v1.0/healthz").status == 204
        probe.say(False)
        assert sidecar.wait() == 0
