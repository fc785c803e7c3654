"""paho-mqtt without its thread and without its socket: bytes in, bytes out, and what came is told to a listener.

paho keeps the protocol: packets, packet ids, what must be sent again. Bytes go through memory, so that TCP, TLS and
WebSocket are trio's and nothing ever blocks. The receiving half is ours: a message of QoS 1 or 2 is acknowledged when
its receiver says so. For QoS 2 that is when PUBREC goes out, so that a killed process loses nothing which it did
not finish; paho would send it on arrival.
"""

from __future__ import annotations

import ssl
import sys
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple, Protocol

from edge_runtime.lean import defer
from edge_runtime.model.errors import BadMetadata, DriverError

# paho imports these for proxies and its own WebSockets, which are not used here: 4 MB of RSS, OpenSSL among them.
defer("hashlib")
_DEFERRED: Final = "urllib.request" not in sys.modules
defer("urllib.request")
from paho.mqtt.client import Client  # noqa: E402
from paho.mqtt.enums import CallbackAPIVersion, MessageState, MQTTErrorCode, MQTTProtocolVersion  # noqa: E402

if _DEFERRED:
    del sys.modules["urllib.request"]  # a stand-in is no attribute of its package, so nobody else could use it

SHARE: Final = "$share"
TOPIC_BYTES_MAX: Final = 65535
PACKET_BYTES_MAX: Final = 268_435_455

# Of 65535. A broker that never finishes QoS 2 keeps them for ever; the next free one has to be found quickly.
PACKET_IDS_MAX: Final = 60_000

_PINGREQ: Final = b"\xc0\x00"
_CONNACK, _PUBLISH, _PUBACK, _PUBREC, _PUBREL, _PUBCOMP, _SUBACK = 2, 3, 4, 5, 6, 7, 9
QUEUE_SIZE: Final = MQTTErrorCode.MQTT_ERR_QUEUE_SIZE
# paho's states of a publish whose PUBCOMP is due: on this connection, and after a loss.
_PUBREC_CAME: Final = (MessageState.MQTT_MS_WAIT_FOR_PUBCOMP, MessageState.MQTT_MS_RESEND_PUBREL)


class Will(NamedTuple):
    """What the broker publishes when the connection is lost without a goodbye."""

    topic: str
    payload: bytes
    qos: int
    retain: bool


class LinkSettings(NamedTuple):
    """`tls` makes the context for TLS, None is plain TCP; `websocket_path` None is MQTT without WebSocket."""

    host: str
    port: int
    client_id: str
    tls: Callable[[], ssl.SSLContext] | None = None
    websocket_path: str | None = None
    clean_session: bool = False
    username: str | None = None
    password: str | None = None
    will: Will | None = None
    keepalive_s: int = 30
    ping_timeout_s: float = 10.0
    connect_timeout_s: float = 20.0
    answer_timeout_s: float = 20.0
    reconnect_first_s: float = 0.5
    reconnect_most_s: float = 20.0
    in_flight_max: int = 100
    write_bytes_max: int = 2**20
    receive_messages_max: int = 1000
    receive_bytes_max: int = 8 * 2**20
    message_bytes_max: int = 32 * 2**20

    @property
    def broker(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class BrokerAway(DriverError):
    """There is no connection, or it was lost before the broker answered."""


class BrokerRefused(DriverError):
    """The broker answered, and the answer is no."""


class Delivery:
    """One received message. `session` numbers the connection on which it can be acknowledged."""

    __slots__ = ("data", "done", "duplicate", "fingerprint", "packet_id", "qos", "retained", "session", "size", "topic")

    def __init__(self, topic: str, data: bytes, qos: int, retained: bool, duplicate: bool, packet_id: int) -> None:
        self.topic = topic
        self.data = data
        self.qos = qos
        self.retained = retained
        self.duplicate = duplicate
        self.packet_id = packet_id
        self.size = len(data) + len(topic) + 200
        self.session = 0
        self.done = False  # settled while it could not be acknowledged
        self.fingerprint = 0

    def forget_data(self) -> None:
        self.fingerprint = hash(self.data)
        self.data = b""

    def is_again(self, other: Delivery) -> bool:
        """True when `other` is this message, sent once more."""
        if not other.duplicate or (self.topic, self.qos, self.size) != (other.topic, other.qos, other.size):
            return False
        return self.fingerprint == hash(other.data) if self.done else self.data == other.data


class Listener(Protocol):
    """What an engine tells, and asks."""

    def want_write(self, *_: object) -> None: ...
    def has_room(self) -> bool: ...
    def accepted(self, session_present: bool, code: int) -> None: ...
    def subscribed(self, packet_id: int, codes: Iterable[int]) -> None: ...
    def published(self, packet_id: int) -> None: ...
    def released(self, packet_id: int) -> None: ...
    def take(self, delivery: Delivery) -> None: ...
    def refuse_oversized(self, topic: str, size: int) -> None: ...


class _Memory:
    """What paho takes for its socket."""

    def setblocking(self, flag: bool) -> None:
        pass

    def close(self) -> None:
        pass

    def fileno(self) -> int:
        return -1


class Engine(Client):
    """paho's client with memory for a socket, and with our own receiving half."""

    def __init__(self, settings: LinkSettings, link: Listener) -> None:
        super().__init__(
            CallbackAPIVersion.VERSION2,
            settings.client_id,
            settings.clean_session,
            protocol=MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        self._link = link
        self._incoming = b""
        self._at = 0
        self._outgoing = bytearray()
        self._message_bytes_max = settings.message_bytes_max
        self.max_inflight_messages = 0  # the link has its own limit; paho's takes time per message that waits
        self.on_socket_register_write = link.want_write
        if settings.username is not None:
            self.username_pw_set(settings.username, settings.password)
        if settings.will is not None:
            self.will_set(*settings.will)
        self.connect_async(settings.host, settings.port, settings.keepalive_s)

    # --- bytes

    def begin(self) -> None:
        """A new connection: CONNECT is in the output afterwards."""
        self._incoming = b""
        self._at = 0
        self._outgoing.clear()
        self.reconnect()

    def _create_socket(self) -> Any:
        return _Memory()

    @property
    def unread(self) -> bool:
        return self._at < len(self._incoming)

    def feed(self, data: bytes) -> bool:
        """Takes what came in, or (with nothing) goes on with what came. False: the connection cannot go on."""
        if data:
            self._incoming = data
            self._at = 0
        while self.unread and (self._in_packet["command"] or self._link.has_room()):
            if self.loop_read() or self._sock is None:
                return False
        return True

    def output(self) -> bytes | None:
        """What is to be sent now. None: the connection cannot go on."""
        if self.loop_write() and not self._outgoing:
            return None
        data = bytes(self._outgoing)
        self._outgoing.clear()
        return data

    @property
    def output_bytes(self) -> int:
        return sum(packet["to_process"] for packet in self._out_packet)

    def ping(self) -> None:
        self._outgoing += _PINGREQ  # whole packets only are in there

    def _sock_recv(self, bufsize: int) -> bytes:
        packet = self._in_packet
        if self._at >= len(self._incoming) or (not packet["command"] and not self._link.has_room()):
            raise BlockingIOError
        if self._too_large():
            self._skip()
            bufsize = packet["to_process"]
        data = self._incoming[self._at : self._at + bufsize]
        self._at += len(data)
        return data

    def _sock_send(self, buf: bytes | bytearray) -> int:
        self._outgoing += buf
        return len(buf)

    def _too_large(self) -> bool:
        packet = self._in_packet
        return bool(packet["have_remaining"]) and packet["remaining_length"] > self._message_bytes_max + TOPIC_BYTES_MAX

    def _skip(self) -> None:
        """Let go what lies behind the topic of a message that is too large, but for one byte that paho has to see."""
        packet = self._in_packet
        if len(packet["packet"]) > TOPIC_BYTES_MAX + 4:
            skipped = min(packet["to_process"], len(self._incoming) - self._at) - 1
            packet["to_process"] -= skipped
            self._at += skipped

    # --- packets

    def _packet_handle(self) -> MQTTErrorCode:
        packet = self._in_packet
        data = packet["packet"]
        kind = packet["command"] >> 4
        if kind == _PUBLISH:
            return self._take_publish(packet["command"], data, packet["remaining_length"])
        if len(data) >= 2:
            packet_id = data[0] << 8 | data[1]
            if kind in (_PUBACK, _PUBCOMP):
                known = packet_id in self._out_messages
                result = super()._packet_handle()
                if known and packet_id not in self._out_messages:
                    self._link.published(packet_id)
                return result
            if kind == _PUBREC and packet_id not in self._out_messages:
                return self._send_pubrel(packet_id)  # abandoned: else the broker would keep the packet id for ever
            if kind == _PUBREL:
                self._link.released(packet_id)
                return self._send_pubcomp(packet_id)
            if kind == _SUBACK:
                self._link.subscribed(packet_id, data[2:])
            elif kind == _CONNACK:
                self._link.accepted(bool(data[0] & 1), data[1])
        return super()._packet_handle()

    def _take_publish(self, flags: int, data: bytearray, size: int) -> MQTTErrorCode:
        qos = flags >> 1 & 3
        end = 2 + (data[0] << 8 | data[1]) if len(data) >= 2 else PACKET_BYTES_MAX
        start = end + 2 if qos else end
        if len(data) < start or qos == 3:
            return MQTTErrorCode.MQTT_ERR_PROTOCOL
        try:
            topic = data[2:end].decode()
        except UnicodeDecodeError:
            return MQTTErrorCode.MQTT_ERR_PROTOCOL
        packet_id = data[end] << 8 | data[end + 1] if qos else 0
        if size - start > self._message_bytes_max:
            self._link.refuse_oversized(topic, size - start)
            if qos:
                self.acknowledge(packet_id, qos)
            return MQTTErrorCode.MQTT_ERR_SUCCESS
        self._link.take(Delivery(topic, bytes(data[start:]), qos, bool(flags & 1), bool(flags & 8), packet_id))
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def acknowledge(self, packet_id: int, qos: int) -> None:
        """PUBACK, or for QoS 2 PUBREC; PUBCOMP follows when the broker lets the packet id go."""
        if qos == 1:
            self._send_puback(packet_id)
        else:
            self._send_pubrec(packet_id)

    def abandon(self, packet_id: int) -> None:
        """Nobody waits for this publish any more, so it is not sent again; what the broker has is finished."""
        message = self._out_messages.get(packet_id)
        if message is None:
            return
        if message.state in _PUBREC_CAME:
            message.payload = b""
        else:
            del self._out_messages[packet_id]

    @property
    def has_packet_ids(self) -> bool:
        return len(self._out_messages) < PACKET_IDS_MAX


def check_topic(topic: str) -> None:
    """Raises `BadMetadata` for what cannot be published to."""
    if not topic:
        raise BadMetadata("the topic is empty; expected a name")
    if "+" in topic or "#" in topic or "\0" in topic or len(topic.encode()) > TOPIC_BYTES_MAX:
        raise BadMetadata(
            f"the topic is {topic[:80]!r}; expected at most {TOPIC_BYTES_MAX} bytes and neither +, # nor NUL"
        )


def check_size(topic: str, data: bytes) -> None:
    """Raises `BadMetadata` for what fits into no packet."""
    if len(topic.encode()) + len(data) + 4 > PACKET_BYTES_MAX:
        raise BadMetadata(
            f"the message has {len(data)} bytes; MQTT carries {PACKET_BYTES_MAX} with its topic: split it"
        )


def check_pattern(pattern: str) -> None:
    """Raises `BadMetadata` for what cannot be subscribed to."""
    levels = filter_of(pattern).split("/")
    wild = [level for level in levels if "+" in level or "#" in level]
    shared = pattern.split("/", 2)
    if (
        not pattern
        or "\0" in pattern
        or len(pattern.encode()) > TOPIC_BYTES_MAX
        or any(level not in ("+", "#") for level in wild)
        or "#" in levels[:-1]
        or (shared[0] == SHARE and (len(shared) < 3 or not shared[2] or not shared[1] or set("+#") & set(shared[1])))
    ):
        raise BadMetadata(
            f"the topic is {pattern[:80]!r}; expected a topic filter such as a/b, a/+/c, a/# or $share/group/a/b"
        )


def filter_of(pattern: str) -> str:
    """The topics that a subscription is for: of `$share/group/a/b` it is `a/b`."""
    if pattern.startswith(f"{SHARE}/"):
        return pattern.split("/", 2)[-1]
    return pattern
