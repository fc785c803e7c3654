"""Five gigabytes that really wait in the outbox: taken in to the limit, kept over a restart, sent, and given back."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edge_runtime.model.errors import Overloaded
from edge_runtime.model.ports import Entry
from edge_runtime.store.outbox_tables import ENTRY_OVERHEAD
from tests.brokers import until
from tests.outboxes import open_world

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(3600)]

LIMIT_BYTES = 5 * 2**30
ENTRY_BYTES = 2**20
ENTRIES = LIMIT_BYTES // ENTRY_BYTES
FREE_NEEDED_BYTES = 3 * LIMIT_BYTES
FILE_MOST_BYTES = LIMIT_BYTES + LIMIT_BYTES // 50
RESIDENT_MOST_KIB = 64 * 1024  # more than at the beginning


class Counting:
    """Takes entries and keeps none of them."""

    def __init__(self) -> None:
        self.entries = 0

    async def __call__(self, entry: Entry) -> None:
        assert isinstance(entry.payload, bytes)
        assert int(entry.payload[:8]) == self.entries
        self.entries += 1


def payload(number: int) -> bytes:
    return (b"%08d" % number) + bytes(ENTRY_BYTES - ENTRY_OVERHEAD - 1 - 8)


def size_bytes(path: Path) -> int:
    return path.stat().st_size


def clear(directory: Path) -> None:
    for path in directory.glob("node.db*"):
        if path.is_file():
            path.unlink()


def resident_kib() -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS:"))


async def test_five_gigabytes_wait(tmp_path: Path) -> None:
    if shutil.disk_usage(tmp_path).free < FREE_NEEDED_BYTES:
        pytest.skip(f"needs {FREE_NEEDED_BYTES >> 30} GiB of free disk")
    end, before_kib = Counting(), resident_kib()
    try:
        async with open_world(tmp_path) as world, world.route(end, bytes_max=LIMIT_BYTES) as route:
            for number in range(ENTRIES):
                await route.append("k", payload(number))
            assert (route.state.entries, route.state.bytes) == (ENTRIES, LIMIT_BYTES)
            with pytest.raises(Overloaded, match=f"{LIMIT_BYTES} bytes in {ENTRIES} entries wait"):
                await route.append("k", b"")
            assert resident_kib() - before_kib < RESIDENT_MOST_KIB
        file = tmp_path / "node.db"
        assert LIMIT_BYTES < size_bytes(file) < FILE_MOST_BYTES
        async with open_world(tmp_path) as world, world.route(end, bytes_max=LIMIT_BYTES) as route:
            assert (route.state.entries, route.state.bytes) == (ENTRIES, LIMIT_BYTES)
            route.up()
            await until(lambda: not route.backlog, 0.1)
            assert end.entries == ENTRIES
            assert resident_kib() - before_kib < RESIDENT_MOST_KIB
            await until(lambda: size_bytes(file) < LIMIT_BYTES // 50, 0.1)
    finally:
        clear(tmp_path)
