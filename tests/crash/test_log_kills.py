"""kill -9 amid publishing and delivering: what was answered is there, what was not acknowledged comes again."""

import random
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import PIPE

import pytest
import trio

from edge_runtime.model.ports import BulkEntry
from edge_runtime.store.database import open_databases
from edge_runtime.store.log import describe, peek
from edge_runtime.store.log_plan import decode_in_hand
from tests.brokers import Inbox, open_broker, until

ROOT = Path(__file__).parents[2]


@asynccontextmanager
async def open_child(work: str, state_dir: Path) -> AsyncIterator[trio.Process]:
    command = [sys.executable, "-m", "tests.crash.log_child", work, str(state_dir)]
    child = await trio.lowlevel.open_process(command, stdout=PIPE, cwd=ROOT)
    try:
        yield child
    finally:
        child.send_signal(signal.SIGKILL)
        await child.wait()
        if child.stdout is not None:
            await child.stdout.aclose()


async def read_until_killed(child: trio.Process, lines_most: int) -> list[str]:
    """Kill the child after about so many lines; every whole line that it printed."""
    assert child.stdout is not None
    text = b""
    killed = False
    async for piece in child.stdout:
        text += piece
        if not killed and text.count(b"\n") >= lines_most:
            killed = True
            child.kill()
    return text.decode().rpartition("\n")[0].splitlines()


async def written_done(state_dir: Path) -> set[int]:
    """The places that the group has done, as the file says."""
    async with open_databases() as databases:
        database = await databases.get(str(state_dir / "node.db"))
        next_place, in_hand = database.read("SELECT next, in_hand FROM log_group")[0]
    return set(range(1, next_place)) - {place for place, _ in decode_in_hand(in_hand, next_place)}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
async def test_answered_publishes_are_kept(tmp_path: Path, seed: int) -> None:
    async with open_child("publish", tmp_path) as child:
        answered = {int(line) for line in await read_until_killed(child, random.Random(seed).randrange(1, 400))}
    async with open_databases() as databases:
        database = await databases.get(str(tmp_path / "node.db"))
        kept = peek(database, "pubsub", "orders", limit=1_000_000)
        assert answered <= {int(record.data) for record in kept}
        assert [record.offset for record in kept] == list(range(1, len(kept) + 1))
        assert not any(record.damaged for record in kept)
        assert all(record.metadata == {"number": record.data.decode()} for record in kept)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
async def test_unacknowledged_come_again(tmp_path: Path, seed: int) -> None:
    total = 1000
    everything = {b"%d" % number for number in range(1, total + 1)}
    async with open_broker(tmp_path) as broker:
        await broker.bulk_publish("orders", [BulkEntry("", b"%d" % number) for number in range(1, total + 1)], {})
    acknowledged: set[bytes] = set()
    for turn in range(3):
        async with open_child("consume", tmp_path) as child:
            lines = await read_until_killed(child, random.Random(10 * seed + turn).randrange(1, 300))
        acknowledged |= {line.split()[1].encode() for line in lines if line.startswith("ACK")}
        assert {b"%d" % place for place in await written_done(tmp_path)} <= acknowledged
    done = {b"%d" % place for place in await written_done(tmp_path)}
    async with open_broker(tmp_path) as broker, trio.open_nursery() as nursery:
        inbox = Inbox()
        await nursery.start(broker.subscribe, "orders", "app", {}, inbox)
        await inbox.wait_for_all(everything - done)
        assert set(inbox.data) == everything - done
        nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_another_process_takes_over(tmp_path: Path, nursery: trio.Nursery) -> None:
    async with open_broker(tmp_path, redeliverInterval="5ms") as broker:
        inbox = Inbox()
        async with open_child("consume", tmp_path) as child:
            assert child.stdout is not None
            await broker.publish("orders", b"0", {})
            text = b""
            while b"ACK 0" not in text:
                text += await child.stdout.receive_some()
            await nursery.start(broker.subscribe, "orders", "app", {}, inbox)
            await broker.publish("orders", b"1", {})
            while b"ACK 1\n" not in text:
                text += await child.stdout.receive_some()
            assert inbox.data == [], "the child delivers for the group"
            child.kill()
            await child.wait()
        await broker.publish("orders", b"2", {})
        await inbox.wait_for_all([b"2"])
        assert set(inbox.data) <= {b"0", b"1", b"2"}
        nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_processes_hear_each_other(tmp_path: Path, nursery: trio.Nursery) -> None:
    async with open_databases() as databases, open_broker(tmp_path, databases=databases) as broker:
        inbox = Inbox()
        await nursery.start(broker.subscribe, "orders", "here", {}, inbox)
        async with open_child("publish", tmp_path) as child:
            await inbox.wait_for(50)
            lines = await read_until_killed(child, 0)
        await inbox.wait_for_all(line.encode() for line in lines)
        database = await databases.get(str(tmp_path / "node.db"))
        await until(lambda: not describe(database)[0].groups[0].lag)
        assert len(inbox.data) == len(set(inbox.data)) == describe(database)[0].last_offset
        nursery.cancel_scope.cancel()
