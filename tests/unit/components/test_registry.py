"""The list of drivers."""

import pathlib

import pytest

from edge_runtime.components.registry import DRIVERS, driver_types, resolve
from edge_runtime.components.state.memory import open_memory_state
from edge_runtime.model.errors import ConfigError

DOCS = pathlib.Path(__file__).parents[3] / "docs" / "components"


@pytest.mark.parametrize("key", DRIVERS)
def test_every_driver_opens_and_has_a_page(key: str) -> None:
    component_type, _, version = key.rpartition("/")
    assert callable(resolve(component_type, version))
    assert (DOCS / f"{component_type}.md").exists()


@pytest.mark.parametrize("version", ["", "v0", "v1", "V1"])
def test_initial_versions_are_one(version: str) -> None:
    assert resolve("State.In-Memory", version) is open_memory_state


def test_unknown_type_lists_its_kind() -> None:
    with pytest.raises(ConfigError) as caught:
        resolve("state.sqlit")
    assert str(caught.value) == (
        "component type 'state.sqlit' is not known (did you mean \"state.sqlite\"?); there is"
        " state.in-memory, state.sqlite"
    )


def test_missing_type_is_told() -> None:
    with pytest.raises(ConfigError, match=r"^spec.type is missing; there is .*pubsub.in-memory, "):
        resolve("")


def test_unknown_kind_lists_everything() -> None:
    with pytest.raises(ConfigError, match=r"there is .*, pubsub.in-memory, .*, state.sqlite"):
        resolve("queue.big")


def test_unknown_version_is_told() -> None:
    with pytest.raises(ConfigError, match="has no version 'v7'; expected v1"):
        resolve("state.sqlite", "v7")


def test_types_are_listed_by_kind() -> None:
    assert driver_types("state") == ["state.in-memory", "state.sqlite"]
