"""Calls to places that are no app of this node: direct URLs, and HTTPEndpoints with their TLS and redirects."""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

from edge_runtime.channel.calls import Calls
from edge_runtime.channel.http import ChannelSettings, client_limits, open_client
from edge_runtime.channel.metrics import HttpClientMetrics
from edge_runtime.model.errors import ConfigError, DriverError
from edge_runtime.model.http import EMPTY, Header, Request, Response
from edge_runtime.net.connections import Origin, checking_tls
from edge_runtime.net.http_client import open_http_client
from edge_runtime.net.urls import Url, parse_url, redirected

ENDPOINT_CONNECT_TIMEOUT_S: Final = 15.0
REDIRECTS_MAX: Final = 10
_RENEGOTIATION: Final = {"": False, "never": False, "onceasclient": True, "freelyasclient": True}
# Not shown to another host than the one they were meant for, nor in clear; the endpoint's own headers neither.
_PRIVATE: Final = frozenset({b"authorization", b"cookie", b"www-authenticate"})
_ABOUT_BODY: Final = frozenset({b"content-type", b"content-encoding", b"content-language", b"content-location"})


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
        self._private = _PRIVATE.union(name for name, _ in headers)

    async def send_to(self, origin: Origin, request: Request) -> Response:
        """The first answer that is no redirect, or that cannot be followed. Raises `DriverError`."""
        url = Url(origin)
        for _ in range(REDIRECTS_MAX):
            response = await self._calls.send(url.origin, request)
            try:
                following = _redirection(url, request, response, self._private)
            except DriverError:
                await response.body.aclose()
                raise
            if following is None:
                return response
            await response.body.aclose()
            url, request = following
        raise DriverError(f"stopped after {REDIRECTS_MAX} redirects")


def _redirection(
    url: Url, request: Request, response: Response, private: frozenset[bytes]
) -> tuple[Url, Request] | None:
    """The next request, by the rules of Go's client: 307 and 308 keep method and body, the others become GET."""
    location = response.header(b"location")
    if response.status not in (301, 302, 303, 307, 308) or not location:
        return None
    keeps = response.status in (307, 308)
    if keeps and not request.body.buffered:
        return None
    try:
        to = redirected(url, request.target, location)
    except ValueError as error:
        raise DriverError(f"the answer redirects to a place that cannot be used: {error}") from None
    trusted = to.origin.host == url.origin.host and (to.origin.scheme == "https" or url.origin.scheme == "http")
    headers = [header for header in request.headers if trusted or header[0] not in private]
    target = (to.path or b"/") + to.query
    if keeps or request.method in ("GET", "HEAD"):
        return to, Request(request.method, target, headers, request.body)
    return to, Request("GET", target, [header for header in headers if header[0] not in _ABOUT_BODY], EMPTY)


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
    if not (settings.root_ca or settings.certificate):
        return checking_tls
    try:
        context = ssl.create_default_context(cadata=settings.root_ca or None)
        if not renegotiates:
            context.options |= ssl.OP_NO_RENEGOTIATION
        if settings.certificate:
            _load_pair(context, settings.certificate, settings.private_key)
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(f"{where} cannot be used: {error}; expected PEM texts") from None
    return lambda: context


def _load_pair(context: ssl.SSLContext, certificate: str, private_key: str) -> None:
    """OpenSSL's Python face takes files only; an anonymous one keeps the key off every disk."""
    with open(os.memfd_create("client-certificate", os.MFD_CLOEXEC), "wb") as file:
        file.write(f"{certificate}\n{private_key}\n".encode())
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{file.fileno()}")
