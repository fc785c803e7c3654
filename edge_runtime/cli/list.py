"""`edge-runtime list`: the apps that run, as Dapr's command line shows them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

from edge_runtime.cli.arguments import FLAG, HELP, Option, help_text, parse
from edge_runtime.cli.instances import Instance, find_instances, now
from edge_runtime.cli.output import Messages, age, chosen_output, created, render, shortened
from edge_runtime.model.errors import ConfigError

USAGE: Final = "edge-runtime list [flags]"
OPTIONS: Final = (
    HELP,
    Option(("output",), short="o", help="table, json or yaml.", default="table"),
    Option(("json",), FLAG, help="The same as --output json."),
    Option(("kubernetes",), FLAG, "k", hidden=True),
    Option(("all-namespaces",), FLAG, "A", hidden=True),
    Option(("namespace",), short="n", hidden=True),
    Option(("log-as-json",), FLAG, hidden=True),
    Option(("runtime-path",), hidden=True),
)
HEADER: Final = (
    "APP ID",
    "HTTP PORT",
    "GRPC PORT",
    "APP PORT",
    "COMMAND",
    "AGE",
    "CREATED",
    "DAPRD PID",
    "CLI PID",
    "APP PID",
    "RUN_TEMPLATE_PATH",
    "APP_LOG_PATH",
    "DAPRD_LOG_PATH",
    "RUNTEMPLATENAME",
)


def main(argv: Sequence[str]) -> int:
    parsed = parse(OPTIONS, argv)
    if parsed.flag("help"):
        print(help_text(USAGE, "List the apps that run.", OPTIONS), end="")
        return 0
    messages = Messages(parsed.flag("log-as-json"))
    try:
        output = chosen_output(parsed.flag("json"), parsed.text("output"))
    except ConfigError as error:
        messages.failure(str(error))
        return 1
    if parsed.flag("kubernetes"):
        messages.failure("--kubernetes is not supported here: edge-runtime runs apps on this machine")
        return 1
    instances = find_instances(os.environ)
    if not instances and output == "table":
        print("No Dapr instances found.")
        return 0
    moment = now()
    mappings = [instance.as_mapping(moment) for instance in instances]
    print(render(mappings, output, HEADER, (row(instance, moment) for instance in instances)), end="")
    return 0


def row(instance: Instance, moment: float) -> tuple[str, ...]:
    facts = instance.extended
    return (
        instance.app_id,
        str(instance.http_port),
        str(instance.grpc_port),
        str(instance.app_port),
        shortened(instance.command),
        age(moment - instance.started_at),
        created(instance.started_at),
        str(instance.daprd_pid),
        str(instance.cli_pid),
        str(instance.app_pid),
        facts.get("runTemplatePath", ""),
        facts.get("appLogPath", ""),
        facts.get("daprdLogPath", ""),
        facts.get("runTemplateName", ""),
    )
