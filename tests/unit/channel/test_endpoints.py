"""HTTPEndpoints and direct URLs: redirects, TLS, the token."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import pytest
import trio

from edge_runtime.channel.endpoints import EndpointSettings, open_endpoint, open_outside
from edge_runtime.channel.http import ChannelSettings, open_http_channel
from edge_runtime.model.errors import ConfigError, DriverError
from edge_runtime.model.http import Body, Request
from edge_runtime.net.connections import ConnectFailed, Origin
from tests.loopback import LoopbackApp, Talk, echo, loopback_app

APP = ChannelSettings(3000, api_token="token")


def redirecting(status: int, location: bytes = b"/there?x") -> object:
    async def converse(talk: Talk) -> None:
        while (seen := await talk.request()) is not None:
            if seen.target == b"/here":
                await talk.answer(b"moved", status, [(b"location", location)])
            else:
                await talk.answer(seen.body)

    return converse


@pytest.mark.parametrize(
    ("status", "verb", "followed", "body"),
    [
        (301, "POST", "GET", b""),
        (302, "PUT", "GET", b""),
        (303, "DELETE", "GET", b""),
        (302, "GET", "GET", b"data"),
        (302, "HEAD", "HEAD", b"data"),
        (307, "POST", "POST", b"data"),
        (308, "PUT", "PUT", b"data"),
    ],
)
async def test_redirects_are_followed(status: int, verb: str, followed: str, body: bytes) -> None:
    async with loopback_app(redirecting(status)) as app:  # type: ignore[arg-type]
        base = f"http://127.0.0.1:{app.origin.port}"
        async with open_endpoint(EndpointSettings("api", base), APP) as endpoint:
            headers = [(b"content-type", b"a/b"), (b"authorization", b"x")]
            await endpoint.send_to(app.origin, Request(verb, b"/here", headers, Body(b"data")))
    assert (app.last.method, app.last.target, app.last.body) == (followed, b"/there?x", body)
    assert app.last.values(b"content-type") == ([b"a/b"] if body else [])
    assert app.last.values(b"authorization") == [b"x"]


async def test_other_hosts_see_no_secrets() -> None:
    async with loopback_app() as other:
        location = f"http://localhost:{other.origin.port}/there".encode()
        async with (
            loopback_app(redirecting(302, location)) as app,  # type: ignore[arg-type]
            open_endpoint(EndpointSettings("api", "http://x", [("X-Api-Key", "k")]), APP) as endpoint,
        ):
            headers = [(b"authorization", b"x"), (b"a", b"b"), *endpoint.headers]
            await endpoint.send_to(app.origin, Request("GET", b"/here", headers))
        assert app.last.values(b"x-api-key") == [b"k"]
        assert other.last.values(b"authorization") == other.last.values(b"x-api-key") == []
        assert other.last.values(b"a") == [b"b"]


async def test_redirect_loop_ends() -> None:
    async with (
        loopback_app(redirecting(302, b"/here")) as app,  # type: ignore[arg-type]
        open_endpoint(EndpointSettings("api", "http://x"), APP) as endpoint,
    ):
        with pytest.raises(DriverError, match="stopped after 10 redirects"):
            await endpoint.send_to(app.origin, Request("GET", b"/here", []))
        assert len(app.seen) == 10


async def test_bad_redirect_is_said() -> None:
    async with (
        loopback_app(redirecting(302, b"ftp://x/")) as app,  # type: ignore[arg-type]
        open_endpoint(EndpointSettings("api", "http://x"), APP) as endpoint,
    ):
        with pytest.raises(DriverError, match="redirects to a place that cannot be used"):
            await endpoint.send_to(app.origin, Request("GET", b"/here", []))


async def test_bad_redirect_frees_its_place() -> None:
    async def converse(talk: Talk) -> None:
        while await talk.request() is not None:
            await talk.stream.send_all(
                b"HTTP/1.1 302 Found\r\nLocation: ftp://x/\r\nTransfer-Encoding: chunked\r\n\r\n"
            )

    one_at_a_time = APP._replace(max_concurrency=1)
    async with loopback_app(converse) as app, open_endpoint(EndpointSettings("api", "http://x"), one_at_a_time) as api:
        for _ in range(2):
            with pytest.raises(DriverError), trio.fail_after(2):
                await api.send_to(app.origin, Request("GET", b"/here", []))


async def test_only_urls_get_the_token() -> None:
    async with loopback_app() as app:
        async with open_endpoint(EndpointSettings("api", "http://x"), APP) as endpoint:
            await endpoint.send_to(app.origin, Request("GET", b"/", []))
            assert app.last.values(b"dapr-api-token") == []
        async with open_outside(APP) as outside:
            await outside.send_to(app.origin, Request("GET", b"/", []))
            assert app.last.values(b"dapr-api-token") == [b"token"]


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        (EndpointSettings("api", "host:80"), "HTTPEndpoint api: spec.baseUrl: 'host:80' is no http"),
        (EndpointSettings("api", "http://h", renegotiation="Always"), "renegotiation is 'Always'; expected Never"),
        (EndpointSettings("api", "http://h", certificate="x"), "only one of certificate and privateKey"),
        (EndpointSettings("api", "http://h", root_ca="x"), "spec.clientTLS cannot be used"),
        (EndpointSettings("api", "http://h", certificate="x", private_key="y"), "spec.clientTLS cannot be used"),
    ],
)
async def test_bad_fields_are_named(settings: EndpointSettings, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        async with open_endpoint(settings, APP):
            pass


# --- TLS --------------------------------------------------------------------------------------------------------------


class Pair(NamedTuple):
    certificate: str
    key: str


@pytest.fixture(scope="module")
def pair() -> Pair:
    """A self-signed certificate for localhost and 127.0.0.1."""
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Pair(certificate.public_bytes(serialization.Encoding.PEM).decode(), private.decode())


@asynccontextmanager
async def tls_app(pair: Pair, tmp_path: object, *, wants_client: bool = False) -> AsyncIterator[LoopbackApp]:
    path = f"{tmp_path}/pair.pem"
    async with await trio.open_file(path, "w") as file:
        await file.write(pair.certificate + pair.key)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(path)
    if wants_client:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=pair.certificate)
    app = LoopbackApp()

    async def handle(stream: trio.SSLStream[trio.SocketStream]) -> None:
        app.connections += 1
        try:
            await echo(Talk(app, stream))  # type: ignore[arg-type]
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_ssl_over_tcp_listeners(0, context, host="127.0.0.1", https_compatible=True)
        port = listeners[0].transport_listener.socket.getsockname()[1]
        app.origin = Origin("https", "127.0.0.1", port)
        nursery.start_soon(trio.serve_listeners, handle, listeners)
        yield app
        nursery.cancel_scope.cancel()


async def test_https_app_needs_no_authority(pair: Pair, tmp_path: object) -> None:
    async with tls_app(pair, tmp_path) as app:
        settings = ChannelSettings(app.origin.port, protocol="https")
        async with open_http_channel(settings) as channel:
            for size in (1, 1_000_000, 2):
                response = await channel.send(Request("POST", b"/", [], Body(b"x" * size)))
                assert len(await response.body.read()) == size
            assert app.connections == 1
        async with open_outside(settings) as outside:
            assert (await outside.send_to(app.origin, Request("GET", b"/", []))).status == 200


async def test_unknown_authority_is_refused(pair: Pair, tmp_path: object) -> None:
    async with tls_app(pair, tmp_path) as app, open_outside(APP) as outside:
        with pytest.raises(ConnectFailed, match="CERTIFICATE_VERIFY_FAILED"):
            await outside.send_to(app.origin, Request("GET", b"/", []))


async def test_endpoint_shows_its_certificate(pair: Pair, tmp_path: object) -> None:
    async with tls_app(pair, tmp_path, wants_client=True) as app:
        base = f"https://127.0.0.1:{app.origin.port}"
        settings = EndpointSettings("api", base, (), pair.certificate, pair.certificate, pair.key, "OnceAsClient")
        async with open_endpoint(settings, APP) as endpoint:
            response = await endpoint.send_to(app.origin, Request("POST", b"/", [], Body(b"hello")))
            assert response.body.data == b"hello"
        async with open_endpoint(EndpointSettings("api", base, (), pair.certificate), APP) as endpoint:
            with pytest.raises(DriverError):
                await endpoint.send_to(app.origin, Request("POST", b"/", [], Body(b"hello")))
