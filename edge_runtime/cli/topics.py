"""`edge-runtime topics`: what the node's durable log holds, and which subscriber lags behind."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Final

from edge_runtime.cli.arguments import FLAG, HELP, Option, help_text, parse
from edge_runtime.cli.control import ControlError, running_nodes
from edge_runtime.cli.files import read_files
from edge_runtime.cli.http import Unreachable
from edge_runtime.cli.instances import now
from edge_runtime.cli.output import Messages, age, chosen_output, render
from edge_runtime.config.environment import state_dir
from edge_runtime.model.errors import ConfigError, DriverError

USAGE: Final = "edge-runtime topics [flags]"
OPTIONS: Final = (
    HELP,
    Option(("output",), short="o", help="table, json or yaml.", default="table"),
    Option(("json",), FLAG, help="The same as --output json."),
    Option(("control-socket",), help="The socket of the node to ask."),
    Option(("state-dir",), help="The files to look into when no node runs."),
    Option(("log-as-json",), FLAG, hidden=True),
    Option(("runtime-path",), hidden=True),
)
HEADER: Final = ("PUBSUB", "TOPIC", "MESSAGES", "BYTES", "OLDEST", "GROUP", "LAG", "LAG BYTES", "IN FLIGHT", "DROPPED")


def main(argv: Sequence[str]) -> int:
    parsed = parse(OPTIONS, argv)
    if parsed.flag("help"):
        print(help_text(USAGE, "Show what the node's topics hold and who lags.", OPTIONS), end="")
        return 0
    messages = Messages(parsed.flag("log-as-json"))
    try:
        output = chosen_output(parsed.flag("json"), parsed.text("output"))
        topics = find_topics(parsed.text("control-socket"), parsed.text("state-dir"))
    except (ConfigError, ControlError, DriverError, Unreachable) as error:
        messages.failure(str(error))
        return 1
    if not topics and output == "table":
        print("No topics found.")
        return 0
    print(render(topics, output, HEADER, [row for topic in topics for row in rows(topic, now())]), end="")
    return 0


def find_topics(socket: str, directory: str) -> list[dict[str, Any]]:
    """From every running node, else from the file that a node would open."""
    nodes = [] if directory else list(running_nodes(os.environ, socket))
    if nodes:
        seen: dict[str, list[dict[str, Any]]] = {}
        for node in nodes:  # two processes may share one file
            seen.setdefault(str(node.describe()["stateDirectory"]), node.topics())
        return [topic for topics in seen.values() for topic in topics]
    from edge_runtime.components.pubsub.sqlite import NODE_DATABASE

    path = os.path.join(state_dir(os.environ, directory), NODE_DATABASE)
    if os.path.exists(path):
        return read_files(read_file, path)
    if directory:
        raise ConfigError(f"--state-dir {directory}: there is no file {path}, or this user may not look there")
    return []


async def read_file(path: str) -> list[dict[str, Any]]:
    """The topics in the node's file, which is only read."""
    from edge_runtime.api.control import topic_as_mapping
    from edge_runtime.store.database import open_databases
    from edge_runtime.store.log_view import describe

    async with open_databases() as databases:
        return [topic_as_mapping(topic) for topic in describe(await databases.get(path, read_only=True))]


def rows(topic: dict[str, Any], moment: float) -> list[tuple[str, ...]]:
    """One line a group; a topic that nobody subscribed to has one line as well."""
    oldest = age(moment - topic["oldestAt"]) if topic["oldestAt"] is not None else ""
    head = (topic["component"], topic["topic"], str(topic["entries"]), str(topic["bytes"]), oldest)
    found = [
        (*head, group["group"], *(str(group[key]) for key in ("lag", "lagBytes", "inFlight", "dropped")))
        for group in topic["groups"]
    ]
    return found or [(*head, "", "", "", "", "")]
