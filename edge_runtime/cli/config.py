"""`edge-runtime config`: the settings of a `configuration.sqlite` component, set and followed from a shell.

The file is written directly: a node that runs sees the change at once, one that does not finds it when it starts.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from edge_runtime.cli.arguments import FLAG, HELP, Option, Parsed, UsageError, help_text, parse
from edge_runtime.cli.control import ControlError, running_nodes
from edge_runtime.cli.files import read_files
from edge_runtime.cli.http import Unreachable
from edge_runtime.cli.output import Messages, as_json, table
from edge_runtime.config.environment import state_dir
from edge_runtime.config.values import nearest
from edge_runtime.model.errors import ConfigError, DriverError

USAGE: Final = "edge-runtime config set|get|list|delete|watch [flags] [key] [value]"
OPTIONS: Final = (
    HELP,
    Option(("store",), short="s", help="The configuration store.", default="configstore"),
    Option(("file",), help="The store's file, when it is not <state directory>/<store>.db."),
    Option(("table",), help="The table in the file.", default="configuration"),
    Option(("resources-path",), short="d", help="A directory with the Component of that name, which names the file."),
    Option(("state-dir",), help="The state directory, when it is not that of the node that runs."),
    Option(("version",), help="set: the item's version, instead of one more than the last."),
    Option(("metadata",), short="m", help="set: key=value that goes with the item; may be given again."),
    Option(("data-file",), short="f", help="set: the file with the value; - reads standard input."),
    Option(("json",), FLAG, help="Print the outcome as JSON; watch: an object a line."),
    Option(("log-as-json",), FLAG, hidden=True),
    Option(("runtime-path",), hidden=True),
)
# Word → how many further words it takes at least and at most.
ACTIONS: Final = {"set": (1, 2), "get": (1, 1), "list": (0, 0), "delete": (1, 1), "watch": (0, 1000)}
HEADER: Final = ("KEY", "VERSION", "VALUE", "METADATA")
_WRITES: Final = frozenset({"set", "delete", "watch"})


class Place(NamedTuple):
    """Where the settings are."""

    path: str
    table: str


def main(argv: Sequence[str]) -> int:
    parsed = parse(OPTIONS, argv)
    if parsed.flag("help") or not parsed.words:
        print(help_text(USAGE, "Set, read and follow the settings that apps are given.", OPTIONS), end="")
        return 0
    action, *words = parsed.words
    if action not in ACTIONS:
        raise UsageError(f'unknown command "{action}" for "edge-runtime config"{nearest(action, ACTIONS)}')
    least, most = ACTIONS[action]
    if not least <= len(words) <= most:
        raise UsageError(f"config {action}: expected {USAGE}")
    messages = Messages(parsed.flag("log-as-json"))
    try:
        outcome = act(action, words, parsed)
    except (ConfigError, ControlError, DriverError, Unreachable) as error:
        if parsed.flag("json"):
            print(as_json({"error": str(error)}))
        else:
            messages.failure(str(error))
        return 1
    show(action, outcome, parsed, messages)
    return 0


def act(action: str, words: Sequence[str], parsed: Parsed) -> dict[str, Any]:
    """Do it; the value is what `--json` prints."""
    item = _item(words, parsed) if action == "set" else {}
    place = find(parsed)
    if action in ("get", "list", "delete") and not os.path.exists(place.path):
        raise ConfigError(f"there is no file {place.path}; --file, --resources-path or --state-dir name another one")
    if action == "set":
        return read_files(lambda _: _set(place, words[0], item), "")
    if action == "delete":
        return read_files(lambda _: _delete(place, words[0]), "")
    if action == "watch":
        return read_files(lambda _: _watch(place, words, parsed.flag("json")), "")
    return read_files(lambda _: _read(place, words), "")


# --- which file -------------------------------------------------------------------------------------------------------


def find(parsed: Parsed) -> Place:
    """The file as told, as a Component says, or where a node keeps it. Raises ConfigError."""
    named = parsed.text("file")
    if named:
        return Place(os.path.realpath(named), parsed.text("table"))
    if parsed.given("resources-path"):
        return _of_component(parsed)
    directory = state_directory(parsed.text("state-dir"))
    return Place(os.path.join(directory, f"{parsed.text('store')}.db"), parsed.text("table"))


def state_directory(told: str) -> str:
    """As told, else that of the node that runs, else that of a node which would be started."""
    if told:
        return os.path.abspath(told)
    found = {str(node.describe()["stateDirectory"]) for node in running_nodes(os.environ)}
    if len(found) > 1:
        raise ConfigError(f"several nodes run; name the state directory with --state-dir: {', '.join(sorted(found))}")
    return found.pop() if found else state_dir(os.environ)


def _of_component(parsed: Parsed) -> Place:
    from edge_runtime.config.resources import load_resources
    from edge_runtime.store.connection import parse_connection_string

    store, directory = parsed.text("store"), parsed.text("resources-path")
    for component in load_resources([directory], app_id="").components:
        if component.name == store and component.type.lower() == "configuration.sqlite":
            fields = {item.name.lower(): item.value for item in component.metadata}
            text = fields.get("connectionstring") or fields.get("url")
            if not text:
                raise ConfigError(f"{component.source}: connectionString is no plain text; name the file with --file")
            return Place(parse_connection_string(str(text)).path, str(fields.get("tablename") or parsed.text("table")))
    raise ConfigError(f"--resources-path {directory}: there is no configuration.sqlite Component {store!r} for any app")


# --- what is done -----------------------------------------------------------------------------------------------------


def _item(words: Sequence[str], parsed: Parsed) -> dict[str, Any]:
    metadata = {}
    for pair in parsed.values("metadata"):
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UsageError(f"--metadata {pair!r}: expected key=value")
        metadata[key] = value
    return {"value": _value(words[1:], parsed), "version": parsed.text("version"), "metadata": metadata}


def _value(words: Sequence[str], parsed: Parsed) -> str:
    if bool(words) == parsed.given("data-file"):
        raise UsageError("config set: expected a value or --data-file, one of the two")
    if words:
        return words[0].encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    name = parsed.text("data-file")
    try:
        if name == "-":
            return sys.stdin.buffer.read().decode()
        with open(name, "rb") as file:
            return file.read().decode()
    except OSError as error:
        raise ConfigError(f"--data-file {name}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"--data-file {name}: is no UTF-8 text") from None


async def _set(place: Place, key: str, item: Mapping[str, Any]) -> dict[str, Any]:
    from edge_runtime.model.ports import ConfigurationItem
    from edge_runtime.store.configuration import ConfigurationTable
    from edge_runtime.store.configuration_mirror import brought_by
    from edge_runtime.store.database import open_databases

    _make_folder(place.path)
    async with open_databases() as databases:
        settings = ConfigurationTable(await databases.get(place.path), place.table)
        await settings.prepare()
        revision = await settings.put(key, ConfigurationItem(**item))
        saved = {"key": key, "saved": True, "version": item["version"] or str(revision)}
        route = brought_by(settings, key)
        return {**saved, "broughtBy": route} if route else saved


async def _delete(place: Place, key: str) -> dict[str, Any]:
    from edge_runtime.store.configuration import ConfigurationTable
    from edge_runtime.store.database import open_databases

    async with open_databases() as databases:
        settings = ConfigurationTable(await databases.get(place.path), place.table)
        await settings.prepare()
        if not await settings.delete(key):
            raise ConfigError(f"key {key!r} is not in {place.path}")
        return {"key": key, "deleted": True}


async def _read(place: Place, keys: Sequence[str]) -> dict[str, Any]:
    from edge_runtime.store.configuration import ConfigurationTable
    from edge_runtime.store.database import open_databases

    async with open_databases() as databases:
        settings = ConfigurationTable(await databases.get(place.path, read_only=True), place.table)
        found = await settings.read(keys)
        if keys and not found:
            raise ConfigError(f"key {keys[0]!r} is not in {place.path}")
        return {key: entry.item._asdict() for key, entry in found.items()}


async def _watch(place: Place, keys: Sequence[str], as_lines: bool) -> dict[str, Any]:
    """Until it is interrupted. What is there is said first, then what changes."""
    import trio

    from edge_runtime.components.configuration.sqlite import open_sqlite_configuration
    from edge_runtime.components.registry import ComponentContext
    from edge_runtime.store.database import open_databases

    async def told(items: Mapping[str, Any]) -> None:
        for key, item in items.items():
            print(_line(key, item, as_lines), flush=True)

    _make_folder(place.path)
    metadata = {"connectionString": place.path, "tableName": place.table, "pollInterval": "1s"}
    async with open_databases() as databases:
        context = ComponentContext("watch", "configuration.sqlite", "v1", metadata, "", "", databases, "", "")
        async with open_sqlite_configuration(context) as store, trio.open_nursery() as nursery:
            await told(await store.get(keys, {}))
            await nursery.start(_subscribe, store, keys, told)
    return {}


async def _subscribe(store: Any, keys: Sequence[str], told: Any, *, task_status: Any) -> None:
    await store.subscribe(keys, {}, told, task_status=task_status)


def _make_folder(path: str) -> None:
    """As a node makes its state directory."""
    folder = os.path.dirname(path)
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"the directory {folder} cannot be made: {error.strerror}") from None


# --- what is shown ----------------------------------------------------------------------------------------------------


def _line(key: str, item: Any, as_json_line: bool) -> str:
    deleted = not (item.value or item.version)
    if not as_json_line:
        return f"{key} deleted" if deleted else f"{key} = {item.value}"
    import json

    facts = {"key": key, "deleted": True} if deleted else {"key": key, **item._asdict()}
    return json.dumps(facts, ensure_ascii=False)


def show(action: str, outcome: dict[str, Any], parsed: Parsed, messages: Messages) -> None:
    if parsed.flag("json"):
        if action == "get":
            ((key, item),) = outcome.items()
            print(as_json({"key": key, **item}))
        else:
            print(as_json(outcome))
    elif action == "list":
        rows = [(key, item["version"], item["value"], _pairs(item["metadata"])) for key, item in outcome.items()]
        print(table(HEADER, rows) if rows else "No configuration items found.\n", end="")
    elif action == "get":
        print("".join(item["value"] for item in outcome.values()))
    elif action == "set":
        messages.success(f"Key {outcome['key']} saved, version {outcome['version']}")
        if "broughtBy" in outcome:
            messages.warning(f"{outcome['broughtBy']} brings this key: what the remote has will come back")
    elif action == "delete":
        messages.success(f"Key {outcome['key']} deleted")


def _pairs(metadata: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in metadata.items())
