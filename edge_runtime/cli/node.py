"""The one place of the command line that knows how the runtime is entered."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from edge_runtime.model.errors import ConfigError

if TYPE_CHECKING:
    from edge_runtime.config.flags import DaprdFlags


class HostedApp(Protocol):
    """An app's sidecar inside a node, from when its API listens until it is taken down."""

    app_id: str
    http_port: int
    grpc_port: int
    gone: Any  # trio.Event, set when the sidecar has been taken down

    def set_metadata(self, key: str, value: str) -> None: ...
    def reload(self) -> None: ...


class RunningNode(Protocol):
    """What `run_node` says it started with."""

    @property
    def apps(self) -> Mapping[str, HostedApp]: ...
    def shut_down(self) -> None:
        """Begin a graceful stop; `run_node` returns when it is over."""


class AppRequest(NamedTuple):
    """One app to be served: the flags of its sidecar, and the environment and directory that its files see."""

    arguments: Sequence[str]
    environment: Mapping[str, str]
    directory: str


class NodeRequest(NamedTuple):
    """What belongs to the node as a whole. `attach` says who may attach apps: none, same-user or group:<name>.

    `linger` keeps a node without apps.
    """

    state_directory: str
    control_socket: str | None = None
    attach: str = "none"
    linger: bool = False
    log_level: str = ""
    log_as_json: bool = False
    log_file: str = ""
    config_dir: str = ""


async def run(
    node: NodeRequest,
    apps: Sequence[AppRequest],
    *,
    signals: bool,
    manager: Any = None,
    task_status: Any,
) -> int:
    """Serve until the node is told to stop; the value is the exit code. `task_status` gets a RunningNode.

    `manager` is the service manager that started us (`net.systemd.Manager`), if one did.
    """
    from edge_runtime.runtime import AppSettings, NodeSettings, run_node

    settings = [AppSettings(_flags(app, len(apps) > 1), app.environment, app.directory) for app in apps]
    return await run_node(
        NodeSettings(
            node.state_directory,
            node.attach,
            node.linger,
            node.log_level,
            node.log_as_json,
            node.log_file,
            node.config_dir,
        ),
        settings,
        control_socket=node.control_socket,
        signals=signals,
        manager=manager,
        task_status=task_status,
    )


def _flags(app: AppRequest, several: bool) -> DaprdFlags:
    """The app's flags, valid. With several apps a refusal says whose they are."""
    from edge_runtime.config.flags import FlagError, parse_flags, validate

    try:
        flags = parse_flags(app.arguments)
        problems = validate(flags)
    except FlagError as error:
        problems = [str(error)]
    if problems:
        names = [word.partition("=")[2] for word in app.arguments if word.startswith("--app-id=")]
        whose = f"app {names[-1]}: " if several and names else ""
        raise ConfigError(whose + "; ".join(problems))
    return flags


def name_process() -> None:
    """Be `daprd` in the process table: that is how Dapr's own tools find a sidecar."""
    try:
        with open("/proc/self/comm", "w") as file:
            file.write("daprd")
    except OSError:
        pass  # no Linux, or no /proc: only those tools would have used it


def home_directory(environment: Mapping[str, str]) -> str:
    """The user's home directory, or an empty text for a user who has none."""
    if environment.get("HOME"):
        return environment["HOME"]
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:
        return ""
