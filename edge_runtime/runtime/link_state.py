"""The state routes in an app's cloud links, brought together with its stores: what can be followed is claimed.

Loaded when a link has a state route, and not before.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

from edge_runtime.blocks.state.block import GuardedStore
from edge_runtime.config.links import CloudLink
from edge_runtime.config.links import StateRoute as Written
from edge_runtime.model.errors import DriverError, EdgeError
from edge_runtime.model.sync import Keys
from edge_runtime.sync.ask_app import AppAsker
from edge_runtime.sync.links import Links, SharedLink
from edge_runtime.sync.state_plan import StateRoute
from edge_runtime.sync.state_routes import Claim, StateRoutes

if TYPE_CHECKING:
    from edge_runtime.runtime.links import LinkedApp

log: Final = logging.getLogger("dapr.runtime.link")

APP_ID: Final = "{appID}"


class _Place(NamedTuple):
    """A route in its link's file."""

    link: CloudLink
    shared: SharedLink
    number: int
    route: Written

    def __str__(self) -> str:
        link, route = self.link, self.route
        return f"{link.source}: CloudLink {link.name!r}: routes.state[{self.number}] ({route.store}, {route.keys})"


@asynccontextmanager
async def open_state_routes(
    linked: LinkedApp, resources: Sequence[CloudLink], opened: Mapping[str, SharedLink], links: Links
) -> AsyncIterator[None]:
    """The app's state routes are at work until the block is left, as far as its stores can have them."""
    if links.states is None:
        links.states = StateRoutes(_node_word(links), linked.app.node.metrics, linked.app.node.nursery)
    claims = [
        claim
        for place in _places(resources, opened)
        if (claim := await _claim(linked, place, links.states)) is not None
    ]
    async with links.states.claim(linked.app.app_id, claims):
        yield


def _node_word(links: Links) -> str:
    """What tells this node's stamps from those of another of the same moment."""
    try:
        return links.node_id()
    except DriverError:  # the node's own file cannot be opened; the store's may be another
        return os.urandom(16).hex()


def _places(resources: Sequence[CloudLink], opened: Mapping[str, SharedLink]) -> Iterator[_Place]:
    for link in resources:
        for number, route in enumerate(link.state):
            yield _Place(link, opened[link.name], number, route)


async def _claim(linked: LinkedApp, place: _Place, states: StateRoutes) -> Claim | None:
    """None, and a warning that says why and the mend, when the app's store cannot have the route."""
    store = _store(linked, place)
    if store is None:
        return None
    try:
        journal = await states.open_journal(linked.components[store.name].driver)
    except DriverError as error:
        log.warning("%s: left out: the journal of changes cannot be opened: %s", place, error)
        return None
    ask = None
    if linked.channel is not None:
        ask = AppAsker(linked.channel, place.link.name, store.name, store.prefix).ask
    return Claim(
        linked.app.app_id,
        f"app {linked.app.app_id}: {place}",
        place.shared,
        journal,
        planned_route(place.link, place.route, store.prefix, linked.app.app_id),
        ask,
        (place.route.change_pubsub, place.route.change_topic) if place.route.change_topic else None,
    )


def _store(linked: LinkedApp, place: _Place) -> GuardedStore | None:
    name = place.route.store
    try:
        store = linked.blocks.state.require(name)
    except EdgeError:
        log.warning("%s: left out: this app has no state store %r; add it, or correct store", place, name)
        return None
    kind = linked.components[name].component.type
    if kind != "state.sqlite":
        log.warning(
            "%s: left out: %r is a %s, and only keys of a state.sqlite store can be followed; change its type",
            place,
            name,
            kind,
        )
        return None
    if store.seal is not None:
        log.warning(
            "%s: left out: the values of %r are encrypted with this app's key, and the other side could not read them; "
            "use a store without primaryEncryptionKey for keys that are followed",
            place,
            name,
        )
        return None
    return store


def planned_route(link: CloudLink, written: Written, prefix: str, app_id: str) -> StateRoute:
    """The route with stored keys in place of those that the app knows."""
    exact = not written.keys.endswith("*")
    keys = Keys(prefix + written.keys.removesuffix("*"), exact)
    remote_keys = written.remote_keys.replace(APP_ID, app_id)
    star = "" if exact else "*"
    return StateRoute(
        f"{link.name}/{written.store}/{keys.prefix}{star}",
        keys,
        written.remote_store,
        remote_keys.removesuffix("*"),
        written.direction,
        written.conflict,
        written.poll_s,
        f"{link.http} {written.remote_store}/{remote_keys} {keys.prefix}{star}",
    )
