"""Runs in a child process with the faulty disk preloaded: state on a disk whose n-th call fails, for every n.

After each fault: what was acknowledged is there, what was refused is not, nothing else is; the process goes on by
itself, and a copy of the files as they lay (a power cut) and a clean restart show the same.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence

import trio

from edge_runtime.components.registry import ComponentContext
from edge_runtime.components.state.sqlite import SqliteState, open_sqlite_state
from edge_runtime.model.errors import StoreUnavailable
from edge_runtime.model.ports import DeleteRequest, SetRequest
from edge_runtime.store.database import Databases, StoreLimits, open_databases
from edge_runtime.store.writer import Retry

KINDS = {"write": 1, "flush": 2, "open": 4, "truncate": 8}
LIMITS = StoreLimits(idle_s=0.0, retry=Retry(first_s=0.0, most_s=0.01))
disk = ctypes.CDLL(None)


class Model:
    """What each key may hold: one value, or several after a write of which the store said that it does not know."""

    def __init__(self) -> None:
        self.expected: dict[str, list[bytes | None]] = {}

    async def write(self, store: SqliteState, operations: Sequence[SetRequest | DeleteRequest]) -> None:
        try:
            await store.transact(operations)
        except StoreUnavailable as error:
            names_the_file(error)
            for operation in operations:
                before = self.expected.setdefault(operation.key, [None])
                if "not known" in str(error):
                    self.expected[operation.key] = [*before, value_of(operation)]
        else:
            for operation in operations:
                self.expected[operation.key] = [value_of(operation)]

    async def check(self, store: SqliteState, when: str) -> None:
        there = []
        for key, values in self.expected.items():
            item = await store.get(key)
            found = None if item is None else item.value
            assert found in values, f"{when}: {key} is {found!r}, expected one of {values!r}"
            self.expected[key] = [found]
            there += [] if item is None else [key]
        assert await store.keys("", "", 1000) == sorted(there), when


def value_of(operation: SetRequest | DeleteRequest) -> bytes | None:
    return operation.value if isinstance(operation, SetRequest) else None


def names_the_file(error: StoreUnavailable) -> None:
    assert "state.db" in str(error), error


def context(databases: Databases, path: str, wal: bool) -> ComponentContext:
    metadata = {"connectionString": path, "disableWAL": "false" if wal else "true"}
    return ComponentContext("faulty", "state.sqlite", "v1", metadata, "app", "", databases, os.path.dirname(path))


async def use(store: SqliteState, model: Model) -> None:
    """Neighbours in a batch, values over several pages, updates, removals."""
    for step in range(4):
        async with trio.open_nursery() as nursery:
            for writer in range(4):
                value = b'"%d-%d-%s"' % (step, writer, b"x" * (20 if writer else 9000))
                nursery.start_soon(model.write, store, [SetRequest(f"k{writer}", value)])
            pair = [SetRequest("both1", b"%d" % step), SetRequest("both2", b"%d" % step), DeleteRequest(f"k{step}x")]
            nursery.start_soon(model.write, store, pair)
        await model.write(store, [DeleteRequest(f"k{step}")])
        try:
            await model.check(store, f"while the disk fails, step {step}")
        except StoreUnavailable as error:  # a connection that had to be opened just then
            names_the_file(error)


async def goes_on(store: SqliteState) -> None:
    """Taken again by itself once the disk is well, within a few tries."""
    for _ in range(200):
        try:
            await store.set(SetRequest("after", b'"well"'))
        except StoreUnavailable:
            await trio.sleep(0.001)
        else:
            return
    raise AssertionError("writes are still refused")


async def one_run(folder: str, wal: bool, kind: str, error: int, nth: int, times: int) -> int:
    path = os.path.join(folder, "state.db")
    model = Model()
    async with open_databases(LIMITS) as databases:  # a first life, so that there is something to lose
        async with open_sqlite_state(context(databases, path, wal)) as store:
            await model.write(store, [SetRequest("old", b'"kept"')])
    disk.fault_arm(KINDS[kind], ctypes.c_long(nth), error, ctypes.c_long(times))
    async with open_databases(LIMITS) as databases:
        try:
            async with open_sqlite_state(context(databases, path, wal)) as store:
                await use(store, model)
                hits = disk.fault_hits()
                disk.fault_disarm()
                await model.check(store, "after the fault")
                await goes_on(store)
                model.expected["after"] = [b'"well"']
                await model.check(store, "after recovery")
                await check_copy(folder, wal, model)
                disk.fault_arm(KINDS[kind], ctypes.c_long(1 + nth % 3), error, ctypes.c_long(1))  # while closing
        except StoreUnavailable as failure:
            names_the_file(failure)
            hits = disk.fault_hits()
    disk.fault_disarm()
    await check_reopened(path, wal, model, "after a restart")
    return hits


async def check_reopened(path: str, wal: bool, model: Model, when: str) -> None:
    async with open_databases(LIMITS) as databases, open_sqlite_state(context(databases, path, wal)) as store:
        await model.check(store, when)


async def check_copy(folder: str, wal: bool, model: Model) -> None:
    with tempfile.TemporaryDirectory() as copy:
        for name in os.listdir(folder):
            if not name.endswith("-shm"):
                shutil.copy(os.path.join(folder, name), copy)
        await check_reopened(os.path.join(copy, "state.db"), wal, model, "after a power cut")


async def main(journal: str, kind: str, error: int, times: int) -> None:
    nth = 0
    hits = 1
    root = os.path.realpath(tempfile.gettempdir())  # noqa: ASYNC240
    while hits:
        nth += 1
        with tempfile.TemporaryDirectory(dir=root) as folder:
            disk.fault_watch(folder.encode())
            try:
                hits = await one_run(folder, journal == "wal", kind, error, nth, times)
            finally:
                disk.fault_disarm()
    assert nth > 1, "no call was ever made to fail"
    print(f"{nth - 1} calls failed one after the other")


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2], getattr(errno, sys.argv[3]), int(sys.argv[4]))
