"""`edge-runtime state`: look into a state store and change it, as one of the apps sees it.

Values go through the app's own sidecar, so that its prefix, encryption and outbox apply. Which keys there are, the API
does not tell: that is asked at the control socket, or read from the file when no app runs.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import quote

from edge_runtime.cli.arguments import FLAG, HELP, INTEGER, Option, Parsed, UsageError, help_text, parse, require
from edge_runtime.cli.control import ControlError
from edge_runtime.cli.files import read_files
from edge_runtime.cli.http import Answer, Unreachable, request
from edge_runtime.cli.instances import Instance, control_of, find_instance
from edge_runtime.cli.invoke import token, token_hint
from edge_runtime.cli.output import Messages, as_json
from edge_runtime.config.environment import state_dir
from edge_runtime.config.values import nearest
from edge_runtime.model.errors import ConfigError, DriverError

USAGE: Final = "edge-runtime state get|set|delete|list --app-id <id> [flags] [key] [value]"
OPTIONS: Final = (
    HELP,
    Option(("app-id",), short="a", help="The app whose state it is."),
    Option(("store",), short="s", help="The state store.", default="statestore"),
    Option(("etag",), help="Change the key only while it has this etag."),
    Option(("data-file",), short="f", help="The file with the value to set; - reads standard input."),
    Option(("prefix",), help="list: only keys that start so."),
    Option(("after",), help="list: only keys that sort after this one."),
    Option(("limit",), INTEGER, help="list: how many keys at most.", default="100"),
    Option(("state-dir",), help="list, get: the files to look into when the app does not run."),
    Option(("json",), FLAG, help="Print the outcome as JSON."),
    Option(("log-as-json",), FLAG, hidden=True),
    Option(("runtime-path",), hidden=True),
)
# Word → how many further words it takes.
ACTIONS: Final = {"get": (1, 1), "set": (1, 2), "delete": (1, 1), "list": (0, 0)}
_LIMIT_MAX: Final = 1_000
_APP_MISSING: Final = "start it first: a state store is changed through the app's own sidecar"


class Failed(Exception):
    """The text is for the user; `facts` stand beside it in JSON."""

    def __init__(self, text: str, **facts: Any) -> None:
        super().__init__(text)
        self.facts = facts


def main(argv: Sequence[str]) -> int:
    parsed = parse(OPTIONS, argv)
    if parsed.flag("help") or not parsed.words:
        print(help_text(USAGE, "Read and change the state of an app.", OPTIONS), end="")
        return 0
    action, *words = parsed.words
    if action not in ACTIONS:
        raise UsageError(f'unknown command "{action}" for "edge-runtime state"{nearest(action, ACTIONS)}')
    least, most = ACTIONS[action]
    if not least <= len(words) <= most:
        raise UsageError(f"state {action}: expected {USAGE}")
    require(parsed, "app-id")
    messages = Messages(parsed.flag("log-as-json"))
    try:
        outcome = act(action, words, parsed)
    except Failed as error:
        return _failed(parsed, messages, str(error), error.facts)
    except (ConfigError, Unreachable, ControlError, DriverError) as error:
        return _failed(parsed, messages, str(error), {})
    _show(action, outcome, parsed, messages)
    return 0


def act(action: str, words: Sequence[str], parsed: Parsed) -> dict[str, Any]:
    """Do it; the value is what `--json` prints. Raises Failed and what the ways to the store raise."""
    app_id = parsed.text("app-id")
    instance = find_instance(app_id, os.environ)
    if action == "list":
        return list_keys(instance, parsed)
    if action == "get":
        return get(instance, words[0], parsed)
    if instance is None:
        raise Failed(f"app ID {app_id} not found; {_APP_MISSING}")
    if action == "set":
        return set_key(instance, words[0], value_of(words[1:], parsed), parsed)
    return delete(instance, words[0], parsed)


def get(instance: Instance | None, key: str, parsed: Parsed) -> dict[str, Any]:
    if instance is None:
        return _from_file(parsed, key)
    answer = _ask(instance, "GET", f"/{quote(key, safe='')}", parsed)
    if answer.status == 204:
        raise Failed(f"key {key!r} is not in {parsed.text('store')}", key=key)
    return {"key": key, "value": _value(answer.body)}


def set_key(instance: Instance, key: str, value: bytes, parsed: Parsed) -> dict[str, Any]:
    """A value that is JSON is stored as it is, other text as a JSON text."""
    try:
        json.loads(value)
    except ValueError:
        value = json.dumps(value.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
    etag = f',"etag":{json.dumps(parsed.text("etag"))}' if parsed.given("etag") else ""
    body = b'[{"key":%b,"value":%b%b}]' % (json.dumps(key).encode(), value, etag.encode())
    _ask(instance, "POST", "", parsed, body)
    return {"key": key, "saved": True}


def delete(instance: Instance, key: str, parsed: Parsed) -> dict[str, Any]:
    _ask(instance, "DELETE", f"/{quote(key, safe='')}", parsed)
    return {"key": key, "deleted": True}


def list_keys(instance: Instance | None, parsed: Parsed) -> dict[str, Any]:
    limit = parsed.integer("limit")
    if not 0 < limit <= _LIMIT_MAX:
        raise UsageError(f"--limit {limit}: expected a number from 1 to {_LIMIT_MAX}")
    control = control_of(instance) if instance is not None else None
    if control is None:
        return _from_file(parsed, None)
    app_id, store = parsed.text("app-id"), parsed.text("store")
    return {"keys": control.keys(app_id, store, parsed.text("prefix"), parsed.text("after"), limit)}


def value_of(words: Sequence[str], parsed: Parsed) -> bytes:
    """The value to set: the word, or what the file holds."""
    if bool(words) == parsed.given("data-file"):
        raise UsageError("state set: expected a value or --data-file, one of the two")
    if words:
        return os.fsencode(words[0])
    if parsed.text("data-file") == "-":
        return sys.stdin.buffer.read()
    try:
        with open(parsed.text("data-file"), "rb") as file:
            return file.read()
    except OSError as error:
        raise ConfigError(f"--data-file {parsed.text('data-file')}: {error.strerror}") from None


def _ask(instance: Instance, method: str, rest: str, parsed: Parsed, body: bytes = b"") -> Answer:
    headers = [*token(), (b"content-type", b"application/json")]
    if parsed.given("etag") and method == "DELETE":
        headers.append((b"if-match", os.fsencode(parsed.text("etag"))))
    target = f"/v1.0/state/{quote(parsed.text('store'), safe='')}{rest}"
    answer = request(method, instance.address, target, body, tuple(headers))
    if answer.status >= 300:
        try:
            message = json.loads(answer.body)["message"]
        except (ValueError, KeyError, TypeError):
            message = f"{answer.line}{token_hint(answer)}"
        raise Failed(str(message), status=answer.status)
    return answer


def _from_file(parsed: Parsed, key: str | None) -> dict[str, Any]:
    """The keys, or one value, from the default store's file, which is only read."""
    path = os.path.join(state_dir(os.environ, parsed.text("state-dir")), f"{parsed.text('store')}.db")
    if not os.path.exists(path):
        raise Failed(f"app ID {parsed.text('app-id')} not found, and there is no file {path}")
    return read_files(lambda path: _read_file(path, parsed, key), path)


async def _read_file(path: str, parsed: Parsed, key: str | None) -> dict[str, Any]:
    from edge_runtime.components.registry import ComponentContext, resolve
    from edge_runtime.store.database import open_databases

    prefix = f"{parsed.text('app-id')}||"
    async with open_databases() as databases:
        metadata = {"connectionString": f"file:{quote(path)}?mode=ro"}
        context = ComponentContext(
            parsed.text("store"), "state.sqlite", "v1", metadata, parsed.text("app-id"), "", databases, "", ""
        )
        async with resolve("state.sqlite")(context) as store:
            if key is not None:
                item = await store.get(prefix + key)
                if item is None:
                    raise Failed(f"key {key!r} is not in {path}", key=key)
                return {"key": key, "value": _value(item.value), "etag": item.etag}
            after = parsed.text("after")
            keys = await store.keys(
                prefix + parsed.text("prefix"), prefix + after if after else "", parsed.integer("limit")
            )
            return {"keys": [stored.removeprefix(prefix) for stored in keys]}


def _value(body: bytes) -> Any:
    """JSON as what it says, other bytes as text."""
    try:
        return json.loads(body)
    except ValueError:
        return body.decode("utf-8", "replace")


def _show(action: str, outcome: dict[str, Any], parsed: Parsed, messages: Messages) -> None:
    if parsed.flag("json"):
        print(as_json(outcome))
    elif action == "list":
        print("".join(f"{key}\n" for key in outcome["keys"]), end="")
    elif action == "get":
        value = outcome["value"]
        print(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    else:
        messages.success(f"Key {outcome['key']} {'saved' if action == 'set' else 'deleted'}")


def _failed(parsed: Parsed, messages: Messages, text: str, facts: dict[str, Any]) -> int:
    if parsed.flag("json"):
        print(as_json({"error": text, **facts}))
    else:
        messages.failure(text)
    return 1
