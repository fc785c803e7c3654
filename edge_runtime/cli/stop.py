"""`edge-runtime stop`: end apps, and of a node with several apps only those that were named."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from typing import Any, Final

from edge_runtime.cli.arguments import FLAG, HELP, LIST, Option, UsageError, help_text, parse
from edge_runtime.cli.control import ControlError
from edge_runtime.cli.http import Unreachable
from edge_runtime.cli.instances import Instance, control_of, find_instances, instances_of_run_file
from edge_runtime.cli.output import Messages, as_json
from edge_runtime.model.errors import ConfigError

USAGE: Final = "edge-runtime stop [flags] [app ids...]"
OPTIONS: Final = (
    HELP,
    Option(("app-id",), LIST, "a", "The app to stop; may be given more than once."),
    Option(("run-file",), short="f", help="Stop every app that was started from this run file."),
    Option(("json",), FLAG, help="Print the outcome as JSON."),
    Option(("kubernetes",), FLAG, "k", hidden=True),
    Option(("log-as-json",), FLAG, hidden=True),
    Option(("runtime-path",), hidden=True),
)


def main(argv: Sequence[str]) -> int:
    """Failures are reported and do not change the exit code, as Dapr has it."""
    parsed = parse(OPTIONS, argv)
    if parsed.flag("help"):
        print(help_text(USAGE, "Stop apps.", OPTIONS), end="")
        return 0
    messages = Messages(parsed.flag("log-as-json"))
    if parsed.given("run-file"):
        outcome = [stop_run_file(parsed.text("run-file"))]
    else:
        wanted = [*parsed.items("app-id"), *parsed.words]
        if not wanted:
            raise UsageError("name the app to stop: edge-runtime stop --app-id <id>")
        outcome = stop_apps(wanted)
    if parsed.flag("json"):
        print(as_json(outcome))
        return 0
    for one in outcome:
        (messages.success if one["stopped"] else messages.failure)(one["message"])
    return 0


def stop_apps(app_ids: Sequence[str]) -> list[dict[str, Any]]:
    """What became of each."""
    running = {instance.app_id: instance for instance in find_instances(os.environ)}
    outcome = []
    for app_id in app_ids:
        instance = running.get(app_id)
        problem = f"couldn't find app id {app_id}" if instance is None else end(instance, list(running.values()))
        message = f"failed to stop app id {app_id}: {problem}" if problem else f"app stopped successfully: {app_id}"
        outcome.append({"appId": app_id, "stopped": not problem, "message": message})
    return outcome


def end(instance: Instance, running: Sequence[Instance]) -> str:
    """Tell what serves the app to let it go; the problem, or nothing.

    A process that looks after this app alone is sent SIGTERM. One that has more apps is asked to drop this one.
    """
    pid = instance.cli_pid or instance.daprd_pid
    alone = sum(pid in (other.cli_pid, other.daprd_pid) for other in running) == 1
    control = control_of(instance)
    try:
        if control is not None and not alone:
            control.detach(instance.app_id)
        else:
            os.kill(pid if alone else instance.daprd_pid, signal.SIGTERM)
    except (Unreachable, ControlError, ConfigError) as error:
        return str(error)
    except OSError as error:
        return f"process {pid}: {error.strerror}"
    return ""


def stop_run_file(path: str) -> dict[str, Any]:
    """End the process that runs the file, and with it all its apps."""
    instance = next(instances_of_run_file(path, os.environ), None)
    problem = ""
    if instance is None:
        problem = f"couldn't find apps with run file {os.path.abspath(path)}"
    else:
        try:
            os.kill(instance.cli_pid or instance.daprd_pid, signal.SIGTERM)
        except OSError as error:
            problem = str(error.strerror)
    message = f"Failed to stop the run file: {problem}" if problem else "Dapr and app processes stopped successfully"
    return {"runFile": os.path.abspath(path), "stopped": not problem, "message": message}
