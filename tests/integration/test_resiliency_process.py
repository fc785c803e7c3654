"""Resiliency as callers see it: what a Resiliency file changes about apps, components and endpoints."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.app import App, Received
from tests.support.resources import component, document, resiliency, resources_flags, write
from tests.support.sidecar import Sidecar

pytestmark = pytest.mark.slow

POLICIES: dict[str, Any] = {
    "timeouts": {"short": "80ms", "plain": 80},
    "retries": {
        "twice": {"policy": "constant", "duration": "2ms", "maxRetries": 2},
        "chosen": {"duration": "2ms", "maxRetries": 2, "matching": {"httpStatusCodes": "429,500-502"}},
        "never": {"duration": "1ms", "maxRetries": 0},
    },
    "circuitBreakers": {"quick": {"trip": "consecutiveFailures >= 2", "timeout": "300ms"}},
}


class Failing:
    """Answers the status until it is told otherwise."""

    def __init__(self, status: int = 500) -> None:
        self.status = status

    def __call__(self, _: Received) -> tuple[int, Any]:
        return self.status, b"said the app"


def started(tmp_path: Path, app: App, targets: dict[str, Any], *documents: dict[str, Any]) -> Sidecar:
    resources = write(tmp_path / "r", "a.yaml", component("s", "state.in-memory"), *documents)
    write(resources, "res.yaml", resiliency("res", POLICIES, targets))
    return Sidecar(tmp_path, *resources_flags(resources), app_port=app.port)


def paths(app: App) -> list[str]:
    found = []
    while not app.received.empty():
        found.append(app.received.get().path)
    return found


def test_retries_of_an_app(tmp_path: Path) -> None:
    targets = {"apps": {"app": {"retry": "chosen"}}}
    with App({"/x": (failing := Failing())}) as app, started(tmp_path, app, targets) as sidecar:
        answer = sidecar.http("POST", "/v1.0/invoke/app/method/x", {"n": 1})
        assert (answer.status, answer.body) == (500, b"said the app")  # the last answer is passed on as it is
        assert [(came.path, came.json()) for came in (app.next() for _ in range(3))] == [("/x", {"n": 1})] * 3
        failing.status = 404
        assert sidecar.http("GET", "/v1.0/invoke/app/method/x").status == 404
        assert paths(app) == ["/x"]
        text = sidecar.metrics()
        labels = 'name="res",namespace="",policy="retry",status="",target="app_app"'
        assert f'dapr_resiliency_activations_total{{app_id="app",flow_direction="outbound",{labels}}} 2' in text
        assert 'dapr_resiliency_loaded{app_id="app",name="res",namespace=""} 1' in text


def test_no_policy_means_one_attempt(tmp_path: Path) -> None:
    with App({"/x": Failing()}) as app, Sidecar(tmp_path, app_port=app.port) as sidecar:
        assert sidecar.http("GET", "/v1.0/invoke/app/method/x").status == 500
        assert paths(app) == ["/x"]


@pytest.mark.parametrize("timeout", ["short", "plain"])
def test_a_timeout_ends_each_attempt(tmp_path: Path, timeout: str) -> None:
    let_go = threading.Event()

    def hold(_: Received) -> tuple[int, Any]:
        let_go.wait(30)
        return 200, b""

    targets = {"apps": {"app": {"timeout": timeout, "retry": "twice"}}}
    with App({"/x": hold, "/y": lambda _: (200, b"")}) as app, started(tmp_path, app, targets) as sidecar:
        answer = sidecar.http("GET", "/v1.0/invoke/app/method/x")
        assert (answer.status, answer.json()["errorCode"]) == (500, "ERR_DIRECT_INVOKE")
        assert len(paths(app)) == 3
        assert sidecar.http("GET", "/v1.0/invoke/app/method/y").status == 200
        let_go.set()


def test_a_breaker_opens_and_closes(tmp_path: Path) -> None:
    targets = {"apps": {"app": {"circuitBreaker": "quick"}}}
    with App({"/x": (failing := Failing())}) as app, started(tmp_path, app, targets) as sidecar:

        def call() -> tuple[int, bytes]:
            answer = sidecar.http("GET", "/v1.0/invoke/app/method/x")
            return answer.status, answer.body

        assert [call()[0] for _ in range(2)] == [500, 500]
        status, body = call()
        assert (status, b"circuit breaker is open" in body) == (500, True)
        assert paths(app) == ["/x", "/x"]
        text = sidecar.metrics()
        head = 'dapr_resiliency_cb_state{app_id="app",flow_direction="outbound",name="res",namespace="",'
        for state in ("closed", "half-open", "open", "unknown"):
            assert f'{head}policy="circuitbreaker",status="{state}",target="app_app"}} {int(state == "open")}' in text
        failing.status = 200
        until(lambda: call()[0] == 200)
        assert call()[0] == 200


def until(holds: Callable[[], bool]) -> None:
    """Ask again and again: the breaker's rest is over after a while that nothing announces."""
    for _ in range(10_000):
        if holds():
            return
    raise AssertionError("it never came to be")


def test_endpoints_and_outside_urls(tmp_path: Path) -> None:
    with App({}) as own, App({"/x": Failing()}) as outside:
        url = f"http://127.0.0.1:{outside.port}"
        endpoint = document("HTTPEndpoint", "there", {"baseUrl": url, "headers": [{"name": "x-key", "value": "k"}]})
        targets = {"apps": {"there": {"retry": "twice"}, url: {"retry": "twice"}}}
        with started(tmp_path, own, targets, endpoint) as sidecar:
            assert sidecar.http("GET", "/v1.0/invoke/there/method/x").status == 500
            came = [outside.next() for _ in range(3)]
            assert all(item.headers["x-key"] == "k" for item in came)
            assert sidecar.http("GET", f"/v1.0/invoke/{url}/method/x").status == 500
            assert len(paths(outside)) == 3
            assert own.received.empty()


def test_outbound_of_a_component(tmp_path: Path) -> None:
    """The scopes of the broker answer for good; the policy runs, and its counts say so."""
    targets = {"components": {"s": {"outbound": {"timeout": "short", "retry": "twice", "circuitBreaker": "quick"}}}}
    with App({}) as app, started(tmp_path, app, targets) as sidecar:
        item = [{"key": "a", "value": 1, "etag": "9", "options": {"concurrency": "first-write"}}]
        assert sidecar.http("POST", "/v1.0/state/s", [{"key": "a", "value": 0}]).status == 204
        for _ in range(4):
            assert sidecar.http("POST", "/v1.0/state/s", item).status == 409  # and no breaker opens
        assert sidecar.http("GET", "/v1.0/state/s/a").json() == 0
        text = sidecar.metrics()
        for policy, status in (("timeout", ""), ("retry", ""), ("circuitbreaker", "closed")):
            labels = f'policy="{policy}",status="{status}",target="Statestore_s"'
            assert (
                f'dapr_resiliency_count{{app_id="app",flow_direction="outbound",name="res",namespace="",{labels}}} 6'
                in text
            )


def test_default_policies_and_bad_files(tmp_path: Path) -> None:
    policies = {**POLICIES, "retries": {"DefaultAppRetryPolicy": {"duration": "1ms", "maxRetries": 1}}}
    with App({"/x": Failing()}) as app:
        resources = write(tmp_path / "r", "a.yaml", component("s", "state.in-memory"))
        write(resources, "b.yaml", resiliency("defaults", policies, {}))
        write(resources, "c.yaml", resiliency("bad", {"timeouts": {"t": "soon"}}, {"apps": {"app": {"timeout": "t"}}}))
        other = resiliency("foreign", POLICIES, {"apps": {"app": {"retry": "never"}}}, scopes=["other"])
        write(resources, "d.yaml", other)
        with Sidecar(tmp_path, *resources_flags(resources), app_port=app.port) as sidecar:
            assert "soon" in sidecar.said
            assert sidecar.http("GET", "/v1.0/invoke/app/method/x").status == 500
            assert len(paths(app)) == 2
            assert sidecar.http("GET", "/v1.0/metadata").json()["resiliencies"] == [{"name": "defaults"}]
