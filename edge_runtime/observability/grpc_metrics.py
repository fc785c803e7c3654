"""What the gRPC server counts for each call, in one dictionary entry a (method, code).

As with HTTP, the families that Dapr exports are drawn out of the entries when the metrics page is made.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

from edge_runtime.observability.metrics import LATENCY_MS, SERIES_MAX, SIZE_BYTES, Metrics, merge
from edge_runtime.wire.grpc.status import code_name

# Which code an app ends a proxied call with is its choice; all that gRPC does not know are counted as one.
_CODE_MAX: Final = 16
_NO_CODE: Final = 2  # Unknown
# So is its path; a longer one than this has no series of its own.
METHOD_MAX: Final = 256


class _Entry:
    __slots__ = ("latency", "latency_ms", "received", "received_bytes", "sent", "sent_bytes")

    def __init__(self, buckets: int) -> None:
        self.latency = [0] * (buckets + 1)
        self.latency_ms = 0
        self.received = [0] * (len(SIZE_BYTES) + 1)
        self.received_bytes = 0
        self.sent = [0] * (len(SIZE_BYTES) + 1)
        self.sent_bytes = 0


class GrpcServerMetrics:
    """`record` once a call; everything else is for the page."""

    def __init__(self, metrics: Metrics, latency_buckets_ms: Sequence[float] = LATENCY_MS) -> None:
        self._metrics = metrics
        self._buckets = tuple(latency_buckets_ms)
        self._entries: dict[tuple[str, int], _Entry] = {}
        if metrics.enabled:
            metrics.before_render(self._export)

    def record(self, method: str, code: int, latency_ms: int, received_bytes: int, sent_bytes: int) -> None:
        """`method` is the whole path; latency is whole milliseconds, sizes are of messages."""
        key = (method, code)
        entry = self._entries.get(key) or self._entry(key)
        entry.latency[bisect_left(self._buckets, latency_ms) if latency_ms > 1 else 0] += 1
        entry.latency_ms += latency_ms
        entry.received[bisect_left(SIZE_BYTES, received_bytes) if received_bytes > 1024 else 0] += 1
        entry.received_bytes += received_bytes
        entry.sent[bisect_left(SIZE_BYTES, sent_bytes) if sent_bytes > 1024 else 0] += 1
        entry.sent_bytes += sent_bytes

    def _entry(self, key: tuple[str, int]) -> _Entry:
        if not 0 <= key[1] <= _CODE_MAX:
            key = (key[0], _NO_CODE)
        if len(key[0]) > METHOD_MAX:
            key = ("other", key[1])
        if len(self._entries) >= SERIES_MAX and key not in self._entries:
            key = ("other", key[1])  # a proxied call's path is the caller's choice
        return self._entries.setdefault(key, _Entry(len(self._buckets)))

    def _export(self) -> None:
        labels = ("grpc_server_method", "grpc_server_status")
        completed = self._metrics.counter("grpc_io_server_completed_rpcs", *labels)
        latency = self._metrics.histogram("grpc_io_server_server_latency", *labels, buckets=self._buckets)
        received = self._metrics.histogram("grpc_io_server_received_bytes_per_rpc", labels[0], buckets=SIZE_BYTES)
        sent = self._metrics.histogram("grpc_io_server_sent_bytes_per_rpc", labels[0], buckets=SIZE_BYTES)
        for family in (completed, latency, received, sent):
            family.values.clear()
        for (method, code), entry in self._entries.items():
            values = (method, code_name(code))
            completed.add(values, sum(entry.latency))
            merge(latency.values, values, entry.latency, entry.latency_ms)
            merge(received.values, (method,), entry.received, entry.received_bytes)
            merge(sent.values, (method,), entry.sent, entry.sent_bytes)
