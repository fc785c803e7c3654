"""What every secret store keeps: the same secrets asked for in each of them, one by one and all at once."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest

from edge_runtime.components.registry import DRIVERS, ComponentContext
from edge_runtime.components.secretstores.local_env import open_local_env
from edge_runtime.components.secretstores.local_file import open_local_file
from edge_runtime.model.errors import DriverError
from edge_runtime.model.ports import SecretStore
from edge_runtime.store.database import Databases

SECRETS = {"conftestsecret": "abcd", "secondsecret": 'with spaces, "quotes" & é', "empty": ""}


def context(kind: str, directory: Path, metadata: Mapping[str, str]) -> ComponentContext:
    no_databases = cast(Databases, None)  # no secret store keeps anything of its own
    return ComponentContext(
        "vault", f"secretstores.{kind}", "v1", metadata, "app", "default", no_databases, str(directory), str(directory)
    )


class Driver(NamedTuple):
    """A driver under test. `missing` is what it gives for a secret that is not there; None is an error."""

    type: str
    open: Callable[[Path], AbstractAsyncContextManager[SecretStore]]
    missing: Mapping[str, str] | None
    features: frozenset[str] = frozenset()


def file_store(multi_valued: str) -> Callable[[Path], AbstractAsyncContextManager[SecretStore]]:
    def opened(directory: Path) -> AbstractAsyncContextManager[SecretStore]:
        (directory / "secrets.json").write_text(json.dumps(SECRETS))
        metadata = {"secretsFile": "secrets.json", "multiValued": multi_valued}
        return open_local_file(context("local.file", directory, metadata))

    return opened


def env_store(prefix: str) -> Callable[[Path], AbstractAsyncContextManager[SecretStore]]:
    def opened(directory: Path) -> AbstractAsyncContextManager[SecretStore]:
        variables = {f"{prefix}{name}": value for name, value in SECRETS.items()}
        return open_local_env(context("local.env", directory, {"prefix": prefix})._replace(environment=variables))

    return opened


MULTIPLE = frozenset({"MULTIPLE_KEY_VALUES_PER_SECRET"})
SUITE = {
    "local.file": Driver("secretstores.local.file", file_store("false"), None),
    "local.file multi-valued": Driver("secretstores.local.file", file_store("true"), None, MULTIPLE),
    "local.env": Driver("secretstores.local.env", env_store(""), {"nothing": ""}),
    "local.env prefixed": Driver("secretstores.local.env", env_store("APP_"), {"nothing": ""}),
}


@pytest.fixture(params=list(SUITE))
def driver(request: pytest.FixtureRequest) -> Driver:
    return SUITE[request.param]


@pytest.fixture
async def store(driver: Driver, tmp_path: Path) -> AsyncIterator[Any]:
    async with driver.open(tmp_path) as opened:
        yield opened


def test_every_driver_is_in_the_suite() -> None:
    listed = {key.rpartition("/")[0] for key in DRIVERS if key.startswith("secretstores.")}
    assert listed == {driver.type for driver in SUITE.values()}


@pytest.mark.parametrize("name", list(SECRETS))
async def test_secret_is_given_under_its_name(store: SecretStore, name: str) -> None:
    assert await store.get(name, {}) == {name: SECRETS[name]}


async def test_metadata_of_a_request_does_no_harm(store: SecretStore) -> None:
    assert await store.get("conftestsecret", {"namespace": "default"}) == {"conftestsecret": "abcd"}


async def test_bulk_has_every_secret(store: SecretStore) -> None:
    assert await store.bulk_get({}) == {name: {name: value} for name, value in SECRETS.items()}


async def test_missing_secret_is_as_declared(driver: Driver, store: SecretStore) -> None:
    if driver.missing is None:
        with pytest.raises(DriverError, match="secret nothing not found") as raised:
            await store.get("nothing", {})
        assert raised.value.permanent
    else:
        assert await store.get("nothing", {}) == driver.missing


async def test_features_are_as_declared(driver: Driver, store: SecretStore) -> None:
    assert store.features == driver.features
