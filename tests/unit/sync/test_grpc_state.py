"""State of the other sidecar over gRPC: a real link to a loopback server whose store is the test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from google.protobuf.empty_pb2 import Empty
from grpclib.const import Cardinality, Handler
from grpclib.const import Status as Code
from grpclib.exceptions import GRPCError

from edge_runtime.config.links import CloudLink
from edge_runtime.model.errors import DriverError, EtagInvalid, EtagMismatch, Unreachable
from edge_runtime.net.grpc.limits import GrpcLimits
from edge_runtime.net.grpc.server import ServerCall
from edge_runtime.observability.metrics import Metrics, render
from edge_runtime.proto.dapr.proto.common.v1.common_pb2 import StateOptions
from edge_runtime.proto.dapr.proto.runtime.v1.state_pb2 import (
    BulkStateItem,
    DeleteStateRequest,
    GetBulkStateRequest,
    GetBulkStateResponse,
    SaveStateRequest,
)
from edge_runtime.sync.grpc_state import GrpcState
from edge_runtime.sync.link import Link
from edge_runtime.sync.link_answers import TooLarge
from edge_runtime.sync.link_settings import LinkLimits, LinkMetrics, LinkSettings
from tests.loopback import Talk, loopback_app
from tests.support.grpc_server import serve_grpc

FIRST = StateOptions.CONCURRENCY_FIRST_WRITE
TYPES: dict[str, tuple[Any, Any]] = {
    "GetBulkState": (GetBulkStateRequest, GetBulkStateResponse),
    "SaveState": (SaveStateRequest, Empty),
    "DeleteState": (DeleteStateRequest, Empty),
}


class Store:
    """A store with `items`; `failure` is what it says to everything."""

    def __init__(self) -> None:
        self.items: dict[str, BulkStateItem] = {}
        self.failure: GRPCError | None = None
        self.asked: list[Any] = []
        self.metadata: list[Any] = []

    def put(self, key: str, **fields: Any) -> None:
        self.items[key] = BulkStateItem(key=key, **fields)

    async def serve(self, call: ServerCall) -> None:
        request_type, reply_type = TYPES[call.path.rpartition("/")[2]]
        call.bind(Handler(None, Cardinality.UNARY_UNARY, request_type, reply_type))
        request: Any = await call.recv_message()
        self.asked.append(request)
        self.metadata = list(call.metadata)
        if self.failure is not None:
            raise self.failure
        if isinstance(request, GetBulkStateRequest):
            call.reply(GetBulkStateResponse(items=[self.items[key] for key in request.keys if key in self.items]))
        else:
            call.reply(Empty())


class Opened:
    def __init__(self, link: Link, store: Store, metrics: Metrics) -> None:
        self.link, self.store, self.metrics = link, store, metrics
        self.remote = GrpcState(link)


@asynccontextmanager
async def open_state() -> AsyncIterator[Opened]:
    async def healthy(talk: Talk) -> None:
        while await talk.request() is not None:
            await talk.answer(b"", 204)

    store, metrics = Store(), Metrics()
    async with loopback_app(healthy) as app, serve_grpc(store.serve, GrpcLimits(message_bytes_max=20_000)) as served:
        ends = f"http://127.0.0.1:{app.origin.port}", f"http://127.0.0.1:{served.port}"
        settings = LinkSettings(CloudLink("cloud", *ends), (("token", "secret"),), "", LinkLimits())
        link = Link(settings, LinkMetrics(metrics), None)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.run)
            with trio.fail_after(10):
                await link.until_up()
            yield Opened(link, store, metrics)
            nursery.cancel_scope.cancel()


async def test_keys_are_read_in_bulk_byte_for_byte() -> None:
    async with open_state() as opened:
        opened.store.put("text", data=b"hello", etag="1")
        opened.store.put("bytes", data=bytes(range(256)), etag="2")
        opened.store.put("empty", data=b"", etag="3")
        opened.store.put("gone")
        opened.store.put("broken", error="disk")
        found = dict(await opened.remote.bulk_get("redis", ["text", "bytes", "empty", "gone", "broken", "unsaid"]))
        assert str(found.pop("broken")) == "link cloud: redis: disk"
        assert "says nothing of the key" in str(found.pop("unsaid"))
        assert found == {"text": (b"hello", "1"), "bytes": (bytes(range(256)), "2"), "empty": (b"", "3"), "gone": None}
        assert ("dapr-api-token", "secret") in opened.store.metadata
        page = render((opened.metrics,))
        assert 'dapr_edge_link_calls_total{class="state",link="cloud",outcome="done"} 1' in page
        assert 'dapr_edge_link_bytes_total{class="state",direction="sent",link="cloud"}' in page
        assert 'class="topics-down"' not in page


async def test_many_keys_are_several_calls() -> None:
    async with open_state() as opened:
        await opened.remote.bulk_get("redis", [f"k{n}" for n in range(250)])
        assert [len(request.keys) for request in opened.store.asked] == [100, 100, 50]
        assert opened.store.asked[0].parallelism == 10


async def test_values_too_large_together_come_apart() -> None:
    async with open_state() as opened:
        for name in "abcd":
            opened.store.put(name, data=name.encode() * 9000, etag="1")
        opened.store.put("huge", data=b"h" * 20_001, etag="1")
        found = dict(await opened.remote.bulk_get("redis", ["a", "b", "huge", "c", "d"]))
        huge = found.pop("huge")
        assert isinstance(huge, TooLarge)
        assert "--max-body-size" in str(huge)
        assert {key: row and len(row[0]) for key, row in found.items()} == dict.fromkeys("abcd", 9000)  # type: ignore[index]


async def test_writes_carry_their_etags() -> None:
    async with open_state() as opened:
        await opened.remote.save("redis", "a", b"\xff\x00", "7")
        await opened.remote.save("redis", "a", b"new")
        await opened.remote.save("redis", "a", b"", None, False)
        (over,), (first,), (last,) = (request.states for request in opened.store.asked)
        assert (over.value, over.etag.value, over.options.concurrency) == (b"\xff\x00", "7", FIRST)
        assert (first.value, first.HasField("etag"), first.options.concurrency) == (b"new", False, FIRST)
        assert (last.value, last.HasField("etag"), last.HasField("options")) == (b"", False, False)
        assert not over.metadata
        await opened.remote.delete("redis", "a", "8")
        await opened.remote.delete("redis", "a")
        fenced, plain = opened.store.asked[3:]
        assert (fenced.key, fenced.etag.value, fenced.options.concurrency) == ("a", "8", FIRST)
        assert (plain.HasField("etag"), plain.HasField("options")) == (False, False)


@pytest.mark.parametrize(
    ("code", "text", "expected", "permanent"),
    [
        (Code.ABORTED, "possible etag mismatch", EtagMismatch, True),
        (Code.INVALID_ARGUMENT, "failed saving state in state store redis: invalid etag value: x", EtagInvalid, True),
        (Code.INVALID_ARGUMENT, "input key 'a||b' can't contain '||'", DriverError, True),
        (Code.INVALID_ARGUMENT, "state store redis is not found", DriverError, False),
        (Code.FAILED_PRECONDITION, "state store redis is not configured", DriverError, False),
        (Code.PERMISSION_DENIED, "blocked", DriverError, False),
        (Code.NOT_FOUND, "what?", DriverError, False),
        (Code.UNIMPLEMENTED, "unknown service", DriverError, False),
        (Code.INTERNAL, "disk full", DriverError, False),
        (Code.UNAVAILABLE, "later", DriverError, False),
        (Code.RESOURCE_EXHAUSTED, "slow down", DriverError, False),
        (Code.RESOURCE_EXHAUSTED, "grpc: received message larger than max (9 vs. 4)", TooLarge, True),
        (Code.UNAUTHENTICATED, "who?", Unreachable, False),
    ],
)
async def test_codes_have_meanings(code: Code, text: str, expected: type[DriverError], permanent: bool) -> None:
    async with open_state() as opened:
        opened.store.failure = GRPCError(code, text)
        with pytest.raises(expected, match="who|token" if expected is Unreachable else None) as caught:
            await opened.remote.save("redis", "a", b"1", "7")
        assert caught.value.permanent is permanent


async def test_a_value_too_large_is_refused() -> None:
    async with open_state() as opened:
        with pytest.raises(TooLarge, match="larger than max"):
            await opened.remote.save("redis", "a", b"x" * 30_000)
