"""Counters, gauges and histograms with Dapr's names, kept as plain dictionaries and rendered only when somebody looks.

One registry serves the whole node; an app's view adds the label `app_id`. An increment costs one dictionary update, so
that the request path can afford several. Series are limited in number: past `SERIES_MAX` of one metric, further label
sets are counted under a single series whose labels read `other`, and `edge_metrics_series_dropped` says so.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final, TypeVar

from edge_runtime.observability.metric_rules import Rewrites, rewritten

SERIES_MAX: Final = 2_000

# Milliseconds, bytes and ratios, as Dapr's runtime has them (docs: reference/metrics; verified on its /metrics page).
LATENCY_MS: Final = (
    1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 20, 25, 30, 40, 50, 65, 80, 100, 130, 160, 200, 250, 300, 400, 500, 650, 800,
    1000, 2000, 5000, 10000, 20000, 50000, 100000,
)  # fmt: skip
SIZE_BYTES: Final = tuple(1024 * n for n in (1, 2, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304))

Labels = tuple[str, ...]


class Counter:
    """A number that grows. `add(labels)` takes the label values in the order the names were given."""

    kind = "counter"

    def __init__(self, name: str, label_names: Sequence[str]) -> None:
        self.name = name
        self.label_names = tuple(label_names)
        self.values: dict[Labels, float] = {}
        self.dropped = 0

    def add(self, labels: Labels = (), amount: float = 1) -> None:
        values = self.values
        if labels in values:
            values[labels] += amount
        else:
            labels = self._admit(labels)
            values[labels] = values.get(labels, 0) + amount

    def _admit(self, labels: Labels) -> Labels:
        if len(labels) != len(self.label_names):
            raise ValueError(f"{self.name} has the labels {self.label_names}, got {labels}")
        if len(self.values) < SERIES_MAX:
            return labels
        self.dropped += 1
        return ("other",) * len(labels)

    def samples(self) -> Iterator[tuple[str, Labels, Labels, float]]:
        for labels, value in list(self.values.items()):
            yield self.name, self.label_names, labels, value


class Gauge(Counter):
    """A number that goes up and down."""

    kind = "gauge"

    def set(self, value: float, labels: Labels = ()) -> None:
        if labels not in self.values:
            labels = self._admit(labels)
        self.values[labels] = value


class Histogram:
    """A distribution; each series is [count per bucket …, count above, sum]."""

    kind = "histogram"

    def __init__(self, name: str, label_names: Sequence[str], buckets: Sequence[float]) -> None:
        self.name = name
        self.label_names = tuple(label_names)
        self.buckets = tuple(buckets)
        self.values: dict[Labels, list[float]] = {}
        self.dropped = 0

    def observe(self, value: float, labels: Labels = ()) -> None:
        series = self.values.get(labels)
        if series is None:
            if len(labels) != len(self.label_names):
                raise ValueError(f"{self.name} has the labels {self.label_names}, got {labels}")
            if len(self.values) >= SERIES_MAX:
                self.dropped += 1
                labels = ("other",) * len(labels)
            series = self.values.setdefault(labels, [0] * (len(self.buckets) + 1) + [0.0])
        series[bisect_left(self.buckets, value)] += 1
        series[-1] += value

    def samples(self) -> Iterator[tuple[str, Labels, Labels, float]]:
        names = (*self.label_names, "le")
        for labels, series in list(self.values.items()):
            total = 0.0
            for bound, count in zip(self.buckets, series, strict=False):
                total += count
                yield f"{self.name}_bucket", names, (*labels, _number(bound)), total
            total += series[-2]
            yield f"{self.name}_bucket", names, (*labels, "+Inf"), total
            yield f"{self.name}_sum", self.label_names, labels, series[-1]
            yield f"{self.name}_count", self.label_names, labels, total


def merge(series: dict[Labels, list[float]], labels: Labels, counts: Sequence[int], total: float) -> None:
    """Add counts and their sum to a histogram's series, for who keeps them elsewhere."""
    added = [*counts, total]
    known = series.get(labels)
    series[labels] = added if known is None else [a + b for a, b in zip(known, added, strict=True)]


Metric = Counter | Histogram
_M = TypeVar("_M", Counter, Gauge, Histogram)


class Metrics:
    """The metrics of one app, or of the node where `app_id` is None. Asking twice for a name gives the same metric."""

    def __init__(self, app_id: str | None = None, *, enabled: bool = True) -> None:
        self.app_id = app_id
        self.enabled = enabled
        self.rewrites: Mapping[str, Rewrites] = {}  # of label values, by metric
        self._metrics: dict[str, Metric] = {}
        self._collectors: list[Callable[[], None]] = []

    def counter(self, name: str, *labels: str) -> Counter:
        """`name` comes without the prefix `dapr_`."""
        return self._get(name, lambda: Counter(name, labels), Counter)

    def gauge(self, name: str, *labels: str) -> Gauge:
        return self._get(name, lambda: Gauge(name, labels), Gauge)

    def histogram(self, name: str, *labels: str, buckets: Sequence[float] = LATENCY_MS) -> Histogram:
        return self._get(name, lambda: Histogram(name, labels, buckets), Histogram)

    def before_render(self, collect: Callable[[], None]) -> None:
        """`collect` is called each time the page is made; for gauges that are read rather than kept."""
        self._collectors.append(collect)

    @contextmanager
    def collecting(self, collect: Callable[[], None]) -> Iterator[None]:
        """The same while the block lasts, and a last time at its end."""
        self._collectors.append(collect)
        try:
            yield
        finally:
            self._collectors.remove(collect)
            collect()

    def _get(self, name: str, make: Callable[[], _M], kind: type[_M]) -> _M:
        metric = self._metrics.get(name)
        if metric is None:
            metric = self._metrics[name] = make()
        if type(metric) is not kind:
            raise TypeError(f"metric {name} is a {metric.kind}")
        return metric

    def all(self) -> Iterable[Metric]:
        for collect in self._collectors:
            collect()
        return list(self._metrics.values())


def render(views: Iterable[Metrics]) -> str:
    """The Prometheus text format 0.0.4 of several views, one TYPE line a metric."""
    families: dict[str, tuple[str, list[str]]] = {}
    for view in views:
        own = () if view.app_id is None else (("app_id", view.app_id),)
        for metric in view.all():
            lines = families.setdefault(metric.name, (metric.kind, []))[1]
            rewrites = view.rewrites.get(metric.name)
            samples = metric.samples() if rewrites is None else rewritten(metric.samples(), rewrites)
            for name, label_names, labels, value in samples:
                pairs = sorted((*own, *zip(label_names, labels, strict=True)))
                text = ",".join(f'{key}="{_escape(label)}"' for key, label in pairs)
                lines.append(f"dapr_{name}{{{text}}} {_number(value)}" if text else f"dapr_{name} {_number(value)}")
    out: list[str] = []
    for name in sorted(families):
        kind, lines = families[name]
        if not lines:
            continue  # a family shows with its first sample
        out.append(f"# TYPE dapr_{name} {kind}")
        out.extend(lines)
    return "\n".join(out) + "\n"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
