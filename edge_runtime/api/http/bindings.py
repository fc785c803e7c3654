"""`v1.0/bindings`: one operation of an output binding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from edge_runtime.api.errors import error_response
from edge_runtime.api.http.routes import JSON, Call, Route, malformed
from edge_runtime.blocks.bindings import InvokeFailed
from edge_runtime.model.errors import Kind
from edge_runtime.model.http import Body, Header, Response
from edge_runtime.model.trace import NO_TRACE, Trace
from edge_runtime.wire.exact_json import NULL, NotJson, compact, decode, first_value, folded
from edge_runtime.wire.headers import metadata_headers


async def invoke_binding(call: Call) -> Response:
    """POST bindings/{name}: the body is parsed before the binding is looked for."""
    body = await call.body(Kind.MALFORMED_REQUEST, "failed deserializing HTTP body: {}")
    try:
        operation, data, metadata = _parsed(body)
    except NotJson as error:
        raise malformed(str(error)) from None
    if call.trace is not NO_TRACE:
        metadata.update(_traced(call.trace))
    try:
        answer = await call.blocks.bindings.invoke(call.params[0], operation, data, metadata)
    except InvokeFailed as error:
        response = error_response(error)
        return Response(response.status, (*response.headers, *_shown(error.shown)), response.body)
    headers = _shown(answer.metadata)
    if answer.data is None:
        return Response(204, headers)
    return Response(200, (*JSON, *headers), Body(answer.data))


def _parsed(body: bytes) -> tuple[str, bytes, dict[str, str]]:
    """Operation, data as JSON without blanks (null when there is none) and metadata. Raises NotJson."""
    fields = folded(first_value(body))
    operation: str | None = decode(fields.get("operation", NULL), str | None)
    metadata: dict[str, str | None] | None = decode(fields.get("metadata", NULL), dict[str, str | None] | None)
    data = compact(fields.get("data", NULL))
    return operation or "", data, {key: value or "" for key, value in (metadata or {}).items()}


def _traced(trace: Trace) -> dict[str, str]:
    found = {"traceparent": trace.traceparent, "tracestate": trace.tracestate, "baggage": trace.baggage}
    return {name: value for name, value in found.items() if value}


def _shown(metadata: Mapping[str, str]) -> Sequence[Header]:
    """What a binding says beside its data, a header `metadata.<k>` each."""
    return metadata_headers([(f"metadata.{key}", value) for key, value in metadata.items()]) if metadata else ()


ROUTES: Final = (
    Route(("POST", "PUT"), "v1.0/bindings/{name}", "bindings", "v1", "InvokeOutputBinding", invoke_binding),
)
