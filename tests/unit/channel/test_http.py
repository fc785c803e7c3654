"""The channel to one app."""

from __future__ import annotations

import pytest

from edge_runtime.channel.http import AppUnhealthy, ChannelSettings, app_origin, open_http_channel
from edge_runtime.model.errors import ConfigError
from edge_runtime.model.http import Request
from edge_runtime.net.connections import Origin
from tests.loopback import always, loopback_app
from tests.loopback_http2 import loopback_http2

GET = Request("GET", b"/x", [])


def test_address_is_taken_from_flags() -> None:
    assert app_origin(ChannelSettings(3000)) == Origin("http", "127.0.0.1", 3000)
    assert app_origin(ChannelSettings(1, "[::1]", "https")) == Origin("https", "::1", 1)


@pytest.mark.parametrize("protocol", ["grpc", "grpcs"])
def test_other_protocols_are_refused(protocol: str) -> None:
    with pytest.raises(ConfigError, match=f"--app-protocol {protocol} is not called over HTTP"):
        app_origin(ChannelSettings(3000, protocol=protocol))


async def test_h2c_app_is_called_over_http2() -> None:
    async with loopback_http2() as app:
        settings = ChannelSettings(app.origin.port, protocol="h2c", api_token="t", max_concurrency=1)
        assert app_origin(settings) == app.origin
        async with open_http_channel(settings) as channel:
            assert (await channel.send(GET)).status == 200
            assert app.last.values(b"dapr-api-token") == [b"t"]
            assert await channel.probe("/healthz") == 200
            assert (app.last.target, app.last.values(b"dapr-api-token")) == (b"/healthz", [])
            assert app.connections == 1


async def test_token_goes_with_calls() -> None:
    async with loopback_app() as app, open_http_channel(ChannelSettings(app.origin.port, api_token="t")) as channel:
        await channel.send(GET)
        assert app.last.values(b"dapr-api-token") == [b"t"]


async def test_probe_has_no_token() -> None:
    async with (
        loopback_app(always(status=503)) as app,
        open_http_channel(ChannelSettings(app.origin.port, api_token="t")) as channel,
    ):
        assert await channel.probe("/healthz") == 503
        assert (app.last.method, app.last.target) == ("GET", b"/healthz")
        assert app.last.values(b"dapr-api-token") == []


async def test_shut_gate_refuses_calls() -> None:
    async with loopback_app() as app, open_http_channel(ChannelSettings(app.origin.port)) as channel:
        channel.healthy = False
        with pytest.raises(AppUnhealthy, match="app is not in a healthy state"):
            await channel.send(GET)
        assert app.seen == []
        assert (await channel.send_always(GET)).status == 200
        channel.healthy = True
        assert (await channel.send(GET)).status == 200


async def test_redirects_are_answers() -> None:
    answer = always(status=302, headers=[(b"location", b"/elsewhere")])
    async with loopback_app(answer) as app, open_http_channel(ChannelSettings(app.origin.port)) as channel:
        response = await channel.send(GET)
        assert (response.status, response.header(b"location")) == (302, b"/elsewhere")
        assert len(app.seen) == 1


async def test_read_buffer_bounds_headers() -> None:
    answer = always(headers=[(b"x-large", b"x" * 10_000)])
    async with loopback_app(answer) as app:
        async with open_http_channel(ChannelSettings(app.origin.port, read_buffer_bytes=8192)) as channel:
            assert (await channel.send(GET)).status == 200
        async with open_http_channel(ChannelSettings(app.origin.port)) as channel:
            with pytest.raises(Exception, match="larger than 8192 bytes"):
                await channel.send(GET)
