"""A client of a sidecar's gRPC API by grpcio, with this project's own messages, and what a call of it told.

The official SDK registers messages of the same names, so it cannot be here in the same process. grpcio shows no
`grpc-trace-bin` to its users, whatever is on the wire.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple

import grpc
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from edge_runtime.proto.dapr.proto.runtime.v1 import dapr_pb2
from tests.support.grpc_call import reason, unpacked

WAIT_S = 30.0
DETAILS = "grpc-status-details-bin"
_METHODS = dapr_pb2.DESCRIPTOR.services_by_name["Dapr"].methods_by_name

Pair = tuple[str, str | bytes]


class Answered(NamedTuple):
    """How one call ended. `details` is the serialized status in the trailers; `reply` is None with an error."""

    code: str
    message: str
    details: bytes | None
    reply: Any
    initial: Mapping[str, str | bytes]
    trailing: Mapping[str, str | bytes]

    @property
    def reason(self) -> str:
        return reason(self.details)

    @property
    def parts(self) -> Sequence[Message]:
        return unpacked(self.details)


class DaprClient:
    """`metadata` go with every call."""

    def __init__(self, port: int, *metadata: Pair) -> None:
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.enable_http_proxy", 0)])
        self._metadata = metadata

    def __enter__(self) -> DaprClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()

    def wait_until_connected(self) -> None:
        """Until the sidecar listens, for who cannot read in its log that it does."""
        grpc.channel_ready_future(self._channel).result(WAIT_S)

    def ask(self, rpc: str, request: Message, *metadata: Pair) -> Answered:
        """A unary rpc of the Dapr service by its name; any other path is one of bytes to `request`'s own type."""
        reply_type: Any = GetMessageClass(_METHODS[rpc].output_type) if rpc in _METHODS else type(request)
        path = rpc if rpc.startswith("/") else f"/dapr.proto.runtime.v1.Dapr/{rpc}"
        call = self._channel.unary_unary(
            path, request_serializer=type(request).SerializeToString, response_deserializer=reply_type.FromString
        )
        try:
            reply, done = call.with_call(request, metadata=(*self._metadata, *metadata), timeout=WAIT_S)
        except grpc.RpcError as error:
            done, reply = error, None
        trailing = dict(done.trailing_metadata() or ())
        return Answered(
            done.code().name,
            done.details() or "",
            trailing.get(DETAILS),
            reply,
            dict(done.initial_metadata() or ()),
            {name: value for name, value in trailing.items() if name != DETAILS},
        )

    def reply(self, rpc: str, request: Message, *metadata: Pair) -> Any:
        """The reply of a call that must succeed."""
        answered = self.ask(rpc, request, *metadata)
        assert answered.code == "OK", f"{rpc}: {answered.code} {answered.message}"
        return answered.reply
