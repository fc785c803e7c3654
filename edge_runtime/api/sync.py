"""The cloud links of one app as its operator sees and steers them: how they stand, and what would be sent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from edge_runtime.model.errors import DriverError, EdgeError, Kind

if TYPE_CHECKING:
    from edge_runtime.sync.links import SharedLink

# Pauses a link of the node, or lets it go on.
Pause = Callable[[str, bool], Awaitable[None]]


async def _no_pause(link: str, paused: bool) -> None:
    raise DriverError(f"this node has no cloud link {link!r}")


class AppSync:
    """The links in one app's files. Without any there is nothing to see; they are filled in when they are opened."""

    def __init__(self) -> None:
        self._links: Mapping[str, SharedLink] = {}
        self._pause: Pause = _no_pause

    def fill(self, links: Mapping[str, SharedLink], pause: Pause) -> None:
        self._links = links
        self._pause = pause

    async def list_links(self) -> dict[str, Any]:
        with _failures():
            return {"links": [await shared.status() for shared in self._links.values()]}

    async def status(self, link: str) -> dict[str, Any]:
        with _failures():
            return await self._link(link).status()

    async def dry_run(self, link: str) -> dict[str, Any]:
        with _failures():
            return await self._link(link).dry_run()

    async def pause(self, link: str, paused: bool) -> dict[str, Any]:
        """Returns when it is on disk."""
        self._link(link)
        with _failures():
            await self._pause(link, paused)
        return await self.status(link)

    async def now(self, link: str, *, outside_window: bool) -> dict[str, Any]:
        """Returns when the other end has answered, or has not."""
        shared = self._link(link)
        if shared.link.paused:
            raise EdgeError(Kind.EDGE_LINK_PAUSED, f"cloud link {link!r} is paused; resume it first")
        with _failures():
            await shared.now(outside_window=outside_window)
        return await self.status(link)

    def _link(self, link: str) -> SharedLink:
        if link not in self._links:
            raise not_found(link, list(self._links))
        return self._links[link]


def not_found(link: str, known: list[str]) -> EdgeError:
    there = ", ".join(known) or "none"
    return EdgeError(Kind.EDGE_LINK_NOT_FOUND, f"cloud link {link!r} is not found; there is {there}")


@contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except DriverError as error:
        raise EdgeError(Kind.EDGE_SYNC, f"failed: {error}") from error
