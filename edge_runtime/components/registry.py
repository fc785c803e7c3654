"""The list of drivers: which function opens a component of which type. A driver is imported when something names it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from edge_runtime.config.values import nearest
from edge_runtime.model.errors import ConfigError

if TYPE_CHECKING:
    from edge_runtime.model.ports import Outbox
    from edge_runtime.observability.metrics import Metrics
    from edge_runtime.store.database import Databases

# type/version -> module:function. Every row has its page in docs/components/.
DRIVERS: Final[Mapping[str, str]] = {
    "bindings.mqtt3/v1": "edge_runtime.components.bindings.mqtt3:open_mqtt3_binding",
    "bindings.http/v1": "edge_runtime.components.bindings.http:open_http_binding",
    "bindings.localstorage/v1": "edge_runtime.components.bindings.localstorage:open_localstorage_binding",
    "configuration.sqlite/v1": "edge_runtime.components.configuration.sqlite:open_sqlite_configuration",
    "pubsub.in-memory/v1": "edge_runtime.components.pubsub.memory:open_memory_pubsub",
    "pubsub.mqtt3/v1": "edge_runtime.components.pubsub.mqtt3:open_mqtt3_pubsub",
    "pubsub.sqlite/v1": "edge_runtime.components.pubsub.sqlite:open_sqlite_pubsub",
    "secretstores.local.env/v1": "edge_runtime.components.secretstores.local_env:open_local_env",
    "secretstores.local.file/v1": "edge_runtime.components.secretstores.local_file:open_local_file",
    "state.in-memory/v1": "edge_runtime.components.state.memory:open_memory_state",
    "state.sqlite/v1": "edge_runtime.components.state.sqlite:open_sqlite_state",
}

_INITIAL_VERSIONS: Final = frozenset({"", "v0", "v1"})


class ComponentContext(NamedTuple):
    """What a driver is given: who it is, its metadata with secrets and templates resolved, and the node's databases."""

    name: str
    type: str
    version: str
    metadata: Mapping[str, str]
    app_id: str
    namespace: str
    databases: Databases
    state_dir: str
    directory: str = "."  # relative paths in the metadata count from here
    environment: Mapping[str, str] | None = None  # the app's; None is the process's own
    outbox: Outbox | None = None  # keeps what cannot be sent now; None: a failure is a failure
    metrics: Metrics | None = None  # the app's


Opener = Callable[[ComponentContext], AbstractAsyncContextManager[Any]]


def resolve(component_type: str, version: str = "v1") -> Opener:
    """The function that opens such a component. Raises ConfigError when there is none."""
    key = f"{component_type.lower()}/{_version(version)}"
    target = DRIVERS.get(key)
    if target is None:
        raise ConfigError(_unknown(component_type, version))
    module_name, _, function_name = target.partition(":")
    opener: Opener = getattr(importlib.import_module(module_name), function_name)
    return opener


def driver_types(kind: str) -> list[str]:
    """The types of one kind (`state`, `pubsub`, …) that there are drivers for."""
    return [key.rpartition("/")[0] for key in DRIVERS if key.startswith(f"{kind}.")]


def _version(version: str) -> str:
    lower = version.lower()
    return "v1" if lower in _INITIAL_VERSIONS else lower


def _unknown(component_type: str, version: str) -> str:
    types = sorted(key.rpartition("/")[0] for key in DRIVERS)
    kind = component_type.lower().partition(".")[0]
    same_kind = [name for name in types if name.partition(".")[0] == kind]
    if not component_type:
        problem = "spec.type is missing"
    elif component_type.lower() in types:
        problem = f"component type {component_type!r} has no version {version!r}; expected v1"
    else:
        problem = f"component type {component_type!r} is not known{nearest(component_type, types)}"
    return f"{problem}; there is {', '.join(same_kind or types)}"
