"""Runs in a child process with the faulty disk preloaded: an outbox on a disk whose n-th call fails, for every n.

After each fault: what was taken in is sent or still waits, what was refused is neither, and the process goes on by
itself; a restart shows the same.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
import tempfile
from typing import Any

import trio

from edge_runtime.model.errors import DriverError, StoreUnavailable
from edge_runtime.model.ports import Entry, RouteSettings
from edge_runtime.observability.metrics import Metrics
from edge_runtime.store.database import StoreLimits, open_databases
from edge_runtime.store.writer import Retry
from edge_runtime.sync.forward import OutboxLimits, open_outbox
from tests.crash.faulty_store import KINDS

STORE = StoreLimits(idle_s=0.0, retry=Retry(first_s=0.0, most_s=0.01))
LIMITS = OutboxLimits(flush_after_s=0.0, flush_max=4, rest_s=0.001, retry_s=0.001)
SETTINGS = RouteSettings("cloud")
disk = ctypes.CDLL(None)


class Model:
    """What was taken in, what was refused, and what came out."""

    def __init__(self) -> None:
        self.kept: set[bytes] = set()
        self.refused: set[bytes] = set()
        self.sent: list[bytes] = []
        self.ids: dict[bytes, Any] = {}

    async def send(self, entry: Entry) -> None:
        assert isinstance(entry.payload, bytes)
        assert self.ids.setdefault(entry.payload, entry.id) == entry.id
        await trio.lowlevel.checkpoint()
        self.sent.append(entry.payload)

    async def append(self, route: Any, key: str, payload: bytes) -> None:
        try:
            await route.append(key, payload)
        except StoreUnavailable as error:
            names_the_file(error)
            self.refused.add(payload)
        else:
            self.kept.add(payload)

    def check(self) -> None:
        assert self.kept <= set(self.sent), f"lost: {sorted(self.kept - set(self.sent))}"
        assert not self.refused & set(self.sent), "what was refused must not be sent"


def names_the_file(error: StoreUnavailable) -> None:
    assert "node.db" in str(error), error


async def use(route: Any, model: Model, life: int) -> None:
    for step in range(4):
        async with trio.open_nursery() as nursery:
            for writer in range(4):
                payload = b"%d-%d-%d-%s" % (life, step, writer, b"x" * (9000 if writer == 0 else 20))
                nursery.start_soon(model.append, route, f"k{writer}", payload)
        if step == 1:
            route.up()
        if step == 2:
            route.down("for now")


async def drained(route: Any) -> None:
    route.up()
    for _ in range(2000):
        if not route.backlog:
            return
        await trio.sleep(0.001)
    raise AssertionError(f"{route.state} is not sent")


async def one_life(folder: str, model: Model, life: int) -> int:
    hits = 1
    async with open_databases(STORE) as databases:
        try:
            async with open_outbox(databases, folder, Metrics(), LIMITS) as outbox:
                async with outbox.open_route(SETTINGS, model.send) as route:
                    await use(route, model, life)
                    hits = disk.fault_hits()
                    disk.fault_disarm()
                    await drained(route)
                    model.check()
        except* DriverError as group:  # the opening itself met the fault
            hits = disk.fault_hits()
            if not hits:
                raise group from None
    return hits


async def one_run(folder: str, kind: str, error: int, nth: int, times: int) -> int:
    model = Model()
    await one_life(folder, model, 0)
    disk.fault_arm(KINDS[kind], ctypes.c_long(nth), error, ctypes.c_long(times))
    hits = await one_life(folder, model, 1)
    disk.fault_disarm()
    await one_life(folder, model, 2)
    model.check()
    return hits


async def main(kind: str, error: int, times: int) -> None:
    nth, hits = 0, 1
    root = os.path.realpath(tempfile.gettempdir())  # noqa: ASYNC240
    while hits:
        nth += 1
        with tempfile.TemporaryDirectory(dir=root) as folder:
            disk.fault_watch(folder.encode())
            try:
                hits = await one_run(folder, kind, error, nth, times)
            finally:
                disk.fault_disarm()
    assert nth > 1, "no call was ever made to fail"
    print(f"{nth - 1} calls failed one after the other")


if __name__ == "__main__":
    trio.run(main, sys.argv[1], getattr(errno, sys.argv[2]), int(sys.argv[3]))
