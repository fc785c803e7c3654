"""The secrets building block: stores by name, scopes in front of them, policies and counters around them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Literal, Protocol, TypeVar

from edge_runtime.model.errors import DriverError, EdgeError, Kind
from edge_runtime.model.ports import Policy, SecretStore
from edge_runtime.observability.metrics import Metrics
from edge_runtime.resiliency.component_calls import ComponentCalls
from edge_runtime.security.access import SecretScopes

T = TypeVar("T")

_OPEN: Final = SecretScopes()


class Policies(Protocol):
    """What this block asks of resiliency."""

    def for_component(
        self, name: str, kind: Literal["Secretstore"], direction: Literal["Inbound", "Outbound"]
    ) -> Policy: ...


class Secrets:
    """Secrets as every API face sees them."""

    def __init__(
        self,
        stores: Mapping[str, SecretStore],
        scopes: SecretScopes = _OPEN,
        policies: Policies | None = None,
        metrics: Metrics | None = None,
        namespace: str = "",
    ) -> None:
        self._stores: dict[str, SecretStore] = {}
        self._scopes = scopes
        self._rules = policies
        self._policies: dict[str, Policy] = {}
        self._calls = ComponentCalls(metrics or Metrics(), "component_secret", namespace)
        for name, store in stores.items():
            self.add(name, store)

    def add(self, name: str, store: SecretStore) -> bool:
        """One more store, such as a cloud link has; False when the name is taken, which stays with who has it."""
        if name in self._stores:
            return False
        self._stores[name] = store
        if self._rules is not None:
            self._policies[name] = self._rules.for_component(name, "Secretstore", "Outbound")
        return True

    async def get(self, store_name: str, key: str, metadata: Mapping[str, str]) -> Mapping[str, str]:
        """The key-value pairs of one secret."""
        store = self._store(store_name)
        if not self._scopes.permits(store_name, key):
            message = f'access denied by policy to get "{key}" from "{store_name}"'
            raise EdgeError(Kind.SECRET_DENIED, message)
        try:
            return await self._run(store_name, "get", lambda: store.get(key, metadata))
        except DriverError as error:
            message = f"failed getting secret with key {key} from secret store {store_name}: {error}"
            raise EdgeError(Kind.SECRET_GET, message) from error

    async def bulk_get(self, store_name: str, metadata: Mapping[str, str]) -> Mapping[str, Mapping[str, str]]:
        """Every secret that the scopes allow; the others are left out without a word."""
        store = self._store(store_name)
        try:
            found = await self._run(store_name, "bulk_get", lambda: store.bulk_get(metadata))
        except DriverError as error:
            message = f"failed getting secrets from secret store {store_name}: {error}"
            raise EdgeError(Kind.SECRET_GET, message) from error
        return {name: secret for name, secret in found.items() if self._scopes.permits(store_name, name)}

    def _store(self, name: str) -> SecretStore:
        if not self._stores:
            raise EdgeError(Kind.SECRET_STORES_NOT_CONFIGURED, "secret store is not configured")
        store = self._stores.get(name)
        if store is None:
            raise EdgeError(Kind.SECRET_STORE_NOT_FOUND, f"failed finding secret store with key {name}")
        return store

    async def _run(self, name: str, operation: str, call: Callable[[], Awaitable[T]]) -> T:
        return await self._calls.run(name, operation, self._policies.get(name), call)


def reference_reader(
    stores: Mapping[str, SecretStore], namespace: str
) -> Callable[[str, str], Awaitable[Mapping[str, str] | None]]:
    """How resources read the secrets that they refer to: by store and name, past the scopes, which bind apps only."""
    metadata = {"namespace": namespace}

    async def read(store_name: str, name: str) -> Mapping[str, str] | None:
        store = stores.get(store_name)
        return None if store is None else await store.get(name, metadata)

    return read
