"""Which claims of state routes are at work, and that each route runs once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import trio

from edge_runtime.model.hlc import parse
from edge_runtime.model.sync import Keys
from edge_runtime.observability.metrics import Metrics
from edge_runtime.sync.state_plan import StateRoute
from edge_runtime.sync.state_routes import Claim, StateRoutes, choose

FILE: Any = object()
OTHER_FILE: Any = object()


def link(name: str = "cloud") -> Any:
    return SimpleNamespace(link=SimpleNamespace(name=name))


def claim(app: str, keys: Keys, at: Any = FILE, remote: str = "orders/", by: Any = None, **more: Any) -> Claim:
    route = StateRoute(f"{app}/{keys.prefix}", keys, "statestore", remote, **more)
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
