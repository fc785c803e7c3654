"""The connection to one MQTT broker: made again whenever it is lost, with the session that goes on across losses.

    read  ── feed ──► Engine ──► Link.take ──► the receiver (a plain function)
    write ◄─ output ─ Engine ◄── publish, subscribe, settle

What is received and not settled counts against a window. When that is full nothing more is read, unless somebody waits
for an answer of the broker: handlers may publish, and their answers come behind the messages. Pings go on either way.

What the broker sends again after a loss, and this process still has in hand, is recognised by its packet id and not
delivered twice.
"""

from __future__ import annotations

import logging
import math
import random
import socket
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Final

import trio

from edge_runtime.model.errors import leaves
from edge_runtime.net.clock_jump import until_clock_is_set
from edge_runtime.net.mqtt import (
    QUEUE_SIZE,
    BrokerAway,
    BrokerRefused,
    Delivery,
    Engine,
    LinkSettings,
    check_pattern,
    check_size,
    check_topic,
)
from edge_runtime.net.route_changes import RouteChanges, open_route_changes

logger: Final = logging.getLogger("dapr.contrib")

READ_BYTES: Final = 65536
CLOSE_TIMEOUT_S: Final = 2.0
STEADY_S: Final = 5.0  # a connection that lasted so long was a good one
EVICTIONS_TOLD: Final = 3
OVERDRAFT: Final = 4  # how many windows may be held while somebody waits for an answer
TELL_EVERY_S: Final = 60

_REFUSALS: Final = {
    1: "it does not speak MQTT 3.1.1",
    2: "it rejects the client id",
    3: "it is not available",
    4: "wrong user name or password",
    5: "not authorized",
}
_BROKER_BUSY: Final = 3
# OpenSSL's codes for a certificate that is not valid yet or no more: a device without a clock has them at its start.
_WRONG_DATE: Final = (9, 10)


class Counts:
    """What a link did, for metrics."""

    __slots__ = ("connected", "dropped", "failed", "oversized", "published", "received", "repeated")

    def __init__(self) -> None:
        self.connected = 0
        self.dropped = 0  # received with QoS 0 and too many to keep
        self.failed = 0  # publishes without a good answer
        self.published = 0
        self.received = 0
        self.repeated = 0  # received once more while still in hand
        self.oversized = 0


class _Publish:
    """A message on its way to the broker."""

    __slots__ = ("data", "done", "lost", "once", "packet_id", "qos", "retain", "topic")

    def __init__(self, topic: str, data: bytes, qos: int, retain: bool, once: bool) -> None:
        self.topic = topic
        self.data = data
        self.qos = qos
        self.retain = retain
        self.once = once
        self.packet_id = 0
        self.lost = False
        self.done = trio.Event()


class _Wish:
    """A subscription that should exist on the broker."""

    __slots__ = ("answered", "qos", "refused", "session")

    def __init__(self, qos: int) -> None:
        self.qos = qos
        self.session = 0  # on which connection it was asked for
        self.answered = trio.Event()
        self.refused = trio.Event()


class Link:
    """The connection to one broker under one client id; made by `open_link`."""

    def __init__(self, settings: LinkSettings, receive: Callable[[Delivery], None]) -> None:
        self.settings = settings
        self.counts = Counts()
        self.connected = False
        self.reason = "it was not tried yet"  # why there is no connection
        self.refused: BrokerRefused | None = None  # what no further attempt will change by itself
        self.tried = trio.Event()  # the first attempt is over
        self.on_change: Callable[[bool], None] = do_nothing
        self._receive = receive
        self._engine = Engine(settings, self)
        self._changed = trio.Event()
        self._queue: deque[_Publish] = deque()  # not sent yet
        self._answers: dict[int, _Publish] = {}  # sent, by packet id
        self._asked: dict[int, list[_Wish]] = {}
        self._wishes: dict[str, _Wish] = {}
        # one connection
        self._scope = trio.CancelScope()
        self._session = 0
        self._closing = False
        self._write = trio.Event()
        self._flushes: list[_Publish] = []  # of QoS 0, on their way to the kernel
        self._last_in = self._last_out = 0.0
        self._heard: trio.Event | None = None
        self._socket: trio.SocketStream | None = None
        self._connected_at = 0.0
        self._told = ""
        self._misdated = False  # its certificate is not one of today, or this machine's clock is wrong
        self._drop_told_at = -math.inf
        # what is received and not settled
        self.held = self._held_bytes = 0
        self._room: trio.Event | None = None  # set up while nothing is read
        self._in_hand: dict[int, Delivery] = {}
        self._unreleased: set[int] = set()

    # --- sending

    async def publish(self, topic: str, data: bytes, qos: int, retain: bool, *, once: bool = False) -> None:
        """Returns when the broker has it (QoS 1 and 2), or the kernel (QoS 0). Raises `BrokerAway` after a time.

        Messages are sent in the order of the calls. `once`: when the connection is lost the caller is told at once,
        unless it is of QoS 2 and was sent, as only the session can say then whether the broker has it.
        """
        check_topic(topic)
        check_size(topic, data)
        entry = _Publish(topic, data, qos, retain, once)
        self._queue.append(entry)
        self._pump()
        try:
            with trio.move_on_after(self.settings.answer_timeout_s):
                await entry.done.wait()
        finally:
            if not entry.done.is_set():
                self._abandon(entry)
        if entry.lost or not entry.done.is_set():
            self.counts.failed += 1
            raise BrokerAway(self._late(f"publishing to topic {topic}"))
        self.counts.published += 1

    def _pump(self) -> None:
        """Send what waits, as far as there is a connection and room under way."""
        queue, engine, settings = self._queue, self._engine, self.settings
        while (
            queue
            and self.connected
            and len(self._answers) + len(self._flushes) < settings.in_flight_max
            and engine.output_bytes < settings.write_bytes_max
            and engine.has_packet_ids
        ):
            entry = queue.popleft()
            while True:
                info = engine.publish(entry.topic, entry.data, entry.qos, entry.retain)
                if info.rc != QUEUE_SIZE:  # else the packet id is in use still: the next one then
                    break
            if entry.qos:
                entry.packet_id = info.mid
                self._answers[info.mid] = entry
                self._poke()
            else:
                self._flushes.append(entry)

    def _give_back(self) -> None:
        """The connection is lost: who has another way for a message takes it back."""
        sent = [entry for entry in self._answers.values() if entry.once and entry.qos < 2]
        waiting = [entry for entry in self._queue if entry.once]
        for entry in (*sent, *waiting):
            self._abandon(entry)
            entry.lost = True
            entry.done.set()

    def _abandon(self, entry: _Publish) -> None:
        if entry in self._queue:
            self._queue.remove(entry)
        elif entry.qos:
            self._engine.abandon(entry.packet_id)
            self._answers.pop(entry.packet_id, None)
            self._pump()

    async def subscribe(self, pattern: str, qos: int) -> trio.Event:
        """Returns when the broker has taken the subscription, which is made again with each connection from then on.

        Waits for a connection as long as it takes. The event is set when the broker refuses the subscription later.
        """
        check_pattern(pattern)
        wish = self._wishes.get(pattern)
        if wish is None or wish.qos != qos or wish.refused.is_set():
            wish = self._wishes[pattern] = _Wish(qos)
            if self.connected:
                self._ask({pattern: wish})
        await self._answered(pattern, wish)
        return wish.refused

    async def _answered(self, pattern: str, wish: _Wish) -> None:
        while not wish.answered.is_set():
            await self.wait_connected()
            session = self._session
            with trio.move_on_after(self.settings.answer_timeout_s):
                await wish.answered.wait()
            if not wish.answered.is_set() and self.connected and session == self._session:
                raise BrokerAway(self._late(f"subscribing to topic {pattern}"))
        if wish.refused.is_set():
            raise BrokerRefused(f"broker {self.settings.broker} refuses the subscription to topic {pattern}")

    def forget(self, pattern: str) -> None:
        """Do not make the subscription again; the broker's session may still have it."""
        self._wishes.pop(pattern, None)

    def unsubscribe(self, pattern: str) -> None:
        """End the subscription on the broker, as far as it can be reached now."""
        self.forget(pattern)
        if self.connected:
            self._engine.unsubscribe(pattern)

    def _ask(self, wishes: dict[str, _Wish]) -> None:
        fresh = {pattern: wish for pattern, wish in wishes.items() if wish.session != self._session}
        if fresh:
            _, packet_id = self._engine.subscribe([(pattern, wish.qos) for pattern, wish in fresh.items()])
            if packet_id is not None:
                self._asked[packet_id] = list(fresh.values())
                for wish in fresh.values():
                    wish.session = self._session
                self._poke()

    async def wait_connected(self) -> None:
        while not self.connected:
            await self._changed.wait()

    def settle(self, delivery: Delivery) -> None:
        """The receiver is done with the message: acknowledge it, now or when the broker sends it again."""
        self.held -= 1
        self._held_bytes -= delivery.size
        self._poke()
        packet_id = delivery.packet_id
        if not delivery.qos or self._in_hand.get(packet_id) is not delivery:
            return
        if delivery.session == self._session and self.connected:
            self._acknowledge(delivery)
        else:
            delivery.forget_data()
            delivery.done = True

    def _acknowledge(self, delivery: Delivery) -> None:
        del self._in_hand[delivery.packet_id]
        if delivery.qos == 2:
            self._unreleased.add(delivery.packet_id)
        self._engine.acknowledge(delivery.packet_id, delivery.qos)

    def _late(self, doing: str) -> str:
        broker = self.settings.broker
        if self.connected:
            return f"{doing}: broker {broker} did not answer within {self.settings.answer_timeout_s:g}s"
        return f"{doing}: not connected to broker {broker}: {self.reason}"

    # --- what the engine says

    def want_write(self, *_: object) -> None:
        self._write.set()

    def has_room(self) -> bool:
        """Whether more may be read."""
        settings = self.settings
        if self._answers or self._asked:
            return self._held_bytes < settings.receive_bytes_max * OVERDRAFT
        return self.held < settings.receive_messages_max and self._held_bytes < settings.receive_bytes_max

    def _poke(self) -> None:
        if self._room is not None and self.has_room():
            self._room.set()

    def take(self, delivery: Delivery) -> None:
        """A message came in."""
        self.counts.received += 1
        delivery.session = self._session
        packet_id = delivery.packet_id
        if delivery.qos:
            if delivery.qos == 2 and packet_id in self._unreleased:
                self._engine.acknowledge(packet_id, 2)
                return
            known = self._in_hand.get(packet_id)
            if known is not None and known.is_again(delivery):
                self.counts.repeated += 1
                known.session = self._session
                if known.done:
                    self._acknowledge(known)
                return
            self._in_hand[packet_id] = delivery
        elif self.held >= self.settings.receive_messages_max * OVERDRAFT:
            self._drop(delivery)
            return
        self.held += 1
        self._held_bytes += delivery.size
        self._receive(delivery)

    def _drop(self, delivery: Delivery) -> None:
        """QoS 0, and handlers do not keep up although they are why reading goes on."""
        self.counts.dropped += 1
        now = trio.current_time()
        if now >= self._drop_told_at + TELL_EVERY_S:
            self._drop_told_at = now
            logger.warning(
                "messages of QoS 0 from broker %s are dropped, %s until now: the app takes them too slowly, topic %s",
                self.settings.broker,
                self.counts.dropped,
                delivery.topic,
            )

    def refuse_oversized(self, topic: str, size: int) -> None:
        self.counts.oversized += 1
        logger.error(
            "a message of topic %s from broker %s has %s bytes and is dropped; the limit is the metadata"
            " maxMessageBytes (%s)",
            topic,
            self.settings.broker,
            size,
            self.settings.message_bytes_max,
        )

    def released(self, packet_id: int) -> None:
        self._unreleased.discard(packet_id)

    def published(self, packet_id: int) -> None:
        entry = self._answers.pop(packet_id, None)
        if entry is not None:
            entry.done.set()
        self._pump()

    def subscribed(self, packet_id: int, codes: Iterable[int]) -> None:
        for wish, code in zip(self._asked.pop(packet_id, ()), codes, strict=False):
            if code & 0x80:
                wish.refused.set()
            wish.answered.set()

    def accepted(self, session_present: bool, code: int) -> None:
        """CONNACK."""
        if code:
            self.reason = f"the broker refuses the connection: {_REFUSALS.get(code, f'code {code}')}"
            if code != _BROKER_BUSY:
                self.refused = BrokerRefused(f"broker {self.settings.broker}: {self.reason}")
            return
        if not session_present:
            self._in_hand.clear()
            self._unreleased.clear()
        self.connected = True
        self.counts.connected += 1
        self._connected_at = trio.current_time()
        self._tell()

    def _tell(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()
        self.on_change(self.connected)

    # --- the connection

    async def run(self) -> None:
        """Connect, and connect again, until cancelled or closed."""
        settings = self.settings
        wait_s = settings.reconnect_first_s
        evictions = 0
        while not self._closing:
            self._connected_at = 0.0
            await self._connect_once()
            lasted_s = trio.current_time() - self._connected_at if self._connected_at else -1
            if self._closing:
                return
            if lasted_s > STEADY_S:
                wait_s = settings.reconnect_first_s
            evictions = evictions + 1 if 0 <= lasted_s <= STEADY_S else 0
            self._log_failure(lasted_s >= 0, evictions)
            self.tried.set()
            with trio.move_on_after(wait_s * random.uniform(0.7, 1.0)):
                await self._reason_to_hurry()
            wait_s = min(wait_s * 2, settings.reconnect_most_s)

    async def _reason_to_hurry(self) -> None:
        """Until an attempt may come to more than the last: another network, or another date."""
        async with open_route_changes() as changes, trio.open_nursery() as nursery:
            if self._misdated:
                nursery.start_soon(_cancel_after_setting, nursery.cancel_scope)
            await changes.wait()
            nursery.cancel_scope.cancel()

    def _log_failure(self, lost: bool, evictions: int) -> None:
        broker = self.settings.broker
        if lost:
            logger.warning("the connection to MQTT broker %s was lost: %s; connecting again", broker, self.reason)
        elif self.reason != self._told:
            logger.warning("no connection to MQTT broker %s: %s; trying again", broker, self.reason)
        self._told = self.reason
        if evictions == EVICTIONS_TOLD:
            logger.error(
                "MQTT broker %s ends each connection of client id %r right after it was made. Most likely another"
                " client uses the same id, and the two evict each other: give each component, and each instance of"
                " the app, its own metadata consumerID",
                broker,
                self.settings.client_id,
            )

    async def _connect_once(self) -> None:
        """One connection from its beginning to its end; `reason` says how it ended."""
        self._scope = scope = trio.CancelScope()
        self.refused = None
        self._misdated = False
        with scope:
            try:
                stream = await self._open()
            except (OSError, trio.BrokenResourceError, trio.TooSlowError, ValueError) as error:
                self._note_failure(error)
                return
            try:
                await self._converse(stream)
            finally:
                await trio.aclose_forcefully(stream)
        was_connected, self.connected = self.connected, False
        self._finish_flushes(self._flushes, lost=True)
        self._give_back()
        self._asked.clear()
        if was_connected:
            self._tell()

    def _note_failure(self, error: Exception) -> None:
        cause = error.__cause__
        if self.settings.tls is not None and isinstance(cause, ssl.SSLCertVerificationError):
            self.reason = f"its certificate cannot be verified: {cause.verify_message}"
            self._misdated = cause.verify_code in _WRONG_DATE
            if self._misdated:
                self.reason += (
                    f"; this machine's clock says {time.strftime('%Y-%m-%d')}: when that is wrong, set it or let a time"
                    " server set it, and the broker is tried again at once; else the certificate is to be renewed"
                )
            else:
                self.refused = BrokerRefused(f"broker {self.settings.broker}: {self.reason}")
        elif isinstance(error, trio.TooSlowError):
            self.reason = f"no connection within {self.settings.connect_timeout_s:g}s"
        else:
            self.reason = _said(error)

    async def _open(self) -> trio.abc.Stream:
        settings = self.settings
        with trio.fail_after(settings.connect_timeout_s):
            plain = await _open_tcp(settings)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # What is sent and not taken by the other end for so long is a dead connection, also while we do not read.
            user_timeout_ms = int((settings.keepalive_s + settings.ping_timeout_s) * 1000)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, user_timeout_ms)
            self._socket = plain
            stream: trio.abc.Stream = plain
            try:
                if settings.tls is not None:
                    secured = trio.SSLStream(
                        plain, settings.tls(), server_hostname=settings.host, https_compatible=True
                    )
                    await secured.do_handshake()
                    stream = secured
                if settings.websocket_path is not None:
                    from edge_runtime.net.websocket import open_websocket

                    stream = await open_websocket(stream, settings.broker, settings.websocket_path)
            except BaseException:
                await trio.aclose_forcefully(stream)
                raise
        return stream

    async def _converse(self, stream: trio.abc.Stream) -> None:
        self._session += 1
        self._heard = self._room = None
        self._last_in = self._last_out = trio.current_time()
        self._engine.begin()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write_all, stream)
            nursery.start_soon(self._read_all, stream)
            with trio.move_on_after(self.settings.connect_timeout_s):
                await self.wait_connected()
            if not self.connected:
                self._lose(f"no answer to CONNECT within {self.settings.connect_timeout_s:g}s")
                return
            self.tried.set()
            logger.info("connected to MQTT broker %s as %r", self.settings.broker, self.settings.client_id)
            self._ask(self._wishes)
            self._pump()
            nursery.start_soon(self._keep_alive)

    def _lose(self, reason: str) -> None:
        if not self._scope.cancel_called:
            if not self.refused:
                self.reason = reason
            self._scope.cancel()

    async def _write_all(self, stream: trio.abc.Stream) -> None:
        while True:
            await self._write.wait()
            self._write = trio.Event()
            flushes = self._flushes[:]
            data = self._engine.output()
            if data is None:
                self._lose("the protocol was broken")
                return
            self._last_out = trio.current_time()
            try:
                if data:
                    await stream.send_all(data)
            except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
                self._lose(_said(error))
                return
            self._finish_flushes(flushes, lost=False)
            self._pump()

    def _finish_flushes(self, flushes: list[_Publish], *, lost: bool) -> None:
        for entry in flushes:
            entry.lost = lost
            entry.done.set()
        del self._flushes[: len(flushes)]

    async def _read_all(self, stream: trio.abc.Stream) -> None:
        engine = self._engine
        while True:
            try:
                data = await stream.receive_some(READ_BYTES)
            except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
                self._lose(_said(error))
                return
            if not data:
                self._lose("the broker closed the connection")
                return
            if self._closing:
                continue
            self._hear()
            self._acknowledge_at_once()
            while True:
                if not engine.feed(bytes(data)):
                    self._lose("the broker's answer was no MQTT 3.1.1")
                    return
                if not engine.unread:
                    break
                data = b""
                self._room = trio.Event()
                await self._room.wait()
                self._room = None
                self._hear()

    def _acknowledge_at_once(self) -> None:
        """Brokers seldom switch Nagle's algorithm off: a second small packet of theirs waits for TCP's acknowledgement
        of the first, which Linux likes to hold back for 40 ms. The option lasts until the kernel thinks otherwise."""
        if self._socket is not None:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def _hear(self) -> None:
        self._last_in = trio.current_time()
        if self._heard is not None:
            self._heard.set()

    async def _keep_alive(self) -> None:
        """Pings when nothing was sent or nothing came for the interval; what is unread counts as a sign of life."""
        settings = self.settings
        while True:
            now = trio.current_time()
            last = self._last_out if self._room is not None else min(self._last_out, self._last_in)
            if now < last + settings.keepalive_s:
                await trio.sleep_until(last + settings.keepalive_s)
                continue
            self._heard = heard = trio.Event()
            self._engine.ping()
            self._write.set()
            self._last_out = now
            if self._room is None:
                with trio.move_on_after(settings.ping_timeout_s):
                    await heard.wait()
                if not heard.is_set() and self._room is None:
                    self._lose(f"no answer to a ping within {settings.ping_timeout_s:g}s")
            self._heard = None
            self._last_in = max(self._last_in, now)

    async def close(self) -> None:
        """Says goodbye, so that no will is published. What is acknowledged until now reaches the broker."""
        self._closing = True
        if not self.connected:
            self._scope.cancel()
            return
        if self._room is not None:  # from here on what comes is read and let go: unread, it would break the goodbye
            self._room.set()
        self._engine.disconnect()
        self._write.set()
        while self.connected:  # the broker closes the connection
            await self._changed.wait()


async def _open_tcp(settings: LinkSettings) -> trio.SocketStream:
    """A route that comes back while an attempt hangs in its silence begins it anew."""
    async with open_route_changes() as changes:
        while True:
            opened: trio.SocketStream | None = None
            failure: OSError | None = None
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_cancel_after_change, changes, nursery.cancel_scope)
                    try:
                        opened = await trio.open_tcp_stream(settings.host, settings.port)
                    except OSError as error:
                        failure = error
                    nursery.cancel_scope.cancel()
            except BaseException:
                if opened is not None:
                    opened.socket.close()
                raise
            if opened is not None:
                return opened
            if failure is not None:
                raise failure


async def _cancel_after_change(changes: RouteChanges, scope: trio.CancelScope) -> None:
    await trio.sleep(1)
    await changes.wait()
    scope.cancel()


async def _cancel_after_setting(scope: trio.CancelScope) -> None:
    await until_clock_is_set(time.time)
    scope.cancel()


def _said(error: Exception) -> str:
    cause = leaves(error.__cause__ or error)[0]
    reason = (cause.strerror if isinstance(cause, OSError) else None) or str(cause) or type(cause).__name__
    return reason[:1].lower() + reason[1:]


def do_nothing(_: bool) -> None:
    """Nobody wants to know whether the link is up."""


@asynccontextmanager
async def open_link(settings: LinkSettings, receive: Callable[[Delivery], None]) -> AsyncIterator[Link]:
    """A link that connects in the background; `link.tried` is set when the first attempt is over."""
    link = Link(settings, receive)
    running = trio.CancelScope(shield=True)  # the goodbye needs the connection
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_run_within, running, link)
        try:
            yield link
        finally:
            with trio.move_on_after(CLOSE_TIMEOUT_S, shield=True):
                await link.close()
            running.cancel()


async def _run_within(scope: trio.CancelScope, link: Link) -> None:
    with scope:
        await link.run()
