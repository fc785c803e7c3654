"""The node's outbox: opened with the first route, one for all drivers."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from edge_runtime.model.errors import DriverError, StoreUnavailable
from edge_runtime.model.ports import Entry, LocalCalls, RouteSettings
from edge_runtime.observability.metrics import Metrics, render
from edge_runtime.runtime.outbox import NodeOutbox
from edge_runtime.store.database import open_databases
from edge_runtime.sync.forward import Outbox
from tests.brokers import until


async def test_the_first_route_opens_it(tmp_path: Path) -> None:
    sent: list[Entry] = []

    async def send(entry: Entry) -> None:
        sent.append(entry)

    metrics = Metrics()
    async with open_databases() as databases, trio.open_nursery() as nursery:
        outbox = NodeOutbox(databases, str(tmp_path), metrics, LocalCalls(), nursery)
        assert not (tmp_path / "node.db").exists()
        async with (
            outbox.open_route(RouteSettings("one"), send) as one,
            outbox.open_route(RouteSettings("two"), send) as two,
        ):
            await one.append("k", b"1")
            await two.append("k", b"2")
            assert one.backlog
            assert [state.name for state in (await outbox.get()).states()] == ["one", "two"]
            assert 'dapr_edge_outbox_entries{route="two"} 1' in render([metrics])
        nursery.cancel_scope.cancel()
    assert sent == []


async def test_what_waits_outlives_the_node(tmp_path: Path) -> None:
    sent: list[Entry] = []
    done = trio.Event()

    async def send(entry: Entry) -> None:
        sent.append(entry)
        done.set()

    for life in range(2):
        async with open_databases() as databases, trio.open_nursery() as nursery:
            outbox = NodeOutbox(databases, str(tmp_path), Metrics(), LocalCalls(), nursery)
            async with outbox.open_route(RouteSettings("cloud"), send) as route:
                if life == 0:
                    await route.append("k", b"1")
                else:
                    route.up()
                    await done.wait()
            nursery.cancel_scope.cancel()
    assert [entry.payload for entry in sent] == [b"1"]


async def test_an_outbox_that_cannot_be_opened_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a full disk; a directory in its place is as good."""
    (tmp_path / "node.db").mkdir()
    async with open_databases() as databases, trio.open_nursery() as nursery:
        outbox = NodeOutbox(databases, str(tmp_path), Metrics(), LocalCalls(), nursery)
        with pytest.raises(DriverError, match=r"node\.db"):
            await outbox.get()
        with pytest.raises(StoreUnavailable, match="this node does not know its own events"):
            outbox.node  # noqa: B018
        tries: list[float] = []
        get = outbox.get

        async def counted() -> Outbox:
            tries.append(trio.current_time())
            return await get()

        monkeypatch.setattr("edge_runtime.runtime.outbox._RETRY_S", 0.01)
        monkeypatch.setattr(outbox, "get", counted)
        async with trio.open_nursery() as trying:
            trying.start_soon(outbox.keep_trying)
            await until(lambda: len(tries) > 1)
            (tmp_path / "node.db").rmdir()
        assert outbox.node == (await get()).node
        nursery.cancel_scope.cancel()
