from __future__ import annotations

import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from edge_runtime.model.errors import ConfigError, StoreUnavailable
from edge_runtime.runtime import service as services
from edge_runtime.runtime.service import Service, open_service
from edge_runtime.store.database import open_databases
from edge_runtime.sync.link_settings import LinkState
from edge_runtime.sync.shared import RouteState


class Told:
    """A manager that only remembers."""

    def __init__(self, watchdog_s: float | None = 60.0) -> None:
        self.watchdog_s = watchdog_s
        self.lines: list[str] = []

    def tell(self, *lines: str) -> None:
        self.lines += lines

    def fed(self) -> int:
        count = self.lines.count("WATCHDOG=1")
        self.lines.clear()
        return count


class FakeNode:
    def __init__(self, directory: Path, databases: Any) -> None:
        self.state_dir = str(directory)
        self.databases = databases
        self.apps: dict[str, Any] = {}
        self.links: Any = None
        self.routes: list[RouteState] = []
        self.outbox = SimpleNamespace(states=lambda: self.routes)
        self.stopping = False
        self.on_reload: Any = None
        self._changed = trio.Event()

    def note_change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def changed(self) -> None:
        await self._changed.wait()


class FakeDatabase:
    """A file whose writer answers as long as `answers` is set."""

    def __init__(self) -> None:
        self.path = "/data/state.db"
        self.reason = ""
        self.restart_may_mend = False
        self.answers = trio.Event()
        self.answers.set()

    async def answer(self) -> None:
        await self.answers.wait()


class FakeDatabases:
    def __init__(self, failure: Exception | None = None) -> None:
        self.database = FakeDatabase()
        self.opened = [self.database]
        self._failure = failure

    async def get(self, path: str) -> FakeDatabase:
        if self._failure is not None:
            raise self._failure
        return self.database

    @property
    def unhealthy(self) -> list[str]:
        return [self.database.reason] if self.database.reason else []


@asynccontextmanager
async def ready(node: FakeNode, manager: Told) -> AsyncIterator[Service]:
    async with open_service(node, manager) as service:  # type: ignore[arg-type]
        service.ready()
        await trio.testing.wait_all_tasks_blocked()
        yield service


@pytest.fixture
def manager() -> Told:
    return Told()


@pytest.fixture
def node(tmp_path: Path) -> FakeNode:
    return FakeNode(tmp_path, FakeDatabases())


async def test_ready_is_said_with_the_status(
    node: FakeNode, manager: Told, autojump_clock: trio.testing.MockClock
) -> None:
    async with ready(node, manager):
        assert manager.lines == ["READY=1", "STATUS=0 apps"]


async def test_long_start_asks_for_time(node: FakeNode, manager: Told, autojump_clock: trio.testing.MockClock) -> None:
    async with open_service(node, manager):  # type: ignore[arg-type]
        await trio.sleep(35)
        assert manager.lines.count("EXTEND_TIMEOUT_USEC=60000000") == 3
        await trio.sleep(2 * services.START_MAX_S)
        manager.lines.clear()
        await trio.sleep(100)
        assert manager.lines == []  # so long takes only a start that hangs


async def test_unusable_store_ends_the_start(tmp_path: Path, manager: Told) -> None:
    node = FakeNode(tmp_path, FakeDatabases(StoreUnavailable("store file x: it is damaged")))
    with pytest.RaisesGroup(pytest.RaisesExc(ConfigError, match="it is damaged")):
        async with open_service(node, manager):  # type: ignore[arg-type]
            raise AssertionError("not to be reached")


async def test_status_follows_apps_links_and_queues(
    node: FakeNode, manager: Told, autojump_clock: trio.testing.MockClock
) -> None:
    async with ready(node, manager):
        manager.lines.clear()
        node.apps["orders"] = object()
        node.links = SimpleNamespace(
            standings=lambda: [("hq", LinkState("up", "")), ("dc", LinkState("down", "no route"))]
        )
        node.note_change()
        await trio.testing.wait_all_tasks_blocked()
        assert manager.lines == ["STATUS=1 app; link hq up; link dc down (no route)"]
        manager.lines.clear()
        node.routes = [RouteState("r", True, "", 12, 3000, 0, 1.0, 0), RouteState("s", True, "", 0, 0, 0, 0.0, 0)]
        await trio.sleep(25)
        assert "STATUS=1 app; link hq up; link dc down (no route); 12 entries wait to be sent" in manager.lines


async def test_unchanged_status_is_not_repeated(
    node: FakeNode, manager: Told, autojump_clock: trio.testing.MockClock
) -> None:
    async with ready(node, manager):
        manager.lines.clear()
        node.note_change()
        await trio.sleep(1000)
        assert set(manager.lines) == {"WATCHDOG=1"}


async def test_watchdog_is_fed_three_times_as_often_as_asked(
    node: FakeNode, manager: Told, autojump_clock: trio.testing.MockClock
) -> None:
    async with ready(node, manager):
        await trio.sleep(601)
        assert manager.fed() == 30


async def test_nothing_is_fed_where_nobody_watches(node: FakeNode, autojump_clock: trio.testing.MockClock) -> None:
    manager = Told(None)
    async with ready(node, manager):
        await trio.sleep(601)
        assert manager.fed() == 0


async def test_stuck_writer_starves_the_watchdog(
    node: FakeNode, manager: Told, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with ready(node, manager):
        node.databases.database.answers = trio.Event()
        await trio.sleep(120)
        assert manager.fed() == 0
        assert "/data/state.db: its writer has not answered for 20 s" in caplog.text
        node.databases.database.answers.set()
        await trio.sleep(25)
        assert manager.fed() > 0


async def test_late_loop_starves_the_watchdog(
    node: FakeNode, manager: Told, mock_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with ready(node, manager):
        mock_clock.jump(50)  # as if something had kept the loop for itself
        await trio.testing.wait_all_tasks_blocked()
        assert manager.fed() == 0
        assert "the event loop came 30.0 s late" in caplog.text
        mock_clock.jump(2)
        await trio.testing.wait_all_tasks_blocked()
        assert manager.fed() == 1


async def test_full_disk_is_shown_and_feeds_on(
    node: FakeNode, manager: Told, autojump_clock: trio.testing.MockClock
) -> None:
    async with ready(node, manager):
        node.databases.database.reason = "store file x: the disk is full"
        await trio.sleep(2 * services.UNWELL_MAX_S)
        assert "STATUS=0 apps; store file x: the disk is full" in manager.lines
        assert manager.fed() >= 89


async def test_broken_disk_is_left_to_itself_for_a_while(
    node: FakeNode, manager: Told, autojump_clock: trio.testing.MockClock
) -> None:
    async with ready(node, manager):
        node.databases.database.reason = "the disk reported an error"
        node.databases.database.restart_may_mend = True
        await trio.sleep(services.UNWELL_MAX_S)
        assert manager.fed() > 40
        await trio.sleep(100)
        manager.fed()
        await trio.sleep(100)
        assert manager.fed() == 0
        node.databases.database.restart_may_mend = False
        await trio.sleep(100)
        assert manager.fed() > 0


async def test_reload_is_over_when_every_app_has_settled(
    node: FakeNode, manager: Told, autojump_clock: trio.testing.MockClock
) -> None:
    app = SimpleNamespace(settled=trio.Event())
    app.until_settled = app.settled.wait
    async with ready(node, manager):
        manager.lines.clear()
        node.apps["orders"] = app
        node.on_reload()
        node.on_reload()
        await trio.testing.wait_all_tasks_blocked()
        assert [line.partition("=")[0] for line in manager.lines] == ["RELOADING", "MONOTONIC_USEC"]
        app.settled.set()
        await trio.testing.wait_all_tasks_blocked()
        assert manager.lines[-1] == "READY=1"


@pytest.mark.parametrize(("graceful_s", "asked_s"), [(100.0, 130), (None, 3600), (5.0, 35)])
async def test_stop_says_how_long_it_may_take(
    node: FakeNode, manager: Told, autojump_clock: trio.testing.MockClock, graceful_s: float | None, asked_s: int
) -> None:
    flags = SimpleNamespace(graceful_shutdown_s=graceful_s, dapr_block_shutdown_duration=10.0)
    node.apps["orders"] = SimpleNamespace(settings=SimpleNamespace(flags=flags))
    async with ready(node, manager):
        node.stopping = True
        node.note_change()
        await trio.testing.wait_all_tasks_blocked()
        assert manager.lines[-3:] == ["STOPPING=1", f"EXTEND_TIMEOUT_USEC={asked_s * 1_000_000}", "STATUS=stopping"]


def written(directory: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_size, path.stat().st_mtime_ns) for path in directory.iterdir()}


@pytest.mark.slow
async def test_looks_write_nothing(tmp_path: Path, manager: Told) -> None:
    async with open_databases() as databases:
        node = FakeNode(tmp_path, databases)
        async with open_service(node, manager) as service:  # type: ignore[arg-type]
            before = written(tmp_path)
            for _ in range(100):
                assert await service.problem(trio.current_time()) == ""
            assert written(tmp_path) == before


@pytest.mark.slow
async def test_writer_that_hangs_in_a_commit_does_not_answer(tmp_path: Path, manager: Told) -> None:
    goes_on = threading.Event()

    def hang(_: sqlite3.Connection) -> None:
        goes_on.wait()

    async with open_databases() as databases:
        node = FakeNode(tmp_path, databases)
        manager.watchdog_s = 0.3
        async with open_service(node, manager) as service, trio.open_nursery() as nursery:  # type: ignore[arg-type]
            nursery.start_soon(databases.opened[0].write, hang)
            await trio.testing.wait_all_tasks_blocked()
            said = await service.problem(trio.current_time())
            goes_on.set()
            assert "node.db: its writer has not answered" in said
