"""Streaming subscriptions: events over streams that clients open, each with a broker subscription of its own.

    broker ── handle ── deliver ── write ─► client ─► read ── reply to the handler ── ack, nack or dead letter

One task writes, so that a message is always sent whole, whatever a policy's timeout gives up meanwhile; a client that
does not read holds up the writer, the writer the handlers, and these the broker. What a client has not answered when it
leaves is neither acknowledged nor refused: its handlers are cancelled, and the broker delivers it to whoever subscribes
next.
"""

from __future__ import annotations

import enum
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, Protocol

import trio

from edge_runtime.blocks.pubsub.app import Batch, DeliveryFailed, Event, Verdict
from edge_runtime.blocks.pubsub.bindings import PubSubBinding
from edge_runtime.blocks.pubsub.delivery import Case, Delivery, IngressMetrics, Routed, Tools
from edge_runtime.blocks.pubsub.publish import ComponentPolicies, Publisher, random_id
from edge_runtime.blocks.pubsub.rules import Rule
from edge_runtime.blocks.pubsub.running import Running
from edge_runtime.blocks.pubsub.subscriber import row_of
from edge_runtime.blocks.pubsub.subscriptions import SubscriptionKind, SubscriptionSpec
from edge_runtime.model.errors import DriverError
from edge_runtime.net.lifetimes import hold_nursery
from edge_runtime.observability.metrics import Metrics

logger: Final = logging.getLogger("dapr.runtime.pubsub.streamer")

# How long a client that has left is given for what it answered before: acknowledgements and copies to dead letters.
LEAVE_LIMIT_S: Final = 5.0


class StreamLimits(NamedTuple):
    """Of one app. `in_flight_max` counts the events of one stream that are sent and not answered."""

    streams_max: int = 192
    in_flight_max: int = 64
    drain_s: float = 30.0


class Outcome(NamedTuple):
    """A client's reply to the event of that id."""

    event_id: str
    verdict: Verdict | DeliveryFailed


class Client(Protocol):
    """The other end of a stream, as a face speaks to it. A stream that is lost ends the replies and raises nothing."""

    async def opened(self) -> None:
        """Tell the client that events can come."""

    def prepare(self, event: Event, path: str) -> tuple[str, Any]:
        """The event's id and its message. Raises `DeliveryFailed` when it cannot be one."""

    async def send(self, message: Any) -> None:
        """Returns when there is room for more. Raises `DeliveryFailed` for a message that is too large."""

    async def receive(self) -> Outcome | None:
        """The next reply; None when the client sends no more."""


class End(enum.Enum):
    """Why a stream is over."""

    CLIENT = "the client ended it"
    STOPPED = "deliveries were stopped"


class StreamsFull(DriverError):
    """The app has as many streams as it may have."""


class StreamsStopped(DriverError):
    """Deliveries are being stopped; a stream that comes later will be served."""


class NotSubscribed(DriverError):
    """The broker, or the component's scopes, refused the subscription."""


class Streams:
    """The streaming subscriptions of one app, until its files are read again."""

    def __init__(
        self,
        app_id: str,
        namespace: str,
        policies: ComponentPolicies,
        publisher: Publisher,
        metrics: Metrics,
        limits: StreamLimits = StreamLimits(),  # noqa: B008 - immutable
        *,
        new_id: Callable[[], str] = random_id,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._app_id = app_id
        self._limits = limits
        self._publisher = publisher
        self._shared = (publisher, policies, IngressMetrics(metrics, namespace), new_id, now)
        self._open: dict[_Subscription, None] = {}  # in the order of their beginning
        self.stopping = trio.Event()
        self.released = trio.Event()

    def active(self) -> list[dict[str, Any]]:
        """The rows of the metadata API."""
        return [row_of(subscription.spec) for subscription in self._open]

    async def serve(
        self, pubsub: str, topic: str, metadata: Mapping[str, str], dead_letter_topic: str, client: Client
    ) -> End:
        """Deliver the topic's events to `client` until one side ends it.

        Raises `EdgeError` for a component that is not there, and a `DriverError` for a stream that cannot be served.
        """
        binding = self._publisher.binding(pubsub)
        if self.stopping.is_set():
            await self.released.wait()  # whoever comes back at once then finds what follows
            raise StreamsStopped("subscriptions are being stopped")
        if not binding.scopes.may_subscribe(topic):
            raise NotSubscribed(f"subscription to topic '{topic}' on pubsub '{pubsub}' is not allowed")
        if len(self._open) >= self._limits.streams_max:
            full = f"app {self._app_id} has {len(self._open)} streaming subscriptions already"
            raise StreamsFull(f"{full}; raise --subscription-streams")
        spec = SubscriptionSpec(
            pubsub, topic, (Rule("", "/"),), metadata, dead_letter_topic, kind=SubscriptionKind.STREAMING
        )
        subscription = _Subscription(spec, binding, client, self)
        self._open[subscription] = None
        logger.info("app %s subscribes to topic %s on pubsub %s by a stream", self._app_id, topic, pubsub)
        try:
            return await subscription.serve()
        finally:
            del self._open[subscription]
            logger.info("app %s unsubscribed from topic %s on pubsub %s", self._app_id, topic, pubsub)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled; then nothing more is sent, and it returns when replies in flight have come.

        The streams stay open until `release`, so that who comes back finds what follows.
        """
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            self.stopping.set()
            with trio.CancelScope(shield=True):  # bounded by the limits of each stream
                for subscription in list(self._open):
                    await subscription.drained.wait()

    def release(self) -> None:
        """Everything that had to finish has: end the streams."""
        self.stopping.set()
        self.released.set()

    @property
    def limits(self) -> StreamLimits:
        return self._limits

    def tools(self, stream: ClientStream) -> Tools:
        """What a stream's deliveries work with."""
        return Tools(stream, *self._shared)


class _Subscription:
    """One stream from its first message to its last."""

    def __init__(self, spec: SubscriptionSpec, binding: PubSubBinding, client: Client, streams: Streams) -> None:
        limits = streams.limits
        self.spec = spec
        self._client = client
        self._streams = streams
        self._stream = ClientStream(client, limits.in_flight_max)
        self._delivery = _StreamDelivery(spec, binding, streams.tools(self._stream))
        self._running = Running(spec, binding, self._delivery, concurrency=limits.in_flight_max)
        self._broker_left = trio.Event()
        self._work = trio.CancelScope()
        self.drained = trio.Event()  # nothing of it needs the broker any more

    async def serve(self) -> End:
        end = End.CLIENT
        life = trio.CancelScope(shield=True)  # deliveries outlast the cancellation of this task
        async with trio.open_nursery() as nursery:
            with trio.CancelScope(shield=True):
                deliveries = await nursery.start(hold_nursery, life)
            deliveries.start_soon(self._subscribe)
            nursery.start_soon(self._follow_stop)
            try:
                with self._work:
                    await self._exchange(nursery)
                if self._work.cancelled_caught:
                    end = End.STOPPED
            except trio.Cancelled:
                with trio.move_on_after(0, shield=True):  # what has arrived before the end, without waiting
                    await self._stream.read()
                raise
            finally:
                with trio.CancelScope(shield=True):  # bounded by what it waits for
                    await self._leave()
                life.cancel()
                nursery.cancel_scope.cancel()
        if self._running.failure and end is End.CLIENT and not self._stream.began:
            raise NotSubscribed(self._running.failure)
        return end

    async def _exchange(self, nursery: trio.Nursery) -> None:
        await self._running.tried.wait()
        if self._running.failure:
            return
        await self._client.opened()
        nursery.start_soon(self._stream.write)
        await self._stream.read()

    async def _subscribe(self) -> None:
        try:
            await self._running.run()
        finally:
            self._broker_left.set()

    async def _follow_stop(self) -> None:
        """Deliveries are stopped: wait for replies, then for the word to end the stream."""
        await self._streams.stopping.wait()
        self._close()
        with trio.move_on_after(self._streams.limits.drain_s):
            await self._stream.answered()
        with trio.CancelScope(shield=True):
            await self._leave()
        await self._streams.released.wait()
        self._work.cancel()

    def _close(self) -> None:
        self._delivery.gate.close()
        self._stream.stop_sending()

    async def _leave(self) -> None:
        """Finish what has been answered, give back the rest, and leave the broker."""
        self._close()
        self._delivery.abort()
        with trio.move_on_after(LEAVE_LIMIT_S):
            await self._delivery.gate.drained()
        self._running.scope.cancel()
        await self._broker_left.wait()
        self.drained.set()


class _StreamDelivery(Delivery):
    """A delivery whose attempts can be given up all at once."""

    def __init__(self, spec: SubscriptionSpec, binding: PubSubBinding, tools: Tools) -> None:
        super().__init__(spec, binding, tools)
        self._attempts: set[trio.CancelScope] = set()

    async def _deliver(self, routed: Routed) -> Case:
        attempts = trio.CancelScope()
        self._attempts.add(attempts)
        try:
            with attempts:
                return await super()._deliver(routed)
        finally:
            self._attempts.discard(attempts)
        return Case.FAILED

    def abort(self) -> None:
        """Whatever still waits for a reply, or for the next attempt, has failed."""
        for attempts in self._attempts:
            attempts.cancel()


class _Pending:
    """An event and the reply that its handler waits for."""

    __slots__ = ("done", "event", "event_id", "path", "reply")

    def __init__(self, event: Event, path: str) -> None:
        self.event = event
        self.path = path
        self.event_id = ""
        self.reply: Verdict | DeliveryFailed | None = None
        self.done = trio.Event()

    def settle(self, reply: Verdict | DeliveryFailed) -> None:
        self.reply = reply
        self.done.set()


class ClientStream:
    """The events of one stream on their way to the client and back, told apart by their CloudEvent ids.

    Of several events with one id (or with none) only one is with the client at a time, the others wait for its reply.
    """

    def __init__(self, client: Client, in_flight_max: int) -> None:
        self._client = client
        self._in_flight_max = in_flight_max
        self._unsent: deque[_Pending] = deque()
        self._sent: dict[str, _Pending] = {}
        self._held: dict[str, deque[_Pending]] = {}
        self._changed = trio.Event()  # there may be something to send
        self._answered = trio.Event()
        self._stopped = False
        self.began = False

    # --- from the broker --------------------------------------------------------------------------------------------

    async def deliver(self, event: Event, path: str) -> Verdict:
        """What the client says of the event. Raises `DeliveryFailed` when it is to be delivered again."""
        pending = _Pending(event, path)
        if not self._stopped:
            self._unsent.append(pending)
            self._changed.set()
        try:
            await pending.done.wait()  # once stopped, until the attempt is given up
        except trio.Cancelled:
            self._forget(pending)
            raise
        if isinstance(pending.reply, DeliveryFailed):
            raise pending.reply
        assert pending.reply is not None
        return pending.reply

    async def deliver_bulk(self, batch: Batch, path: str) -> Mapping[str, Verdict]:
        raise DeliveryFailed("a stream takes no batches")

    def _forget(self, pending: _Pending) -> None:
        """Nobody waits for its reply any more: the policy gave the attempt up, or the subscription ends."""
        if self._sent.get(pending.event_id) is pending:
            self._take(pending.event_id)
            return
        for waiting in (self._unsent, self._held.get(pending.event_id, ())):
            if pending in waiting:
                waiting.remove(pending)  # type: ignore[union-attr]

    # --- to the client ----------------------------------------------------------------------------------------------

    async def write(self) -> None:
        """Send what there is, one event after the other, until cancelled or the stream is lost."""
        try:
            while True:
                while not self._unsent or len(self._sent) >= self._in_flight_max:
                    self._changed = trio.Event()
                    await self._changed.wait()
                await self._send(self._unsent.popleft())
        except DriverError as error:
            logger.debug("a stream is lost: %s", error)  # the reader sees its end

    async def _send(self, pending: _Pending) -> None:
        try:
            pending.event_id, message = self._client.prepare(pending.event, pending.path)
            if pending.event_id in self._sent:
                self._held.setdefault(pending.event_id, deque()).append(pending)
                return
            self._sent[pending.event_id] = pending
            await self._client.send(message)
        except DeliveryFailed as error:
            if self._sent.get(pending.event_id) is pending:
                self._take(pending.event_id)
            pending.settle(error)

    def _take(self, event_id: str) -> _Pending | None:
        """The event that is with the client; the next with that id may follow it."""
        pending = self._sent.pop(event_id, None)
        held = self._held.get(event_id)
        if held:
            self._unsent.appendleft(held.popleft())
        if not held:
            self._held.pop(event_id, None)
        self._changed.set()
        if not self._sent:
            self._answered.set()
        return pending

    # --- replies ----------------------------------------------------------------------------------------------------

    async def read(self) -> None:
        """Take replies, in any order, until the client sends no more."""
        self.began = True
        while (reply := await self._client.receive()) is not None:
            pending = self._take(reply.event_id) if reply.event_id in self._sent else None
            if pending is None:
                logger.debug("a reply to event %r, which nobody waits for", reply.event_id)
            else:
                pending.settle(reply.verdict)

    def stop_sending(self) -> None:
        """What is not sent stays with its handler, which will be cancelled."""
        self._stopped = True
        self._unsent.clear()
        self._held.clear()
        if not self._sent:
            self._answered.set()

    async def answered(self) -> None:
        """After `stop_sending`: wait for the replies to what was sent."""
        while self._sent:
            self._answered = trio.Event()
            await self._answered.wait()
