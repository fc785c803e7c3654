"""Our client on our server: every kind of call, and what either side says when one goes wrong."""

from __future__ import annotations

import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from google.protobuf.message import EncodeError
from google.protobuf.wrappers_pb2 import BytesValue, StringValue
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from trio.testing import wait_all_tasks_blocked

from edge_runtime.net.connections import ConnectFailed, Origin
from edge_runtime.net.grpc.client import ClientCall, GrpcClient, RpcError, open_grpc_client
from edge_runtime.net.grpc.server import GrpcLimits, ServerCall
from edge_runtime.net.http2 import ConnectionLost, Http2Limits
from edge_runtime.wire.grpc import status as codes
from edge_runtime.wire.grpc.gzips import deflate
from tests.support.grpc_server import (
    BOTH_STREAM,
    CLIENT_STREAM,
    ECHO,
    SERVER_STREAM,
    UNARY,
    Handle,
    Served,
    echo,
    serve_grpc,
)


@asynccontextmanager
async def calling(
    handle: Handle, limits: GrpcLimits | None = None, http2_limits: Http2Limits | None = None
) -> AsyncIterator[tuple[GrpcClient, Served]]:
    """A client whose own limits are wide, on a server."""
    async with serve_grpc(handle, limits, http2_limits) as served:
        async with open_grpc_client(
            Origin("http", "127.0.0.1", served.port), limits=GrpcLimits(message_bytes_max=None)
        ) as client:
            yield client, served


async def unary(client: GrpcClient, path: str = "/t.T/Echo", value: bytes = b"x", **options: Any) -> bytes:
    reply = await client.unary(path, BytesValue(value=value), BytesValue, **options)
    return reply.message.value


async def failure(client: GrpcClient, path: str = "/t.T/Echo", value: bytes = b"x", **options: Any) -> RpcError:
    with pytest.raises(RpcError) as caught:
        await unary(client, path, value, **options)
    return caught.value


async def drained(call: ClientCall) -> list[bytes]:
    """The messages of a call up to its end."""
    found = []
    while (frame := await call.recv_raw()) is not None:
        assert not frame[0]
        found.append(BytesValue.FromString(frame[1]).value)
    return found


def raising(error: Exception) -> Handle:
    async def handle(call: ServerCall) -> None:
        call.bind(UNARY)
        await call.recv_message()
        raise error

    return handle


# --- the four kinds ---------------------------------------------------------------------------------------------------


async def test_a_unary_call_is_answered() -> None:
    async with calling(ECHO) as (client, _):
        assert await unary(client, value=b"hello") == b"hello"
        assert await unary(client, value=b"") == b""
        assert await unary(client, value=b"again", timeout_s=5) == b"again"


async def test_a_large_message_needs_several_windows() -> None:
    async with calling(ECHO) as (client, _):
        value = bytes(3_000_000)
        assert await unary(client, value=value) == value


async def test_a_server_streams() -> None:
    async with calling(ECHO) as (client, _):
        async with client.open_call("/t.T/Count") as call:
            await call.send_raw(False, BytesValue(value=b"300").SerializeToString())
            await call.end()
            assert await drained(call) == [b"%d" % number for number in range(300)]
            assert (call.status, call.message, call.details, call.trailing) == (0, "", b"", [])


async def test_a_client_streams() -> None:
    async with calling(ECHO) as (client, _):
        async with client.open_call("/t.T/Join") as call:
            for part in (b"a", b"b", b"c"):
                assert await call.send_raw(False, BytesValue(value=part).SerializeToString())
            await call.end()
            assert not await call.send_raw(False, b"")
            assert await drained(call) == [b"abc"]
            assert call.status == 0


async def test_both_sides_take_turns() -> None:
    async with calling(ECHO) as (client, _):
        async with client.open_call("/t.T/Talk") as call:
            for part in (b"a", b"b"):
                await call.send_raw(False, BytesValue(value=part).SerializeToString())
                assert await call.recv_raw() == (False, BytesValue(value=part.upper()).SerializeToString())
            assert call.status is None
            await call.end()
            assert await call.recv_raw() is None
            assert call.status == 0


async def test_many_calls_share_one_connection() -> None:
    async with calling(ECHO) as (client, served):
        async with trio.open_nursery() as nursery:
            for _ in range(500):
                nursery.start_soon(unary, client)
        assert served.http2.connections_open == 1
        await wait_all_tasks_blocked()
        assert served.http2.streams_open == 0


# --- metadata ---------------------------------------------------------------------------------------------------------


async def test_many_tasks_send_on_one_call() -> None:
    values = [bytes((number,)) * 100_000 for number in range(50)]

    async def handle(call: ServerCall) -> None:
        call.bind(SERVER_STREAM)
        async with trio.open_nursery() as nursery:
            for value in values:
                nursery.start_soon(call.send_message, BytesValue(value=value))

    async with calling(handle) as (client, _):
        async with client.open_call("/t.T/M") as call:
            await call.initial()
            await wait_all_tasks_blocked()
            assert sorted(await drained(call)) == values
            assert call.status == 0


async def test_metadata_goes_both_ways() -> None:
    seen: list[tuple[str, str | bytes]] = []

    async def handle(call: ServerCall) -> None:
        call.bind(UNARY)
        seen.extend(call.metadata)
        assert call.get("x-bin") == b"\x00\xff"
        assert call.get("text") == "one"
        assert call.get("absent") is None
        call.reply(BytesValue(), [("first", "1"), ("first-bin", b"\x01")], [("last", "2")])

    async with calling(handle) as (client, _):
        sent = [("text", "one"), ("text", "two"), ("x-bin", b"\x00\xff")]
        reply = await client.unary("/t.T/M", BytesValue(), BytesValue, metadata=sent)
    assert [pair for pair in seen if pair[0] != "user-agent"] == sent
    assert dict(seen)["user-agent"]
    assert reply.initial == [("first", "1"), ("first-bin", b"\x01")]
    assert reply.trailing == [("last", "2")]


async def test_ten_kilobytes_of_metadata_pass() -> None:
    async def handle(call: ServerCall) -> None:
        call.bind(UNARY)
        call.reply(BytesValue(), [("big", str(call.get("big")))], [("end", str(call.get("big")))])

    async with calling(handle) as (client, _):
        big = "x" * 10_000
        reply = await client.unary("/t.T/M", b"", BytesValue, metadata=[("big", big)])
    assert reply.initial == [("big", big)]
    assert reply.trailing == [("end", big)]


async def test_initial_metadata_may_come_early() -> None:
    go_on = trio.Event()

    async def handle(call: ServerCall) -> None:
        call.bind(SERVER_STREAM)
        await call.send_initial_metadata([("early", "yes")])
        await go_on.wait()
        await call.send_message(BytesValue(value=b"late"))

    async with calling(handle) as (client, _):
        async with client.open_call("/t.T/M") as call:
            assert await call.initial() == [("early", "yes")]
            assert await call.initial() == [("early", "yes")]
            go_on.set()
            assert await drained(call) == [b"late"]


async def test_a_call_knows_its_caller() -> None:
    async def handle(call: ServerCall) -> None:
        call.bind(UNARY)
        assert call.path == "/t.T/M"
        assert call.peer == "127.0.0.1"
        assert call.authority.startswith("127.0.0.1:")
        assert (b":path", b"/t.T/M") in call.raw_headers
        assert call.encoding is None
        assert call.deadline is None
        call.metadata = [pair for pair in call.metadata if pair[0] != "secret"]
        assert [name for name, _ in call.metadata] == ["user-agent"]
        call.reply(BytesValue())

    async with calling(handle) as (client, _):
        await unary(client, "/t.T/M", metadata=[("secret", "x")])


# --- errors -----------------------------------------------------------------------------------------------------------


async def test_an_error_has_code_message_and_details() -> None:
    error = GRPCError(Status.NOT_FOUND, "kein Schlüssel: 100%\n", b"\x08\x05")
    async with calling(raising(error)) as (client, _):
        failed = await failure(client)
    assert (failed.code, failed.message, failed.details) == (5, "kein Schlüssel: 100%\n", b"\x08\x05")
    assert str(failed) == "rpc error: code = NotFound desc = kein Schlüssel: 100%\n"


async def test_an_error_among_others_is_found() -> None:
    group = ExceptionGroup("", [ValueError(), ExceptionGroup("", [GRPCError(Status.ABORTED, "inside")])])
    async with calling(raising(group)) as (client, _):
        assert (await failure(client)).message == "inside"


async def test_an_unforeseen_error_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with calling(raising(ValueError("secret"))) as (client, _):
        failed = await failure(client)
    assert (failed.code, failed.message) == (2, "internal server error")
    assert "the handler of /t.T/Echo failed" in caplog.text


async def test_another_calls_failure_is_an_error_of_the_handler(caplog: pytest.LogCaptureFixture) -> None:
    async with calling(raising(ConnectionLost("of an upstream"))) as (client, _):
        assert (await failure(client)).code == 2
    assert "of an upstream" in caplog.text


async def test_an_error_after_messages_keeps_them() -> None:
    async def handle(call: ServerCall) -> None:
        call.bind(SERVER_STREAM)
        await call.send_message(BytesValue(value=b"one"))
        raise GRPCError(Status.DATA_LOSS, "no more")

    async with calling(handle) as (client, _):
        async with client.open_call("/t.T/M") as call:
            assert await drained(call) == [b"one"]
            assert (call.status, call.message) == (15, "no more")


async def test_an_error_after_the_reply_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def handle(call: ServerCall) -> None:
        await echo(call)
        raise GRPCError(Status.ABORTED, "too late")

    async with calling(handle) as (client, _):
        assert await unary(client) == b"x"
    assert "failed after its reply" in caplog.text


async def test_trailers_may_come_with_an_error() -> None:
    async def handle(call: ServerCall) -> None:
        await call.send_trailing_metadata(Status.ABORTED, "a", b"d", [("why", "so")])
        assert call.ended
        with pytest.raises(RuntimeError):
            await call.send_trailing_metadata()
        with pytest.raises(RuntimeError):
            await call.send_raw(False, b"")
        with pytest.raises(RuntimeError):
            await call.send_initial_metadata()

    async with calling(handle) as (client, _):
        failed = await failure(client)
    assert (failed.code, failed.message, failed.details, failed.initial) == (10, "a", b"d", ())
    assert failed.trailing == [("why", "so")]


async def test_an_endless_message_is_cut() -> None:
    async with calling(raising(GRPCError(Status.INTERNAL, "long " * 10_000, bytes(9000)))) as (client, _):
        failed = await failure(client)
    assert failed.message.startswith("long long")
    assert failed.message.endswith("...")
    assert 7000 < len(failed.message) < 8192
    assert failed.details == b""


async def test_an_error_fits_what_its_reader_takes() -> None:
    async with serve_grpc(raising(GRPCError(Status.INTERNAL, "long " * 100, bytes(100)))) as served:
        narrow = Http2Limits(header_list_bytes_max=400, keepalive_idle_s=0, idle_max_s=0)
        async with open_grpc_client(Origin("http", "127.0.0.1", served.port), http2_limits=narrow) as client:
            failed = await failure(client)
    assert failed.code == 13
    assert failed.message.startswith("long long")
    assert failed.message.endswith("...")
    assert failed.details == b""


async def test_a_handler_without_reply_is_an_error(caplog: pytest.LogCaptureFixture) -> None:
    async def handle(call: ServerCall) -> None:
        call.bind(UNARY)

    async with calling(handle) as (client, _):
        assert (await failure(client)).code == 13
    assert "returned without a reply" in caplog.text


# --- messages ---------------------------------------------------------------------------------------------------------


async def test_a_large_request_is_refused() -> None:
    async with calling(ECHO, GrpcLimits(message_bytes_max=1000)) as (client, _):
        failed = await failure(client, value=bytes(2000))
        assert failed.code == 8
        assert failed.message == "grpc: received message larger than max (2003 vs. 1000)"
        failed = await failure(client, value=bytes(2_000_000))
        assert failed.code == 8
        assert await unary(client, value=bytes(997)) == bytes(997)


async def test_a_large_reply_is_refused() -> None:
    async def handle(call: ServerCall) -> None:
        call.bind(UNARY)
        await call.recv_message()
        call.reply(BytesValue(value=bytes(1000)))

    async with calling(handle, GrpcLimits(message_bytes_max=1000)) as (client, _):
        failed = await failure(client)
    assert failed.code == 8
    assert failed.message == "grpc: trying to send message larger than max (1003 vs. 1000)"


async def test_the_client_has_limits_too() -> None:
    async with serve_grpc(ECHO) as served:
        origin = Origin("http", "127.0.0.1", served.port)
        async with open_grpc_client(origin, limits=GrpcLimits(message_bytes_max=100)) as client:
            failed = await failure(client, value=bytes(200))
            assert failed.code == 8
            assert failed.message == "trying to send message larger than max (203 vs. 100)"
            async with client.open_call("/t.T/Echo") as call:
                await call.send_raw(False, BytesValue(value=bytes(200)).SerializeToString())
                await call.end()
                assert await call.recv_raw() is None
                assert (call.status, call.message) == (8, "grpc: received message larger than max (203 vs. 100)")


async def test_a_request_that_is_no_message_is_refused() -> None:
    async def handle(call: ServerCall) -> None:
        call.bind(UNARY._replace(request_type=StringValue))
        request: Any = call.request_now()
        assert request is not None

    async with calling(handle) as (client, _):
        for request in (b"\x0a\x01\xff", b"\xff"):
            with pytest.raises(RpcError) as caught:
                await client.unary("/t.T/M", request, BytesValue)
            assert caught.value.code == 13
            assert caught.value.message.startswith("grpc: error unmarshalling request: ")


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        (0, "cardinality violation: received no request message from non-client-streaming RPC"),
        (2, "cardinality violation: received multiple request messages for non-client-streaming RPC"),
    ],
)
async def test_a_unary_call_has_one_request(messages: int, text: str) -> None:
    async with calling(ECHO) as (client, _):
        async with client.open_call("/t.T/Echo") as call:
            for _ in range(messages):
                await call.send_raw(False, b"")
            await call.end()
            assert await call.recv_raw() is None
            assert (call.status, call.message) == (13, text)


async def test_a_request_in_pieces_is_waited_for() -> None:
    async with calling(ECHO) as (client, _):
        async with client.open_call("/t.T/Echo") as call:
            data = BytesValue(value=b"slow").SerializeToString()
            frame = b"\x00" + len(data).to_bytes(4, "big") + data
            for byte in frame:
                await call._stream.send_data(bytes((byte,)))
                await wait_all_tasks_blocked()
            await call.end()
            assert await drained(call) == [b"slow"]


async def test_a_message_that_is_cut_off_is_refused() -> None:
    async with calling(ECHO) as (client, _):
        for path in ("/t.T/Echo", "/t.T/Join"):
            async with client.open_call(path) as call:
                await call._stream.send_data(b"\x00\x00\x00\x00\x09half", True)
                assert await call.recv_raw() is None
                assert (call.status, call.message) == (13, "unexpected EOF")


async def test_a_frame_of_an_unknown_kind_is_refused() -> None:
    async with calling(ECHO) as (client, _):
        async with client.open_call("/t.T/Echo") as call:
            await call._stream.send_data(b"\x07\x00\x00\x00\x00", True)
            assert await call.recv_raw() is None
            assert (call.status, call.message) == (13, "grpc: received unexpected payload format 7")


@pytest.mark.parametrize(
    ("encoding", "data", "code", "text"),
    [
        (b"gzip", deflate(BytesValue(value=b"packed").SerializeToString()), 0, ""),
        (b"gzip", b"no gzip", 13, "grpc: failed to decompress the received message"),
        (b"gzip", deflate(bytes(10_000_000)), 8, "grpc: received message after decompression larger than max"),
        (b"identity", b"", 13, "grpc: compressed flag set with identity or empty encoding"),
        (None, b"", 13, "grpc: compressed flag set with identity or empty encoding"),
        (b"snappy", b"", 12, 'grpc: Decompressor is not installed for grpc-encoding "snappy"'),
    ],
)
async def test_compressed_requests(encoding: bytes | None, data: bytes, code: int, text: str) -> None:
    async with calling(ECHO) as (client, _):
        async with client.open_call("/t.T/Echo", encoding=encoding) as call:
            await call.send_raw(True, data)
            await call.end()
            replies = await drained(call)
            assert call.status == code
            assert call.message.startswith(text)
            assert replies == ([b"packed"] if code == 0 else [])
            accepted = [value for name, value in call._stream.headers if name == b"grpc-accept-encoding"]
            assert accepted == ([b"identity,gzip"] if code == 12 else [])


async def test_raw_messages_pass_as_they_are() -> None:
    async def handle(call: ServerCall) -> None:
        assert call.encoding == b"snappy"
        await call.send_initial_metadata(encoding=b"snappy")
        while (frame := await call.recv_raw()) is not None:
            await call.send_raw(*frame)

    async with calling(handle) as (client, _):
        async with client.open_call("/t.T/Raw", encoding=b"snappy", accept_encoding=b"snappy") as call:
            await call.send_raw(True, b"\x01opaque")
            await call.send_raw(False, b"")
            await call.end()
            await call.initial()
            assert call.encoding == b"snappy"
            assert [await call.recv_raw() for _ in range(3)] == [(True, b"\x01opaque"), (False, b""), None]


async def test_a_packed_reply_is_inflated() -> None:
    async def handle(call: ServerCall) -> None:
        await call.send_initial_metadata(encoding=call.encoding)
        await call.send_raw(True, deflate(BytesValue(value=b"small").SerializeToString()))

    async def head(call: ServerCall) -> None:
        await call.send_raw(True, b"")

    async with calling(handle) as (client, _):
        client._head = _with_encoding(client._head, b"gzip")  # type: ignore[method-assign]
        assert await unary(client) == b"small"
    async with calling(head) as (client, _):
        assert (await failure(client)).message == "grpc: compressed flag set with identity or empty encoding"


@pytest.mark.parametrize(
    ("encoding", "data", "text"),
    [
        (b"snappy", b"", 'grpc: Decompressor is not installed for grpc-encoding "snappy"'),
        (b"gzip", b"no gzip", "grpc: failed to decompress the received message: "),
        (b"gzip", deflate(bytes(2000)), "grpc: received message after decompression larger than max (1001 vs. 1000)"),
    ],
)
async def test_a_reply_that_cannot_be_inflated(encoding: bytes, data: bytes, text: str) -> None:
    async def handle(call: ServerCall) -> None:
        await call.send_initial_metadata(encoding=encoding)
        await call.send_raw(True, data)

    async with serve_grpc(handle) as served:
        origin = Origin("http", "127.0.0.1", served.port)
        async with open_grpc_client(origin, limits=GrpcLimits(message_bytes_max=1000)) as client:
            assert (await failure(client)).message.startswith(text)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\x07\x00\x00\x00\x00", "grpc: received unexpected payload format 7"),
        (b"\x00\x00\x00\x00\x09half", "unexpected EOF"),
    ],
)
async def test_a_reply_that_is_no_message(data: bytes, text: str) -> None:
    async def handle(call: ServerCall) -> None:
        await call.send_initial_metadata()
        await call._stream.send_data(data)

    async with calling(handle) as (client, _):
        failed = await failure(client)
        assert (failed.code, failed.message) == (13, text)
        async with client.open_call("/t.T/M") as call:
            assert await call.recv_raw() is None
            assert (call.status, call.message) == (13, text)


async def test_a_reply_over_the_clients_limit() -> None:
    async with serve_grpc(_big) as served:
        origin = Origin("http", "127.0.0.1", served.port)
        async with open_grpc_client(origin, limits=GrpcLimits(message_bytes_max=1000)) as client:
            failed = await failure(client)
            assert (failed.code, failed.message) == (8, "grpc: received message larger than max (2003 vs. 1000)")


async def _big(call: ServerCall) -> None:
    call.bind(UNARY)
    call.reply(BytesValue(value=bytes(2000)))


def _with_encoding(head: Callable[..., Any], encoding: bytes) -> Callable[..., Any]:
    return lambda *arguments: [*head(*arguments), (b"grpc-encoding", encoding)]


@pytest.mark.parametrize(
    ("replies", "text"),
    [
        ([], "cardinality violation: received no response message from non-server-streaming RPC"),
        (
            [b"", b""],
            "cardinality violation: expected <EOF> for non server-streaming RPCs, but received another message",
        ),
        ([b"\xff"], "grpc: failed to unmarshal the received message: "),
    ],
)
async def test_a_unary_call_has_one_reply(replies: list[bytes], text: str) -> None:
    async def handle(call: ServerCall) -> None:
        for reply in replies:
            await call.send_raw(False, reply)

    async with calling(handle) as (client, _):
        failed = await failure(client)
    assert failed.code == 13
    assert failed.message.startswith(text)


# --- time and cancellation --------------------------------------------------------------------------------------------


async def test_a_deadline_ends_the_handler(autojump_clock: trio.testing.MockClock) -> None:
    ended: list[str] = []

    async def handle(call: ServerCall) -> None:
        assert call.deadline == pytest.approx(trio.current_time() + 2)
        try:
            await trio.sleep_forever()
        finally:
            ended.append(call.path)

    async with calling(handle) as (client, _):
        # The client's own timer would be as fast: only the header is sent.
        with pytest.raises(RpcError) as caught:
            await client._unary([*client._head("/t.T/W", (), None), (b"grpc-timeout", b"2S")], bytes(5), BytesValue)
    assert (caught.value.code, caught.value.message) == (4, "context deadline exceeded")
    assert ended == ["/t.T/W"]


async def test_a_deadline_ends_a_reply_that_nobody_takes(autojump_clock: trio.testing.MockClock) -> None:
    async def handle(call: ServerCall) -> None:
        call.bind(UNARY)
        call.reply(BytesValue(value=bytes(3_000_000)))
        assert call.ended

    async with calling(handle) as (client, served):
        line, stream = await client._open_stream([*client._head("/t.T/M", (), None), (b"grpc-timeout", b"2S")])
        await stream.response()
        await trio.sleep(3)
        assert served.http2.streams_open == 0
        while await stream.receive() is not None:
            pass
        assert dict(stream.trailers or ())[b"grpc-status"] == b"4"
        line.leave()


async def test_an_error_takes_the_place_of_a_reply_that_waits() -> None:
    async def handle(call: ServerCall) -> None:
        call.bind(UNARY)
        call.reply(BytesValue(value=bytes(3_000_000)))
        raise GRPCError(Status.ABORTED, "after all")

    async with calling(handle) as (client, _):
        assert (await failure(client)).message == "after all"


async def test_a_reply_follows_early_headers() -> None:
    async def handle(call: ServerCall) -> None:
        call.bind(UNARY)
        assert await call.recv_message() is not None
        assert await call.recv_message() is None
        await call.send_initial_metadata([("x", "1")])
        call.reply(BytesValue(value=b"y"))

    async with calling(handle) as (client, _):
        reply = await client.unary("/t.T/M", b"", BytesValue)
        assert (reply.initial, reply.message.value) == ([("x", "1")], b"y")


async def test_a_reply_that_cannot_be_written_is_internal() -> None:
    class Unwritable:
        def SerializeToString(self) -> bytes:
            raise EncodeError("no")

    async def handle(call: ServerCall) -> None:
        call.bind(UNARY)
        call.reply(Unwritable())  # type: ignore[arg-type]

    async with calling(handle) as (client, _):
        failed = await failure(client)
        assert (failed.code, failed.message) == (13, "grpc: error while marshaling: no")


async def test_no_time_at_all_calls_no_handler() -> None:
    async with calling(ECHO) as (client, _):
        with pytest.raises(RpcError) as caught:
            await client._unary([*client._head("/t.T/W", (), None), (b"grpc-timeout", b"0S")], bytes(5), BytesValue)
        assert caught.value.code == 4


async def test_the_client_keeps_its_time(autojump_clock: trio.testing.MockClock) -> None:
    async with calling(ECHO) as (client, served):
        failed = await failure(client, "/t.T/Wait", timeout_s=3)
        assert (failed.code, failed.message) == (4, "context deadline exceeded")
        with pytest.raises(RpcError) as caught:
            await _sleep_in_a_call(client)
        assert caught.value.code == 4
        await wait_all_tasks_blocked()
        assert served.http2.streams_open == 0
        assert await unary(client) == b"x"


async def _sleep_in_a_call(client: GrpcClient) -> None:
    async with client.open_call("/t.T/Wait", timeout_s=3) as call:
        await call.end()
        await trio.sleep_forever()


async def test_a_cancelled_call_cancels_the_handler() -> None:
    began, ended = trio.Event(), trio.Event()

    async def handle(call: ServerCall) -> None:
        began.set()
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async with calling(handle) as (client, served):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(unary, client)
            await began.wait()
            nursery.cancel_scope.cancel()
        await ended.wait()
        await wait_all_tasks_blocked()
        assert served.http2.streams_open == 0
        assert served.http2.connections_open == 1


async def test_leaving_a_call_cancels_it() -> None:
    ended = trio.Event()

    async def handle(call: ServerCall) -> None:
        call.bind(BOTH_STREAM)
        try:
            await call.send_message(BytesValue(value=b"1"))
            await trio.sleep_forever()
        finally:
            ended.set()

    async with calling(handle) as (client, _):
        async with client.open_call("/t.T/M") as call:
            assert await call.recv_raw() is not None
        await ended.wait()


async def test_a_lost_client_cancels_its_handlers() -> None:
    began, ended = trio.Event(), trio.Event()

    async def handle(call: ServerCall) -> None:
        began.set()
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async with serve_grpc(handle) as served:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_call_from, served.port)
            await began.wait()
            nursery.cancel_scope.cancel()
        await ended.wait()


async def test_an_early_answer_ends_the_upload() -> None:
    async def handle(call: ServerCall) -> None:
        call.finish(codes.RESOURCE_EXHAUSTED, "enough")
        await trio.sleep_forever()

    async with calling(handle) as (client, served):
        failed = await failure(client, value=bytes(5_000_000))
        assert (failed.code, failed.message) == (8, "enough")
        await wait_all_tasks_blocked()
        assert served.http2.streams_open == 0


async def _call_from(port: int) -> None:
    async with open_grpc_client(Origin("http", "127.0.0.1", port)) as client:
        await unary(client)


async def test_a_reply_may_come_before_the_requests_end() -> None:
    async def handle(call: ServerCall) -> None:
        call.bind(CLIENT_STREAM)
        raise GRPCError(Status.PERMISSION_DENIED, "not you")

    async with calling(handle) as (client, _):
        failed = await failure(client, value=bytes(5_000_000))
        assert (failed.code, failed.message) == (7, "not you")
        async with client.open_call("/t.T/M") as call:
            assert await call.recv_raw() is None
            assert call.status == 7
            assert not await call.send_raw(False, b"x")


# --- the connection ---------------------------------------------------------------------------------------------------


async def test_nobody_listening_is_a_failed_connection() -> None:
    async with serve_grpc(ECHO) as served:
        port = served.port
    async with open_grpc_client(Origin("http", "127.0.0.1", port)) as client:
        with pytest.raises(ConnectFailed, match="connection refused"):
            await unary(client)
        with pytest.raises(ConnectFailed, match="connection refused"):
            async with client.open_call("/t.T/Echo"):
                pass
        assert not client.connected


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n", b""])
async def test_what_speaks_no_http2_is_a_failed_connection(
    answer: bytes, autojump_clock: trio.testing.MockClock
) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(answer)
        if not answer:
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(functools.partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        async with open_grpc_client(Origin("http", "127.0.0.1", port)) as client:
            with pytest.raises(ConnectFailed, match=r"error reading server preface: .*; does it speak gRPC\?"):
                await unary(client)
        nursery.cancel_scope.cancel()


async def test_a_closed_client_calls_nobody() -> None:
    async with serve_grpc(ECHO) as served:
        async with open_grpc_client(Origin("http", "127.0.0.1", served.port)) as client:
            pass
        with pytest.raises(ConnectFailed, match="no longer calls there"):
            await unary(client)


async def test_an_error_of_the_block_is_no_group() -> None:
    with pytest.raises(KeyError):
        async with open_grpc_client(Origin("http", "127.0.0.1", 1)):
            raise KeyError


async def test_first_calls_share_one_attempt() -> None:
    async with calling(ECHO) as (client, served):
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(unary, client)
        assert served.http2.connections_open == 1
        assert client.connected


async def test_a_new_connection_follows_a_goodbye(autojump_clock: trio.testing.MockClock) -> None:
    async with calling(ECHO, http2_limits=Http2Limits(idle_max_s=20)) as (client, served):
        assert await unary(client) == b"x"
        await trio.sleep(60)
        assert served.http2.connections_open == 0
        assert not client.connected
        assert await unary(client) == b"x"
        assert served.http2.connections_open == 1


async def test_calls_wait_for_a_free_stream() -> None:
    async with calling(ECHO, http2_limits=Http2Limits(streams_max=1)) as (client, _):
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(unary, client)


async def test_who_waits_for_a_stream_may_be_cancelled_or_moved() -> None:
    busy = trio.Event()

    async def handle(call: ServerCall) -> None:
        if call.path == "/t.T/Wait":
            busy.set()
            await trio.sleep_forever()
        await echo(call)

    async with calling(handle, http2_limits=Http2Limits(streams_max=1)) as (client, _):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(failure, client, "/t.T/Wait")
            await busy.wait()
            with trio.move_on_after(0) as scope:
                await unary(client)
            assert scope.cancelled_caught
            nursery.start_soon(unary, client)
            await wait_all_tasks_blocked()
            assert client._line is not None
            assert client._line.connection is not None
            client._line.connection.end("gone")
        assert await unary(client) == b"x"


async def test_any_number_of_paths_is_called() -> None:
    async def handle(call: ServerCall) -> None:
        call.bind(UNARY)
        call.reply(BytesValue(value=call.path.encode()))

    async with calling(handle) as (client, _):
        for number in range(600):
            path = f"/t.T/M{number}"
            assert await unary(client, path) == path.encode()
        assert len(client._heads) <= 256


async def test_a_stream_passes_fields_as_they_are() -> None:
    async def handle(call: ServerCall) -> None:
        assert call.get("x") == "1"
        assert call.message_bytes_max == GrpcLimits().receive_max
        assert await call.raw_stream.receive() is None
        call.peer_has_ended()
        call.pass_headers([(b":status", b"200"), (b"content-type", b"application/grpc")])
        call.pass_headers([(b"grpc-status", b"4")], True)

    async with calling(handle) as (client, _):
        fields = [(b"content-type", b"application/grpc"), (b"x", b"1")]
        stream, over = await client.open_stream("/t.T/M", fields)
        await stream.send_data(b"", True)
        assert await stream.receive() is None
        assert stream.trailers == [(b"grpc-status", b"4")]
        over()


async def test_a_refused_call_is_repeated(autojump_clock: trio.testing.MockClock) -> None:
    refusals = 4

    async def handle(call: ServerCall) -> None:
        nonlocal refusals
        if refusals:
            refusals -= 1
            call._stream.reset(7)
        else:
            await echo(call)

    async with calling(handle) as (client, _):
        assert await unary(client) == b"x"


async def test_what_is_refused_again_and_again_fails(autojump_clock: trio.testing.MockClock) -> None:
    async def refuse(call: ServerCall) -> None:
        call._stream.reset(7)

    async with calling(refuse) as (client, _):
        failed = await failure(client)
        assert (failed.code, failed.message) == (14, "stream terminated by RST_STREAM with error code: REFUSED_STREAM")


@pytest.mark.parametrize(("code", "status"), [(8, 1), (2, 13), (11, 8), (0, 13)])
async def test_a_reset_stream_is_a_status(code: int, status: int) -> None:
    async def handle(call: ServerCall) -> None:
        call._stream.reset(code)

    async with calling(handle) as (client, _):
        assert (await failure(client)).code == status
        async with client.open_call("/t.T/M") as call:
            assert await call.initial() == ()
            assert await call.recv_raw() is None
            assert call.status == status


async def test_a_lost_connection_is_unavailable() -> None:
    async def handle(call: ServerCall) -> None:
        call._stream._session.end("gone")

    async with calling(handle) as (client, _):
        failed = await failure(client)
        assert failed.code == 14
        assert failed.message.startswith("error reading from server: ")


@pytest.mark.parametrize(
    ("head", "code", "text"),
    [
        ([(b":status", b"404")], 12, "404 (Not Found); transport: missing content-type field"),
        ([(b":status", b"401"), (b"content-type", b"text/plain")], 16, 'unexpected content-type "text/plain"'),
        ([(b":status", b"200"), (b"content-type", b"application/grpc")], 13, "without sending trailers"),
        ([(b":status", b"200"), (b"grpc-status", b"6"), (b"grpc-message", b"m")], 6, "m"),
        ([(b":status", b"200"), (b"content-type", b"application/grpc"), (b"grpc-status", b"x")], 13, "malformed"),
    ],
)
async def test_answers_of_other_servers(head: list[tuple[bytes, bytes]], code: int, text: str) -> None:
    async def handle(call: ServerCall) -> None:
        call._stream.send_headers(head, True)
        call._ended = True

    async with calling(handle) as (client, _):
        failed = await failure(client)
        assert failed.code == code
        assert text in failed.message
        async with client.open_call("/t.T/M") as call:
            assert await call.recv_raw() is None
            assert call.status == code
            assert text in call.message


async def test_trailers_without_status_are_unknown() -> None:
    async def handle(call: ServerCall) -> None:
        stream = call._stream
        stream.send_headers([(b":status", b"100")])
        stream.send_headers([(b":status", b"200"), (b"content-type", b"application/grpc+proto")])
        stream.send_headers([(b"other", b"1")], True)
        call._ended = True

    async with calling(handle) as (client, _):
        failed = await failure(client)
        assert (failed.code, failed.message, failed.trailing) == (2, "", [("other", "1")])


async def test_bad_metadata_of_a_server_is_internal() -> None:
    def ending(at: str) -> Callable[[ServerCall], Awaitable[None]]:
        async def handle(call: ServerCall) -> None:
            stream = call._stream
            bad = [(b"x-bin", b"!")]
            stream.send_headers(
                [(b":status", b"200"), (b"content-type", b"application/grpc"), *(bad if at == "head" else [])]
            )
            stream.try_send_data(bytes(5))
            stream.send_headers([(b"grpc-status", b"0"), *(bad if at == "end" else [])], True)
            call._ended = True

        return handle

    for at in ("head", "end"):
        async with calling(ending(at)) as (client, _):
            assert (await failure(client)).message.startswith("malformed binary metadata")
            async with client.open_call("/t.T/M") as call:
                while await call.recv_raw() is not None:
                    pass
                assert (call.status, call.message.partition(" ")[0]) == (13, "malformed")


@pytest.mark.parametrize(
    ("changes", "http_status", "code", "message"),
    [
        ({b"content-type": b"text/plain"}, b"415", b"3", b'invalid gRPC request content-type "text/plain"'),
        ({b"content-type": b"application/grpc-web"}, b"415", b"3", b"invalid gRPC"),
        ({b":method": b"PUT"}, b"405", b"13", b'Received a HEADERS frame with :method "PUT" which should be POST'),
        ({b"grpc-timeout": b"1x"}, b"400", b"13", b"malformed grpc-timeout: transport: timeout unit"),
        ({b"x-bin": b"!"}, b"400", b"13", b'malformed binary metadata "!" in header "x-bin": '),
        ({b":path": b"/no-method"}, b"200", b"12", b'malformed method name: "/no-method"'),
        ({b"content-type": b"application/grpc+proto", b"x-bin": b"AQ"}, b"200", b"0", None),
    ],
)
async def test_what_is_no_call_is_refused(
    changes: dict[bytes, bytes], http_status: bytes, code: bytes, message: bytes | None
) -> None:
    async with calling(ECHO) as (client, _):
        line, stream = await client._open_stream(list({**dict(client._head("/t.T/Echo", (), None)), **changes}.items()))
        await stream.send_data(bytes(5), True)
        await stream.response()
        while await stream.receive() is not None:
            pass
        line.leave()
        fields = dict([*stream.headers, *(stream.trailers or ())])
        assert (fields[b":status"], fields[b"grpc-status"]) == (http_status, code)
        if message is None:
            assert fields[b"content-type"] == b"application/grpc+proto"
        else:
            assert fields[b"content-type"] == b"application/grpc"
            assert fields[b"grpc-message"].startswith(message)


async def test_a_refused_call_stops_its_sender() -> None:
    async with calling(ECHO) as (client, _):
        head = [*client._head("/no-method", (), None)]
        line, stream = await client._open_stream(head)
        await stream.response()
        await wait_all_tasks_blocked()
        assert stream.closed
        line.leave()


async def test_the_log_is_quiet_about_clients_that_leave(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def handle(call: ServerCall) -> None:
        call.bind(SERVER_STREAM)
        while True:
            await call.send_message(BytesValue(value=bytes(100_000)))

    async with calling(handle) as (client, served):
        async with client.open_call("/t.T/M") as call:
            assert await call.recv_raw() is not None
        await wait_all_tasks_blocked()
        assert served.http2.streams_open == 0
    assert not caplog.records
