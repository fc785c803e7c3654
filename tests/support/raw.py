"""HTTP byte for byte: requests that no client library would send, answers compared whole."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from tests.support.sidecar import WAIT_S

Headers = Iterable[tuple[str, str]]
TYPE = "type.googleapis.com/google.rpc."
NO_APP_ID = {
    "errorCode": "ERR_DIRECT_INVOKE",
    "message": "failed getting app id either from the URL path or the header dapr-app-id",
}


class Reply(NamedTuple):
    """`headers` by lower-case name; of repeated ones the last."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def exchange(port: int, data: bytes) -> bytes:
    """Everything that is answered to these bytes, after which the sending side is closed."""
    with socket.create_connection(("127.0.0.1", port), WAIT_S) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        pieces = []
        while piece := connection.recv(65536):
            pieces.append(piece)
    return b"".join(pieces)


def request_bytes(method: str, target: str | bytes, body: bytes | None = None, headers: Headers = ()) -> bytes:
    lines = [f"{name}: {value}\r\n".encode("latin-1") for name, value in (("Host", "node"), *headers)]
    if body is not None:
        lines.append(b"Content-Length: %d\r\n" % len(body))
    path = target.encode() if isinstance(target, str) else target
    return b"%b %b HTTP/1.1\r\n%b\r\n%b" % (method.encode(), path, b"".join(lines), body or b"")


def ask(port: int, method: str, target: str | bytes, body: bytes | str | None = None, headers: Headers = ()) -> Reply:
    data = body.encode() if isinstance(body, str) else body
    return parsed(exchange(port, request_bytes(method, target, data, headers)))


def parsed(answer: bytes) -> Reply:
    """One answer with its body as it stands on the wire."""
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Reply(int(first.split(" ")[1]), headers, body)


def check(reply: Reply, status: int, expected: Any) -> None:
    """An answer of the API. `expected`: None is no body, bytes are the body, else it is the JSON document."""
    assert (status, expected) == (reply.status, _shown(reply)), reply
    if expected is None:
        assert reply.status != 204 or not {"content-type", "content-length"} & set(reply.headers), reply
    else:
        assert reply.headers["content-type"] == "application/json"
        assert reply.headers["content-length"] == str(len(reply.body))


def _shown(reply: Reply) -> Any:
    if not reply.body:
        return None
    return reply.json() if reply.body[:1] in b"{[" else reply.body


class Prefix(str):
    """Equal to every text that begins with it: the reason of a parser is its own."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and other.startswith(str(self))


def plain(code: str, message: str) -> dict[str, Any]:
    """The error of two fields."""
    return {"errorCode": code, "message": message}


def rich(code: str, message: str, *details: Mapping[str, Any]) -> dict[str, Any]:
    """The error with details, in their order."""
    return {"errorCode": code, "message": message, "details": list(details)}


def info(reason: str, metadata: Mapping[str, str] | None) -> dict[str, Any]:
    return {"@type": TYPE + "ErrorInfo", "reason": reason, "domain": "dapr.io", "metadata": metadata}


def resource(kind: str, name: str, description: str = "") -> dict[str, Any]:
    return {
        "@type": TYPE + "ResourceInfo",
        "resource_type": kind,
        "resource_name": name,
        "owner": "",
        "description": description,
    }


def violation(field: str, description: str) -> dict[str, Any]:
    return {"@type": TYPE + "BadRequest", "field_violations": [{"field": field, "description": description}]}
