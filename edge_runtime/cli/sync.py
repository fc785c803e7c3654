"""`edge-runtime sync`: how cloud links stand, what would cross them now; and to let them rest, go on, or try at once.

The app's own sidecar is asked. When the app does not run, the files of the node tell what waits and what is paused.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import quote

from edge_runtime.cli.arguments import FLAG, HELP, Option, Parsed, UsageError, help_text, parse, require
from edge_runtime.cli.asking import Failed, ask, outcome_of, own_sidecar, sidecar
from edge_runtime.cli.config import state_directory
from edge_runtime.cli.files import read_files
from edge_runtime.cli.instances import Instance
from edge_runtime.cli.output import Messages, age, as_json, table
from edge_runtime.config.values import nearest
from edge_runtime.model.errors import ConfigError

USAGE: Final = "edge-runtime sync status|dry-run|pause|resume|now [flags] [link]"
OPTIONS: Final = (
    HELP,
    Option(("app-id",), short="a", help="The app whose links they are; without it the node's files are read."),
    Option(("all",), FLAG, help="pause, resume, now: every link of the app."),
    Option(("outside-window",), FLAG, help="now: also while no window is open, for ten minutes."),
    Option(("state-dir",), help="status, dry-run: the files to look into, instead of asking the app's sidecar."),
    Option(("json",), FLAG, help="Print the outcome as JSON."),
    Option(("log-as-json",), FLAG, hidden=True),
    Option(("runtime-path",), hidden=True),
)
ACTIONS: Final = ("status", "dry-run", "pause", "resume", "now")
_CHANGES: Final = ("pause", "resume", "now")
_LINKS: Final = ("LINK", "STATE", "SINCE", "LAST CONTACT", "WAITS", "BYTES", "KEYS", "DEAD", "LEFT TODAY", "REASON")
_ROUTES: Final = ("LINK", "ROUTE", "NAME", "WAITS", "BYTES", "OLDEST", "DEAD", "DROPPED", "MORE", "LAST ERROR")
_STEPS: Final = ("LINK", "ROUTE", "NAME", "ENTRIES", "BYTES", "MORE")
_WAITS: Final = ("entries", "bytes", "oldestAgeSeconds", "deadLetters", "dropped")
_SHOWN: Final = ("route", "name", *_WAITS, "lastError", "steps")
_PLACE: Final = "/edge/v1/sync"
_NO_LINKS: Final = (
    "No cloud links found. A file with a mistake is left out: the sidecar's log says which, and `edge-runtime doctor`."
)


def main(argv: Sequence[str]) -> int:
    parsed = parse(OPTIONS, argv)
    if parsed.flag("help") or not parsed.words:
        print(help_text(USAGE, "Show and steer cloud links.", OPTIONS), end="")
        return 0
    action, *words = parsed.words
    _check(action, words, parsed)
    messages = Messages(parsed.flag("log-as-json"))
    work = _change if action in _CHANGES else _look
    links = outcome_of(lambda: work(action, words, parsed), parsed, messages)
    if links is None:
        return 1
    _show(action, links, parsed, messages)
    return 0


def _check(action: str, words: Sequence[str], parsed: Parsed) -> None:
    if action not in ACTIONS:
        raise UsageError(f'unknown command "{action}" for "edge-runtime sync"{nearest(action, ACTIONS)}')
    if len(words) > 1:
        raise UsageError(f"sync {action}: expected {USAGE}")
    if action in _CHANGES:
        require(parsed, "app-id")
        if parsed.flag("all") == bool(words):
            raise UsageError(f"sync {action}: expected a link, or --all")
    if parsed.flag("outside-window") and action != "now":
        raise UsageError("--outside-window: expected with `now` only")


def _look(action: str, words: Sequence[str], parsed: Parsed) -> list[dict[str, Any]]:
    """A document for each link, from the app's sidecar or from the files."""
    instance = sidecar(parsed)
    if instance is None:
        return _from_files(words, parsed)
    if action == "status" and not words:
        return _all(instance)
    names = words or [link["link"] for link in _all(instance)]
    ending = "/dry-run" if action == "dry-run" else ""
    return [ask(instance, "GET", f"{_place(name)}{ending}") for name in names]


def _change(action: str, words: Sequence[str], parsed: Parsed) -> list[dict[str, Any]]:
    instance = own_sidecar(parsed, "steers its links")
    names = words or [link["link"] for link in _all(instance)]
    query = "?outsideWindow=true" if parsed.flag("outside-window") else ""
    return [ask(instance, "POST", f"{_place(name)}/{action}{query}") for name in names]


# --- the sidecar ------------------------------------------------------------------------------------------------------


def _place(link: str) -> str:
    return f"{_PLACE}/{quote(link, safe='')}"


def _all(instance: Instance) -> list[dict[str, Any]]:
    links: list[dict[str, Any]] = ask(instance, "GET", _PLACE)["links"]
    return links


# --- the files --------------------------------------------------------------------------------------------------------


def _from_files(words: Sequence[str], parsed: Parsed) -> list[dict[str, Any]]:
    from edge_runtime.components.pubsub.sqlite import NODE_DATABASE

    directory = state_directory(parsed.text("state-dir"))
    if parsed.given("state-dir") and not os.path.isdir(directory):
        raise ConfigError(f"--state-dir {directory}: there is no such directory, or this user may not look there")
    links = read_files(lambda path: _read(directory, path), os.path.join(directory, NODE_DATABASE))
    found = [link for link in links if not words or link["link"] == words[0]]
    if words and not found:
        known = ", ".join(link["link"] for link in links) or "none"
        raise Failed(f"cloud link {words[0]!r} has left nothing in {directory}; there is {known}")
    return found


async def _read(directory: str, path: str) -> list[dict[str, Any]]:
    from edge_runtime.store.database import open_databases
    from edge_runtime.store.outbox import look_at_store
    from edge_runtime.sync.link_report import links_on_disk
    from edge_runtime.sync.look import Look

    if not os.path.exists(path):  # noqa: ASYNC240 - one look at a local file
        return links_on_disk(directory, None)
    async with open_databases() as databases:
        store = look_at_store(await databases.get(path, read_only=True))
        return links_on_disk(directory, None if store is None else Look(store))


# --- what is shown ----------------------------------------------------------------------------------------------------


def _show(action: str, links: Sequence[dict[str, Any]], parsed: Parsed, messages: Messages) -> None:
    if parsed.flag("json"):
        print(as_json(list(links)))
    elif action in _CHANGES:
        for link in links:
            text = f": {link['reason']}" if link["reason"] else ""
            messages.success(f"cloud link {link['link']} is {link['state']}{text}")
    elif not links:
        print(_NO_LINKS)
    elif action == "dry-run":
        _show_dry_run(links)
    else:
        print(table(_LINKS, map(_link_row, links)), end="")
        rows = [_route_row(link["link"], route) for link in links for route in link["routes"]]
        print("\n" + table(_ROUTES, rows) if rows else "", end="")


def _show_dry_run(links: Sequence[dict[str, Any]]) -> None:
    for link in links:
        texts = [f"{link['link']} is {link['state']}"]
        if "entries" in link:
            texts.append(f"{link['entries']} entries, about {link['bytesEstimated']} bytes")
        if keys := _sum(link, "pending"):
            texts.append(f"{keys} keys of state")
        if link.get("secondsEstimated") is not None:
            texts.append(f"{age(link['secondsEstimated'])} at the budget's rate")
        if link.get("daysEstimated"):
            texts.append(f"{link['daysEstimated']} more days of budget")
        print("; ".join(texts))
    rows = [_step_row(link["link"], route) for link in links for route in link["routes"]]
    print(table(_STEPS, rows) if rows else "", end="")
    for link in links:
        for route in link["routes"]:
            for step in route.get("steps", ()):
                words = (step["key"], step["action"], step["outcome"])
                print(f"{link['link']}  {route['name']}  {' '.join(word for word in words if word)}")


def _link_row(link: dict[str, Any]) -> tuple[str, ...]:
    contact = link.get("lastContactSeconds")
    left = link["budget"].get("dayLeftBytes")
    entries, size, dead = (str(_sum(link, name)) for name in ("entries", "bytes", "deadLetters"))
    return (
        link["link"],
        link["state"],
        f"{age(link['sinceSeconds'])} ago" if "sinceSeconds" in link else "",
        "" if contact is None else f"{age(contact)} ago",
        entries,
        size,
        str(_sum(link, "pending")) if any("pending" in route for route in link["routes"]) else "",
        dead,
        "" if left is None else str(left),
        link["reason"],
    )


def _sum(link: dict[str, Any], name: str) -> int:
    return sum(route.get(name) or 0 for route in link["routes"])


def _route_row(link: str, route: dict[str, Any]) -> tuple[str, ...]:
    oldest = route.get("oldestAgeSeconds")
    dropped = ", ".join(f"{reason}: {sums['entries']}" for reason, sums in route.get("dropped", {}).items())
    return (
        link,
        route["route"],
        route["name"],
        _text(route.get("entries")),
        _text(route.get("bytes")),
        "" if oldest is None else age(oldest),
        _text(route.get("deadLetters")),
        dropped,
        _more(route),
        route.get("lastError", ""),
    )


def _step_row(link: str, route: dict[str, Any]) -> tuple[str, ...]:
    numbers = (_text(route.get("entries")), _text(route.get("bytes")))
    return (link, route["route"], route["name"], *numbers, _more(route))


def _more(route: dict[str, Any]) -> str:
    """What only this kind of route says, without counts of nothing."""
    more = {name: _text(value) for name, value in route.items() if name not in _SHOWN and (value or value is False)}
    return " ".join(f"{name}={text}" for name, text in more.items() if text)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.0f}"
    return "" if value is None else str(value)
