import pytest

from edge_runtime.wire.http1 import (
    END,
    LAST_CHUNK,
    encode_chunk,
    encode_request,
    encode_response,
    encode_response_head,
    new_request_reader,
)

JSON = ((b"content-type", b"application/json"),)


def test_a_response_is_one_piece() -> None:
    assert encode_response(200, JSON, b"{}", keep_alive=True, date=b"Date: now") == (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nDate: now\r\nContent-Length: 2\r\n\r\n{}"
    )


def test_a_closing_response_says_so() -> None:
    assert encode_response(500, (), b"", keep_alive=False) == (
        b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )


def test_version_1_0_is_told_that_we_stay() -> None:
    assert b"\r\nConnection: keep-alive\r\n" in encode_response(200, (), b"", keep_alive=True, http_version=b"1.0")


@pytest.mark.parametrize("status", [204, 304, 100])
def test_bodyless_statuses_have_no_length(status: int) -> None:
    response = encode_response(status, (), b"dropped", keep_alive=True)
    assert response.endswith(b"\r\n\r\n")
    assert b"Length" not in response
    assert encode_response_head(status, (), None, True) == response


def test_head_has_length_but_no_body() -> None:
    assert encode_response(200, (), b"12345", keep_alive=True, head_only=True).endswith(b"Content-Length: 5\r\n\r\n")
    assert encode_response(200, (), b"", keep_alive=True, head_only=True) == b"HTTP/1.1 200 OK\r\n\r\n"


def test_unknown_statuses_have_no_reason() -> None:
    assert encode_response(599, (), b"", keep_alive=True).startswith(b"HTTP/1.1 599 \r\n")


def test_streams_announce_chunks_or_length() -> None:
    assert b"\r\nTransfer-Encoding: chunked\r\n\r\n" in encode_response_head(200, (), None, True)
    assert b"\r\nContent-Length: 7\r\n\r\n" in encode_response_head(200, (), 7, True)
    old = encode_response_head(200, (), None, False, http_version=b"1.0")
    assert old == b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"


def test_names_look_as_go_writes_them() -> None:
    headers = [(b"x-dapr-TEST", b"1"), (b"metadata.ttlExpireTime", b"2"), (b"etag", b"3"), (b"X-Dapr-Test", b"4")]
    written = encode_response(200, headers, b"", keep_alive=True).split(b"\r\n")
    assert written[1:5] == [b"X-Dapr-Test: 1", b"Metadata.ttlexpiretime: 2", b"Etag: 3", b"X-Dapr-Test: 4"]


def test_framing_belongs_to_the_writer() -> None:
    headers = [(b"Content-Length", b"9"), (b"transfer-encoding", b"x"), (b"connection", b"x"), (b"keep-alive", b"x")]
    assert encode_response(200, headers, b"", keep_alive=True) == b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


def test_a_date_of_its_own_stays() -> None:
    response = encode_response(200, [(b"date", b"then")], b"", keep_alive=True, date=b"Date: now")
    assert b"Date: then\r\n" in response
    assert b"now" not in response


def test_line_breaks_cannot_be_smuggled() -> None:
    headers = [(b"a", b"1\r\nSet-Cookie: x\0"), (b"b\r\nc", b"2"), (b"d e", b"3"), (b"", b"4")]
    assert encode_response(200, headers, b"", keep_alive=True) == (
        b"HTTP/1.1 200 OK\r\nA: 1  Set-Cookie: x \r\nContent-Length: 0\r\n\r\n"
    )


def test_many_names_are_not_kept() -> None:
    for number in range(2000):
        name = f"x-{number}"
        assert f"X-{number}: 1\r\n".encode() in encode_response(200, [(name.encode(), b"1")], b"", keep_alive=True)


def test_a_request_is_one_piece() -> None:
    assert encode_request("POST", b"/a?b", [(b"host", b"h:1")], b"xy") == (
        b"POST /a?b HTTP/1.1\r\nHost: h:1\r\nContent-Length: 2\r\n\r\nxy"
    )
    assert encode_request("GET", b"/", [], keep_alive=False) == b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n"


def test_empty_posts_say_so() -> None:
    assert b"Content-Length: 0\r\n" in encode_request("PUT", b"/", [], b"")
    assert b"Content-Length" not in encode_request("DELETE", b"/", [], b"")


def test_a_request_may_announce_a_stream() -> None:
    assert encode_request("PUT", b"/", [], None).endswith(b"Transfer-Encoding: chunked\r\n\r\n")
    assert encode_request("PUT", b"/", [], None, length=3).endswith(b"Content-Length: 3\r\n\r\n")


@pytest.mark.parametrize(
    ("method", "target"),
    [("GE T", b"/"), ("", b"/"), ("GET", b""), ("GET", b"/ x"), ("GET", b"/\r\nX: y"), ("é", b"/")],
)
def test_no_request_line_is_made_up(method: str, target: bytes) -> None:
    with pytest.raises(ValueError, match="no request line"):
        encode_request(method, target, [])


def test_chunks_are_read_back() -> None:
    reader = new_request_reader()
    reader.feed(encode_request("POST", b"/", [(b"host", b"a")], None))
    assert reader.next_event().body_length is None  # type: ignore[union-attr]
    reader.feed(encode_chunk(b"a" * 300) + encode_chunk(b"") + encode_chunk(b"b") + LAST_CHUNK)
    assert [reader.next_event() for _ in range(3)] == [b"a" * 300, b"b", END]
