"""Which claims of state routes are at work, and that each route runs once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio

from edge_runtime.components.state.sqlite import SqliteState
from edge_runtime.model.hlc import parse
from edge_runtime.model.ports import SetRequest
from edge_runtime.model.sync import Keys
from edge_runtime.observability.metrics import Metrics, render
from edge_runtime.store.connection import location
from edge_runtime.store.database import open_database
from edge_runtime.store.state import StateTable
from edge_runtime.sync.link_settings import Clocks
from edge_runtime.sync.links import SharedLink
from edge_runtime.sync.state_plan import StateRoute
from edge_runtime.sync.state_routes import Claim, StateRoutes, choose
from tests.unit.sync.test_topics import idle_link

FILE: Any = object()
OTHER_FILE: Any = object()


def link(name: str = "cloud") -> Any:
    return SimpleNamespace(link=SimpleNamespace(name=name))


def claim(app: str, keys: Keys, at: Any = FILE, remote: str = "orders/", by: Any = None, **more: Any) -> Claim:
    route = StateRoute(f"cloud/s/{keys.prefix}", keys, "statestore", remote, **more)
    return Claim(app, f"app {app}: {keys.prefix}", by or link(), at, route)


def test_apps_with_own_keys_have_own_routes() -> None:
    claims = [claim("a", Keys("a||orders/")), claim("b", Keys("b||orders/"), remote="b/")]
    assert choose(claims).chosen == claims
    assert not claims[0].shares_remote_keys(claims[1])


def test_same_keys_of_a_link_are_one_route() -> None:
    first, second = claim("a", Keys("orders/")), claim("b", Keys("orders/"), conflict="merge")
    assert choose([first, second]) == ([second], [])
    assert choose([second]).chosen == [second]


def test_overlapping_keys_leave_the_later_out() -> None:
    first, second = claim("a", Keys("orders/")), claim("b", Keys("orders/1", exact=True))
    elsewhere = claim("b", Keys("orders/1", exact=True), OTHER_FILE, by=link("other"))
    assert choose([first, second, elsewhere]) == ([first, elsewhere], [(second, first)])


def test_another_link_to_the_same_keys_is_left_out() -> None:
    first, second = claim("a", Keys("orders/")), claim("b", Keys("orders/"), by=link("other"))
    assert choose([first, second]).left_out == [(second, first)]


def test_keys_that_meet_at_the_remote_are_known() -> None:
    first = claim("a", Keys("a||orders/"))
    assert first.shares_remote_keys(claim("b", Keys("b||orders/")))
    assert first.shares_remote_keys(claim("b", Keys("b||x", exact=True), remote="orders/1"))
    assert not first.shares_remote_keys(claim("b", Keys("b||orders/"), by=link("other")))


class StampedStore:
    """A file whose latest stamp is of a year that never was."""

    async def open_journal(self, stamp: Any, now: Any) -> Any:
        return self

    async def latest_stamp(self) -> str:
        return "01e00000000000000n"


async def test_stamps_leave_a_year_that_never_was() -> None:
    right = False
    store: Any = StampedStore()
    now_s = 1_790_000_000.0
    async with trio.open_nursery() as nursery:
        routes = StateRoutes("n", Metrics(), nursery, lambda: now_s, lambda: right)
        await routes.open_journal(store)
        ahead = parse(routes.stamps())
        assert ahead > parse(await store.latest_stamp())
        right = True
        assert parse(routes.stamps()).ms == now_s * 1000


# --- their life -------------------------------------------------------------------------------------------------------


class Node:
    """A node with a table, a link that is down, and the state routes that apps claim."""

    def __init__(self, table: StateTable, nursery: trio.Nursery) -> None:
        self.table = table
        self.metrics = Metrics()
        self.routes = StateRoutes("n", self.metrics, nursery, lambda: 1_700_000_000.0)
        self.link: Any = SharedLink(idle_link(), cast(Any, None), lambda: "n", Clocks())

    async def claims(self, app: str, *keys: Keys, **more: Any) -> list[Claim]:
        store = SqliteState(self.table, 1.0)
        journal = await self.routes.open_journal(store)
        return [claim(app, one, journal, "r/", self.link, **more) for one in keys]

    @property
    def running(self) -> list[str]:
        return sorted(route.claim.route.conflict + " " + route.claim.route.keys.prefix for route in self.link.routes)


@pytest.fixture
async def node(nursery: trio.Nursery) -> AsyncIterator[Node]:
    async with open_database(location(":memory:")) as database:
        table = StateTable(database)
        await table.prepare(cleaned=False)
        yield Node(table, nursery)
        nursery.cancel_scope.cancel()


async def test_a_shared_route_lasts_as_long_as_an_app_wants_it(node: Node) -> None:
    keys = Keys("s||orders/")
    async with node.routes.claim("a", await node.claims("a", keys)):
        (first,) = node.link.routes
        async with node.routes.claim("b", await node.claims("b", keys)):
            assert node.link.routes == [first]
        assert node.link.routes == [first]
        await node.table.set(SetRequest("s||orders/1", b"1"))
        assert (await first.status())["pending"] == 1
        assert 'edge_state_route_pending_keys{route="cloud/s/s||orders/"} 1' in render((node.metrics,))
    assert node.link.routes == []
    assert node.link.link.listeners == []
    assert "pending_keys{" not in render((node.metrics,))


async def test_an_apps_new_files_take_the_place_of_its_old_ones(node: Node) -> None:
    """The generation that goes may linger with its requests, and leave after the one that comes."""
    keys = Keys("a||orders/")
    old = node.routes.claim("a", await node.claims("a", keys))
    new = node.routes.claim("a", await node.claims("a", keys, conflict="merge"))
    await old.__aenter__()
    assert node.running == ["remote-wins a||orders/"]
    await new.__aenter__()
    assert node.running == ["merge a||orders/"]
    await old.__aexit__(None, None, None)
    assert node.running == ["merge a||orders/"]
    await new.__aexit__(None, None, None)
    assert node.running == []


async def test_who_was_left_out_follows_when_there_is_room(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    wide, narrow = Keys("orders/"), Keys("orders/1", exact=True)
    async with node.routes.claim("b", []):
        first = node.routes.claim("a", await node.claims("a", wide))
        await first.__aenter__()
        async with node.routes.claim("b", await node.claims("b", narrow)):
            assert node.running == ["remote-wins orders/"]
            assert "app b: orders/1: left out, as its keys overlap with those of app a: orders/" in caplog.text
            await first.__aexit__(None, None, None)
            assert node.running == ["remote-wins orders/1"]


async def test_stamps_go_on_from_what_the_file_has(node: Node, nursery: trio.Nursery) -> None:
    journal = await node.routes.open_journal(SqliteState(node.table, 1.0))
    journal.add_route("r", Keys("k"))
    await node.table.set(SetRequest("k", b"1"))
    before = await journal.latest_stamp()
    node.table.tap.journal = None
    later = StateRoutes("m", Metrics(), nursery, lambda: 0.0)
    await later.open_journal(SqliteState(node.table, 1.0))
    assert later.stamps() > before
