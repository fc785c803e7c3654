"""What an app calls over its links: the apps of `routes.invocation`, and the output bindings of `routes.bindings`."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

from edge_runtime.blocks.invoke.far import far_peer
from edge_runtime.blocks.metadata import LoadedComponent
from edge_runtime.sync.far_app import FarApp, FarGrpcApp
from edge_runtime.sync.far_binding import FarBinding

if TYPE_CHECKING:
    from edge_runtime.blocks.bindings import FarOutput
    from edge_runtime.blocks.invoke import Peer
    from edge_runtime.runtime.links import LinkedApp
    from edge_runtime.sync.links import SharedLink

log: Final = logging.getLogger("dapr.runtime.link")

_FAR_TYPE: Final = "bindings.cloudlink"
_KEPT_MAX: Final = 256  # targets, whose namespaces callers choose


class LinkedPeers:
    """The apps that one app's links lead to; of two links to the same the first."""

    def __init__(self, links: Mapping[str, SharedLink], caller: str) -> None:
        self._caller = caller
        self._routes: dict[str, SharedLink] = {}
        self._peers: dict[str, Peer] = {}
        for name, shared in links.items():
            for route in shared.link.settings.resource.invocation:
                first = self._routes.setdefault(route.app_id, shared)
                if first is not shared:
                    log.warning(
                        "CloudLink %r: routes.invocation: app %r is called over link %r, which comes first",
                        name,
                        route.app_id,
                        first.link.name,
                    )

    def __bool__(self) -> bool:
        return bool(self._routes)

    def find(self, app_id: str, namespace: str) -> Peer | None:
        target = f"{app_id}.{namespace}" if namespace else app_id
        peer = self._peers.get(target)
        if peer is None:
            route = next((name for name in (target, app_id) if name in self._routes), None)
            if route is None:
                return None
            peer = far_peer(route, self._far_app(self._routes[route], route, target))
            if len(self._peers) < _KEPT_MAX:
                self._peers[target] = peer
        return peer

    def _far_app(self, shared: SharedLink, route: str, target: str) -> FarApp:
        link = shared.link
        kind = FarGrpcApp if link.settings.resource.grpc else FarApp
        return kind(link, target, self._caller, shared.calls.apps.get(route))


def open_calls(linked: LinkedApp, links: Mapping[str, SharedLink]) -> None:
    """From here on the app reaches what its links lead to. What the node itself has comes first."""
    apps = LinkedPeers(links, linked.app.app_id)
    linked.blocks.invoker.far = apps if apps else None
    bindings = dict(_bindings(linked, links))
    linked.blocks.bindings.reach(bindings)
    linked.blocks.metadata.components += [
        LoadedComponent(name, _FAR_TYPE, "v1", ("OUTPUT_BINDING",)) for name in sorted(bindings)
    ]


def _bindings(linked: LinkedApp, links: Mapping[str, SharedLink]) -> Iterator[tuple[str, FarOutput]]:
    """Those of the links that no component has the name of; of two links with the same the first."""
    taken: set[str] = set()
    for shared in links.values():
        link = shared.link
        for route in link.settings.resource.bindings:
            local = linked.blocks.bindings.has(route.name)
            if local or route.name in taken:
                other = "a component" if local else "another link"
                text = "CloudLink %r: routes.bindings: app %s has %s for %r, which comes first"
                log.warning(text, link.name, linked.app.app_id, other, route.name)
                continue
            taken.add(route.name)
            yield route.name, shared.calls.bindings.get(route.name) or FarBinding(link, route.remote_name)
