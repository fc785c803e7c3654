"""The Prometheus page: names, labels and buckets as Dapr's dashboards know them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.app import App
from tests.support.resources import broker, component, resources_flags, subscription, write
from tests.support.sidecar import Sidecar, request

pytestmark = pytest.mark.slow
LATENCY = "1 2 3 4 5 6 8 10 13 16 20 25 30 40 50 65 80 100 130 160 200 250 300 400 500 650 800 1000 2000 5000 10000"
LATENCY_BUCKETS = [*LATENCY.split(), "20000", "50000", "100000", "+Inf"]
SIZE_BUCKETS = [str(2**n) for n in (10, 11, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 32)] + ["+Inf"]
SAMPLE = re.compile(r"dapr_(\w+)(?:\{(.*)\})? (\S+)")
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

Page = dict[str, list[tuple[dict[str, str], str]]]


def page(text: str) -> Page:
    """Samples by name without the prefix."""
    found: Page = {}
    for line in text.splitlines():
        if line.startswith("dapr_"):
            match = SAMPLE.fullmatch(line)
            assert match, line
            labels = dict(LABEL.findall(match[2] or ""))
            assert labels.get("app_id") == "app", line
            found.setdefault(match[1], []).append((labels, match[3]))
    return found


def value(found: Page, name: str, **labels: str) -> str:
    """The one sample that has exactly these labels."""
    wanted = {"app_id": "app", **labels}
    matching = [number for held, number in found.get(name, []) if held == wanted]
    assert len(matching) == 1, (name, wanted, found.get(name))
    return matching[0]


def test_the_families_of_every_block(tmp_path: Path) -> None:
    (tmp_path / "secrets.json").write_text('{"a": "1"}')
    documents = (
        component("s", "state.sqlite", {"connectionString": str(tmp_path / "s.db")}),
        component("v", "secretstores.local.file", {"secretsFile": str(tmp_path / "secrets.json")}),
        broker("p"),
        subscription("t", "/in", pubsub="p"),
    )
    resources = write(tmp_path / "r", "a.yaml", *documents)
    routes = {"/in": lambda _: (200, b""), "/hi": lambda _: (200, b"x")}
    environment = {"NAMESPACE": "ns"}
    with (
        App(routes) as app,
        Sidecar(tmp_path, *resources_flags(resources), app_port=app.port, environment=environment) as sidecar,
    ):
        item = [{"key": "k", "value": 1}]
        assert sidecar.http("POST", "/v1.0/state/s", item).status == 204
        assert sidecar.http("GET", "/v1.0/state/s/k").status == 200
        assert sidecar.http("DELETE", "/v1.0/state/s/k").status == 204
        assert sidecar.http("POST", "/v1.0/state/s/bulk", {"keys": ["k"]}).status == 200
        operations = {"operations": [{"operation": "upsert", "request": item[0]}]}
        assert sidecar.http("POST", "/v1.0/state/s/transaction", operations).status == 204
        stale = [{**item[0], "etag": "99", "options": {"concurrency": "first-write"}}]
        assert sidecar.http("POST", "/v1.0/state/s", stale).status == 409
        assert sidecar.http("GET", "/v1.0/secrets/v/a").status == 200
        assert sidecar.http("GET", "/v1.0/secrets/v/bulk").status == 200
        assert sidecar.http("POST", "/v1.0/publish/p/t", 1).status == 204
        assert app.next().path == "/in"
        assert sidecar.http("GET", "/v1.0/invoke/app/method/hi?q=1").status == 200
        entries = [{"entryId": "1", "event": 1, "contentType": "application/json"}]
        assert sidecar.http("POST", "/v1.0-alpha1/publish/bulk/p/u", entries).status == 204
        until(sidecar, 'process_status="success"')
        found = page(sidecar.metrics())

    assert value(found, "runtime_component_loaded") == "3"
    assert value(found, "runtime_component_init_total", component="state.sqlite") == "1"
    state = {"component": "s", "namespace": "ns"}
    counts = {("set", "true"): "1", ("set", "false"): "1", ("get", "true"): "1", ("delete", "true"): "1"}
    counts |= {("bulk_get", "true"): "1", ("transaction", "true"): "1"}
    for (operation, success), count in counts.items():
        assert value(found, "component_state_count", **state, operation=operation, success=success) == count
    for operation in ("get", "bulk_get"):
        labels = {"component": "v", "namespace": "ns", "operation": operation, "success": "true"}
        assert value(found, "component_secret_count", **labels) == "1"
    topic = {"component": "p", "namespace": "ns", "topic": "t"}
    assert value(found, "component_pubsub_egress_count", **topic, success="true") == "1"
    assert value(found, "component_pubsub_ingress_count", **topic, process_status="success", status="") == "1"
    assert value(found, "component_pubsub_egress_bulk_count", **{**topic, "topic": "u"}, success="true") == "1"
    for name, names in {
        "component_state_latencies": {"component", "namespace", "operation", "success"},
        "component_pubsub_ingress_latencies": {"component", "namespace", "process_status", "status", "topic"},
    }.items():
        for held, _ in found.get(f"{name}_count", []):
            assert set(held) == {"app_id", *names}

    server = {"method": "POST", "path": "/v1.0/state/s", "status": "204"}  # the save and the transaction
    for name in ("http_server_request_count", "http_server_response_count", "http_server_latency_count"):
        assert value(found, name, **server) == "2"
    got = {"method": "GET", "path": "/v1.0/state/s", "status": "200"}  # the key is cut
    assert value(found, "http_server_request_count", **got) == "1"
    assert (
        value(found, "http_server_request_count", method="GET", path="/v1.0/invoke/app/method/hi", status="200") == "1"
    )
    assert value(found, "http_client_completed_count", method="GET", path="/dapr/config", status="404") == "1"
    assert value(found, "http_client_completed_count", method="POST", path="/in", status="200") == "1"
    assert value(found, "http_client_sent_bytes_count", method="POST", path="/in", status="") == "1"
    assert set(found["http_server_request_bytes_count"][0][0]) == {"app_id"}
    buckets = [held["le"] for held, _ in found["http_server_latency_bucket"] if held.items() >= server.items()]
    assert buckets == LATENCY_BUCKETS
    assert [held["le"] for held, _ in found["http_server_response_bytes_bucket"]] == SIZE_BUCKETS


def until(sidecar: Sidecar, text: str) -> None:
    """Ask until the page has the text; the app's answer is counted a moment after the app gave it."""
    for _ in range(1000):
        if text in sidecar.metrics():
            return
    raise AssertionError(f"{text} is not on the page:\n{sidecar.metrics()}")


def test_types_and_every_path(tmp_path: Path) -> None:
    with Sidecar(tmp_path) as sidecar:
        assert sidecar.http("GET", "/v1.0/healthz").status == 204
        answer = request(sidecar.metrics_port, "GET", "/any/path")
        text = answer.body.decode()
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert "# TYPE dapr_http_server_request_count counter" in text
        assert "# TYPE dapr_http_server_latency histogram" in text
        assert "process_resident_memory_bytes" in text


@pytest.mark.parametrize(
    ("http", "labels"),
    [
        ("increasedCardinality: false", {"method": "GET", "path": "", "status": "200"}),
        (
            "increasedCardinality: false, pathMatching: ['/orders/{id}']",
            {"method": "GET", "path": "/v1.0/invoke/{app_id}/method/orders/{id}", "status": "200"},
        ),
        (
            "excludeVerbs: true, pathMatching: [/other]",
            {"method": "", "path": "/v1.0/invoke/app/method/orders/7", "status": "200"},
        ),
    ],
)
def test_paths_as_configured(tmp_path: Path, http: str, labels: dict[str, str]) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f"spec: {{metrics: {{http: {{{http}}}, latencyDistributionBuckets: [5, 50]}}}}")
    with App({"/orders/7": lambda _: (200, b"")}) as app:
        with Sidecar(tmp_path, "--config", str(config), app_port=app.port) as sidecar:
            assert sidecar.http("GET", "/v1.0/invoke/app/method/orders/7").status == 200
            found = page(sidecar.metrics())
    assert value(found, "http_server_request_count", **labels) == "1"
    buckets = [held["le"] for held, _ in found["http_server_latency_bucket"] if held.items() >= labels.items()]
    assert buckets == ["5", "50", "+Inf"]
    assert ("http_server_response_count" in found) is ("increasedCardinality" not in http)


def test_metrics_can_be_off(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("spec: {metric: {enabled: false}}")
    with Sidecar(tmp_path, "--config", str(config)) as sidecar:
        assert sidecar.http("GET", "/v1.0/healthz").status == 204
        assert "dapr_http_server_request_count" not in sidecar.metrics()
    with Sidecar(tmp_path, "--enable-metrics=false") as sidecar, pytest.raises(OSError):
        sidecar.metrics()
