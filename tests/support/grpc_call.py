"""One gRPC call without a connection: what `ServerCall` shows a face, and what it is told."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, Help, ResourceInfo
from google.rpc.status_pb2 import Status as RpcStatus
from grpclib.const import Handler, Status
from grpclib.exceptions import GRPCError

Pair = tuple[str, str | bytes]
_DETAILS: tuple[type[Message], ...] = (ErrorInfo, ResourceInfo, BadRequest, Help)


class FakeCall:
    """`late`: the request comes only after its headers were looked at."""

    def __init__(
        self,
        path: str,
        request: Message | None = None,
        metadata: Iterable[Pair] = (),
        *,
        late: bool = False,
        deadline: float | None = None,
    ) -> None:
        self.path = path if path.startswith("/") else f"/dapr.proto.runtime.v1.Dapr/{path}"
        self.metadata = list(metadata)
        self.deadline = deadline
        self.peer = "127.0.0.1:1"
        self.authority = "localhost"
        self.initial: dict[str, str | bytes] | None = None
        self.trailing: dict[str, str | bytes] = {}
        self.replies: list[Message] = []
        self.status: Status | None = None
        self.message = ""
        self.details: bytes | None = None
        self._request = request.SerializeToString() if request is not None else None
        self._late = late
        self._handler: Handler | None = None

    def get(self, name: str) -> str | bytes | None:
        return next((value for key, value in self.metadata if key == name), None)

    def bind(self, handler: Handler) -> None:
        self._handler = handler

    def request_now(self) -> Message | None:
        return None if self._late else self._take()

    async def recv_message(self) -> Message | None:
        return self._take()

    def _take(self) -> Message | None:
        if self._request is None:
            return None
        assert self._handler is not None
        data, self._request = self._request, None
        message: Message = self._handler.request_type.FromString(data)
        return message

    def reply(self, message: Message, initial: Iterable[Pair] = (), trailing: Iterable[Pair] = ()) -> None:
        assert self._handler is not None
        assert self.status is None
        self.initial = dict(initial)
        self.replies.append(self._handler.reply_type.FromString(message.SerializeToString()))
        self.trailing = dict(trailing)
        self.status = Status.OK

    async def send_initial_metadata(self, metadata: Iterable[Pair] = ()) -> None:
        assert self.initial is None
        self.initial = dict(metadata)

    async def send_message(self, message: Message) -> None:
        self.replies.append(message)

    async def send_trailing_metadata(
        self, status: Status = Status.OK, message: str = "", details: bytes | None = None, metadata: Iterable[Pair] = ()
    ) -> None:
        assert self.status is None
        self.status, self.message, self.details, self.trailing = status, message, details, dict(metadata)


async def answer(face: Any, call: FakeCall) -> FakeCall:
    """The call after the face had it; an error that is raised is its status, as the server has it."""
    try:
        await face.handle(call)
    except GRPCError as error:
        await call.send_trailing_metadata(error.status, error.message or "", error.details)
    return call


def unpacked(details: bytes | None) -> list[Message]:
    """The parts of `grpc-status-details-bin`, in their order."""
    if details is None:
        return []
    return [_unpack(part) for part in RpcStatus.FromString(details).details]


def _unpack(part: Any) -> Message:
    kind = next(kind for kind in _DETAILS if part.Is(kind.DESCRIPTOR))
    message = kind()
    part.Unpack(message)
    return message


def reason(details: bytes | None) -> str:
    """The reason in the ErrorInfo of the details; empty when there are none."""
    infos = [part for part in unpacked(details) if isinstance(part, ErrorInfo)]
    return infos[0].reason if infos else ""
