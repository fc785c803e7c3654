"""What the HTTP server counts for each request, in one dictionary entry a (method, path, status).

Dapr exports five families for the same event. Here a request costs one look-up and four additions; the families are
drawn out of the entry when the metrics page is made.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from edge_runtime.observability.metrics import LATENCY_MS, SERIES_MAX, SIZE_BYTES, Metrics, merge

_VERBS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE"})
_WORKFLOW_VERBS: Final = frozenset({"start", "raiseEvent", "pause", "resume", "terminate", "purge"})


class HttpMetricsSettings(NamedTuple):
    """Configuration `spec.metrics.http`, with the latency buckets beside it."""

    increased_cardinality: bool = True
    path_matching: Sequence[str] = ()
    exclude_verbs: bool = False
    latency_buckets_ms: Sequence[float] = LATENCY_MS


class _Entry:
    __slots__ = ("buckets", "count", "sum_ms")

    def __init__(self, buckets: int) -> None:
        self.count = 0
        self.sum_ms = 0
        self.buckets = [0] * (buckets + 1)


class HttpServerMetrics:
    """`record` once a request; everything else is for the page."""

    def __init__(self, metrics: Metrics, settings: HttpMetricsSettings) -> None:
        self._settings = settings
        self._buckets = tuple(settings.latency_buckets_ms)
        self._entries: dict[tuple[str, str, int], _Entry] = {}
        self._request_bytes = [0] * (len(SIZE_BYTES) + 1)
        self._response_bytes = [0] * (len(SIZE_BYTES) + 1)
        self._request_sum = 0
        self._response_sum = 0
        self._matchers = [_matcher(pattern) for pattern in _with_invoke_forms(settings.path_matching)]
        self._matchers.sort(key=lambda matcher: matcher.weight, reverse=True)
        # The labels of a path are worked out once; the cache is as bounded as the series are.
        self._labels: dict[str, str] = {}
        self._metrics = metrics
        if metrics.enabled:
            metrics.before_render(self._export)

    def record(
        self, method: str, path: str, status: int, latency_ms: int, request_bytes: int, response_bytes: int
    ) -> None:
        """`path` is the cleaned URL path; sizes are of bodies, latency is whole milliseconds."""
        label = self._labels.get(path)
        key = (method, self.path_label(path) if label is None else label, status)
        entry = self._entries.get(key) or self._entry(key)
        entry.count += 1
        entry.sum_ms += latency_ms
        entry.buckets[bisect_left(self._buckets, latency_ms) if latency_ms > 1 else 0] += 1
        self._request_bytes[bisect_left(SIZE_BYTES, request_bytes) if request_bytes > 1024 else 0] += 1
        self._response_bytes[bisect_left(SIZE_BYTES, response_bytes) if response_bytes > 1024 else 0] += 1
        self._request_sum += request_bytes
        self._response_sum += response_bytes

    def _entry(self, key: tuple[str, str, int]) -> _Entry:
        if len(self._entries) >= SERIES_MAX:
            # The caller chooses the verb too, so what Dapr has no name for is one.
            key = (key[0] if key[0] in _VERBS else "UNKNOWN", "other", key[2])
        return self._entries.setdefault(key, _Entry(len(self._buckets)))

    def path_label(self, path: str) -> str:
        """Dapr's label for a path, kept for the next request on it."""
        label = self._make_label(path)
        if len(self._labels) < SERIES_MAX:
            self._labels[path] = label
        return label

    def _make_label(self, path: str) -> str:
        for matcher in self._matchers:
            if matcher.regex.fullmatch(path):
                return matcher.pattern
        return normalised_path(path) if self._settings.increased_cardinality else ""

    def _export(self) -> None:
        labels = ("method", "path", "status")
        requests = self._metrics.counter("http_server_request_count", *labels)
        responses = self._metrics.counter("http_server_response_count", *labels)
        latency = self._metrics.histogram("http_server_latency", *labels, buckets=self._buckets)
        for family in (requests, responses, latency):
            family.values.clear()
        for (method, path, status), entry in self._entries.items():
            verb = "" if self._settings.exclude_verbs else method if method in _VERBS else "UNKNOWN"
            values = (verb, path, str(status))
            # Several verbs may be one series, so their counts are added.
            requests.add(values, entry.count)
            if self._settings.increased_cardinality:
                responses.add(values, entry.count)
            merge(latency.values, values, entry.buckets, entry.sum_ms)
        for name, counts, total in (
            ("http_server_request_bytes", self._request_bytes, self._request_sum),
            ("http_server_response_bytes", self._response_bytes, self._response_sum),
        ):
            if any(counts):
                self._metrics.histogram(name, buckets=SIZE_BYTES).values[()] = [*counts, total]


def normalised_path(path: str) -> str:
    """The path with the parts cut that would make one series a key or an id."""
    parts = path.split("/")
    group = parts[2] if len(parts) > 2 else ""
    if group in ("state", "secrets"):
        return "/".join(parts[:4])
    if group == "actors" and len(parts) > 5:
        return "/".join((*parts[:4], "{id}", parts[5]))
    if len(parts) > 4 and parts[1] == "actors":
        return "/".join(("", "actors", parts[2], "{id}", *parts[4:]))
    if group == "workflows" and len(parts) > 4:
        return _workflow_path(parts)
    return path


def _workflow_path(parts: list[str]) -> str:
    head = "/".join(parts[:4])
    if len(parts) == 5:
        return f"{head}/{{instanceID}}"
    verb = parts[5]
    if verb == "start":
        return f"{head}/{parts[4]}/start"
    if verb == "raiseEvent":
        return f"{head}/{{instanceID}}/raiseEvent/{{eventName}}"
    return f"{head}/{{instanceID}}/{verb}" if verb in _WORKFLOW_VERBS else f"{head}/{{instanceID}}"


class _Matcher(NamedTuple):
    pattern: str
    regex: re.Pattern[str]
    weight: tuple[int, int]


def _with_invoke_forms(patterns: Sequence[str]) -> Iterator[str]:
    for pattern in patterns:
        yield pattern
        if not pattern.startswith("/v1.0/invoke/"):
            yield f"/v1.0/invoke/{{app_id}}/method{pattern}"


def _matcher(pattern: str) -> _Matcher:
    """Go's mux patterns: `{name}` is a segment, `{name...}` and a trailing slash are the rest."""
    parts: list[str] = []
    literal = 0
    for part in re.split(r"(\{[^}]*\})", pattern):
        if part.endswith("...}"):
            parts.append(".*")
        elif part.startswith("{") and part.endswith("}"):
            parts.append("" if part == "{$}" else "[^/]+")
        else:
            parts.append(re.escape(part))
            literal += len(part)
    subtree = pattern.endswith("/")
    return _Matcher(pattern, re.compile("".join(parts) + (".*" if subtree else "")), (literal, -int(subtree)))
