"""`edge-runtime serve`: a node without apps of its own, which apps attach to. What the system's service runs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from edge_runtime.api.control_socket import default_path, group_id
from edge_runtime.cli.arguments import FLAG, HELP, Option, help_text, parse
from edge_runtime.cli.output import Messages
from edge_runtime.model.errors import ConfigError

if TYPE_CHECKING:
    from edge_runtime.cli.node import AppRequest, NodeRequest
    from edge_runtime.net.systemd import Manager

USAGE: Final = "edge-runtime serve [flags]"
OPTIONS: Final = (
    HELP,
    Option(("attach",), help="Who may attach apps: none, same-user or group:<name>.", default="same-user"),
    Option(("control-socket",), help="The socket that apps attach through."),
    Option(("state-dir",), help="Where the node keeps its files."),
    Option(("config-dir",), help="A directory with dapr.yaml (apps to serve), components and config.yaml."),
    Option(("log-level",), help="debug, info, warn, error or fatal.", default="info"),
    Option(("log-as-json",), FLAG, help="Print logs as JSON."),
    Option(("log-file",), help="Add the log to this file instead of standard output."),
    Option(("runtime-path",), hidden=True),
)


def main(argv: Sequence[str]) -> int:
    parsed = parse(OPTIONS, argv)
    if parsed.flag("help"):
        print(help_text(USAGE, "Run a node that apps attach to.", OPTIONS), end="")
        return 0
    import trio

    from edge_runtime.cli import node
    from edge_runtime.config.environment import state_dir

    request = node.NodeRequest(
        state_dir(os.environ, parsed.text("state-dir")),
        control_socket=parsed.text("control-socket") or default_path(os.environ),
        attach=parsed.text("attach"),
        linger=True,
        log_level=parsed.text("log-level"),
        log_as_json=parsed.flag("log-as-json"),
        log_file=parsed.text("log-file"),
        config_dir=config_dir(os.environ, parsed.text("config-dir")),
    )
    node.name_process()

    manager = service_manager()

    async def serve() -> int:
        return await node.run(request, apps, signals=True, manager=manager, task_status=trio.TASK_STATUS_IGNORED)

    try:
        group_id(request.attach)  # refuses a setting that is none before anything is opened
        apps = _apps(request)
        return trio.run(serve)
    except ConfigError as error:
        Messages(request.log_as_json).failure(str(error))
        return 1


def config_dir(environment: Mapping[str, str], flag: str = "") -> str:
    """Where the node's own configuration is: as told, as systemd says (the first directory), else nowhere."""
    if flag:
        return os.path.abspath(flag)
    return environment.get("CONFIGURATION_DIRECTORY", "").partition(":")[0]


def _apps(request: NodeRequest) -> Sequence[AppRequest]:
    if not request.config_dir:
        return ()
    from edge_runtime.cli.hosted import hosted_apps

    return hosted_apps(request.config_dir, os.environ, Messages(request.log_as_json))


def service_manager() -> Manager | None:
    """The service manager that started us, where there is one that listens or has opened sockets for us."""
    if not any(name in os.environ for name in ("NOTIFY_SOCKET", "LISTEN_FDS")):
        return None
    from edge_runtime.net.systemd import take_manager

    return take_manager(os.environ, os.getpid())
