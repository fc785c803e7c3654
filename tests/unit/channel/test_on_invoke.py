"""HTTP requests as OnInvoke's messages, and answers back."""

from __future__ import annotations

import json

import pytest
from google.protobuf.any_pb2 import Any
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from edge_runtime.channel.on_invoke import (
    crossing,
    error_response,
    http_status,
    invoke_request,
    metadata_of,
    response_of,
)
from edge_runtime.model.errors import EdgeError, Kind
from edge_runtime.model.http import Body, Request
from edge_runtime.proto.dapr.proto.common.v1.common_pb2 import HTTPExtension, InvokeResponse
from edge_runtime.wire.grpc.status import Ending


def test_path_is_the_method() -> None:
    message = invoke_request(Request("PATCH", b"/a/b%20c?x=%20&y", [(b"content-type", b"text/css")]), b"\0\xff")
    assert (message.method, message.content_type, message.data.value) == ("a/b c", "text/css", b"\0\xff")
    assert message.http_extension == HTTPExtension(verb="PATCH", querystring="x=%20&y")


def test_root_is_an_empty_method() -> None:
    message = invoke_request(Request("GET", b"/", []), b"")
    assert (message.method, message.content_type) == ("", "")
    assert message.HasField("http_extension")


def test_names_of_http_and_grpc_get_a_prefix() -> None:
    headers = [(b"accept", b"*/*"), (b"x-own", b"1"), (b"user-agent", b"me"), (b"x-bin", b"AA=="), (b"te", b"trailers")]
    assert metadata_of(headers) == [("dapr-accept", "*/*"), ("x-own", "1"), ("dapr-user-agent", "me")]
    assert metadata_of([(b"x-own", "ü".encode()), (b"x-raw", b"\xe9")]) == [("x-own", "ü"), ("x-raw", "\udce9")]
    assert crossing([("grpc-trace-bin", b"\0"), (":authority", "a:1"), ("x-bin", b"\1")]) == [
        ("dapr-grpc-trace-bin", b"\0"),
        ("dapr-authority", "a:1"),
        ("x-bin", b"\1"),
    ]


def test_reply_is_an_answer() -> None:
    reply = InvokeResponse(content_type="text/css")
    reply.data.value = b"body"
    response = response_of(reply, [("x-head", "ü"), ("x-raw-bin", b"\0"), ("connection", "close")])
    assert (response.status, response.body.data) == (200, b"body")
    assert response.headers == [(b"x-head", "ü".encode()), (b"content-type", b"text/css")]


def test_reply_without_content_type_names_none() -> None:
    assert response_of(InvokeResponse(), []).headers == []
    packed = InvokeResponse(data=Any(type_url="type.googleapis.com/a.B", value=b"x"))
    assert response_of(packed, []).headers == [(b"content-type", b"application/x-protobuf")]


@pytest.mark.parametrize(
    ("code", "status"),
    [(0, 200), (1, 408), (3, 400), (4, 504), (5, 404), (7, 403), (8, 429), (9, 400), (12, 501), (14, 503), (16, 401)],
)
def test_codes_are_statuses(code: int, status: int) -> None:
    assert http_status(code) == status


def test_unknown_codes_are_the_apps_fault() -> None:
    assert http_status(99) == http_status(-1) == 500


def test_status_is_shown_as_json() -> None:
    status = Status(code=6, message="taken")
    status.details.add().Pack(ErrorInfo(reason="TAKEN", metadata={"a": "b"}))
    response = error_response(Ending(6, "taken", status.SerializeToString()), [("x-head", "1")])
    assert (response.status, response.header(b"content-type")) == (409, b"application/json")
    assert response.header(b"x-head") == b"1"
    detail = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "TAKEN", "metadata": {"a": "b"}}
    assert json.loads(response.body.data) == {"code": 6, "message": "taken", "details": [detail]}


def test_empty_parts_are_left_out() -> None:
    assert error_response(Ending(2, ""), []).body.data == b'{"code":2}'
    assert error_response(Ending(2, "", Status(code=2).SerializeToString()), []).body.data == b'{"code":2}'


@pytest.mark.parametrize("details", [b"\xff", b"\x1a\x0e\n\x0cx.y/nobody.K"])
def test_details_that_nobody_knows_are_said(details: bytes) -> None:
    with pytest.raises(EdgeError, match="cannot be shown as JSON") as caught:
        error_response(Ending(2, "", details), [])
    assert caught.value.kind is Kind.MALFORMED_RESPONSE


async def test_body_is_not_needed_twice() -> None:
    request = Request("POST", b"/x", [], Body(b"data"))
    assert invoke_request(request, await request.body.read(4)).data.value == b"data"
