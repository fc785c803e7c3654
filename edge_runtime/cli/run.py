"""`edge-runtime run`: an app and its sidecar together, in a node of its own or in one that runs already."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Final

from edge_runtime.cli import plan as plans
from edge_runtime.cli.arguments import Parsed, help_text, parse
from edge_runtime.cli.node import home_directory
from edge_runtime.cli.output import Messages
from edge_runtime.cli.run_options import BESIDE_RUN_FILE, run_options
from edge_runtime.model.errors import ConfigError

USAGE: Final = "edge-runtime run [flags] [-- command args...]"


def main(argv: Sequence[str]) -> int:
    options = run_options()
    parsed = parse(options, argv)
    if parsed.flag("help"):
        print(help_text(USAGE, "Run an app with its sidecar, or every app of a run file.", options), end="")
        return 0
    messages = Messages(parsed.flag("log-as-json"))
    try:
        if parsed.flag("kubernetes"):
            raise ConfigError("--kubernetes is not supported here: edge-runtime runs apps on this machine")
        if parsed.given("run-file"):
            return _run_file(parsed, messages)
        app = plan_app(parsed, os.environ)
        _become_visible(argv, parsed, app)
        return start(parsed, [app], messages)
    except ConfigError as error:
        messages.failure(str(error))
        return 1


def _run_file(parsed: Parsed, messages: Messages) -> int:
    from edge_runtime.cli.template import plan_template, read_template

    ignored = sorted(name for name in parsed.names() if name not in BESIDE_RUN_FILE)
    if ignored:
        messages.warning(
            "The following flags are ignored when using --run-file and should be configured in the run file instead: "
            + ", ".join(f"--{name}" for name in ignored)
        )
    template = read_template(parsed.text("run-file"))
    for warning in template.warnings:
        messages.warning(warning)
    apps = plan_template(template, dapr_directory(parsed, os.environ), os.environ, parsed.text("state-dir"))
    return start(parsed, apps, messages)


def start(parsed: Parsed, apps: Sequence[plans.AppPlan], messages: Messages) -> int:
    """Everything is decided; from here on the event loop runs."""
    from edge_runtime.cli.runner import run_plans

    return run_plans(parsed, apps, messages)


def plan_app(parsed: Parsed, environment: Mapping[str, str]) -> plans.AppPlan:
    """The plan of a single app from its flags."""
    settings = parsed.settings()
    placement = environment.get("DAPR_PLACEMENT_HOST_ADDRESS")
    if placement and not parsed.given("placement-host-address"):
        settings["placement-host-address"] = [placement]
    app_id = parsed.text("app-id") or _random_app_id()
    with plans.PortHolder() as holder:
        ports = holder.choose(settings)
    home = dapr_directory(parsed, environment)
    return plans.AppPlan(
        app_id=app_id,
        arguments=plans.sidecar_arguments(
            app_id, settings, ports, plans.resources(settings, home), plans.configurations(settings, home)
        ),
        ports=ports,
        app_port=max(plans.number(settings, "app-port", 0), 0),
        command=(*parsed.words, *(parsed.rest or ())),
        directory=os.getcwd(),
        environment={**environment, **plans.app_environment(app_id, settings, ports)},
        sidecar_environment=dict(environment),
        socket_directory=parsed.text("unix-domain-socket"),
    )


def dapr_directory(parsed: Parsed, environment: Mapping[str, str]) -> str:
    """The directory that `dapr init` fills: .dapr under --runtime-path, DAPR_RUNTIME_PATH or the home directory."""
    base = parsed.text("runtime-path") or environment.get("DAPR_RUNTIME_PATH", "") or home_directory(environment)
    return os.path.join(base, ".dapr") if base else ""


def _random_app_id() -> str:
    from edge_runtime.cli.processes import sidecars

    return plans.random_app_id({sidecar.app_id for sidecar in sidecars()})


def _become_visible(argv: Sequence[str], parsed: Parsed, app: plans.AppPlan) -> None:
    """Start over with the chosen name and ports spelled out, where the command line does not say them yet."""
    chosen = {
        "app-id": app.app_id,
        "app-port": str(app.app_port),
        "dapr-http-port": str(app.ports.http),
        "dapr-grpc-port": str(app.ports.grpc),
        "dapr-internal-grpc-port": str(app.ports.internal),
        "metrics-port": str(app.ports.metrics),
    }
    if all(f"--{name}={value}" in argv for name, value in chosen.items()):
        return
    if not sys.executable or sorted(sys.argv[1:]) != sorted(("run", *argv)):
        return  # called by another program, which is not ours to replace
    kept = [f"--{name}={value}" for name, values in parsed.settings().items() if name not in chosen for value in values]
    program = sys.orig_argv[: len(sys.orig_argv) - len(sys.argv) + 1]
    words = ["run", *(f"--{name}={value}" for name, value in chosen.items()), *kept]
    os.execv(sys.executable, [*program, *words, *(["--", *app.command] if app.command else [])])
