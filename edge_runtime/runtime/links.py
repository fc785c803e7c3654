"""The cloud links of one app's files: their secrets, the node's links behind them, and the app's publishing before.

Loaded when a CloudLink is written somewhere, and not before.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

from edge_runtime.blocks.pubsub.bindings import PubSubBinding
from edge_runtime.blocks.pubsub.publish import Forward
from edge_runtime.config.links import CloudLink
from edge_runtime.config.references import Surroundings, resolve_items
from edge_runtime.model.errors import DriverError
from edge_runtime.runtime.link_calls import open_calls
from edge_runtime.runtime.link_pull import open_pull
from edge_runtime.sync.link_settings import LinkSettings
from edge_runtime.sync.links import Links, SharedLink
from edge_runtime.sync.supervise import supervised

if TYPE_CHECKING:
    from edge_runtime.api.blocks import Blocks
    from edge_runtime.channel.grpc import GrpcAppChannel
    from edge_runtime.channel.http import HttpChannel
    from edge_runtime.runtime.app import App
    from edge_runtime.runtime.components import Opened
    from edge_runtime.runtime.node import Node

log: Final = logging.getLogger("dapr.runtime.link")


class LinkedApp(NamedTuple):
    """One generation of an app, as far as its links are concerned. `channel` is None without an app port."""

    app: App
    blocks: Blocks
    components: Mapping[str, Opened]
    pubsubs: Mapping[str, PubSubBinding]
    channel: HttpChannel | GrpcAppChannel | None


@asynccontextmanager
async def open_links(
    linked: LinkedApp, resources: Sequence[CloudLink], around: Surroundings
) -> AsyncIterator[Mapping[str, SharedLink]]:
    """The app's links by name, until the block is left. What it publishes to their topics goes up from here on."""
    links = await _node_links(linked.app.node)
    pubsubs = linked.pubsubs
    opened: dict[str, SharedLink] = {}
    forwards: dict[tuple[str, str], list[Forward]] = {}
    async with AsyncExitStack() as stack:
        for resource in resources:
            settings = await _settings(resource, around)
            shared = await stack.enter_async_context(links.join(settings, pubsubs, linked.app.app_id))
            opened[resource.name] = shared
            shared.link.listeners.append(linked.app.node.note_change)
            stack.callback(shared.link.listeners.remove, linked.app.node.note_change)
            for place, forward in shared.forwards().items():
                forwards.setdefault(place, []).append(forward)
            await stack.enter_async_context(open_pull(linked, shared, resource))
            _say_what_is_missing(resource, pubsubs)
        if any(resource.state for resource in resources):
            from edge_runtime.runtime.link_state import open_state_routes

            await stack.enter_async_context(open_state_routes(linked, resources, opened, links))
        linked.blocks.publisher.forwards = forwards
        open_calls(linked, opened)
        linked.blocks.sync.fill(opened, links.pause)
        yield opened


async def _node_links(node: Node) -> Links:
    if node.links is None:
        try:
            await node.outbox.get()
        except DriverError as error:
            log.error("The outbox cannot be opened, so cloud links take no events: %s; tried again", error)
            node.nursery.start_soon(supervised, node.outbox.keep_trying, "the outbox")
        if node.links is None:  # another app may have been faster
            node.links = Links(node.outbox, lambda: node.outbox.node, node.metrics, node.state_dir, node.nursery)
    return node.links


async def _settings(resource: CloudLink, around: Surroundings) -> LinkSettings:
    """With a fault in place of what cannot be resolved: what is published meanwhile has to be kept all the same."""
    found = await resolve_items(resource.items, resource.secret_store, around)
    for line in found.warnings:
        log.warning("%s: CloudLink %r: %s", resource.source, resource.name, line)
    fault = ""
    if found.waits_for:
        fault = f"the secret store {found.waits_for!r} is not loaded; define it or correct auth.secretStore"
    missing = [item.name for item in resource.items if not found.values.get(item.name)]
    if missing and not fault:
        fault = f"{', '.join(missing)}: the secret is not there or empty; correct it and reload"
    if fault:
        log.error("%s: CloudLink %r: %s; events are kept until then", resource.source, resource.name, fault)
    return LinkSettings(resource._replace(source="", scopes=()), tuple(sorted(found.values.items())), fault)


def _say_what_is_missing(resource: CloudLink, pubsubs: Mapping[str, PubSubBinding]) -> None:
    for up in resource.topics_up:
        if up.pubsub not in pubsubs:
            log.warning(
                "%s: CloudLink %r: routes.topicsUp: this app has no pub/sub component %r, so nothing goes up from it",
                resource.source,
                resource.name,
                up.pubsub,
            )
