"""What running an app comes to, decided before anything is started: its ports, its sidecar's flags, its environment."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from edge_runtime.cli.run_options import OWN
from edge_runtime.model.errors import ConfigError

_FIRST: Final = "amber brisk calm clever coral crisp dusky eager fleet gentle golden hazel keen lively lunar mellow"
_SECOND: Final = "anchor badger beacon cedar comet delta ember falcon harbor heron lagoon maple meadow otter wren"
_PROTOCOLS: Final = frozenset({"http", "https", "grpc", "grpcs", "h2c"})
_WITH_TLS: Final = {"http": "https", "grpc": "grpcs"}

# Flag, what a refusal calls it (Dapr's word).
_PORTS: Final = (
    ("dapr-http-port", "HTTPPort"),
    ("dapr-grpc-port", "GRPCPort"),
    ("metrics-port", "MetricsPort"),
    ("dapr-internal-grpc-port", "InternalGRPCPort"),
)

_DECIDED_HERE: Final = frozenset(option.name for option in OWN) - {"profile-port", "state-dir"}

Settings = Mapping[str, Sequence[str]]  # the flags of `run` that were given, by name, with their values


class Ports(NamedTuple):
    http: int
    grpc: int
    metrics: int
    internal: int


class LogTarget(NamedTuple):
    """Where lines go: our output, a file (empty for none), or both."""

    console: bool = True
    path: str = ""


class AppPlan(NamedTuple):
    """One app and its sidecar. `arguments` are daprd's flags; `environment` is what the app's process gets."""

    app_id: str
    arguments: tuple[str, ...]
    ports: Ports
    app_port: int
    command: tuple[str, ...]
    directory: str
    environment: Mapping[str, str]
    sidecar_environment: Mapping[str, str]
    socket_directory: str = ""
    prefix: str = "== APP == "
    inherit_stdin: bool = True
    app_log: LogTarget = LogTarget()
    sidecar_log: LogTarget = LogTarget()
    metadata: Mapping[str, str] = {}

    @property
    def starting(self) -> str:
        if self.socket_directory:
            base = f"{self.socket_directory}/dapr-{self.app_id}"
            where = f"HTTP Socket: {base}-http.socket. gRPC Socket: {base}-grpc.socket."
        else:
            where = f"HTTP Port: {self.ports.http}. gRPC Port: {self.ports.grpc}"
        return f"Starting Dapr with id {self.app_id}. {where}"


def random_app_id(taken: Collection[str]) -> str:
    """Two words that no running app is called by; with a number once all pairs are taken."""
    names = [f"{first}-{second}" for first in _FIRST.split() for second in _SECOND.split()]
    free = [name for name in names if name not in taken]
    return random.choice(free) if free else f"{random.choice(names)}-{len(taken)}"


def last(settings: Settings, name: str, default: str = "") -> str:
    values = settings.get(name)
    return values[-1] if values else default


def number(settings: Settings, name: str, default: int = -1) -> int:
    return int(last(settings, name, str(default)) or default)


class PortHolder:
    """Chooses ports, and holds them until everything is planned, so that no two apps are given the same."""

    def __init__(self) -> None:
        self._held: list[socket.socket] = []

    def choose(self, settings: Settings) -> Ports:
        """The ports that were asked for, checked, and free ones for the rest. Raises ConfigError."""
        wanted = [number(settings, flag) for flag, _ in _PORTS]
        for (_, word), port in zip(_PORTS, wanted, strict=True):
            if port > 0:
                self._held.append(_bound(port, word))
        for index, port in enumerate(wanted):
            if port <= 0:
                free = _bound(0, "")
                self._held.append(free)
                wanted[index] = free.getsockname()[1]
        return Ports(*wanted)

    def __enter__(self) -> PortHolder:
        return self

    def __exit__(self, *_: object) -> None:
        for holder in self._held:
            holder.close()


def _bound(port: int, word: str) -> socket.socket:
    holder = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("", port))
        holder.listen(1)
    except (OSError, OverflowError):
        holder.close()
        raise ConfigError(f"invalid configuration for {word}. Port {port} is not available") from None
    return holder


def resources(settings: Settings, dapr_directory: str) -> list[str]:
    """The directories with resource files: those named, which must exist, else ~/.dapr/components if there is one."""
    named = [part for value in settings.get("resources-path", ()) for part in value.split(",") if part]
    if not named and last(settings, "components-path"):
        named = [last(settings, "components-path")]
    for directory in named:
        if not os.path.isdir(directory):
            raise ConfigError(f"error validating resources path {directory!r}: no such directory")
    default = os.path.join(dapr_directory, "components") if dapr_directory else ""
    return named or ([default] if default and os.path.isdir(default) else [])


def configurations(settings: Settings, dapr_directory: str) -> list[str]:
    """The Configuration files: those named, else ~/.dapr/config.yaml if there is one."""
    named = [part for value in settings.get("config", ()) for part in value.split(",") if part]
    default = os.path.join(dapr_directory, "config.yaml") if dapr_directory else ""
    return named or ([default] if default and os.path.isfile(default) else [])


def sidecar_arguments(
    app_id: str, settings: Settings, ports: Ports, resource_paths: Iterable[str], config_paths: Iterable[str]
) -> tuple[str, ...]:
    """The flags as daprd takes them."""
    words = [
        f"--app-id={app_id}",
        f"--app-port={max(number(settings, 'app-port', 0), 0)}",
        f"--dapr-http-port={ports.http}",
        f"--dapr-grpc-port={ports.grpc}",
        f"--dapr-internal-grpc-port={ports.internal}",
        f"--metrics-port={ports.metrics}",
        *(f"--resources-path={path}" for path in resource_paths),
        *(f"--config={path}" for path in config_paths),
    ]
    for name, values in settings.items():
        if name not in _DECIDED_HERE:
            words += [f"--{name}={value}" for value in values if value]
    return tuple(words)


def app_environment(app_id: str, settings: Settings, ports: Ports) -> dict[str, str]:
    """The variables that tell an app where its sidecar is and who it is."""
    variables = {
        "APP_ID": app_id,
        "APP_CHANNEL_ADDRESS": last(settings, "app-channel-address", "127.0.0.1"),
        "DAPR_HTTP_PORT": str(ports.http),
        "DAPR_GRPC_PORT": str(ports.grpc),
        "DAPR_METRICS_PORT": str(ports.metrics),
    }
    if number(settings, "app-port", 0) > 0:
        variables["APP_PORT"] = str(number(settings, "app-port", 0))
    protocol = last(settings, "app-protocol", "http").lower()
    if last(settings, "app-ssl", "false") == "true":
        protocol = _WITH_TLS.get(protocol, protocol)
    if protocol in _PROTOCOLS:
        variables["APP_PROTOCOL"] = protocol
    return variables
