"""`v1.0/bindings` through the face."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest

from edge_runtime.api.blocks import Blocks
from edge_runtime.api.http.bindings import ROUTES
from edge_runtime.api.http.face import Face, FaceSettings
from edge_runtime.blocks.bindings import Bindings, BoundBinding
from edge_runtime.model.errors import BindingFailed
from edge_runtime.model.http import Body, Header, Request, Response
from edge_runtime.model.ports import BindingResponse
from edge_runtime.observability.trace import Tracer
from tests.unit.blocks.bindings.fakes import FakeOutput

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class _Blocks:
    """Stands for the app's blocks; this handler calls no other."""

    def __init__(self, output: FakeOutput) -> None:
        self.bindings = Bindings({"b": BoundBinding("b", "b", None, output)})


async def ask(output: FakeOutput, body: bytes, headers: list[Header] | None = None, name: str = "b") -> Response:
    face = Face(cast(Blocks, _Blocks(output)), ROUTES, FaceSettings(body_limit_bytes=999), Tracer(None), None, None)
    return await face.handle(Request("POST", f"/v1.0/bindings/{name}".encode(), headers or [], Body(body)))


async def test_what_the_binding_returns_is_the_answer() -> None:
    output = FakeOutput(BindingResponse(b"\0data", {"statusCode": "200", "Long Name": "x", "two": "a\r\nb"}))
    response = await ask(output, b'{"operation":"get","metadata":{"k":"v","n":null}}')
    assert (response.status, response.body.data) == (200, b"\0data")
    assert list(response.headers) == [
        (b"content-type", b"application/json"),
        (b"metadata.statuscode", b"200"),
        (b"metadata.two", b"a  b"),
    ]
    assert output.came == [("get", b"null", {"k": "v", "n": ""})]


async def test_nothing_returned_is_no_content() -> None:
    response = await ask(FakeOutput(BindingResponse(None, {"a": "1"})), b'{"operation":"get"}')
    assert (response.status, response.body.data) == (204, b"")
    assert list(response.headers) == [(b"metadata.a", b"1")]
    assert (await ask(FakeOutput(BindingResponse(b"")), b'{"operation":"get"}')).status == 200


@pytest.mark.parametrize(
    ("data", "sent"),
    [(b'"text"', b'"text"'), (b'{"b": 1.0, "a": 9007199254740993}', b'{"b":1.0,"a":9007199254740993}'), (b"1", b"1")],
)
async def test_data_reaches_the_binding_as_json(data: bytes, sent: bytes) -> None:
    output = FakeOutput()
    await ask(output, b'{"Operation":"create","DATA":%b} trailing' % data)
    assert output.came == [("create", sent, {})]


async def test_the_trace_goes_along() -> None:
    output = FakeOutput()
    headers: list[Header] = [(b"traceparent", TRACE.encode()), (b"tracestate", b"a=1"), (b"baggage", b"k=v")]
    await ask(output, b'{"operation":"create","metadata":{"traceparent":"x"}}', headers)
    assert output.came[0][2] == {"traceparent": TRACE, "tracestate": "a=1", "baggage": "k=v"}


@pytest.mark.parametrize(
    ("body", "status", "code", "text"),
    [
        (b"{", 400, "ERR_MALFORMED_REQUEST", "failed deserializing HTTP body: "),
        (b"", 400, "ERR_MALFORMED_REQUEST", "failed deserializing HTTP body: "),
        (b'{"operation":1}', 400, "ERR_MALFORMED_REQUEST", "failed deserializing HTTP body: "),
        (b'{"metadata":{"a":1}}', 400, "ERR_MALFORMED_REQUEST", "failed deserializing HTTP body: "),
        (b" " * 1000, 400, "ERR_MALFORMED_REQUEST", "failed deserializing HTTP body: stream too large"),
        (
            b'{"data":1}',
            500,
            "ERR_INVOKE_OUTPUT_BINDING",
            "error invoking output binding b: operation field is missing",
        ),
        (
            b'{"operation":"x"}',
            500,
            "ERR_INVOKE_OUTPUT_BINDING",
            "error invoking output binding b: binding b does not ",
        ),
    ],
)
async def test_mistakes_are_told(body: bytes, status: int, code: str, text: str) -> None:
    response = await ask(FakeOutput(), body)
    document = json.loads(response.body.data)
    assert (response.status, document["errorCode"]) == (status, code)
    assert document["message"].startswith(text)


async def test_a_failure_has_metadata_too() -> None:
    output = FakeOutput(BindingFailed("received status code 404", metadata={"statusCode": "404"}))
    response = await ask(output, b'{"operation":"get"}')
    assert (b"metadata.statuscode", b"404") in response.headers
    document: Any = json.loads(response.body.data)
    assert document["message"] == "error invoking output binding b: received status code 404"


async def test_a_missing_binding_is_named() -> None:
    response = await ask(FakeOutput(), b'{"operation":"create"}', name="a%20b")
    text = "error invoking output binding a b: couldn't find output binding a b"
    assert json.loads(response.body.data) == {"errorCode": "ERR_INVOKE_OUTPUT_BINDING", "message": text}
