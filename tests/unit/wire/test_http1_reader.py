import sys
from collections.abc import Callable
from typing import Any

import pytest

from edge_runtime.wire import http1
from edge_runtime.wire.http1 import (
    CLOSED,
    END,
    NEED_DATA,
    Engine,
    Header,
    Http2Preface,
    IncompleteMessage,
    Limits,
    ProtocolError,
    RequestHead,
    RequestReader,
    ResponseHead,
    ResponseReader,
    new_request_reader,
    new_response_reader,
    with_h11,
)
from edge_runtime.wire.http1.grammar import Refused

ENGINES: tuple[Engine, ...] = ("httptools", "h11")
LIMITS = Limits(header_bytes_max=400, header_count_max=5, chunk_extension_bytes_max=10, trailer_bytes_max=30)


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Engine:
    name: Engine = request.param
    return name


@pytest.fixture
def requests(engine: Engine) -> RequestReader:
    return new_request_reader(LIMITS, engine=engine)


@pytest.fixture
def responses(engine: Engine) -> Callable[..., ResponseReader]:
    def make(method: str = "GET") -> ResponseReader:
        reader = new_response_reader(LIMITS, engine=engine)
        reader.expect(method)
        return reader

    return make


def events(reader: Any, data: bytes) -> list[Any]:
    reader.feed(data)
    found = [reader.next_event()]
    while found[-1] not in (NEED_DATA, CLOSED):
        found.append(reader.next_event())
    return found


def refused(reader: Any, data: bytes) -> ProtocolError:
    with pytest.raises(ProtocolError) as caught:
        events(reader, data)
    return caught.value


# --- requests ---------------------------------------------------------------------------------------------------------


def test_a_small_request_is_read(requests: RequestReader) -> None:
    data = b"GET /v1.0/state/s/k%2F?a=b HTTP/1.1\r\nHost: here:3500\r\nX-Text: \t a  b \t\r\nX-Empty:\r\n\r\n"
    assert events(requests, data) == [
        RequestHead(
            "GET",
            b"/v1.0/state/s/k%2F?a=b",
            [(b"host", b"here:3500"), (b"x-text", b"a  b"), (b"x-empty", b"")],
            b"1.1",
            keep_alive=True,
            expect_continue=False,
            body_length=0,
        ),
        END,
        NEED_DATA,
    ]


def test_bytes_may_come_singly(requests: RequestReader) -> None:
    data = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
    found = [event for byte in data for event in events(requests, bytes([byte])) if event is not NEED_DATA]
    assert found[0].body_length == 3
    assert found[1:] == [b"a", b"b", b"c", END]


def test_pipelined_requests_come_in_order(requests: RequestReader) -> None:
    one = b"PUT /%d HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n%d"
    found = events(requests, one % (1, 1) + one % (2, 2) + b"GET")
    assert [event.target if isinstance(event, RequestHead) else event for event in found] == [
        *(b"/1", b"1", END),
        *(b"/2", b"2", END),
        NEED_DATA,
    ]
    assert requests.unread() == b"GET"


def test_chunks_lose_their_framing(requests: RequestReader) -> None:
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: CHUNKED\r\n\r\n"
    body = b'3;a=b\r\nabc\r\nA;c="d"\r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\n'
    first, *rest = events(requests, head + body)
    assert first.body_length is None
    assert (b"transfer-encoding", b"chunked") in first.headers
    assert rest == [b"abc", b"0123456789", END, NEED_DATA]


def test_chunks_may_come_in_single_bytes(requests: RequestReader) -> None:
    data = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2;a\r\nab\r\n0\r\nX: 1\r\n\r\n"
    found = [event for byte in data for event in events(requests, bytes([byte])) if event is not NEED_DATA]
    assert found[1:] == [b"a", b"b", END]


def test_bare_lf_ends_head_lines(requests: RequestReader) -> None:
    first, *rest = events(requests, b"GET /lf HTTP/1.1\nHost: a\r\nX: 1\n\nGET ")
    assert (first.target, first.headers) == (b"/lf", [(b"host", b"a"), (b"x", b"1")])
    assert rest == [END, NEED_DATA]


@pytest.mark.parametrize("method", ["PURGE", "CONNECT", "SOURCE", "PRI", "a!#$%&'*+.^_`|~0-9"])
def test_any_token_is_a_method(requests: RequestReader, method: str) -> None:
    head = events(requests, f"{method} /x HTTP/1.1\r\nHost: a\r\n\r\n".encode())[0]
    assert (head.method, head.target) == (method, b"/x")


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (b"http://a:1/b?c", b"/b?c"),
        (b"HTTPS://a", b"/"),
        (b"http://a?c", b"/?c"),
        (b"*", b"*"),
        (b'/"<>\\^`{|}#?', b'/"<>\\^`{|}#?'),
        (b"/\xc3\xa9\xff?\xe2\x82\xac", b"/%C3%A9%FF?%E2%82%AC"),
        ("http://ä/ö".encode(), b"/%C3%B6"),
    ],
)
def test_targets_become_paths(requests: RequestReader, written: bytes, read: bytes) -> None:
    assert events(requests, b"OPTIONS " + written + b" HTTP/1.1\r\nHost: a\r\n\r\n")[0].target == read


@pytest.mark.parametrize(
    ("version", "connection", "kept"),
    [
        (b"1.1", b"", True),
        (b"1.1", b"Connection: close\r\n", False),
        (b"1.1", b"Connection: te, CLOSE\r\nConnection: keep-alive\r\n", False),
        (b"1.1", b"Connection: closed\r\n", True),
        (b"1.0", b"", False),
        (b"1.0", b"Connection: Keep-Alive\r\n", True),
    ],
)
def test_connections_are_kept_or_not(requests: RequestReader, version: bytes, connection: bytes, kept: bool) -> None:
    head = events(requests, b"GET / HTTP/" + version + b"\r\nHost: a\r\n" + connection + b"\r\n")[0]
    assert head.keep_alive is kept


def test_only_version_1_1_expects_continue(requests: RequestReader) -> None:
    fields = b"\r\nHost: a\r\nConnection: keep-alive\r\nExpect: 100-Continue\r\nContent-Length: 0\r\n\r\n"
    assert events(requests, b"POST / HTTP/1.1" + fields)[0].expect_continue is True
    assert events(requests, b"POST / HTTP/1.0" + fields)[0].expect_continue is False


def test_an_upgrade_is_an_ordinary_request(requests: RequestReader) -> None:
    data = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    found = events(requests, data + data)
    assert [type(event) for event in found] == [RequestHead, type(END)] * 2 + [type(NEED_DATA)]


FIELDS_REFUSED = {
    "conflicting lengths": (400, b"Content-Length: 1\r\nContent-Length: 2\r\n"),
    "equal lengths": (400, b"Content-Length: 1\r\nContent-Length: 1\r\n"),
    "a list of lengths": (400, b"Content-Length: 1, 1\r\n"),
    "an empty length": (400, b"Content-Length:\r\n"),
    "a negative length": (400, b"Content-Length: -1\r\n"),
    "a signed length": (400, b"Content-Length: +1\r\n"),
    "a hexadecimal length": (400, b"Content-Length: 0x1\r\n"),
    "an underscored length": (400, b"Content-Length: 1_0\r\n"),
    "a huge length": (400, b"Content-Length: 9999999999999999999\r\n"),
    "length beside chunks": (400, b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"),
    "chunks beside length": (400, b"Transfer-Encoding: chunked\r\nContent-Length: 1\r\n"),
    "an unknown coding": (501, b"Transfer-Encoding: gzip\r\n"),
    "two codings": (501, b"Transfer-Encoding: gzip, chunked\r\n"),
    "chunked twice": (501, b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
    "identity": (501, b"Transfer-Encoding: identity\r\n"),
    "a folded line": (400, b"X: 1\r\n 2\r\n"),
    "a folded first line": (400, b" X: 1\r\n"),
    "a bare CR": (400, b"X: 1\r2\r\n"),
    "a doubled CR": (400, b"X: 1\r\r\n"),
    "a zero": (400, b"X: 1\0\r\n"),
    "a control character": (400, b"X: \x01\r\n"),
    "a deletion": (400, b"X: \x7f\r\n"),
    "a blank before the colon": (400, b"X : 1\r\n"),
    "a blank in the name": (400, b"X Y: 1\r\n"),
    "no name": (400, b": 1\r\n"),
    "no colon": (400, b"X\r\n"),
    "a name beyond ASCII": (400, b"\xe9: 1\r\n"),
    "a second host": (400, b"Host: b\r\n"),
    "too many": (431, b"A: 1\r\n" * 5),
    "too much": (431, b"A: " + b"1" * 400 + b"\r\n"),
}


@pytest.mark.parametrize(("status", "fields"), FIELDS_REFUSED.values(), ids=FIELDS_REFUSED)
def test_bad_fields_are_refused(requests: RequestReader, status: int, fields: bytes) -> None:
    assert refused(requests, b"POST / HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n").status == status


HEADS_REFUSED = {
    "no host": (400, b"GET / HTTP/1.1\r\n\r\n"),
    "an empty line first": (400, b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    "the hello of TLS": (400, b"\x16\x03\x01"),
    "no target": (400, b"GET HTTP/1.1\r\nHost: a\r\n\r\n"),
    "a relative target": (400, b"GET x HTTP/1.1\r\nHost: a\r\n\r\n"),
    "a star and more": (400, b"GET *x HTTP/1.1\r\nHost: a\r\n\r\n"),
    "two blanks": (400, b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n"),
    "a tab": (400, b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    "a blank at the end": (400, b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n"),
    "a small protocol": (400, b"GET / http/1.1\r\nHost: a\r\n\r\n"),
    "version 0.9": (505, b"GET / HTTP/0.9\r\nHost: a\r\n\r\n"),
    "version 1.2": (505, b"GET / HTTP/1.2\r\nHost: a\r\n\r\n"),
    "version 2.0": (505, b"GET / HTTP/2.0\r\nHost: a\r\n\r\n"),
    "no version": (400, b"GET /\r\nHost: a\r\n\r\n"),
    "chunks in version 1.0": (400, b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"),
    "an endless line": (431, b"GET /" + b"x" * 400),
}


@pytest.mark.parametrize(("status", "head"), HEADS_REFUSED.values(), ids=HEADS_REFUSED)
def test_bad_heads_are_refused(requests: RequestReader, status: int, head: bytes) -> None:
    assert refused(requests, head).status == status


CHUNKS_REFUSED = {
    "no size": b"\r\n",
    "a negative size": b"-1\r\n",
    "a prefixed size": b"0x1\r\na\r\n0\r\n\r\n",
    "a blank before": b" 1\r\na\r\n0\r\n\r\n",
    "a blank behind": b"1 \r\na\r\n0\r\n\r\n",
    "a bare LF": b"1\na\r\n0\r\n\r\n",
    "a bare LF in an extension": b"1;a\nb\r\na\r\n0\r\n\r\n",
    "a huge size": b"1" * 16 + b"\r\n",
    "more than it said": b"1\r\nab\r\n0\r\n\r\n",
    "a bare LF behind data": b"1\r\na\n0\r\n\r\n",
    "too long extensions": b"1;abcdef\r\na\r\n1;abcdef\r\na\r\n0\r\n\r\n",
    "an endless line": b"1;" + b"a" * 40,
    "a bad trailer": b"0\r\nX : 1\r\n\r\n",
    "a length in the trailers": b"0\r\nContent-Length: 1\r\n\r\n",
    "too large trailers": b"0\r\nX: " + b"1" * 40 + b"\r\n\r\n",
    "endless trailers": b"0\r\nX: " + b"1" * 40,
}


@pytest.mark.parametrize("body", CHUNKS_REFUSED.values(), ids=CHUNKS_REFUSED)
def test_bad_chunks_are_refused(requests: RequestReader, body: bytes) -> None:
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert refused(requests, head + body).status == 400


def test_http2_is_recognised(requests: RequestReader) -> None:
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    for byte in preface[:17]:
        assert events(requests, bytes([byte])) == [NEED_DATA]
    requests.feed(preface[17:] + b"\0\0\0\4")
    with pytest.raises(Http2Preface):
        requests.next_event()
    assert requests.unread() == preface + b"\0\0\0\4"


def test_the_end_may_come_between_requests(requests: RequestReader) -> None:
    events(requests, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert requests.idle
    assert events(requests, b"") == [CLOSED]


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HT",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\na",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\na",
    ],
)
def test_an_end_inside_is_noticed(requests: RequestReader, data: bytes) -> None:
    events(requests, data)
    assert not requests.idle
    assert isinstance(refused(requests, b""), IncompleteMessage)


# --- responses --------------------------------------------------------------------------------------------------------


def test_a_small_response_is_read(responses: Callable[..., ResponseReader]) -> None:
    data = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nServer: x\r\n\r\nok"
    assert events(responses(), data) == [
        ResponseHead(
            200, b"OK", [(b"content-length", b"2"), (b"server", b"x")], b"1.1", keep_alive=True, body_length=2
        ),
        b"ok",
        END,
        NEED_DATA,
    ]


@pytest.mark.parametrize(
    ("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304), ("CONNECT", 200), ("HEAD", 500)]
)
def test_some_responses_have_no_body(responses: Callable[..., ResponseReader], method: str, status: int) -> None:
    reader = responses(method)
    head, *rest = events(reader, f"HTTP/1.1 {status} X\r\nContent-Length: 5\r\n\r\n".encode())
    assert (head.body_length, head.keep_alive) == (0, True)
    assert rest == [END, NEED_DATA]


def test_interim_responses_are_skipped(responses: Callable[..., ResponseReader]) -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103\r\nLink: a\r\n\r\n"
    head, *rest = events(responses("POST"), interim + b"HTTP/1.1 201\r\nContent-Length: 0\r\n\r\n")
    assert (head.status, head.reason) == (201, b"")
    assert rest == [END, NEED_DATA]


def test_bare_lf_ends_response_lines(responses: Callable[..., ResponseReader]) -> None:
    head, *rest = events(responses(), b"HTTP/1.1 200 OK\nContent-Length: 1\n\nx")
    assert (head.body_length, rest) == (1, [b"x", END, NEED_DATA])


def test_endless_interim_responses_are_refused(responses: Callable[..., ResponseReader]) -> None:
    assert refused(responses(), b"HTTP/1.1 102 Processing\r\n\r\n" * 100).status == 502


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_a_body_may_last_to_the_end(responses: Callable[..., ResponseReader], version: bytes) -> None:
    reader = responses()
    head, *rest = events(reader, b"HTTP/" + version + b" 200 OK\r\nConnection: keep-alive\r\n\r\nab")
    assert (head.body_length, head.keep_alive) == (None, False)
    assert rest == [b"ab", NEED_DATA]
    assert events(reader, b"c") == [b"c", NEED_DATA]
    assert events(reader, b"") == [END, CLOSED]


def test_responses_may_be_chunked(responses: Callable[..., ResponseReader]) -> None:
    head, *rest = events(responses(), b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n")
    assert (head.body_length, head.keep_alive) == (None, True)
    assert rest == [b"a", END, NEED_DATA]


def test_each_response_must_be_asked_for(responses: Callable[..., ResponseReader]) -> None:
    reader = responses()
    data = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    assert events(reader, data)[1:] == [END, NEED_DATA]
    reader.expect("GET")
    assert events(reader, data)[1:] == [END, NEED_DATA]
    assert refused(reader, data).status == 502


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"HTTP/1.1 099 X\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: 1\r\n 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"1" * 400,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
        b"SSH-2.0-OpenSSH\r\n\r\n",
    ],
)
def test_bad_responses_are_bad_gateways(responses: Callable[..., ResponseReader], data: bytes) -> None:
    assert refused(responses(), data).status == 502


def test_a_server_of_http2_is_told(responses: Callable[..., ResponseReader]) -> None:
    settings = b"\0\0\0\4\0\0\0\0\0"
    assert "does it speak gRPC" in str(refused(responses(), settings))


def test_a_short_body_is_told_apart(responses: Callable[..., ResponseReader]) -> None:
    reader = responses()
    events(reader, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc")
    assert isinstance(refused(reader, b""), IncompleteMessage)


def refuse_all(head: bytes) -> list[Header]:
    raise Refused("not today")


def test_an_engine_may_refuse_more() -> None:
    requests = RequestReader(refuse_all, LIMITS)
    assert refused(requests, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").status == 400
    requests = RequestReader(refuse_all, LIMITS)
    assert refused(requests, b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: x\r\n\r\n").status == 501
    responses = ResponseReader(refuse_all, LIMITS)
    responses.expect("GET")
    assert refused(responses, b"HTTP/1.1 200 OK\r\n\r\n").status == 502


def test_h11_refuses_what_is_no_head() -> None:
    with pytest.raises(Refused, match="no head"):
        with_h11.parse_request(b"GET / HTTP/1.1\r\n")


def test_h11_stands_in_for_httptools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http1, "_parsers", {})
    monkeypatch.delattr(http1, "with_httptools", raising=False)
    monkeypatch.setitem(sys.modules, "edge_runtime.wire.http1.with_httptools", None)
    assert events(new_request_reader(), b"GET / HTTP/1.0\r\n\r\n")[0].method == "GET"
    with pytest.raises(ImportError):
        new_request_reader(engine="httptools")


def test_the_default_engine_is_found() -> None:
    assert events(new_request_reader(), b"GET / HTTP/1.0\r\n\r\n")[0].method == "GET"
    assert new_response_reader().next_event() is NEED_DATA
