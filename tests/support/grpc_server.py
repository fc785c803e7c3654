"""A gRPC server of ours on a loopback port, and services that tests call on it."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import trio
from google.protobuf.wrappers_pb2 import BytesValue
from grpclib.const import Cardinality, Handler

from edge_runtime.net.connections import Connection
from edge_runtime.net.grpc.server import GrpcLimits, GrpcServer, ServerCall
from edge_runtime.net.http2 import Http2Limits, Http2Server

Handle = Callable[[ServerCall], Awaitable[None]]


class Served:
    """Where it listens, and what it serves with."""

    def __init__(self, port: int, http2: Http2Server) -> None:
        self.port = port
        self.http2 = http2


@asynccontextmanager
async def serve_grpc(
    handle: Handle, limits: GrpcLimits | None = None, http2_limits: Http2Limits | None = None
) -> AsyncIterator[Served]:
    http2 = Http2Server(GrpcServer(handle, limits).on_stream, http2_limits or Http2Limits())
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    listener.setblocking(False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_accept, listener, http2, nursery)
        yield Served(listener.getsockname()[1], http2)
        nursery.cancel_scope.cancel()


async def _accept(listener: socket.socket, http2: Http2Server, nursery: trio.Nursery) -> None:
    with listener:
        while True:
            await trio.lowlevel.wait_readable(listener)
            try:
                sock, address = listener.accept()
            except BlockingIOError:
                continue
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            nursery.start_soon(http2.serve_connection, Connection(sock), b"", address[0], "127.0.0.1")


def kind(client_streaming: bool, server_streaming: bool) -> Handler:
    cardinality = Cardinality((client_streaming, server_streaming))
    return Handler(None, cardinality, BytesValue, BytesValue)


UNARY = kind(False, False)
SERVER_STREAM = kind(False, True)
CLIENT_STREAM = kind(True, False)
BOTH_STREAM = kind(True, True)


def table(rows: Mapping[str, Handle]) -> Handle:
    """One handler for several paths."""

    async def handle(call: ServerCall) -> None:
        await rows[call.path](call)

    return handle


async def echo(call: ServerCall) -> None:
    """Unary, the fast way."""
    call.bind(UNARY)
    request: Any = call.request_now()
    if request is None:
        request = await call.recv_message()
    call.reply(request)


async def count(call: ServerCall) -> None:
    """As many messages as the request's text says."""
    call.bind(SERVER_STREAM)
    request: Any = await call.recv_message()
    for number in range(int(request.value)):
        await call.send_message(BytesValue(value=b"%d" % number))


async def join(call: ServerCall) -> None:
    """One message of all that came."""
    call.bind(CLIENT_STREAM)
    parts = [message.value async for message in call]
    await call.send_message(BytesValue(value=b"".join(parts)))


async def talk(call: ServerCall) -> None:
    """An answer for each message."""
    call.bind(BOTH_STREAM)
    async for message in call:
        await call.send_message(BytesValue(value=message.value.upper()))


async def wait(call: ServerCall) -> None:
    """Never an answer."""
    call.bind(UNARY)
    await call.recv_message()
    await trio.sleep_forever()


ECHO: Handle = table({"/t.T/Echo": echo, "/t.T/Count": count, "/t.T/Join": join, "/t.T/Talk": talk, "/t.T/Wait": wait})
