"""The apps that run on this machine, with everything that `list` shows of them.

Our nodes are asked through their control sockets, which know every app of a process. Then come the sidecars of the
process table that no node has named: Dapr's own, and bare ones of ours. Those are asked for their metadata over HTTP.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from edge_runtime.cli.control import ControlError, NodeControl, running_nodes
from edge_runtime.cli.http import Address, Unreachable, request
from edge_runtime.cli.output import age, created
from edge_runtime.cli.processes import Sidecar, sidecars
from edge_runtime.model.errors import ConfigError

_METADATA_TIMEOUT_S: Final = 2.0
_BODY_BYTES_DEFAULT: Final = 4 * 2**20
_HEADER_BYTES_DEFAULT: Final = 4096


class Instance(NamedTuple):
    """One app's sidecar. `node` is the socket of the process that serves it, when that is a node of ours."""

    app_id: str
    http_port: int
    grpc_port: int
    app_port: int
    metrics_enabled: bool
    started_at: float
    daprd_pid: int
    extended: Mapping[str, str]
    body_bytes_max: int = _BODY_BYTES_DEFAULT
    header_bytes_max: int = _HEADER_BYTES_DEFAULT
    resource_paths: Sequence[str] = ()
    socket_directory: str = ""
    node: str = ""

    @property
    def command(self) -> str:
        return self.extended.get("appCommand", "")

    @property
    def cli_pid(self) -> int:
        return _number(self.extended.get("cliPID", ""))

    @property
    def app_pid(self) -> int:
        return _number(self.extended.get("appPID", ""))

    @property
    def address(self) -> Address:
        """Where the sidecar's HTTP API is."""
        if self.socket_directory:
            return Address(path=socket_path(self.socket_directory, self.app_id))
        return Address(self.http_port)

    def as_mapping(self, now: float) -> dict[str, Any]:
        """The keys of Dapr's JSON and YAML."""
        facts = self.extended
        return {
            "appId": self.app_id,
            "httpPort": self.http_port,
            "grpcPort": self.grpc_port,
            "appPort": self.app_port,
            "metricsEnabled": self.metrics_enabled,
            "command": self.command,
            "age": age(now - self.started_at),
            "created": created(self.started_at),
            "daprdPid": self.daprd_pid,
            "cliPid": self.cli_pid,
            "appPid": self.app_pid,
            "maxRequestBodySize": self.body_bytes_max,
            "httpReadBufferSize": self.header_bytes_max,
            "runTemplatePath": facts.get("runTemplatePath", ""),
            "appLogPath": facts.get("appLogPath", ""),
            "daprdLogPath": facts.get("daprdLogPath", ""),
            "runTemplateName": facts.get("runTemplateName", ""),
        }


def socket_path(directory: str, app_id: str) -> str:
    """The socket of an app's HTTP API."""
    return os.path.join(directory, f"dapr-{app_id}-http.socket")


def find_instances(environment: Mapping[str, str], proc: str = "/proc") -> list[Instance]:
    """Every app of this machine that this user may see."""
    found: list[Instance] = []
    pids: set[int] = set()
    for node in running_nodes(environment):
        try:
            pid = int(node.describe()["pid"])
            found += [_of_node(app, pid, node.path) for app in node.apps()]
        except (Unreachable, ControlError, ConfigError):
            continue  # it ended while we looked
        pids.add(pid)
    pids.update(instance.cli_pid for instance in found)
    found += [_of_process(sidecar) for sidecar in sidecars(proc) if sidecar.pid not in pids]
    return found


def find_instance(app_id: str, environment: Mapping[str, str]) -> Instance | None:
    return next((instance for instance in find_instances(environment) if instance.app_id == app_id), None)


def _of_node(app: Mapping[str, Any], pid: int, path: str) -> Instance:
    return Instance(
        app_id=app["appId"],
        http_port=app["httpPort"],
        grpc_port=app["grpcPort"],
        app_port=app["appPort"],
        metrics_enabled=app["metricsEnabled"],
        started_at=app["startedAt"],
        daprd_pid=pid,
        extended=app["extended"],
        body_bytes_max=app["maxRequestBodySize"],
        header_bytes_max=app["httpReadBufferSize"],
        resource_paths=tuple(app["resourcePaths"]),
        socket_directory=app["unixDomainSocket"],
        node=path,
    )


def _of_process(sidecar: Sidecar) -> Instance:
    directory = sidecar.last("unix-domain-socket")
    address = Address(path=socket_path(directory, sidecar.app_id)) if directory else Address(sidecar.http_port)
    return Instance(
        app_id=sidecar.app_id,
        http_port=sidecar.http_port,
        grpc_port=sidecar.grpc_port,
        app_port=sidecar.app_port,
        metrics_enabled=sidecar.metrics_enabled,
        started_at=sidecar.started_at,
        daprd_pid=sidecar.pid,
        extended=_extended(address),
        resource_paths=tuple(sidecar.flags.get("resources-path", ())),
        socket_directory=directory,
    )


def _extended(address: Address) -> Mapping[str, str]:
    """What the sidecar's metadata says beside the documented fields; nothing when it does not answer us."""
    try:
        answer = request("GET", address, "/v1.0/metadata", timeout_s=_METADATA_TIMEOUT_S)
        facts = json.loads(answer.body)["extended"] if answer.status == 200 else {}
    except (Unreachable, ValueError, KeyError, TypeError):
        return {}
    return {str(key): str(value) for key, value in facts.items()} if isinstance(facts, dict) else {}


def _number(text: str) -> int:
    return int(text) if text.isdigit() else 0


def now() -> float:
    return time.time()


def control_of(instance: Instance) -> NodeControl | None:
    """The node that serves the app, when it is one of ours."""
    return NodeControl(instance.node) if instance.node else None


def instances_of_run_file(path: str, environment: Mapping[str, str]) -> Iterator[Instance]:
    """The apps that were started from this run file (or from the one in this directory)."""
    full = os.path.abspath(path)
    for instance in find_instances(environment):
        template = instance.extended.get("runTemplatePath", "")
        if template and template in (full, os.path.join(full, "dapr.yaml")):
            yield instance
