"""Where a node's files are for commands that care for a node as a whole: as told, else as it runs or was installed."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from edge_runtime.cli.arguments import LIST, Option, Parsed
from edge_runtime.cli.config import state_directory
from edge_runtime.cli.control import running_nodes
from edge_runtime.cli.processes import Sidecar, flags_of, sidecars
from edge_runtime.config.environment import state_dir

SYSTEM: Final = "/etc/edge-runtime"
_ENVIRONMENT_BYTES_MAX: Final = 2**20
STATE_DIR: Final = Option(("state-dir",), help="The state directory, when it is not that of the node that runs.")
RESOURCES: Final = Option(
    ("resources-path",), LIST, help="Directories with resource files, instead of those of the apps that run."
)
CONFIG_DIR: Final = Option(("config-dir",), help="The directory of the configuration.", default=SYSTEM)


class Places(NamedTuple):
    """`configs` are Configuration files; `flags` those of each app, and `pids` the processes that serve them."""

    state_dir: str
    config_dir: str
    resources: Sequence[str]
    configs: Sequence[str] = ()
    flags: Sequence[Mapping[str, Sequence[str]]] = ()
    pids: Sequence[int] = ()


def find_places(parsed: Parsed) -> Places:
    """Raises ConfigError when several nodes run and none is named."""
    config_dir = os.path.abspath(parsed.text("config-dir"))
    told = parsed.items("resources-path")
    directory = state_directory(parsed.text("state-dir"))
    running = [sidecar for sidecar in sidecars() if _same(_directory_of(sidecar), directory)]
    nodes = [node.describe() for node in running_nodes(os.environ)]
    flags = [*(sidecar.flags for sidecar in running), *_flags_of_apps(config_dir)]
    configs = [os.path.abspath(path) for one in flags for path in one.get("config", ())]
    system = os.path.join(config_dir, "config.yaml")
    if os.path.isfile(system):
        configs.insert(0, system)
    return Places(
        directory,
        config_dir,
        [os.path.abspath(path) for path in told] if told else list(dict.fromkeys(_resources(config_dir, flags))),
        list(dict.fromkeys(configs)),
        flags,
        list(
            dict.fromkeys(
                (
                    *(int(node["pid"]) for node in nodes if _same(node["stateDirectory"], directory)),
                    *(sidecar.pid for sidecar in running),
                )
            )
        ),
    )


def _resources(config_dir: str, flags: Sequence[Mapping[str, Sequence[str]]]) -> Iterator[str]:
    system = os.path.join(config_dir, "components")
    if os.path.isdir(system):
        yield system
    for one in flags:
        for name in ("resources-path", "components-path"):
            for value in one.get(name, ()):
                yield from (os.path.abspath(path) for path in value.split(",") if path)


def _flags_of_apps(config_dir: str) -> Iterator[Mapping[str, Sequence[str]]]:
    """The flags of the apps that the system starts."""
    folder = os.path.join(config_dir, "apps")
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
        if name.endswith(".conf"):
            flags = flags_of(["run", *_words(os.path.join(folder, name))])
            yield {"app-id": [name.removesuffix(".conf")], **flags}


def _directory_of(sidecar: Sidecar) -> str:
    """Its state directory; empty when this user may not know."""
    variables = variables_of(sidecar.pid)
    return state_dir(variables, sidecar.last("state-dir")) if variables else ""


def variables_of(pid: int) -> dict[str, str]:
    """The environment that a process was started with; empty when this user may not know."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            words = os.fsdecode(file.read(_ENVIRONMENT_BYTES_MAX)).split("\0")
    except OSError:
        return {}
    return dict(word.partition("=")[::2] for word in words if "=" in word)


def _same(one: str, other: str) -> bool:
    return bool(one) and os.path.realpath(one) == os.path.realpath(other)


def _words(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = [line.strip() for line in file]
    except OSError:
        return []
    for line in lines:
        name, equals, value = line.partition("=")
        if equals and name == "EDGE_APP_FLAGS":
            try:
                return shlex.split(" ".join(shlex.split(value)))
            except ValueError:
                return []
    return []
