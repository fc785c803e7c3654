"""What invocation asks of an app that speaks gRPC, beside what it asks of every app."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
        """`OnInvoke`, with metadata as it is."""

    async def open_stream(self, path: str, headers: Sequence[Header]) -> tuple[Stream, Callable[[], None]]:
        """A call of any method, whose bytes are the caller's matter. The function must follow, once: it is over."""

    def count(self, path: str, code: int, started: float, sent: int, received: int) -> None:
        """For the metrics: what such a call came to; `started` by the monotonic clock, sizes in bytes."""
