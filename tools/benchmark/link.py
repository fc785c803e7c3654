"""A cloud link with a backlog, on real processes: publishes while it is away, start, drain, local calls meanwhile."""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import trio

from tools.benchmark import load, process

PAYLOAD = "x" * 100
KEYS = 64
TOPIC = "orders"
ROUTE = f"link/cloud/pubsub/{TOPIC}"
FILL_AT_ONCE = 500
SAMPLES = 2_000
PAUSE_S = 0.004
LIMIT = "1Ti"

Add = Callable[[str, float, str, str], None]
# Runs a command line while the block lasts, with its output in a file of that name: its process id.
Start = Callable[[Sequence[str], str], Iterator[int]]


class Ends(NamedTuple):
    """Where the two nodes listen."""

    directory: str
    cloud_directory: str
    edge_port: int
    edge_grpc: int
    cloud_port: int
    cloud_grpc: int


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def ends(directory: str, cloud_directory: str) -> Ends:
    found = Ends(directory, cloud_directory, *(free_port() for _ in range(4)))
    resources = Path(directory, "resources")
    resources.mkdir()
    routes = {"topicsUp": [{"pubsub": "pubsub", "topic": TOPIC, "limits": {"size": LIMIT}}]}
    spec = {"endpoint": {"http": f"http://127.0.0.1:{found.cloud_port}"}, "routes": routes, "probe": {"interval": "1s"}}
    link = {"apiVersion": "edge-runtime.io/v1alpha1", "kind": "CloudLink", "metadata": {"name": "cloud"}, "spec": spec}
    (resources / "link.yaml").write_text(json.dumps(link))
    return found


def edge_command(at: Ends) -> list[str]:
    return [
        *(sys.executable, "-m", "edge_runtime", "daprd", "--app-id", "edge", "--state-dir", f"{at.directory}/edge"),
        *("--dapr-http-port", str(at.edge_port), "--dapr-grpc-port", str(at.edge_grpc)),
        *("--resources-path", f"{at.directory}/resources", "--metrics-port", str(free_port())),
    ]


def cloud_command(at: Ends) -> list[str]:
    return [
        *(sys.executable, "-m", "edge_runtime", "daprd", "--app-id", "cloud", "--state-dir", at.cloud_directory),
        *("--dapr-http-port", str(at.cloud_port), "--dapr-grpc-port", str(at.cloud_grpc)),
        *("--metrics-port", str(free_port())),
    ]


@contextmanager
def node(start: Start, command: list[str], port: int, core: int) -> Iterator[tuple[int, float]]:
    """A node that is healthy: its process, and how many milliseconds that took."""
    began = time.perf_counter()
    running = start(command, f"node-{port}.log")
    pid = next(running)
    try:
        while not _healthy(port):
            time.sleep(0.002)
        milliseconds = (time.perf_counter() - began) * 1000
        process.pin(pid, core)
        yield pid, milliseconds
    finally:
        next(running, None)


def _healthy(port: int) -> bool:
    try:
        return 204 in load.run(("127.0.0.1", port), 1, 1, lambda _: load.request("GET", "/v1.0/healthz")).statuses
    except OSError:
        return False


# --- rows -------------------------------------------------------------------------------------------------------------


def link_rows(add: Add, directory: str, backlog: int, requests: int, start: Start) -> None:
    """Every row, through `add(name, value, unit, note)`."""
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[-1]})
    # The cloud has a disk of its own: it must not flush the one whose latency is measured.
    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
        rows_of(add, ends(directory, elsewhere), backlog, requests, start)


def rows_of(add: Add, at: Ends, backlog: int, requests: int, start: Start) -> None:
    with node(start, edge_command(at), at.edge_port, 0) as (pid, _):
        publishes(add, at, pid, requests)
        add_latencies(add, at, "link away")
        time.sleep(1)
        idle_kb = process.memory(pid).rss_kb
    already = fill(at, backlog)
    with node(start, edge_command(at), at.edge_port, 0) as (pid, milliseconds):
        add(f"start to healthy with {already:,} entries waiting", milliseconds, "ms", "")
        with node(start, cloud_command(at), at.cloud_port, 1):
            drain(add, at, pid, idle_kb)
        time.sleep(2)
        add_latencies(add, at, "nothing waits")


def publishes(add: Add, at: Ends, pid: int, requests: int) -> None:
    """The whole path of a publish to a linked topic while the link is away."""
    body = json.dumps(PAYLOAD).encode()
    for connections in (1, 16, 50):
        count = requests // 10 if connections == 1 else requests
        make = lambda n: load.request(  # noqa: E731
            "POST", f"/v1.0/publish/pubsub/{TOPIC}?metadata.partitionKey=key-{n % KEYS}", body
        )
        load.run(("127.0.0.1", at.edge_port), connections, connections * 4, make)
        cpu, written = process.cpu_ns(pid), process.bytes_written(pid)
        result = load.run(("127.0.0.1", at.edge_port), connections, count, make)
        cpu_us = (process.cpu_ns(pid) - cpu) / 1000 / count
        kb = (process.bytes_written(pid) - written) / 1000 / count
        name = f"publish, the link is away, {connections} connections"
        add(name, cpu_us, "µs CPU", f"{count / result.wall_s:,.0f}/s; {kb:.1f} kB written each; {result.statuses}")


def drain(add: Add, at: Ends, pid: int, idle_kb: int) -> None:
    """From the first entry on until the last, with local calls meanwhile for a while."""
    until(lambda: waiting(at) > 0)
    first, cpu, began, peak = waiting(at), process.cpu_ns(pid), time.perf_counter(), 0
    written = process.bytes_written(pid)
    local = threading.Thread(target=lambda: add_latencies(add, at, "draining"))
    local.start()
    while (left := waiting(at)) > 0:
        peak = max(peak, process.memory(pid).rss_kb)
        print(f"  {left:,} left", end="\r", file=sys.stderr)
        time.sleep(0.5)
    seconds = time.perf_counter() - began
    add("drain over a link", first / seconds, "per s", f"{first:,} entries in {seconds:.0f} s")
    kb = (process.bytes_written(pid) - written) / 1000 / first
    add("drain over a link, each", (process.cpu_ns(pid) - cpu) / 1000 / first, "µs CPU", f"{kb:.2f} kB written each")
    add("RSS over idle while draining, the most", (peak - idle_kb) / 1000, "MB", "")
    local.join()


def until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.05)


def waiting(at: Ends) -> int:
    """Entries of the route, as the node says."""
    with socket.create_connection(("127.0.0.1", at.edge_port), timeout=10) as connection:
        connection.sendall(
            load.request("GET", "/edge/v1/outbox").replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")
        )
        answer = b""
        while data := connection.recv(65536):
            answer += data
    routes = json.loads(answer.partition(b"\r\n\r\n")[2])["routes"]
    return sum(int(route["entries"]) for route in routes if route["route"] == ROUTE)


# --- local calls ------------------------------------------------------------------------------------------------------


def add_latencies(add: Add, at: Ends, when: str) -> None:
    body = json.dumps(PAYLOAD).encode()
    save = load.request("POST", "/v1.0/state/statestore", json.dumps([{"key": "k", "value": PAYLOAD}]).encode())
    calls = {
        "state read": load.request("GET", "/v1.0/state/statestore/k"),
        "publish": load.request("POST", "/v1.0/publish/pubsub/local", body),
    }
    latencies(at.edge_port, save, 10)
    for name, call in calls.items():
        times = latencies(at.edge_port, call, SAMPLES)
        middle, worst = times[len(times) // 2], times[len(times) * 99 // 100]
        add(f"local {name}, p99, {when}", worst * 1000, "ms", f"median {middle * 1000:.2f} ms")


def latencies(port: int, request: bytes, count: int) -> list[float]:
    """Seconds of each call, one after the other with a pause between them, sorted."""
    times: list[float] = []
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(count):
            time.sleep(PAUSE_S)
            began = time.perf_counter()
            connection.sendall(request)
            connection.recv(65536)
            times.append(time.perf_counter() - began)
    return sorted(times)


# --- a backlog --------------------------------------------------------------------------------------------------------


def fill(at: Ends, count: int) -> int:
    """Put entries into the file as the link's route would: a million publishes one by one need their time."""
    return trio.run(_fill, f"{at.directory}/edge", count)


async def _fill(state_dir: str, count: int) -> int:
    from edge_runtime.model.ports import Entry, RouteSettings
    from edge_runtime.observability.metrics import Metrics
    from edge_runtime.store.database import open_databases
    from edge_runtime.sync.forward import open_outbox

    async def send(entry: Entry) -> None:
        raise AssertionError("nothing is sent while it is filled")

    event = {"specversion": "1.0", "type": "com.dapr.event.sent", "source": "edge", "id": "", "data": PAYLOAD}
    numbers = iter(range(count))
    async with open_databases() as databases, open_outbox(databases, state_dir, Metrics()) as outbox:
        async with outbox.open_route(RouteSettings(ROUTE, bytes_max=2**40), send) as route:

            async def append() -> None:
                for number in numbers:
                    key = f"key-{number % KEYS}"
                    data = json.dumps({**event, "id": str(number)}).encode()
                    await route.append(key, {"data": data, "metadata": {"partitionKey": key}})

            async with trio.open_nursery() as nursery:
                for _ in range(FILL_AT_ONCE):
                    nursery.start_soon(append)
            return route.state.entries
