"""What certificates, clocks and proxies do to a link: it says what is wrong, keeps what it has, and goes on."""

from __future__ import annotations

import datetime
import ipaddress
import json
import signal
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.integration.test_cloud_links import (
    DOWN,
    HEALTHY,
    UP,
    Tunnel,
    metric,
    publish,
    subscriber,
    until,
    url,
    write_link,
)
from tests.support.app import App, Received
from tests.support.line import Line
from tests.support.sidecar import Sidecar

pytestmark = pytest.mark.slow

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


class Pair(NamedTuple):
    certificate: str
    key: str


class Authority:
    """Signs certificates for 127.0.0.1 that hold from one day, counted from today, to another."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "authority")])
        builder = self._builder(self._name, self._key.public_key(), -1000, 1000)
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        signed = builder.add_extension(constraints, True).add_extension(usage, True).sign(self._key, hashes.SHA256())
        self.text = signed.public_bytes(serialization.Encoding.PEM).decode()

    def issue(self, begin_days: int = -1, end_days: int = 1) -> Pair:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "issued")])
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        builder = self._builder(name, key.public_key(), begin_days, end_days).add_extension(names, False)
        certificate = builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
        plain = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return Pair(certificate, key.private_bytes(*plain).decode())

    def _builder(
        self, name: x509.Name, key: ec.EllipticCurvePublicKey, begin_days: int, end_days: int
    ) -> x509.CertificateBuilder:
        builder = x509.CertificateBuilder(self._name, name, key, x509.random_serial_number())
        return builder.not_valid_before(NOW + begin_days * DAY).not_valid_after(NOW + end_days * DAY)


def server_tls(directory: Path, authority: Authority, pair: Pair) -> ssl.SSLContext:
    """A server that wants certificates of its clients."""
    file = directory / "server.pem"
    file.write_text(pair.certificate + pair.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    context.load_verify_locations(cadata=authority.text)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def link_tls(authority: Authority, pair: Pair) -> str:
    values = {"ca": authority.text, "clientCert": pair.certificate, "clientKey": pair.key}
    return f"  tls: {json.dumps({name: {'value': text} for name, text in values.items()})}\n"


@contextmanager
def cloud_and_line(place: Path, tls: ssl.SSLContext) -> Iterator[tuple[App, Line]]:
    with subscriber("orders") as app, Sidecar(place / "cloud", app_id="cloud", app_port=app.port) as cloud:
        with Line(cloud.port, tls) as line:
            yield app, line


def mended(edge: Sidecar, app: App, place: Path, http: str, more: str) -> None:
    """With the right file everything that was kept arrives."""
    write_link(place / "resources", http, more=more)
    edge.signal(signal.SIGHUP)
    assert app.next().json()["data"] == "kept"


@pytest.mark.parametrize(
    ("days", "reason"), [((-9, -2), "certificate has expired"), ((300, 400), "certificate is not yet valid")]
)
def test_a_server_s_certificate_out_of_its_time_is_named(tmp_path: Path, days: tuple[int, int], reason: str) -> None:
    """Also what a node whose own clock is a year off finds."""
    authority = Authority()
    client = link_tls(authority, authority.issue())
    with cloud_and_line(tmp_path, server_tls(tmp_path, authority, authority.issue(*days))) as (app, line):
        http = f"https://127.0.0.1:{line.port}"
        with Sidecar(tmp_path / "edge", *write_link(tmp_path / "resources", http, more=client)) as edge:
            until(lambda: DOWN in edge.said)
            assert reason in edge.said
            publish(edge, "kept")
            assert metric(edge, "edge_outbox_entries") == 1
            (tmp_path / "other").mkdir()
            with Line(line.target, server_tls(tmp_path / "other", authority, authority.issue())) as renewed:
                mended(edge, app, tmp_path, f"https://127.0.0.1:{renewed.port}", client)


def test_a_client_s_expired_certificate_is_named(tmp_path: Path) -> None:
    authority = Authority()
    with cloud_and_line(tmp_path, server_tls(tmp_path, authority, authority.issue())) as (app, line):
        http = f"https://127.0.0.1:{line.port}"
        expired = link_tls(authority, authority.issue(-9, -2))
        with Sidecar(tmp_path / "edge", *write_link(tmp_path / "resources", http, more=expired)) as edge:
            until(lambda: DOWN in edge.said)
            until(lambda: "certificate expired" in edge.said or "certificate_expired" in edge.said)
            publish(edge, "kept")
            mended(edge, app, tmp_path, http, link_tls(authority, authority.issue()))


def test_a_sidecar_whose_clock_is_a_year_off_is_as_good(tmp_path: Path) -> None:
    past = {"date": "Tue, 01 Jan 1980 00:00:00 GMT"}

    def answer(came: Received) -> tuple[int, bytes, dict[str, str]]:
        return 204, b"", past

    with App({"/v1.0/healthz/outbound": answer, "/v1.0/publish/pubsub/orders": answer}) as cloud:
        with Sidecar(tmp_path / "edge", *write_link(tmp_path / "resources", url(cloud.port))) as edge:
            publish(edge, 1, query="?metadata.ttlInSeconds=60")
            until(lambda: metric(edge, "edge_outbox_forwarded_total") == 1)
            assert metric(edge, "edge_link_up") == 1


def test_a_proxy_that_refuses_is_named(tmp_path: Path) -> None:
    with subscriber("orders") as app, Sidecar(tmp_path / "cloud", app_id="cloud", app_port=app.port) as cloud:
        with Tunnel("Basic bWU6cGFzcw==") as tunnel:
            wrong = f"  proxy: http://me:wrong@127.0.0.1:{tunnel.port}\n"
            flags = write_link(tmp_path / "resources", url(cloud.port), more=wrong)
            with Sidecar(tmp_path / "edge", *flags) as edge:
                until(lambda: f"{DOWN}: proxy" in edge.said)
                assert "407 Proxy Authentication Required" in edge.said
                assert "wrong" not in edge.said
                publish(edge, "kept")
                mended(edge, app, tmp_path, url(cloud.port), wrong.replace("wrong", "pass"))


def test_who_accepts_and_never_answers_is_down(tmp_path: Path) -> None:
    """Half-open: the connection comes about, and nothing ever comes on it."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:
        port = silent.getsockname()[1]
        with Sidecar(tmp_path / "edge", *write_link(tmp_path / "resources", url(port))) as edge:
            publish(edge, "kept")
            until(lambda: f"{DOWN}: no answer within 5 s" in edge.said)
            assert metric(edge, "edge_outbox_entries") == 1
            with subscriber("orders") as app, Sidecar(tmp_path / "cloud", app_id="cloud", app_port=app.port) as cloud:
                mended(edge, app, tmp_path, url(cloud.port), "")


def test_an_expired_token_is_corrected_by_a_reload(tmp_path: Path) -> None:
    """And the link neither flaps nor asks at its full pace while the token is refused."""
    token = "  token: {value: expired}\n"
    environment = {"DAPR_API_TOKEN": "right"}
    with subscriber("orders") as app:
        with (
            Sidecar(tmp_path / "cloud", app_id="cloud", app_port=app.port, environment=environment) as cloud,
            Line(cloud.port) as line,
        ):
            flags = write_link(tmp_path / "resources", url(line.port), more=token)
            with Sidecar(tmp_path / "edge", *flags) as edge:
                until(lambda: UP in edge.said)
                publish(edge, "kept")
                assert "the sidecar refuses the token (401)" in edge.wait_line(DOWN)
                until(lambda: line.requests().count("GET /v1.0/metadata") > 2)
                assert edge.said.count(UP) == edge.said.count(DOWN) == 1
                mended(edge, app, tmp_path, url(line.port), token.replace("expired", "right"))


def test_an_event_beyond_the_day_s_budget_is_a_dead_letter(tmp_path: Path) -> None:
    """It would be tried day after day, and leave no byte for the others."""
    with App({**HEALTHY, "/v1.0/publish/pubsub/orders": lambda came: (204, b"")}) as cloud:
        flags = write_link(tmp_path / "resources", url(cloud.port), more="  budget: {bytesPerDay: 40k}\n")
        with Sidecar(tmp_path / "edge", *flags) as edge:
            publish(edge, "x" * 50_000)
            publish(edge, "small")
            until(lambda: metric(edge, "edge_outbox_forwarded_total") == 1)
            assert metric(edge, "edge_outbox_dead_letters") == 1
            (link,) = edge.http("GET", "/edge/v1/sync").json()["links"]
            assert (link["state"], link["routes"][0]["deadLetters"]) == ("up", 1)
            place = "/edge/v1/outbox/link%2Fcloud%2Fpubsub%2Forders/dead"
            dead = until(lambda: edge.http("GET", place).json()["deadLetters"])
            assert "the limit is spec.budget.bytesPerDay (40000)" in dead[0]["lastError"]
