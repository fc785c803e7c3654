"""Configuration over gRPC through the face, under both names of each rpc."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from trio.testing import wait_all_tasks_blocked

from edge_runtime.api.grpc.face import GrpcFace
from edge_runtime.api.settings import FaceSettings
from edge_runtime.blocks.configuration import Configuration
from edge_runtime.model.errors import DriverError
from edge_runtime.model.ports import ConfigurationItem
from edge_runtime.observability.trace import Tracer
from edge_runtime.proto.dapr.proto.common.v1.common_pb2 import ConfigurationItem as ItemMessage
from edge_runtime.proto.dapr.proto.runtime.v1.configuration_pb2 import (
    GetConfigurationRequest,
    GetConfigurationResponse,
    SubscribeConfigurationRequest,
    SubscribeConfigurationResponse,
    UnsubscribeConfigurationRequest,
    UnsubscribeConfigurationResponse,
)
from tests.support.grpc_call import FakeCall, answer, reason
from tests.unit.blocks.configuration.fakes import FakeStore

ITEMS = {"a": ConfigurationItem("1", "v1", {"unit": "s"}), "b": ConfigurationItem("2")}


def face(block: Configuration) -> GrpcFace:
    blocks: Any = SimpleNamespace(configuration=block)
    return GrpcFace(blocks, FaceSettings(), Tracer(None), None, None)


@pytest.fixture(params=["", "Alpha1"])
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def test_items_are_read(version: str) -> None:
    store = FakeStore(ITEMS)
    request = GetConfigurationRequest(store_name="s", keys=["a", "zz"], metadata={"m": "1"})
    call = await answer(face(Configuration({"s": store})), FakeCall(f"GetConfiguration{version}", request))
    item = ItemMessage(value="1", version="v1", metadata={"unit": "s"})
    assert call.replies == [GetConfigurationResponse(items={"a": item})]
    assert store.asked == [(["a", "zz"], {"m": "1"})]


class Stream(FakeCall):
    """`lost`: what sending raises."""

    lost: Exception | None = None

    async def send_message(self, message: Any) -> None:
        if self.lost is not None:
            raise self.lost
        await super().send_message(message)


def subscription(version: str = "") -> Stream:
    return Stream(f"SubscribeConfiguration{version}", SubscribeConfigurationRequest(store_name="s", keys=["a"]))


async def test_a_stream_has_its_id_first(version: str) -> None:
    store, call = FakeStore(), subscription(version)
    served = face(Configuration({"s": store}))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(served.handle, call)
        await wait_all_tasks_blocked()
        await store.change(a="1")
        nursery.cancel_scope.cancel()
    first, second = call.replies
    assert isinstance(first, SubscribeConfigurationResponse)
    assert first == SubscribeConfigurationResponse(id=first.id)
    item = ItemMessage(value="1", version="2")
    assert second == SubscribeConfigurationResponse(id=first.id, items={"a": item})


async def test_unsubscribing_ends_the_stream(version: str) -> None:
    store, call = FakeStore(), subscription(version)
    served = face(Configuration({"s": store}))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(served.handle, call)
        await wait_all_tasks_blocked()
        found: Any = call.replies[0]
        request = UnsubscribeConfigurationRequest(store_name="s", id=found.id)
        ended = await answer(served, FakeCall(f"UnsubscribeConfiguration{version}", request))
    assert ended.replies == [UnsubscribeConfigurationResponse(ok=True)]


async def test_an_unknown_id_is_told_in_the_reply(version: str) -> None:
    request = UnsubscribeConfigurationRequest(store_name="s", id="x")
    served = face(Configuration({"s": FakeStore()}))
    call = await answer(served, FakeCall(f"UnsubscribeConfiguration{version}", request))
    text = "subscription with id x does not exist"
    assert call.replies == [UnsubscribeConfigurationResponse(ok=False, message=text)]


NOT_CONFIGURED = (Status.FAILED_PRECONDITION, "configuration stores not configured")
NOT_FOUND = (Status.INVALID_ARGUMENT, "configuration store s not found")
REQUESTS = {
    "GetConfiguration": GetConfigurationRequest(store_name="s"),
    "SubscribeConfiguration": SubscribeConfigurationRequest(store_name="s"),
    "UnsubscribeConfiguration": UnsubscribeConfigurationRequest(store_name="s"),
}


@pytest.mark.parametrize("rpc", REQUESTS)
@pytest.mark.parametrize(("stores", "error"), [({}, NOT_CONFIGURED), ({"t": FakeStore()}, NOT_FOUND)])
async def test_a_missing_store_is_told(
    version: str, rpc: str, stores: Mapping[str, Any], error: tuple[Status, str]
) -> None:
    call = await answer(face(Configuration(stores)), FakeCall(f"{rpc}{version}", REQUESTS[rpc]))
    assert (call.status, call.message) == error
    word = "NOT_FOUND" if stores else "NOT_CONFIGURED"
    assert reason(call.details) == f"ERR_CONFIGURATION_STORE_{word}"


async def test_a_store_that_cannot_be_followed_is_told() -> None:
    call = await answer(face(Configuration({"s": FakeStore({}, DriverError("off"))})), subscription())
    text = "failed to subscribe [a] from Configuration store s: off"
    assert (call.status, call.message) == (Status.INVALID_ARGUMENT, text)
    assert reason(call.details) == "ERR_CONFIGURATION_SUBSCRIBE"


async def test_a_client_that_sends_nothing_is_told() -> None:
    call = await answer(face(Configuration({"s": FakeStore()})), Stream("SubscribeConfiguration"))
    assert call.status is Status.UNKNOWN


async def test_a_stop_ends_streams() -> None:
    block, call = Configuration({"s": FakeStore()}), subscription()
    served, late = face(block), subscription()
    caught: list[GRPCError] = []

    async def serve(stream: Stream) -> None:
        try:
            await served.handle(stream)  # type: ignore[arg-type]
        except GRPCError as error:
            caught.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, call)
        await wait_all_tasks_blocked()
        block.release()
        await wait_all_tasks_blocked()
        nursery.start_soon(serve, late)
    assert [error.status for error in caught] == [Status.UNKNOWN, Status.UNAVAILABLE]


async def test_what_cannot_be_sent_ends_the_stream() -> None:
    call = subscription()
    call.lost = GRPCError(Status.RESOURCE_EXHAUSTED, "too large")
    call = await answer(face(Configuration({"s": FakeStore()})), call)
    assert call.status is Status.RESOURCE_EXHAUSTED
