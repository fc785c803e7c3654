"""What the gRPC server counts, as the page shows it."""

from __future__ import annotations

import pytest

from edge_runtime.observability import grpc_metrics
from edge_runtime.observability.grpc_metrics import GrpcServerMetrics
from edge_runtime.observability.metrics import Metrics, render

GET = "/dapr.proto.runtime.v1.Dapr/GetState"


def page(metrics: Metrics) -> list[str]:
    return [line for line in render([metrics]).splitlines() if "_bucket" not in line]


def test_a_call_is_four_families() -> None:
    metrics = Metrics("me")
    server = GrpcServerMetrics(metrics)
    server.record(GET, 0, 0, 10, 2000)
    server.record(GET, 5, 7, 20, 0)
    app, method = 'app_id="me"', f'grpc_server_method="{GET}"'
    ok, gone = 'grpc_server_status="OK"', 'grpc_server_status="NotFound"'
    prefix = "dapr_grpc_io_server_"
    for _ in range(2):  # drawn anew each time
        lines = page(metrics)
        assert f"{prefix}completed_rpcs{{{app},{method},{ok}}} 1" in lines
        assert f"{prefix}completed_rpcs{{{app},{method},{gone}}} 1" in lines
        assert f"{prefix}server_latency_sum{{{app},{method},{gone}}} 7" in lines
        assert f"{prefix}server_latency_count{{{app},{method},{ok}}} 1" in lines
        assert f"{prefix}received_bytes_per_rpc_sum{{{app},{method}}} 30" in lines
        assert f"{prefix}received_bytes_per_rpc_count{{{app},{method}}} 2" in lines
        assert f"{prefix}sent_bytes_per_rpc_sum{{{app},{method}}} 2000" in lines


def test_nothing_is_shown_before_a_call() -> None:
    metrics = Metrics("me")
    GrpcServerMetrics(metrics)
    assert not render([metrics]).strip()


def test_paths_are_limited_in_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_metrics, "SERIES_MAX", 2)
    metrics = Metrics("me")
    server = GrpcServerMetrics(metrics)
    for number in range(5):
        server.record(f"/a.B/{number}", 0, 0, 1, 1)
    text = render([metrics])
    assert 'grpc_server_method="other",grpc_server_status="OK"} 3' in text
    assert "/a.B/2" not in text


def test_every_code_has_its_name() -> None:
    metrics = Metrics("me")
    server = GrpcServerMetrics(metrics)
    for code in range(17):
        server.record(GET, code, 0, 0, 0)
    lines = [line for line in page(metrics) if "completed_rpcs{" in line]
    assert len(lines) == 17
    assert any('grpc_server_status="Canceled"' in line for line in lines)
    assert any('grpc_server_status="Unauthenticated"' in line for line in lines)


def test_codes_that_grpc_does_not_know_are_one() -> None:
    metrics = Metrics("me")
    server = GrpcServerMetrics(metrics)
    for code in (2, 17, 99, 4294967295, -1):
        server.record(GET, code, 0, 0, 0)
    assert any('grpc_server_status="Unknown"} 5' in line for line in page(metrics))


def test_long_paths_have_no_series_of_their_own() -> None:
    metrics = Metrics("me")
    server = GrpcServerMetrics(metrics)
    for number in range(3):
        server.record(f"/a.B/{number}" + "x" * 300, 0, 0, 1, 1)
    assert 'grpc_server_method="other",grpc_server_status="OK"} 3' in render([metrics])
