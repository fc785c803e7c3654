"""The gRPC rows of the benchmark. The load is 4 connections with 4 calls in flight on each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from edge_runtime.proto.dapr.proto.common.v1 import common_pb2
from edge_runtime.proto.dapr.proto.runtime.v1 import invoke_pb2, pubsub_pb2, state_pb2
from tools.benchmark import grpc_load, process

GROUPS = (
    "grpc-get", "grpc-save", "grpc-publish", "grpc-invoke", "grpc-stream", "grpc-proxy", "grpc-large", "grpc-idle",
)  # fmt: skip
CONNECTIONS = 4
STREAMS = 4
KEYS = 1_000
_SERVICE = "/dapr.proto.runtime.v1.Dapr/"
_TOPIC = "bench-topic-grpc"


class Rows(Protocol):
    """Where the rows go."""

    def wants(self, group: str) -> bool: ...
    def add(self, name: str, value: float | None, unit: str, note: str = "") -> None: ...


class GrpcTarget(NamedTuple):
    """The gRPC port of a sidecar under measurement. `stores` are measured one after the other."""

    address: tuple[str, int]
    pid: int
    app_id: str
    stores: Sequence[str]
    pubsub: str
    token: str

    @property
    def metadata(self) -> grpc_load.Metadata:
        return (("dapr-api-token", self.token),) if self.token else ()

    @property
    def proxied(self) -> grpc_load.Metadata:
        return (*self.metadata, ("dapr-app-id", self.app_id))

    def call(self, rpc: str, make: Callable[[int], Any]) -> grpc_load.Call:
        return grpc_load.Call(_SERVICE + rpc, lambda n: make(n).SerializeToString(), self.metadata)


class GrpcBench:
    """Measures one sidecar, group by group."""

    def __init__(self, rows: Rows, target: GrpcTarget, value: bytes, requests: int, repeats: int) -> None:
        self._rows = rows
        self._target = target
        self._value = value
        self._requests = requests
        self._repeats = repeats

    def run(self) -> None:
        """Every group that is wanted and needs no process of its own."""
        groups = {
            "grpc-get": self.get,
            "grpc-save": self.save,
            "grpc-publish": self.publish,
            "grpc-invoke": self.invoke,
            "grpc-stream": self.stream,
            "grpc-proxy": self.proxy,
        }
        for name, measure in groups.items():
            if self._rows.wants(name):
                measure()

    def first_call(self) -> None:
        """Whatever loads with the first call is loaded afterwards."""
        grpc_load.run(self._target.address, 1, 1, 1, self._target.call("GetState", self._get("no-such-store")))

    def _unary(self, name: str, call: grpc_load.Call, share: int = 1) -> None:
        requests = max(self._requests // share, 500)
        address, pid = self._target.address, self._target.pid
        grpc_load.run(address, CONNECTIONS, STREAMS, max(requests // 10, 64), call)
        runs: list[tuple[float, float, dict[int, int]]] = []
        for _ in range(self._repeats):
            before = process.cpu_ns(pid)
            result = grpc_load.run(address, CONNECTIONS, STREAMS, requests, call)
            cpu_us = (process.cpu_ns(pid) - before) / 1000 / result.requests
            runs.append((cpu_us, result.requests / result.wall_s, result.statuses))
        cpu_us, per_second, statuses = sorted(runs, key=lambda run: run[0])[len(runs) // 2]
        bad = {status: count for status, count in statuses.items() if status}
        self._rows.add(name, cpu_us, "µs CPU", f"{per_second:,.0f}/s" + (f"; status {bad}" if bad else ""))

    # --- unary ---

    def _get(self, store: str) -> Callable[[int], Any]:
        return lambda n: state_pb2.GetStateRequest(store_name=store, key=f"bench-{n % KEYS}")

    def _save(self, store: str) -> Callable[[int], Any]:
        return lambda n: state_pb2.SaveStateRequest(
            store_name=store, states=[common_pb2.StateItem(key=f"bench-{n % KEYS}", value=self._value)]
        )

    def get(self) -> None:
        for store in self._target.stores:
            grpc_load.run(self._target.address, 1, STREAMS, KEYS, self._target.call("SaveState", self._save(store)))
            self._unary(f"gRPC GetState, {store}", self._target.call("GetState", self._get(store)))

    def save(self) -> None:
        for store in self._target.stores:
            self._unary(f"gRPC SaveState, {store}", self._target.call("SaveState", self._save(store)), 2)

    def publish(self) -> None:
        self._unary("gRPC PublishEvent", self._publishing(self._value), 2)

    def _publishing(self, data: bytes) -> grpc_load.Call:
        event = pubsub_pb2.PublishEventRequest(
            pubsub_name=self._target.pubsub, topic=_TOPIC, data=data, data_content_type="application/octet-stream"
        )
        message = event.SerializeToString()
        return grpc_load.Call(_SERVICE + "PublishEvent", lambda _: message, self._target.metadata)

    def invoke(self) -> None:
        request = invoke_pb2.InvokeServiceRequest(id=self._target.app_id)
        request.message.method = "echo"
        request.message.data.value = self._value
        request.message.content_type = "application/json"
        request.message.http_extension.verb = common_pb2.HTTPExtension.POST
        self._unary("gRPC InvokeService, small body", self._target.call("InvokeService", lambda _: request))

    # --- streams ---

    def stream(self) -> None:
        """Events of one streaming subscription, each acknowledged; published beforehand, so only delivery counts."""
        for size, share in ((len(self._value), 4), (16_384, 16)):
            data = (self._value * (size // len(self._value) + 1))[:size]
            count = max(self._requests // share, 500)
            self._subscribed(0)  # from now on the topic keeps what comes for this group
            call = self._publishing(data)
            grpc_load.run(self._target.address, CONNECTIONS, STREAMS, count, call)
            before = process.cpu_ns(self._target.pid)
            started = time.perf_counter()
            self._subscribed(count)
            self._flowed(f"gRPC subscription stream, {size:,} B events", count, size, before, started)

    def _subscribed(self, count: int) -> None:
        """Take and acknowledge `count` events."""
        for _ in self._events(count):
            pass

    def _events(self, count: int) -> Iterator[int]:
        first = pubsub_pb2.SubscribeTopicEventsRequestAlpha1()
        first.initial_request.pubsub_name = self._target.pubsub
        first.initial_request.topic = _TOPIC
        path = _SERVICE + "SubscribeTopicEventsAlpha1"
        with grpc_load.Stream(self._target.address, path, self._target.metadata) as stream:
            stream.send(first.SerializeToString())
            stream.flush()
            begun, left = False, count
            while left > 0 or not begun:
                for message in stream.receive():
                    begun = True
                    response = pubsub_pb2.SubscribeTopicEventsResponseAlpha1.FromString(message)
                    if response.HasField("event_message"):
                        left -= 1
                        stream.send(_acknowledged(response.event_message.id))
                if stream.status is not None:
                    raise grpc_load.CallFailed(f"the subscription ended: {stream.status} {stream.message!r}")
                stream.flush()
                yield left
            stream.end()
            while stream.status is None:
                stream.receive()

    def proxy(self) -> None:
        echo = grpc_load.Call("/bench.Bench/Echo", lambda _: self._value, self._target.proxied)
        self._unary("gRPC proxy, unary", echo)
        for size, ahead, share in ((len(self._value), 64, 1), (65_536, 16, 8)):
            count = max(self._requests // share, 500)
            message = b"x" * size
            before = process.cpu_ns(self._target.pid)
            started = time.perf_counter()
            grpc_load.echo(self._target.address, "/bench.Bench/Echo", message, count, ahead, self._target.proxied)
            self._flowed(f"gRPC proxy, {size:,} B messages there and back", count, size, before, started)

    def _flowed(self, name: str, count: int, size: int, cpu_before: int, started: float) -> None:
        wall_s = time.perf_counter() - started
        cpu_us = (process.cpu_ns(self._target.pid) - cpu_before) / 1000 / count
        self._rows.add(
            name, cpu_us, "µs CPU", f"{count / wall_s:,.0f} messages/s, {count * size / wall_s / 1e6:,.1f} MB/s"
        )

    # --- memory ---

    def large(self, size: int) -> None:
        """Memory while a lot flows: up and down one proxied call, and through a subscription."""
        before = process.memory(self._target.pid).rss_kb
        address, metadata = self._target.address, self._target.proxied
        flows = {
            "up a proxied call": grpc_load.pour(address, "/bench.Bench/Swallow", size, metadata),
            "down a proxied call": grpc_load.drink(address, "/bench.Bench/Bytes", size, metadata),
            "through a subscription": self._published_and_taken(size),
        }
        for name, flow in flows.items():
            started = time.perf_counter()
            peak = self._peak(flow)
            rate = size / (time.perf_counter() - started) / 1e6
            self._rows.add(
                f"RSS over idle, {size / 1e9:g} GB {name}", (peak - before) / 1000, "MB", f"{rate:,.0f} MB/s"
            )

    def _published_and_taken(self, size: int) -> Iterator[None]:
        """In rounds, because a topic keeps only so much for who is slow."""
        data, each = b"x" * 65_536, 256
        call = self._publishing(data)
        for _ in self._events(0):
            yield
        while size > 0:
            grpc_load.run(self._target.address, CONNECTIONS, STREAMS, each, call)
            size -= each * len(data)
            for _ in self._events(each):
                yield

    def _peak(self, flow: Iterator[None]) -> int:
        peak = looked_at = 0.0
        for _ in flow:
            now = time.monotonic()
            if now - looked_at > 0.05:
                looked_at = now
                peak = max(peak, process.memory(self._target.pid).rss_kb)
        return int(peak)


def _acknowledged(event_id: str) -> bytes:
    answer = pubsub_pb2.SubscribeTopicEventsRequestAlpha1()
    answer.event_processed.id = event_id
    answer.event_processed.status.status = 0
    return answer.SerializeToString()
