"""The outbox by itself: what taking in, waiting and sending cost. Each row runs in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import trio

from tools.benchmark import process

PAYLOAD = b"x" * 100
KEYS = 64
FILL_AT_ONCE = 500


class World:
    """One outbox and its route."""

    def __init__(self, outbox: Any, route: Any, sent: list[int]) -> None:
        self.outbox = outbox
        self.route = route
        self.sent = sent

    async def append(self, count: int, at_once: int) -> None:
        numbers = iter(range(count))

        async def run() -> None:
            for number in numbers:
                await self.route.append(f"key-{number % KEYS}", PAYLOAD)

        async with trio.open_nursery() as nursery:
            for _ in range(at_once):
                nursery.start_soon(run)


async def open_world(stack: AsyncExitStack, directory: str) -> World:
    from edge_runtime.model.ports import Entry, RouteSettings
    from edge_runtime.observability.metrics import Metrics
    from edge_runtime.store.database import open_databases
    from edge_runtime.sync.forward import open_outbox

    sent = [0]

    async def send(entry: Entry) -> None:
        sent[0] += 1

    databases = await stack.enter_async_context(open_databases())
    outbox = await stack.enter_async_context(open_outbox(databases, directory, Metrics()))
    settings = RouteSettings("bench", bytes_max=2**40)
    route = await stack.enter_async_context(outbox.open_route(settings, send))
    return World(outbox, route, sent)


Rows = list[tuple[str, float, str, str]]


async def appending(directory: str, count: int) -> Rows:
    async with AsyncExitStack() as stack:
        world = await open_world(stack, directory)
        await world.append(500, 16)
        rows: Rows = []
        for at_once in (1, 16, 50):
            number = count // 10 if at_once == 1 else count
            before, written, started = (
                process.cpu_ns(os.getpid()),
                process.bytes_written(os.getpid()),
                time.perf_counter(),
            )
            await world.append(number, at_once)
            seconds = time.perf_counter() - started
            cpu_us = (process.cpu_ns(os.getpid()) - before) / 1000 / number
            kb = (process.bytes_written(os.getpid()) - written) / 1000 / number
            rows.append((f"outbox append, {at_once} at a time", cpu_us, "µs CPU", f"{number / seconds:,.0f}/s"))
            rows.append((f"outbox bytes written for an append, {at_once} to a commit", kb, "kB", "100 B payloads"))
        return rows


async def filling(directory: str, count: int) -> Rows:
    async with AsyncExitStack() as stack:
        world = await open_world(stack, directory)
        await world.append(count, FILL_AT_ONCE)
        return []


async def starting(directory: str, count: int) -> Rows:
    async with AsyncExitStack() as stack:
        import edge_runtime.sync.forward  # noqa: F401 - its loading is not what is measured

        started = time.perf_counter()
        world = await open_world(stack, directory)
        milliseconds = (time.perf_counter() - started) * 1000
        entries = world.route.state.entries
        await trio.sleep(0.5)
        rss = process.memory(os.getpid()).rss_kb / 1000
        return [
            (f"outbox opened with {entries:,} entries waiting", milliseconds, "ms", ""),
            (f"RSS with {entries:,} entries waiting", rss, "MB", ""),
        ]


async def draining(directory: str, count: int) -> Rows:
    async with AsyncExitStack() as stack:
        world = await open_world(stack, directory)
        peak, before, started = 0, process.cpu_ns(os.getpid()), time.perf_counter()
        written = process.bytes_written(os.getpid())
        world.route.up()
        while world.route.backlog:
            await trio.sleep(0.05)
            peak = max(peak, process.memory(os.getpid()).rss_kb)
        seconds = time.perf_counter() - started
        cpu_us = (process.cpu_ns(os.getpid()) - before) / 1000 / world.sent[0]
        kb = (process.bytes_written(os.getpid()) - written) / 1000 / world.sent[0]
        return [
            ("outbox drained", world.sent[0] / seconds, "per s", f"{world.sent[0]:,} entries"),
            ("outbox drain, each", cpu_us, "µs CPU", f"{kb:.2f} kB written each"),
            ("RSS while draining, the most", peak / 1000, "MB", ""),
        ]


async def resting(directory: str, count: int) -> Rows:
    """Nothing waits: what RSS is compared with, and the file after space was given back."""
    async with AsyncExitStack() as stack:
        await open_world(stack, directory)
        await trio.sleep(0.5)
        return [("RSS with nothing waiting", process.memory(os.getpid()).rss_kb / 1000, "MB", "")]


PARTS: dict[str, Callable[[str, int], Awaitable[Rows]]] = {
    "appending": appending,
    "filling": filling,
    "starting": starting,
    "draining": draining,
    "resting": resting,
}


def part(name: str, directory: str, count: int) -> Rows:
    command = [sys.executable, "-m", "tools.benchmark.outbox", name, directory, str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [(row[0], row[1], row[2], row[3]) for row in json.loads(done.stdout)]


def outbox_rows(add: Callable[[str, float, str, str], None], directory: str, backlog: int) -> None:
    """Every row, through `add(name, value, unit, note)`."""
    with tempfile.TemporaryDirectory(dir=directory) as empty, tempfile.TemporaryDirectory(dir=directory) as full:
        rows = part("appending", empty, 20_000)
        with tempfile.TemporaryDirectory(dir=directory) as idle:
            rows += part("resting", idle, 0)
        part("filling", full, backlog)
        for name in ("starting", "draining"):
            rows += part(name, full, backlog)
    for row in rows:
        add(*row)


async def main(name: str, directory: str, count: int) -> None:
    print(json.dumps(await PARTS[name](directory, count)))


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2], int(sys.argv[3]))
