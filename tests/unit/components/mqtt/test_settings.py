from collections.abc import Mapping

import pytest

from edge_runtime.components.metadata import Fields
from edge_runtime.components.mqtt.settings import DELIVERY_FIELDS, LINK_FIELDS, read_address, read_deliveries, read_link
from edge_runtime.model.errors import ConfigError
from edge_runtime.net.mqtt import LinkSettings, Will


def link(**metadata: str) -> LinkSettings:
    return read_link(fields({"url": "mqtt://broker", **metadata}), "app", answer_timeout_s=20)


def fields(metadata: Mapping[str, str]) -> Fields:
    return Fields(metadata, (*LINK_FIELDS, *DELIVERY_FIELDS), "events")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("tcp://broker", ("broker", 1883, False, None, None, None)),
        ("mqtt://broker:1884", ("broker", 1884, False, None, None, None)),
        ("mqtts://broker", ("broker", 8883, True, None, None, None)),
        ("ssl://broker", ("broker", 8883, True, None, None, None)),
        ("tls://broker", ("broker", 8883, True, None, None, None)),
        ("tcps://[::1]:1", ("::1", 1, True, None, None, None)),
        ("ws://broker/mqtt?a=b", ("broker", 80, False, "/mqtt?a=b", None, None)),
        ("wss://broker", ("broker", 443, True, "/", None, None)),
        ("mqtt://me:a%3Ab%40c@broker", ("broker", 1883, False, None, "me", "a:b@c")),
    ],
)
def test_urls_are_taken_apart(url: str, expected: tuple[object, ...]) -> None:
    assert tuple(read_address(fields({"url": url}))) == expected


@pytest.mark.parametrize(
    "url",
    [
        "broker:1883",
        "http://broker",
        "mqtt://",
        "mqtt://broker:99999",
        "mqtt://me:secret@",
        "mqtt://me:secret/x@broker",
        "mqtt://me:secret#x@broker",
        "mqtt://me:secret@[::1",
        "me:secret@broker",
    ],
)
def test_other_urls_are_told_without_passwords(url: str) -> None:
    with pytest.raises(ConfigError, match=r"expected a URL such as mqtt://broker:1883") as caught:
        read_address(fields({"url": url}))
    assert "secret" not in str(caught.value)


def test_nothing_said_is_as_in_dapr() -> None:
    settings = link()
    assert (settings.clean_session, settings.keepalive_s, settings.ping_timeout_s) == (False, 30, 10)
    assert (settings.connect_timeout_s, settings.answer_timeout_s, settings.reconnect_most_s) == (20, 20, 20)
    assert (settings.will, settings.tls, settings.username) == (None, None, None)
    assert read_deliveries(fields({"url": "mqtt://broker"})) == (1, 60, 0)


def test_a_will_is_read() -> None:
    settings = link(willTopic="gone", willPayload="bang", willQos="2", willRetain="true")
    assert settings.will == Will("gone", b"bang", 2, True)


@pytest.mark.parametrize(
    ("metadata", "text"),
    [
        ({"willTopic": "a/#"}, "'willTopic'"),
        ({"willTopic": "a", "willPayload": "x" * 65536}, "at most 65535 bytes"),
        ({"willTopic": "a", "willQos": "3"}, "at most 2"),
        ({"keepAlive": "100ms"}, "at least 1s"),
        ({"keepAlive": "24h"}, "at most 65535s"),
        ({"reconnectIntervalMax": "1ms"}, "at least 0.5s"),
    ],
)
def test_unusable_values_are_told(metadata: dict[str, str], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        link(**metadata)


def test_the_longest_pause_is_no_shorter_than_the_first() -> None:
    assert read_deliveries(fields({"redeliverInterval": "2m"})) == (120, 120, 0)
