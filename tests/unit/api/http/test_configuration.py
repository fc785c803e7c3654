"""`configuration` through the face, under both versions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

import pytest
import trio

from edge_runtime.api.blocks import Blocks
from edge_runtime.api.http.configuration import ROUTES
from edge_runtime.api.http.face import Face, FaceSettings
from edge_runtime.blocks.configuration import Configuration
from edge_runtime.model.http import Request
from edge_runtime.model.ports import ConfigurationItem
from edge_runtime.observability.trace import Tracer
from tests.unit.blocks.configuration.fakes import FakeApp, FakeStore

ITEMS = {"b": ConfigurationItem("é", "v1", {"unit": "s"}), "a": ConfigurationItem("")}


class _Blocks:
    """Stands for the app's blocks; these handlers call no other."""

    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration


async def ask(target: str, block: Configuration) -> tuple[int, Any]:
    face = Face(cast(Blocks, _Blocks(block)), ROUTES, FaceSettings(), Tracer(None), None, None)
    response = await face.handle(Request("GET", target.encode(), []))
    data = response.body.data
    return response.status, json.loads(data) if data else None


@pytest.fixture(params=["v1.0", "v1.0-alpha1"])
def root(request: pytest.FixtureRequest) -> str:
    return f"/{request.param}/configuration"


async def test_items_are_shown_without_what_is_empty(root: str) -> None:
    store = FakeStore(ITEMS)
    answer = await ask(f"{root}/s?key=b&key=a&metadata.m=1", Configuration({"s": store}))
    assert answer == (200, {"a": {}, "b": {"value": "é", "version": "v1", "metadata": {"unit": "s"}}})
    assert store.asked == [(["b", "a"], {"m": "1"})]


async def test_nothing_found_is_no_content(root: str) -> None:
    assert await ask(f"{root}/s?key=zz", Configuration({"s": FakeStore(ITEMS)})) == (204, None)


async def test_a_subscription_has_an_id_and_an_end(root: str) -> None:
    block = Configuration({"s": FakeStore(ITEMS)}, FakeApp())
    async with trio.open_nursery() as nursery:
        await nursery.start(block.run)
        status, answer = await ask(f"{root}/s/subscribe?key=a", block)
        assert (status, list(answer)) == (200, ["id"])
        assert await ask(f"{root}/s/{answer['id']}/unsubscribe", block) == (200, {"ok": True})
        text = f"subscription with id {answer['id']} does not exist"
        assert await ask(f"{root}/s/{answer['id']}/unsubscribe", block) == (500, {"message": text})
        nursery.cancel_scope.cancel()


NOT_CONFIGURED = ("ERR_CONFIGURATION_STORE_NOT_CONFIGURED", "configuration stores not configured")
NOT_FOUND = ("ERR_CONFIGURATION_STORE_NOT_FOUND", "configuration store s not found")


@pytest.mark.parametrize("tail", ["", "/subscribe", "/id/unsubscribe"])
@pytest.mark.parametrize(
    ("stores", "status", "error"), [({}, 500, NOT_CONFIGURED), ({"t": FakeStore()}, 400, NOT_FOUND)]
)
async def test_a_missing_store_is_told(
    root: str, tail: str, stores: Mapping[str, Any], status: int, error: tuple[str, str]
) -> None:
    answer = await ask(f"{root}/s{tail}", Configuration(stores))
    assert answer == (status, {"errorCode": error[0], "message": error[1]})


async def test_no_app_can_be_told(root: str) -> None:
    status, answer = await ask(f"{root}/s/subscribe", Configuration({"s": FakeStore()}))
    assert (status, answer["errorCode"]) == (500, "ERR_APP_CHANNEL_NIL")
