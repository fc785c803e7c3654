"""The configuration building block: stores by name, and who follows them.

A subscription of an app over HTTP belongs to the app, not to a connection: it lasts until the app ends it, also over a
reload of the files. One over a stream ends with its stream.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Literal, NamedTuple, Protocol, TypeVar

import trio

from edge_runtime.blocks.configuration.app import AppUpdates
from edge_runtime.blocks.configuration.subscription import End, Subscription
from edge_runtime.model.errors import DriverError, EdgeError, Kind, Overloaded
from edge_runtime.model.ports import AppChannel, ConfigurationItem, ConfigurationStore, Policy
from edge_runtime.net.lifetimes import hold_nursery
from edge_runtime.observability.metrics import Metrics
from edge_runtime.resiliency.component_calls import ComponentCalls
from edge_runtime.resiliency.runner import NO_POLICY

T = TypeVar("T")

DRAIN_LIMIT_S: Final = 30.0
_NO_APP: Final = "app channel is not initialized. cannot subscribe to configuration updates"


class Policies(Protocol):
    """What this block asks of resiliency."""

    def for_component(
        self, name: str, kind: Literal["Configuration"], direction: Literal["Inbound", "Outbound"]
    ) -> Policy: ...


class ConfigurationLimits(NamedTuple):
    """Of one app."""

    subscriptions_max: int = 1024


class KeptSubscription(NamedTuple):
    """What an app over HTTP asked to be told of."""

    store: str
    keys: Sequence[str]
    metadata: Mapping[str, str]


class Client(Protocol):
    """The other end of a stream, as a face speaks to it."""

    async def send(self, subscription_id: str, items: Mapping[str, ConfigurationItem]) -> bool:
        """Returns when there is room for more; False when the stream is lost. First comes the id without items."""


class SubscriptionsStopped(DriverError):
    """Deliveries are being stopped; a subscription that comes later will be served."""


class UnknownSubscription(DriverError):
    """There is no subscription of that id; asking again changes nothing."""

    permanent = True


class Configuration:
    """Settings as every API face sees them, until the files are read again."""

    def __init__(
        self,
        stores: Mapping[str, ConfigurationStore],
        channel: AppChannel | None = None,
        policies: Policies | None = None,
        metrics: Metrics | None = None,
        namespace: str = "",
        kept: dict[str, KeptSubscription] | None = None,
        limits: ConfigurationLimits = ConfigurationLimits(),  # noqa: B008 - immutable
    ) -> None:
        """`kept` has the app's subscriptions by id; whoever gives it keeps them longer than this object."""
        self._stores = stores
        self._app = None if channel is None else AppUpdates(channel)
        self._policies = policies
        self._kept = {} if kept is None else kept
        self._limits = limits
        self._open: dict[str, Subscription] = {}
        self._streams: dict[str, Subscription] = {}  # longer than they are open: until they are released
        self._nursery: trio.Nursery | None = None
        self._begun = trio.Event()
        self._stopping = trio.Event()
        self._released = trio.Event()
        self._calls = ComponentCalls(metrics or Metrics(), "component_configuration", namespace)

    # --- what apps ask for --------------------------------------------------------------------------------------------

    async def get(
        self, store_name: str, keys: Sequence[str], metadata: Mapping[str, str]
    ) -> Mapping[str, ConfigurationItem]:
        """The items that are there; all of the store when no key is named."""
        store = self._store(store_name)
        try:
            return await self._run(store_name, "get", lambda: store.get(keys, metadata))
        except DriverError as error:
            text = f"failed to get {_listed(keys)} from Configuration store {store_name}: {error}"
            raise EdgeError(Kind.CONFIGURATION_GET, text) from error

    async def subscribe(self, store_name: str, keys: Sequence[str], metadata: Mapping[str, str]) -> str:
        """Tell the app of changes by requests; the id of the subscription."""
        store = self._store(store_name)
        if self._app is None:
            raise EdgeError(Kind.CONFIGURATION_NO_APP, _NO_APP)
        kept = KeptSubscription(store_name, tuple(keys), metadata)
        subscription = self._of_app(random_id(), kept, store, self._app)
        await self._begun.wait()
        self._forget_repeated(kept)
        if self._nursery is not None and not self._stopping.is_set():
            await self._start(subscription, keys, self._nursery)
        # Else the files are being read again: whoever follows begins it.
        self._kept[subscription.id] = kept
        return subscription.id

    def _forget_repeated(self, kept: KeptSubscription) -> None:
        """At the limit the oldest of the same request goes: an app that was restarted asks again, and ends none."""
        if len(self._kept) < self._limits.subscriptions_max:
            return
        again = next((found for found, other in self._kept.items() if other == kept), None)
        if again is not None:
            del self._kept[again]
            subscription = self._open.pop(again, None)
            if subscription is not None:
                subscription.end(End.UNSUBSCRIBED)

    async def stream(self, store_name: str, keys: Sequence[str], metadata: Mapping[str, str], client: Client) -> End:
        """Tell `client` of changes until one side ends it. Raises `SubscriptionsStopped` when it comes too late."""
        store = self._store(store_name)
        if self._stopping.is_set():
            await self._released.wait()  # whoever comes back at once then finds what follows
            raise SubscriptionsStopped("subscriptions are being stopped")
        opened = trio.Event()

        async def tell(subscription_id: str, items: Mapping[str, ConfigurationItem]) -> None:
            await opened.wait()
            if not await client.send(subscription_id, items):
                subscription.end(End.CLIENT)

        subscription = Subscription(random_id(), store_name, store, keys, metadata, tell)
        self._streams[subscription.id] = subscription
        try:
            failure = await self._serve(subscription, keys, client, opened)
        finally:
            del self._streams[subscription.id]
        if failure is not None:
            raise failure
        return subscription.reason

    async def _serve(
        self, subscription: Subscription, keys: Sequence[str], client: Client, opened: trio.Event
    ) -> EdgeError | None:
        """Until the stream is over; why it did not begin, out of the group that a nursery would put around it."""
        failure: EdgeError | None = None
        async with trio.open_nursery() as nursery:
            try:
                await self._start(subscription, keys, nursery)
                if not await client.send(subscription.id, {}):
                    subscription.end(End.CLIENT)
                opened.set()
                await subscription.over.wait()
            except EdgeError as error:
                failure = error
            nursery.cancel_scope.cancel()
        return failure

    async def unsubscribe(self, store_name: str, subscription_id: str) -> None:
        """Raises `DriverError` when there is no such subscription."""
        self._store(store_name)
        await self._run(store_name, "unsubscribe", lambda: self._unsubscribe(store_name, subscription_id))

    async def _unsubscribe(self, store_name: str, subscription_id: str) -> None:
        subscription = self._streams.get(subscription_id) or self._open.get(subscription_id)
        kept = self._kept.get(subscription_id)
        followed = subscription is not None and subscription.name == store_name and not subscription.over.is_set()
        if not followed and (kept is None or kept.store != store_name):
            raise UnknownSubscription(f"subscription with id {subscription_id} does not exist")
        self._kept.pop(subscription_id, None)
        if subscription is not None:
            subscription.end(End.UNSUBSCRIBED)

    # --- the life of subscriptions ------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled; then what is being told is told, and nothing more. Streams stay open until `release`."""
        life = trio.CancelScope(shield=True)  # what is being told outlasts the cancellation of this task
        async with trio.open_nursery() as outer:
            with trio.CancelScope(shield=True):
                nursery: trio.Nursery = await outer.start(hold_nursery, life)
            self._nursery = nursery
            self._resume(nursery)
            self._begun.set()
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                self._stopping.set()
                with trio.CancelScope(shield=True):  # bounded by the drain limit
                    async with trio.open_nursery() as ending:
                        for subscription in list(self._open.values()):
                            ending.start_soon(subscription.finish, DRAIN_LIMIT_S)
                self._nursery = None
                life.cancel()

    def release(self) -> None:
        """Everything that had to finish has: end the streams."""
        self._stopping.set()
        self._begun.set()
        self._released.set()
        for subscription in [*self._streams.values(), *self._open.values()]:
            subscription.end(End.STOPPED)

    def _resume(self, nursery: trio.Nursery) -> None:
        """What the app asked for before the files were read again; a store that is gone may come back."""
        for subscription_id, kept in self._kept.items():
            store = self._stores.get(kept.store)
            if store is not None and self._app is not None:
                nursery.start_soon(self._follow_again, self._of_app(subscription_id, kept, store, self._app))

    async def _follow_again(self, subscription: Subscription) -> None:
        self._open[subscription.id] = subscription
        try:
            await subscription.resume()
        finally:
            self._open.pop(subscription.id, None)

    def _of_app(
        self, subscription_id: str, kept: KeptSubscription, store: ConfigurationStore, app: AppUpdates
    ) -> Subscription:
        policy = self._policy(kept.store, "Inbound")

        async def tell(subscription_id: str, items: Mapping[str, ConfigurationItem]) -> None:
            await app.tell(subscription_id, kept.store, items, policy)

        return Subscription(subscription_id, kept.store, store, kept.keys, kept.metadata, tell)

    async def _start(self, subscription: Subscription, keys: Sequence[str], nursery: trio.Nursery) -> None:
        """Returns once the store is followed."""
        name = subscription.name

        async def begin() -> None:
            count = max(len(self._open), len(self._kept))
            if count >= self._limits.subscriptions_max:
                raise Overloaded(f"there are {count} subscriptions, which is the limit; unsubscribe from some")
            await nursery.start(self._follow, subscription)

        try:
            await self._run(name, "subscribe", begin)
        except DriverError as error:
            text = f"failed to subscribe {_listed(keys)} from Configuration store {name}: {error}"
            raise EdgeError(Kind.CONFIGURATION_SUBSCRIBE, text) from error

    async def _follow(self, subscription: Subscription, *, task_status: trio.TaskStatus[None]) -> None:
        self._open[subscription.id] = subscription
        try:
            await subscription.run(task_status=task_status)
        finally:
            self._open.pop(subscription.id, None)

    # --- stores -------------------------------------------------------------------------------------------------------

    def _store(self, name: str) -> ConfigurationStore:
        if not self._stores:
            raise EdgeError(Kind.CONFIGURATION_STORE_NOT_CONFIGURED, "configuration stores not configured")
        store = self._stores.get(name)
        if store is None:
            raise EdgeError(Kind.CONFIGURATION_STORE_NOT_FOUND, f"configuration store {name} not found")
        return store

    def _policy(self, name: str, direction: Literal["Inbound", "Outbound"]) -> Policy:
        if self._policies is None:
            return NO_POLICY
        return self._policies.for_component(name, "Configuration", direction)

    async def _run(self, name: str, operation: str, call: Callable[[], Awaitable[T]]) -> T:
        return await self._calls.run(name, operation, self._policy(name, "Outbound"), call)


def _listed(keys: Sequence[str]) -> str:
    return f"[{' '.join(keys)}]"


def random_id() -> str:
    """A UUID of version 4."""
    digits = os.urandom(16).hex()
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"
