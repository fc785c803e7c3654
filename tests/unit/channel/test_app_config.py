"""Reading `/dapr/config`."""

from __future__ import annotations

import json

import pytest

from edge_runtime.channel.app_config import (
    NO_APP_CONFIG,
    ActorSettings,
    AppConfig,
    discover_app_config,
    parse_app_config,
)
from edge_runtime.channel.http import ChannelSettings, open_http_channel
from tests.loopback import always, loopback_app


def parsed(value: object) -> AppConfig:
    return parse_app_config(json.dumps(value).encode())


def test_defaults_are_dapr_s() -> None:
    assert parsed({"entities": ["cart"]}).actors == {"cart": ActorSettings(3600, 2, False, 32)}
    assert parse_app_config(b"") == parsed({}) == NO_APP_CONFIG


def test_keys_take_any_case() -> None:
    config = parsed({"Entities": ["a"], "ActorIdleTimeout": "1h", "drainrebalancedactors": False})
    assert config == AppConfig({"a": ActorSettings(3600)}, False)


def test_entries_replace_globals() -> None:
    config = parsed(
        {
            "entities": ["a", "b"],
            "actorIdleTimeout": "5m",
            "drainOngoingCallTimeout": "7s",
            "reentrancy": {"enabled": True, "maxStackDepth": 4},
            "entitiesConfig": [{"entities": ["b", "not-hosted"], "reentrancy": {"enabled": True}}],
        }
    )
    assert config.actors == {"a": ActorSettings(300, 7, True, 4), "b": ActorSettings(3600, 7, True, 32)}


@pytest.mark.parametrize(("given", "used"), [("5s", 5), ("29s", 29), ("30s", 24), ("10m", 24)])
def test_drain_time_is_clamped(given: str, used: float) -> None:
    assert parsed({"entities": ["a"], "drainOngoingCallTimeout": given}).actors["a"].drain_timeout_s == used


def test_names_that_are_no_texts_are_skipped() -> None:
    config = parsed({"entities": ["a"], "entitiesConfig": [{"entities": [[], {}, 1, "a"], "actorIdleTimeout": "1m"}]})
    assert config.actors == {"a": ActorSettings(60)}


def test_bad_entry_gets_defaults() -> None:
    config = parsed({"entities": ["a"], "entitiesConfig": [{"entities": ["a"], "actorIdleTimeout": "soon"}]})
    assert config.actors == {"a": ActorSettings()}


@pytest.mark.parametrize(
    "value", [[], {"entities": "a"}, {"entities": [1]}, {"actorIdleTimeout": "soon"}, {"reentrancy": 1}]
)
def test_bad_globals_are_refused(value: object) -> None:
    with pytest.raises(ValueError):
        parsed(value)


async def test_app_is_asked_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with (
        loopback_app(always(b'{"entities":["cart"]}')) as app,
        open_http_channel(ChannelSettings(app.origin.port, api_token="secret")) as channel,
    ):
        config = await discover_app_config(channel, "shop")
    assert list(config.actors) == ["cart"]
    assert "app hosts the actor types cart" in caplog.text
    assert app.last.target == b"/dapr/config"
    assert app.last.values(b"content-type") == [b"application/json"]
    assert app.last.values(b"dapr-app-id") == [b"shop"]
    assert app.last.values(b"dapr-api-token") == [b"secret"]


@pytest.mark.parametrize(("status", "body"), [(404, b"{}"), (500, b""), (201, b'{"entities":["a"]}'), (200, b"{")])
async def test_other_answers_mean_nothing(status: int, body: bytes) -> None:
    async with (
        loopback_app(always(body, status)) as app,
        open_http_channel(ChannelSettings(app.origin.port)) as channel,
    ):
        assert await discover_app_config(channel, "shop") == NO_APP_CONFIG


async def test_absent_app_means_nothing() -> None:
    async with loopback_app() as app:
        port = app.origin.port
    async with open_http_channel(ChannelSettings(port)) as channel:
        assert await discover_app_config(channel, "shop") == NO_APP_CONFIG
