"""What the metrics page says of MQTT links."""

from __future__ import annotations

from edge_runtime.components.mqtt.numbers import shown
from edge_runtime.net.mqtt import LinkSettings
from edge_runtime.net.mqtt_link import Link
from edge_runtime.observability.metrics import Metrics, render


def _ignore(_: object) -> None:
    pass


def test_counts_go_on_with_the_next_link() -> None:
    metrics = Metrics()
    for connected in (True, False):
        link = Link(LinkSettings("broker", 1883, "me"), _ignore)
        with shown(link, "events", metrics):
            link.connected = connected
            link.counts.published = 2
            page = render([metrics])
            link.counts.published = 3
        assert f'dapr_edge_mqtt_link_up{{client="me",component="events"}} {int(connected)}' in page
    assert 'dapr_edge_mqtt_published_total{client="me",component="events"} 6' in render([metrics])
    assert "link_up" not in render([metrics])
