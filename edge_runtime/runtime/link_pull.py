"""What comes down a link into one app's own stores: settings that are mirrored, and secrets that are kept sealed.

Apps with the same link and the same file share one mirror: one of them runs it, and another takes over when it goes.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import trio

from edge_runtime.config.links import CloudLink, ConfigurationRoute

if TYPE_CHECKING:
    from edge_runtime.components.configuration.sqlite import SqliteConfiguration
    from edge_runtime.runtime.links import LinkedApp
    from edge_runtime.sync.links import SharedLink

log: Final = logging.getLogger("dapr.runtime.link")

_MIRRORED_TYPE: Final = "configuration.sqlite"


@asynccontextmanager
async def open_pull(linked: LinkedApp, shared: SharedLink, resource: CloudLink) -> AsyncIterator[None]:
    """The link's `configuration` and `secrets` for one app, until the block is left."""
    async with trio.open_nursery() as nursery:
        for route in resource.configuration:
            store = _mirrored_store(linked, resource, route)
            if store is not None:
                nursery.start_soon(_mirror, shared, route, store)
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
    try:
        async with shared.locks.setdefault((route, *store.place), trio.Lock()):
            await ConfigurationDownRoute(route, shared.link, lambda: store.mirror(name)).run()
    except Exception:
        log.exception("cloud link %s: configuration of %s has failed; a reload begins again", name, route.store)
