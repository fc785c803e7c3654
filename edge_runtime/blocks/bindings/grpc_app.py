"""Events of bindings to an app that speaks gRPC: `OnBindingEvent`, and what its reply sends to output bindings."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

import trio
from google.protobuf.empty_pb2 import Empty

from edge_runtime.blocks.bindings.app import Event
from edge_runtime.model.errors import DriverError, EdgeError
from edge_runtime.observability.trace import Tracer, binary_of
from edge_runtime.proto.dapr.proto.runtime.v1.appcallback_pb2 import (
    BindingEventRequest,
    BindingEventResponse,
    ListInputBindingsResponse,
)
from edge_runtime.wire.headers import metadata_headers

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from edge_runtime.blocks.bindings.output import Bindings

logger: Final = logging.getLogger("dapr.runtime.processor.binding")

LIST: Final = "/dapr.proto.runtime.v1.AppCallback/ListInputBindings"
EVENT: Final = "/dapr.proto.runtime.v1.AppCallback/OnBindingEvent"
CREATE: Final = "create"
# Names that belong to the call itself.
_TAKEN: Final = frozenset({b"traceparent", b"tracestate", b"grpc-trace-bin", b"content-type", b"te", b"host"})
_NAME: Final = b"0123456789abcdefghijklmnopqrstuvwxyz_-."

Pair = tuple[str, str | bytes]


class GrpcCaller(Protocol):
    """How a gRPC app is called; the answer's `message` is of the type that was asked for."""

    async def unary(
        self, path: str, request: Message, reply_type: type[Message], *, metadata: Sequence[Pair] = ()
    ) -> Any:
        """Raises `DriverError`; its `code` is the app's status, if it was the app that failed."""


class GrpcBindingApp:
    """Events as calls of `OnBindingEvent`."""

    def __init__(self, caller: GrpcCaller, tracer: Tracer, outputs: Bindings) -> None:
        self._caller = caller
        self._tracer = tracer
        self._outputs = outputs
        self._listed: frozenset[str] | None = None
        self._asking = trio.Lock()

    async def takes(self, binding: str, route: str) -> bool:
        """Whether the app lists the binding. It is asked once; an app that answers with an error lists nothing."""
        async with self._asking:
            if self._listed is None:
                self._listed = await self._list()
        return binding in self._listed

    async def _list(self) -> frozenset[str]:
        try:
            reply = await self._caller.unary(LIST, Empty(), ListInputBindingsResponse)
        except DriverError as error:
            logger.debug("the app lists no input bindings: %s", error)
            return frozenset()
        return frozenset(reply.message.bindings)

    async def deliver(self, event: Event, *, strict: bool) -> bytes:
        request = BindingEventRequest(name=event.binding, data=event.data, metadata=_texts(event.metadata))
        reply = await self._caller.unary(EVENT, request, BindingEventResponse, metadata=self._metadata(event))
        message: BindingEventResponse = reply.message
        if message.to:
            await self._send_on(event.binding, message)
        return message.data

    def _metadata(self, event: Event) -> list[Pair]:
        came = {name.lower(): value for name, value in event.metadata.items()}
        pairs: list[Pair] = list(_carried(event.metadata)) if came else []
        trace = self._tracer.continued(came.get("traceparent", ""), came.get("tracestate", ""), "")
        if trace.traceparent:
            pairs += [("traceparent", trace.traceparent), ("grpc-trace-bin", binary_of(trace.traceparent))]
            if trace.tracestate:
                pairs.append(("tracestate", _printable(trace.tracestate)))
        return pairs

    # --- what the reply asks for ------------------------------------------------------------------------------------

    async def _send_on(self, binding: str, message: BindingEventResponse) -> None:
        """The reply's data to each output binding that it names; a failure is told in the log, the event is done."""
        data = message.data or b"null"
        if message.concurrency == BindingEventResponse.PARALLEL:
            async with trio.open_nursery() as nursery:
                for name in message.to:
                    nursery.start_soon(self._send_to, binding, name, data)
        else:
            for name in message.to:
                if not await self._send_to(binding, name, data):
                    break

    async def _send_to(self, binding: str, name: str, data: bytes) -> bool:
        try:
            await self._outputs.invoke(name, CREATE, data, {})
        except EdgeError as error:
            logger.error("input binding %s: what the app answered was not passed on: %s", binding, error.message)
            return False
        return True


def _texts(metadata: Mapping[str, str]) -> dict[str, str]:
    """A message's texts are UTF-8; what is none, of an old broker, is shown as such."""
    return {_text(key): _text(value) for key, value in metadata.items()}


def _text(value: str) -> str:
    return value if value.isascii() else value.encode("utf-8", "replace").decode()


def _carried(metadata: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    for name, value in metadata_headers(metadata):
        if name not in _TAKEN and not name.translate(None, _NAME):
            yield name.decode(), _printable(value.decode("utf-8", "replace"))


def _printable(text: str) -> str:
    if text.isascii() and text.isprintable():
        return text
    return "".join(character if " " <= character <= "~" else "?" for character in text)
