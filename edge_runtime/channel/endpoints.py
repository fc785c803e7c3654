"""Calls to places that are no app of this node: direct URLs, and HTTPEndpoints with their TLS and redirects."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

from edge_runtime.channel.calls import Calls
from edge_runtime.channel.http import ChannelSettings, client_limits, open_client
from edge_runtime.channel.metrics import HttpClientMetrics
from edge_runtime.model.errors import ConfigError
from edge_runtime.model.http import Header, Request, Response
from edge_runtime.net.client_tls import client_tls
from edge_runtime.net.connections import Origin
from edge_runtime.net.http_client import open_http_client
from edge_runtime.net.redirects import PRIVATE, follow
from edge_runtime.net.urls import Url, parse_url

ENDPOINT_CONNECT_TIMEOUT_S: Final = 15.0
_RENEGOTIATION: Final = {"": False, "never": False, "onceasclient": True, "freelyasclient": True}


class EndpointSettings(NamedTuple):
    """An HTTPEndpoint resource with its references resolved. The TLS fields are PEM texts, empty when not given."""

    name: str
    base_url: str
    headers: Sequence[tuple[str, str]] = ()
    root_ca: str = ""
    certificate: str = ""
    private_key: str = ""
    renegotiation: str = "Never"


class Endpoint:
    """A loaded HTTPEndpoint. `headers` replace a caller's headers of the same name."""

    def __init__(self, calls: Calls, base: Url, headers: Sequence[Header]) -> None:
        self._calls = calls
        self.base = base
        self.headers = headers
        self._private = PRIVATE.union(name for name, _ in headers)

    async def send_to(self, origin: Origin, request: Request) -> Response:
        """The first answer that is no redirect, or that cannot be followed. Raises `DriverError`."""
        return await follow(self._calls.send, Url(origin), request, self._private)


class Outside:
    """Direct URLs: the app's settings without its gate."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def send_to(self, origin: Origin, request: Request) -> Response:
        """The answer; redirects are answers. Raises `DriverError`."""
        return await self._calls.send(origin, request)


@asynccontextmanager
async def open_outside(settings: ChannelSettings, metrics: HttpClientMetrics | None = None) -> AsyncIterator[Outside]:
    """For calls to direct URLs. An app that speaks https switches certificate checks off here too, as in Dapr, and one
    that speaks h2c means HTTP/2 here too."""
    async with open_client(settings) as client:
        yield Outside(
            Calls(client, max_concurrency=settings.max_concurrency, token=settings.api_token, metrics=metrics)
        )


@asynccontextmanager
async def open_endpoint(
    settings: EndpointSettings, channel: ChannelSettings, metrics: HttpClientMetrics | None = None
) -> AsyncIterator[Endpoint]:
    """An HTTPEndpoint for as long as the block lasts. Raises `ConfigError` for fields that cannot be used."""
    try:
        base = parse_url(settings.base_url)
    except ValueError as error:
        raise ConfigError(f"HTTPEndpoint {settings.name}: spec.baseUrl: {error}") from None
    tls = endpoint_tls(settings)
    headers = [(name.lower().encode(), value.encode()) for name, value in settings.headers]
    limits = client_limits(channel.read_buffer_bytes)._replace(connect_timeout_s=ENDPOINT_CONNECT_TIMEOUT_S)
    async with open_http_client(limits, tls) as client:
        yield Endpoint(Calls(client, max_concurrency=channel.max_concurrency, metrics=metrics), base, headers)


def endpoint_tls(settings: EndpointSettings) -> Callable[[], ssl.SSLContext]:
    """What makes the endpoint's TLS settings; they are tried here, so that a bad certificate is found at the start."""
    renegotiates = _RENEGOTIATION.get(settings.renegotiation.lower())
    where = f"HTTPEndpoint {settings.name}: spec.clientTLS"
    if renegotiates is None:
        raise ConfigError(
            f"{where}.renegotiation is {settings.renegotiation!r}; expected Never, OnceAsClient or FreelyAsClient"
        )
    if bool(settings.certificate) != bool(settings.private_key):
        raise ConfigError(f"{where} has only one of certificate and privateKey; expected both or none")
    try:
        return client_tls(settings.root_ca, settings.certificate, settings.private_key, renegotiates=renegotiates)
    except ValueError as error:
        raise ConfigError(f"{where} cannot be used: {error}") from None
