"""What crosses a cloud link, read as an independent sidecar would read it, and held against Dapr's documented API."""

from __future__ import annotations

import re
import socket
from collections import Counter
from typing import Final
from urllib.parse import parse_qsl

import hpack
import httptools

from edge_runtime.proto.dapr.proto.runtime.v1 import dapr_pb2
from tests.support.line import Line

_ONE: Final = r"[^/?]+"
_CONFIGURATION: Final = rf"/v1\.0(-alpha1)?/configuration/{_ONE}"
_WRITE: Final = ("POST", "PUT")

# Dapr's HTTP API, as far as it is documented for callers: methods and path.
HTTP_API: Final = tuple(
    (methods, re.compile(path))
    for methods, path in (
        (("GET",), r"/v1\.0/healthz(/outbound)?"),
        (("GET",), r"/v1\.0/metadata"),
        (("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"), rf"/v1\.0/invoke/{_ONE}/method/.*"),
        (("GET", "DELETE"), rf"/v1\.0/state/{_ONE}/{_ONE}"),
        (_WRITE, rf"/v1\.0/state/{_ONE}"),
        (_WRITE, rf"/v1\.0/state/{_ONE}/(bulk|transaction)"),
        (_WRITE, rf"/v1\.0-alpha1/state/{_ONE}/query"),
        (_WRITE, rf"/v1\.0/publish/{_ONE}/.+"),
        (_WRITE, rf"/v1\.0(-alpha1)?/publish/bulk/{_ONE}/.+"),
        (_WRITE, rf"/v1\.0/bindings/{_ONE}"),
        (("GET",), rf"/v1\.0/secrets/{_ONE}/{_ONE}"),
        (("GET",), rf"{_CONFIGURATION}(/subscribe)?"),
        (("GET",), rf"{_CONFIGURATION}/{_ONE}/unsubscribe"),
    )
)
HTTP_QUERY: Final = re.compile(r"metadata\..+|consistency|concurrency|key")
_COMMON_FIELDS: Final = frozenset({"content-type", "user-agent", "dapr-api-token", "traceparent", "tracestate"})
HTTP_FIELDS: Final = _COMMON_FIELDS | {
    *("host", "content-length", "transfer-encoding", "accept", "accept-encoding", "connection"),
    *("if-match", "dapr-app-id"),
}
_DAPR: Final = dapr_pb2.DESCRIPTOR.services_by_name["Dapr"]
GRPC_API: Final = frozenset(f"/{_DAPR.full_name}/{method.name}" for method in _DAPR.methods)
GRPC_FIELDS: Final = _COMMON_FIELDS | {
    *(":method", ":scheme", ":path", ":authority", "te"),
    *("grpc-timeout", "grpc-encoding", "grpc-accept-encoding", "grpc-trace-bin"),
}

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEADERS, _CONTINUATION = 1, 9
_PADDED, _PRIORITY, _END_HEADERS = 0x8, 0x20, 0x4


class Findings:
    """What crossed, and what of it stands in no documentation."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.foreign: Counter[str] = Counter()

    def http(self, method: str, target: str, fields: list[str]) -> None:
        path, _, query = target.partition("?")
        known = any(method in methods and pattern.fullmatch(path) for methods, pattern in HTTP_API)
        self._note(f"{method} {path}", known)
        for name, _ in parse_qsl(query, keep_blank_values=True):
            if not HTTP_QUERY.fullmatch(name):
                self.foreign[f"query {name} of {method} {path}"] += 1
        self._fields(fields, HTTP_FIELDS, path)

    def grpc(self, path: str, fields: list[str]) -> None:
        self._note(path, path in GRPC_API)
        self._fields(fields, GRPC_FIELDS, path)

    def _note(self, call: str, known: bool) -> None:
        self.calls[call] += 1
        if not known:
            self.foreign[call] += 1

    def _fields(self, fields: list[str], known: frozenset[str], path: str) -> None:
        for name in fields:
            if name not in known:
                self.foreign[f"field {name} of {path}"] += 1

    def unreadable(self, why: str) -> None:
        self.foreign[why] += 1


class Http1Log(bytearray):
    """Takes what one connection sends, and keeps none of it."""

    def __init__(self, findings: Findings) -> None:
        super().__init__()
        self._findings = findings
        self._target = b""
        self._fields: list[str] = []
        self._parser = httptools.HttpRequestParser(self)

    def extend(self, data: bytes) -> None:  # type: ignore[override]
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._findings.unreadable(f"no HTTP/1.1: {error!r}")

    def on_message_begin(self) -> None:
        self._target, self._fields = b"", []

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields.append(name.decode().lower())

    def on_headers_complete(self) -> None:
        self._findings.http(self._parser.get_method().decode(), self._target.decode(), self._fields)


class Http2Log(bytearray):
    """The same for gRPC: keeps a frame until it is whole."""

    def __init__(self, findings: Findings) -> None:
        super().__init__()
        self._findings = findings
        self._decoder = hpack.Decoder()
        self._opened = False
        self._block = b""

    def extend(self, data: bytes) -> None:  # type: ignore[override]
        self += data
        if not self._opened:
            if len(self) < len(_PREFACE):
                return
            if not self.startswith(_PREFACE):
                self._findings.unreadable("no HTTP/2")
            del self[: len(_PREFACE)]
            self._opened = True
        while len(self) >= 9 and len(self) >= 9 + (length := int.from_bytes(self[:3], "big")):
            self._frame(self[3], self[4], bytes(self[9 : 9 + length]))
            del self[: 9 + length]

    def _frame(self, kind: int, flags: int, payload: bytes) -> None:
        if kind == _HEADERS:
            if flags & _PADDED:
                payload = payload[1 : len(payload) - payload[0]]
            self._block = payload[5:] if flags & _PRIORITY else payload
        elif kind == _CONTINUATION:
            self._block += payload
        else:
            return
        if flags & _END_HEADERS:
            fields = dict(self._decoder.decode(self._block))
            self._findings.grpc(str(fields.get(":path")), [str(name) for name in fields])


class Recorder(Line):
    """A line that keeps findings instead of bytes. Whoever is gone without a word is noticed within seconds."""

    def __init__(self, target: int, host: str, findings: Findings, log: type[Http1Log] | type[Http2Log]) -> None:
        self._findings = findings
        self._log = log
        super().__init__(target, host=host)

    def new_log(self) -> bytearray:
        return self._log(self._findings)

    def carry(self, client: socket.socket, target: int) -> None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in ((socket.TCP_KEEPIDLE, 1), (socket.TCP_KEEPINTVL, 1), (socket.TCP_KEEPCNT, 3)):
            client.setsockopt(socket.IPPROTO_TCP, option, value)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 4000)
        super().carry(client, target)
