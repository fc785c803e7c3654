"""An app with a gRPC server of grpcio for the sidecar to call, without an SDK: its answers are a table of functions."""

from __future__ import annotations

import queue
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, NamedTuple

import grpc
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from edge_runtime.proto.dapr.proto.common.v1.common_pb2 import InvokeRequest
from edge_runtime.proto.dapr.proto.runtime.v1.appcallback_pb2 import (
    ListTopicSubscriptionsResponse,
    TopicEventBulkRequest,
    TopicEventRequest,
    TopicSubscription,
)
from tests.support.sidecar import WAIT_S

_CALLBACK = "/dapr.proto.runtime.v1.AppCallback/"
INVOKE = f"{_CALLBACK}OnInvoke"
LIST = f"{_CALLBACK}ListTopicSubscriptions"
EVENT = f"{_CALLBACK}OnTopicEvent"
BULK = f"{_CALLBACK}OnBulkTopicEvent"
BULK_ALPHA = "/dapr.proto.runtime.v1.AppCallbackAlpha/OnBulkTopicEventAlpha1"
HEALTH = "/dapr.proto.runtime.v1.AppCallbackHealthCheck/HealthCheck"
_REQUESTS: Mapping[str, type[Message]] = {
    EVENT: TopicEventRequest,
    INVOKE: InvokeRequest,
    BULK: TopicEventBulkRequest,
    BULK_ALPHA: TopicEventBulkRequest,
}

# Takes the request and answers a message, or a status that the call fails with.
Answer = Callable[[Any], Message | grpc.StatusCode]


class Called(NamedTuple):
    path: str
    request: Any
    metadata: dict[str, str | bytes]


class CallbackApp:
    """Listens while the block lasts. A path without an answer is UNIMPLEMENTED, as with every gRPC server.

    `calls` has the deliveries in their order; lists and health checks are in `asked` instead.
    """

    def __init__(self, answers: Mapping[str, Answer], port: int = 0) -> None:
        self.answers = dict(answers)
        self.calls: queue.Queue[Called] = queue.Queue()
        self.asked: queue.Queue[Called] = queue.Queue()
        self._server = grpc.server(ThreadPoolExecutor(32))
        self._server.add_generic_rpc_handlers((_Handlers(self),))
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self._server.start()

    def serve(self, path: str, data: bytes, context: grpc.ServicerContext) -> Message:
        request = _REQUESTS.get(path, Empty).FromString(data)
        metadata: Any = context.invocation_metadata()
        (self.asked if path in (LIST, HEALTH) else self.calls).put(Called(path, request, dict(metadata)))
        answer = self.answers[path](request)
        if isinstance(answer, grpc.StatusCode):
            context.abort(answer, "said the app")
        assert isinstance(answer, Message)
        return answer

    def next(self) -> Called:
        return self.calls.get(timeout=WAIT_S)

    def next_asked(self) -> Called:
        return self.asked.get(timeout=WAIT_S)

    def __enter__(self) -> CallbackApp:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.stop(None).wait(WAIT_S)


class _Handlers(grpc.GenericRpcHandler):
    def __init__(self, app: CallbackApp) -> None:
        self._app = app

    def service(self, details: Any) -> Any:
        path = details.method
        if path not in self._app.answers:
            return None

        def serve(data: bytes, context: grpc.ServicerContext) -> Message:
            return self._app.serve(path, data, context)

        return grpc.unary_unary_rpc_method_handler(serve, None, _serialized)


def _serialized(message: Message) -> bytes:
    return message.SerializeToString()


def subscriptions(*listed: TopicSubscription) -> Answer:
    return lambda _: ListTopicSubscriptionsResponse(subscriptions=listed)
