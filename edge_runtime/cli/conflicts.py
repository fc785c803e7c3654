"""`edge-runtime conflicts`: keys that two sides had changed, and changes that a remote refuses for good.

The app's own sidecar is asked. When the app does not run, the file of the default store is read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlencode

from edge_runtime.cli.arguments import FLAG, HELP, INTEGER, Option, Parsed, UsageError, help_text, parse, require
from edge_runtime.cli.asking import Failed, ask, limit_of, outcome_of, own_sidecar, sidecar
from edge_runtime.cli.config import state_directory
from edge_runtime.cli.files import read_files
from edge_runtime.cli.output import Messages, as_json, table
from edge_runtime.config.values import nearest

if TYPE_CHECKING:
    from edge_runtime.api.conflicts import StoreConflicts

USAGE: Final = "edge-runtime conflicts list|show|resolve|retry [flags] [conflict or key ...]"
OPTIONS: Final = (
    HELP,
    Option(("app-id",), short="a", help="The app whose conflicts they are; without it every key of the file is shown."),
    Option(("store",), short="s", help="The state store.", default="statestore"),
    Option(("resolved",), FLAG, help="list: also those that somebody has looked at."),
    Option(("refused",), FLAG, help="list: the changes that the remote refuses for good instead."),
    Option(("use",), help="resolve: write this version back: local, remote or base."),
    Option(("after",), help="list: only what comes behind this one."),
    Option(("limit",), INTEGER, help="list: how many at most.", default="100"),
    Option(("all",), FLAG, help="resolve: all that are open. retry: all that are refused."),
    Option(("state-dir",), help="list, show: the files to look into, instead of asking the app's sidecar."),
    Option(("json",), FLAG, help="Print the outcome as JSON."),
    Option(("log-as-json",), FLAG, hidden=True),
    Option(("runtime-path",), hidden=True),
)
# Word → how many further words it takes at least and at most.
ACTIONS: Final = {"list": (0, 0), "show": (1, 1), "resolve": (0, 1000), "retry": (0, 1000)}
_CHANGES: Final = ("resolve", "retry")
_SIDES: Final = ("local", "remote", "base")
_CONFLICTS: Final = ("CONFLICT", "KEY", "WHEN", "POLICY", "LOSERS", "RESOLVED", "OUTCOME")
_REFUSED: Final = ("KEY", "CHANGED", "REASON")
_PLACE: Final = "/edge/v1/conflicts"


def main(argv: Sequence[str]) -> int:
    parsed = parse(OPTIONS, argv)
    if parsed.flag("help") or not parsed.words:
        print(help_text(USAGE, "Show and resolve what two sides had changed.", OPTIONS), end="")
        return 0
    action, *words = parsed.words
    _check(action, words, parsed)
    messages = Messages(parsed.flag("log-as-json"))
    work = _change if action in _CHANGES else _look
    outcome = outcome_of(lambda: work(action, words, parsed), parsed, messages)
    if outcome is None:
        return 1
    _show(action, outcome, parsed, messages)
    return 0


def _check(action: str, words: Sequence[str], parsed: Parsed) -> None:
    if action not in ACTIONS:
        raise UsageError(f'unknown command "{action}" for "edge-runtime conflicts"{nearest(action, ACTIONS)}')
    least, most = ACTIONS[action]
    if not least <= len(words) <= most:
        raise UsageError(f"conflicts {action}: expected {USAGE}")
    if action in _CHANGES:
        require(parsed, "app-id")
        if parsed.flag("all") == bool(words):
            raise UsageError(f"conflicts {action}: expected {'conflicts' if action == 'resolve' else 'keys'}, or --all")
    if parsed.given("use") and (action != "resolve" or parsed.text("use") not in _SIDES):
        raise UsageError(f"--use: expected one of {', '.join(_SIDES)}, with `resolve`")


def _look(action: str, words: Sequence[str], parsed: Parsed) -> dict[str, Any]:
    """The document, from the app's sidecar or from the file."""
    instance = sidecar(parsed)
    if action == "show":
        entry_id = _id(words[0])
        if instance is None:
            return _from_file(parsed, "show", entry_id, 0)
        return ask(instance, "GET", f"{_place(parsed)}/entries/{entry_id}")
    limit, after = limit_of(parsed), parsed.text("after")
    if parsed.flag("refused"):
        if instance is None:
            return _from_file(parsed, "refused", after, limit)
        return ask(instance, "GET", f"{_place(parsed)}/refused?{urlencode({'after': after, 'limit': limit})}")
    if instance is None:
        return _from_file(parsed, "list", _id(after or "0"), limit)
    query: dict[str, Any] = {"after": _id(after or "0"), "limit": limit}
    if not parsed.flag("resolved"):
        query["resolved"] = "false"
    return ask(instance, "GET", f"{_place(parsed)}?{urlencode(query)}")


def _change(action: str, words: Sequence[str], parsed: Parsed) -> dict[str, Any]:
    instance = own_sidecar(parsed, "changes its state")
    body: dict[str, Any] = {"all": True}
    if action == "resolve":
        if words:
            body = {"ids": [_id(word) for word in words]}
        if parsed.given("use"):
            body["use"] = parsed.text("use")
    elif words:
        body = {"keys": list(words)}
    outcome = ask(instance, "POST", f"{_place(parsed)}/{action}", json.dumps(body).encode())
    if words and not sum(outcome.values()):
        raise Failed(f"store {parsed.text('store')}: nothing of that is there to {action}")
    return outcome


# --- the sidecar ------------------------------------------------------------------------------------------------------


def _place(parsed: Parsed) -> str:
    return f"{_PLACE}/{quote(parsed.text('store'), safe='')}"


# --- the file ---------------------------------------------------------------------------------------------------------


def _from_file(parsed: Parsed, what: str, first: Any, limit: int) -> dict[str, Any]:
    """The same from the default store's file, which is only read."""
    path = os.path.join(state_directory(parsed.text("state-dir")), f"{parsed.text('store')}.db")
    if not os.path.exists(path):
        raise Failed(f"there is no file {path}, or this user may not look there; start the app to ask its sidecar")
    return read_files(lambda path: _read_file(path, parsed, what, first, limit), path)


async def _read_file(path: str, parsed: Parsed, what: str, first: Any, limit: int) -> dict[str, Any]:
    from edge_runtime.api.conflicts import StoreConflicts
    from edge_runtime.components.registry import ComponentContext, resolve
    from edge_runtime.store.database import open_databases

    store, app_id = parsed.text("store"), parsed.text("app-id")
    async with open_databases() as databases:
        metadata = {"connectionString": f"file:{quote(path)}?mode=ro"}
        context = ComponentContext(store, "state.sqlite", "v1", metadata, app_id, "", databases, "", "")
        async with resolve("state.sqlite")(context) as driver:
            prefix = f"{app_id}||" if app_id else None
            return await _document(StoreConflicts(store, driver.find_journal(), prefix), parsed, what, first, limit)


async def _document(store: StoreConflicts, parsed: Parsed, what: str, first: Any, limit: int) -> dict[str, Any]:
    import msgspec

    if what == "show":
        document = await store.entry(first)
    elif what == "refused":
        document = await store.refused(first, limit)
    else:
        document = await store.page(first, limit, resolved=None if parsed.flag("resolved") else False, versions=False)
    plain: dict[str, Any] = json.loads(msgspec.json.encode(document))  # versions are raw JSON
    return plain


# --- words and flags --------------------------------------------------------------------------------------------------


def _id(word: str) -> int:
    if not (word.isascii() and word.isdecimal() and len(word) < 19):
        raise UsageError(f"{word!r} is no conflict; expected a number, as `conflicts list` prints them")
    return int(word)


# --- what is shown ----------------------------------------------------------------------------------------------------


def _show(action: str, outcome: dict[str, Any], parsed: Parsed, messages: Messages) -> None:
    if parsed.flag("json"):
        print(as_json(outcome))
    elif action in _CHANGES:
        ((word, count),) = outcome.items()
        what = "conflict" if action == "resolve" else "key"
        messages.success(f"{count} {what if count == 1 else what + 's'} {word}")
    elif action == "show":
        print(_page_of(outcome), end="")
    elif parsed.flag("refused"):
        rows = [(one["key"], one["at"] or "", one["reason"]) for one in outcome["refused"]]
        print(table(_REFUSED, rows) if rows else "Nothing is refused.\n", end="")
    else:
        print(table(_CONFLICTS, map(_row, outcome["conflicts"])) if outcome["conflicts"] else "No conflicts.\n", end="")
    if outcome.get("next") is not None:
        messages.info(f"There is more: --after {outcome['next']}")


def _row(entry: dict[str, Any]) -> tuple[str, ...]:
    facts = (str(entry["id"]), entry["key"], entry["at"], entry["policy"], ", ".join(entry["losers"]))
    return (*facts, "yes" if entry["resolved"] else "no", entry["outcome"])


def _page_of(entry: dict[str, Any]) -> str:
    """One conflict, a line a fact."""
    lines = [("key", entry["key"]), ("when", entry["at"]), ("policy", entry["policy"]), ("outcome", entry["outcome"])]
    lines += [("losers", ", ".join(entry["losers"])), ("resolved", "yes" if entry["resolved"] else "no")]
    if entry["paths"]:
        lines.append(("paths", ", ".join(path or "the whole value" for path in entry["paths"])))
    if entry.get("damaged"):
        lines.append(("versions", "damaged on disk"))
    else:
        lines += [(side, _version(entry[side])) for side in _SIDES]
    return "".join(f"{name + ':':<10}{text}\n" for name, text in lines)


def _version(version: dict[str, Any] | None) -> str:
    if version is None:
        return "not known"
    at = f"  ({version['at']})" if version.get("at") else ""
    if version.get("removed"):
        return f"removed{at}"
    if "base64" in version:
        return f"base64 {version['base64']}{at}"
    return f"{json.dumps(version['value'], ensure_ascii=False)}{at}"
