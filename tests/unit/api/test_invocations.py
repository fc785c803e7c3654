"""Queued calls as their callers see them, on a real outbox: every state, its place in the list, and who sees it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import trio

from edge_runtime.api.invocations import invocation, invocations_page, is_call_route
from edge_runtime.model.errors import DriverError, EdgeError, Kind
from edge_runtime.model.ports import Entry, FateLimits
from tests.brokers import until
from tests.outboxes import OtherEnd, OutboxWorld, open_world

BILLING, MAIL = "link/cloud/invoke/billing", "link/cloud/binding/mail"
FATES = FateLimits(2**20, 3600.0)


class App(OtherEnd):
    """Answers what is not refused."""

    async def __call__(self, entry: Entry) -> Mapping[str, Any]:  # type: ignore[override]
        assert isinstance(entry.payload, Mapping)
        self.tried.append(entry.payload)
        if "refused" in entry.payload:
            error = DriverError(entry.payload["refused"])
            error.permanent = True
            raise error
        if "fails" in entry.payload:
            raise DriverError("not now")
        if self.gate is not None:
            await self.gate.wait()
        answer = {"status": 201, "headers": [[b"a", b"1"]], "body": b"\xff"}
        return {"app": "billing", "caller": "me", "enqueued": entry.enqueued_at, "answer": answer}


def call(**more: Any) -> dict[str, Any]:
    return {"caller": "me", "app": "billing", "method": "PUT", "path": b"/x", "headers": [], "body": b"", **more}


def everything(route: str) -> bool:
    return True


async def states(world: OutboxWorld, *wanted: str) -> list[tuple[str, str]]:
    rows = (await invocations_page(world.outbox, everything, 0, 100, wanted))["invocations"]
    return [(row["key"], row["state"]) for row in rows]


def id_of(entry: Any) -> str:
    return f"{entry.node}-{entry.epoch}-{entry.sequence}"


def test_which_routes_have_calls() -> None:
    names = (BILLING, MAIL, "link/cloud/pubsub/orders", "link/cloud/invoke", "pubsub.mqtt3/a/invoke/b")
    assert [is_call_route(name) for name in names] == [True, True, False, False, False]


async def test_every_state_is_told(tmp_path: Path) -> None:
    app = App()
    async with open_world(tmp_path) as world:
        async with world.route(app, BILLING, fates=FATES) as route, world.route(app, MAIL, fates=FATES) as mail:
            done = await route.append("done", call())
            failed = await route.append("failed", call(refused="access denied"))
            late = await route.append("late", call(refused="its time to live, 5 s, passed before it could be sent"))
            failing = await route.append("failing", call(fails=1))
            route.up()
            await until(lambda: len(world.outbox.fates(BILLING)) == 1 and len(world.outbox.dead_letters(BILLING)) == 2)
            await until(lambda: world.outbox.troubles(BILLING))
            route.down("away")
            waiting = await route.append("waiting", call())
            expired = await route.append("expired", call(ttl=0.0001))
            dropped = await route.append("dropped", call())
            await world.outbox.drop(BILLING, [dropped.sequence])
            await mail.append("mail", {"operation": "create", "data": b"", "metadata": {}})
            await until(
                lambda: ("dropped", "dropped") in [(fate.key, fate.end) for fate in world.outbox.fates(BILLING)]
            )
            assert await states(world) == [
                ("done", "done"),
                ("failed", "failed"),
                ("late", "expired"),
                ("failing", "waiting"),
                ("waiting", "waiting"),
                ("expired", "expired"),
                ("dropped", "dropped"),
                ("mail", "waiting"),
            ]
            assert await states(world, "failed", "dropped") == [("failed", "failed"), ("dropped", "dropped")]

            def shown(entry: Any) -> dict[str, Any]:
                return invocation(world.outbox, everything, id_of(entry))

            assert shown(done) | {"enqueuedAt": 0, "endedAt": 0} == {
                "id": id_of(done), "sequence": done.sequence, "state": "done", "link": "cloud", "appID": "billing",
                "key": "done", "attempts": 0, "caller": "me", "target": "billing", "enqueuedAt": 0, "endedAt": 0,
                "status": 201,
                "answer": {"status": 201, "headers": [["a", "1"]], "body": {"base64": "/w=="}},
            }  # fmt: skip
            assert (shown(failed)["reason"], shown(failed)["method"]) == ("access denied", "PUT")
            assert (shown(failing)["attempts"], shown(failing)["lastError"]) == (1, "not now")
            assert (shown(waiting)["path"], "reason" in shown(waiting)) == ("/x", False)
            assert shown(expired)["reason"] == "its time to live, 0.0001 s, passed before it could be sent"
            assert shown(dropped)["reason"] == "discarded"
            assert shown(late)["endedAt"] <= time.time()
            (row,) = (await invocations_page(world.outbox, lambda route: route == MAIL, 0, 9))["invocations"]
            assert (row["binding"], row["operation"]) == ("mail", "create")


async def test_a_call_on_its_way_is_sending(tmp_path: Path) -> None:
    app = App()
    app.gate = trio.Event()
    async with open_world(tmp_path) as world, world.route(app, BILLING, fates=FATES) as route:
        entry = await route.append("k", call())
        route.up()
        await until(lambda: app.tried)
        assert await states(world) == [("k", "sending")]
        route._route._flushing = True  # the disk takes its time
        app.gate.set()
        await until(lambda: route._route.said(entry.sequence) is not None)
        assert await states(world) == [("k", "done")]
        assert world.outbox.fates(BILLING) == []
        route._route._flushing = False
        route._route.wake()
        await until(lambda: world.outbox.fates(BILLING))
        assert await states(world) == [("k", "done")]


async def test_pages_follow_one_another(tmp_path: Path) -> None:
    app = App()
    async with open_world(tmp_path) as world:
        async with world.route(app, BILLING, fates=FATES) as route, world.route(app, MAIL, fates=FATES) as mail:
            for number in range(5):
                await (route if number < 3 else mail).append(str(number), call())
            found: list[str] = []
            after: int | None = 0
            pages = 0
            while after is not None:
                page = await invocations_page(world.outbox, everything, after, 2)
                found += [row["key"] for row in page["invocations"]]
                after, pages = page["next"], pages + 1
            assert (found, pages) == (["0", "1", "2", "3", "4"], 3)


async def test_large_calls_are_read_a_few_at_a_time(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, world.route(App(), BILLING, fates=FATES) as route:
        for number in range(5):
            await route.append(str(number), call(body=b"x" * 700_000), size_bytes=700_000)
        assert [key for key, _ in await states(world)] == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize("call_id", ["", "x", "a-1-2", "a-1-99999999999999999999", "node-1-1099511627777"])
async def test_what_is_not_there_is_told(tmp_path: Path, call_id: str) -> None:
    async with open_world(tmp_path) as world, world.route(App(), BILLING, fates=FATES) as route:
        await route.append("k", call())
        with pytest.raises(EdgeError) as caught:
            invocation(world.outbox, everything, call_id)
        assert caught.value.kind is Kind.EDGE_INVOCATION_NOT_FOUND


async def test_calls_of_other_links_are_not_seen(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world, world.route(App(), BILLING, fates=FATES) as route:
        entry = await route.append("k", call())
        assert await invocations_page(world.outbox, lambda route: False, 0, 9) == {"invocations": [], "next": None}
        with pytest.raises(EdgeError):
            invocation(world.outbox, lambda route: False, id_of(entry))
    assert await invocations_page(None, everything, 0, 9) == {"invocations": [], "next": None}


async def test_a_long_search_lets_others_run(tmp_path: Path) -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with open_world(tmp_path) as world, world.route(App(), BILLING, fates=FATES) as route:
        async with trio.open_nursery() as nursery:
            for _ in range(200):
                nursery.start_soon(route.append, "k", call())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(others)
            assert await states(world, "done") == []
            nursery.cancel_scope.cancel()
    assert turns > 3
