"""What comes down a link into one app's own stores: settings that are mirrored, and secrets that are kept sealed.

Apps with the same link and the same file share one mirror: one of them runs it, and another takes over when it goes.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Final

import trio

from edge_runtime.config.links import CloudLink, ConfigurationRoute
from edge_runtime.model.errors import ConfigError, DriverError
from edge_runtime.sync.supervise import supervised

if TYPE_CHECKING:
    from edge_runtime.components.configuration.sqlite import SqliteConfiguration
    from edge_runtime.runtime.links import LinkedApp
    from edge_runtime.runtime.node import Node
    from edge_runtime.store.sealed_secrets import SealedSecrets
    from edge_runtime.sync.links import SharedLink

log: Final = logging.getLogger("dapr.runtime.link")

SECRETS_TYPE: Final = "secretstores.cloudlink"
_MIRRORED_TYPE: Final = "configuration.sqlite"
_NOTES: Final = 24  # in the shortest age limit: how often it is written down how late it is
_NOTE_MIN_S: Final = 600.0
_NOTE_MAX_S: Final = 3600.0
_LAST_NOTE_S: Final = 2.0


@asynccontextmanager
async def open_pull(linked: LinkedApp, shared: SharedLink, resource: CloudLink) -> AsyncIterator[None]:
    """The link's `configuration` and `secrets` for one app, until the block is left."""
    async with trio.open_nursery() as nursery:
        for route in resource.configuration:
            store = _mirrored_store(linked, resource, route)
            if store is not None:
                nursery.start_soon(_mirror, shared, route, store)
        async with _open_secrets(linked, shared, resource):
            yield
        nursery.cancel_scope.cancel()


# --- configuration ----------------------------------------------------------------------------------------------------


def _mirrored_store(linked: LinkedApp, resource: CloudLink, route: ConfigurationRoute) -> SqliteConfiguration | None:
    opened = linked.components.get(route.store)
    if opened is not None and opened.component.type.lower() == _MIRRORED_TYPE:
        store: SqliteConfiguration = opened.driver
        return store
    what = "is not there" if opened is None else f"is {opened.component.type}"
    log.warning(
        "%s: CloudLink %r: routes.configuration: the component %r of app %s %s; its settings do not come down: name a"
        " %s component in `store`",
        resource.source, resource.name, route.store, linked.app.app_id, what, _MIRRORED_TYPE,
    )  # fmt: skip
    return None


async def _mirror(shared: SharedLink, route: ConfigurationRoute, store: SqliteConfiguration) -> None:
    from edge_runtime.sync.configuration_down import ConfigurationDownRoute  # brings gRPC

    name = f"link/{shared.link.name}/{route.remote_store}"
    async with shared.locks.setdefault((route, *store.place), trio.Lock()):
        mirror = ConfigurationDownRoute(route, shared.link, lambda: store.mirror(name))
        with shared.showing(mirror):
            await supervised(mirror.run, f"{name}: configuration of {route.store}", mirror.failed)


# --- secrets ----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _open_secrets(linked: LinkedApp, shared: SharedLink, resource: CloudLink) -> AsyncIterator[None]:
    if not resource.secrets:
        yield
        return
    from edge_runtime.blocks.metadata import LoadedComponent
    from edge_runtime.sync.secrets_down import LinkedSecrets, SecretsReport

    async with AsyncExitStack() as stack:
        kept = await _open_kept(linked.app.node, resource, stack)
        for route in resource.secrets:
            store = LinkedSecrets(route, shared.link, kept)
            stack.enter_context(shared.showing(SecretsReport(route, shared.link, kept)))
            if linked.blocks.secrets.add(route.remote_store, store):
                linked.blocks.metadata.components.append(LoadedComponent(route.remote_store, SECRETS_TYPE, "v1"))
            else:
                log.warning(
                    "%s: CloudLink %r: routes.secrets: app %s has a secret store %r already, which stays; rename one",
                    resource.source, resource.name, linked.app.app_id, route.remote_store,
                )  # fmt: skip
        if kept is None:
            yield
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_note, shared, resource, kept)
            yield
            nursery.cancel_scope.cancel()


async def _open_kept(node: Node, resource: CloudLink, stack: AsyncExitStack) -> SealedSecrets | None:
    """Where secrets are kept; None when they cannot be, which leaves them readable while the link is up."""
    from edge_runtime.security.secret_box import open_secret_box
    from edge_runtime.store.connection import location
    from edge_runtime.store.sealed_secrets import open_sealed_secrets
    from edge_runtime.sync.forward import NODE_DATABASE

    try:
        box = open_secret_box(node.state_dir, os.environ)
        path = os.path.join(node.state_dir, NODE_DATABASE)
        return await open_sealed_secrets(await stack.enter_async_context(node.databases.lease(location(path))), box)
    except (ConfigError, DriverError) as error:
        log.error("%s: CloudLink %r: no secret is kept for when the link is away: %s", resource.source, resource.name,
                  error)  # fmt: skip
        return None


async def _note(shared: SharedLink, resource: CloudLink, kept: SealedSecrets) -> None:
    """One of the link's apps writes down from time to time how late it is; the last time when it goes."""
    from edge_runtime.sync.secrets_down import place_of

    ages = {place_of(shared.link, route.remote_store): route.age_max_s for route in resource.secrets}
    pause_s = min(max(min(ages.values()) / _NOTES, _NOTE_MIN_S), _NOTE_MAX_S)
    async with shared.locks.setdefault("secrets", trio.Lock()):

        async def note_for_ever() -> None:
            while True:
                await _try_note(kept, ages)
                await trio.sleep(pause_s)

        try:
            await supervised(note_for_ever, f"cloud link {shared.link.name}: the age of kept secrets")
        finally:
            with trio.move_on_after(_LAST_NOTE_S, shield=True):
                await _try_note(kept, ages)


async def _try_note(kept: SealedSecrets, ages: Mapping[str, float]) -> None:
    try:
        await kept.note(ages)
    except DriverError as error:
        log.warning("the age of kept secrets cannot be noted: %s", error)
