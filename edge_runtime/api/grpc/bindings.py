"""Output bindings over gRPC."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from edge_runtime.api.grpc.unary import RpcCall, unary
from edge_runtime.blocks.bindings import InvokeFailed
from edge_runtime.proto.dapr.proto.runtime.v1.binding_pb2 import InvokeBindingRequest, InvokeBindingResponse
from edge_runtime.wire.headers import metadata_headers

if TYPE_CHECKING:
    from edge_runtime.api.blocks import Blocks

_NAME: Final = b"0123456789abcdefghijklmnopqrstuvwxyz_-."


class BindingsRpcs:
    """The bindings rpc of one app."""

    blocks: Blocks

    @unary
    async def InvokeBinding(self, call: RpcCall, request: InvokeBindingRequest) -> InvokeBindingResponse:
        """The call's own metadata go to the binding as well, where the request has none of that name."""
        metadata = {**_of_call(call), **request.metadata}
        try:
            answer = await self.blocks.bindings.invoke(request.name, request.operation, request.data, metadata)
        except InvokeFailed as error:
            _show(call, error.shown)
            raise
        _show(call, answer.metadata)
        shown = {_text(key): _text(value) for key, value in answer.metadata.items()}
        return InvokeBindingResponse(data=answer.data or b"", metadata=shown)


def _of_call(call: RpcCall) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in call.metadata:
        if isinstance(value, str):
            found.setdefault(f"dapr-{name.lstrip(':')}" if name.startswith(("grpc-", ":")) else name, value)
    found["dapr-authority"] = call.stream.authority
    trace = call.trace
    # What came may be the binary form, and a tracer has made a span of its own of it.
    found |= {
        name: value
        for name, value in (
            ("traceparent", trace.traceparent),
            ("tracestate", trace.tracestate),
            ("baggage", trace.baggage),
        )
        if value
    }
    return found


def _show(call: RpcCall, metadata: Mapping[str, str]) -> None:
    """What the binding says beside its data, as headers `metadata.<k>`, as far as gRPC can carry them."""
    if not metadata:
        return
    for name, value in metadata_headers([(f"metadata.{key}", text) for key, text in metadata.items()]):
        if not name.translate(None, _NAME):
            call.set_header(name.decode(), _printable(value.decode("utf-8", "replace")))


def _text(value: str) -> str:
    return value if value.isascii() else value.encode("utf-8", "replace").decode()


def _printable(text: str) -> str:
    if text.isascii() and text.isprintable():
        return text
    return "".join(character if " " <= character <= "~" else "?" for character in text)
