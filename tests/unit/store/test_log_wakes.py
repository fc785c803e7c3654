import os
import socket
from pathlib import Path

import pytest
import trio

from edge_runtime.store.log_wakes import Bells, GroupLock


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "node.db")


async def test_a_bell_wakes_another_process(path: str) -> None:
    ear, ringer = Bells(path), Bells(path)
    ringer.ring()
    ear.hang()
    ear.hang()
    ringer.ring()
    ringer.ring()
    await ear.hear()
    assert ringer.rung == 2
    with trio.move_on_after(0) as nothing_more:
        await ear.hear()
    assert nothing_more.cancelled_caught
    ear.close()
    ear.close()
    ringer.close()


async def test_nobody_rings_himself(path: str) -> None:
    bells = Bells(path)
    bells.hang()
    bells.ring()
    assert bells.rung == 0
    bells.close()
    assert os.listdir(f"{path}-log/bells") == []


async def test_bells_of_the_dead_are_removed(path: str) -> None:
    bells = Bells(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as dead:
        dead.bind(f"{path}-log/bells/1-1.sock")
    bells.ring()
    assert os.listdir(f"{path}-log/bells") == []
    bells.close()


async def test_containers_share_no_bell(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getpid", lambda: 1)
    monkeypatch.setattr("edge_runtime.store.log_wakes._numbers", iter((1, 1)))
    ear, ringer = Bells(path), Bells(path)
    ear.hang()
    ringer.hang()
    ringer.ring()
    with trio.fail_after(5):
        await ear.hear()
    ear.close()
    ringer.close()


async def test_a_full_bell_holds_nobody_up(path: str) -> None:
    ear, ringer = Bells(path), Bells(path)
    ear.hang()
    for _ in range(5000):
        ringer.ring()
    assert 0 < ringer.rung < 5000
    await ear.hear()
    ear.close()
    ringer.close()


async def test_a_quiet_folder_is_listed_once(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    lists = []
    monkeypatch.setattr("time.monotonic", lambda: now)
    bells = Bells(path)
    real_listdir = os.listdir
    monkeypatch.setattr("os.listdir", lambda folder: lists.append(folder) or real_listdir(folder))
    bells.ring()
    now += 0.05
    bells.ring()
    assert len(lists) == 2, "the folder may have changed within the same tick"
    now += 0.1
    bells.ring()
    bells.ring()
    assert len(lists) == 3
    other = Bells(path)
    other.hang()
    bells.ring()
    assert bells.rung == 1
    other.close()
    bells.close()


async def test_deep_folders_are_no_problem(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    ear, ringer = Bells(str(deep / "node.db")), Bells(str(deep / "node.db"))
    ear.hang()
    ringer.ring()
    await ear.hear()
    ear.close()
    ringer.close()


def test_one_at_a_time_has_the_lock(path: str) -> None:
    bells = Bells(path)
    first = GroupLock(bells.folder, "pubsub", "orders", "app")
    second = GroupLock(bells.folder, "pubsub", "orders", "app")
    other = GroupLock(bells.folder, "pubsub", "orders", "another")
    assert first.try_acquire()
    assert not second.try_acquire()
    assert other.try_acquire()
    first.close()
    first.close()
    assert second.try_acquire()
    second.close()
    other.close()
    bells.close()
