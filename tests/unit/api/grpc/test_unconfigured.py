"""The rpcs of blocks without a driver, as the face answers them."""

from types import SimpleNamespace
from typing import Any

import pytest
import trio
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import ErrorInfo
from grpclib import GRPCError, Status

from edge_runtime.api.grpc.errors import grpc_error
from edge_runtime.api.grpc.groups import GROUPS
from edge_runtime.api.grpc.unary import RpcCall
from edge_runtime.api.grpc.unconfigured import UnconfiguredRpcs
from edge_runtime.blocks.metadata import AppConnection, Metadata
from edge_runtime.model.errors import EdgeError
from edge_runtime.proto.dapr.proto.runtime.v1 import (
    actors_pb2,
    ai_pb2,
    crypto_pb2,
    dapr_pb2,
    jobs_pb2,
    lock_pb2,
)
from tests.support.grpc_call import unpacked

RPCS = {method.name: method for method in dapr_pb2.DESCRIPTOR.services_by_name["Dapr"].methods}
LATER = ("actors", "conversation", "crypto", "jobs", "lock", "subtlecrypto", "unlock")
STREAMS = ("EncryptAlpha1", "DecryptAlpha1", "SubscribeActorEventsAlpha1")


class FakeStream:
    """What a client sends on a call, then its end; `silent`: nothing ever comes."""

    def __init__(self, *messages: Message, silent: bool = False) -> None:
        self.messages = list(messages)
        self.silent = silent

    async def recv_message(self) -> Message | None:
        if self.silent:
            await trio.sleep_forever()
        return self.messages.pop(0) if self.messages else None


def rpcs(protocol: str = "grpc") -> UnconfiguredRpcs:
    served = UnconfiguredRpcs()
    metadata = Metadata("shop", "1.19.0", connection=AppConnection(3000, protocol, "127.0.0.1", -1))
    blocks: Any = SimpleNamespace(metadata=metadata, namespace="default")
    served.blocks = blocks
    return served


async def refusal(name: str, request: Message | None = None) -> GRPCError:
    """How a unary rpc refuses; without a request, an empty one."""
    given = request if request is not None else empty_request(name)
    handler: Any = getattr(rpcs(), name)
    stream: Any = FakeStream(given)
    with pytest.raises(EdgeError) as caught:
        await handler.unary(rpcs(), RpcCall(stream), given)
    return grpc_error(caught.value)


async def stream_refusal(name: str, *messages: Message, silent: bool = False, protocol: str = "grpc") -> GRPCError:
    """How an rpc with a stream refuses what comes over it."""
    stream: Any = FakeStream(*messages, silent=silent)
    with pytest.raises(EdgeError) as caught:
        await getattr(rpcs(protocol), name)(stream)
    return grpc_error(caught.value)


def empty_request(name: str) -> Message:
    request: Message = RPCS[name].input_type._concrete_class()
    return request


def told(error: GRPCError) -> tuple[Status, str | None]:
    return error.status, error.message


def test_every_rpc_of_later_blocks_is_answered() -> None:
    missing = {rpc for rpc, (group, _) in GROUPS.items() if group in (*LATER, "workflows") and not hasattr(rpcs(), rpc)}
    assert not missing


def test_no_rpc_of_other_blocks_is_answered() -> None:
    assert not {rpc for rpc in RPCS if hasattr(rpcs(), rpc) and GROUPS[rpc][0] not in (*LATER, "workflows")}


ACTORS = [rpc for rpc, (group, _) in GROUPS.items() if group in ("actors", "workflows") and rpc not in STREAMS]


@pytest.mark.parametrize("name", ACTORS)
async def test_actors_and_workflows_need_placement(name: str) -> None:
    error = await refusal(name)
    assert told(error) == (Status.UNAVAILABLE, "placement service is not configured")
    assert error.details is None


async def test_an_expiry_comes_before_the_store() -> None:
    error = await refusal("TryLockAlpha1", lock_pb2.TryLockRequest(store_name="locks"))
    assert told(error) == (Status.INVALID_ARGUMENT, "ExpiryInSeconds is not positive in lock store locks")
    error = await refusal("TryLockAlpha1", lock_pb2.TryLockRequest(store_name="locks", expiry_in_seconds=5))
    assert told(error) == (Status.FAILED_PRECONDITION, "lock store is not configured")
    assert told(await refusal("UnlockAlpha1")) == (Status.FAILED_PRECONDITION, "lock store is not configured")


@pytest.mark.parametrize("request_type", [ai_pb2.ConversationRequest, ai_pb2.ConversationRequestAlpha2])
async def test_no_conversation_is_found(request_type: Any) -> None:
    name = "ConverseAlpha1" if request_type is ai_pb2.ConversationRequest else "ConverseAlpha2"
    error = await refusal(name, request_type(name="llm"))
    assert told(error) == (Status.INVALID_ARGUMENT, "failed finding conversation component llm")
    assert error.details is None


SUBTLE = [rpc for rpc, (group, _) in GROUPS.items() if group == "subtlecrypto"]


@pytest.mark.parametrize("name", SUBTLE)
async def test_subtle_cryptography_is_not_there(name: str) -> None:
    assert told(await refusal(name)) == (Status.UNIMPLEMENTED, "this API is currently not implemented")


# --- streams of cryptography ------------------------------------------------------------------------------------------

ENCRYPT_OPTIONS = crypto_pb2.EncryptRequestOptions(component_name="c", key_name="k", key_wrap_algorithm="A256KW")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (None, "first message does not contain the required options"),
        (crypto_pb2.EncryptRequestOptions(), "missing property 'keyName' in the options message"),
        (
            crypto_pb2.EncryptRequestOptions(key_name="k"),
            "missing property 'keyWrapAlgorithm' in the options message",
        ),
    ],
)
async def test_encryption_asks_for_its_options(options: crypto_pb2.EncryptRequestOptions | None, text: str) -> None:
    error = await stream_refusal("EncryptAlpha1", crypto_pb2.EncryptRequest(options=options))
    assert told(error) == (Status.INVALID_ARGUMENT, f"invalid request: {text}")


async def test_decryption_asks_for_its_options() -> None:
    error = await stream_refusal("DecryptAlpha1", crypto_pb2.DecryptRequest())
    text = "invalid request: first message does not contain the required options"
    assert told(error) == (Status.INVALID_ARGUMENT, text)


async def test_there_is_no_provider_of_cryptography() -> None:
    for name, message in (
        ("EncryptAlpha1", crypto_pb2.EncryptRequest(options=ENCRYPT_OPTIONS)),
        ("DecryptAlpha1", crypto_pb2.DecryptRequest(options=crypto_pb2.DecryptRequestOptions())),
    ):
        assert told(await stream_refusal(name, message)) == (Status.INTERNAL, "crypto providers not configured")


@pytest.mark.parametrize("name", ["EncryptAlpha1", "DecryptAlpha1"])
async def test_the_first_message_must_come_soon(name: str, autojump_clock: trio.testing.MockClock) -> None:
    before = trio.current_time()
    error = await stream_refusal(name, silent=True)
    text = "invalid request: error waiting for first message: context deadline exceeded"
    assert told(error) == (Status.INVALID_ARGUMENT, text)
    assert trio.current_time() - before == 5


@pytest.mark.parametrize("name", ["EncryptAlpha1", "DecryptAlpha1"])
async def test_the_first_message_must_come_at_all(name: str) -> None:
    text = "failed to perform operation: error receiving the first message: EOF"
    assert told(await stream_refusal(name)) == (Status.INTERNAL, text)


# --- actors over a stream ---------------------------------------------------------------------------------------------

INITIAL = actors_pb2.SubscribeActorEventsRequestAlpha1(
    initial_request=actors_pb2.SubscribeActorEventsRequestInitialAlpha1(entities=["Cat"])
)


async def test_actors_over_a_stream_need_grpc() -> None:
    error = await stream_refusal("SubscribeActorEventsAlpha1", INITIAL, protocol="http")
    assert told(error) == (Status.FAILED_PRECONDITION, "actor callback streaming requires a gRPC app channel")


@pytest.mark.parametrize("first", [None, actors_pb2.SubscribeActorEventsRequestAlpha1()])
async def test_actors_register_first(first: Message | None) -> None:
    error = await stream_refusal("SubscribeActorEventsAlpha1", *([first] if first is not None else []))
    text = "first message must be SubscribeActorEventsRequestInitialAlpha1"
    assert told(error) == (Status.INVALID_ARGUMENT, text)


async def test_registered_actors_need_placement() -> None:
    error = await stream_refusal("SubscribeActorEventsAlpha1", INITIAL)
    assert told(error) == (Status.UNAVAILABLE, "placement service is not configured")


# --- jobs -------------------------------------------------------------------------------------------------------------

INFO = {"appID": "shop", "namespace": "default"}


@pytest.mark.parametrize("version", ["", "Alpha1"])
@pytest.mark.parametrize(
    ("job", "text", "reason"),
    [
        (None, "Job is empty", "DAPR_SCHEDULER_EMPTY"),
        (jobs_pb2.Job(), "Name is empty", "DAPR_SCHEDULER_JOB_NAME_EMPTY"),
        (jobs_pb2.Job(name="j"), "Schedule is empty", "DAPR_SCHEDULER_SCHEDULE_EMPTY"),
    ],
)
async def test_a_job_is_looked_at_first(job: jobs_pb2.Job | None, text: str, reason: str, version: str) -> None:
    error = await refusal(f"ScheduleJob{version}", jobs_pb2.ScheduleJobRequest(job=job))
    assert told(error) == (Status.INVALID_ARGUMENT, text)
    assert unpacked(error.details) == [ErrorInfo(reason=reason, domain="dapr.io", metadata=INFO)]


@pytest.mark.parametrize("job", [jobs_pb2.Job(name="j", schedule="@daily"), jobs_pb2.Job(name="j", due_time="")])
async def test_no_job_can_be_scheduled(job: jobs_pb2.Job) -> None:
    error = await refusal("ScheduleJob", jobs_pb2.ScheduleJobRequest(job=job))
    text = "failed to schedule job due to: the scheduler is not configured on this node"
    assert told(error) == (Status.INTERNAL, text)
    assert unpacked(error.details) == [ErrorInfo(reason="DAPR_SCHEDULER_SCHEDULE_JOB", domain="dapr.io", metadata=INFO)]


@pytest.mark.parametrize("version", ["", "Alpha1"])
@pytest.mark.parametrize(
    ("verb", "request_type"), [("Get", jobs_pb2.GetJobRequest), ("Delete", jobs_pb2.DeleteJobRequest)]
)
async def test_a_job_is_asked_for_by_name(verb: str, request_type: Any, version: str) -> None:
    error = await refusal(f"{verb}Job{version}", request_type())
    assert told(error) == (Status.INVALID_ARGUMENT, "Name is empty")
    error = await refusal(f"{verb}Job{version}", request_type(name="j"))
    text = f"failed to {verb.lower()} job due to: the scheduler is not configured on this node"
    assert told(error) == (Status.INTERNAL, text)


@pytest.mark.parametrize("version", ["", "Alpha1"])
async def test_jobs_are_not_listed_nor_deleted(version: str) -> None:
    error = await refusal(f"ListJobs{version}")
    assert told(error) == (
        Status.INTERNAL,
        "failed to list jobs due to: the scheduler is not configured on this node",
    )
    assert unpacked(error.details) == [ErrorInfo(reason="DAPR_SCHEDULER_LIST_JOBS", domain="dapr.io", metadata=INFO)]
    error = await refusal(f"DeleteJobsByPrefix{version}")
    assert error.status is Status.INTERNAL
    assert unpacked(error.details) == [ErrorInfo(reason="DAPR_SCHEDULER_DELETE_JOB", domain="dapr.io", metadata=INFO)]
