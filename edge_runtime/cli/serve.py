"""`edge-runtime serve`: a node without apps of its own, which apps attach to. What the system's service runs."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from typing import Final

from edge_runtime.api.control_socket import default_path, group_id
from edge_runtime.cli.arguments import FLAG, HELP, Option, help_text, parse
from edge_runtime.cli.output import Messages
from edge_runtime.model.errors import ConfigError

USAGE: Final = "edge-runtime serve [flags]"
OPTIONS: Final = (
    HELP,
    Option(("attach",), help="Who may attach apps: none, same-user or group:<name>.", default="same-user"),
    Option(("control-socket",), help="The socket that apps attach through."),
    Option(("state-dir",), help="Where the node keeps its files."),
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
    )
    node.name_process()

    async def serve() -> int:
        return await node.run(
            request, (), signals=True, on_ready=tell_service_manager, task_status=trio.TASK_STATUS_IGNORED
        )

    try:
        group_id(request.attach)  # refuses a setting that is none before anything is opened
        return trio.run(serve)
    except ConfigError as error:
        Messages(request.log_as_json).failure(str(error))
        return 1


def tell_service_manager() -> None:
    """READY=1 to systemd, where it started us and asked for it."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
            notify.setblocking(False)
            notify.sendto(b"READY=1", address.replace("@", "\0", 1))
    except OSError:
        pass  # the manager will say that it heard nothing
