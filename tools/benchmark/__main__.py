"""`tools/bench`: one row a measurement; CPU time per request is the figure to compare, since it repeats."""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from tools.benchmark import load, process
from tools.benchmark.grpc_rows import GROUPS as GRPC_GROUPS
from tools.benchmark.grpc_rows import GrpcBench, GrpcTarget
from tools.benchmark.link import link_rows
from tools.benchmark.outbox import outbox_rows

VALUE = json.dumps({"id": 1, "text": "x" * 70}).encode()
KEYS = 1_000


class Target(NamedTuple):
    """A sidecar under measurement."""

    address: tuple[str, int]
    pid: int
    app_id: str
    store: str
    pubsub: str
    token: str


class Row(NamedTuple):
    name: str
    value: float | None
    unit: str
    note: str = ""


class Measurement(NamedTuple):
    """Requests at a number of connections, with the median of the repeats."""

    cpu_us: float
    per_second: float
    statuses: Mapping[int, int]


def measure(target: Target, connections: int, requests: int, make: load.Make, repeats: int) -> Measurement:
    """CPU time of the serving process per request, from the repeat in the middle."""
    load.run(target.address, connections, max(connections, requests // 10), make)
    runs: list[Measurement] = []
    for _ in range(repeats):
        before = process.cpu_ns(target.pid)
        result = load.run(target.address, connections, requests, make)
        cpu_us = (process.cpu_ns(target.pid) - before) / 1000 / result.requests
        runs.append(Measurement(cpu_us, result.requests / result.wall_s, result.statuses))
    return sorted(runs)[len(runs) // 2]


class Report:
    """The rows, made one after another."""

    def __init__(self, only: Sequence[str]) -> None:
        self.only = only
        self.rows: list[Row] = []

    def wants(self, group: str) -> bool:
        return not self.only or group in self.only

    def add(self, name: str, value: float | None, unit: str, note: str = "") -> None:
        row = Row(name, value, unit, note)
        self.rows.append(row)
        print(f"  {name:<58} {'-' if value is None else f'{value:,.1f}':>12} {unit:<8} {note}", file=sys.stderr)

    def memory(self, pid: int, when: str) -> None:
        memory = process.memory(pid)
        self.add(f"RSS {when}", memory.rss_kb / 1000, "MB")
        self.add(f"private dirty {when}", memory.private_dirty_kb / 1000, "MB")
        self.add(f"PSS {when}", memory.pss_kb / 1000, "MB")


class Bench:
    """The rows of the HTTP API."""

    def __init__(self, report: Report, target: Target, requests: int, repeats: int) -> None:
        self.target = target
        self.requests = requests
        self.repeats = repeats
        self.wants = report.wants
        self.add = report.add

    def _measure(self, connections: int, make: load.Make, requests: int | None = None) -> Measurement:
        return measure(self.target, connections, requests or self.requests, make, self.repeats)

    def _row(self, name: str, result: Measurement, good: Sequence[int]) -> None:
        bad = {status: count for status, count in result.statuses.items() if status not in good}
        note = f"{result.per_second:,.0f}/s" + (f"; answers {bad}" if bad else "")
        self.add(name, result.cpu_us, "µs CPU", note)

    def health(self) -> None:
        make = lambda _: load.request("GET", "/v1.0/healthz/outbound", token=self.target.token)  # noqa: E731
        self._row("parse and answer only (healthz), 16 connections", self._measure(16, make), (204,))

    def reads(self) -> None:
        path = f"/v1.0/state/{self.target.store}"
        items = json.dumps([{"key": f"bench-{n}", "value": json.loads(VALUE)} for n in range(KEYS)]).encode()
        load.run(self.target.address, 1, 1, lambda _: load.request("POST", path, items, token=self.target.token))
        for connections in (1, 16, 64):
            make = lambda n: load.request("GET", f"{path}/bench-{n % KEYS}", token=self.target.token)  # noqa: E731
            self._row(f"state read, {connections} connections", self._measure(connections, make), (200,))

    def writes(self, directory: str) -> None:
        """Durable writes. Their rate is shown against one connection whose every write is flushed on its own."""
        path = f"/v1.0/state/{self.target.store}"
        alone = fsyncing_writes_per_second(directory)
        self.add("SQLite alone: no server, one flush a write", alone, "writes/s", "what the disk gives")
        single = 0.0
        for connections, share in ((1, 10), (16, 2), (64, 1)):
            make = lambda n: load.request(  # noqa: E731
                "POST", path, b'[{"key":"bench-%d","value":%s}]' % (n % KEYS, VALUE), token=self.target.token
            )
            requests = max(self.requests // share, 500)
            written = process.bytes_written(self.target.pid)
            result = self._measure(connections, make, requests)
            written = process.bytes_written(self.target.pid) - written
            total = requests * self.repeats + max(connections, requests // 10)
            single = single or result.per_second
            self._row(f"durable write, {connections} connections", result, (204,))
            self.add(f"  rate against one connection, {connections} connections", result.per_second / single, "×")
            self.add(f"  bytes written per write, {connections} connections", written / total, "bytes")

    def publish(self) -> None:
        path = f"/v1.0/publish/{self.target.pubsub}/bench-topic"
        for connections in (1, 16, 64):
            make = lambda _: load.request("POST", path, VALUE, token=self.target.token)  # noqa: E731
            requests = self.requests // (10 if connections == 1 else 2)
            self._row(f"durable publish, {connections} connections", self._measure(connections, make, requests), (204,))

    def invoke(self) -> None:
        path = f"/v1.0/invoke/{self.target.app_id}/method/echo"
        for connections in (1, 16, 64):
            make = lambda _: load.request("POST", path, VALUE, token=self.target.token)  # noqa: E731
            self._row(f"invocation, small body, {connections} connections", self._measure(connections, make), (200,))

    def large_bodies(self, size: int) -> None:
        """Memory while a large body goes through, both ways; the peak of many looks."""
        before = process.memory(self.target.pid).rss_kb
        up = self._peak_while(lambda: self._send_large(size))
        down = self._peak_while(lambda: self._receive_large(size))
        self.add(f"RSS over idle, invoking a {size / 1e9:g} GB request body", (up - before) / 1000, "MB")
        self.add(f"RSS over idle, invoking a {size / 1e9:g} GB response body", (down - before) / 1000, "MB")

    def _peak_while(self, work: Callable[[], Iterator[None]]) -> int:
        peak = 0
        for _ in work():
            peak = max(peak, process.memory(self.target.pid).rss_kb)
        return peak

    def _head(self, verb: str, path: str, length: int) -> bytes:
        token = f"dapr-api-token: {self.target.token}\r\n" if self.target.token else ""
        head = f"{verb} /v1.0/invoke/{self.target.app_id}/method/{path} HTTP/1.1\r\nhost: 127.0.0.1\r\n{token}"
        return (head + (f"content-length: {length}\r\n" if length else "") + "\r\n").encode()

    def _send_large(self, size: int) -> Iterator[None]:
        block = b"x" * 262_144
        with socket.create_connection(self.target.address, timeout=120) as connection:
            connection.sendall(self._head("POST", "swallow", size))
            left = size
            while left:
                left -= connection.send(block[: min(left, len(block))])
                if left // len(block) % 64 == 0:
                    yield
            answer = connection.recv(65_536)
            assert b" 200 " in answer.split(b"\r\n", 1)[0], answer[:200]

    def _receive_large(self, size: int) -> Iterator[None]:
        with socket.create_connection(self.target.address, timeout=120) as connection:
            connection.sendall(self._head("GET", f"bytes/{size}", 0))
            got = 0
            while got < size:
                data = connection.recv(1 << 20)
                assert data, f"the answer ended after {got} of {size} bytes"
                got += len(data)
                if got // (1 << 20) % 64 == 0:
                    yield


def fsyncing_writes_per_second(directory: str) -> float:
    """One connection that commits and flushes each write, in the same file system: what a naive server can do."""
    with tempfile.TemporaryDirectory(dir=directory) as folder:
        connection = sqlite3.connect(Path(folder) / "yardstick.db", isolation_level=None)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("CREATE TABLE state (key TEXT PRIMARY KEY, value BLOB)")
        started, count = time.perf_counter(), 0
        while time.perf_counter() - started < 2:
            connection.execute("INSERT OR REPLACE INTO state VALUES (?, ?)", (f"bench-{count % KEYS}", VALUE))
            count += 1
        rate = count / (time.perf_counter() - started)
        connection.close()
        return rate


# --- a node of our own ------------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def wait_for(port: int, path: str, pid: int, limit_s: float = 30) -> float:
    """Seconds until the path answers 2xx."""
    started = time.perf_counter()
    while time.perf_counter() - started < limit_s:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=1):
                return time.perf_counter() - started
        except OSError:
            os.kill(pid, 0)
            time.sleep(0.002)
    raise TimeoutError(f"port {port} was not healthy within {limit_s} s")


@contextmanager
def child(command: Sequence[str], environment: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as output:
        running = subprocess.Popen(command, env=dict(environment), stdout=output, stderr=output)
    try:
        yield running
    finally:
        running.send_signal(signal.SIGTERM)
        try:
            running.wait(15)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


def start_in(directory: str) -> Callable[[Sequence[str], str], Iterator[int]]:
    """Starts a process and yields its id; ends it when asked for more."""

    def start(command: Sequence[str], log: str) -> Iterator[int]:
        with child(command, os.environ, Path(directory, log)) as running:
            yield running.pid

    return start


def daprd_command(app_port: int, port: int, directory: str, app_id: str = "bench", grpc_port: int = 0) -> list[str]:
    grpc = str(grpc_port or free_port())
    return [
        *(sys.executable, "-m", "edge_runtime", "daprd", "--app-id", app_id, "--app-port", str(app_port)),
        *("--dapr-http-port", str(port), "--dapr-grpc-port", grpc, "--metrics-port", str(free_port())),
        *("--dapr-listen-addresses", "127.0.0.1", "--state-dir", directory),
        # Off for the 1 GB body: what is measured there is streaming, not the limit.
        *("--max-body-size", "0"),
    ]


def start_times(directory: str, app_port: int, repeats: int) -> list[float]:
    """Milliseconds from exec to 204 on healthz, one fresh process each."""
    times: list[float] = []
    for _ in range(repeats):
        port = free_port()
        with child(daprd_command(app_port, port, directory), os.environ, Path(directory, "start.log")) as node:
            times.append(wait_for(port, "/v1.0/healthz", node.pid) * 1000)
    return sorted(times)


def memory_per_app(directory: str, apps: int) -> float:
    """MB of RSS for each further app: a node with one app against a node with many."""
    sizes: list[int] = []
    for count in (1, 1 + apps):
        template = Path(directory, f"node-{count}.yaml")
        ports = [free_port() for _ in range(count)]
        listed = "".join(
            f"  - appID: app{n}\n    appDirPath: {directory}\n    daprHTTPPort: {port}\n"
            for n, port in enumerate(ports)
        )
        template.write_text(f"version: 1\napps:\n{listed}")
        command = [
            sys.executable,
            "-m",
            "edge_runtime",
            "run",
            "--no-attach",
            "--state-dir",
            directory,
            "-f",
            str(template),
        ]
        with child(command, os.environ, Path(directory, "node.log")) as node:
            for port in ports:
                wait_for(port, "/v1.0/healthz", node.pid)
            time.sleep(1)
            sizes.append(process.memory(node.pid).rss_kb)
    return (sizes[1] - sizes[0]) / apps / 1000


def run_all(bench: Bench, report: Report, directory: str) -> None:
    report.memory(bench.target.pid, "idle")
    if bench.wants("health"):
        bench.health()
    if bench.wants("read"):
        bench.reads()
    if bench.wants("write"):
        bench.writes(directory)
    if bench.wants("publish"):
        bench.publish()
    if bench.wants("invoke"):
        bench.invoke()
    report.memory(bench.target.pid, "after that load")


def pin_apart(node: int, app: int) -> None:
    """The node on one core; its app and the load on the other."""
    process.pin(node, 0)
    process.pin(app, 1)
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[-1]})


COMPONENTS = {"memstore": "state.in-memory", "statestore": "state.sqlite", "pubsub": "pubsub.sqlite"}


def grpc_rows(options: argparse.Namespace, report: Report, directory: str) -> None:
    """A node of its own, whose app speaks gRPC."""
    resources, state = folder(directory, "resources"), folder(directory, "grpc")
    for name, kind in COMPONENTS.items():
        file = f"metadata: [{{name: connectionString, value: {state}/{name}.db}}]" if kind.endswith("sqlite") else ""
        head = f"apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {{name: {name}}}\n"
        Path(resources, f"{name}.yaml").write_text(f"{head}spec:\n  type: {kind}\n  version: v1\n  {file}\n")
    app_port, port, grpc_port = free_port(), free_port(), free_port()
    app = [sys.executable, "-m", "tools.benchmark.grpc_app", str(app_port)]
    command = daprd_command(app_port, port, state, grpc_port=grpc_port)
    command += ["--app-protocol", "grpc", "--resources-path", resources]
    with child(app, os.environ, Path(directory, "grpc-app.log")) as other:
        with child(command, os.environ, Path(directory, "grpc-node.log")) as node:
            wait_for(port, "/v1.0/healthz", node.pid)
            time.sleep(1)
            pin_apart(node.pid, other.pid)
            if report.wants("grpc-idle"):
                report.memory(node.pid, "idle, the app speaks gRPC")
            target = GrpcTarget(("127.0.0.1", grpc_port), node.pid, "bench", ("memstore", "statestore"), "pubsub", "")
            run_grpc(GrpcBench(report, target, VALUE, options.requests, options.repeats), report, options)
            report.memory(node.pid, "after that gRPC load")


def run_grpc(grpc: GrpcBench, report: Report, options: argparse.Namespace) -> None:
    grpc.run()
    if report.wants("grpc-large"):
        grpc.large(options.large_bytes)


def grpc_idle(report: Report, directory: str) -> None:
    """What the first gRPC call adds to a node without an app."""
    port, grpc_port = free_port(), free_port()
    command = daprd_command(0, port, folder(directory, "grpc-idle"), grpc_port=grpc_port)
    with child(command, os.environ, Path(directory, "grpc-idle.log")) as node:
        wait_for(port, "/v1.0/healthz", node.pid)
        time.sleep(1)
        target = GrpcTarget(("127.0.0.1", grpc_port), node.pid, "bench", (), "", "")
        before_and_after_first_call(report, target)


def before_and_after_first_call(report: Report, target: GrpcTarget) -> None:
    report.memory(target.pid, "idle, no gRPC call yet")
    GrpcBench(report, target, VALUE, 1, 1).first_call()
    time.sleep(1)
    report.memory(target.pid, "idle, after the first gRPC call")


def folder(directory: str, name: str) -> str:
    path = Path(directory, name)
    path.mkdir()
    return str(path)


def run_own(options: argparse.Namespace) -> list[Row]:
    report = Report(options.only)
    with tempfile.TemporaryDirectory(prefix="edge-bench-", dir=options.directory) as directory:
        if report.wants("outbox"):
            outbox_rows(report.add, directory, options.backlog)
        if report.wants("link"):
            link_rows(report.add, folder(directory, "link"), options.backlog, options.requests, start_in(directory))
        if not options.only or set(options.only) - {"outbox", "link", *GRPC_GROUPS}:
            http_rows(options, report, directory)
        if report.wants("grpc-idle"):
            grpc_idle(report, directory)
        if any(report.wants(group) for group in GRPC_GROUPS):
            grpc_rows(options, report, directory)
    return report.rows


def http_rows(options: argparse.Namespace, report: Report, directory: str) -> None:
    app_port, port = free_port(), free_port()
    app = [sys.executable, "-m", "tools.benchmark.app", str(app_port)]
    with child(app, os.environ, Path(directory, "app.log")) as echo:
        with child(daprd_command(app_port, port, directory), os.environ, Path(directory, "node.log")) as node:
            wait_for(port, "/v1.0/healthz", node.pid)
            time.sleep(1)
            pin_apart(node.pid, echo.pid)
            target = Target(("127.0.0.1", port), node.pid, "bench", "statestore", "pubsub", "")
            bench = Bench(report, target, options.requests, options.repeats)
            run_all(bench, report, directory)
            if report.wants("large"):
                bench.large_bodies(options.large_bytes)
        if report.wants("start"):
            times = start_times(directory, app_port, 9)
            report.add("start to healthy, median of 9", times[4], "ms", f"{times[0]:.0f} to {times[-1]:.0f}")
        if report.wants("apps"):
            report.add("RSS per further app on the node", memory_per_app(directory, 10), "MB", "10 apps")


def run_other(options: argparse.Namespace) -> list[Row]:
    report = Report(options.only)
    if options.url is not None:
        url = urlsplit(options.url)
        address = (url.hostname or "127.0.0.1", url.port or 3500)
        target = Target(address, options.pid, options.app_id, options.store, options.pubsub, options.token)
        bench = Bench(report, target, options.requests, options.repeats)
        run_all(bench, report, options.directory)
        if "large" in options.only:
            bench.large_bodies(options.large_bytes)
    if options.grpc is not None:
        run_other_grpc(options, report)
    return report.rows


def run_other_grpc(options: argparse.Namespace, report: Report) -> None:
    host, _, port = options.grpc.rpartition(":")
    stores = (options.store,)
    target = GrpcTarget((host, int(port)), options.pid, options.app_id, stores, options.pubsub, options.token)
    if "grpc-idle" in options.only:
        before_and_after_first_call(report, target)
    grpc = GrpcBench(report, target, VALUE, options.requests, options.repeats)
    grpc.run()
    if "grpc-large" in options.only:
        grpc.large(options.large_bytes)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tools/bench", description=__doc__)
    parser.add_argument("--url", help="a sidecar that runs already, e.g. http://127.0.0.1:3500; needs --pid")
    parser.add_argument("--pid", type=int, help="the process whose CPU time and memory are read")
    parser.add_argument("--grpc", help="the same by its gRPC port, e.g. 127.0.0.1:50001; needs --pid")
    parser.add_argument(
        "--app-id",
        default="bench",
        help="its app: tools.benchmark.app for HTTP rows, tools.benchmark.grpc_app for gRPC",
    )
    parser.add_argument("--store", default="statestore")
    parser.add_argument("--pubsub", default="pubsub")
    parser.add_argument("--token", default=os.environ.get("DAPR_API_TOKEN", ""))
    parser.add_argument("--requests", type=int, default=20_000, help="per repeat (default 20,000)")
    parser.add_argument("--repeats", type=int, default=3, help="the middle one counts (default 3)")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        choices=(
            "health",
            "read",
            "write",
            "publish",
            "invoke",
            "large",
            "start",
            "apps",
            "outbox",
            "link",
            *GRPC_GROUPS,
        ),
        help="may be repeated; everything when left out",
    )
    parser.add_argument("--large-bytes", type=int, default=1_000_000_000)
    parser.add_argument("--backlog", type=int, default=1_000_000, help="entries that wait in the rows of the outbox")
    parser.add_argument("--directory", default=None, help="where the databases go; its disk is what is measured")
    parser.add_argument("--json", action="store_true", help="the rows on standard output as JSON")
    options = parser.parse_args(argv)
    if (options.url is None and options.grpc is None) != (options.pid is None):
        parser.error("--url or --grpc goes together with --pid")
    options.directory = options.directory or tempfile.gettempdir()
    return options


def table(rows: Sequence[Row]) -> str:
    lines = ["| measured | value | unit | note |", "|---|---|---|---|"]
    for row in rows:
        value = "-" if row.value is None else f"{row.value:,.1f}"
        lines.append(f"| {row.name.strip()} | {value} | {row.unit} | {row.note} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments(argv)
    rows = run_own(options) if options.pid is None else run_other(options)
    document: list[dict[str, Any]] = [row._asdict() for row in rows]
    print(json.dumps(document, indent=2) if options.json else table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
