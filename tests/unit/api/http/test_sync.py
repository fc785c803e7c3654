"""`edge/v1/sync` through the face: links over an outbox on a real file, and an other end on loopback."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import trio

from edge_runtime.api.blocks import Blocks
from edge_runtime.api.http.face import Face, FaceSettings
from edge_runtime.api.http.sync import ROUTES
from edge_runtime.api.sync import AppSync
from edge_runtime.config.links import CloudLink, TopicUp
from edge_runtime.model.errors import DriverError
from edge_runtime.model.http import Body, Request
from edge_runtime.observability.metrics import Metrics
from edge_runtime.observability.trace import Tracer
from edge_runtime.sync.link_report import links_on_disk
from edge_runtime.sync.link_settings import LinkSettings
from edge_runtime.sync.links import Links, SharedLink
from tests.brokers import until
from tests.outboxes import OutboxWorld, open_world
from tests.unit.sync.test_link import LIMITS, Far, loopback_app

UPS = (TopicUp("pubsub", "orders", "kafka", "edge-orders"),)


class _Blocks:
    """Stands for the app's blocks; these handlers call no other."""

    def __init__(self, sync: AppSync) -> None:
        self.sync = sync


class Api:
    """The API of an app with one link."""

    def __init__(self, shared: SharedLink | None, links: Links | None, far: Far | None = None) -> None:
        sync = AppSync()
        if shared is not None and links is not None:
            sync.fill({"cloud": shared}, links.pause)
        self.shared = cast(SharedLink, shared)
        self.far = cast(Far, far)
        self._face = Face(cast(Blocks, _Blocks(sync)), ROUTES, FaceSettings(), Tracer(None), None, None)

    async def ask(self, path: str = "", method: str = "GET") -> tuple[int, Any]:
        request = Request(method, f"/edge/v1/sync{path}".encode(), [], Body(b""))
        response = await self._face.handle(request)
        return response.status, json.loads(await response.body.read())

    async def got(self, path: str = "", method: str = "GET") -> Any:
        status, answer = await self.ask(path, method)
        assert status == 200, answer
        return answer


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[OutboxWorld]:
    async with open_world(tmp_path) as opened:
        yield opened


@asynccontextmanager
async def open_api(world: OutboxWorld, folder: Path, nursery: trio.Nursery, **fields: Any) -> AsyncIterator[Api]:
    far = Far({b"/v1.0/publish/kafka/edge-orders": (204, b"")})
    async with loopback_app(far.converse) as app:
        far.app = app
        resource = CloudLink("cloud", f"http://127.0.0.1:{app.origin.port}", topics_up=UPS, **fields)
        links = Links(world.outbox, lambda: world.outbox.node, Metrics(), str(folder), nursery)
        async with links.join(LinkSettings(resource, limits=LIMITS), {}) as shared:
            yield Api(shared, links, far)


async def test_a_link_says_how_it_stands(world: OutboxWorld, tmp_path: Path, nursery: trio.Nursery) -> None:
    async with open_api(world, tmp_path, nursery, bytes_per_day=10**6, bytes_per_second=1000) as api:
        await until(lambda: api.shared.link.state.up)
        (link,) = (await api.got())["links"]
        assert link == await api.got("/cloud") | {
            name: link[name] for name in ("sinceSeconds", "lastContactSeconds", "budget")
        }
        assert (link["link"], link["state"], link["reason"], link["metered"]) == ("cloud", "up", "", False)
        assert link["endpoint"].startswith("http://127.0.0.1:")
        assert link["lastContact"] >= link["since"] - 5
        assert link["window"] == {"open": True, "changesAt": None}
        sent = link["bytes"]["probe"]
        assert link["budget"]["dayLeftBytes"] == 10**6 - sent["sent"] - sent["received"]
        (route,) = link["routes"]
        assert (route["route"], route["name"], route["to"]) == ("topicsUp", "pubsub/orders", "kafka/edge-orders")
        assert (route["entries"], route["deadLetters"], route["dropped"]) == (0, 0, {})


async def test_a_paused_link_keeps_everything(world: OutboxWorld, tmp_path: Path, nursery: trio.Nursery) -> None:
    async with open_api(world, tmp_path, nursery) as api:
        await until(lambda: api.shared.link.state.up)
        link = await api.got("/cloud/pause", "POST")
        assert (link["state"], link["paused"]) == ("paused", True)
        await api.shared.forwards()["pubsub", "orders"](b'{"specversion":"1.0"}', {})
        (route,) = (await api.got("/cloud"))["routes"]
        assert route["entries"] == 1
        status, answer = await api.ask("/cloud/now", "POST")
        assert (status, answer["errorCode"]) == (409, "ERR_EDGE_LINK_PAUSED")
    async with open_api(world, tmp_path, nursery) as api:  # also over a restart
        await until(lambda: api.shared.link.state.name == "paused")
        assert api.far.app.seen == []
        await api.got("/cloud/resume", "POST")
        await until(lambda: len(api.far.app.seen) == 2)
    async with open_api(world, tmp_path, nursery) as api:
        await until(lambda: api.shared.link.state.up)


async def test_a_dry_run_sends_nothing(world: OutboxWorld, tmp_path: Path, nursery: trio.Nursery) -> None:
    async with open_api(world, tmp_path, nursery, bytes_per_second=100, bytes_per_day=2000) as api:
        await api.got("/cloud/pause", "POST")
        for _ in range(3):
            await api.shared.forwards()["pubsub", "orders"](b"x" * 1000, {})
        count = len(api.far.app.seen)
        found = await api.got("/cloud/dry-run")
        (route,) = found["routes"]
        assert (route["entries"], found["entries"], found["state"]) == (3, 3, "paused")
        assert found["bytesEstimated"] == route["bytes"] + 3 * 512
        assert found["secondsEstimated"] == pytest.approx(found["bytesEstimated"] / 100, abs=0.1)
        assert found["daysEstimated"] == 2
        assert len(api.far.app.seen) == count


async def test_now_tries_all_again(world: OutboxWorld, tmp_path: Path, nursery: trio.Nursery) -> None:
    async with open_api(world, tmp_path, nursery) as api:
        await until(lambda: api.shared.link.state.up)
        publish = b"/v1.0/publish/kafka/edge-orders"
        api.far.answers[publish] = (500, b"")
        await api.shared.forwards()["pubsub", "orders"](b'{"specversion":"1.0"}', {})
        await until(lambda: len(api.far.targets()) == 1)
        api.far.answers[publish] = (204, b"")
        assert (await api.got("/cloud/now?outsideWindow=true", "POST"))["state"] == "up"
        await until(lambda: len(api.far.targets()) == 2)
        status, answer = await api.ask("/cloud/now?outsideWindow=maybe", "POST")
        assert (status, answer["errorCode"]) == (400, "ERR_BAD_REQUEST")


async def test_what_an_app_has_not_is_not_found() -> None:
    api = Api(None, None)
    assert await api.got() == {"links": []}
    for path, method in (("/x", "GET"), ("/x/dry-run", "GET"), ("/x/pause", "POST"), ("/x/now", "POST")):
        status, answer = await api.ask(path, method)
        assert (status, answer["errorCode"]) == (404, "ERR_EDGE_LINK_NOT_FOUND")


async def test_a_disk_that_takes_no_pause_is_told(world: OutboxWorld, tmp_path: Path, nursery: trio.Nursery) -> None:
    (tmp_path / "links").write_text("")
    async with open_api(world, tmp_path, nursery) as api:
        status, answer = await api.ask("/cloud/pause", "POST")
        assert (status, answer["errorCode"]) == (500, "ERR_EDGE_SYNC")
        assert not api.shared.link.paused


async def test_a_route_that_cannot_say_hides_no_other(
    world: OutboxWorld, tmp_path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        kind, name = "state", "orders/*"

        async def status(self) -> dict[str, Any]:
            raise DriverError("the disk is broken")

        async def dry_run(self, limit: int) -> dict[str, Any]:
            raise DriverError("the disk is broken")

        def hurry(self) -> None:
            pass

    async with open_api(world, tmp_path, nursery) as api:
        api.shared.routes.insert(0, Broken())
        broken = {"route": "state", "name": "orders/*", "lastError": "the disk is broken"}
        for path in ("/cloud", "/cloud/dry-run"):
            first, second = (await api.got(path))["routes"]
            assert first == broken
            assert second["route"] == "topicsUp"


async def test_files_tell_of_links_that_nobody_has_open(
    world: OutboxWorld, tmp_path: Path, nursery: trio.Nursery
) -> None:
    assert links_on_disk(str(tmp_path), None) == []
    async with open_api(world, tmp_path, nursery, bytes_per_day=10**6) as api:
        await until(lambda: api.shared.link.state.up)
        await api.got("/cloud/pause", "POST")
        await api.shared.forwards()["pubsub", "orders"](b"x", {})
    (link,) = links_on_disk(str(tmp_path), world.outbox)
    assert (link["link"], link["state"]) == ("cloud", "paused")
    assert link["budget"]["daySpentBytes"] > 0
    assert (link["routes"][0]["route"], link["routes"][0]["name"]) == ("outbox", "pubsub/orders")
    assert link["routes"][0]["entries"] == 1
