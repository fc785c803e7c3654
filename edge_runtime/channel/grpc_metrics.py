"""What calls to a gRPC app count: Dapr's `grpc_io_client_*` families."""

from __future__ import annotations

import time

from edge_runtime.observability.grpc_metrics import METHOD_MAX
from edge_runtime.observability.metrics import SIZE_BYTES, Metrics
from edge_runtime.wire.grpc.status import code_name


class GrpcClientMetrics:
    """`record` once a call."""

    def __init__(self, metrics: Metrics) -> None:
        labels = ("grpc_client_method", "grpc_client_status")
        self._completed = metrics.counter("grpc_io_client_completed_rpcs", *labels)
        self._latency = metrics.histogram("grpc_io_client_roundtrip_latency", *labels)
        self._sent = metrics.histogram("grpc_io_client_sent_bytes_per_rpc", labels[0], buckets=SIZE_BYTES)
        self._received = metrics.histogram("grpc_io_client_received_bytes_per_rpc", labels[0], buckets=SIZE_BYTES)

    def record(self, method: str, code: int, started: float, sent: int, received: int) -> None:
        """`method` is the whole path, `started` by the monotonic clock, sizes are of messages."""
        labels = (method if len(method) <= METHOD_MAX else "other", code_name(code))
        self._completed.add(labels)
        self._latency.observe(int((time.monotonic() - started) * 1000), labels)
        self._sent.observe(sent, labels[:1])
        self._received.observe(received, labels[:1])
