"""What the metadata API says of an app's sidecar, gathered when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from edge_runtime.config.values import format_go_duration
from edge_runtime.model.errors import EdgeError, Kind

EXTENDED_ENTRIES_MAX: Final = 1_000
EXTENDED_CHARACTERS_MAX: Final = 2**23
PLACEMENT: Final = "placement: disconnected"


class LoadedComponent(NamedTuple):
    """A component that was initialised; capabilities are its driver's features in Dapr's words."""

    name: str
    type: str
    version: str
    capabilities: Sequence[str] = ()


class AppConnection(NamedTuple):
    """How the app is reached. `health` is (path, interval_s, timeout_s, threshold) when checks are on."""

    port: int
    protocol: str
    channel_address: str
    max_concurrency: int
    health: tuple[str, float, float, int] | None = None


class Metadata:
    """The facts of one sidecar and the free entries that tools put beside them."""

    def __init__(
        self,
        app_id: str,
        runtime_version: str,
        *,
        features: Sequence[str] = (),
        connection: AppConnection | None = None,
        subscriptions: Callable[[], Iterable[Mapping[str, Any]]] = list,
        extended: dict[str, str] | None = None,
    ) -> None:
        """`extended` has the free entries; whoever gives it keeps them longer than this object."""
        self.app_id = app_id
        self.runtime_version = runtime_version
        self.features = features
        self.connection = connection
        self.subscriptions = subscriptions
        self.components: list[LoadedComponent] = []
        self.endpoints: list[str] = []
        self.resiliencies: list[str] = []
        self._extended = {} if extended is None else extended

    def put(self, key: str, value: str) -> None:
        """Keep a free entry. At most `EXTENDED_ENTRIES_MAX` of them, with `EXTENDED_CHARACTERS_MAX` in all."""
        if key not in self._extended and len(self._extended) >= EXTENDED_ENTRIES_MAX:
            raise _too_much(f"{EXTENDED_ENTRIES_MAX} metadata entries")
        others = sum(len(name) + len(text) for name, text in self._extended.items() if name != key)
        if others + len(key) + len(value) > EXTENDED_CHARACTERS_MAX:
            raise _too_much(f"{EXTENDED_CHARACTERS_MAX} characters of metadata")
        self._extended[key] = value

    @property
    def extended(self) -> dict[str, str]:
        """The free entries with what is always among them."""
        return {**self._extended, "daprRuntimeVersion": self.runtime_version}

    def document(self) -> dict[str, Any]:
        """The JSON of `GET /v1.0/metadata`: empty fields are left out unless Dapr always shows them."""
        document: dict[str, Any] = {
            "id": self.app_id,
            "runtimeVersion": self.runtime_version,
            "enabledFeatures": list(self.features),
            "components": [_component(component) for component in self.components],
            "extended": self.extended,
            "subscriptions": [dict(row) for row in self.subscriptions()],
            "httpEndpoints": [{"name": name} for name in self.endpoints],
            "resiliencies": [{"name": name} for name in self.resiliencies],
            "appConnectionProperties": _connection(self.connection),
        }
        shown = {key: value for key, value in document.items() if value}
        shown["actorRuntime"] = {
            "runtimeStatus": "DISABLED",
            "hostReady": False,
            "placement": PLACEMENT,
        }
        shown["scheduler"] = {}
        shown["workflows"] = {}
        return shown


def _too_much(limit: str) -> EdgeError:
    return EdgeError(Kind.BODY_READ, f"failed to read request body: more than {limit}")


def _component(component: LoadedComponent) -> dict[str, Any]:
    shown: dict[str, Any] = {"name": component.name, "type": component.type, "version": component.version}
    if component.capabilities:
        shown["capabilities"] = list(component.capabilities)
    return shown


def _connection(connection: AppConnection | None) -> dict[str, Any]:
    if connection is None:
        return {}
    shown: dict[str, Any] = {
        "port": connection.port,
        "protocol": connection.protocol,
        "channelAddress": connection.channel_address,
    }
    if connection.max_concurrency > 0:
        shown["maxConcurrency"] = connection.max_concurrency
    if connection.health is not None:
        path, interval_s, timeout_s, threshold = connection.health
        shown["health"] = {
            **({"healthCheckPath": path} if path else {}),
            "healthProbeInterval": format_go_duration(interval_s),
            "healthProbeTimeout": format_go_duration(timeout_s),
            "healthThreshold": threshold,
        }
    return shown
