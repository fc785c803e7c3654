import base64
import hashlib

import pytest

from edge_runtime.wire.websocket import (
    BINARY,
    CLOSE,
    CONTINUATION,
    GUID,
    PING,
    Frame,
    FrameReader,
    WebSocketError,
    encode_frame,
    handshake,
    masked,
    read_answer,
)

KEY = b"0123456789abcdef"
ACCEPT = hashlib.sha1(base64.b64encode(KEY) + GUID).digest()


def read_all(data: bytes, step: int) -> list[Frame]:
    reader = FrameReader()
    frames = []
    for start in range(0, len(data), step):
        reader.feed(data[start : start + step])
        while (frame := reader.next_frame()) is not None:
            frames.append(frame)
    return frames


def test_the_request_asks_for_mqtt() -> None:
    lines = handshake("broker:80", "/mqtt", KEY).decode().split("\r\n")
    assert lines[0] == "GET /mqtt HTTP/1.1"
    assert {"Host: broker:80", "Upgrade: websocket", "Sec-WebSocket-Protocol: mqtt"} <= set(lines)
    assert lines[-2:] == ["", ""]


def test_the_answer_must_be_to_our_key() -> None:
    accept = base64.b64encode(ACCEPT)
    read_answer(b"HTTP/1.1 101 Switching Protocols\r\nSEC-WEBSOCKET-ACCEPT:  " + accept, ACCEPT)
    for head in (b"HTTP/1.1 200 OK", b"HTTP/1.1 101 X", b"HTTP/1.1 101 X\r\nSec-WebSocket-Accept: else"):
        with pytest.raises(WebSocketError):
            read_answer(head, ACCEPT)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
def test_a_mask_undoes_itself(size: int) -> None:
    data = bytes(index % 251 for index in range(size))
    frame = encode_frame(BINARY, data, b"abcd")
    head = {True: 2, size > 125: 4, size > 65535: 10}[True]
    assert frame[head : head + 4] == b"abcd"
    assert masked(frame[head + 4 :], b"abcd") == data


@pytest.mark.parametrize("step", [1, 3, 1000])
def test_frames_come_in_pieces(step: int) -> None:
    data = b"\x02\x03abc" + b"\x89\x02hi" + b"\x80\x7e\x01\x00" + b"x" * 256 + b"\x82\x00" + b"\x88\x00"
    frames = read_all(data, step)
    assert b"".join(frame.data for frame in frames if frame.opcode in (BINARY, CONTINUATION)) == b"abc" + b"x" * 256
    assert [frame for frame in frames if frame.opcode >= CLOSE] == [Frame(PING, b"hi"), Frame(CLOSE, b"")]


def test_long_lengths_are_read() -> None:
    frames = read_all(b"\x82\x7f" + (70_000).to_bytes(8, "big") + b"y" * 70_000, 4096)
    assert sum(len(frame.data) for frame in frames) == 70_000


@pytest.mark.parametrize("data", [b"\x82\x81abcd!", b"\xc2\x01x", b"\x81\x01x", b"\x89\x7e\x01\x00"])
def test_other_frames_are_refused(data: bytes) -> None:
    with pytest.raises(WebSocketError):
        read_all(data, 100)
