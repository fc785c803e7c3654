"""The node's cloud links: one for all apps whose files name the same, open as long as one of them does.

    app's publish ── forward ──► outbox ── send ──► link ──► other sidecar
    other sidecar ── stream ──► link ──► one of the apps' components

An app joins with what it has to offer for the way down: its pub/sub components.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import trio

from edge_runtime.model.errors import DriverError
from edge_runtime.model.ports import Outbox, PubSub, RouteSettings
from edge_runtime.observability.metrics import Metrics
from edge_runtime.sync.link import Link
from edge_runtime.sync.link_calls import LinkCalls
from edge_runtime.sync.link_files import FOLDER, DayFile, PauseMark
from edge_runtime.sync.link_report import link_dry_run, link_status
from edge_runtime.sync.link_routes import LinkRoute
from edge_runtime.sync.link_settings import Clocks, LinkMetrics, LinkSettings, LinkState
from edge_runtime.sync.outbox_route import OutboxRoute
from edge_runtime.sync.remote import RemoteSidecar
from edge_runtime.sync.supervise import PAUSES, describe, supervised
from edge_runtime.sync.topics_up import TopicUpRoute, route_settings
from edge_runtime.wire import cloudevents

if TYPE_CHECKING:
    from edge_runtime.sync.state import RemoteState
    from edge_runtime.sync.state_routes import StateRoutes
    from edge_runtime.sync.topics_down import TopicDownRoute

logger: Final = logging.getLogger("dapr.runtime.link")

STATES_PUBSUB: Final = "pubsub"
STATES_TOPIC: Final = "edge.links"
STATES_TYPE: Final = "io.edge-runtime.link.state"
_LEAVE_LIMIT_S: Final = 5.0
# So long is waited for a broker that does not take a change of state.
_TELL_LIMIT_S: Final = 5.0

Forward = Callable[[bytes, Mapping[str, str]], Awaitable[None]]


class LocalPubSub(Protocol):
    """A pub/sub component of an app, as far as links are concerned."""

    @property
    def driver(self) -> PubSub: ...
    @property
    def topic_prefix(self) -> str: ...


class Guest(NamedTuple):
    """An app that has a link in its files, with what it offers for the way down."""

    app_id: str
    components: Mapping[str, LocalPubSub]


class SharedLink:
    """A link with its routes, and the apps that have it in their files."""

    def __init__(self, link: Link, outbox: Outbox, node: Callable[[], str], clocks: Clocks) -> None:
        self.link = link
        self.remote = RemoteSidecar(link)
        self.guests: list[Guest] = []
        self.scope = trio.CancelScope()
        self.closed = trio.Event()
        self.locks: dict[object, trio.Lock] = {}  # of what only one of the apps does
        self._outbox = outbox
        self._node = node
        self._clocks = clocks
        self.routes: list[LinkRoute] = []  # of every kind; who serves one puts it in, and takes it out
        self._ups = [TopicUpRoute(topic, self.remote, clocks.wall) for topic in link.settings.resource.topics_up]
        self.calls = LinkCalls(link, clocks)
        self._waiting: list[tuple[OutboxRoute, RouteSettings]] = [
            *((up, route_settings(link.name, up.topic)) for up in self._ups),
            *self.calls.waiting(),
        ]

    def forwards(self) -> dict[tuple[str, str], Forward]:
        """What takes an app's events, by component and topic."""
        return {(up.topic.pubsub, up.topic.topic): up.take for up in self._ups}

    def remote_state(self) -> RemoteState:
        """The state of the other side: over gRPC where the link has that, as HTTP can carry JSON only."""
        if not self.link.settings.resource.grpc:
            return self.remote
        from edge_runtime.sync.grpc_state import GrpcState

        return GrpcState(self.link)

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Serve until the scope is cancelled. `started` is said once every route that can be opened takes events."""
        name = self.link.name
        begun = False
        try:
            with self.scope:
                async with trio.open_nursery() as nursery:
                    self.link.listeners.append(self._follow)
                    for route, settings in self._waiting:
                        self.routes.append(route)
                        await nursery.start(self._serve_waiting, route, settings)
                    self.routes += self.calls.direct
                    task_status.started()
                    begun = True
                    nursery.start_soon(self.link.run)
                    nursery.start_soon(supervised, self._tell_apps, f"cloud link {name}: topic {STATES_TOPIC}")
                    for down in self._downs():
                        self.routes.append(down)
                        nursery.start_soon(supervised, down.run, f"cloud link {name}: {down.name}", down.failed)
        except Exception:  # each task is supervised; what comes here all the same must not end the node
            if not begun:
                raise
            logger.exception("cloud link %s has failed; a reload opens it again", name)
        finally:
            self.closed.set()

    async def _serve_waiting(
        self, up: OutboxRoute, settings: RouteSettings, *, task_status: trio.TaskStatus[None]
    ) -> None:
        """Keep a route in the outbox open. While it cannot be, as on a full disk, what it is given is refused."""
        begun = False
        pause_s = PAUSES.first_s
        while True:
            try:
                async with self._outbox.open_route(settings, up.send) as up.route:
                    up.follow(LinkState("up") if self.link.usable else self.link.state)
                    if not begun:
                        task_status.started()
                        begun = True
                    await trio.sleep_forever()
            except Exception as error:  # each route for itself, whatever it is
                known, up.fault = up.fault, str(error) if isinstance(error, DriverError) else describe(error)
                if up.fault != known:  # a full disk is met again and again
                    unexpected = None if isinstance(error, DriverError) else error
                    text = "cloud link %s: %s cannot be opened, what it is given is refused: %s; tried again"
                    logger.error(text, self.link.name, settings.name, up.fault, exc_info=unexpected)
            finally:
                up.route = None
            if not begun:
                task_status.started()
                begun = True
            await trio.sleep(pause_s)
            pause_s = min(pause_s * 2, PAUSES.most_s)

    def _follow(self, state: LinkState) -> None:
        for route, _ in self._waiting:
            route.follow(state)

    def _downs(self) -> list[TopicDownRoute]:
        topics = self.link.settings.resource.topics_down
        if not topics:
            return []
        from edge_runtime.sync.topics_down import TopicDownRoute  # brings gRPC

        return [TopicDownRoute(topic, self.link, self.publish_here, self._node) for topic in topics]

    @contextmanager
    def showing(self, route: LinkRoute) -> Iterator[None]:
        """It is one of the link's routes until the block is left."""
        self.routes.append(route)
        try:
            yield
        finally:
            self.routes = [one for one in self.routes if one is not route]

    async def status(self) -> dict[str, Any]:
        """How the link and its routes stand, as `edge/v1/sync` says it."""
        return await link_status(self.link, self.routes)

    async def dry_run(self) -> dict[str, Any]:
        """What would be sent if it were up now."""
        return await link_dry_run(self.link, self.routes)

    async def now(self, *, outside_window: bool = False) -> None:
        """Ask whether the other end is there, and try again at once whatever waits for its next try."""
        await self.link.now(outside_window=outside_window)
        for route in self.routes:
            route.hurry()

    async def publish_here(self, pubsub: str, topic: str, data: bytes) -> None:
        """To the component of the app that came last, past what would send it up again."""
        for _, components in reversed(self.guests):
            if pubsub in components:
                local = components[pubsub]
                await local.driver.publish(local.topic_prefix + topic, data, {})
                return
        raise DriverError(f"no app of this node has a pub/sub component {pubsub!r}; add it, or correct the route")

    async def _tell_apps(self) -> None:
        """Changes of state, as events that apps can subscribe to."""
        async for state in self.link.changes():
            if state.name == "down" and state.reason == "not tried yet":
                continue
            if not any(STATES_PUBSUB in components for _, components in self.guests):
                continue
            try:
                with trio.fail_after(_TELL_LIMIT_S):
                    await self.publish_here(STATES_PUBSUB, STATES_TOPIC, self._state_event(state))
            except (DriverError, trio.TooSlowError) as error:
                logger.warning("cloud link %s: topic %s: %s", self.link.name, STATES_TOPIC, error)

    def _state_event(self, state: LinkState) -> bytes:
        data = {"link": self.link.name, "state": state.name, "reason": state.reason}
        now = self._clocks.wall()
        return cloudevents.make_envelope(
            json.dumps(data).encode(),
            cloudevents.JSON_TYPE,
            event_id=os.urandom(16).hex(),
            time=cloudevents.rfc3339(now, self._clocks.local(now).tm_gmtoff),
            source=f"edge-runtime/links/{self.link.name}",
            topic=STATES_TOPIC,
            pubsub=STATES_PUBSUB,
            overrides=cloudevents.NO_OVERRIDES._replace(type=STATES_TYPE),
        )


class Links:
    """The links of a node that are open."""

    def __init__(
        self,
        outbox: Outbox,
        node: Callable[[], str],
        metrics: Metrics,
        state_dir: str,
        nursery: trio.Nursery,
        clocks: Clocks = Clocks(),  # noqa: B008 - immutable
    ) -> None:
        self._outbox = outbox
        self._node = node
        self._metrics = LinkMetrics(metrics)
        self._state_dir = state_dir
        self._nursery = nursery
        self._clocks = clocks
        self.states: StateRoutes | None = None  # made with the first state route
        self._open: dict[LinkSettings, SharedLink] = {}
        self._opening = trio.Lock()

    def node_id(self) -> str:
        """Who this node is, for others. Raises DriverError."""
        return self._node()

    @asynccontextmanager
    async def join(
        self, settings: LinkSettings, components: Mapping[str, LocalPubSub], app_id: str = ""
    ) -> AsyncIterator[SharedLink]:
        """The link for one app, until the block is left; apps with the same settings share it."""
        guest = Guest(app_id, components)
        async with self._opening:
            self._warn_of_others(settings, app_id)
            shared = self._open.get(settings)
            if shared is None or shared.closed.is_set():
                shared = self._new(settings)
                shared.guests.append(guest)
                await self._nursery.start(shared.run)
                self._open[settings] = shared
            else:
                shared.guests.append(guest)
        try:
            yield shared
        finally:
            with trio.move_on_after(_LEAVE_LIMIT_S, shield=True):
                await self._leave(shared, guest)

    def standings(self) -> list[tuple[str, LinkState]]:
        """The links that are open, by name."""
        return [(shared.link.name, shared.link.state) for shared in self._open.values()]

    def _warn_of_others(self, settings: LinkSettings, app_id: str) -> None:
        """What waits is kept by the link's name: of two links with one name, the one that was opened last sends it."""
        name = settings.resource.name
        for shared in self._open.values():
            # An app's own generation from before a reload leaves soon.
            others = sorted({guest.app_id for guest in shared.guests} - {app_id})
            if shared.link.name == name and shared.link.settings != settings and others:
                logger.warning(
                    "CloudLink %r of app %r is written otherwise than that of %s: they share what waits under its "
                    "name, and it goes to the end that was opened last; write both alike, or name one differently",
                    name,
                    app_id,
                    ", ".join(repr(other) for other in others),
                )

    def _new(self, settings: LinkSettings) -> SharedLink:
        name = settings.resource.name
        # Names of links have no slash: config/documents.py.
        day = DayFile(os.path.join(self._state_dir, FOLDER, f"{name}.json"), self._clocks.wall)
        link = Link(settings, self._metrics, day, self._clocks)
        link.paused = PauseMark(self._state_dir, name).is_set()
        return SharedLink(link, self._outbox, self._node, self._clocks)

    async def pause(self, name: str, paused: bool) -> None:
        """Let a link rest, or go on, whoever has it open; on disk when it returns. Raises `StoreUnavailable`."""
        async with self._opening:  # a link that is being opened has read the mark already
            await PauseMark(self._state_dir, name).set(paused)
            for shared in self._open.values():
                if shared.link.name != name:
                    continue
                if paused:
                    shared.link.pause()
                else:
                    shared.link.resume()

    async def _leave(self, shared: SharedLink, guest: Guest) -> None:
        async with self._opening:
            shared.guests = [one for one in shared.guests if one is not guest]
            if shared.guests:
                return
            if self._open.get(shared.link.settings) is shared:
                del self._open[shared.link.settings]
            shared.scope.cancel()
            await shared.closed.wait()
            if all(other.link.name != shared.link.name for other in self._open.values()):
                self._metrics.hide(shared.link.name)
