"""The secrets block over a store of the test's own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

import pytest

from edge_runtime.blocks.secrets import Secrets, reference_reader
from edge_runtime.config.settings import SecretScope
from edge_runtime.model.errors import DriverError, EdgeError, Kind
from edge_runtime.model.ports import Policy
from edge_runtime.observability.metrics import Metrics
from edge_runtime.security.access import SecretScopes

T = TypeVar("T")


class Store:
    """Has what it is given; fails as often as it is told."""

    features: frozenset[str] = frozenset()

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.asked: list[tuple[str, Mapping[str, str]]] = []

    async def get(self, name: str, metadata: Mapping[str, str]) -> Mapping[str, str]:
        self.asked.append((name, metadata))
        if self.failures:
            self.failures -= 1
            raise DriverError("vault is sealed")
        return {name: f"value of {name}"}

    async def bulk_get(self, metadata: Mapping[str, str]) -> Mapping[str, Mapping[str, str]]:
        if self.failures:
            raise DriverError("vault is sealed")
        return {name: {name: "v"} for name in ("a", "b")}


class Twice:
    """Tries everything twice."""

    active = True
    retries = True

    async def run(self, operation: Callable[[], Awaitable[T]]) -> T:
        try:
            return await operation()
        except DriverError:
            return await operation()


class Rules:
    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str]] = []

    def for_component(self, name: str, kind: str, direction: str) -> Policy:
        self.asked.append((name, kind, direction))
        return Twice()


async def test_secret_comes_from_its_store() -> None:
    store = Store()
    assert await Secrets({"vault": store}).get("vault", "a", {"version": "2"}) == {"a": "value of a"}
    assert store.asked == [("a", {"version": "2"})]


@pytest.mark.parametrize(
    ("stores", "kind", "message"),
    [
        ({}, Kind.SECRET_STORES_NOT_CONFIGURED, "secret store is not configured"),
        ({"other": Store()}, Kind.SECRET_STORE_NOT_FOUND, "failed finding secret store with key vault"),
    ],
)
async def test_unknown_stores_are_refused(stores: Mapping[str, Store], kind: Kind, message: str) -> None:
    secrets = Secrets(stores)
    for call in (secrets.get("vault", "a", {}), secrets.bulk_get("vault", {})):
        with pytest.raises(EdgeError) as raised:
            await call
        assert (raised.value.kind, raised.value.message) == (kind, message)


async def test_scopes_refuse_and_leave_out() -> None:
    store = Store()
    secrets = Secrets({"vault": store}, SecretScopes([SecretScope("vault", "deny", ("b",))]))
    with pytest.raises(EdgeError) as raised:
        await secrets.get("vault", "a", {})
    assert raised.value.kind is Kind.SECRET_DENIED
    assert raised.value.message == 'access denied by policy to get "a" from "vault"'
    assert store.asked == []
    assert await secrets.bulk_get("vault", {}) == {"b": {"b": "v"}}


async def test_failures_name_store_and_key() -> None:
    secrets = Secrets({"vault": Store(failures=9)})
    with pytest.raises(EdgeError) as raised:
        await secrets.get("vault", "a", {})
    assert raised.value.kind is Kind.SECRET_GET
    assert raised.value.message == "failed getting secret with key a from secret store vault: vault is sealed"
    with pytest.raises(EdgeError) as raised:
        await secrets.bulk_get("vault", {})
    assert raised.value.message == "failed getting secrets from secret store vault: vault is sealed"


async def test_policy_may_try_again() -> None:
    rules = Rules()
    secrets = Secrets({"vault": Store(failures=1)}, SecretScopes(), rules)
    assert await secrets.get("vault", "a", {}) == {"a": "value of a"}
    assert rules.asked == [("vault", "Secretstore", "Outbound")]


async def test_calls_are_counted() -> None:
    metrics = Metrics("app")
    secrets = Secrets({"vault": Store(failures=1)}, metrics=metrics, namespace="prod")
    with pytest.raises(EdgeError):
        await secrets.get("vault", "a", {})
    await secrets.get("vault", "a", {})
    await secrets.bulk_get("vault", {})
    counter = metrics.counter("component_secret_count", "component", "namespace", "operation", "success")
    assert counter.values == {
        ("vault", "prod", "get", "false"): 1,
        ("vault", "prod", "get", "true"): 1,
        ("vault", "prod", "bulk_get", "true"): 1,
    }


async def test_references_pass_the_scopes() -> None:
    store = Store()
    read = reference_reader({"vault": store}, "prod")
    assert await read("vault", "a") == {"a": "value of a"}
    assert store.asked == [("a", {"namespace": "prod"})]
    assert await read("none", "a") is None


async def test_a_further_store_is_one_like_the_others() -> None:
    rules, far = Rules(), Store()
    block = Secrets({"mine": Store()}, SecretScopes([SecretScope("far", "deny", ("a",), ())]), rules)
    assert block.add("far", far)
    assert await block.get("far", "a", {}) == {"a": "value of a"}
    assert await block.bulk_get("far", {}) == {"a": {"a": "v"}}
    assert ("far", "Secretstore", "Outbound") in rules.asked
    with pytest.raises(EdgeError) as caught:
        await block.get("far", "b", {})
    assert caught.value.kind is Kind.SECRET_DENIED


async def test_a_name_stays_with_who_has_it() -> None:
    block = Secrets({"mine": Store()})
    assert not block.add("mine", Store(failures=9))
    assert await block.get("mine", "a", {}) == {"a": "value of a"}
