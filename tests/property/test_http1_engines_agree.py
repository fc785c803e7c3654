"""Both HTTP/1.1 engines, and the libraries alone beside them, over mutated input that is cut anywhere.

Three claims are held: the two engines answer the same to the same bytes; where the bytes are cut does not matter; and
every message that we take, h11 alone (and llhttp alone, where it knows the method) takes and reads alike, so that
nothing that they refuse gets through.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable, Sequence
from typing import Any

import h11
import httptools
import pytest

from edge_runtime.wire.http1 import (
    CLOSED,
    END,
    NEED_DATA,
    Limits,
    ProtocolError,
    RequestHead,
    ResponseHead,
    new_request_reader,
    new_response_reader,
)

LIMITS = Limits(header_bytes_max=600, header_count_max=12, chunk_extension_bytes_max=40, trailer_bytes_max=80)
EVENTS_MAX = 2000

REQUESTS = (
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /v1.0/state/s/k%2F1?metadata.ttl=1#x HTTP/1.1\r\nHost: a:3500\r\nConnection: keep-alive\r\nA: */*\r\n\r\n",
    b"POST /v1.0/publish/p/t HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Type: text/plain\r\n\r\nhello",
    (
        b"PUT /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        b'5\r\nhello\r\nb;a=b;c="d e"\r\n world12345\r\n0\r\n\r\n'
    ),
    (
        b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\nTrailer: x\r\n\r\n"
        b"1\r\n!\r\n0\r\nX-Sum: 1\r\nY: 2\r\n\r\n"
    ),
    b"GET /old HTTP/1.0\r\n\r\n",
    b"POST /old HTTP/1.0\r\nConnection: Keep-Alive\r\nContent-Length: 2\r\n\r\nok",
    b"HEAD /v1.0/healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
    b"PURGE http://a.example/b/c?d HTTP/1.1\r\nHost: a.example\r\n\r\n",
    b"QUERY / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c, websocket\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n",
    b"POST /e HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
    b"GET /lf HTTP/1.1\nHost: a\nX-Empty:\nX-Text: \tcaf\xc3\xa9 au lait \t\n\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"SOURCE /s HTTP/1.1\r\nhost:a\r\nX-Y-Z:  1  2  \r\n\r\n",
)
RESPONSES = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\n",
    (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
        b"HTTP/1.1 201\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    ),
    b"HTTP/1.0 200 OK\r\nServer: x\r\n\r\nuntil the end",
    b"HTTP/1.1 500 Internal Server Error\r\nConnection: close\r\nContent-Type: a/b\r\n\r\nuntil the end too",
    b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\nx",
    b"HTTP/1.1 404 Nicht gef\xfcnden\nContent-Length: 0\n\n",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
)
PIECES = (
    b"\r", b"\n", b"\r\n", b"\r\n\r\n", b"\n\n", b" ", b"\t", b"\0", b"\x0b", b"\x7f", b"\xff", b":", b";", b",", b'"',
    b"=", b"0", b"-1", b"+5", b"0x5", b"5_0", b"99999999999999999999", b"00000000000000000005", b"\r\n ", b"\r\n\t",
    b" :", b"Content-Length: 5\r\n", b"Content-Length: 6\r\n", b"content-length:5, 5\r\n", b"Content-Length: \r\n",
    b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip, chunked\r\n", b"Transfer-Encoding: identity\r\n",
    b"Transfer-Encoding : chunked\r\n", b"transfer-encoding: \x0bchunked\r\n", b"Host: b\r\n", b"Connection: close\r\n",
    b"Connection: upgrade, close\r\n", b"Expect: 100-continue\r\n", b"Upgrade: h2c\r\n", b"X: " + b"y" * 300 + b"\r\n",
    b"A:\r\n" * 13, b"0\r\n\r\n", b"5\r\nhello\r\n", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/0.9", b"http/1.1",
    b"HTTP/1.10", b"RTSP/1.0", b"ICE/1.0", b" HTTP/1.1 ", b"5;x=" + b"y" * 60, b"FFFFFFFFFFFFFFFF", b"\xe2\x80\x8b",
)  # fmt: skip

Event = tuple[Any, ...]


def mutate(rng: random.Random, corpus: Sequence[bytes]) -> bytes:
    data = bytearray(b"".join(rng.choice(corpus) for _ in range(rng.choice((1, 1, 1, 2, 3)))))
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3, 5))):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(6)
        if kind == 0:
            data[at:at] = rng.choice(PIECES)
        elif kind == 1:
            breaks = [i for i in range(len(data)) if data.startswith(b"\r\n", i)] or [at]
            at = rng.choice(breaks)
            data[at + 2 : at + 2] = rng.choice(PIECES)
        elif kind == 2:
            del data[at : at + rng.choice((1, 1, 2, 4, 20))]
        elif kind == 3 and at < len(data):
            data[at] = rng.randrange(256)
        elif kind == 4:
            piece = data[at : at + rng.randrange(1, 40)]
            to = rng.randrange(len(data) + 1)
            data[to:to] = piece
        else:
            data[at : at + rng.randrange(8)] = rng.choice(PIECES)
    return bytes(data)


def cut(rng: random.Random, data: bytes) -> list[bytes]:
    if rng.random() < 0.1:
        return [data[i : i + 1] for i in range(len(data))]
    points = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(6)))
    edges = [0, *points, len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges) if a != b]


def read(reader: Any, pieces: Sequence[bytes], before_head: Callable[[Any], None] | None = None) -> list[Event]:
    """All events, data coalesced, with the error's status or the last signal at the end."""
    events: list[Event] = []
    if before_head:
        before_head(reader)
    for piece in (*pieces, b""):
        reader.feed(piece)
        while True:
            assert len(events) < EVENTS_MAX
            try:
                event = reader.next_event()
            except ProtocolError as error:
                events.append(("error", type(error), error.status))
                return events
            if event is NEED_DATA:
                break
            if event is CLOSED:
                events.append(("closed",))
                return events
            if isinstance(event, bytes):
                assert event
                if events[-1][0] == "data":
                    event = events.pop()[1] + event
                events.append(("data", event))
            elif event is END:
                events.append(("end",))
                if before_head:
                    before_head(reader)
            else:
                events.append(("head", event))
    raise AssertionError("no end although the input has ended")


TARGET_BEYOND_ASCII = re.compile(rb" [^ \r\n]*[\x80-\xff][^ \r\n]* HTTP/")


def by_h11(data: bytes, role: Any, method: str) -> list[Event]:
    """What h11 alone reads, up to the first thing that it refuses."""
    connection = h11.Connection(role, max_incomplete_event_size=100_000)
    events: list[Event] = []
    if role is h11.CLIENT:
        connection.send(h11.Request(method=method, target="/", headers=[("host", "a")]))
        connection.send(h11.EndOfMessage())
    connection.receive_data(data)
    connection.receive_data(b"")
    while True:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError:
            return events
        if isinstance(event, h11.Request):
            events.append(("head", event.method.decode(), event.target, list(event.headers), event.http_version))
        elif isinstance(event, h11.Response):
            events.append(("head", event.status_code, event.reason, list(event.headers), event.http_version))
        elif isinstance(event, h11.Data):
            earlier = events.pop()[1] if events[-1][0] == "data" else b""
            events.append(("data", earlier + bytes(event.data)))
        elif isinstance(event, h11.EndOfMessage):
            events.append(("end",))
            if role is h11.CLIENT:
                return events
            connection.send(h11.Response(status_code=404, headers=[("content-length", "0")]))
            connection.send(h11.EndOfMessage())
            if connection.our_state is not h11.DONE:
                return events
            connection.start_next_cycle()
        elif not isinstance(event, h11.InformationalResponse):
            return events


class _Llhttp:
    def __init__(self) -> None:
        self.events: list[Event] = []
        self.headers: list[tuple[bytes, bytes]] = []
        self.url = b""

    def on_message_begin(self) -> None:
        self.headers = []
        self.url = b""

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value.strip()))

    def on_headers_complete(self) -> None:
        self.events.append(("head", self.url, list(self.headers)))  # later ones are trailers

    def on_body(self, data: bytes) -> None:
        earlier = self.events.pop()[1] if self.events[-1][0] == "data" else b""
        self.events.append(("data", earlier + data))

    def on_message_complete(self) -> None:
        self.events.append(("end",))


def by_llhttp(data: bytes) -> list[Event]:
    """What llhttp alone reads of requests, up to the first thing that it refuses."""
    taker = _Llhttp()
    try:
        httptools.HttpRequestParser(taker).feed_data(data)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade):
        pass
    return taker.events


def complete(events: Sequence[Event]) -> list[Event]:
    """The events of whole messages."""
    ends = [i for i, event in enumerate(events) if event[0] == "end"]
    return list(events[: ends[-1] + 1]) if ends else []


def check_requests(rng: random.Random, data: bytes) -> None:
    pieces = cut(rng, data)
    by_httptools = read(new_request_reader(LIMITS, engine="httptools"), pieces)
    assert by_httptools == read(new_request_reader(LIMITS, engine="h11"), pieces), (data, pieces)
    assert by_httptools == read(new_request_reader(LIMITS, engine="httptools"), [data] if data else []), data
    ours: list[Event] = []
    for event in complete(by_httptools):
        ours.append(event)
        if event[0] == "end" and (not heads(ours)[-1].keep_alive or heads(ours)[-1].http_version == b"1.0"):
            break  # h11 reads no further
    if TARGET_BEYOND_ASCII.search(data):
        return  # which neither engine takes alone
    theirs = by_h11(data, h11.SERVER, "")
    assert without_framing(ours) == without_framing(theirs[: len(ours)]), data
    if all(head.method in ("GET", "POST", "PUT", "HEAD") for head in heads(ours)) and b"\r\n" in data:
        compare_llhttp(data, ours)


def heads(events: Sequence[Event]) -> list[Any]:
    return [event[1] for event in events if event[0] == "head"]


def without_framing(events: Sequence[Event]) -> list[Event]:
    """Heads in h11's shape. Our target has lost its scheme and host: that is compared elsewhere."""
    shaped: list[Event] = []
    for event in events:
        if event[0] != "head":
            shaped.append(event)
        elif isinstance(event[1], RequestHead):
            head = event[1]
            shaped.append(("head", head.method, path(head.target), head.headers, head.http_version))
        elif isinstance(event[1], ResponseHead):
            answer = event[1]
            shaped.append(("head", answer.status, answer.reason, answer.headers, answer.http_version))
        else:
            shaped.append((*event[:2], path(event[2]) if isinstance(event[1], str) else event[2], *event[3:]))
    return shaped


def path(target: bytes) -> bytes:
    if b"://" not in target or target.startswith(b"/"):
        return target
    rest = target.split(b"://", 1)[1]
    cuts = [i for i in (rest.find(b"/"), rest.find(b"?"), rest.find(b"#")) if i >= 0]
    rest = rest[min(cuts) :] if cuts else b""
    return rest if rest.startswith(b"/") else b"/" + rest


def compare_llhttp(data: bytes, ours: Sequence[Event]) -> None:
    """llhttp refuses bare LF and stops at an offered upgrade: only what it has seen by then is compared."""
    theirs = by_llhttp(data)
    plain = all(b"upgrade" not in dict(head.headers) and head.target.startswith(b"/") for head in heads(ours))
    if not plain or b"\n" in data.replace(b"\r\n", b"") or b"://" in data:
        return
    shaped = [
        ("head", e[1].target, [(n, v.lower() if n == b"transfer-encoding" else v) for n, v in e[1].headers])
        if e[0] == "head"
        else e
        for e in ours
    ]
    lowered = [
        ("head", e[1], [(n, v.lower() if n == b"transfer-encoding" else v) for n, v in e[2]]) if e[0] == "head" else e
        for e in theirs
    ]
    assert shaped == lowered[: len(shaped)], data


def check_responses(rng: random.Random, data: bytes) -> None:
    pieces = cut(rng, data)
    method = rng.choice(("GET", "GET", "POST", "HEAD"))

    def ask(reader: Any) -> None:
        reader.expect(method)

    by_httptools = read(new_response_reader(LIMITS, engine="httptools"), pieces, ask)
    assert by_httptools == read(new_response_reader(LIMITS, engine="h11"), pieces, ask), (method, data, pieces)
    assert by_httptools == read(new_response_reader(LIMITS, engine="httptools"), [data] if data else [], ask), data
    ours = complete(by_httptools)
    if ours:
        first = ours[: ours.index(("end",)) + 1]
        theirs = by_h11(data, h11.CLIENT, method)
        assert without_framing(first) == without_framing(theirs[: len(first)]), (method, data)


def run(seed: int, rounds: int) -> int:
    """Rounds on both sides; returns how many inputs had a whole message."""
    rng = random.Random(seed)
    taken = 0
    for _ in range(rounds):
        data = mutate(rng, REQUESTS)
        check_requests(rng, data)
        taken += bool(complete(read(new_request_reader(LIMITS, engine="httptools"), [data] if data else [])))
        check_responses(rng, mutate(rng, RESPONSES))
    return taken


@pytest.mark.slow
def test_engines_agree_on_mutations() -> None:
    rounds = 5_000
    taken = run(seed=1, rounds=rounds)
    assert rounds * 0.2 < taken < rounds * 0.8  # the mutations are neither too wild nor too tame


@pytest.mark.long
@pytest.mark.parametrize("seed", range(10, 20))
def test_engines_agree_at_length(seed: int) -> None:
    run(seed, rounds=10_000)
