import pytest

from edge_runtime.blocks.metadata import (
    EXTENDED_CHARACTERS_MAX,
    EXTENDED_ENTRIES_MAX,
    AppConnection,
    LoadedComponent,
    Metadata,
)
from edge_runtime.model.errors import EdgeError


def test_an_empty_sidecar_shows_the_fixed_fields() -> None:
    assert Metadata("a", "1.0").document() == {
        "id": "a",
        "runtimeVersion": "1.0",
        "extended": {"daprRuntimeVersion": "1.0"},
        "actorRuntime": {"runtimeStatus": "DISABLED", "hostReady": False, "placement": "placement: disconnected"},
        "scheduler": {},
        "workflows": {},
    }


def test_everything_that_is_there_is_shown() -> None:
    metadata = Metadata(
        "a",
        "1.0",
        features=("X",),
        connection=AppConnection(80, "http", "127.0.0.1", 5, ("/healthz", 5, 0.5, 3)),
        subscriptions=lambda: [{"pubsubname": "p"}],
    )
    metadata.components.append(LoadedComponent("s", "state.sqlite", "v1", ("ETAG",)))
    metadata.components.append(LoadedComponent("t", "x", "v1"))
    metadata.endpoints.append("e")
    metadata.resiliencies.append("r")
    metadata.put("k", "v")
    document = metadata.document()
    assert document["enabledFeatures"] == ["X"]
    assert document["components"] == [
        {"name": "s", "type": "state.sqlite", "version": "v1", "capabilities": ["ETAG"]},
        {"name": "t", "type": "x", "version": "v1"},
    ]
    assert document["extended"] == {"k": "v", "daprRuntimeVersion": "1.0"}
    assert document["subscriptions"] == [{"pubsubname": "p"}]
    assert document["httpEndpoints"] == [{"name": "e"}]
    assert document["resiliencies"] == [{"name": "r"}]
    assert document["appConnectionProperties"] == {
        "port": 80,
        "protocol": "http",
        "channelAddress": "127.0.0.1",
        "maxConcurrency": 5,
        "health": {
            "healthCheckPath": "/healthz",
            "healthProbeInterval": "5s",
            "healthProbeTimeout": "500ms",
            "healthThreshold": 3,
        },
    }


def test_free_entries_are_limited() -> None:
    metadata = Metadata("a", "1.0")
    for number in range(EXTENDED_ENTRIES_MAX):
        metadata.put(str(number), "")
    metadata.put("0", "again")
    with pytest.raises(EdgeError):
        metadata.put("one more", "")


def test_the_size_of_free_entries_is_limited() -> None:
    metadata = Metadata("a", "1.0")
    metadata.put("k", "x" * (EXTENDED_CHARACTERS_MAX - 1))
    metadata.put("k", "y" * (EXTENDED_CHARACTERS_MAX - 1))
    with pytest.raises(EdgeError):
        metadata.put("one more", "")


def test_free_entries_outlive_the_object() -> None:
    kept: dict[str, str] = {}
    Metadata("a", "1.0", extended=kept).put("cliPID", "42")
    assert Metadata("a", "1.0", extended=kept).document()["extended"]["cliPID"] == "42"
