"""What a caller or a server may do to us, and what of it stays."""

from __future__ import annotations

import pytest
import trio
from google.protobuf.wrappers_pb2 import BytesValue
from trio.testing import MockClock, wait_all_tasks_blocked

from edge_runtime.net.connections import Origin
from edge_runtime.net.grpc.client import RpcError, open_grpc_client
from edge_runtime.net.grpc.server import GrpcLimits, ServerCall
from edge_runtime.net.http2 import Http2Limits, open_http2_client
from edge_runtime.wire.grpc import status as codes
from edge_runtime.wire.grpc.frames import encode_frame
from edge_runtime.wire.http2 import Header
from tests.support.grpc_server import BOTH_STREAM, ECHO, UNARY, serve_grpc

QUIET = Http2Limits(keepalive_idle_s=0.0, idle_max_s=0.0)
HEAD: list[Header] = [
    (b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/t.T/Echo"), (b":authority", b"node"),
    (b"te", b"trailers"), (b"content-type", b"application/grpc"),
]  # fmt: skip


@pytest.mark.parametrize("field", [(b"a-bin", b"!" * 50_000), (b"a-bin", b"," * 50_000)])
async def test_a_refusal_is_short(field: Header) -> None:
    async with serve_grpc(ECHO) as served, open_http2_client(Origin("http", "127.0.0.1", served.port)) as client:
        stream = await client.open_stream([*HEAD, field], end=True)
        head = dict(await stream.response())
        assert (head[b":status"], head[b"grpc-status"]) == (b"400", b"13")
        assert head[b"grpc-message"].startswith(b"malformed binary metadata")
        assert len(head[b"grpc-message"]) <= 4096


async def test_a_reply_that_nobody_takes_is_given_up(autojump_clock: MockClock) -> None:
    """The caller lives, and answers pings; but it gives no credit."""

    async def answer(call: ServerCall) -> None:
        call.bind(UNARY)
        await call.recv_message()
        call.reply(BytesValue(value=bytes(1_000_000)))

    async with serve_grpc(answer) as served:
        origin = Origin("http", "127.0.0.1", served.port)
        async with open_http2_client(origin, None, QUIET._replace(stream_window_bytes=65535)) as client:
            stream = await client.open_stream(HEAD)
            await stream.send_data(encode_frame(b""), end=True)
            await stream.response()
            begun = trio.current_time()
            while served.http2.streams_open:  # noqa: ASYNC110 there is no event of it
                await trio.sleep(1)
            assert trio.current_time() - begun == pytest.approx(60, abs=5)
            assert client.usable


async def test_messages_without_end_let_others_have_their_turn() -> None:
    turns = 0
    here = trio.Event()

    async def tick() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async def count(call: ServerCall) -> None:
        call.bind(BOTH_STREAM)
        await here.wait()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tick)
            async for _ in call:
                pass
            nursery.cancel_scope.cancel()

    async with serve_grpc(count) as served:
        async with open_http2_client(Origin("http", "127.0.0.1", served.port), None, QUIET) as client:
            stream = await client.open_stream(HEAD)
            await stream.send_data(encode_frame(b"") * 20_000, end=True)
            await wait_all_tasks_blocked(0.05)
            here.set()
            while await stream.receive() is not None:
                pass
    assert turns > 200


async def test_an_answer_too_large_is_not_left_open() -> None:
    async def flood(call: ServerCall) -> None:
        call.bind(BOTH_STREAM)
        while True:
            await call.send_message(BytesValue(value=bytes(10_000)))

    async with serve_grpc(flood) as served:
        origin = Origin("http", "127.0.0.1", served.port)
        async with open_grpc_client(origin, limits=GrpcLimits(message_bytes_max=1000)) as client:
            async with client.open_call("/t.T/Talk") as call:
                await call.end()
                assert await call.recv_raw() is None
                assert call.status == codes.RESOURCE_EXHAUSTED
            with trio.fail_after(5):
                while served.http2.streams_open:
                    await trio.lowlevel.checkpoint()
            with pytest.raises(RpcError):
                await client.unary("/t.T/Talk", b"", BytesValue)
