"""Where a node's files are for commands that care for a node as a whole: as told, else as it runs or was installed."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from edge_runtime.cli.arguments import LIST, Option, Parsed
from edge_runtime.cli.config import state_directory
from edge_runtime.cli.processes import flags_of, sidecars

SYSTEM: Final = "/etc/edge-runtime"
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
    running = [sidecar for sidecar in sidecars() if _is_ours(sidecar.pid)]
    flags = [*(sidecar.flags for sidecar in running), *_flags_of_apps(config_dir)]
    configs = [os.path.abspath(path) for one in flags for path in one.get("config", ())]
    system = os.path.join(config_dir, "config.yaml")
    if os.path.isfile(system):
        configs.insert(0, system)
    return Places(
        state_directory(parsed.text("state-dir")),
        config_dir,
        [os.path.abspath(path) for path in told] if told else list(dict.fromkeys(_resources(config_dir, flags))),
        list(dict.fromkeys(configs)),
        flags,
        [sidecar.pid for sidecar in running],
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


def _is_ours(pid: int) -> bool:
    """Another user's sidecars are none of our business, but for root's."""
    try:
        return os.geteuid() in (0, os.stat(f"/proc/{pid}").st_uid)
    except OSError:
        return False


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
