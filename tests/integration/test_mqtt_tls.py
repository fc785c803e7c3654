"""pubsub.mqtt3 over TLS to a real mosquitto, with certificates made here."""

from __future__ import annotations

import ssl
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
import trio
import trio.testing

from edge_runtime.model.errors import ConfigError, DriverError
from edge_runtime.net.mqtt import LinkSettings
from edge_runtime.net.mqtt_link import open_link
from edge_runtime.store.database import open_databases
from tests.brokers import Inbox, Mosquitto, open_broker

pytestmark = pytest.mark.slow


class Pair(NamedTuple):
    """A certificate and its key, as files."""

    certificate: Path
    key: Path


class Authority:
    """Signs certificates with openssl."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory
        self.pair = Pair(directory / f"{name}.pem", directory / f"{name}.key")
        _openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"),
            *("-subj", f"/CN={name}", "-addext", "keyUsage=critical,keyCertSign,cRLSign"),
            *("-keyout", self.pair.key, "-out", self.pair.certificate),
        )

    @property
    def text(self) -> str:
        return self.pair.certificate.read_text()

    def issue(self, name: str, *, expired: bool = False) -> Pair:
        pair = Pair(self._directory / f"{name}.pem", self._directory / f"{name}.key")
        request = self._directory / f"{name}.csr"
        extensions = self._directory / "extensions"
        extensions.write_text("subjectAltName=IP:127.0.0.1\n")
        _openssl(
            *("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", f"/CN={name}"),
            *("-keyout", pair.key, "-out", request),
        )
        _openssl(
            *(
                "x509",
                "-req",
                "-in",
                request,
                "-days",
                "-1" if expired else "2",
                "-extfile",
                extensions,
                "-out",
                pair.certificate,
            ),
            *("-CA", self.pair.certificate, "-CAkey", self.pair.key, "-CAcreateserial"),
        )
        return pair


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "authority")


@pytest.fixture
def mosquitto(tmp_path: Path, authority: Authority) -> Iterator[Mosquitto]:
    """It wants certificates of its clients."""
    pair = authority.issue("broker")
    lines = (
        f"cafile {authority.pair.certificate}",
        f"certfile {pair.certificate}",
        f"keyfile {pair.key}",
        "require_certificate true",
        "use_identity_as_username true",
    )
    with Mosquitto(tmp_path / "broker", *lines) as running:
        yield running


async def test_certificates_open_the_broker(tmp_path: Path, mosquitto: Mosquitto, authority: Authority) -> None:
    inbox = Inbox()
    mine = authority.issue("me")
    metadata = {
        "url": f"mqtts://127.0.0.1:{mosquitto.port}",
        "caCert": authority.text,
        "clientCert": mine.certificate.read_text(),
        "clientKey": mine.key.read_text(),
        "cleanSession": "true",
    }
    async with open_broker(tmp_path, "pubsub.mqtt3", **metadata) as broker, trio.open_nursery() as nursery:
        await nursery.start(broker.subscribe, "a", "app", {}, inbox)
        for data in (b"1", b"2" * 300_000):
            await broker.publish("a", data, {})
        await inbox.wait_for(2)
        nursery.cancel_scope.cancel()
    assert sorted(inbox.data) == [b"1", b"2" * 300_000]
    assert any("as app" in line and "u'me'" in line for line in mosquitto.process.lines)


async def test_a_wrong_authority_fails_the_start(tmp_path: Path, mosquitto: Mosquitto) -> None:
    other = Authority(tmp_path, "other")
    url = f"ssl://127.0.0.1:{mosquitto.port}"
    async with open_databases() as databases:
        with pytest.raises(DriverError, match="its certificate cannot be verified: "):
            async with open_broker(tmp_path, "pubsub.mqtt3", databases=databases, url=url, caCert=other.text):
                pass


async def test_no_certificate_is_no_connection(tmp_path: Path, mosquitto: Mosquitto, authority: Authority) -> None:
    url = f"tls://127.0.0.1:{mosquitto.port}"
    opened = open_broker(tmp_path, "pubsub.mqtt3", url=url, caCert=authority.text, publishTimeout="200ms")
    async with opened as broker:
        with pytest.raises(DriverError, match="not connected to broker"):
            await broker.publish("a", b"1", {})


async def test_a_name_of_another_fails_the_start(tmp_path: Path, mosquitto: Mosquitto, authority: Authority) -> None:
    """Its certificate is for 127.0.0.1."""
    url = f"mqtts://localhost:{mosquitto.port}"
    async with open_databases() as databases:
        opened = open_broker(tmp_path, "pubsub.mqtt3", databases=databases, url=url, caCert=authority.text)
        with pytest.raises(DriverError, match=r"its certificate cannot be verified: .*[Hh]ostname mismatch"):
            async with opened:
                pass


async def test_a_binding_has_certificates_on_both_sides(
    tmp_path: Path, mosquitto: Mosquitto, authority: Authority
) -> None:
    mine = authority.issue("me")
    metadata = {
        "url": f"ssl://127.0.0.1:{mosquitto.port}",
        "topic": "commands",
        "consumerID": "gateway",
        "caCert": authority.text,
        "clientCert": mine.certificate.read_text(),
        "clientKey": mine.key.read_text(),
    }
    send, receive = trio.open_memory_channel[bytes](1)

    async def take(data: bytes, _: Mapping[str, str]) -> None:
        await send.send(data)

    async with open_broker(tmp_path, "bindings.mqtt3", **metadata) as binding, trio.open_nursery() as nursery:
        await nursery.start(binding.read, take)
        await binding.invoke("create", b"on", {})
        assert await receive.receive() == b"on"
        nursery.cancel_scope.cancel()
    for side in ("gateway-producer", "gateway-consumer"):
        assert any(f"as {side}" in line and "u'me'" in line for line in mosquitto.process.lines)


async def test_a_clock_that_is_set_ends_the_pause(
    tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker's certificate is one of another time; the next attempt is an hour away."""
    ahead_s = 0.0
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + ahead_s)
    pair = authority.issue("broker", expired=True)
    lines = (f"certfile {pair.certificate}", f"keyfile {pair.key}")
    context = ssl.create_default_context(cadata=authority.text)
    with Mosquitto(tmp_path / "broker", *lines) as mosquitto:
        settings = LinkSettings("127.0.0.1", mosquitto.port, "me", lambda: context, reconnect_first_s=3600)
        async with open_link(settings, lambda _: None) as link:
            await link.tried.wait()
            assert "certificate has expired; this machine's clock says " in link.reason
            assert link.refused is None
            mosquitto.stop()
            authority.issue("broker")
            mosquitto.start()
            await trio.testing.wait_all_tasks_blocked()
            ahead_s = -5 * 86400
            await link.wait_connected()


async def test_unusable_texts_fail_the_start(tmp_path: Path, authority: Authority) -> None:
    mine = authority.issue("me")
    certificate, key = mine.certificate.read_text(), mine.key.read_text()
    other_key = authority.issue("you").key.read_text()
    locked = tmp_path / "locked.key"
    _openssl("pkey", "-in", mine.key, "-aes256", "-passout", "pass:secret", "-out", locked)
    wrong: list[tuple[dict[str, str], str]] = [
        ({"caCert": "/etc/ca.pem"}, "metadata 'caCert' is '/etc/ca.pem…'; expected the text of a PEM file"),
        ({"caCert": "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----"}, "cannot be used"),
        ({"clientCert": certificate}, "metadata 'clientKey' is required when 'clientCert' is given"),
        ({"clientKey": key}, "metadata 'clientCert' is required when 'clientKey' is given"),
        ({"clientCert": certificate, "clientKey": other_key}, "cannot be used"),
        (
            {"clientCert": certificate, "clientKey": locked.read_text()},
            "is encrypted; expected one without a pass phrase",
        ),
    ]
    async with open_databases() as databases:
        for metadata, text in wrong:
            opened = open_broker(tmp_path, "pubsub.mqtt3", databases=databases, url="mqtts://127.0.0.1:1", **metadata)
            with pytest.raises(ConfigError, match=text):
                async with opened:
                    pass
