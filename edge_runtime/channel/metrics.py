"""What calls to the app count: Dapr's `http_client_*` and `http_healthprobes_*` families.

A call costs one look-up and a few additions; the families are drawn out of the entries when the page is made.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Final

from edge_runtime.observability.metrics import LATENCY_MS, SERIES_MAX, SIZE_BYTES, Metrics, merge

_VERBS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE"})


class _Entry:
    __slots__ = ("count", "latency", "sent", "sent_sum", "sum_ms")

    def __init__(self, latency_buckets: int) -> None:
        self.count = 0
        self.sum_ms = 0
        self.latency = [0] * (latency_buckets + 1)
        self.sent = [0] * (len(SIZE_BYTES) + 1)
        self.sent_sum = 0


class HttpClientMetrics:
    """`record` once a call. `path_label` makes the label of a path; it is asked once for each path."""

    def __init__(
        self,
        metrics: Metrics,
        path_label: Callable[[str], str] = str,
        latency_buckets_ms: Sequence[float] = LATENCY_MS,
    ) -> None:
        self._metrics = metrics
        self._path_label = path_label
        self._buckets = tuple(latency_buckets_ms)
        self._entries: dict[tuple[str, bytes, int], _Entry] = {}
        self._received = [0] * (len(SIZE_BYTES) + 1)
        self._received_sum = 0
        if metrics.enabled:
            metrics.before_render(self._export)

    def record(self, method: str, target: bytes, status: int, latency_ms: int, sent: int, received: int) -> None:
        """Sizes are of bodies; 0 where a stream's size is not known."""
        key = (method, target.partition(b"?")[0], status)
        entry = self._entries.get(key) or self._entry(key)
        entry.count += 1
        entry.sum_ms += latency_ms
        entry.latency[bisect_left(self._buckets, latency_ms) if latency_ms > 1 else 0] += 1
        entry.sent[bisect_left(SIZE_BYTES, sent) if sent > 1024 else 0] += 1
        entry.sent_sum += sent
        self._received[bisect_left(SIZE_BYTES, received) if received > 1024 else 0] += 1
        self._received_sum += received

    def _entry(self, key: tuple[str, bytes, int]) -> _Entry:
        if len(self._entries) >= SERIES_MAX:
            key = (key[0] if key[0] in _VERBS else "UNKNOWN", b"other", key[2])
        return self._entries.setdefault(key, _Entry(len(self._buckets)))

    def _export(self) -> None:
        labels = ("method", "path", "status")
        completed = self._metrics.counter("http_client_completed_count", *labels)
        latency = self._metrics.histogram("http_client_roundtrip_latency", *labels, buckets=self._buckets)
        sent = self._metrics.histogram("http_client_sent_bytes", *labels, buckets=SIZE_BYTES)
        for family in (completed, latency, sent):
            family.values.clear()
        for (method, path, status), entry in self._entries.items():
            verb = method if method in _VERBS else "UNKNOWN"
            label = self._path_label(path.decode("utf-8", "replace"))
            values = (verb, label, str(status))
            completed.values[values] = completed.values.get(values, 0) + entry.count
            merge(latency.values, values, entry.latency, entry.sum_ms)
            merge(sent.values, (verb, label, ""), entry.sent, entry.sent_sum)
        if any(self._received):
            received = self._metrics.histogram("http_client_received_bytes", buckets=SIZE_BYTES)
            received.values[()] = [*self._received, self._received_sum]
