"""A server in a process of its own, with clients that behave badly beside one that behaves well."""

from __future__ import annotations

import random
import resource
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.property.test_http1_engines_agree import REQUESTS, mutate

pytestmark = pytest.mark.slow

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
SERVER = """
import logging, resource, sys, trio
from edge_runtime.model.http import Body, Response
from edge_runtime.net.http_server import ServerLimits, serve_http
from edge_runtime.net.listeners import open_listeners

logging.basicConfig(level=logging.WARNING)
limits = ServerLimits(**eval(sys.argv[1]))
if descriptors := int(sys.argv[2]):
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))

async def handle(request):
    return Response(200, (), Body(b"%d" % len(await request.body.read())))

async def main():
    async with open_listeners(["127.0.0.1"], 0) as listeners, trio.open_nursery() as nursery:
        await nursery.start(serve_http, listeners, handle, limits)
        print(listeners[0].port, flush=True)

trio.run(main)
"""


class Attacked:
    """The server's process and the way to it."""

    def __init__(self, process: trio.Process, port: int) -> None:
        self.process = process
        self.log = b""
        self.logged = trio.Event()
        self._port = port
        self._streams: list[trio.SocketStream] = []

    async def connect(self) -> trio.SocketStream:
        stream = await trio.open_tcp_stream("127.0.0.1", self._port)
        self._streams.append(stream)
        return stream

    async def assert_serving(self, rounds: int = 20) -> None:
        """A well-behaved client has its answers."""
        stream = await self.connect()
        for _ in range(rounds):
            await stream.send_all(GET)
            answer = b""
            while not answer.endswith(b"\r\n\r\n0"):
                piece = await stream.receive_some(1000)
                assert piece, answer
                answer += piece

    def close(self) -> None:
        for stream in self._streams:
            stream.socket.close()

    async def read_log(self) -> None:
        assert self.process.stderr is not None
        async for piece in self.process.stderr:
            self.log += piece
            self.logged.set()


@asynccontextmanager
async def attacked(descriptors: int = 0, **limits: float) -> AsyncIterator[Attacked]:
    command = [sys.executable, "-c", SERVER, repr(limits), str(descriptors)]
    root = Path(__file__).parents[2]

    async def run(task_status: trio.TaskStatus[trio.Process]) -> None:
        pipe = subprocess.PIPE
        await trio.run_process(command, stdout=pipe, stderr=pipe, cwd=root, check=False, task_status=task_status)

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            process: trio.Process = await nursery.start(run)
            assert process.stdout is not None
            server = Attacked(process, int(await process.stdout.receive_some(100)))
            nursery.start_soon(server.read_log)
            try:
                yield server
                assert process.returncode is None
            finally:
                server.close()
                process.terminate()
    assert b"Traceback" not in server.log, server.log.decode()


@pytest.fixture
def many_descriptors() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 3000 and hard < 3000:
        pytest.skip("needs 3000 open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 3000), hard))


async def test_idle_crowds_cost_nobody_else(many_descriptors: None) -> None:
    async with attacked(connections_max=4096) as server:
        for _ in range(2000):
            await server.connect()
        await server.assert_serving()
        for number, stream in enumerate(server._streams[:2000:100]):
            await stream.send_all(GET)
            assert await stream.receive_some(1000), number


async def test_a_deep_burst_leaves_turns() -> None:
    burst = 10_000
    async with attacked() as server:
        stream = await server.connect()
        answered = 0

        async def take_answers() -> None:
            nonlocal answered
            rest = b""
            while answered < burst:
                data = rest + await stream.receive_some(65536)
                answered += data.count(b"\r\n\r\n0")
                rest = data[-4:]

        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.send_all, GET * burst)
            nursery.start_soon(take_answers)
            await server.assert_serving()
            assert answered < burst  # the other client did not have to wait for all of it
        assert answered == burst


async def test_dripping_clients_are_ended() -> None:
    async with attacked(header_read_timeout_s=0.3) as server:
        ended = 0

        async def drip() -> None:
            nonlocal ended
            stream = await server.connect()
            try:
                for byte in GET * 10:
                    await stream.send_all(bytes([byte]))
                    with trio.move_on_after(0.05):
                        if not await stream.receive_some(1000):
                            break
            except trio.BrokenResourceError:
                pass
            ended += 1

        async with trio.open_nursery() as nursery:
            for _ in range(200):
                nursery.start_soon(drip)
            await server.assert_serving()
        assert ended == 200


async def test_full_tables_are_survived() -> None:
    async with attacked(connections_max=20) as server:
        crowd = [await server.connect() for _ in range(100)]
        await server.assert_serving()
        for stream in crowd:
            with trio.move_on_after(0.001):
                await stream.send_all(GET)
        await server.assert_serving()


async def test_running_out_of_descriptors_is_survived() -> None:
    async with attacked(descriptors=40, header_read_timeout_s=60) as server:
        for _ in range(100):
            stream = await server.connect()
            await stream.send_all(b"GET /slow HTTP/1.1\r\n")  # never finished: not idle, nothing to be made room with
        await server.logged.wait()
        server.close()
        await server.assert_serving()
        assert server.log.count(b"cannot accept connections") == 1


async def test_garbage_is_survived() -> None:
    rng = random.Random(7)
    async with attacked() as server:
        for _ in range(300):
            stream = await server.connect()
            await stream.send_all(mutate(rng, REQUESTS))
            if rng.random() < 0.5:
                await stream.send_eof()
                try:
                    while await stream.receive_some(65536):
                        pass
                except trio.BrokenResourceError:
                    pass
            await stream.aclose()
        await server.assert_serving()
