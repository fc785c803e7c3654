"""An app that speaks gRPC, on gRPC's own server in a thread: bytes in and out, with some calls of its own to proxy."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, NamedTuple

import grpc

from edge_runtime.proto.dapr.proto.common.v1.common_pb2 import InvokeRequest, InvokeResponse
from tests.support.sidecar import WAIT_S

CALLBACK = "/dapr.proto.runtime.v1.AppCallback/"
HEALTH = "/dapr.proto.runtime.v1.AppCallbackHealthCheck/HealthCheck"
UNLIMITED = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))


class Came(NamedTuple):
    """A call as the app saw it."""

    method: str
    metadata: Mapping[str, str | bytes]  # of repeated names the last
    left_s: float | None  # until its deadline
    body: bytes


OnInvoke = Callable[[InvokeRequest, grpc.ServicerContext], InvokeResponse]


class GrpcApp(grpc.GenericRpcHandler):
    """Listens while the block lasts. `received` has what came beside health checks and discovery.

    Methods of any service: Echo; Count (`N SIZE` → N messages); Join (the lengths' sum); Talk (each back); Fail (ends
    as the metadata `fail-code` says); Wait (until the call is cancelled, which sets `cancelled`).
    """

    def __init__(
        self, on_invoke: OnInvoke | None = None, port: int = 0, tls: grpc.ServerCredentials | None = None
    ) -> None:
        self.received: queue.Queue[Came] = queue.Queue()
        self.cancelled = threading.Event()
        self.waiting = threading.Event()
        self.healthy = True
        self._on_invoke = on_invoke
        self._server = grpc.server(ThreadPoolExecutor(120), handlers=[self], options=UNLIMITED)
        address = f"127.0.0.1:{port}"
        bound = self._server.add_secure_port(address, tls) if tls else self._server.add_insecure_port(address)
        assert bound
        self.port = bound

    def __enter__(self) -> GrpcApp:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.stop(0).wait(WAIT_S)

    def next(self) -> Came:
        return self.received.get(timeout=WAIT_S)

    def service(self, details: Any) -> Any:
        if details.method == HEALTH:
            return grpc.unary_unary_rpc_method_handler(self._health)
        if details.method == CALLBACK + "OnInvoke":
            return grpc.unary_unary_rpc_method_handler(self._invoked) if self._on_invoke is not None else None
        if details.method.startswith("/dapr."):
            return None
        name = details.method.rpartition("/")[2]
        kinds: Mapping[str, Any] = {
            "Echo": grpc.unary_unary_rpc_method_handler(self._echo),
            "Fail": grpc.unary_unary_rpc_method_handler(self._fail),
            "Wait": grpc.unary_unary_rpc_method_handler(self._wait),
            "Count": grpc.unary_stream_rpc_method_handler(self._count),
            "Join": grpc.stream_unary_rpc_method_handler(self._join),
            "Talk": grpc.stream_stream_rpc_method_handler(self._talk),
        }
        self._method = details.method
        return kinds.get(name)

    def _note(self, body: bytes, context: grpc.ServicerContext) -> None:
        metadata = {pair.key: pair.value for pair in context.invocation_metadata()}
        left_s = context.time_remaining()
        self.received.put(Came(self._method, metadata, left_s if left_s is not None and left_s < 1e6 else None, body))

    def _health(self, _: bytes, context: grpc.ServicerContext) -> bytes:
        if not self.healthy:
            context.abort(grpc.StatusCode.UNAVAILABLE, "unwell")
        return b""

    def _invoked(self, body: bytes, context: grpc.ServicerContext) -> bytes:
        assert self._on_invoke is not None
        self._method = CALLBACK + "OnInvoke"
        self._note(body, context)
        return self._on_invoke(InvokeRequest.FromString(body), context).SerializeToString()

    def _echo(self, body: bytes, context: grpc.ServicerContext) -> bytes:
        self._note(body, context)
        context.send_initial_metadata((("x-head", "h"), ("x-head-bin", b"\0h")))
        context.set_trailing_metadata((("x-tail", "t"), ("x-tail-bin", b"\0t")))
        return body

    def _fail(self, body: bytes, context: grpc.ServicerContext) -> bytes:
        self._note(body, context)
        context.set_trailing_metadata((("x-tail", "t"), ("grpc-status-details-bin", b"\x08\x05\x12\x01d")))
        context.set_code(grpc.StatusCode.NOT_FOUND)
        context.set_details("nicht da – ü")
        return b""

    def _wait(self, body: bytes, context: grpc.ServicerContext) -> bytes:
        context.add_callback(self.cancelled.set)
        self.waiting.set()
        self.cancelled.wait(WAIT_S)
        return b""

    def _count(self, body: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        number, size = map(int, body.split())
        message = bytes(size)
        for _ in range(number):
            yield message

    def _join(self, bodies: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        return b"%d" % sum(len(body) for body in bodies)

    def _talk(self, bodies: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        yield from bodies


def call(channel: grpc.Channel, kind: str, path: str) -> Any:
    """A call of bytes; `kind` such as `unary_stream`."""
    return getattr(channel, kind)(path)
