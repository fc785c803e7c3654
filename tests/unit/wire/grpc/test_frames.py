"""Messages cut out of a stream of bytes, however it arrives."""

from __future__ import annotations

import pytest

from edge_runtime.wire.grpc.frames import BadFrame, FrameReader, MessageTooLarge, encode_frame


def test_a_message_has_a_head() -> None:
    assert encode_frame(b"abc") == b"\x00\x00\x00\x00\x03abc"
    assert encode_frame(b"", True) == b"\x01\x00\x00\x00\x00"


def test_several_messages_in_one_piece() -> None:
    reader = FrameReader(10)
    reader.feed(encode_frame(b"one") + encode_frame(b"", True) + encode_frame(b"three"))
    assert [reader.next_frame() for _ in range(4)] == [(False, b"one"), (True, b""), (False, b"three"), None]
    assert reader.empty


def test_one_message_byte_by_byte() -> None:
    reader = FrameReader(10)
    data = encode_frame(b"slowly")
    for byte in data[:-1]:
        reader.feed(bytes((byte,)))
        assert reader.next_frame() is None
        assert not reader.empty
    reader.feed(data[-1:])
    assert reader.next_frame() == (False, b"slowly")
    assert reader.empty


def test_many_small_messages_cost_their_bytes() -> None:
    reader = FrameReader(10)
    reader.feed(encode_frame(b"x") + encode_frame(b"") * 200_000)
    assert reader.next_frame() == (False, b"x")
    for number in range(200_000):  # each as a copy of the rest would be 100 GB
        assert reader.next_frame() == (False, b"")
        if number == 1000:
            reader.feed(encode_frame(b"end")[:6])
    assert reader.next_frame() is None
    reader.feed(b"nd")
    assert reader.next_frame() == (False, b"end")
    assert reader.empty


def test_small_pieces_are_joined() -> None:
    reader = FrameReader(100_000)
    data = encode_frame(bytes(range(256)) * 256)
    for begin in range(0, len(data), 2):
        assert reader.next_frame() is None
        reader.feed(data[begin : begin + 2])
    assert len(reader._pieces) < 100
    assert reader.next_frame() == (False, data[5:])


def test_no_bytes_are_no_news() -> None:
    reader = FrameReader(10)
    reader.feed(b"")
    assert reader.empty
    assert reader.next_frame() is None


def test_a_large_message_is_refused_by_its_head() -> None:
    reader = FrameReader(10)
    reader.feed(encode_frame(b"exactly 10"))
    assert reader.next_frame() == (False, b"exactly 10")
    reader.feed(b"\x00\x00\x00\x00\x0b")
    with pytest.raises(MessageTooLarge, match=r"^grpc: received message larger than max \(11 vs. 10\)$"):
        reader.next_frame()


def test_an_unknown_flag_is_refused() -> None:
    reader = FrameReader(10)
    reader.feed(b"\x02\x00\x00\x00\x00")
    with pytest.raises(BadFrame, match="unexpected payload format 2"):
        reader.next_frame()
