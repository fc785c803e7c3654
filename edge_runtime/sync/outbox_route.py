"""A route of a link whose operations wait in the outbox: open while it can be, up while the link is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from edge_runtime.model.errors import DriverError, StoreUnavailable
from edge_runtime.model.ports import Entry, Route
from edge_runtime.sync.link_settings import LinkState

LIMIT_NAME: Final = "limits.size of the CloudLink's route"


EXPIRED: Final = "its time to live"  # how the reason begins


class Expired(DriverError):
    """The time to live that came with an operation has passed while it waited."""

    permanent = True


def time_left_s(ttl_s: float, text: str, entry: Entry, now: float) -> float:
    """What is left of a time to live, which was written as `text`. Raises `Expired`.

    A clock that went back makes it no longer.
    """
    left_s = ttl_s - max(now - entry.enqueued_at, 0.0)
    if left_s <= 0:
        raise Expired(expiry(text))
    return left_s


def expiry(text: str) -> str:
    """Why an operation with this time to live is not sent any more."""
    return f"{EXPIRED}, {text}, passed before it could be sent"


class OutboxRoute:
    """What all such routes have: `sync.link_routes.LinkRoute`. Without its outbox route, which `fault` explains,
    nothing is taken."""

    kind: str

    def __init__(self, name: str, to: str) -> None:
        self.name = name
        self.to = to
        self.route: Route | None = None
        self.fault = "its route in the outbox is not open yet"

    async def send(self, entry: Entry) -> Mapping[str, Any] | None:
        """The outbox's sender: raises `Unreachable`, a `permanent` error, or another for another try."""
        raise NotImplementedError

    def follow(self, state: LinkState) -> None:
        """The link's state has changed."""
        if self.route is None:
            return
        if state.up:
            self.route.up()
        else:
            self.route.down(state.reason)

    def opened(self, what: str) -> Route:
        """The route, to append `what` to. Raises `StoreUnavailable`."""
        if self.route is None:
            raise StoreUnavailable(f"the {what} cannot be kept for the cloud link: {self.fault}")
        return self.route

    async def status(self) -> dict[str, Any]:
        if self.route is None:
            return {"to": self.to, "lastError": self.fault}
        return {"to": self.to, "lastError": "", **self.route.report()}

    async def dry_run(self, limit: int) -> dict[str, Any]:
        """Single entries are for `edge-runtime outbox show`: there may be millions."""
        found = {} if self.route is None else self.route.report()
        return {"entries": found.get("entries", 0), "bytes": found.get("bytes", 0)}

    def hurry(self) -> None:
        if self.route is not None:
            self.route.hurry()


class DirectRoute:
    """A route of calls that never wait."""

    def __init__(self, kind: str, name: str, to: str) -> None:
        self.kind = kind
        self.name = name
        self._to = to

    async def status(self) -> dict[str, Any]:
        return {"to": self._to, "lastError": ""}

    async def dry_run(self, limit: int) -> dict[str, Any]:
        return {}

    def hurry(self) -> None:
        """Nothing waits."""
