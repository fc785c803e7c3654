"""The metadata fields of MQTT components: where the broker is, who we are to it, how messages are delivered."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from typing import Final, NamedTuple
from urllib.parse import unquote, urlsplit

from edge_runtime.components.metadata import Fields
from edge_runtime.components.mqtt.deliveries import DeliverySettings
from edge_runtime.model.errors import BadMetadata, ConfigError
from edge_runtime.net.mqtt import LinkSettings, Will, check_topic

# The scheme says whether there is TLS and whether there is WebSocket, and so the port.
_SCHEMES: Final = {
    "tcp": (False, False, 1883),
    "mqtt": (False, False, 1883),
    "ssl": (True, False, 8883),
    "mqtts": (True, False, 8883),
    "mqtt+ssl": (True, False, 8883),
    "tcps": (True, False, 8883),
    "tls": (True, False, 8883),
    "ws": (False, True, 80),
    "wss": (True, True, 443),
}
_PEM: Final = "-----BEGIN "
KEEPALIVE_MAX_S: Final = 65535

LINK_FIELDS: Final = (
    "url",
    "consumerID",
    "cleanSession",
    "caCert",
    "clientCert",
    "clientKey",
    "keepAlive",
    "pingTimeout",
    "connectTimeout",
    "reconnectIntervalMax",
    "maxMessageBytes",
    "receiveMessagesMax",
    "receiveBytesMax",
    "publishTimeout",
    "publishInFlightMax",
    "willTopic",
    "willPayload",
    "willQos",
    "willRetain",
)
DELIVERY_FIELDS: Final = ("redeliverInterval", "redeliverIntervalMax", "maxRedeliveries")


class Address(NamedTuple):
    """A broker's URL, taken apart."""

    host: str
    port: int
    tls: bool
    websocket_path: str | None
    username: str | None
    password: str | None


def read_address(fields: Fields) -> Address:
    """The field `url`. Raises `ConfigError`, which does not show what may be a password."""
    text = fields.text("url")
    expected = f"a URL such as mqtt://broker:1883; the scheme is one of {', '.join(_SCHEMES)}"
    # A password may hold what ends it for a URL, so all before the last @ is left out.
    scheme, _, rest = text.rpartition("@")[0].partition("://")
    shown = f"{scheme if rest else ''}://…@{text.rpartition('@')[2]}" if "@" in text else text
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise fields.error("url", shown, expected) from None
    if parts.scheme not in _SCHEMES or not parts.hostname:
        raise fields.error("url", shown, expected)
    tls, websocket, default_port = _SCHEMES[parts.scheme]
    query = f"?{parts.query}" if parts.query else ""
    return Address(
        parts.hostname,
        port or default_port,
        tls,
        f"{parts.path or '/'}{query}" if websocket else None,
        None if parts.username is None else unquote(parts.username),
        None if parts.password is None else unquote(parts.password),
    )


def read_link(fields: Fields, client_id: str, *, answer_timeout_s: float) -> LinkSettings:
    """The fields of the connection."""
    address = read_address(fields)
    tls = read_tls(fields) if address.tls else None
    return LinkSettings(
        host=address.host,
        port=address.port,
        client_id=client_id,
        tls=tls,
        websocket_path=address.websocket_path,
        clean_session=fields.flag("cleanSession"),
        username=address.username,
        password=address.password,
        will=_read_will(fields),
        keepalive_s=_keepalive_s(fields),
        ping_timeout_s=fields.duration_s("pingTimeout", 10, minimum_s=0.1),
        connect_timeout_s=fields.duration_s("connectTimeout", answer_timeout_s, minimum_s=0.1),
        answer_timeout_s=fields.duration_s("publishTimeout", answer_timeout_s, minimum_s=0.1),
        reconnect_most_s=fields.duration_s("reconnectIntervalMax", 20, minimum_s=0.5),
        in_flight_max=fields.integer("publishInFlightMax", 100, minimum=1, maximum=10_000),
        receive_messages_max=fields.integer("receiveMessagesMax", 1000, minimum=1),
        receive_bytes_max=fields.size_bytes("receiveBytesMax", 8 * 2**20, minimum=1),
        message_bytes_max=fields.size_bytes("maxMessageBytes", 32 * 2**20, minimum=1),
    )


def read_deliveries(fields: Fields) -> DeliverySettings:
    """The fields of redelivery."""
    first_s = fields.duration_s("redeliverInterval", 1, minimum_s=0.001)
    return DeliverySettings(
        first_s,
        fields.duration_s("redeliverIntervalMax", max(60.0, first_s), minimum_s=first_s),
        fields.integer("maxRedeliveries", 0, minimum=0),
    )


def read_qos(fields: Fields, name: str = "qos", default: int = 1) -> int:
    return fields.integer(name, default, minimum=0, maximum=2)


def _keepalive_s(fields: Fields) -> int:
    seconds = fields.duration_s("keepAlive", 30, minimum_s=1)
    if seconds > KEEPALIVE_MAX_S:
        raise fields.error("keepAlive", f"{seconds:g}s", f"at most {KEEPALIVE_MAX_S}s")
    return int(seconds)


def _read_will(fields: Fields) -> Will | None:
    topic = fields.text("willTopic", "")
    if not topic:
        return None
    try:
        check_topic(topic)
    except BadMetadata as error:
        raise fields.error("willTopic", topic, f"a topic: {error}") from None
    payload = fields.text("willPayload", "").encode()
    if len(payload) > 65535:
        raise fields.error("willPayload", f"{len(payload)} bytes", "at most 65535 bytes")
    return Will(topic, payload, read_qos(fields, "willQos"), fields.flag("willRetain"))


def read_tls(fields: Fields) -> Callable[[], ssl.SSLContext]:
    """What makes the TLS context. It is made here once, so that a text that cannot be used is found at the start."""
    authority = _read_pem(fields, "caCert")
    certificate = _read_pem(fields, "clientCert")
    private_key = _read_pem(fields, "clientKey")
    if bool(certificate) != bool(private_key):
        missing, given = ("clientKey", "clientCert") if certificate else ("clientCert", "clientKey")
        raise ConfigError(f"metadata {missing!r} is required when {given!r} is given; add it to spec.metadata")
    try:
        context = ssl.create_default_context(cadata=authority or None)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if certificate:
            _load_pair(context, certificate, private_key)
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(f"metadata 'caCert', 'clientCert' or 'clientKey' cannot be used: {error}") from None
    return lambda: context


def _read_pem(fields: Fields, name: str) -> str:
    text = fields.text(name, "").strip()
    if text and _PEM not in text:
        raise fields.error(name, f"{text[:20]}…", "the text of a PEM file (-----BEGIN …), not its path")
    return text


def _load_pair(context: ssl.SSLContext, certificate: str, private_key: str) -> None:
    """OpenSSL's Python face takes files only; an anonymous one keeps the key off every disk."""
    with open(os.memfd_create("client-certificate", os.MFD_CLOEXEC), "wb") as file:
        file.write(f"{certificate}\n{private_key}\n".encode())
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{file.fileno()}", password=_no_password)


def _no_password() -> str:
    raise ValueError("the private key is encrypted; expected one without a pass phrase")
