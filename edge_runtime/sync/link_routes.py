"""What every kind of route of a link says of itself, for `edge-runtime sync` and `edge/v1/sync`."""

from __future__ import annotations

from typing import Any, Final, Protocol

# How many keys, calls or the like a dry run names for each route.
STEPS_MAX: Final = 1000


class LinkRoute(Protocol):
    """A route of a link, as far as those see it who look at the link. Nothing here may send anything.

    Documents have values that JSON knows and names like those of the HTTP API (`lastError`). Where it makes sense they
    are: `entries`, `bytes` and `oldestAgeSeconds` of what waits, `pending`, `refused` and `conflicts` of keys,
    `ageSeconds` of a copy, `lastError` (empty for none).
    """

    @property
    def kind(self) -> str:
        """The field under `spec.routes`: topicsUp, topicsDown, state, configuration, secrets, invocation, bindings."""

    @property
    def name(self) -> str:
        """What tells it from others of its kind: a topic, keys, an app ID, a binding."""

    async def status(self) -> dict[str, Any]:
        """How it stands. Raises `DriverError` when the disk does not say."""

    async def dry_run(self, limit: int) -> dict[str, Any]:
        """What would be sent if the link were up now; of single steps at most `limit`. Raises `DriverError`."""

    def hurry(self) -> None:
        """Try again now what waits for its next try."""
