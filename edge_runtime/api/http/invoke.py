"""Service invocation over HTTP: `v1.0/invoke/…`, and every request that no other route takes."""

from __future__ import annotations

import base64
import binascii
from typing import Final

from edge_runtime.api.http.routes import Call, Route
from edge_runtime.model.errors import BodyTooLarge, EdgeError, Kind
from edge_runtime.model.http import Headers, Response
from edge_runtime.net.stream import StreamBody
from edge_runtime.wire.paths import clean, decode, split_invocation, split_target

_NO_APP_ID: Final = "failed getting app id either from the URL path or the header dapr-app-id"
_APP_ID: Final = "dapr-app-id"
_NO_GRPC_HERE: Final = b"this port speaks HTTP; the gRPC API is on --dapr-grpc-port"
_VERBS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE")


async def fallback(call: Call) -> Response:
    """Invokes the target that a header names, else the one in the path; without either, 404."""
    request = call.request
    raw_path, query = split_target(request.target)
    found = find_target(raw_path, request.headers)
    if found is None:
        if request.http_version == b"2.0" and (request.header(b"content-type") or b"").startswith(b"application/grpc"):
            # As gRPC has it, else its client would only say that there is a 404.
            fields = [(b"content-type", b"application/grpc"), (b"grpc-status", b"12"), (b"grpc-message", _NO_GRPC_HERE)]
            return Response(200, fields)
        raise EdgeError(Kind.INVOKE_NO_APP_ID, _NO_APP_ID)
    target, method = found
    limit = call.limit_bytes
    if limit is not None:
        body = request.body
        length = body.length
        if length is not None:
            if length > limit:
                raise EdgeError(Kind.INVOKE_FAILED, f"failed to invoke, id: {target}, err: {BodyTooLarge()}")
        elif isinstance(body, StreamBody):
            request.body = LimitedBody(body, limit)
    return await call.blocks.invoker.invoke(target, method, query, request, call.trace)


def find_target(raw_path: bytes, headers: Headers) -> tuple[str, bytes] | None:
    """(target id, method) from the header `dapr-app-id`, Basic auth, or the path, in this order."""
    path = decode(raw_path)
    authorization = b""
    for name, value in headers:
        if name == b"dapr-app-id":
            if value:
                return value.decode("utf-8", "replace"), clean(path)
        elif name == b"authorization" and not authorization:
            authorization = value
    if authorization[:6] == b"Basic ":
        target = basic_target(authorization)
        if target:
            return target, clean(path)
    return split_invocation(path)


def basic_target(authorization: bytes) -> str:
    """The app id in `Basic base64(dapr-app-id:<id>)`, or an empty text."""
    try:
        user, *rest = base64.b64decode(authorization[6:], validate=True).decode().split(":")
    except (binascii.Error, UnicodeDecodeError):
        return ""
    return rest[0] if len(rest) == 1 and user.lower() == _APP_ID else ""


class LimitedBody(StreamBody):
    """A stream of unknown length that ends in `BodyTooLarge` once more than `limit_bytes` have come."""

    __slots__ = ("_left", "_source")

    def __init__(self, source: StreamBody, limit_bytes: int) -> None:
        super().__init__(None)
        self._source = source
        self._left = limit_bytes

    async def next_piece(self) -> bytes:
        piece = await self._source.next_piece()
        self._left -= len(piece)
        if self._left < 0:
            raise BodyTooLarge
        return piece

    async def aclose(self) -> None:
        await self._source.aclose()


ROUTES: Final = (Route(_VERBS, "v1.0/invoke/*", "invoke", "v1", "InvokeService", fallback),)
