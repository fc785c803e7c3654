"""`edge/v1/conflicts` through the face, over a journal of two apps that share a file."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from edge_runtime.api.blocks import Blocks
from edge_runtime.api.conflicts import AppConflicts
from edge_runtime.api.http.conflicts import ROUTES
from edge_runtime.api.http.face import Face, FaceSettings
from edge_runtime.blocks.state import BoundStore, State
from edge_runtime.components.state.sqlite import SqliteState
from edge_runtime.model.hlc import Clock
from edge_runtime.model.http import Body, Request
from edge_runtime.model.ports import SetRequest
from edge_runtime.model.sync import Dispute, Keys, Settlement
from edge_runtime.observability.metrics import Metrics
from edge_runtime.observability.trace import Tracer
from edge_runtime.resiliency import Policies
from edge_runtime.store.connection import location
from edge_runtime.store.database import open_database
from edge_runtime.store.journal import Journal
from edge_runtime.store.state import StateTable
from edge_runtime.sync.state import Stamps

PLACE = "/edge/v1/conflicts"
NOW_S = 1_700_000_000.0


class _Blocks:
    """Stands for the app's blocks; these handlers call no other."""

    def __init__(self, conflicts: AppConflicts) -> None:
        self.conflicts = conflicts


class Api:
    """The API of the app `shop`, whose store's file has keys of the app `other` too."""

    def __init__(self, table: StateTable, names: list[str]) -> None:
        self.table = table
        self.driver = SqliteState(table, 1.0)
        metrics = Metrics()
        stores = {"s": BoundStore("s", self.driver), "plain": BoundStore("plain", self.driver)}
        state = State(stores, "shop", "", Policies([], metrics, "shop", "", []), metrics)
        blocks = cast(Blocks, _Blocks(AppConflicts(state, names)))
        self._face = Face(blocks, ROUTES, FaceSettings(), Tracer(None), None, None)

    async def open(self) -> Journal:
        journal = await self.driver.open_journal(Stamps(Clock("n"), lambda: int(NOW_S * 1000)), lambda: NOW_S)
        journal.add_route("r", Keys("shop||"))
        journal.add_route("o", Keys("other||"))
        return journal

    async def ask(self, path: str, body: Any = None) -> tuple[int, Any]:
        data = b"" if body is None else json.dumps(body).encode()
        request = Request("GET" if body is None else "POST", (PLACE + path).encode(), [], Body(data))
        response = await self._face.handle(request)
        return response.status, json.loads(await response.body.read())

    async def get(self, path: str = "") -> Any:
        status, answer = await self.ask(path)
        assert status == 200, answer
        return answer


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with open_database(location(":memory:")) as database:
        table = StateTable(database, now=lambda: NOW_S)
        await table.prepare(cleaned=False)
        yield Api(table, ["s"])


async def settle(api: Api, journal: Journal, key: str, **fields: Any) -> None:
    await api.table.set(SetRequest(key, b'{"now":1}'))
    (seen,) = await journal.look("r", [key])
    assert await journal.settle("r", [Settlement(seen, **fields)]) == [True]


def dispute(base: bytes | None = None, local: bytes | None = b'{"a": 1}') -> Dispute:
    return Dispute("merge", "merged", base, local, b"\xff", ("local",), ("/a",), None, None)


async def test_a_store_without_routes_has_none(api: Api) -> None:
    empty = {"store": "s", "conflicts": 0, "unresolved": 0, "bytes": 0, "dropped": 0, "refused": 0}
    assert await api.get() == {"stores": [empty]}
    assert await api.get("/s") == {"store": "s", "conflicts": [], "next": None}
    assert await api.get("/s/refused") == {"store": "s", "refused": [], "next": None}
    assert await api.ask("/s/resolve", {"all": True}) == (200, {"resolved": 0})
    assert await api.ask("/s/retry", {"all": True}) == (200, {"retried": 0})
    assert (await api.ask("/s/entries/1"))[0] == 404


async def test_each_app_sees_its_own(api: Api) -> None:
    journal = await api.open()
    await settle(api, journal, "shop||k", dispute=dispute())
    await settle(api, journal, "other||k", dispute=dispute())
    await settle(api, journal, "other||bad", refused="no")
    (summary,) = (await api.get())["stores"]
    assert (summary["conflicts"], summary["unresolved"], summary["refused"]) == (1, 1, 0)
    (row,) = (await api.get("/s"))["conflicts"]
    assert (row["key"], row["at"], row["paths"]) == ("k", "2023-11-14T22:13:20.000+00:00", ["/a"])
    assert "local" not in row
    (row,) = (await api.get("/s?versions=true"))["conflicts"]
    assert (row["base"], row["local"], row["remote"]) == (None, {"value": {"a": 1}}, {"base64": "/w=="})
    for answer in (await api.ask("/s/entries/2"), await api.ask("/s/resolve", {"ids": [1, 2]})):
        assert (answer[0], answer[1]["errorCode"]) == (404, "ERR_EDGE_CONFLICT_NOT_FOUND")
    assert (await api.get("/s/entries/1"))["resolved"] is False


async def test_a_version_is_written_back_as_a_change(api: Api) -> None:
    journal = await api.open()
    await settle(api, journal, "shop||k", dispute=dispute(), done=True)
    await settle(api, journal, "shop||gone", dispute=dispute(b"1", None), done=True)
    assert await journal.pending(Keys("shop||"), "", 10) == []
    status, answer = await api.ask("/s/resolve", {"ids": [1], "use": "base"})
    assert (status, "has no base version" in answer["message"]) == (400, True)
    assert await api.ask("/s/resolve", {"all": True, "use": "base"}) == (200, {"resolved": 1})
    assert await api.ask("/s/resolve", {"ids": [1], "use": "local"}) == (200, {"resolved": 1})
    assert await journal.pending(Keys("shop||"), "", 10) == ["shop||gone", "shop||k"]
    item = await api.table.get("shop||k")
    assert item is not None
    assert item.value == b'{"a": 1}'
    assert await api.get("/s?resolved=false") == {"store": "s", "conflicts": [], "next": None}
    assert len((await api.get("/s?resolved=true"))["conflicts"]) == 2


async def test_pages_follow_one_another(api: Api) -> None:
    journal = await api.open()
    for number in range(3):
        await settle(api, journal, f"shop||k{number}", dispute=dispute(), refused="no")
    page = await api.get("/s?limit=2")
    assert ([row["id"] for row in page["conflicts"]], page["next"]) == ([1, 2], 2)
    assert [row["id"] for row in (await api.get("/s?after=2"))["conflicts"]] == [3]
    refused = await api.get("/s/refused?limit=2")
    assert ([row["key"] for row in refused["refused"]], refused["next"]) == (["k0", "k1"], "k1")
    assert refused["refused"][0]["reason"] == "no"
    assert [row["key"] for row in (await api.get("/s/refused?after=k1"))["refused"]] == ["k2"]
    assert await api.ask("/s/retry", {"keys": ["k0", "elsewhere"]}) == (200, {"retried": 1})


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/s/resolve", {}),
        ("/s/resolve", {"all": False}),
        ("/s/resolve", {"all": True, "ids": [1]}),
        ("/s/resolve", {"ids": ["1"]}),
        ("/s/resolve", {"ids": []}),
        ("/s/resolve", {"ids": [1], "use": "mine"}),
        ("/s/retry", {"keys": [1]}),
        ("/s/retry", {"keys": ["a"], "what": 1}),
        ("/s/entries/x", None),
        ("/s?limit=0", None),
        ("/s?resolved=perhaps", None),
        ("/missing", None),
    ],
)
async def test_mistakes_change_nothing(api: Api, path: str, body: Any) -> None:
    journal = await api.open()
    await settle(api, journal, "shop||k", dispute=dispute())
    assert (await api.ask(path, body))[0] == 400
    assert (await api.get("/s"))["conflicts"][0]["resolved"] is False


async def test_other_stores_have_no_conflicts(api: Api) -> None:
    assert (await api.ask("/plain"))[0] == 404
