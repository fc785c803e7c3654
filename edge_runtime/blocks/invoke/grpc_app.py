"""What invocation asks of an app that speaks gRPC, beside what it asks of every app."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from edge_runtime.model.http import Header

if TYPE_CHECKING:
    from edge_runtime.net.grpc.client import Reply
    from edge_runtime.net.http2 import Stream
    from edge_runtime.proto.dapr.proto.common.v1.common_pb2 import InvokeRequest, InvokeResponse


@runtime_checkable
class GrpcApp(Protocol):
    """The channel to such an app. Every failure is a `DriverError`, the app's own are `RpcError`s."""

    message_bytes_max: int | None

    async def on_invoke(
        self, message: InvokeRequest, metadata: Sequence[tuple[str, str | bytes]]
    ) -> Reply[InvokeResponse]:
        """`OnInvoke`, with the caller's metadata."""

    async def open_stream(self, path: bytes, headers: Sequence[Header]) -> Stream:
        """A call of any method, whose bytes are the caller's matter. `finished` must follow, once."""

    def finished(self, path: bytes, code: int, started: float, sent: int, received: int) -> None:
        """The call that `open_stream` began is over; `started` by the monotonic clock, the rest for the metrics."""
