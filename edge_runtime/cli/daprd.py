"""`daprd`: one app's sidecar with the flags of Dapr's own, and nothing else. It never joins a node by itself."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Sequence
from typing import Final

from edge_runtime import RUNTIME_VERSION
from edge_runtime.model.errors import ConfigError

USAGE_EXIT: Final = 2
_WAIT_S: Final = 60.0
_WAIT_STEP_S: Final = 0.1
_WAIT_REQUEST_S: Final = 0.5


def main(argv: Sequence[str]) -> int:
    """Serve until told to stop. What only prints is answered before the runtime is loaded."""
    from edge_runtime.config import flags as daprd_flags

    try:
        flags = daprd_flags.parse_flags(argv)
    except daprd_flags.FlagError as error:
        print(f"Usage of daprd:\n{daprd_flags.usage()}{error}", file=sys.stderr, flush=True)
        return USAGE_EXIT
    if flags.help:
        print(f"Usage of daprd:\n{daprd_flags.usage()}", end="")
        return 0
    if flags.version:
        print(RUNTIME_VERSION)
        return 0
    if flags.build_info:
        from edge_runtime.cli.build_info import lines

        print(lines(RUNTIME_VERSION))
        return 0
    for note in flags.notes:
        print(note, file=sys.stderr, flush=True)
    if flags.wait:
        return wait(flags.dapr_http_port or 3500)
    return serve(argv, flags.state_dir)


def serve(argv: Sequence[str], state_directory: str = "") -> int:
    """Run the node with this one app until a signal or the shutdown API ends it."""
    import trio

    from edge_runtime.cli import node
    from edge_runtime.config.environment import state_dir

    node.name_process()
    app = node.AppRequest(argv, dict(os.environ), os.getcwd())
    request = node.NodeRequest(state_dir(os.environ, state_directory))

    async def serve_app() -> int:
        return await node.run(request, [app], signals=True, task_status=trio.TASK_STATUS_IGNORED)

    try:
        return trio.run(serve_app)
    except ConfigError as error:
        print(error, file=sys.stderr, flush=True)
        return 1


def wait(port: int) -> int:
    """Until the sidecar on `port` is up, for a minute at most. 0 either way, as Dapr has it."""
    deadline = time.monotonic() + _WAIT_S
    print(f"Waiting for Dapr outbound port {port} to be healthy", file=sys.stderr, flush=True)
    while time.monotonic() < deadline:
        if _outbound_is_healthy(port):
            print("Dapr is healthy", file=sys.stderr, flush=True)
            return 0
        time.sleep(_WAIT_STEP_S)
    print(f"Dapr did not become healthy within {_WAIT_S:.0f} seconds", file=sys.stderr, flush=True)
    return 0


def _outbound_is_healthy(port: int) -> bool:
    request = b"GET /v1.0/healthz/outbound HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    try:
        with socket.create_connection(("localhost", port), _WAIT_REQUEST_S) as connection:
            connection.sendall(request)
            answer = connection.recv(64)
    except OSError:
        return False
    status = answer.split(b" ", 2)[1:2]
    return bool(status) and status[0][:1] == b"2"
