"""The gRPC port of the real process: very many streams, and clients that do not behave; nothing stays behind."""

from __future__ import annotations

import os
import select
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from edge_runtime.proto.dapr.proto.common.v1 import common_pb2
from edge_runtime.proto.dapr.proto.runtime.v1 import pubsub_pb2, state_pb2
from tests.support.sidecar import WAIT_S, Program, Sidecar, free_port
from tools.benchmark import grpc_load, process
from tools.benchmark.http2 import Event, Peer

pytestmark = pytest.mark.slow

SERVICE = "/dapr.proto.runtime.v1.Dapr/"
ECHO = "/bench.Bench/Echo"
TO_APP = (("dapr-app-id", "app"),)
GET = state_pb2.GetStateRequest(store_name="statestore", key="key").SerializeToString()
GET_CALL = grpc_load.Call(SERVICE + "GetState", lambda _: GET)
# What the process may keep of a load: the allocator gives little back, but what leaks grows with every round.
GROWTH_KB_MAX = 16_384


class Left(NamedTuple):
    """What a process holds."""

    descriptors: int
    rss_kb: int


class Loaded:
    """A sidecar, with the address of its gRPC port."""

    def __init__(self, sidecar: Sidecar) -> None:
        self.sidecar = sidecar
        self.pid = sidecar.pid
        self.address = ("127.0.0.1", sidecar.grpc_port)

    def get(self, count: int = 50) -> None:
        """Another client has its answers."""
        assert grpc_load.run(self.address, 1, 4, count, GET_CALL).statuses == {0: count}

    @property
    def left(self) -> Left:
        return Left(len(os.listdir(f"/proc/{self.pid}/fd")), process.memory(self.pid).rss_kb)

    def save(self, key: str, value: bytes) -> None:
        item = common_pb2.StateItem(key=key, value=value)
        request = state_pb2.SaveStateRequest(store_name="statestore", states=[item]).SerializeToString()
        call = grpc_load.Call(SERVICE + "SaveState", lambda _: request)
        assert grpc_load.run(self.address, 1, 1, 1, call).statuses == {0: 1}

    def connect(self) -> Peer:
        return Peer(socket.create_connection(self.address, timeout=10), client=True)


@contextmanager
def loaded(tmp_path: Path) -> Iterator[Loaded]:
    """A sidecar whose app echoes, with everything loaded that a call needs."""
    port = free_port()
    with Program([sys.executable, "-m", "tools.benchmark.grpc_app", str(port)]):
        with Sidecar(tmp_path, "--app-protocol", "grpc", app_port=port) as sidecar:
            node = Loaded(sidecar)
            node.get(200)
            grpc_load.echo(node.address, ECHO, b"x", 10, 1, TO_APP)
            yield node
            node.get()
            assert sidecar.stop() == 0
            errors = [line for line in sidecar.lines if "level=error" in line or "Traceback" in line]
            assert errors == []


def until(what: Callable[[], bool]) -> None:
    """Wait until it is so; fails when it never is."""
    deadline = time.monotonic() + WAIT_S
    while not what():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)


def heard(peer: Peer) -> Sequence[Event]:
    """What comes next."""
    select.select([peer.socket], [], [], WAIT_S)
    events = peer.read()
    assert events is not None, "the server closed the connection"
    peer.flush()
    return events


def vanish(peer: Peer) -> None:
    """As a client that loses its power: no goodbye, and a reset for whatever still comes."""
    peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.socket.close()


def test_ten_thousand_calls_at_once(tmp_path: Path) -> None:
    with loaded(tmp_path) as node:
        before = node.left
        for _ in range(3):
            result = grpc_load.run(node.address, 100, 100, 20_000, GET_CALL)
            assert result.statuses == {0: 20_000}
        until(lambda: node.left.descriptors <= before.descriptors)
        first = node.left.rss_kb
        assert grpc_load.run(node.address, 100, 100, 20_000, GET_CALL).statuses == {0: 20_000}
        assert node.left.rss_kb - first < GROWTH_KB_MAX


def test_ten_thousand_streams_stay_open(tmp_path: Path) -> None:
    """Each goes through to the app, on the one connection there is to it; none keeps other calls waiting."""
    message = grpc_load.prefixed(b"hello")
    fields = grpc_load.request_fields(ECHO, TO_APP)
    with loaded(tmp_path) as node:
        before = node.left
        peers = [node.connect() for _ in range(100)]
        for peer in peers:
            for _ in range(100):
                peer.send(peer.open(fields), message)
            peer.flush()
        for peer in peers:
            echoed = 0
            while echoed < 100:
                events = heard(peer)
                assert [event.fields for event in events if event.ended] == []
                echoed += sum(1 for event in events if event.data)
        node.get()
        for peer in peers:
            peer.socket.close()
        until(lambda: node.left.descriptors <= before.descriptors)
        grpc_load.echo(node.address, ECHO, b"x", 10, 1, TO_APP)


def test_client_that_never_reads_is_held_back(tmp_path: Path) -> None:
    with loaded(tmp_path) as node:
        node.save("large", b"x" * 1_000_000)
        large = state_pb2.GetStateRequest(store_name="statestore", key="large").SerializeToString()
        call = grpc_load.Call(SERVICE + "GetState", lambda _: large)
        grpc_load.run(node.address, 1, 4, 50, call)
        before = node.left
        deaf = [node.connect() for _ in range(4)]
        for peer in deaf:
            for _ in range(100):
                stream = peer.open(grpc_load.request_fields(call.path, ()))
                peer.send(stream, grpc_load.prefixed(large))
                peer.end(stream)
            peer.flush()
        endless = node.connect()
        stream = endless.open(grpc_load.request_fields("/bench.Bench/Bytes", TO_APP))
        endless.send(stream, grpc_load.prefixed(b"1000000000"))
        endless.end(stream)
        endless.flush()
        node.get(2000)
        # Answers wait whole at their streams, but no more are made while 16 MiB wait on a connection; of the endless
        # one there is only what its windows allow.
        assert node.left.rss_kb - before.rss_kb < 4 * 20_000 + GROWTH_KB_MAX
        for peer in (*deaf, endless):
            vanish(peer)
        until(lambda: node.left.descriptors <= before.descriptors)


def test_clients_that_vanish_leave_nothing(tmp_path: Path) -> None:
    first = pubsub_pb2.SubscribeTopicEventsRequestAlpha1()
    first.initial_request.pubsub_name, first.initial_request.topic = "pubsub", "quiet"
    subscription = grpc_load.prefixed(first.SerializeToString())

    def come_and_go(count: int) -> None:
        for number in range(count):
            peer = node.connect()
            if number % 2:
                stream = peer.open(grpc_load.request_fields(SERVICE + "SubscribeTopicEventsAlpha1", ()))
                peer.send(stream, subscription)
            else:
                stream = peer.open(grpc_load.request_fields(ECHO, TO_APP))
                peer.send(stream, grpc_load.prefixed(b"x" * 1000)[:500])
            peer.flush()
            if number % 4 < 2:
                peer.read()
            vanish(peer)

    with loaded(tmp_path) as node:
        before = node.left
        come_and_go(200)
        node.get()
        until(lambda: node.left.descriptors <= before.descriptors)
        middle = node.left
        come_and_go(1000)
        node.get()
        until(lambda: node.left.descriptors <= before.descriptors)
        assert node.left.rss_kb - middle.rss_kb < GROWTH_KB_MAX


def test_streams_that_are_reset_leave_nothing(tmp_path: Path) -> None:
    """Slower than what counts as an attack: each reset comes after the answer has begun."""
    with loaded(tmp_path) as node:
        before = node.left
        peer = node.connect()
        for number in range(1000):
            stream = peer.open(grpc_load.request_fields(ECHO, TO_APP))
            peer.send(stream, grpc_load.prefixed(b"%d" % number))
            peer.flush()
            answered = False
            while not answered:
                answered = any(event.data and event.stream == stream for event in heard(peer))
            peer.reset(stream)
            peer.flush()
        peer.socket.close()
        until(lambda: node.left.descriptors <= before.descriptors)
        assert node.left.rss_kb - before.rss_kb < GROWTH_KB_MAX
