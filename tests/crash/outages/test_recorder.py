"""The recorder itself: what stands in no documentation of Dapr is found, whatever pieces it comes in."""

from __future__ import annotations

import hpack
import pytest

from tests.support.recorder import Findings, Http1Log, Http2Log

SUBSCRIBE = "/dapr.proto.runtime.v1.Dapr/SubscribeTopicEventsAlpha1"


@pytest.mark.parametrize(
    ("head", "foreign"),
    [
        ("POST /v1.0/publish/pubsub/a/b?metadata.x=1 HTTP/1.1\r\nHost: x\r\n", []),
        ("DELETE /v1.0/state/s/a%2Fb?concurrency=first-write HTTP/1.1\r\nHost: x\r\nIf-Match: 1\r\n", []),
        ("GET /edge/v1/outbox HTTP/1.1\r\nHost: x\r\n", ["GET /edge/v1/outbox"]),
        ("GET /v1.0/publish/pubsub/a HTTP/1.1\r\nHost: x\r\n", ["GET /v1.0/publish/pubsub/a"]),
        ("GET /v1.0/metadata?edge=1 HTTP/1.1\r\nHost: x\r\n", ["query edge of GET /v1.0/metadata"]),
        ("GET /v1.0/metadata HTTP/1.1\r\nHost: x\r\nEdge-Node: 1\r\n", ["field edge-node of /v1.0/metadata"]),
    ],
)
def test_a_foreign_request_is_found(head: str, foreign: list[str]) -> None:
    findings = Findings()
    log = Http1Log(findings)
    for byte in f"{head}\r\n".encode() * 2:
        log.extend(bytes((byte,)))
    assert list(findings.foreign) == foreign
    assert findings.calls.total() == 2


def test_bytes_that_are_no_http_are_found() -> None:
    findings = Findings()
    Http1Log(findings).extend(b"\x16\x03\x01 hello\r\n\r\n")
    Http2Log(findings).extend(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    assert len(findings.foreign) == 2


@pytest.mark.parametrize(("path", "foreign"), [(SUBSCRIBE, []), ("/edge.v1.Edge/Sync", ["/edge.v1.Edge/Sync"])])
def test_a_foreign_rpc_is_found(path: str, foreign: list[str]) -> None:
    findings = Findings()
    log = Http2Log(findings)
    block = hpack.Encoder().encode([(":method", "POST"), (":path", path), ("te", "trailers")])
    first, rest = b"\0" + block[:4], block[4:]  # padded by nothing, and cut in two
    sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(4, 0, b"") + _frame(1, 0x8, first) + _frame(9, 0x4, rest)
    for byte in sent:
        log.extend(bytes((byte,)))
    assert list(findings.foreign) == foreign
    assert dict(findings.calls) == {path: 1}


def _frame(kind: int, flags: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + b"\0\0\0\1" + payload
