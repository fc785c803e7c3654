"""`edge/v1/outbox` through the face, over an outbox on a real file."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import pytest
import trio
import trio.testing

from edge_runtime.api.blocks import Blocks
from edge_runtime.api.http.face import Face, FaceSettings
from edge_runtime.api.http.outbox import ROUTES
from edge_runtime.api.outbox import AppOutbox
from edge_runtime.model.errors import BadMetadata, DriverError
from edge_runtime.model.http import Body, Request
from edge_runtime.model.ports import LocalCalls
from edge_runtime.observability.metrics import Metrics
from edge_runtime.observability.trace import Tracer
from edge_runtime.runtime.outbox import NodeOutbox
from edge_runtime.store.database import open_databases
from tests.brokers import until
from tests.outboxes import OtherEnd, OutboxWorld, open_world

NAME = "pubsub.mqtt3/shop/broker"
PLACE = f"/edge/v1/outbox/{quote(NAME, safe='')}"


class _Blocks:
    """Stands for the app's blocks; these handlers call no other."""

    def __init__(self, outbox: AppOutbox) -> None:
        self.outbox = outbox


class Api:
    """The API of the app `shop`, which has the link `cloud` in its files."""

    def __init__(self, find: Any, app_id: str = "shop") -> None:
        blocks = cast(Blocks, _Blocks(AppOutbox(find, app_id, ["cloud"])))
        self._face = Face(blocks, ROUTES, FaceSettings(), Tracer(None), None, None)

    async def ask(self, path: str, body: Any = None) -> tuple[int, Any]:
        data = b"" if body is None else json.dumps(body).encode()
        request = Request("GET" if body is None else "POST", path.encode(), [], Body(data))
        response = await self._face.handle(request)
        data = await response.body.read()
        if response.header(b"content-type") == b"application/x-ndjson":
            assert response.body.length is None
            return response.status, [json.loads(line) for line in data.splitlines()]
        return response.status, json.loads(data) if data else None

    async def get(self, path: str = "") -> Any:
        status, answer = await self.ask(f"{PLACE}{path}" if path else "/edge/v1/outbox")
        assert status == 200, answer
        return answer


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[OutboxWorld]:
    async with open_world(tmp_path) as opened:
        yield opened


@pytest.fixture
def api(world: OutboxWorld) -> Api:
    return Api(finding(world))


def finding(world: OutboxWorld) -> Any:
    async def find() -> Any:
        await trio.lowlevel.checkpoint()
        return world.outbox

    return find


async def fill(route: Any, count: int) -> None:
    for number in range(count):
        await route.append("k", b"%d" % number)


# --- looking ----------------------------------------------------------------------------------------------------------


async def test_a_route_says_what_waits(world: OutboxWorld, api: Api) -> None:
    async with world.route(OtherEnd(), NAME) as route:
        await fill(route, 2)
        route.down("the broker is away")
        await trio.testing.wait_all_tasks_blocked()
        world.clock.ahead_ms = 5000
        (shown,) = (await api.get())["routes"]
        assert shown.pop("oldestAgeSeconds") >= 5
        assert shown.pop("bytes") > 2
        assert shown == {
            "route": NAME,
            "link": "down",
            "reason": "the broker is away",
            "entries": 2,
            "inFlight": 0,
            "deadLetters": 0,
            "dropped": {},
        }
        assert await world.outbox.drop(NAME) == 2
        route.up()
        (shown,) = (await api.get())["routes"]
        assert (shown["link"], shown["reason"], shown["entries"], shown["oldestAgeSeconds"]) == ("up", "", 0, None)
        assert shown["dropped"]["discarded"]["entries"] == 2


async def test_a_route_that_nobody_has_open_is_shown(world: OutboxWorld, api: Api) -> None:
    async with world.route(OtherEnd(), NAME) as route:
        await fill(route, 3)
    (shown,) = (await api.get())["routes"]
    assert (shown["link"], shown["entries"]) == ("closed", 3)
    assert len((await api.get("/entries"))["entries"]) == 3
    status, answer = await api.ask(f"{PLACE}/drop", {"all": True})
    assert (status, answer) == (200, {"dropped": 3})


async def test_an_app_sees_its_own_routes(world: OutboxWorld) -> None:
    names = (NAME, "pubsub.mqtt3/shopping/broker", "link/cloud/pubsub/a", "link/shop/pubsub/a", "bindings.x/other/y")
    for name in names:
        async with world.route(OtherEnd(), name) as route:
            await fill(route, 1)
    for app_id, expected in (("shop", {names[0], names[2]}), ("shopping", {names[1], names[2]})):
        shown = await Api(finding(world), app_id).get()
        assert {route["route"] for route in shown["routes"]} == expected
    api = Api(finding(world))
    for what in ("entries", "dead", "dropped", "export"):
        status, answer = await api.ask(f"/edge/v1/outbox/{quote(names[1], safe='')}/{what}")
        assert status == 404
        assert answer == {
            "errorCode": "ERR_EDGE_OUTBOX_ROUTE_NOT_FOUND",
            "message": f"outbox route {names[1]!r} is not found; there is link/cloud/pubsub/a, {NAME}",
        }
    for what in ("retry", "drop"):
        status, _ = await api.ask(f"/edge/v1/outbox/{quote(names[1], safe='')}/{what}", {"all": True})
        assert status == 404


async def test_entries_come_in_pages(world: OutboxWorld, api: Api) -> None:
    async with world.route(OtherEnd(), NAME) as route:
        await fill(route, 5)
        seen: list[str] = []
        after: int | None = 0
        while after is not None:
            page = await api.get(f"/entries?limit=2&after={after}&payload=true")
            assert len(page["entries"]) <= 2
            seen += [entry["payload"] for entry in page["entries"]]
            after = page["next"]
        assert seen == ["0", "1", "2", "3", "4"]
        (entry,) = (await api.get("/entries?limit=1"))["entries"]
        assert entry["id"].split("-")[::2] == [world.outbox.node, str(entry["sequence"])]
        assert "payload" not in entry


async def test_failed_attempts_are_told(world: OutboxWorld, api: Api) -> None:
    end = OtherEnd()
    end.failures = {b"0": [DriverError("not now")], b"1": [BadMetadata("no such topic")]}
    async with world.route(end, NAME) as route:
        await route.append("a", b"0")
        await route.append("b", b"1")
        route.up()
        await until(lambda: world.outbox.dead_letters(NAME))
        (entry,) = (await api.get("/entries"))["entries"]
        assert (entry["key"], entry["attempts"], entry["lastError"]) == ("a", 1, "not now")
        (letter,) = (await api.get("/dead?payload=true"))["deadLetters"]
        assert (letter["key"], letter["lastError"], letter["payload"]) == ("b", "no such topic", "1")
        assert letter["diedAt"] >= letter["enqueuedAt"]
        assert [line["payload"] for line in (await api.ask(f"{PLACE}/export?dead=true"))[1]] == ["1"]
        status, answer = await api.ask(f"{PLACE}/retry", {"sequences": [letter["sequence"]]})
        assert (status, answer) == (200, {"retried": 1})
        await end.wait_for(1)
        assert end.payloads == [b"1"]


async def test_payloads_are_readable(world: OutboxWorld, api: Api) -> None:
    payload = {"topic": "a", "data": b"\xff\x00", "text": "é".encode(), "more": [b"x", 1, None], "retain": False}
    async with world.route(OtherEnd(), NAME) as route:
        await route.append("k", payload, size_bytes=100)
        (entry,) = (await api.get("/entries?payload=true"))["entries"]
    shown = {"topic": "a", "data": {"base64": "/wA="}, "text": "é", "more": ["x", 1, None], "retain": False}
    assert entry["payload"] == shown


async def test_a_damaged_entry_is_marked(world: OutboxWorld, api: Api) -> None:
    async with world.route(OtherEnd(), NAME) as route:
        await fill(route, 3)
        await world.sql("UPDATE outbox_entry SET record = x'00' WHERE id = (SELECT min(id) + 1 FROM outbox_entry)")
        lines = (await api.ask(f"{PLACE}/export"))[1]
    assert [line.get("payload") for line in lines] == ["0", None, "2"]
    assert lines[1]["damaged"] is True


async def test_large_payloads_end_a_page(world: OutboxWorld, api: Api) -> None:
    """An export has them all, a page of them at a time."""
    async with world.route(OtherEnd(), NAME) as route:
        for _ in range(5):
            await route.append("k", b"x" * 600_000)
        page = await api.get("/entries?payload=true")
        assert len(page["entries"]) == 1
        assert page["next"] == page["entries"][0]["sequence"]
        assert len((await api.get("/entries"))["entries"]) == 5
        app = AppOutbox(finding(world), "shop", [])
        from edge_runtime.api.outbox import entries_page

        pieces = [len(piece) async for piece in await app.export(entries_page, NAME)]
    assert len(pieces) == 5
    assert max(pieces) < 700_000


# --- changing ---------------------------------------------------------------------------------------------------------


async def test_dropped_entries_are_in_the_ledger(world: OutboxWorld, api: Api) -> None:
    async with world.route(OtherEnd(), NAME) as route:
        await fill(route, 3)
        entries = (await api.get("/entries"))["entries"]
        sequence = entries[1]["sequence"]
        assert await api.ask(f"{PLACE}/drop", {"sequences": [sequence, sequence]}) == (200, {"dropped": 1})
        assert await api.ask(f"{PLACE}/drop", {"sequences": [sequence, 1]}) == (200, {"dropped": 0})
        left = [entry["sequence"] for entry in (await api.get("/entries"))["entries"]]
        assert left == [entries[0]["sequence"], entries[2]["sequence"]]
        answer = await api.get("/dropped")
        assert answer["dropped"] == {"discarded": {"entries": 1, "bytes": entries[1]["size"]}}
        (line,) = answer["lines"]
        assert (line["reason"], line["first"], line["last"], line["firstKey"]) == ("discarded", sequence, sequence, "k")


WRONG_BODIES = [{}, {"all": False}, {"all": True, "sequences": [1]}, {"sequences": []}, {"sequences": ["1"]}]
WRONG_BODIES += [{"sequences": [True]}, {"sequences": [0]}, {"sequences": list(range(1, 1002))}, {"everything": True}]


@pytest.mark.parametrize("body", WRONG_BODIES, ids=lambda body: json.dumps(body)[:30])
async def test_unclear_changes_are_refused(world: OutboxWorld, api: Api, body: Any) -> None:
    async with world.route(OtherEnd(), NAME) as route:
        await fill(route, 1)
        status, answer = await api.ask(f"{PLACE}/drop", body)
        assert (status, answer["errorCode"]) == (400, "ERR_MALFORMED_REQUEST")
        assert route.state.entries == 1


QUERIES = ["limit=0", "limit=1001", "limit=x", "limit=-1", "after=-1", "after=99999999999999999999", "payload=maybe"]


@pytest.mark.parametrize("query", QUERIES)
async def test_wrong_parameters_are_told(world: OutboxWorld, api: Api, query: str) -> None:
    async with world.route(OtherEnd(), NAME):
        status, answer = await api.ask(f"{PLACE}/entries?{query}")
    name, _, value = query.partition("=")
    assert (status, answer["errorCode"]) == (400, "ERR_BAD_REQUEST")
    assert answer["message"].startswith(f"{name} {value!r}: expected ")


# --- a node without one -----------------------------------------------------------------------------------------------


async def test_a_node_without_an_outbox_makes_none(tmp_path: Path) -> None:
    async with open_databases() as databases, trio.open_nursery() as nursery:
        api = Api(NodeOutbox(databases, str(tmp_path), Metrics(), LocalCalls(), nursery).look)
        assert await api.get() == {"routes": []}
        assert not (tmp_path / "node.db").exists()
        database = await databases.get(str(tmp_path / "node.db"))
        await database.write(lambda connection: connection.execute("CREATE TABLE other (x)") and None)
        assert await api.get() == {"routes": []}
        assert [row[0] for row in database.read("SELECT name FROM sqlite_master")] == ["other"]
        nursery.cancel_scope.cancel()


async def test_an_outbox_on_disk_is_opened_to_look(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, world.route(OtherEnd(), NAME) as route:
        await fill(route, 2)
    async with open_databases() as databases, trio.open_nursery() as nursery:
        api = Api(NodeOutbox(databases, str(tmp_path), Metrics(), LocalCalls(), nursery).look)
        (shown,) = (await api.get())["routes"]
        assert (shown["link"], shown["entries"]) == ("closed", 2)
        nursery.cancel_scope.cancel()


async def test_an_unusable_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "node.db").write_bytes(b"no database" * 500)
    async with open_databases() as databases, trio.open_nursery() as nursery:
        api = Api(NodeOutbox(databases, str(tmp_path), Metrics(), LocalCalls(), nursery).look)
        status, answer = await api.ask("/edge/v1/outbox")
        assert (status, answer["errorCode"]) == (500, "ERR_EDGE_OUTBOX")
        assert answer["message"].startswith("failed reading the outbox: ")
        nursery.cancel_scope.cancel()
