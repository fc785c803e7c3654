"""Everything that is looked at, in an order in which one thing explains the next."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import trio

from edge_runtime.components.metadata import Fields
from edge_runtime.config.kinds import Component
from edge_runtime.config.links import CloudLink
from edge_runtime.model.errors import ConfigError
from edge_runtime.upkeep.checks import Check, System
from edge_runtime.upkeep.disk_checks import check_disk
from edge_runtime.upkeep.file_checks import check_configuration, check_databases, check_permissions, check_resources
from edge_runtime.upkeep.files import database_of, read_for_every_app
from edge_runtime.upkeep.machine_checks import (
    check_clock,
    check_mdns,
    check_memory,
    check_ports,
    check_service,
    check_versions,
)
from edge_runtime.upkeep.peer_checks import TIMEOUT_S, check_peers

_QUEUE_BYTES: Final = 64 * 2**20


class Patient(NamedTuple):
    """The node. `ports` says what each is for; `pids` are its processes, empty when it does not run."""

    state_dir: str
    config_dir: str
    control_socket: str
    resources: Sequence[str] = ()
    configs: Sequence[str] = ()
    ports: Mapping[int, str] = {}
    pids: Sequence[int] = ()
    variables: Mapping[str, str] = {}
    timeout_s: float = TIMEOUT_S
    peers: bool = True


def examine(patient: Patient, system: System | None = None) -> list[Check]:
    """All checks. One that breaks down is told, and takes no other with it."""
    system = System() if system is None else system
    found = read_for_every_app(patient.resources, patient.variables.get("NAMESPACE", ""))
    elsewhere = [path for path in map(database_of, found.components) if path]
    pid = patient.pids[0] if patient.pids else None
    queues = queue_bytes(found.components, found.links)
    looks: list[tuple[str, Callable[[], Iterable[Check]]]] = [
        ("versions", check_versions),
        ("service", lambda: check_service(system)),
        (
            "permissions",
            lambda: check_permissions(patient.state_dir, patient.config_dir, patient.control_socket, system),
        ),
        ("medium", lambda: check_disk(patient.state_dir, queues, system)),
        ("databases", lambda: check_databases(patient.state_dir, elsewhere)),
        ("clock", lambda: check_clock(system)),
        ("memory", lambda: check_memory(system, pid)),
        ("ports", lambda: check_ports(patient.ports, patient.pids, system)),
        ("mDNS", lambda: check_mdns(system)),
        ("configuration", lambda: check_configuration(patient.configs)),
        ("resource files", lambda: check_resources(patient.resources, found)),
    ]
    if patient.peers:
        looks.append(("peers", lambda: _ask_peers(patient, found.components, found.links)))
    return [check for name, look in looks for check in _kept_up(name, look)]


def _kept_up(name: str, look: Callable[[], Iterable[Check]]) -> Iterator[Check]:
    try:
        yield from look()
    except Exception as error:  # a machine that is ill may show what nobody foresaw
        seen = f"could not be looked at: {type(error).__name__}: {error}"
        yield Check(name, "warn", seen, "ask as root; if it stays so, report it with a support bundle")


def _ask_peers(patient: Patient, components: Sequence[Component], links: Sequence[CloudLink]) -> list[Check]:
    # What drivers say in the log is in the checks.
    logging.getLogger("dapr").addHandler(logging.NullHandler())
    logging.getLogger("dapr").propagate = False
    return trio.run(check_peers, components, links, patient.state_dir, patient.variables, patient.timeout_s)


def queue_bytes(components: Sequence[Component], links: Sequence[CloudLink]) -> int:
    """How much may wait by the limits of all queues."""
    total = 0
    for component in components:
        if component.type.lower() == "pubsub.mqtt3":
            values = {item.name: item.value or "" for item in component.metadata if item.value}
            try:
                total += Fields(values, ("outboxBytesMax",)).size_bytes("outboxBytesMax", _QUEUE_BYTES)
            except ConfigError:
                total += _QUEUE_BYTES
    for link in links:
        total += sum(up.bytes_max for up in link.topics_up)
        total += sum(route.queue.bytes_max for route in link.invocation if route.queued)
        total += sum(route.queue.bytes_max for route in link.bindings if route.queued)
    return total
