"""The network between a node and its sidecar in the cloud: connections in memory, with everything that may befall them.

The node's side is the product's own HTTP client over a connection of ours. Where gRPC streams are concerned the client
itself is ours: calls of whole messages, which end as a lost HTTP/2 connection ends them.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import trio

from edge_runtime.net.connections import ConnectFailed
from edge_runtime.net.grpc.client import RpcError
from edge_runtime.wire.grpc.status import UNAVAILABLE, Ending
from tests.simulation.stage import Stage

if TYPE_CHECKING:
    from tests.simulation.cloud import Sidecar

_LATENCIES_S: Final = (0.0, 0.005, 0.005, 0.02, 0.02, 0.2)
_SLOW_S: Final = (3.0, 14.0, 16.0, 40.0)
KEEPALIVE_S: Final = 40.0  # until an HTTP/2 connection that hears nothing is given up


class Faults(NamedTuple):
    """How often a message meets each of them."""

    lost: float = 0.03
    answer_lost: float = 0.03
    reset: float = 0.03
    twice: float = 0.03
    late: float = 0.03
    slow: float = 0.02


class Way:
    """One node's way to its sidecar."""

    def __init__(self, stage: Stage, sidecar: Sidecar, faults: Faults, late_s: float) -> None:
        self.stage, self.sidecar, self.faults = stage, sidecar, faults
        self.late_s = late_s
        self.faulty = True
        self.partitioned = False
        self.told = trio.Event()  # the kernel tells of a change
        self._lines: set[Line] = set()
        self._calls: set[Call] = set()
        self._held: list[Callable[[], object]] = []

    # --- what happens to it

    def cut(self, *, visible: bool) -> None:
        """Nothing gets through, and nobody is told, but for a change of the interface if that is visible."""
        self.partitioned = True
        for call in self._calls:
            self.stage.after(KEEPALIVE_S, call.give_up)
        if visible:
            self.ring()

    def mend(self, *, visible: bool) -> None:
        """What was under way arrives late, or its connections are broken for good."""
        self.partitioned = False
        held, self._held = self._held, []
        if self.stage.chance.random() < 0.5:
            for act in held:
                self.stage.after(self.stage.chance.uniform(0, 2), act)
        else:
            self.break_all()
        if visible:
            self.ring()

    def ring(self) -> None:
        self.told.set()
        self.told = trio.Event()

    def break_all(self) -> None:
        for line in list(self._lines):
            line.break_off()
        for call in list(self._calls):
            call.break_off()

    def sever(self) -> None:
        """The node's process is gone, and with it its ends of all connections."""
        for line in list(self._lines):
            line.broken = True
            self._lines.discard(line)
        for call in list(self._calls):
            call.close()

    def carry(self, act: Callable[[], object], delay_s: float) -> None:
        """A message that is under way: it does `act` at the other end, unless it is cut off before."""

        def arrive() -> None:
            if self.partitioned:
                self._held.append(act)
            else:
                act()

        self.stage.after(delay_s, arrive)

    def latency_s(self) -> float:
        chance = self.stage.chance
        if self.faulty and chance.random() < self.faults.slow:
            return chance.choice(_SLOW_S)
        return chance.choice(_LATENCIES_S)

    # --- dialing

    async def reach(self, origin: Any, timeout_s: float) -> None:
        if self.partitioned:
            if self.stage.chance.random() < 0.3:
                raise ConnectFailed(f"dial tcp {origin}: connect: network is unreachable")
            await trio.sleep(timeout_s)
            raise ConnectFailed(f"dial tcp {origin}: i/o timeout")
        await trio.sleep(self.stage.chance.choice(_LATENCIES_S))
        if not self.sidecar.listens:
            raise ConnectFailed(f"dial tcp {origin}: connect: connection refused")

    async def dial(self, origin: Any, timeout_s: float, count: Callable[[int, int], None]) -> Line:
        await self.reach(origin, timeout_s)
        line = Line(self, count)
        self._lines.add(line)
        return line

    # --- HTTP

    def request(self, line: Line, data: bytes) -> None:
        """A request leaves the node; what becomes of it is decided now."""
        ways = self.faults
        fault = self.stage.chance.random() if self.faulty else 1.0
        delay_s = self.latency_s()
        if fault < ways.lost:
            return
        fault -= ways.lost
        if fault < ways.answer_lost:
            self.carry(lambda: self.sidecar.answer(data), delay_s)
            return
        fault -= ways.answer_lost
        if fault < ways.reset:
            if fault < ways.reset / 2:
                self.carry(lambda: self.sidecar.answer(data), delay_s)
            self.stage.after(delay_s, line.break_off)
            return
        fault -= ways.reset
        if fault < ways.twice:
            self.carry(lambda: self.sidecar.answer(data, late=True), self.stage.chance.uniform(0, self.late_s))
        elif fault - ways.twice < ways.late:
            delay_s = self.stage.chance.uniform(0, self.late_s)
        self.carry(lambda: self._serve(line, data, late=delay_s > 1), delay_s)

    def _serve(self, line: Line, data: bytes, *, late: bool) -> None:
        answer = self.sidecar.answer(data, late=late)
        if answer is None:
            line.break_off()
        else:
            self.carry(lambda: line.arrive(answer), self.latency_s())

    def forget(self, line: Line) -> None:
        self._lines.discard(line)

    # --- gRPC

    @asynccontextmanager
    async def call(self, count: Callable[[int, int], None]) -> AsyncIterator[Call]:
        await self.reach("sidecar:50001", 10.0)
        call = Call(self, count)
        self._calls.add(call)
        if self.partitioned:
            self.stage.after(KEEPALIVE_S, call.give_up)
        try:
            yield call
        finally:
            call.close()
            self._calls.discard(call)


class Line:
    """A connection, as the product's HTTP client knows it."""

    def __init__(self, way: Way, count: Callable[[int, int], None]) -> None:
        self._way = way
        self._count = count
        self._data = b""
        self._event = trio.Event()
        self.broken = False
        self._closed = False
        self.alpn = None
        self.idle_since: Any = None

    def try_send(self, data: bytes) -> int:
        if self.broken or self._closed:
            raise OSError(errno.ECONNRESET, "connection reset by peer")
        self._count(len(data), 0)
        self._way.request(self, bytes(data))
        return len(data)

    async def send_all(self, data: bytes | memoryview) -> None:
        self.try_send(bytes(data))

    async def receive(self) -> bytes:
        while not self._data:
            if self.broken:
                raise OSError(errno.ECONNRESET, "connection reset by peer")
            if self._closed:
                raise trio.ClosedResourceError
            await self._event.wait()
            self._event = trio.Event()
        data, self._data = self._data, b""
        self._count(0, len(data))
        return data

    async def receive_more(self) -> bytes:
        return await self.receive()

    def arrive(self, data: bytes) -> None:
        if not self._closed and not self.broken:
            self._data += data
            self._event.set()

    def break_off(self) -> None:
        self.broken = True
        self._event.set()
        self._way.forget(self)

    def is_quiet(self) -> bool:
        return not (self._data or self.broken or self._closed)

    def shut_down(self) -> None:
        self.break_off()

    def end_sending(self) -> bool:
        return True

    def close(self) -> None:
        self._closed = True
        self._event.set()
        self._way.forget(self)


class Call:
    """A streaming call, as `ClientCall` has it."""

    def __init__(self, way: Way, count: Callable[[int, int], None]) -> None:
        self._way = way
        self._count = count
        self._messages: deque[bytes] = deque()
        self._event = trio.Event()
        self._ending: Ending | None = None
        self.over = False
        self.status: int | None = None
        self.message = ""

    async def send_raw(self, compressed: bool, data: bytes) -> bool:
        await trio.lowlevel.checkpoint()
        if self.over:
            return False
        self._count(len(data) + 14, 0)
        way = self._way
        way.carry(lambda: None if self.over else way.sidecar.streamed(self, data), way.latency_s())
        return True

    async def recv_raw(self) -> tuple[bool, bytes] | None:
        while not self._messages:
            if self._ending is not None:
                self.status, self.message = self._ending.code, self._ending.message
                raise RpcError(self._ending)
            await self._event.wait()
            self._event = trio.Event()
        data = self._messages.popleft()
        self._count(0, len(data) + 14)
        return False, data

    def push(self, data: bytes) -> None:
        """The sidecar says something."""
        self._way.carry(lambda: self._arrive(data), self._way.latency_s())

    def _arrive(self, data: bytes) -> None:
        if not self.over:
            self._messages.append(data)
            self._event.set()

    def give_up(self) -> None:
        """No answer to a ping."""
        if self._way.partitioned:
            self.break_off()

    def break_off(self) -> None:
        self._ending = Ending(UNAVAILABLE, "the connection was lost")
        self._messages.clear()
        self._event.set()
        self.close()

    def close(self) -> None:
        if not self.over:
            self.over = True
            self._way.sidecar.left(self)
