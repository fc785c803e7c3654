"""The state routes of a node: which of those that apps claim are at work, and each of them running once.

An app claims what its files say, for as long as they hold. Claims of the same keys by the same link are one route,
which is at work as long as one of them stands. A route whose keys another one follows already is left out, until that
other one goes. A claim of an app takes the place of those that its files made before: what lingers of them only
finishes its requests.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol
from weakref import WeakSet

import trio

from edge_runtime.model.errors import DriverError
from edge_runtime.model.hlc import Clock
from edge_runtime.model.sync import Keys
from edge_runtime.observability.metrics import Metrics
from edge_runtime.store.journal import Journal
from edge_runtime.store.kernel_clock import Synchronized
from edge_runtime.sync.link_settings import LinkState
from edge_runtime.sync.merge import Conflict, Version
from edge_runtime.sync.state import AskApp, Stamps, StateSync
from edge_runtime.sync.state_plan import StateRoute
from edge_runtime.sync.supervise import supervised

if TYPE_CHECKING:
    from edge_runtime.sync.links import SharedLink

logger: Final = logging.getLogger("dapr.runtime.sync")

_LEAVE_LIMIT_S: Final = 5.0


class JournaledStore(Protocol):
    """A driver whose file has a journal of changes."""

    async def open_journal(self, stamp: Callable[[], str], now: Callable[[], float] = ...) -> Journal: ...


class Claim(NamedTuple):
    """What one app's files say of a route. `where` is for messages: file, link and route.

    `change_topic` is (component, topic) of the remote sidecar.
    """

    app_id: str
    where: str
    link: SharedLink
    journal: Journal
    route: StateRoute
    ask: AskApp | None = None
    change_topic: tuple[str, str] | None = None

    def is_same_route(self, other: Claim) -> bool:
        """Do both mean one route, whatever they say of how it is followed?"""
        return self.journal is other.journal and self._follows() == other._follows()

    def _follows(self) -> tuple[str, Keys, str, str]:
        return self.link.link.name, self.route.keys, self.route.remote_store, self.route.remote_prefix

    def overlaps(self, other: Claim) -> bool:
        """Do both cover a key of the store here?"""
        return self.journal is other.journal and self.route.keys.overlap(other.route.keys)

    def shares_remote_keys(self, other: Claim) -> bool:
        """Do both follow a key of the same store there?"""
        if (self.link.link.name, self.route.remote_store) != (other.link.link.name, other.route.remote_store):
            return False
        mine, theirs = (Keys(one.route.remote_prefix, one.route.keys.exact) for one in (self, other))
        return mine.overlap(theirs)


class Choice(NamedTuple):
    """Which claims are at work, the newest of each route, and pairs of those that are left out and why."""

    chosen: list[Claim]
    left_out: list[tuple[Claim, Claim]]


def choose(claims: Sequence[Claim]) -> Choice:
    """Who came first has the keys; how they are followed the newest says."""
    chosen: list[Claim] = []
    left_out: list[tuple[Claim, Claim]] = []
    for claim in claims:
        for at, other in enumerate(chosen):
            if claim.is_same_route(other):
                chosen[at] = claim
                break
            if claim.overlaps(other):
                left_out.append((claim, other))
                break
        else:
            chosen.append(claim)
    return Choice(chosen, left_out)


class Numbers:
    """The metrics of all state routes."""

    def __init__(self, metrics: Metrics) -> None:
        self.keys = metrics.counter("edge_state_route_keys_total", "route", "action")
        self.pending = metrics.gauge("edge_state_route_pending_keys", "route")
        self.refused = metrics.gauge("edge_state_route_refused_keys", "route")

    def hide(self, route: str) -> None:
        """Nobody follows it any more."""
        for gauge in (self.pending, self.refused):
            gauge.values.pop((route,), None)


class RunningRoute:
    """A state route at work. `claim` may be replaced by a later one of the same route."""

    kind: Final = "state"

    def __init__(self, claim: Claim, askers: Callable[[], AskApp | None], stamps: Stamps, numbers: Numbers) -> None:
        self.claim = claim
        self.scope = trio.CancelScope()
        self.closed = trio.Event()
        self._askers = askers
        self._numbers = numbers
        self.sync = StateSync(claim.route, claim.journal, claim.link.remote_state(), stamps, ask=self._ask)
        self.sync.counts.told = self._count

    # --- what is shown: a LinkRoute -----------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """`<component>/<stored keys>`: one of its link's."""
        return self.claim.route.name.partition("/")[2]

    async def status(self) -> dict[str, Any]:
        """How it stands. Raises DriverError."""
        route, done = self.claim.route, self.sync.counts
        pending, refused = self._waiting()
        return {
            "to": f"{route.remote_store}/{route.remote_prefix}{'' if route.keys.exact else '*'}",
            "direction": route.direction,
            "conflict": route.conflict,
            "pending": pending,
            "refused": refused,
            "conflicts": done.conflicts,
            "saved": done.saved,
            "deleted": done.deleted,
            "applied": done.applied,
            "reachable": self.sync.reachable,
            "lastError": self.sync.last_error or (await self._refusal() if refused else ""),
        }

    async def dry_run(self, limit: int) -> dict[str, Any]:
        """What would be done about changes that wait here; of them at most `limit`. Raises DriverError."""
        planned = await self.sync.dry_run(limit)
        return {"pending": self._waiting()[0], "steps": [one._asdict() for one in planned]}

    def hurry(self) -> None:
        """Look at everything now, also at what waits for its pause to end."""
        self.sync.now()

    async def _refusal(self) -> str:
        """Of the first key that the remote refuses."""
        first = await self.claim.journal.refused(limit=1, prefix=self.claim.route.keys.prefix)
        return f"key {first[0].key!r} is refused: {first[0].reason}" if first else ""

    def _waiting(self) -> tuple[int, int]:
        """Changed keys that are to be sent, and those that the remote refuses for good. Raises DriverError."""
        pending, refused = self.claim.journal.counts(self.claim.route.keys)
        return (0, 0) if self.claim.route.direction == "down" else (pending, refused)

    # --- its life -----------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Until the scope is cancelled; `started` is said once changes are noted."""
        journal, shared = self.claim.journal, self.claim.link
        label = self.claim.route.name
        journal.add_route(label, self.claim.route.keys)
        self.follow_link(LinkState("up") if shared.link.usable else shared.link.state)
        shared.link.listeners.append(self.follow_link)
        task_status.started()
        try:
            with self.scope, shared.showing(self):
                await supervised(self.sync.run, f"state route {label}", self.sync.failed)
        finally:
            shared.link.listeners.remove(self.follow_link)
            journal.remove_route(label)
            self._numbers.hide(label)
            self.closed.set()

    def follow_link(self, state: LinkState) -> None:
        """Nothing is tried while the link is down."""
        if state.up:
            self.sync.up()
        else:
            self.sync.down()

    def show(self) -> None:
        """For gauges, when somebody looks."""
        pending, refused = self._waiting()
        self._numbers.pending.set(pending, (self.claim.route.name,))
        self._numbers.refused.set(refused, (self.claim.route.name,))

    def _count(self, action: str, number: int) -> None:
        self._numbers.keys.add((self.claim.route.name, action), number)

    async def _ask(self, conflict: Conflict) -> Version:
        ask = self._askers()
        if ask is None:
            raise DriverError("no app of this node that has the link has an app port")
        return await ask(conflict)


class StateRoutes:
    """The state routes of a node. `wall` is the wall clock, in seconds; `is_right` vouches for it."""

    def __init__(
        self,
        node: str,
        metrics: Metrics,
        nursery: trio.Nursery,
        wall: Callable[[], float] = time.time,
        is_right: Callable[[], bool] | None = None,
    ) -> None:
        clock = Clock(node, is_right=is_right or Synchronized())
        self.stamps = Stamps(clock, lambda: int(wall() * 1000))
        self._wall = wall
        self._nursery = nursery
        self._numbers = Numbers(metrics)
        self._known: WeakSet[Journal] = WeakSet()
        self._claims: list[Claim] = []
        self._running: list[RunningRoute] = []
        self._topics: dict[tuple[SharedLink, str, str], trio.CancelScope] = {}
        self._said: set[tuple[str, str]] = set()
        self._changing = trio.Lock()
        metrics.before_render(self._show)

    async def open_journal(self, store: JournaledStore) -> Journal:
        """The store's journal. The clock that stamps it goes on from what the file has. Raises DriverError."""
        journal = await store.open_journal(self.stamps, self._wall)
        if journal not in self._known:
            self.stamps.go_on_from(await journal.latest_stamp())
            self._known.add(journal)
        return journal

    @asynccontextmanager
    async def claim(self, app_id: str, claims: Sequence[Claim]) -> AsyncIterator[None]:
        """What the app's files say, until the block is left or the app claims again."""
        async with self._changing:
            await self._change([one for one in self._claims if one.app_id != app_id] + list(claims))
        try:
            yield
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + _LEAVE_LIMIT_S):
                async with self._changing:
                    await self._change([one for one in self._claims if not any(one is own for own in claims)])

    async def _change(self, claims: list[Claim]) -> None:
        """Stop what is claimed no more, then start what is claimed now: keys may go from one route to the next."""
        self._claims = claims
        choice = choose(claims)
        kept = []
        for running in self._running:
            claim = next((one for one in choice.chosen if _runs_on(running.claim, one)), None)
            if claim is not None and not running.closed.is_set():
                running.claim = claim
                kept.append(running)
                continue
            running.scope.cancel()
            await running.closed.wait()
        self._running = kept
        for claim in choice.chosen:
            if not any(running.claim is claim for running in kept):
                running = RunningRoute(claim, self._asker_of(claim), self.stamps, self._numbers)
                await self._nursery.start(running.run)
                self._running.append(running)
        self._follow_topics(choice.chosen)
        self._say(choice)

    def _follow_topics(self, chosen: Sequence[Claim]) -> None:
        """Subscribe to each change topic once, whichever routes follow it."""
        wanted = {(one.link, *one.change_topic): None for one in chosen if one.change_topic is not None}
        for place, scope in list(self._topics.items()):
            if place not in wanted:
                scope.cancel()
                del self._topics[place]
        for place in wanted:
            if place not in self._topics:
                self._topics[place] = scope = trio.CancelScope()
                self._nursery.start_soon(self._follow_topic, *place, scope)

    async def _follow_topic(self, link: SharedLink, pubsub: str, topic: str, scope: trio.CancelScope) -> None:
        from edge_runtime.sync.change_topic import ChangeTopic  # brings gRPC

        def followers() -> list[StateSync]:
            mine = (one for one in self._running if one.claim.link is link)
            return [one.sync for one in mine if one.claim.change_topic == (pubsub, topic)]

        subscription = ChangeTopic(link.link, pubsub, topic, followers)
        with scope:
            what = f"cloud link {link.link.name}: change topic {topic} of {pubsub}"
            await supervised(subscription.run, what, subscription.failed)

    def _asker_of(self, claim: Claim) -> Callable[[], AskApp | None]:
        """The app that came last, of those that can be asked."""
        return lambda: next(
            (one.ask for one in reversed(self._claims) if one.ask is not None and one.is_same_route(claim)), None
        )

    def _say(self, choice: Choice) -> None:
        """Once of each pair, as long as it lasts."""
        said = set()
        for claim, other in choice.left_out:
            said.add(pair := (claim.where, other.where))
            if pair not in self._said:
                logger.warning(
                    "%s: left out, as its keys overlap with those of %s; a key can follow one route only",
                    claim.where,
                    other.where,
                )
        for at, claim in enumerate(choice.chosen):
            for other in choice.chosen[:at]:
                if claim.shares_remote_keys(other):
                    said.add(pair := (claim.where, other.where))
                    if pair not in self._said:
                        logger.warning(
                            "%s: follows keys of the remote that %s follows too, so both have the same values; "
                            "put {appID} into remoteKeys to keep apps apart",
                            claim.where,
                            other.where,
                        )
        self._said = said

    def _show(self) -> None:
        for running in self._running:
            try:
                running.show()
            except DriverError as error:
                logger.debug("state route %s: %s", running.claim.route.name, error)


def _runs_on(old: Claim, new: Claim) -> bool:
    """May what runs for the one go on for the other as it is?"""
    return old.link is new.link and old.journal is new.journal and old.route == new.route
