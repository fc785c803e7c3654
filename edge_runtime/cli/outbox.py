"""`edge-runtime outbox`: what waits to be sent, what was given up and what was dropped; and to change it.

The app's own sidecar is asked, which also knows how its links are. When the app does not run, the node's file is read.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import quote

from edge_runtime.cli.arguments import FLAG, HELP, INTEGER, Option, Parsed, UsageError, help_text, parse, require
from edge_runtime.cli.asking import Failed, ask, limit_of, outcome_of, own_sidecar, sidecar
from edge_runtime.cli.config import state_directory
from edge_runtime.cli.control import ControlError
from edge_runtime.cli.files import read_files
from edge_runtime.cli.http import Refused, Unreachable, download
from edge_runtime.cli.instances import now
from edge_runtime.cli.invoke import said, token
from edge_runtime.cli.output import Messages, age, as_json, table
from edge_runtime.config.values import nearest
from edge_runtime.model.errors import ConfigError, DriverError, EdgeError

if TYPE_CHECKING:
    from edge_runtime.sync.look import Look

USAGE: Final = "edge-runtime outbox list|show|retry|drop|export [flags] [route] [entry ...]"
OPTIONS: Final = (
    HELP,
    Option(("app-id",), short="a", help="The app whose routes they are; without it every route of the file."),
    Option(("dead",), FLAG, help="show, export: the dead letters instead of what waits."),
    Option(("dropped",), FLAG, help="show: what was dropped, and why."),
    Option(("payload",), FLAG, help="show: with what the entries carry, as JSON."),
    Option(("after",), help="show: only entries behind this one."),
    Option(("limit",), INTEGER, help="show: how many entries at most.", default="100"),
    Option(("all",), FLAG, help="retry, drop: all of the route."),
    Option(("state-dir",), help="list, show, export: the file to look into, instead of asking the app's sidecar."),
    Option(("json",), FLAG, help="Print the outcome as JSON."),
    Option(("log-as-json",), FLAG, hidden=True),
    Option(("runtime-path",), hidden=True),
)
# Word → how many further words it takes at least and at most.
ACTIONS: Final = {"list": (0, 0), "show": (1, 1), "retry": (1, 1001), "drop": (1, 1001), "export": (1, 1)}
_CHANGES: Final = ("retry", "drop")
_ROUTES: Final = ("ROUTE", "LINK", "ENTRIES", "BYTES", "OLDEST", "DEAD", "DROPPED", "REASON")
_ENTRIES: Final = ("ENTRY", "KEY", "SIZE", "AGE", "ATTEMPTS", "LAST ERROR")
_DROPS: Final = ("WHEN", "REASON", "ENTRIES", "BYTES", "FIRST", "LAST", "FIRST KEY", "LAST KEY")
_PLACE: Final = "/edge/v1/outbox"


_T = TypeVar("_T")


def main(argv: Sequence[str]) -> int:
    parsed = parse(OPTIONS, argv)
    if parsed.flag("help") or not parsed.words:
        print(help_text(USAGE, "Show and change what waits to be sent.", OPTIONS), end="")
        return 0
    action, *words = parsed.words
    _check(action, words, parsed)
    messages = Messages(parsed.flag("log-as-json"))
    if action == "export":
        return _export(words[0], parsed)
    work = _change if action in _CHANGES else _look
    outcome = outcome_of(lambda: work(action, words, parsed), parsed, messages)
    if outcome is None:
        return 1
    _show(action, outcome, parsed, messages)
    return 0


def _check(action: str, words: Sequence[str], parsed: Parsed) -> None:
    if action not in ACTIONS:
        raise UsageError(f'unknown command "{action}" for "edge-runtime outbox"{nearest(action, ACTIONS)}')
    least, most = ACTIONS[action]
    if not least <= len(words) <= most:
        raise UsageError(f"outbox {action}: expected {USAGE}")
    if action in _CHANGES:
        require(parsed, "app-id")
        if parsed.flag("all") == (len(words) > 1):
            raise UsageError(f"outbox {action}: expected entries of the route, or --all")
    if parsed.flag("dead") and parsed.flag("dropped"):
        raise UsageError("--dead and --dropped: expected one of the two")


def _look(action: str, words: Sequence[str], parsed: Parsed) -> dict[str, Any]:
    """The document, from the app's sidecar or from the file."""
    page = {
        "after": _sequence(parsed.text("after") or "0"),
        "limit": limit_of(parsed),
        "payload": parsed.flag("payload"),
    }
    instance = sidecar(parsed)
    if instance is None:
        what = "routes" if action == "list" else _what(parsed)
        return from_file(lambda look, sees: _read_file(look, sees, what, words, page), parsed)
    if action == "list":
        return ask(instance, "GET", _PLACE)
    query = "&".join(f"{name}={str(value).lower()}" for name, value in page.items())
    return ask(instance, "GET", f"{_place(words[0])}/{_what(parsed)}?{query}")


def _change(action: str, words: Sequence[str], parsed: Parsed) -> dict[str, Any]:
    instance = own_sidecar(parsed, "changes its outbox")
    sequences = [_sequence(word) for word in words[1:]]
    body = {"all": True} if parsed.flag("all") else {"sequences": sequences}
    outcome = ask(instance, "POST", f"{_place(words[0])}/{action}", json.dumps(body).encode())
    if sequences and not sum(outcome.values()):
        raise Failed(f"outbox route {words[0]}: nothing of that can be {'retried' if action == 'retry' else 'dropped'}")
    return outcome


def _export(route: str, parsed: Parsed) -> int:
    """A JSON object a line, on standard output; what goes wrong is said on standard error."""
    messages = Messages(parsed.flag("log-as-json"), out=sys.stderr)
    out = sys.stdout.buffer
    try:
        instance = sidecar(parsed)
        if instance is None:
            from_file(lambda look, sees: _export_file(look, sees, route, parsed.flag("dead")), parsed)
        else:
            dead = str(parsed.flag("dead")).lower()
            for piece in download(instance.address, f"{_place(route)}/export?dead={dead}", tuple(token())):
                out.write(piece)
        out.flush()
    except Refused as error:
        messages.failure(said(error.answer))
        return 1
    except (Failed, ConfigError, ControlError, DriverError, EdgeError, Unreachable) as error:
        messages.failure(str(error))
        return 1
    return 0


# --- the sidecar ------------------------------------------------------------------------------------------------------


def _place(route: str) -> str:
    return f"{_PLACE}/{quote(route, safe='')}"


# --- the file ---------------------------------------------------------------------------------------------------------

Sees = Callable[[str], bool]


def from_file(read: Callable[[Look | None, Sees], Awaitable[_T]], parsed: Parsed) -> _T:
    """What `read` finds in the node's file, which is only read."""
    from edge_runtime.components.pubsub.sqlite import NODE_DATABASE

    path = os.path.join(state_directory(parsed.text("state-dir")), NODE_DATABASE)
    directory = parsed.text("state-dir")
    if directory and not os.path.exists(path):
        raise ConfigError(f"--state-dir {directory}: there is no file {path}, or this user may not look there")
    return read_files(lambda path: _open_file(path, read, _sees(parsed)), path)


async def _open_file(path: str, read: Callable[[Look | None, Sees], Awaitable[_T]], sees: Sees) -> _T:
    from edge_runtime.store.database import open_databases
    from edge_runtime.store.outbox import look_at_store
    from edge_runtime.sync.look import Look

    if not os.path.exists(path):  # noqa: ASYNC240 - one look at a local file
        return await read(None, sees)
    async with open_databases() as databases:
        store = look_at_store(await databases.get(path, read_only=True))
        return await read(None if store is None else Look(store), sees)


def _sees(parsed: Parsed) -> Sees:
    """Without its files nobody knows which links are an app's: all of them are shown."""
    from edge_runtime.api.outbox import belongs

    app_id = parsed.text("app-id")
    return lambda route: not app_id or route.startswith("link/") or belongs(route, app_id, ())


async def _read_file(
    look: Look | None, sees: Sees, what: str, words: Sequence[str], page: dict[str, Any]
) -> dict[str, Any]:
    from edge_runtime.api.outbox import dead_page, dropped_page, entries_page, routes_document

    if what == "routes":
        return routes_document(look, sees, "unknown")
    read = {"entries": entries_page, "dead": dead_page, "dropped": dropped_page}[what]
    return read(_known(look, sees, words[0]), words[0], page["after"], page["limit"], page["payload"])


async def _export_file(look: Look | None, sees: Sees, route: str, dead: bool) -> None:
    from edge_runtime.api.outbox import dead_page, entries_page, export_lines

    async for piece in export_lines(_known(look, sees, route), dead_page if dead else entries_page, route):
        sys.stdout.buffer.write(piece)


def _known(look: Look | None, sees: Sees, route: str) -> Look:
    from edge_runtime.api.outbox import not_found

    known = [] if look is None else [name for name in look.names() if sees(name)]
    if look is None or route not in known:
        raise not_found(route, known)
    return look


# --- words and flags --------------------------------------------------------------------------------------------------


def _what(parsed: Parsed) -> str:
    return "dead" if parsed.flag("dead") else "dropped" if parsed.flag("dropped") else "entries"


def _sequence(word: str) -> int:
    """An entry's sequence, which is also the last part of its id."""
    text = word.rpartition("-")[2]
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise UsageError(f"{word!r} is no entry; expected its id or sequence, as `outbox show` prints them")
    return int(text)


# --- what is shown ----------------------------------------------------------------------------------------------------


def _show(action: str, outcome: dict[str, Any], parsed: Parsed, messages: Messages) -> None:
    if parsed.flag("json"):
        print(as_json(outcome["routes"] if action == "list" else outcome))
    elif action in _CHANGES:
        ((word, count),) = outcome.items()
        messages.success(f"{count} {'entry' if count == 1 else 'entries'} {word}")
    elif action == "list":
        rows = [_route_row(route) for route in outcome["routes"]]
        print(table(_ROUTES, rows) if rows else "No outbox routes found.\n", end="")
    elif parsed.flag("dropped"):
        rows = [_drop_row(line, now()) for line in outcome["lines"]]
        print(table(_DROPS, rows) if rows else "Nothing was dropped.\n", end="")
    else:
        _show_entries(outcome, parsed, messages)


def _show_entries(outcome: dict[str, Any], parsed: Parsed, messages: Messages) -> None:
    entries = outcome["deadLetters" if parsed.flag("dead") else "entries"]
    if parsed.flag("payload"):
        print("".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries), end="")
    elif entries:
        print(table(_ENTRIES, map(_entry_row, entries)), end="")
    else:
        print("No dead letters." if parsed.flag("dead") else "Nothing waits.")
    if outcome["next"] is not None:
        messages.info(f"There is more: --after {outcome['next']}")


def _route_row(route: dict[str, Any]) -> tuple[str, ...]:
    oldest = route["oldestAgeSeconds"]
    dropped = ", ".join(f"{reason}: {sums['entries']}" for reason, sums in route["dropped"].items())
    numbers = (str(route["entries"]), str(route["bytes"]), "" if oldest is None else age(oldest))
    return (route["route"], route["link"], *numbers, str(route["deadLetters"]), dropped, route["reason"])


def _entry_row(entry: dict[str, Any]) -> tuple[str, ...]:
    facts = (str(entry["size"]), age(entry["ageSeconds"]), str(entry["attempts"]))
    return (str(entry["sequence"]), entry["key"], *facts, entry["lastError"])


def _drop_row(line: dict[str, Any], moment: float) -> tuple[str, ...]:
    numbers = tuple(str(line[name]) for name in ("entries", "bytes", "first", "last"))
    return (f"{age(moment - line['to'])} ago", line["reason"], *numbers, line["firstKey"], line["lastKey"])
