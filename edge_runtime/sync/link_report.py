"""A link as people see it: how it stands, and what would cross it now. Nothing here sends anything.

The documents are those of `edge/v1/sync`, and of `edge-runtime sync` when it reads the files of a node that does not
run.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Sequence
from typing import Any, Final

import trio

from edge_runtime.model.errors import DriverError
from edge_runtime.sync.link import Link
from edge_runtime.sync.link_files import FOLDER, DayFile, PauseMark
from edge_runtime.sync.link_routes import STEPS_MAX, LinkRoute
from edge_runtime.sync.look import Look
from edge_runtime.sync.shared import report

# What an entry brings along when it is sent: request line, heads, identity, answer. For estimates.
_ENTRY_BYTES: Final = 512


async def link_status(link: Link, routes: Sequence[LinkRoute]) -> dict[str, Any]:
    """How a link stands that is open in this process."""
    resource = link.settings.resource
    state_at, state_at_s = link.since
    window = link.window()
    heard_at, heard_at_s = link.heard_at or (None, None)
    return {
        "link": link.name,
        "endpoint": resource.http,
        "state": link.state.name,
        "reason": link.state.reason,
        "paused": link.paused,
        "since": round(state_at, 3),
        "sinceSeconds": _age_s(state_at_s),
        "lastContact": None if heard_at is None else round(heard_at, 3),
        "lastContactSeconds": None if heard_at_s is None else _age_s(heard_at_s),
        "metered": resource.metered,
        "window": {"open": window.open, "changesAt": window.changes_at},
        "budget": _budget(link),
        "bytes": link.bytes_by_class(),
        "routes": [{"route": route.kind, "name": route.name, **await _status(route)} for route in _each(routes)],
    }


async def link_dry_run(link: Link, routes: Sequence[LinkRoute]) -> dict[str, Any]:
    """What would be sent if the link were up now, and how long its budget would take."""
    found = [{"route": route.kind, "name": route.name, **await _dry_run(route)} for route in _each(routes)]
    entries = sum(one.get("entries", 0) for one in found)
    size = sum(one.get("bytes", 0) for one in found) + entries * _ENTRY_BYTES
    resource, left = link.settings.resource, link.budget.day_left(trio.current_time())
    per_second, per_day = resource.bytes_per_second, resource.bytes_per_day
    return {
        "link": link.name,
        "state": link.state.name,
        "reason": link.state.reason,
        "entries": entries,
        "bytesEstimated": size,
        "secondsEstimated": round(size / per_second, 1) if per_second else None,
        "daysEstimated": None if left is None else math.ceil(max(size - left, 0) / per_day),
        "routes": found,
    }


def _each(routes: Sequence[LinkRoute]) -> Iterable[LinkRoute]:
    """Once, whatever the number of apps that have a part in it."""
    return {(route.kind, route.name): route for route in routes}.values()


async def _status(route: LinkRoute) -> dict[str, Any]:
    """A route that cannot say hides no other."""
    try:
        return await route.status()
    except DriverError as error:
        return {"lastError": str(error)}


async def _dry_run(route: LinkRoute) -> dict[str, Any]:
    try:
        return await route.dry_run(STEPS_MAX)
    except DriverError as error:
        return {"lastError": str(error)}


def _budget(link: Link) -> dict[str, Any]:
    resource, now = link.settings.resource, trio.current_time()
    left = link.budget.day_left(now)
    return {
        "bytesPerSecond": resource.bytes_per_second or None,
        "bytesPerDay": resource.bytes_per_day or None,
        "dayLeftBytes": left,
        "dayResetsInSeconds": None if left is None else round(link.budget.resets_in_s(now), 1),
    }


def _age_s(at_s: float) -> float:
    return round(max(time.monotonic() - at_s, 0.0), 3)


# --- a node that does not run -----------------------------------------------------------------------------------------


def links_on_disk(state_dir: str, look: Look | None) -> list[dict[str, Any]]:
    """What the files of a node say of its links: what waits for them, what they spent, and whether they are paused."""
    routes: dict[str, list[str]] = {name: [] for name in _names(os.path.join(state_dir, FOLDER))}
    for route in () if look is None else look.names():
        kind, _, rest = route.partition("/")
        if kind == "link":
            routes.setdefault(rest.partition("/")[0], []).append(route)
    return [_on_disk(state_dir, look, name, routes[name]) for name in sorted(routes)]


def _names(folder: str) -> set[str]:
    try:
        names = os.listdir(folder)
    except OSError:
        return set()
    return {name.rpartition(".")[0] for name in names if name.endswith((".json", ".paused"))}


def _on_disk(state_dir: str, look: Look | None, name: str, routes: Sequence[str]) -> dict[str, Any]:
    spent, age_s = DayFile(os.path.join(state_dir, FOLDER, f"{name}.json"), time.time).load()
    paused = PauseMark(state_dir, name).is_set()
    return {
        "link": name,
        "state": "paused" if paused else "unknown",
        "paused": paused,
        "reason": "" if paused else "its node does not run, or not for this app",
        "budget": {"daySpentBytes": spent, "dayAgeSeconds": round(age_s, 1)},
        "routes": [
            {"route": "outbox", "name": route.split("/", 2)[2], **report(look.state(route), look.dropped(route))}
            for route in routes
            if look is not None
        ],
    }
