"""The header rules as tables."""

from __future__ import annotations

import pytest

from edge_runtime.wire import headers


@pytest.mark.parametrize(
    "name",
    [
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"transfer-encoding",
        b"upgrade",
        b"http2-settings",
        b"te",
        b"trailer",
        b"proxy-authorization",
        b"proxy-authenticate",
        b"content-length",
        b"host",
        b"expect",
        b"destination-app-id",
        b"grpc-trace-bin",
        b"anything-bin",
    ],
)
def test_own_headers_stay_behind(name: bytes) -> None:
    assert headers.request_headers([(b"a", b"1"), (name, b"x"), (b"b", b"2")]) == [(b"a", b"1"), (b"b", b"2")]


@pytest.mark.parametrize(
    "name", [b"authorization", b"content-type", b"accept-encoding", b"dapr-api-token", b"dapr-caller-app-id", b"cookie"]
)
def test_other_headers_are_forwarded(name: bytes) -> None:
    assert headers.request_headers([(name, b"x"), (name, b"y")]) == [(name, b"x"), (name, b"y")]


def test_listed_names_go_too() -> None:
    given = [
        (b"connection", b"Keep-Alive, X-Secret"),
        (b"x-secret", b"1"),
        (b"connection", b"x-other"),
        (b"x-other", b"2"),
    ]
    assert headers.request_headers([*given, (b"x-kept", b"3")]) == [(b"x-kept", b"3")]
    assert headers.response_headers([*given, (b"x-kept", b"3")]) == [(b"x-kept", b"3")]


def test_grpc_names_get_prefix() -> None:
    given = [(b"grpc-timeout", b"1S"), (b":path", b"/x")]
    assert headers.request_headers(given) == [(b"dapr-grpc-timeout", b"1S"), (b"dapr-path", b"/x")]


def test_first_baggage_is_kept() -> None:
    assert headers.request_headers([(b"baggage", b"a=1"), (b"baggage", b"b=2")]) == [(b"baggage", b"a=1")]


def test_dropped_names_are_dropped() -> None:
    assert headers.request_headers([(b"dapr-app-id", b"x"), (b"a", b"1")], frozenset({b"dapr-app-id"})) == [
        (b"a", b"1")
    ]


def test_verdicts_stay_bounded() -> None:
    headers.request_headers([(b"x-%d" % number, b"") for number in range(5000)])
    assert len(headers._REQUEST) <= headers._VERDICTS_MAX


def test_answers_lose_hop_headers() -> None:
    given = [
        (b"content-length", b"3"),
        (b"transfer-encoding", b"chunked"),
        (b"connection", b"close"),
        (b"trace-bin", b"x"),
        (b"set-cookie", b"a"),
        (b"set-cookie", b"b"),
    ]
    assert headers.response_headers(given) == [(b"set-cookie", b"a"), (b"set-cookie", b"b")]


def test_metadata_becomes_headers() -> None:
    metadata = {
        "pubsubName": "bus",
        "Content-Type": "text/plain",
        "content-length": "9",
        "trace-bin": "x",
        "grpc-status": "1",
        "bad name": "x",
        "": "x",
        "text": "a\r\nb: c",
        "city": "Zürich",
    }
    assert headers.metadata_headers(metadata) == [
        (b"pubsubname", b"bus"),
        (b"dapr-grpc-status", b"1"),
        (b"text", b"a  b: c"),
        (b"city", "Zürich".encode()),
    ]
