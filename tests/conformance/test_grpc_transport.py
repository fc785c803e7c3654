"""Our gRPC transport against gRPC's own: grpcio as the client of our server, and as the server of our client."""

from __future__ import annotations

import sys
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import trio
from google.protobuf.wrappers_pb2 import BytesValue
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status as RpcStatus
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from trio.testing import wait_all_tasks_blocked

from edge_runtime.net.connections import Origin
from edge_runtime.net.grpc.client import GrpcClient, RpcError, open_grpc_client
from edge_runtime.net.grpc.server import GrpcLimits, ServerCall
from edge_runtime.net.http2 import Http2Limits, http2_tls
from tests.support.grpc_server import ECHO, SERVER_STREAM, UNARY, Handle, serve_grpc

pytestmark = pytest.mark.slow  # a channel of grpcio takes a while to come up


def message(value: bytes = b"") -> BytesValue:
    return BytesValue(value=value)


class Caller:
    """grpcio's channel to a port, each kind of call by its path; for a worker thread."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel

    def of(self, kind: str, path: str) -> Any:
        serializer: Any = BytesValue.SerializeToString
        return getattr(self.channel, kind)(path, serializer, BytesValue.FromString)

    def unary(self, path: str, value: bytes = b"x", **options: Any) -> Any:
        options.setdefault("timeout", 30)
        return self.of("unary_unary", path).with_call(message(value), **options)

    def failure(self, path: str, value: bytes = b"x", **options: Any) -> Any:
        with pytest.raises(grpc.RpcError) as caught:
            self.unary(path, value, **options)
        return caught.value


@asynccontextmanager
async def called_by_grpcio(
    handle: Handle,
    limits: GrpcLimits | None = None,
    http2_limits: Http2Limits | None = None,
    options: tuple[tuple[str, Any], ...] = (),
) -> AsyncIterator[Caller]:
    async with serve_grpc(handle, limits, http2_limits) as served:
        with grpc.insecure_channel(f"127.0.0.1:{served.port}", options) as channel:
            yield Caller(channel)
            await trio.to_thread.run_sync(channel.close)


in_thread = trio.to_thread.run_sync


# --- grpcio calls us --------------------------------------------------------------------------------------------------


async def test_every_kind_of_call_is_served() -> None:
    def call(caller: Caller) -> None:
        reply, _ = caller.unary("/t.T/Echo", b"hello")
        assert reply.value == b"hello"
        replies = caller.of("unary_stream", "/t.T/Count")(message(b"100"), timeout=30)
        assert [int(reply.value) for reply in replies] == list(range(100))
        parts = iter([message(b"a"), message(b"b"), message(b"c")])
        assert caller.of("stream_unary", "/t.T/Join")(parts, timeout=30).value == b"abc"
        talk = caller.of("stream_stream", "/t.T/Talk")(iter([message(b"a"), message(b"b")]), timeout=30)
        assert [reply.value for reply in talk] == [b"A", b"B"]

    async with called_by_grpcio(ECHO) as caller:
        await in_thread(call, caller)


async def test_empty_and_large_messages_pass() -> None:
    def call(caller: Caller) -> None:
        for size in (0, 1, 16_000, 70_000, 3_000_000):
            reply, _ = caller.unary("/t.T/Echo", bytes(size))
            assert len(reply.value) == size
        assert list(caller.of("unary_stream", "/t.T/Count")(message(b"0"), timeout=30)) == []
        assert caller.of("stream_unary", "/t.T/Join")(iter([]), timeout=30).value == b""

    async with called_by_grpcio(ECHO) as caller:
        await in_thread(call, caller)


async def test_metadata_of_grpcio_goes_both_ways() -> None:
    async def handle(call: ServerCall) -> None:
        call.bind(UNARY)
        await call.recv_message()
        mirrored = [pair for pair in call.metadata if pair[0].startswith("x-")]
        call.reply(message(), mirrored, mirrored)

    def call(caller: Caller) -> None:
        sent = [("x-a", "1"), ("x-a", "2"), ("x-raw-bin", b"\x00\xff\x01"), ("x-big", "y" * 5000)]
        _, seen = caller.unary("/t.T/M", metadata=sent)
        assert sorted(seen.initial_metadata()) == sorted(sent)
        assert sorted(seen.trailing_metadata()) == sorted(sent)

    async with called_by_grpcio(handle) as caller:
        await in_thread(call, caller)


async def test_ten_kilobytes_of_metadata_reach_grpcio() -> None:
    async def handle(call: ServerCall) -> None:
        call.bind(UNARY)
        await call.recv_message()
        call.reply(message(), [("x-big", "y" * 10_000)])

    def call(caller: Caller) -> None:
        _, seen = caller.unary("/t.T/M", metadata=[("x-big", "y" * 10_000)])
        assert dict(seen.initial_metadata()) == {"x-big": "y" * 10_000}

    async with called_by_grpcio(handle, options=(("grpc.max_metadata_size", 65536),)) as caller:
        await in_thread(call, caller)


async def test_initial_metadata_comes_before_the_first_message() -> None:
    go_on = trio.Event()

    async def handle(call: ServerCall) -> None:
        call.bind(SERVER_STREAM)
        await call.recv_message()
        await call.send_initial_metadata([("x-early", "yes")])
        await go_on.wait()
        await call.send_message(message(b"late"))

    def call(caller: Caller) -> None:
        replies = caller.of("unary_stream", "/t.T/M")(message(), timeout=30)
        assert dict(replies.initial_metadata()) == {"x-early": "yes"}
        trio.from_thread.run_sync(go_on.set)
        assert [reply.value for reply in replies] == [b"late"]

    async with called_by_grpcio(handle) as caller:
        await in_thread(call, caller)


async def test_rich_errors_reach_grpcio() -> None:
    details = RpcStatus(code=9, message="Zustand: 100% schlecht")
    details.details.add().Pack(ErrorInfo(domain="dapr.io", reason="WHY"))

    async def handle(call: ServerCall) -> None:
        call.bind(UNARY)
        raise GRPCError(Status.FAILED_PRECONDITION, details.message, details.SerializeToString())

    def call(caller: Caller) -> None:
        error = caller.failure("/t.T/M")
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert error.details() == "Zustand: 100% schlecht"
        assert dict(error.trailing_metadata())["grpc-status-details-bin"] == details.SerializeToString()

    async with called_by_grpcio(handle) as caller:
        await in_thread(call, caller)


async def test_blanks_in_errors_reach_grpcio() -> None:
    async def handle(call: ServerCall) -> None:
        call.bind(UNARY)
        raise GRPCError(Status.NOT_FOUND, " no store with key ")

    def call(caller: Caller) -> None:
        assert caller.failure("/t.T/M").details() == " no store with key "

    async with called_by_grpcio(handle) as caller:
        await in_thread(call, caller)


async def test_an_error_follows_messages() -> None:
    async def handle(call: ServerCall) -> None:
        call.bind(SERVER_STREAM)
        await call.recv_message()
        await call.send_message(message(b"one"))
        raise GRPCError(Status.DATA_LOSS, "no more")

    def call(caller: Caller) -> None:
        replies = caller.of("unary_stream", "/t.T/M")(message(), timeout=30)
        assert next(replies).value == b"one"
        with pytest.raises(grpc.RpcError) as caught:
            next(replies)
        assert caught.value.code() is grpc.StatusCode.DATA_LOSS

    async with called_by_grpcio(handle) as caller:
        await in_thread(call, caller)


async def test_long_messages_of_errors_fit_grpcio() -> None:
    async def handle(call: ServerCall) -> None:
        raise GRPCError(Status.INTERNAL, "ü" * 100_000)

    def call(caller: Caller) -> None:
        error = caller.failure("/t.T/M")
        assert error.code() is grpc.StatusCode.INTERNAL
        assert error.details().endswith("ü...")

    async with called_by_grpcio(handle) as caller:
        await in_thread(call, caller)


async def test_deadlines_of_grpcio_are_kept() -> None:
    ended = trio.Event()

    async def handle(call: ServerCall) -> None:
        assert call.deadline is not None
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    def call(caller: Caller) -> None:
        assert caller.failure("/t.T/M", timeout=0.05).code() is grpc.StatusCode.DEADLINE_EXCEEDED

    async with called_by_grpcio(handle) as caller:
        await in_thread(call, caller)
        await ended.wait()


async def test_grpcio_cancels_a_handler() -> None:
    began = threading.Event()
    ended = trio.Event()

    async def handle(call: ServerCall) -> None:
        began.set()
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    def call(caller: Caller) -> None:
        future = caller.of("unary_unary", "/t.T/M").future(message())
        assert began.wait(30)
        future.cancel()

    async with called_by_grpcio(handle) as caller:
        await in_thread(call, caller)
        await ended.wait()


async def test_grpcio_may_send_gzip() -> None:
    def call(caller: Caller) -> None:
        data = b"again " * 10_000
        reply, _ = caller.unary("/t.T/Echo", data, compression=grpc.Compression.Gzip)
        assert reply.value == data
        error = caller.failure("/t.T/Echo", data, compression=grpc.Compression.Deflate)
        assert error.code() is grpc.StatusCode.UNIMPLEMENTED
        error = caller.failure("/t.T/Echo", bytes(3_000_000), compression=grpc.Compression.Gzip)
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED

    async with called_by_grpcio(ECHO, GrpcLimits(message_bytes_max=100_000)) as caller:
        await in_thread(call, caller)


async def test_messages_over_the_limit_are_refused() -> None:
    def call(caller: Caller) -> None:
        error = caller.failure("/t.T/Echo", bytes(200_000))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert error.details() == "grpc: received message larger than max (200004 vs. 100000)"
        reply, _ = caller.unary("/t.T/Echo", b"still here")
        assert reply.value == b"still here"

    async with called_by_grpcio(ECHO, GrpcLimits(message_bytes_max=100_000)) as caller:
        await in_thread(call, caller)


async def test_many_calls_of_grpcio_at_once() -> None:
    def call(caller: Caller) -> None:
        echo = caller.of("unary_unary", "/t.T/Echo")
        futures = [echo.future(message(b"%d" % number), timeout=60) for number in range(1000)]
        assert [int(future.result().value) for future in futures] == list(range(1000))

    async with called_by_grpcio(ECHO, http2_limits=Http2Limits(streams_max=100)) as caller:
        await in_thread(call, caller)


async def test_asyncio_clients_are_served() -> None:
    script = """
import asyncio, sys
import grpc
from google.protobuf.wrappers_pb2 import BytesValue

async def main(port):
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        echo = channel.unary_unary("/t.T/Echo", BytesValue.SerializeToString, BytesValue.FromString)
        replies = await asyncio.gather(*(echo(BytesValue(value=b"%d" % n), timeout=30) for n in range(100)))
        assert [int(reply.value) for reply in replies] == list(range(100))
        talk = channel.stream_stream("/t.T/Talk", BytesValue.SerializeToString, BytesValue.FromString)(timeout=30)
        for part in (b"a", b"b"):
            await talk.write(BytesValue(value=part))
            assert (await talk.read()).value == part.upper()
        await talk.done_writing()
        assert await talk.read() is grpc.aio.EOF
        assert await talk.code() is grpc.StatusCode.OK

asyncio.run(main(int(sys.argv[1])))
"""
    async with serve_grpc(ECHO) as served:
        await trio.run_process([sys.executable, "-c", script, str(served.port)])


# --- we call grpcio ---------------------------------------------------------------------------------------------------


class Generic(grpc.GenericRpcHandler):  # type: ignore[misc]
    """The same services, by grpcio."""

    def service(self, details: Any) -> Any:
        codec = {"request_deserializer": BytesValue.FromString, "response_serializer": BytesValue.SerializeToString}
        return {
            "/t.T/Echo": grpc.unary_unary_rpc_method_handler(self.echo, **codec),
            "/t.T/Fail": grpc.unary_unary_rpc_method_handler(self.fail, **codec),
            "/t.T/Wait": grpc.unary_unary_rpc_method_handler(self.wait, **codec),
            "/t.T/Count": grpc.unary_stream_rpc_method_handler(self.count, **codec),
            "/t.T/Join": grpc.stream_unary_rpc_method_handler(self.join, **codec),
            "/t.T/Talk": grpc.stream_stream_rpc_method_handler(self.talk, **codec),
        }.get(details.method)

    def echo(self, request: Any, context: Any) -> Any:
        mirrored = [(pair.key, pair.value) for pair in context.invocation_metadata() if pair.key.startswith("x-")]
        context.send_initial_metadata(mirrored)
        context.set_trailing_metadata(mirrored)
        return request

    def fail(self, request: Any, context: Any) -> Any:
        status = RpcStatus(code=5, message="kein Schlüssel")
        context.set_trailing_metadata([("grpc-status-details-bin", status.SerializeToString()), ("x-why", "so")])
        context.abort(grpc.StatusCode.NOT_FOUND, request.value.decode() or "kein Schlüssel")

    def wait(self, request: Any, context: Any) -> Any:
        done = threading.Event()
        context.add_callback(done.set)
        done.wait()
        return request

    def count(self, request: Any, context: Any) -> Iterator[Any]:
        for number in range(int(request.value)):
            yield message(b"%d" % number)

    def join(self, requests: Any, context: Any) -> Any:
        return message(b"".join(request.value for request in requests))

    def talk(self, requests: Any, context: Any) -> Iterator[Any]:
        for request in requests:
            yield message(request.value.upper())


@asynccontextmanager
async def calling_grpcio(compression: Any = None, options: Any = ()) -> AsyncIterator[GrpcClient]:
    workers = ThreadPoolExecutor(8)
    server = grpc.server(workers, [Generic()], compression=compression, options=options)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        async with open_grpc_client(Origin("http", "127.0.0.1", port)) as client:
            yield client
    finally:
        await in_thread(server.stop(0).wait)
        workers.shutdown()


async def conversation(client: GrpcClient, path: str, *parts: bytes, **options: Any) -> tuple[list[bytes], int | None]:
    found = []
    async with client.open_call(path, **options) as call:
        for part in parts:
            await call.send_raw(False, message(part).SerializeToString())
        await call.end()
        while (frame := await call.recv_raw()) is not None:
            found.append(BytesValue.FromString(frame[1]).value)
        return found, call.status


async def test_every_kind_of_call_is_made() -> None:
    async with calling_grpcio() as client:
        assert (await client.unary("/t.T/Echo", message(b"hello"), BytesValue)).message.value == b"hello"
        assert await conversation(client, "/t.T/Count", b"100") == ([b"%d" % number for number in range(100)], 0)
        assert await conversation(client, "/t.T/Join", b"a", b"b", b"c") == ([b"abc"], 0)
        assert await conversation(client, "/t.T/Talk", b"a", b"b", timeout_s=30) == ([b"A", b"B"], 0)
        assert await conversation(client, "/t.T/None", b"a") == ([], 12)


async def test_metadata_returns_from_grpcio() -> None:
    sent = [("x-a", "1"), ("x-a", "2"), ("x-raw-bin", b"\x00\xff")]
    async with calling_grpcio() as client:
        reply = await client.unary("/t.T/Echo", message(), BytesValue, metadata=sent)
    assert [pair for pair in reply.initial if pair[0].startswith("x-")] == sent
    assert [pair for pair in reply.trailing if pair[0].startswith("x-")] == sent


async def test_errors_of_grpcio_are_told_whole() -> None:
    async with calling_grpcio() as client:
        with pytest.raises(RpcError) as caught:
            await client.unary("/t.T/Fail", message(), BytesValue, timeout_s=30)
        error = caught.value
        assert (error.code, error.message) == (5, "kein Schlüssel")
        assert RpcStatus.FromString(error.details).message == "kein Schlüssel"
        assert ("x-why", "so") in error.trailing
        with pytest.raises(RpcError) as caught:
            await client.unary("/t.T/None", message(), BytesValue)
        assert caught.value.code == 12


async def test_blanks_of_grpcio_fail_no_call() -> None:
    async with calling_grpcio() as client:
        with pytest.raises(RpcError) as caught:
            await client.unary("/t.T/Fail", message(b"not found: "), BytesValue, timeout_s=30)
        assert (caught.value.code, caught.value.message) == (5, "not found:")


async def test_grpcio_may_answer_gzip() -> None:
    async with calling_grpcio(grpc.Compression.Gzip) as client:
        async with client.open_call("/t.T/Echo", accept_encoding=b"gzip,identity") as call:
            await call.send_raw(False, message(b"again " * 10_000).SerializeToString())
            await call.end()
            await call.initial()
            assert call.encoding == b"gzip"
            frame = await call.recv_raw()
            assert frame is not None
            assert frame[0]
            assert len(frame[1]) < 10_000


async def test_large_messages_go_to_grpcio() -> None:
    async with calling_grpcio() as client:
        for size in (70_000, 3_000_000):
            reply = await client.unary("/t.T/Echo", message(bytes(size)), BytesValue)
            assert len(reply.message.value) == size
        with pytest.raises(RpcError) as caught:
            await client.unary("/t.T/Echo", message(bytes(4_194_300)), BytesValue)
        assert caught.value.code == 8


async def test_time_runs_out_at_grpcio() -> None:
    async with calling_grpcio() as client:
        with pytest.raises(RpcError) as caught:
            await client.unary("/t.T/Wait", message(), BytesValue, timeout_s=0.05)
        assert caught.value.code == 4


async def test_calls_wait_for_a_free_stream() -> None:
    async with calling_grpcio(options=(("grpc.max_concurrent_streams", 3),)) as client:
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(client.unary, "/t.T/Echo", message(), BytesValue)
        await wait_all_tasks_blocked()


async def test_grpcio_is_called_over_tls(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    await trio.run_process(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-subj", "/CN=app", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate),
        ],
        capture_stderr=True,
    )  # fmt: skip
    tls = http2_tls()
    tls.load_verify_locations(certificate)
    workers = ThreadPoolExecutor(2)
    server = grpc.server(workers, [Generic()])
    credentials = grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())])
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        async with open_grpc_client(Origin("https", "127.0.0.1", port), tls) as client:
            for size in (1, 300_000):
                reply = await client.unary("/t.T/Echo", message(bytes(size)), BytesValue, timeout_s=30)
                assert len(reply.message.value) == size
    finally:
        await in_thread(server.stop(0).wait)
        workers.shutdown()


async def test_a_stopped_server_is_found_again() -> None:
    async with calling_grpcio() as client:
        origin = client._origin
        assert (await client.unary("/t.T/Echo", message(b"1"), BytesValue)).message.value == b"1"
    async with open_grpc_client(origin) as client:
        with pytest.raises(Exception, match="refused"):
            await client.unary("/t.T/Echo", message(), BytesValue)
        workers = ThreadPoolExecutor(2)
        server = grpc.server(workers, [Generic()])
        assert server.add_insecure_port(f"127.0.0.1:{origin.port}") == origin.port
        server.start()
        assert (await client.unary("/t.T/Echo", message(b"2"), BytesValue)).message.value == b"2"
        await in_thread(server.stop(0).wait)
        workers.shutdown()
