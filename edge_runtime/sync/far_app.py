"""An app on the other side of a link, called by the other sidecar's own invocation: HTTP, InvokeService, or its proxy.

The answer is the app's, whatever it is. The id crosses as the caller wrote it: a namespace is the other side's matter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from edge_runtime.model.errors import DriverError
from edge_runtime.model.http import Header, Request, Response
from edge_runtime.sync.link import Link
from edge_runtime.sync.link_answers import segment

if TYPE_CHECKING:
    from edge_runtime.net.grpc.client import Reply
    from edge_runtime.net.http2 import Stream
    from edge_runtime.proto.dapr.proto.common.v1.common_pb2 import InvokeRequest, InvokeResponse

_INVOKE_SERVICE: Final = "/dapr.proto.runtime.v1.Dapr/InvokeService"
_UNAUTHENTICATED: Final = 16
# What the other sidecar says itself about a call.
_THEIRS: Final = frozenset(
    (
        "dapr-authority", "dapr-caller-app-id", "dapr-caller-namespace", "dapr-callee-app-id", "dapr-api-token",
        "x-forwarded-for", "x-forwarded-host", "forwarded",
    )
)  # fmt: skip


class Queue(Protocol):
    """Where calls of an app wait for the link."""

    async def take(self, caller: str, target: str, request: Request, key: str, ttl_s: float | None) -> str:
        """The call's id, once it is on disk."""


class FarApp:
    """One app; `target` is its id as the caller wrote it, `caller` the app of this node whose calls these are."""

    def __init__(self, link: Link, target: str, caller: str, queue: Queue | None) -> None:
        self._link = link
        self._target = target
        self._caller = caller
        self._queue = queue

    async def send(self, request: Request) -> Response:
        """The app's answer. Raises `Unreachable` at once while the link is away."""
        return await self._link.pass_on(far_request(self._target, request))

    async def queue(self, request: Request, key: str, ttl_s: float | None) -> str:
        """The id of a call that waits from now on. Raises `DriverError`."""
        if self._queue is None:
            raise DriverError(f"link {self._link.name}: its route to this app does not say queued: true")
        return await self._queue.take(self._caller, self._target, request, key, ttl_s)


class FarGrpcApp(FarApp):
    """The same where the link has a gRPC endpoint."""

    message_bytes_max: int | None = None

    async def on_invoke(
        self, message: InvokeRequest, metadata: Sequence[tuple[str, str | bytes]]
    ) -> Reply[InvokeResponse]:
        """`InvokeService` of the other sidecar, which knows what the app speaks."""
        from edge_runtime.proto.dapr.proto.common.v1.common_pb2 import InvokeResponse
        from edge_runtime.proto.dapr.proto.runtime.v1.invoke_pb2 import InvokeServiceRequest

        request = InvokeServiceRequest(id=self._target, message=message)
        crossing = [pair for pair in metadata if pair[0] not in _THEIRS]
        return await self._link.rpc(_INVOKE_SERVICE, request, InvokeResponse, crossing)

    async def open_stream(self, path: str, headers: Sequence[Header]) -> tuple[Stream, Callable[[], None]]:
        """A call of any method, by the other sidecar's proxy. The function must follow, once: it is over."""
        return await self._link.open_rpc(path, [*headers, (b"dapr-app-id", self._target.encode())])

    def count(self, path: str, code: int, started: float, sent: int, received: int) -> None:
        """A code that the other sidecar may have said for itself is looked into."""
        if code == _UNAUTHENTICATED:
            self._link.doubt_token()


def far_request(target: str, request: Request) -> Request:
    """The call as the other sidecar takes it, which decodes the path once more than an app would."""
    path, mark, query = request.target.partition(b"?")
    place = b"/v1.0/invoke/" + segment(target).encode() + b"/method" + path.replace(b"%", b"%25")
    return Request(request.method, place + mark + query, request.headers, request.body)
