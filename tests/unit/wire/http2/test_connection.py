from __future__ import annotations

import pytest

from edge_runtime.wire.http2 import Engine, GuardLimits, WireLimits, engine
from edge_runtime.wire.http2 import codes as c
from tests.unit.wire.http2.wires import (
    END_BLOCK,
    END_BOTH,
    ENGINES,
    OK,
    REQUEST,
    End,
    Frame,
    Seen,
    exchange,
    frame,
    frames,
    opened,
    pair,
    server,
    settings,
    word,
)

TRAILERS = [(b"grpc-status", b"0"), (b"grpc-message", b"")]


# --- what good peers do -----------------------------------------------------------------------------------------------


@ENGINES
def test_a_call_goes_there_and_back(codec: Engine) -> None:
    client, other = pair(codec)
    stream = opened(client)
    client.wire.send_data(stream, b"question", True)
    exchange(client, other)
    asked = other.seen[1]
    assert (asked.headers, asked.data, asked.received_end) == ([REQUEST], [b"question"], True)
    other.wire.send_headers(asked, OK)
    other.wire.send_data(asked, b"answer")
    other.wire.send_headers(asked, TRAILERS, True)
    exchange(client, other)
    assert (stream.headers, stream.data, stream.trailers) == ([OK], [b"answer"], TRAILERS)
    assert client.closed == other.closed == [1]
    assert not client.wire.streams
    assert not other.wire.streams


def test_the_engines_understand_one_another() -> None:
    headers = [*REQUEST, (b"x", bytes(range(33, 256))), (b"authorization", b"secret"), (b"empty", b"")]
    for codec, other in ((engine("jh2"), engine("h2")), (engine("h2"), engine("jh2"))):
        client, peer = pair(codec, other)
        for stream_id in (1, 3, 5):
            opened(client, headers, True)
            exchange(client, peer)
            assert peer.seen[stream_id].headers == [headers]


@ENGINES
def test_bytes_may_come_one_by_one(codec: Engine) -> None:
    end = server(codec)
    data = end.head() + frame(c.DATA, 0, 1, b"abc") + frame(c.DATA, c.FLAG_END_STREAM, 1, b"def")
    for byte in data:
        end.give(bytes((byte,)))
    assert end.seen[1].data == [b"abc", b"def"]


@ENGINES
def test_a_server_greets_first(codec: Engine) -> None:
    first, second = frames(End(codec).wire.take_out())
    assert first == Frame(c.SETTINGS, 0, 0, b"\0\4\0\x08\0\0" + b"\0\5\0\0\x40\0" + b"\0\6\0\1\0\0" + b"\0\3\0\0\1\0")
    assert second == Frame(c.WINDOW_UPDATE, 0, 0, word(4194304 - 65535))


@ENGINES
def test_settings_and_pings_are_answered(codec: Engine) -> None:
    end = End(codec)
    end.wire.take_out()
    answers = end.give(settings((65027, 1), (3, 0), (2, 1), (8, 1)) + frame(c.PING, 0, 0, b"12345678"))
    assert answers == [Frame(c.SETTINGS, 1, 0, b""), Frame(c.PING, 1, 0, b"12345678")]
    assert end.wire.peer_streams_max == 0
    assert end.give(frame(c.PING, c.FLAG_ACK, 0, b"87654321") + frame(c.SETTINGS, c.FLAG_ACK)) == []
    assert end.pongs == [b"87654321"]


@ENGINES
def test_padding_priorities_and_extensions_are_nothing(codec: Engine) -> None:
    end = server(codec)
    block = end.encoder.encode(REQUEST)
    end.give(
        frame(c.PRIORITY, 0, 5, b"\0\0\0\3\7")
        + frame(0xBE, 0xFF, 7, b"whatever")
        + frame(c.HEADERS, END_BLOCK | c.FLAG_PADDED | c.FLAG_PRIORITY, 1, b"\3\x80\0\0\0\5" + block + b"\0\0\0")
        + frame(c.DATA, c.FLAG_PADDED, 1, b"\4abc\0\0\0\0")
        + frame(c.DATA, c.FLAG_PADDED | c.FLAG_END_STREAM, 1, b"\0")
    )
    assert (end.seen[1].headers, end.seen[1].data) == ([REQUEST], [b"abc", b""])


@ENGINES
def test_header_blocks_may_be_cut(codec: Engine) -> None:
    end = server(codec)
    block = end.encoder.encode(REQUEST)
    end.give(
        frame(c.HEADERS, c.FLAG_END_STREAM, 1, block[:3])
        + frame(c.CONTINUATION, 0, 1)
        + frame(c.CONTINUATION, END_BLOCK, 1, block[3:])
    )
    assert end.seen[1].headers == [REQUEST]
    assert end.seen[1].received_end


@ENGINES
def test_large_blocks_and_data_are_cut(codec: Engine) -> None:
    client, other = pair(codec)
    headers = [*REQUEST, (b"large", bytes(range(128, 256)) * 300)]
    stream = opened(client, headers)
    client.wire.send_data(stream, b"x" * 40000, True)
    sent = frames(client.wire.take_out())
    assert [one.kind for one in sent] == [c.HEADERS, *[c.CONTINUATION] * (len(sent) - 4), *[c.DATA] * 3]
    assert [len(one.payload) for one in sent[-3:]] == [16384, 16384, 7232]
    other.give(b"".join(frame(*one) for one in sent))
    assert other.seen[1].headers == [headers]
    assert b"".join(other.seen[1].data) == b"x" * 40000


@ENGINES
def test_informational_responses_come_before(codec: Engine) -> None:
    client, other = pair(codec)
    stream = opened(client)
    exchange(client, other)
    other.wire.send_headers(other.seen[1], [(b":status", b"100")])
    other.wire.send_headers(other.seen[1], OK, True)
    exchange(client, other)
    assert stream.headers == [[(b":status", b"100")], OK]
    assert stream.received_end
    assert not stream.closed


@ENGINES
def test_a_full_header_list_fits(codec: Engine) -> None:
    end = server(codec)
    end.give(frame(c.HEADERS, 0, 1, (block := end.encoder.encode([*REQUEST, (b"x", b"y" * 65000)]))[:16384]) + b"".join(
        frame(c.CONTINUATION, END_BLOCK if begin + 16384 >= len(block) else 0, 1, block[begin : begin + 16384])
        for begin in range(16384, len(block), 16384)
    ))  # fmt: skip
    assert len(end.seen[1].headers[0][-1][1]) == 65000


# --- credit -----------------------------------------------------------------------------------------------------------


@ENGINES
def test_credit_is_kept_on_both_levels(codec: Engine) -> None:
    end = server(codec)
    end.give(settings((c.SETTING_INITIAL_WINDOW_SIZE, 100)) + end.head() + end.head(3))
    first, second = end.seen[1], end.seen[3]
    assert end.wire.sendable(first) == 100
    end.wire.send_data(first, b"x" * 100)
    assert end.wire.sendable(first) == 0
    end.give(settings((c.SETTING_INITIAL_WINDOW_SIZE, 50)))
    assert (end.wire.sendable(first), end.wire.sendable(second)) == (-50, 50)
    end.grown.clear()
    end.give(frame(c.WINDOW_UPDATE, 0, 1, word(80)) + frame(c.WINDOW_UPDATE, 0, 0, word(80)))
    assert (end.wire.sendable(first), end.grown) == (30, [1])
    end.give(settings((c.SETTING_INITIAL_WINDOW_SIZE, 2**20)))
    assert end.wire.sendable(second) == 65535 - 100 + 80
    end.wire.send_data(first, b"", True)


@ENGINES
def test_credit_follows_what_is_taken(codec: Engine) -> None:
    end = End(codec, limits=WireLimits(stream_window_bytes=100000, connection_window_bytes=150000))
    end.settle()
    end.give(end.head() + frame(c.DATA, 0, 1, b"x" * 16000) * 5)
    stream = end.seen[1]
    assert not end.wire.out
    end.wire.take(stream, 40000)
    assert not end.wire.out
    end.wire.take(stream, 40000)
    assert frames(end.wire.take_out()) == [
        Frame(c.WINDOW_UPDATE, 0, 0, word(80000)),
        Frame(c.WINDOW_UPDATE, 0, 1, word(80000)),
    ]
    end.give(frame(c.DATA, 0, 1, b"x" * 16000) * 5 + frame(c.DATA, c.FLAG_END_STREAM, 1))
    end.wire.take(stream, 80000)
    assert frames(end.wire.take_out()) == [Frame(c.WINDOW_UPDATE, 0, 0, word(80000))]


@ENGINES
def test_data_for_closed_streams_gives_its_credit_back(codec: Engine) -> None:
    end = server(codec)
    end.give(end.head())
    end.wire.reset(end.seen[1], c.CANCEL)
    end.wire.take_out()
    answers = [answer for _ in range(300) for answer in end.give(frame(c.DATA, 0, 1, b"x" * 16384))]
    assert answers == [Frame(c.WINDOW_UPDATE, 0, 0, word(2097152)), Frame(c.WINDOW_UPDATE, 0, 0, word(2097152))]


@ENGINES
def test_uploads_that_we_refuse_are_no_flood(codec: Engine) -> None:
    end = server(codec)
    piece = b"x" * 1024
    for stream_id in range(1, 601, 2):
        end.give(end.head(stream_id))
        end.wire.reset(end.seen[stream_id], c.NO_ERROR)
        end.give(frame(c.DATA, 0, stream_id, piece) * 511 + frame(c.DATA, c.FLAG_END_STREAM, stream_id, piece))
    assert end.fault(frame(c.DATA, 0, 1, b"x") * 20000) == "ENHANCE_YOUR_CALM", "that is more than we have granted"


@ENGINES
def test_responses_may_be_taken_late(codec: Engine) -> None:
    end = server(codec)
    end.give(end.head(1, REQUEST, END_BOTH))
    end.wire.send_headers(end.seen[1], OK, True)
    end.wire.take_out()
    assert end.give(frame(c.WINDOW_UPDATE, 0, 1, word(1)) * 20000) == []


@ENGINES
def test_a_window_that_grows_wakes_once(codec: Engine) -> None:
    end = server(codec)
    end.give(end.head())
    end.wire.send_data(end.seen[1], b"x" * 65535)
    end.give(frame(c.WINDOW_UPDATE, 0, 0, word(1)) * 1000)
    assert end.grown == [0]
    end.give(settings(*[(c.SETTING_INITIAL_WINDOW_SIZE, 65536 + number) for number in range(2000)]))
    assert end.grown == [0, 0]
    assert end.seen[1].room == 2000


# --- what harms one stream --------------------------------------------------------------------------------------------

MALFORMED = {
    "no path": REQUEST[:2],
    "no method": REQUEST[1:],
    "a status": [*REQUEST, (b":status", b"200")],
    "an unknown pseudo-header": [*REQUEST, (b":protocol", b"x")],
    "a path twice": [*REQUEST, (b":path", b"/b")],
    "a pseudo-header last": [*REQUEST[:2], (b"a", b"b"), *REQUEST[2:]],
    "an empty path": [*REQUEST[:2], (b":path", b"")],
    "a large letter": [*REQUEST, (b"xYz", b"b")],
    "an empty name": [*REQUEST, (b"", b"b")],
    "a space in a name": [*REQUEST, (b"a b", b"b")],
    "a line break": [*REQUEST, (b"a", b"b\nc")],
    "a carriage return": [*REQUEST, (b"a", b"b\rc")],
    "a NUL": [*REQUEST, (b"a", b"b\0c")],
    "a space at the begin": [(b":method", b" POST"), *REQUEST[1:]],
    "a space before others": [(b":method", b"POST "), *REQUEST[1:]],
    "a connection": [*REQUEST, (b"connection", b"close")],
    "an encoding": [*REQUEST, (b"transfer-encoding", b"chunked")],
    "another te": [*REQUEST, (b"te", b"gzip")],
    "a length that is none": [*REQUEST, (b"content-length", b"+1")],
    "two lengths": [*REQUEST, (b"content-length", b"1"), (b"content-length", b"2")],
    "a connect with a path": [(b":method", b"CONNECT"), (b":path", b"/")],
}


@ENGINES
@pytest.mark.parametrize("headers", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_requests_are_reset(codec: Engine, headers: list[tuple[bytes, bytes]]) -> None:
    end = server(codec)
    assert end.give(end.head(1, headers)) == [Frame(c.RST_STREAM, 0, 1, word(c.PROTOCOL_ERROR))]
    assert end.give(end.head(3)) == []
    assert list(end.seen) == [3]


@ENGINES
def test_trailers_may_be_empty(codec: Engine) -> None:
    end = server(codec)
    end.give(end.head() + frame(c.HEADERS, END_BOTH, 1))
    assert (end.seen[1].trailers, end.seen[1].reset) == ([], None)


@ENGINES
def test_well_formed_oddities_pass(codec: Engine) -> None:
    end = server(codec)
    odd = [*REQUEST, (b"te", b"trailers"), (b"a", b""), (b"b", b"c \xff\t d"), (b"content-length", b"3"), (b"!", b"#")]
    connect = [(b":method", b"CONNECT"), (b":authority", b"a:1")]
    assert end.give(end.head(1, odd) + end.head(3, connect) + end.head(9)) == []
    assert [one.headers[0] for one in end.seen.values()] == [odd, connect, REQUEST]


@ENGINES
def test_blanks_around_values_go(codec: Engine) -> None:
    end = server(codec)
    blanks = [*REQUEST, (b"a", b"b "), (b"c", b"\td\t "), (b"e", b" "), (b"content-length", b" 3")]
    head = end.head(1, blanks)
    assert end.give(head + end.head(3, blanks) + end.head(5, blanks)) == []
    trimmed = [*REQUEST, (b"a", b"b"), (b"c", b"d"), (b"e", b""), (b"content-length", b"3")]
    assert [one.headers[0] for one in end.seen.values()] == [trimmed] * 3


def _after_head(end: End, *more: bytes) -> tuple[list[Frame], Seen]:
    answers = end.give(end.head() + b"".join(more))
    return answers, end.seen[1]


@ENGINES
@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(c.WINDOW_UPDATE, 0, 1, word(0)), c.PROTOCOL_ERROR),
        (frame(c.WINDOW_UPDATE, 0, 1, word(2**31 - 1)), c.FLOW_CONTROL_ERROR),
        (frame(c.PRIORITY, 0, 1, b"\0"), c.FRAME_SIZE_ERROR),
        (frame(c.DATA, c.FLAG_END_STREAM, 1) + frame(c.DATA, 0, 1, b"x"), c.STREAM_CLOSED),
        (frame(c.HEADERS, END_BLOCK, 1, b"\x82"), c.PROTOCOL_ERROR),
        (frame(c.HEADERS, END_BOTH, 1, b"\x82"), c.PROTOCOL_ERROR),
        (frame(c.DATA, c.FLAG_END_STREAM, 1) + frame(c.HEADERS, END_BOTH, 1, b""), c.STREAM_CLOSED),
    ],
)
def test_what_harms_a_stream_resets_it(codec: Engine, data: bytes, code: int) -> None:
    end = server(codec)
    answers, stream = _after_head(end, data)
    assert answers == [Frame(c.RST_STREAM, 0, 1, word(code))]
    assert stream.reset == (code, False)
    assert end.closed == [1]
    assert end.give(frame(c.DATA, 0, 1, b"on its way") + frame(c.HEADERS, END_BLOCK, 1, b"")) == []
    assert end.give(end.head(3)) == []


@ENGINES
@pytest.mark.parametrize("sizes", [(4,), (2, 2), (2, 0), ()])
def test_a_body_is_as_long_as_it_says(codec: Engine, sizes: tuple[int, ...]) -> None:
    end = server(codec)
    data = b"".join(frame(c.DATA, 0, 1, b"x" * size) for size in sizes) + end.head(1, TRAILERS, END_BOTH)
    if not sizes:
        answers = end.give(end.head(1, [*REQUEST, (b"content-length", b"3")], END_BOTH))
    else:
        answers = end.give(end.head(1, [*REQUEST, (b"content-length", b"3")]) + data)
    assert answers[0] == Frame(c.RST_STREAM, 0, 1, word(c.PROTOCOL_ERROR))


@ENGINES
def test_a_stream_window_is_kept(codec: Engine) -> None:
    end = server(codec)
    answers, stream = _after_head(end, frame(c.DATA, 0, 1, b"x" * 16384) * 33)
    assert answers == [Frame(c.RST_STREAM, 0, 1, word(c.FLOW_CONTROL_ERROR))]
    assert sum(map(len, stream.data)) == 524288


@ENGINES
def test_streams_above_the_limit_are_refused(codec: Engine) -> None:
    end = server(codec, WireLimits(streams_max=2))
    assert end.give(end.head(1) + end.head(3) + end.head(5)) == [Frame(c.RST_STREAM, 0, 5, word(c.REFUSED_STREAM))]
    end.wire.reset(end.seen[1], c.NO_ERROR)
    assert [one.stream_id for one in end.give(end.head(7))] == [1]
    end.wire.reset(end.seen[3], c.NO_ERROR)
    end.refuse = True
    assert end.give(end.head(9))[-1] == Frame(c.RST_STREAM, 0, 9, word(c.REFUSED_STREAM))


@ENGINES
def test_a_list_above_the_limit_resets(codec: Engine) -> None:
    end = server(codec, WireLimits(header_list_bytes_max=2000))
    large = [*REQUEST, (b"x", bytes(range(128, 256)) * 15)]
    assert end.give(end.head(1, large)) == [Frame(c.RST_STREAM, 0, 1, word(c.FRAME_SIZE_ERROR))]
    assert end.give(end.head(3)) == []
    assert end.seen[3].headers == [REQUEST]


@ENGINES
def test_data_behind_both_ends_is_answered(codec: Engine) -> None:
    end = server(codec)
    end.give(end.head(1, REQUEST, END_BOTH))
    end.wire.send_headers(end.seen[1], OK, True)
    end.wire.take_out()
    assert end.give(frame(c.DATA, 0, 1, b"x")) == [Frame(c.RST_STREAM, 0, 1, word(c.STREAM_CLOSED))]
    end.wire.reset(end.seen[1], c.CANCEL)
    assert not end.wire.out


@ENGINES
@pytest.mark.parametrize(
    ("trailers", "code"),
    [
        ([(b"x", bytes(range(128, 256)) * 16)], c.FRAME_SIZE_ERROR),
        ([(b"X", b"large letter")], c.PROTOCOL_ERROR),
        ([(b":path", b"/")], c.PROTOCOL_ERROR),
    ],
)
def test_trailers_have_their_rules(codec: Engine, trailers: list[tuple[bytes, bytes]], code: int) -> None:
    end = server(codec, WireLimits(header_list_bytes_max=2000))
    answers = end.give(end.head() + end.head(1, trailers, END_BOTH))
    assert answers == [Frame(c.RST_STREAM, 0, 1, word(code))]


# --- what harms the connection ----------------------------------------------------------------------------------------

FATAL = {
    "data for no stream": (frame(c.DATA, 0, 0, b"x"), "PROTOCOL_ERROR"),
    "data for a stream to come": (frame(c.DATA, 0, 1, b"x"), "PROTOCOL_ERROR"),
    "data for our streams": (frame(c.DATA, 0, 2, b"x"), "PROTOCOL_ERROR"),
    "too much padding": (frame(c.DATA, c.FLAG_PADDED, 1, b"\5abc"), "PROTOCOL_ERROR"),
    "no padding": (frame(c.DATA, c.FLAG_PADDED, 1), "FRAME_SIZE_ERROR"),
    "headers for no stream": (frame(c.HEADERS, END_BLOCK, 0, b"\x82"), "PROTOCOL_ERROR"),
    "an even stream": (frame(c.HEADERS, END_BLOCK, 2, b"\x82"), "PROTOCOL_ERROR"),
    "half a priority": (frame(c.HEADERS, END_BLOCK | c.FLAG_PRIORITY, 1, b"\0\0"), "FRAME_SIZE_ERROR"),
    "no compression": (frame(c.HEADERS, END_BLOCK, 1, b"\xff\xff\xff\xff\xff\xff"), "COMPRESSION_ERROR"),
    "a block that is cut off": (frame(c.HEADERS, END_BLOCK, 1, b"\x7f"), "COMPRESSION_ERROR"),
    "priority of no stream": (frame(c.PRIORITY, 0, 0, b"\0\0\0\0\0"), "PROTOCOL_ERROR"),
    "a short priority": (frame(c.PRIORITY, 0, 7, b"\0\0\0\0"), "FRAME_SIZE_ERROR"),
    "a reset of a stream to come": (frame(c.RST_STREAM, 0, 1, word(8)), "PROTOCOL_ERROR"),
    "a reset of no stream": (frame(c.RST_STREAM, 0, 0, word(8)), "PROTOCOL_ERROR"),
    "a short reset": (frame(c.RST_STREAM, 0, 1, b"\0"), "FRAME_SIZE_ERROR"),
    "settings of a stream": (frame(c.SETTINGS, 0, 1), "PROTOCOL_ERROR"),
    "half a setting": (frame(c.SETTINGS, 0, 0, b"\0\0\0"), "FRAME_SIZE_ERROR"),
    "settings in an acknowledgment": (frame(c.SETTINGS, c.FLAG_ACK, 0, b"\0\3\0\0\0\0"), "FRAME_SIZE_ERROR"),
    "a push that is half allowed": (settings((c.SETTING_ENABLE_PUSH, 2)), "PROTOCOL_ERROR"),
    "a window setting too large": (settings((c.SETTING_INITIAL_WINDOW_SIZE, 2**31)), "FLOW_CONTROL_ERROR"),
    "a frame setting too small": (settings((c.SETTING_MAX_FRAME_SIZE, 16383)), "PROTOCOL_ERROR"),
    "a frame setting too large": (settings((c.SETTING_MAX_FRAME_SIZE, 2**24)), "PROTOCOL_ERROR"),
    "a push": (frame(c.PUSH_PROMISE, END_BLOCK, 1, word(2)), "PROTOCOL_ERROR"),
    "a ping of a stream": (frame(c.PING, 0, 1, b"12345678"), "PROTOCOL_ERROR"),
    "a short ping": (frame(c.PING, 0, 0, b"1234"), "FRAME_SIZE_ERROR"),
    "a goaway of a stream": (frame(c.GOAWAY, 0, 1, bytes(8)), "PROTOCOL_ERROR"),
    "a short goaway": (frame(c.GOAWAY, 0, 0, bytes(4)), "FRAME_SIZE_ERROR"),
    "a window of a stream to come": (frame(c.WINDOW_UPDATE, 0, 1, word(1)), "PROTOCOL_ERROR"),
    "a short window": (frame(c.WINDOW_UPDATE, 0, 0, b"\0"), "FRAME_SIZE_ERROR"),
    "a window by nothing": (frame(c.WINDOW_UPDATE, 0, 0, word(0)), "PROTOCOL_ERROR"),
    "a window too large": (frame(c.WINDOW_UPDATE, 0, 0, word(2**31 - 1)), "FLOW_CONTROL_ERROR"),
    "nothing to continue": (frame(c.CONTINUATION, END_BLOCK, 1, b"\x82"), "PROTOCOL_ERROR"),
    "a block of two streams": (
        frame(c.HEADERS, 0, 1, b"\x82") + frame(c.CONTINUATION, END_BLOCK, 3, b""),
        "PROTOCOL_ERROR",
    ),
    "a ping within a block": (frame(c.HEADERS, 0, 1, b"\x82") + frame(c.PING, 0, 0, bytes(8)), "PROTOCOL_ERROR"),
    "a large frame": (frame(c.DATA, 0, 1, bytes(16385))[:20], "FRAME_SIZE_ERROR"),
    "a large unknown frame": (frame(0x77, 0, 1, bytes(16385)), "FRAME_SIZE_ERROR"),
}


@ENGINES
@pytest.mark.parametrize(("data", "code"), FATAL.values(), ids=FATAL.keys())
def test_what_harms_the_connection_ends_it(codec: Engine, data: bytes, code: str) -> None:
    assert server(codec).fault(data) == code


@ENGINES
@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", b"\0"])
def test_another_preface_ends_the_connection(codec: Engine, data: bytes) -> None:
    end = End(codec)
    with pytest.raises(c.ConnectionFault, match="PROTOCOL_ERROR"):
        end.wire.receive(data, 0.0)


@ENGINES
@pytest.mark.parametrize("data", [frame(c.PING, 0, 0, bytes(8)), frame(c.SETTINGS, c.FLAG_ACK), frame(0x55)])
def test_settings_come_first(codec: Engine, data: bytes) -> None:
    assert End(codec).fault(data) == "PROTOCOL_ERROR"


@ENGINES
def test_a_number_is_used_once(codec: Engine) -> None:
    end = server(codec)
    end.give(end.head(1, REQUEST, END_BOTH))
    end.wire.send_headers(end.seen[1], OK, True)
    assert end.fault(end.head(1, REQUEST, END_BOTH)) == "STREAM_CLOSED"
    end = server(codec)
    end.give(end.head(5))
    assert end.fault(end.head(3)) == "PROTOCOL_ERROR"


@ENGINES
def test_the_connection_window_is_kept(codec: Engine) -> None:
    end = server(codec, WireLimits(stream_window_bytes=65535, connection_window_bytes=65535))
    end.give(b"".join(end.head(number) for number in (1, 3, 5, 7, 9)))
    data = b"".join(frame(c.DATA, 0, number, b"x" * 16384) for number in (1, 3, 5, 7))
    assert end.fault(data) == "FLOW_CONTROL_ERROR"


@ENGINES
def test_settings_may_not_overflow_a_window(codec: Engine) -> None:
    end = server(codec)
    end.give(end.head() + frame(c.WINDOW_UPDATE, 0, 1, word(2**31 - 1 - 65535)))
    assert end.fault(settings((c.SETTING_INITIAL_WINDOW_SIZE, 65536))) == "FLOW_CONTROL_ERROR"


@ENGINES
def test_header_bombs_end_the_connection(codec: Engine) -> None:
    end = server(codec)
    end.give(end.head(1, [*REQUEST, (b"bomb", b"x" * 3900)]))
    assert end.fault(frame(c.HEADERS, END_BLOCK, 3, b"\xbe" * 1000)) == "ENHANCE_YOUR_CALM"


@ENGINES
def test_endless_header_blocks_end_the_connection(codec: Engine) -> None:
    end = server(codec)
    more = frame(c.CONTINUATION, 0, 1, b"\0\1a\1b" * 3000)
    assert end.fault(frame(c.HEADERS, 0, 1) + more * 100) == "ENHANCE_YOUR_CALM"
    end = server(codec)
    assert end.fault(frame(c.HEADERS, 0, 1) + frame(c.CONTINUATION, 0, 1) * 100) == "ENHANCE_YOUR_CALM"


# --- floods -----------------------------------------------------------------------------------------------------------


def _rapid_resets(end: End, number: int) -> bytes:
    return b"".join(
        end.head(stream_id) + frame(c.RST_STREAM, 0, stream_id, word(c.CANCEL))
        for stream_id in range(1 + 2 * 1000 * number, 1 + 2 * 1000 * (number + 1), 2)
    )


@ENGINES
def test_rapid_resets_end_the_connection(codec: Engine) -> None:
    end = server(codec)
    end.give(_rapid_resets(end, 0), 0.0)
    end.give(_rapid_resets(end, 1), 10.0)
    assert end.fault(end.head(9001) + frame(c.RST_STREAM, 0, 9001, word(c.CANCEL)), 11.0) == "ENHANCE_YOUR_CALM"


@ENGINES
def test_resets_behind_an_answer_are_free(codec: Engine) -> None:
    end = server(codec)
    for stream_id in range(1, 6001, 2):
        end.give(end.head(stream_id))
        end.wire.send_headers(end.seen[stream_id], OK)
        end.give(frame(c.RST_STREAM, 0, stream_id, word(c.CANCEL)))
    assert end.seen[5999].reset == (c.CANCEL, True)


@ENGINES
def test_resets_that_we_are_made_to_send_count(codec: Engine) -> None:
    end = server(codec)
    data = b"".join(end.head(number) + frame(c.WINDOW_UPDATE, 0, number, word(0)) for number in range(1, 2003, 2))
    assert end.fault(data) == "ENHANCE_YOUR_CALM"


FLOODS = {
    "settings": settings() * 101,
    "pings": frame(c.PING, 0, 0, bytes(8)) * 1001,
    "acknowledgments": frame(c.SETTINGS, c.FLAG_ACK) * 10001,
    "priorities": frame(c.PRIORITY, 0, 1, bytes(5)) * 10001,
    "unknown frames": frame(0xAA) * 10001,
    "empty data": frame(c.DATA, 0, 1) * 10001,
    "padded empty data": frame(c.DATA, c.FLAG_PADDED, 1, b"\1\0") * 10001,
    "goaways": frame(c.GOAWAY, 0, 0, bytes(8)) * 10001,
}


@ENGINES
@pytest.mark.parametrize("data", FLOODS.values(), ids=FLOODS.keys())
def test_floods_end_the_connection(codec: Engine, data: bytes) -> None:
    end = server(codec)
    end.give(end.head())
    assert end.fault(data) == "ENHANCE_YOUR_CALM"


def test_pings_may_come_in_their_interval() -> None:
    end = strict()
    for number in range(100):
        end.give(frame(c.PING, 0, 0, bytes(8)), 8.0 * number)


def test_the_third_early_ping_is_too_many() -> None:
    end = strict()
    ping = frame(c.PING, 0, 0, bytes(8))
    for now in (0.0, 7.0, 14.0):
        end.give(ping, now)
    assert end.fault(ping, 21.0) == "ENHANCE_YOUR_CALM"


def test_answers_forgive_early_pings() -> None:
    end = strict()
    end.give(end.head())
    end.wire.send_headers(end.seen[1], OK)
    for number in range(10):
        end.wire.send_data(end.seen[1], b"x")
        end.give(frame(c.PING, 0, 0, bytes(8)), 0.1 * number)


def strict() -> End:
    return server(engine("jh2"), WireLimits(guard=GuardLimits(ping_min_interval_s=8.0)))


@ENGINES
def test_pings_behind_data_are_free(codec: Engine) -> None:
    end = server(codec)
    end.give(end.head())
    for _ in range(2000):
        end.wire.send_data(end.seen[1], b"")
        end.give(frame(c.PING, 0, 0, bytes(8)))


@ENGINES
def test_busy_connections_may_have_more_crossing_frames(codec: Engine) -> None:
    end = server(codec)
    for stream_id in range(1, 6001, 2):
        end.give(end.head(stream_id, REQUEST, END_BOTH))
        end.wire.send_headers(end.seen[stream_id], OK, True)
        end.give(frame(c.WINDOW_UPDATE, 0, stream_id, word(1)) * 3 + frame(c.RST_STREAM, 0, stream_id, word(0)))


# --- the client's side ------------------------------------------------------------------------------------------------


def client(codec: Engine) -> End:
    end = End(codec, client=True)
    end.settle()
    return end


@ENGINES
@pytest.mark.parametrize(
    "headers",
    [
        [(b":status", b"20")],
        [(b":status", b"2x0")],
        [(b"a", b"b")],
        [(b":path", b"/")],
        [*OK, *OK],
        [*OK, (b"A", b"b")],
    ],
)
def test_malformed_responses_are_reset(codec: Engine, headers: list[tuple[bytes, bytes]]) -> None:
    end = client(codec)
    stream = opened(end)
    end.wire.take_out()
    assert end.give(end.head(1, headers)) == [Frame(c.RST_STREAM, 0, 1, word(c.PROTOCOL_ERROR))]
    assert stream.reset == (c.PROTOCOL_ERROR, False)


@ENGINES
def test_an_informational_response_ends_nothing(codec: Engine) -> None:
    end = client(codec)
    stream = opened(end)
    end.give(end.head(1, [(b":status", b"103")], END_BOTH))
    assert stream.reset == (c.PROTOCOL_ERROR, False)


@ENGINES
def test_streams_that_were_never_looked_at_are_dropped(codec: Engine) -> None:
    end = client(codec)
    stream = opened(end)
    end.give(frame(c.GOAWAY, 0, 0, word(0) + word(c.NO_ERROR) + b"bye"))
    assert end.goaways == [(0, c.NO_ERROR, b"bye")]
    end.wire.drop(stream)
    end.wire.drop(stream)
    assert stream.closed
    assert end.give(end.head(1, OK)) == []


@ENGINES
def test_data_needs_a_response_before_it(codec: Engine) -> None:
    end = client(codec)
    opened(end)
    end.wire.take_out()
    assert end.give(frame(c.DATA, 0, 1, b"x")) == [Frame(c.RST_STREAM, 0, 1, word(c.PROTOCOL_ERROR))]


@ENGINES
def test_a_server_cannot_open_or_push(codec: Engine) -> None:
    assert client(codec).fault(frame(c.HEADERS, END_BLOCK, 2, b"\x88")) == "PROTOCOL_ERROR"
    assert client(codec).fault(frame(c.HEADERS, END_BLOCK, 1, b"\x88")) == "PROTOCOL_ERROR"
    end = client(codec)
    opened(end)
    assert end.fault(frame(c.PUSH_PROMISE, END_BLOCK, 1, word(2))) == "PROTOCOL_ERROR"
    assert client(codec).fault(settings((c.SETTING_ENABLE_PUSH, 1))) == "PROTOCOL_ERROR"


@ENGINES
def test_a_response_to_head_has_a_length_alone(codec: Engine) -> None:
    end = client(codec)
    stream = opened(end, [(b":method", b"HEAD"), *REQUEST[1:]], True)
    end.give(end.head(1, [*OK, (b"content-length", b"7")], END_BOTH))
    assert stream.closed
    assert stream.reset is None


@ENGINES
def test_a_goaway_never_names_a_later_stream(codec: Engine) -> None:
    end = server(codec)
    end.give(end.head())
    end.wire.go_away()
    end.give(end.head(3))
    assert end.fault(frame(c.PING)) == "FRAME_SIZE_ERROR"
    assert end.wire.goaway_last == 1


@ENGINES
def test_after_a_goaway_of_ours_nothing_is_opened(codec: Engine) -> None:
    end = server(codec)
    end.give(end.head(1))
    end.wire.go_away(last_id=2**31 - 1)
    end.give(end.head(3))
    end.wire.go_away()
    assert [frame.payload for frame in frames(end.wire.take_out())] == [word(3) + word(0)]
    assert end.give(end.head(5) + frame(c.DATA, 0, 5, b"late") + end.head(5, TRAILERS, END_BOTH)) == []
    assert list(end.seen) == [1, 3]


@ENGINES
@pytest.mark.parametrize(
    ("sizes", "announced"),
    [
        ((4096,), b""),
        ((0,), b"\x20"),
        ((100000, 2000, 0), b"\x20"),
        ((0, 30), b"\x20\x3e"),
        ((10, 4096), b"\x2a\x3f\xe1\x1f"),
    ],
)
def test_the_table_is_as_the_peer_wants(codec: Engine, sizes: tuple[int, ...], announced: bytes) -> None:
    client_end, other = pair(codec)
    opened(client_end, [*REQUEST, (b"remember", b"me")], True)
    exchange(client_end, other)
    for size in sizes:
        client_end.give(settings((c.SETTING_HEADER_TABLE_SIZE, size)))
    opened(client_end, [*REQUEST, (b"remember", b"me")], True)
    (block,) = [one.payload for one in frames(b"".join(map(bytes, client_end.wire.out)))]
    assert block.startswith(announced)
    assert block[len(announced)] & 0xE0 != 0x20
    exchange(client_end, other)
    assert other.seen[1].headers == other.seen[3].headers
