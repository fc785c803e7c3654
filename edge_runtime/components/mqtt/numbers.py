"""The metrics of MQTT links. A link counts by itself; what is new is added up when somebody looks, and at its end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from edge_runtime.net.mqtt_link import Link
from edge_runtime.observability.metrics import Metrics

_COUNTERS: Final = (
    ("connected", "edge_mqtt_connections_total"),
    ("received", "edge_mqtt_received_total"),
    ("repeated", "edge_mqtt_repeated_total"),
    ("dropped", "edge_mqtt_dropped_total"),
    ("oversized", "edge_mqtt_oversized_total"),
    ("published", "edge_mqtt_published_total"),
    ("failed", "edge_mqtt_failed_publishes_total"),
)
_LABELS: Final = ("component", "client")


@contextmanager
def shown(link: Link, component: str, metrics: Metrics | None) -> Iterator[None]:
    """While the block lasts the link has metrics; its counters stay, whether it is up does not."""
    if metrics is None:
        yield
        return
    labels = (component, link.settings.client_id)
    up = metrics.gauge("edge_mqtt_link_up", *_LABELS)
    counters = [(name, metrics.counter(metric, *_LABELS)) for name, metric in _COUNTERS]
    told = dict.fromkeys((name for name, _ in _COUNTERS), 0)

    def show() -> None:
        up.set(link.connected, labels)
        for name, counter in counters:
            now = getattr(link.counts, name)
            counter.add(labels, now - told[name])
            told[name] = now

    with metrics.collecting(show):
        yield
    up.values.pop(labels, None)
