"""Very many calls, and callers that vanish: nothing of them may be left."""

from __future__ import annotations

import gc
import socket
from contextlib import AsyncExitStack

import pytest
import trio
from google.protobuf.wrappers_pb2 import BytesValue
from trio.testing import wait_all_tasks_blocked

from edge_runtime.net.connections import Origin
from edge_runtime.net.grpc.client import GrpcClient, open_grpc_client
from edge_runtime.net.grpc.server import ServerCall
from edge_runtime.net.http2 import Stream
from tests.support.grpc_server import BOTH_STREAM, SERVER_STREAM, UNARY, Served, serve_grpc

pytestmark = pytest.mark.slow


def alive() -> int:
    gc.collect()
    return sum(type(thing) in (ServerCall, Stream) for thing in gc.get_objects())


def tasks() -> int:
    return trio.lowlevel.current_statistics().tasks_living


async def settled(served: Served) -> None:
    while served.http2.connections_open:
        await wait_all_tasks_blocked()
    await wait_all_tasks_blocked()


async def test_ten_thousand_calls_at_once() -> None:
    waiting = streams_open = 0
    all_here = trio.Event()

    async def handle(call: ServerCall) -> None:
        nonlocal waiting, streams_open
        call.bind(UNARY)
        request = call.request_now() or await call.recv_message()
        waiting += 1
        if waiting == 10_000:
            streams_open = served.http2.streams_open
            all_here.set()
        await all_here.wait()
        call.reply(request)

    async def call_it(client: GrpcClient, number: int) -> None:
        reply = await client.unary("/t.T/M", BytesValue(value=b"%d" % number), BytesValue)
        assert int(reply.message.value) == number

    objects, count = alive(), tasks()
    async with serve_grpc(handle) as served:
        origin = Origin("http", "127.0.0.1", served.port)
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(open_grpc_client(origin)) for _ in range(100)]
            async with trio.open_nursery() as calls:
                for number in range(10_000):
                    calls.start_soon(call_it, clients[number % 100], number)
            assert served.http2.connections_open == 100
            assert streams_open == 10_000
        await settled(served)
        assert served.http2.streams_open == 0
    assert tasks() == count
    assert alive() == objects


async def test_a_thousand_callers_vanish() -> None:
    began = 0
    ended = 0

    async def handle(call: ServerCall) -> None:
        nonlocal began, ended
        began += 1
        try:
            call.bind(BOTH_STREAM)
            await call.send_message(BytesValue(value=bytes(1000)))
            async for message in call:
                await call.send_message(message)
        finally:
            ended += 1

    async def call_and_vanish(port: int) -> None:
        async with open_grpc_client(Origin("http", "127.0.0.1", port)) as client:
            async with client.open_call("/t.T/M") as call:
                await call.send_raw(False, BytesValue(value=bytes(100)).SerializeToString())
                assert await call.recv_raw() is not None
                # No goodbye, no reset: the socket is gone.
                call._stream._session._connection._socket.shutdown(socket.SHUT_RDWR)

    objects, count = alive(), tasks()
    async with serve_grpc(handle) as served:
        for _ in range(20):
            async with trio.open_nursery() as nursery:
                for _ in range(50):
                    nursery.start_soon(call_and_vanish, served.port)
        await settled(served)
        assert (began, ended, served.http2.streams_open) == (1000, 1000, 0)
    assert tasks() == count
    assert alive() == objects


async def test_a_thousand_calls_are_cancelled() -> None:
    ended = 0

    async def handle(call: ServerCall) -> None:
        nonlocal ended
        call.bind(SERVER_STREAM)
        try:
            while True:
                await call.send_message(BytesValue(value=bytes(30_000)))
        finally:
            ended += 1

    objects, count = alive(), tasks()
    async with serve_grpc(handle) as served:
        async with open_grpc_client(Origin("http", "127.0.0.1", served.port)) as client:
            for _ in range(1000):
                await _call_and_leave(client)
            await wait_all_tasks_blocked()
            assert (ended, served.http2.streams_open, served.http2.connections_open) == (1000, 0, 1)
        await settled(served)
    assert tasks() == count
    assert alive() == objects


async def _call_and_leave(client: GrpcClient) -> None:
    async with client.open_call("/t.T/M") as call:
        assert await call.recv_raw() is not None, call.message


async def test_a_caller_that_does_not_read_costs_little() -> None:
    """What a handler may send ahead is bounded by the peer's window, however much it has to say."""
    sent = 0

    async def handle(call: ServerCall) -> None:
        nonlocal sent
        call.bind(SERVER_STREAM)
        for _ in range(10_000):
            await call.send_message(BytesValue(value=bytes(10_000)))
            sent += 10_000

    async with serve_grpc(handle) as served:
        async with open_grpc_client(Origin("http", "127.0.0.1", served.port)) as client:
            async with client.open_call("/t.T/M") as call:
                await call.initial()
                await wait_all_tasks_blocked()
                assert 0 < sent < 2_000_000
                messages = 0
                while await call.recv_raw() is not None:
                    messages += 1
                assert messages == 10_000
