"""The channel to an app that speaks HTTP (1.1, or 2 without TLS): one base address, its token, limit, health gate."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final, NamedTuple

import trio

from edge_runtime.channel.calls import Calls, Client
from edge_runtime.channel.metrics import HttpClientMetrics
from edge_runtime.model.errors import ConfigError, DriverError
from edge_runtime.model.http import Request, Response
from edge_runtime.net.connections import Origin, checking_tls
from edge_runtime.net.http_client import ClientLimits, open_http_client

READ_BUFFER_BYTES: Final = 4096
# Dapr's server and client allow this much over the setting.
_HEAD_SLACK_BYTES: Final = 4096


class ChannelSettings(NamedTuple):
    """From the flags `--app-port`, `--app-channel-address`, `--app-protocol`, `--app-max-concurrency`,
    `--read-buffer-size`, `--max-body-size` (for gRPC; None is no limit) and the variable `APP_API_TOKEN`."""

    port: int
    address: str = "127.0.0.1"
    protocol: str = "http"
    max_concurrency: int = -1
    api_token: str = ""
    read_buffer_bytes: int = READ_BUFFER_BYTES
    message_bytes_max: int | None = 4 * 2**20


class AppUnhealthy(DriverError):
    """The app's health checks say that it is not to be called."""

    def __init__(self) -> None:
        super().__init__("app is not in a healthy state")


class HttpChannel:
    """Calls one app. `healthy` is the gate: whoever probes the app opens and shuts it."""

    def __init__(self, calls: Calls, probes: Calls, origin: Origin) -> None:
        self._calls = calls
        self._probes = probes
        self.origin = origin
        self.healthy = True
        self.waiting = 0  # calls without an answer yet
        self._quiet = trio.Event()

    async def send(self, request: Request) -> Response:
        """The app's answer. Raises `DriverError` when there is none, and while the app is not healthy."""
        if not self.healthy:
            raise AppUnhealthy
        self.waiting += 1
        try:
            return await self._calls.send(self.origin, request)
        finally:
            self.waiting -= 1
            if not self.waiting:
                self._quiet.set()

    async def drained(self) -> None:
        """Wait until every call has its answer; other apps of the node may be waiting for theirs."""
        while self.waiting:
            self._quiet = trio.Event()
            await self._quiet.wait()

    async def send_always(self, request: Request) -> Response:
        """The same through a shut gate; for job triggers."""
        return await self._calls.send(self.origin, request)

    async def probe(self, path: str) -> int:
        """The status of a health probe: a plain GET without token and limit."""
        response = await self._probes.send(self.origin, Request("GET", path.encode(), ()))
        await response.body.aclose()
        return response.status


def client_limits(read_buffer_bytes: int) -> ClientLimits:
    return ClientLimits(head_bytes_max=read_buffer_bytes + _HEAD_SLACK_BYTES)


def app_origin(settings: ChannelSettings) -> Origin:
    """Where the app listens. Raises `ConfigError` for a protocol that this channel does not speak."""
    if settings.protocol not in ("http", "https", "h2c"):
        raise ConfigError(f"an app with --app-protocol {settings.protocol} is not called over HTTP")
    return Origin(settings.protocol, settings.address.strip("[]"), settings.port)


def trusting_tls(*alpn: str) -> ssl.SSLContext:
    """TLS 1.2 or later to an app on this node, whose certificate nobody has signed. `alpn` are offered protocols."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


@asynccontextmanager
async def open_http_channel(
    settings: ChannelSettings, metrics: HttpClientMetrics | None = None
) -> AsyncIterator[HttpChannel]:
    """A channel for as long as the block lasts; nothing is connected before the first call."""
    origin = app_origin(settings)
    async with open_client(settings) as client:
        yield HttpChannel(_app_calls(client, settings, metrics), Calls(client), origin)


def open_client(settings: ChannelSettings) -> AbstractAsyncContextManager[Client]:
    """The client that an app of this protocol is called by; direct URLs are called by one of the same kind."""
    limits = client_limits(settings.read_buffer_bytes)
    if settings.protocol == "h2c":
        # Imported when an app speaks it: few do.
        from edge_runtime.net.http2_client import open_h2c_client

        return open_h2c_client(limits)
    return open_http_client(limits, trusting_tls if settings.protocol == "https" else checking_tls)


def _app_calls(client: Client, settings: ChannelSettings, metrics: HttpClientMetrics | None) -> Calls:
    return Calls(client, max_concurrency=settings.max_concurrency, token=settings.api_token, metrics=metrics)
