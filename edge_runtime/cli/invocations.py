"""`edge-runtime invocations`: calls of apps and bindings behind a cloud link that wait, and what became of them.

The app's own sidecar is asked. When the app does not run, the node's file is read.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from edge_runtime.cli.arguments import FLAG, HELP, INTEGER, Option, Parsed, UsageError, help_text, parse
from edge_runtime.cli.asking import ask, limit_of, outcome_of, sidecar
from edge_runtime.cli.instances import now
from edge_runtime.cli.outbox import Sees, from_file
from edge_runtime.cli.output import Messages, age, as_json, table
from edge_runtime.config.values import nearest

if TYPE_CHECKING:
    from edge_runtime.sync.look import Look

USAGE: Final = "edge-runtime invocations list|show [flags] [id]"
OPTIONS: Final = (
    HELP,
    Option(("app-id",), short="a", help="The app whose links they are of; without it every call in the file."),
    Option(("state",), help="list: only calls in this state, or in these: waiting,failed."),
    Option(("after",), help="list: only calls behind this sequence."),
    Option(("limit",), INTEGER, help="list: how many calls at most.", default="100"),
    Option(("state-dir",), help="The file to look into, instead of asking the app's sidecar."),
    Option(("json",), FLAG, help="Print the outcome as JSON."),
    Option(("log-as-json",), FLAG, hidden=True),
    Option(("runtime-path",), hidden=True),
)
ACTIONS: Final = {"list": 0, "show": 1}  # how many further words
_PLACE: Final = "/edge/v1/invocations"
_COLUMNS: Final = ("ID", "STATE", "CALLED", "KEY", "AGE", "ATTEMPTS", "STATUS", "REASON")


def main(argv: Sequence[str]) -> int:
    parsed = parse(OPTIONS, argv)
    if parsed.flag("help") or not parsed.words:
        print(help_text(USAGE, "Show queued calls and their answers.", OPTIONS), end="")
        return 0
    action, *words = parsed.words
    if action not in ACTIONS:
        raise UsageError(f'unknown command "{action}" for "edge-runtime invocations"{nearest(action, ACTIONS)}')
    if len(words) != ACTIONS[action]:
        raise UsageError(f"invocations {action}: expected {USAGE}")
    messages = Messages(parsed.flag("log-as-json"))
    outcome = outcome_of(lambda: _list(parsed) if action == "list" else _show(words[0], parsed), parsed, messages)
    if outcome is None:
        return 1
    if parsed.flag("json"):
        print(as_json(outcome))
    elif action == "show":
        print(json.dumps(outcome, ensure_ascii=False, indent=2))
    else:
        _print_list(outcome, messages)
    return 0


def _list(parsed: Parsed) -> dict[str, Any]:
    from edge_runtime.api.outbox import CALL_STATES

    after, limit = parsed.text("after") or "0", limit_of(parsed)
    states = [state for state in parsed.text("state").split(",") if state]
    for state in states:
        if state not in CALL_STATES:
            raise UsageError(f"--state {state!r}: expected {', '.join(CALL_STATES)}")
    if not (after.isascii() and after.isdecimal() and len(after) < 19):
        raise UsageError(f"--after {after!r}: expected the sequence at the end of a list")
    instance = sidecar(parsed)
    if instance is not None:
        return ask(instance, "GET", f"{_PLACE}?after={after}&limit={limit}&state={','.join(states)}")

    async def read(look: Look | None, sees: Sees) -> dict[str, Any]:
        from edge_runtime.api.invocations import invocations_page

        return await invocations_page(look, sees, int(after), limit, states)

    return from_file(read, parsed)


def _show(call_id: str, parsed: Parsed) -> dict[str, Any]:
    instance = sidecar(parsed)
    if instance is not None:
        return ask(instance, "GET", f"{_PLACE}/{quote(call_id, safe='')}")

    async def read(look: Look | None, sees: Sees) -> dict[str, Any]:
        from edge_runtime.api.invocations import invocation

        return invocation(look, sees, call_id)

    return from_file(read, parsed)


def _print_list(outcome: dict[str, Any], messages: Messages) -> None:
    moment = now()
    rows = [_cells(row, moment) for row in outcome["invocations"]]
    print(table(_COLUMNS, rows) if rows else "No calls found.\n", end="")
    if outcome["next"] is not None:
        messages.info(f"There is more: --after {outcome['next']}")


def _cells(row: dict[str, Any], moment: float) -> tuple[str, ...]:
    called = f"{row.get('method', '')} {row.get('target') or row.get('appID')}{row.get('path', '')}".strip()
    if "binding" in row:
        called = f"{row.get('operation', '')} {row['binding']}".strip()
    since = row.get("enqueuedAt")
    return (
        row["id"],
        row["state"],
        called,
        row["key"],
        "" if since is None else age(max(moment - since, 0)),
        str(row["attempts"]),
        str(row.get("status") or ""),
        row.get("reason") or row.get("lastError") or "",
    )
