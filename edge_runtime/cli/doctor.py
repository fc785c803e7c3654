"""`edge-runtime doctor`: what is wrong with the node and its machine, and the mend."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Final

from edge_runtime.api.control_socket import default_path
from edge_runtime.cli.arguments import FLAG, HELP, INTEGER, Option, Parsed, UsageError, help_text, parse
from edge_runtime.cli.control import ControlError
from edge_runtime.cli.http import Unreachable
from edge_runtime.cli.output import Messages, as_json
from edge_runtime.cli.places import CONFIG_DIR, RESOURCES, STATE_DIR, Places, find_places
from edge_runtime.model.errors import ConfigError

USAGE: Final = "edge-runtime doctor [flags]"
OPTIONS: Final = (
    HELP,
    STATE_DIR,
    CONFIG_DIR,
    RESOURCES,
    Option(("config",), "list", "c", "Configuration files, instead of those of the apps that run."),
    Option(("offline",), FLAG, help="Do not try to reach brokers and cloud links."),
    Option(("timeout",), INTEGER, help="Seconds that a broker or a cloud link may take to answer.", default="10"),
    Option(("json",), FLAG, help="Print the outcome as JSON."),
    Option(("log-as-json",), FLAG, hidden=True),
    Option(("runtime-path",), hidden=True),
)
_MARKS: Final = {"ok": "ok  ", "warn": "WARN", "fail": "FAIL", "skipped": "-   "}
_USES: Final = {
    "dapr-http-port": "the HTTP API",
    "dapr-grpc-port": "the gRPC API",
    "metrics-port": "the metrics",
}


def main(argv: Sequence[str]) -> int:
    parsed = parse(OPTIONS, argv)
    if parsed.flag("help"):
        print(help_text(USAGE, "Find out what is wrong, and how it is mended.", OPTIONS), end="")
        return 0
    if parsed.words:
        raise UsageError(f"doctor: expected {USAGE}")
    if parsed.integer("timeout") < 1:
        raise UsageError("--timeout: expected a whole number of seconds above zero")
    try:
        checks = examine_node(parsed)
    except (ConfigError, ControlError, Unreachable) as error:
        if parsed.flag("json"):
            print(as_json({"error": str(error)}))
        else:
            Messages(parsed.flag("log-as-json")).failure(str(error))
        return 1
    sums = {verdict: sum(check["verdict"] == verdict for check in checks) for verdict in _MARKS}
    if parsed.flag("json"):
        print(as_json({"healthy": not sums["fail"], "sums": sums, "checks": checks}))
    else:
        _show(checks, sums)
    return 1 if sums["fail"] else 0


def examine_node(parsed: Parsed) -> list[dict[str, Any]]:
    """The checks of the node that the flags name, or that runs, or that is installed."""
    from edge_runtime.upkeep.doctor import Patient, examine

    places = find_places(parsed)
    patient = Patient(
        places.state_dir,
        places.config_dir,
        default_path(os.environ),
        places.resources,
        [os.path.abspath(path) for path in parsed.items("config")] or places.configs,
        _ports(places),
        places.pids,
        dict(os.environ),
        float(parsed.integer("timeout")),
        not parsed.flag("offline"),
    )
    return [check.as_mapping() for check in examine(patient)]


def _ports(places: Places) -> dict[int, str]:
    """Those that some app is configured with; without any, those that `daprd` takes."""
    found: dict[int, str] = {}
    for flags in places.flags:
        app = (flags.get("app-id") or ["an app"])[-1]
        for name, use in _USES.items():
            text = (flags.get(name) or [""])[-1]
            if text.isdigit() and int(text):
                found[int(text)] = f"{use} of {app}"
    return found or {3500: _USES["dapr-http-port"], 50001: _USES["dapr-grpc-port"], 9090: _USES["metrics-port"]}


def _show(checks: Sequence[dict[str, Any]], sums: dict[str, int]) -> None:
    width = max(len(check["name"]) for check in checks)
    for check in checks:
        print(f"{_MARKS[check['verdict']]}  {check['name'].ljust(width)}  {check['seen']}")
        if check["mend"] and check["verdict"] in ("warn", "fail"):
            print(f"      {' ' * width}  → {check['mend']}")
    print(f"\n{sums['fail']} failures, {sums['warn']} warnings, {sums['ok']} well, {sums['skipped']} not looked at")
