"""Field lists to messages and back."""

from __future__ import annotations

import pytest

from edge_runtime.wire.http1 import ProtocolError
from edge_runtime.wire.http2_fields import read_request, read_response, request_fields, response_fields

GET = [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"a:1"), (b":path", b"/x?q=1")]
Fields = list[tuple[bytes, bytes]]


def read(fields: Fields, bytes_max: int = 8192, count_max: int = 128) -> tuple[str, bytes, Fields]:
    head = read_request(fields, bytes_max, count_max)
    return head.method, head.target, head.headers


def refused(fields: Fields, bytes_max: int = 8192, count_max: int = 128) -> int:
    with pytest.raises(ProtocolError) as error:
        read_request(fields, bytes_max, count_max)
    return error.value.status


def test_pseudo_headers_become_start_line() -> None:
    assert read([*GET, (b"accept", b"*/*")]) == ("GET", b"/x?q=1", [(b"host", b"a:1"), (b"accept", b"*/*")])
    assert read_request(GET, 8192, 128).scheme == "http"


def test_authority_wins_over_host() -> None:
    assert read([*GET, (b"host", b"b")])[2] == [(b"host", b"a:1")]
    without = [field for field in GET if field[0] != b":authority"]
    assert read([*without, (b"host", b"b")])[2] == [(b"host", b"b")]
    assert read(without)[2] == []


def test_cookie_pieces_become_one() -> None:
    fields = [*GET, (b"cookie", b"a=1"), (b"x", b"y"), (b"cookie", b"b=2")]
    assert read(fields)[2] == [(b"host", b"a:1"), (b"x", b"y"), (b"cookie", b"a=1; b=2")]


def test_length_and_expectation_are_read() -> None:
    head = read_request([*GET, (b"content-length", b"5"), (b"expect", b"100-Continue")], 8192, 128)
    assert (head.length, head.expect_continue) == (5, True)
    head = read_request(GET, 8192, 128)
    assert (head.length, head.expect_continue) == (None, False)


@pytest.mark.parametrize(
    "fields",
    [
        [(b":method", b"G T"), *GET[1:]], [(b":method", b""), *GET[1:]], [*GET[:3], (b":path", b"x")],
        [*GET[:3], (b":path", b"/a b")], [*GET[:2], (b":authority", b"a b"), GET[3]],
        [*GET, (b"host", b"a"), (b"host", b"b")],
    ],
)  # fmt: skip
def test_malformed_requests_are_refused(fields: Fields) -> None:
    assert refused(fields) == 400


def test_large_heads_are_refused() -> None:
    assert refused([*GET, (b"x", b"y" * 8192)]) == 431
    assert refused([*GET, *[(b"x", b"")] * 200]) == 431
    assert refused([*GET, (b"x", b"")], 100_000, 4) == 431


def test_targets_are_ascii_afterwards() -> None:
    assert read([*GET[:3], (b":path", "/ü".encode())])[1] == b"/%C3%BC"
    assert read([(b":method", b"OPTIONS"), *GET[1:3], (b":path", b"*")])[1] == b"*"
    assert read([(b":method", b"CONNECT"), (b":authority", b"a:1")])[:2] == ("CONNECT", b"a:1")


def test_requests_are_written() -> None:
    headers = [
        (b"X-A", b" 1\r\n2 "),
        (b"connection", b"close"),
        (b"te", b"x"),
        (b"bad name", b""),
        (b"content-length", b"9"),
    ]
    fields = request_fields("POST", b"/x", b"a:1", headers, 0)
    assert fields == [
        (b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"a:1"), (b":path", b"/x"), (b"x-a", b"1  2"),
        (b"content-length", b"0"),
    ]  # fmt: skip
    assert request_fields("GET", b"/", b"a", [], 0)[-1] == (b":path", b"/")
    assert request_fields("GET", b"/", b"a", [], None)[-1] == (b":path", b"/")
    assert request_fields("GET", b"/", b"a", [], 3)[-1] == (b"content-length", b"3")


@pytest.mark.parametrize(("method", "target"), [("G T", b"/"), ("GET", b"/a b"), ("GET", b"x"), ("GET", b"/\n")])
def test_unwritable_requests_are_refused(method: str, target: bytes) -> None:
    with pytest.raises(ValueError, match="no request"):
        request_fields(method, target, b"a", [], 0)


def test_responses_are_written() -> None:
    assert response_fields(200, [(b"content-type", b"a"), (b"upgrade", b"b")], 2, b"now") == [
        (b":status", b"200"), (b"content-type", b"a"), (b"content-length", b"2"), (b"date", b"now"),
    ]  # fmt: skip
    assert response_fields(204, [(b"date", b"then")], None, b"now") == [(b":status", b"204"), (b"date", b"then")]


def test_responses_are_read() -> None:
    fields = [(b":status", b"201"), (b"content-length", b"3"), (b"x", b"y")]
    head = read_response(fields)
    assert (head.status, head.headers, head.length) == (201, [(b"content-length", b"3"), (b"x", b"y")], 3)
    assert read_response([(b":status", b"204")]).length is None
