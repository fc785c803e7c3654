"""Where an invocation goes, by header, Basic auth or path; and the body limit."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from edge_runtime.api.http.invoke import LimitedBody, fallback, find_target
from edge_runtime.api.http.routes import Call
from edge_runtime.model.errors import BodyTooLarge, EdgeError, Kind
from edge_runtime.model.http import Body, Request, Response
from edge_runtime.model.trace import NO_TRACE, Trace
from edge_runtime.net.stream import StreamBody


def basic(text: str) -> list[tuple[bytes, bytes]]:
    return [(b"authorization", b"Basic " + base64.b64encode(text.encode()))]


HEADER = [(b"a", b"b"), (b"dapr-app-id", b"cart")]


@pytest.mark.parametrize(
    ("path", "headers", "expected"),
    [
        (b"/orders/1", HEADER, ("cart", b"orders/1")),
        (b"/", HEADER, ("cart", b"")),
        (b"/a//b/../c/", HEADER, ("cart", b"a/c")),
        (b"/a%20b%2Fc", HEADER, ("cart", b"a b/c")),
        (b"/v1.0/invoke/other/method/x", HEADER, ("cart", b"v1.0/invoke/other/method/x")),
        (b"/orders", [(b"dapr-app-id", b""), *basic("dapr-app-id:cart")], ("cart", b"orders")),
        (b"/orders", basic("dapr-app-id:cart"), ("cart", b"orders")),
        (b"/orders", basic("DAPR-App-ID:cart.ns"), ("cart.ns", b"orders")),
        (b"/orders", basic("dapr-app-id:cart:x"), None),
        (b"/orders", basic("user:password"), None),
        (b"/orders", basic("dapr-app-id:"), None),
        (b"/orders", [(b"authorization", b"Basic ???")], None),
        (b"/orders", [(b"authorization", b"Bearer x")], None),
        (b"/v1.0/invoke/cart/method/x", basic("user:password"), ("cart", b"x")),
        (b"/v1.0/invoke/cart/method/", [], ("cart", b"")),
        (b"/v1.0/invoke/cart/method", [], None),
        (b"/v1.0/invoke/http://host:8080/base/method/a/b", [], ("http://host:8080/base", b"a/b")),
        (b"/v1.0/invoke/http%3A%2F%2Fhost%3A8080/method/a", [], ("http://host:8080", b"a")),
        (b"/v1.0/invoke/http%253A%252F%252Fhost/method/a", [], ("http://host", b"a")),
        (b"/v1.0/invoke/my-app/method/a%2541", [], ("my-app", b"a%41")),
        (b"/v1.0/unknown", [], None),
    ],
)
def test_targets_are_found(path: bytes, headers: list[tuple[bytes, bytes]], expected: tuple[str, bytes] | None) -> None:
    assert find_target(path, headers) == expected


class Told:
    """Stands where the invoker does and keeps what it is told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, bytes, bytes]] = []
        self.body = b""

    async def invoke(self, target: str, method: bytes, query: bytes, request: Request, trace: Trace) -> Response:
        self.calls.append((target, method, query))
        self.body = b"".join([piece async for piece in request.body.chunks()])
        return Response(200)


class Pieces(StreamBody):
    def __init__(self, pieces: list[bytes], length: int | None = None) -> None:
        super().__init__(length)
        self.pieces = pieces

    async def next_piece(self) -> bytes:
        return self.pieces.pop(0) if self.pieces else b""


def call_of(request: Request, limit_bytes: int | None = 10) -> tuple[Call, Told]:
    invoker = Told()
    blocks: Any = type("Blocks", (), {"invoker": invoker})
    return Call(blocks, request, (), "", "", NO_TRACE, limit_bytes), invoker


async def test_query_stays_as_it_was() -> None:
    call, invoker = call_of(Request("GET", b"/v1.0/invoke/a/method/b?x=%20+%zz&x&&=?", []))
    await fallback(call)
    assert invoker.calls == [("a", b"b", b"?x=%20+%zz&x&&=?")]


async def test_nobody_named_is_404() -> None:
    call, _ = call_of(Request("GET", b"/nothing", []))
    with pytest.raises(EdgeError, match="failed getting app id either from the URL path or the header") as caught:
        await fallback(call)
    assert caught.value.kind is Kind.INVOKE_NO_APP_ID


async def test_grpc_client_learns_its_port() -> None:
    path = b"/dapr.proto.runtime.v1.Dapr/GetState"
    call, _ = call_of(Request("POST", path, [(b"content-type", b"application/grpc")], http_version=b"2.0"))
    response = await fallback(call)
    assert (response.status, response.header(b"grpc-status")) == (200, b"12")
    assert b"--dapr-grpc-port" in (response.header(b"grpc-message") or b"")


@pytest.mark.parametrize("body", [Body(b"x" * 11), Pieces([b"x" * 11], 11)])
async def test_declared_excess_is_refused(body: Body) -> None:
    call, invoker = call_of(Request("POST", b"/v1.0/invoke/a/method/b", [], body))
    with pytest.raises(EdgeError, match="failed to invoke, id: a, err: stream too large"):
        await fallback(call)
    assert invoker.calls == []


async def test_streamed_excess_is_cut() -> None:
    call, _ = call_of(Request("POST", b"/v1.0/invoke/a/method/b", [], Pieces([b"x" * 6, b"y" * 6])))
    with pytest.raises(BodyTooLarge):
        await fallback(call)


@pytest.mark.parametrize("limit", [10, None])
async def test_allowed_stream_passes(limit: int | None) -> None:
    call, invoker = call_of(Request("POST", b"/v1.0/invoke/a/method/b", [], Pieces([b"x" * 5, b"y" * 5])), limit)
    await fallback(call)
    assert invoker.body == b"xxxxxyyyyy"


async def test_limited_body_reads_whole() -> None:
    assert await LimitedBody(Pieces([b"a", b"b"]), 2).read() == b"ab"
    with pytest.raises(BodyTooLarge):
        await LimitedBody(Pieces([b"a", b"bc"]), 2).read()
