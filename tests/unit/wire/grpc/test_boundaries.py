"""Message boundaries in bytes that pass."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.wire.grpc.boundaries import Boundaries
from edge_runtime.wire.grpc.frames import BadFrame, MessageTooLarge, encode_frame


def test_whole_message_ends_between() -> None:
    boundaries = Boundaries()
    boundaries.feed(encode_frame(b"hello"))
    assert (boundaries.messages, boundaries.between) == (1, True)


def test_begun_message_is_counted() -> None:
    boundaries = Boundaries()
    boundaries.feed(encode_frame(b"hello")[:6])
    assert (boundaries.messages, boundaries.between) == (1, False)


def test_part_of_head_is_no_message() -> None:
    boundaries = Boundaries()
    boundaries.feed(b"\0\0")
    assert (boundaries.messages, boundaries.between) == (0, False)


def test_empty_messages_count_too() -> None:
    boundaries = Boundaries(0)
    boundaries.feed(encode_frame(b"") * 3)
    assert (boundaries.messages, boundaries.between) == (3, True)


def test_limit_shows_with_the_head() -> None:
    with pytest.raises(MessageTooLarge, match=r"received message larger than max \(11 vs\. 10\)"):
        Boundaries(10).feed(encode_frame(b"x" * 11)[:5])


def test_limit_itself_passes() -> None:
    Boundaries(10).feed(encode_frame(b"x" * 10, compressed=True))


def test_unknown_flag_is_refused() -> None:
    with pytest.raises(BadFrame, match="unexpected payload format 7"):
        Boundaries().feed(b"\x07\0\0\0\0")


@given(st.lists(st.binary(max_size=40), max_size=8), st.data())
def test_pieces_do_not_matter(messages: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(encode_frame(message) for message in messages)
    boundaries = Boundaries()
    at = 0
    while at < len(stream):
        step = data.draw(st.integers(1, 16))
        boundaries.feed(stream[at : at + step])
        at += step
    assert (boundaries.messages, boundaries.between) == (len(messages), True)
