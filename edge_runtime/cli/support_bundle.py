"""`edge-runtime support-bundle`: how the node is, in one file for who helps, without secrets."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from edge_runtime.cli import doctor
from edge_runtime.cli.arguments import FLAG, Option, Parsed, UsageError, help_text, parse
from edge_runtime.cli.control import ControlError, running_nodes
from edge_runtime.cli.http import Address, Unreachable, request
from edge_runtime.cli.instances import find_instances
from edge_runtime.cli.output import Messages, as_json
from edge_runtime.cli.places import Places, find_places, variables_of
from edge_runtime.model.errors import ConfigError, DriverError, EdgeError

USAGE: Final = "edge-runtime support-bundle [flags] <file>"
OPTIONS: Final = (
    *doctor.OPTIONS,
    Option(("no-log",), FLAG, help="Leave the log out."),
)


def main(argv: Sequence[str]) -> int:
    parsed = parse(OPTIONS, argv)
    if parsed.flag("help") or not parsed.words:
        print(help_text(USAGE, "Write down how the node is, for who helps, without secrets.", OPTIONS), end="")
        return 0
    if len(parsed.words) > 1:
        raise UsageError(f"support-bundle: expected {USAGE}")
    messages = Messages(parsed.flag("log-as-json"))
    path = parsed.words[0]
    try:
        names = write(path, parsed)
    except (ConfigError, ControlError, DriverError, Unreachable) as error:
        if parsed.flag("json"):
            print(as_json({"error": str(error)}))
        else:
            messages.failure(str(error))
        return 1
    if parsed.flag("json"):
        print(as_json({"file": path, "contents": names}))
    else:
        messages.success(f"{path} has {len(names)} texts. Look through them before you give them away")
    return 0


def write(path: str, parsed: Parsed) -> list[str]:
    """What it holds now."""
    from edge_runtime.upkeep.bundle import (
        as_text,
        database_text,
        learn_all,
        log_text,
        machine_texts,
        resource_texts,
        write_bundle,
    )
    from edge_runtime.upkeep.checks import System
    from edge_runtime.upkeep.files import database_of, read_for_every_app
    from edge_runtime.upkeep.redaction import Redactor, flags_shown

    places = find_places(parsed)
    found = read_for_every_app(places.resources)
    redactor = Redactor()
    learn_all(redactor, found, places.state_dir, [dict(os.environ), *_environments(places)])
    texts = resource_texts(redactor, places.resources, places.configs)
    texts |= machine_texts(System())
    texts["doctor.json"] = as_text(doctor.examine_node(parsed))
    texts["node.json"] = as_text({"nodes": _nodes(), "flags": [flags_shown(flags) for flags in places.flags]})
    texts["databases.json"] = database_text(
        places.state_dir, [path for path in map(database_of, found.components) if path]
    )
    texts |= _asked(places)
    texts["files-of-the-node.json"] = as_text(_from_files(places.state_dir))
    if not parsed.flag("no-log"):
        logs = [value for flags in places.flags for value in flags.get("log-file", ())]
        texts["log.txt"] = log_text(redactor, logs, _known(places, found))
    return write_bundle(path, texts, redactor)


def _known(places: Places, found: Any) -> Iterator[str]:
    """Words that may stand in the log although they look odd: names of apps, components, links, and of places."""
    for flags in places.flags:
        yield from flags.get("app-id", ())
    yield from (one.name for one in (*found.components, *found.links))
    yield from (places.state_dir, places.config_dir, *places.resources)


def _environments(places: Places) -> Iterator[Mapping[str, str]]:
    """Those of the sidecars that run, and of the apps that the system starts."""
    for pid in places.pids:
        yield variables_of(pid)
    folder = os.path.join(places.config_dir, "apps")
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
        try:
            with open(os.path.join(folder, name), encoding="utf-8", errors="replace") as text:
                yield dict(line.strip().partition("=")[::2] for line in text if "=" in line)
        except OSError:
            continue


def _nodes() -> list[dict[str, Any]]:
    return [node.describe() for node in running_nodes(os.environ)]


def _asked(places: Places) -> dict[str, str]:
    """What each sidecar that runs says of its queues, its links and its numbers."""
    from edge_runtime.upkeep.bundle import as_text
    from edge_runtime.upkeep.redaction import metrics_text

    texts = {}
    for instance in find_instances(os.environ):
        if instance.daprd_pid not in places.pids:
            continue  # another node's
        app = instance.app_id.replace("/", "_")
        token = variables_of(instance.daprd_pid).get("DAPR_API_TOKEN") or os.environ.get("DAPR_API_TOKEN", "")
        headers = ((b"dapr-api-token", token.encode()),) if token else ()
        for name, target in (("outbox", "/edge/v1/outbox"), ("sync", "/edge/v1/sync")):
            try:
                answer = request("GET", instance.address, target, b"", headers)
                texts[f"apps/{app}/{name}.json"] = answer.body.decode("utf-8", "replace")
            except (Unreachable, ConfigError) as error:
                texts[f"apps/{app}/{name}.json"] = as_text({"error": str(error)})
    for flags in places.flags:
        app, port = (flags.get("app-id") or ["app"])[-1].replace("/", "_"), (flags.get("metrics-port") or [""])[-1]
        if port.isdigit() and int(port):
            try:
                answer = request("GET", Address(int(port)), "/metrics")
                texts[f"apps/{app}/metrics.txt"] = metrics_text(answer.body.decode("utf-8", "replace"))
            except (Unreachable, ConfigError) as error:
                texts[f"apps/{app}/metrics.txt"] = f"# {error}\n"
    return texts


def _from_files(state_dir: str) -> dict[str, Any]:
    """What waits and is paused by the node's own files, when no sidecar answers for it."""
    from edge_runtime.api.outbox import routes_document
    from edge_runtime.cli.files import read_files
    from edge_runtime.components.pubsub.sqlite import NODE_DATABASE
    from edge_runtime.store.database import open_databases
    from edge_runtime.store.outbox import look_at_store
    from edge_runtime.sync.link_report import links_on_disk
    from edge_runtime.sync.look import Look

    async def read(path: str) -> dict[str, Any]:
        if not os.path.exists(path):  # noqa: ASYNC240 - one look at a local file
            return {"outbox": {}, "links": links_on_disk(state_dir, None)}
        async with open_databases() as databases:
            store = look_at_store(await databases.get(path, read_only=True))
            look = None if store is None else Look(store)
            return {
                "outbox": routes_document(look, lambda route: True, "unknown"),
                "links": links_on_disk(state_dir, look),
            }

    try:
        return read_files(read, os.path.join(state_dir, NODE_DATABASE))
    except (DriverError, EdgeError, ConfigError) as error:
        return {"error": str(error)}
