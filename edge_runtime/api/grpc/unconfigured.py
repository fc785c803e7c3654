"""Rpcs of blocks for which this node has no driver: each answers what Dapr answers when the thing is not configured.

What Dapr looks at before it misses the component is looked at here too, in its order, so that a malformed request is
told from a missing driver: an expiry, a job's name, the options of an encryption. For actors and workflows it looks at
nothing before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Never

import trio

from edge_runtime.api.grpc.unary import RpcCall, unary
from edge_runtime.api.unconfigured import (
    NO_CRYPTO,
    NO_LOCK,
    NO_PLACEMENT,
    NO_SCHEDULER,
    NO_SUBTLE,
    no_conversation,
    no_expiry,
)
from edge_runtime.model.errors import EdgeError, Kind

if TYPE_CHECKING:
    from edge_runtime.api.blocks import Blocks
    from edge_runtime.net.grpc.server import ServerCall
    from edge_runtime.proto.dapr.proto.runtime.v1.ai_pb2 import ConversationRequest, ConversationRequestAlpha2
    from edge_runtime.proto.dapr.proto.runtime.v1.jobs_pb2 import DeleteJobRequest, GetJobRequest, ScheduleJobRequest
    from edge_runtime.proto.dapr.proto.runtime.v1.lock_pb2 import TryLockRequest

FIRST_MESSAGE_TIMEOUT_S: Final = 5.0


@unary
async def _without_actors(self: Any, call: RpcCall, request: Any) -> Never:
    raise EdgeError(Kind.ACTOR_NO_PLACEMENT, NO_PLACEMENT)


@unary
async def _without_lock(self: Any, call: RpcCall, request: Any) -> Never:
    raise EdgeError(Kind.LOCK_STORE_NOT_CONFIGURED, NO_LOCK)


@unary
async def _without_subtle_crypto(self: Any, call: RpcCall, request: Any) -> Never:
    raise EdgeError(Kind.API_UNIMPLEMENTED, NO_SUBTLE)


@unary
async def _without_conversation(
    self: Any, call: RpcCall, request: ConversationRequest | ConversationRequestAlpha2
) -> Never:
    raise EdgeError(Kind.CONVERSATION_NOT_FOUND, no_conversation(request.name))


class UnconfiguredRpcs:
    """The part of the Dapr service whose blocks have no driver here."""

    blocks: Blocks

    # --- lock ---

    @unary
    async def TryLockAlpha1(self, call: RpcCall, request: TryLockRequest) -> Never:
        if request.expiry_in_seconds <= 0:
            raise EdgeError(Kind.MALFORMED_REQUEST, no_expiry(request.store_name))
        raise EdgeError(Kind.LOCK_STORE_NOT_CONFIGURED, NO_LOCK)

    UnlockAlpha1 = _without_lock

    # --- cryptography ---

    async def EncryptAlpha1(self, stream: ServerCall) -> None:
        request = await _first_message(stream)
        if not request.options.key_name:
            raise _bad_request("missing property 'keyName' in the options message")
        if not request.options.key_wrap_algorithm:
            raise _bad_request("missing property 'keyWrapAlgorithm' in the options message")
        raise EdgeError(Kind.CRYPTO_PROVIDERS_NOT_CONFIGURED, NO_CRYPTO)

    async def DecryptAlpha1(self, stream: ServerCall) -> None:
        await _first_message(stream)
        raise EdgeError(Kind.CRYPTO_PROVIDERS_NOT_CONFIGURED, NO_CRYPTO)

    SubtleGetKeyAlpha1 = SubtleEncryptAlpha1 = SubtleDecryptAlpha1 = _without_subtle_crypto
    SubtleWrapKeyAlpha1 = SubtleUnwrapKeyAlpha1 = _without_subtle_crypto
    SubtleSignAlpha1 = SubtleVerifyAlpha1 = _without_subtle_crypto

    # --- conversation ---

    ConverseAlpha1 = ConverseAlpha2 = _without_conversation

    # --- actors ---

    RegisterActorTimer = UnregisterActorTimer = _without_actors
    RegisterActorReminder = UnregisterActorReminder = GetActorReminder = _without_actors
    UnregisterActorRemindersByType = ListActorReminders = _without_actors
    GetActorState = ExecuteActorStateTransaction = InvokeActor = _without_actors

    async def SubscribeActorEventsAlpha1(self, stream: ServerCall) -> None:
        connection = self.blocks.metadata.connection
        if connection is None or not connection.protocol.startswith("grpc"):
            raise EdgeError(Kind.ACTOR_STREAM_NEEDS_GRPC, "actor callback streaming requires a gRPC app channel")
        first = await stream.recv_message()
        if first is None or first.WhichOneof("request_type") != "initial_request":
            text = "first message must be SubscribeActorEventsRequestInitialAlpha1"
            raise EdgeError(Kind.ACTOR_STREAM_FIRST_MESSAGE, text)
        raise EdgeError(Kind.ACTOR_NO_PLACEMENT, NO_PLACEMENT)

    # --- workflows ---

    StartWorkflowBeta1 = StartWorkflowAlpha1 = _without_actors
    GetWorkflowBeta1 = GetWorkflowAlpha1 = _without_actors
    PurgeWorkflowBeta1 = PurgeWorkflowAlpha1 = _without_actors
    TerminateWorkflowBeta1 = TerminateWorkflowAlpha1 = _without_actors
    PauseWorkflowBeta1 = PauseWorkflowAlpha1 = _without_actors
    ResumeWorkflowBeta1 = ResumeWorkflowAlpha1 = _without_actors
    RaiseEventWorkflowBeta1 = RaiseEventWorkflowAlpha1 = _without_actors

    # --- jobs ---

    @unary
    async def ScheduleJob(self, call: RpcCall, request: ScheduleJobRequest) -> Never:
        job = request.job
        if not request.HasField("job"):
            raise self._job_error(Kind.JOB_EMPTY, "Job is empty")
        if not job.name:
            raise self._job_error(Kind.JOB_NAME_EMPTY, "Name is empty")
        if not job.HasField("schedule") and not job.HasField("due_time"):
            raise self._job_error(Kind.JOB_SCHEDULE_EMPTY, "Schedule is empty")
        raise self._job_error(Kind.JOB_SCHEDULE, f"failed to schedule job due to: {NO_SCHEDULER}")

    @unary
    async def GetJob(self, call: RpcCall, request: GetJobRequest) -> Never:
        if not request.name:
            raise self._job_error(Kind.JOB_NAME_EMPTY, "Name is empty")
        raise self._job_error(Kind.JOB_GET, f"failed to get job due to: {NO_SCHEDULER}")

    @unary
    async def DeleteJob(self, call: RpcCall, request: DeleteJobRequest) -> Never:
        if not request.name:
            raise self._job_error(Kind.JOB_NAME_EMPTY, "Name is empty")
        raise self._job_error(Kind.JOB_DELETE, f"failed to delete job due to: {NO_SCHEDULER}")

    @unary
    async def DeleteJobsByPrefix(self, call: RpcCall, request: Any) -> Never:
        raise self._job_error(Kind.JOB_DELETE, f"failed to delete job due to: {NO_SCHEDULER}")

    @unary
    async def ListJobs(self, call: RpcCall, request: Any) -> Never:
        raise self._job_error(Kind.JOB_LIST, f"failed to list jobs due to: {NO_SCHEDULER}")

    ScheduleJobAlpha1 = ScheduleJob
    GetJobAlpha1 = GetJob
    DeleteJobAlpha1 = DeleteJob
    DeleteJobsByPrefixAlpha1 = DeleteJobsByPrefix
    ListJobsAlpha1 = ListJobs

    def _job_error(self, kind: Kind, text: str) -> EdgeError:
        info = {"appID": self.blocks.metadata.app_id, "namespace": self.blocks.namespace}
        return EdgeError(kind, text, metadata=info)


def _bad_request(reason: str) -> EdgeError:
    return EdgeError(Kind.BAD_REQUEST, f"invalid request: {reason}")


async def _first_message(stream: ServerCall) -> Any:
    """The message with the options, which has to come soon."""
    with trio.move_on_after(FIRST_MESSAGE_TIMEOUT_S) as scope:
        request: Any = await stream.recv_message()
    if scope.cancelled_caught:
        raise _bad_request("error waiting for first message: context deadline exceeded")
    if request is None:
        text = "failed to perform operation: error receiving the first message: EOF"
        raise EdgeError(Kind.CRYPTO_OPERATION, text)
    if not request.HasField("options"):
        raise _bad_request("first message does not contain the required options")
    return request
