"""Messages in gzip, and what pretends to be."""

from __future__ import annotations

import gzip

import pytest

from edge_runtime.wire.grpc.frames import MessageTooLarge
from edge_runtime.wire.grpc.gzips import BadGzip, deflate, inflate


def test_there_and_back() -> None:
    data = b"again and again " * 100
    assert inflate(deflate(data), len(data)) == data
    assert inflate(gzip.compress(data), len(data)) == data
    assert inflate(deflate(b""), 0) == b""


def test_several_members_are_one_message() -> None:
    assert inflate(gzip.compress(b"one") + gzip.compress(b"") + gzip.compress(b"two"), 6) == b"onetwo"


def test_members_without_end_are_refused() -> None:
    with pytest.raises(BadGzip, match="too many members"):
        inflate(gzip.compress(b"") * 65, 10)


def test_a_bomb_is_not_inflated() -> None:
    bomb = deflate(bytes(50_000_000))
    with pytest.raises(MessageTooLarge, match=r"after decompression larger than max \(1001 vs. 1000\)"):
        inflate(bomb, 1000)


def test_a_byte_too_much_is_seen_in_any_member() -> None:
    data = gzip.compress(b"12345") + gzip.compress(b"6")
    assert inflate(data, 6) == b"123456"
    with pytest.raises(MessageTooLarge):
        inflate(data, 5)


@pytest.mark.parametrize("data", [b"", b"no gzip at all", deflate(b"cut off")[:-9], deflate(b"and") + b"rest"])
def test_what_is_no_gzip_is_refused(data: bytes) -> None:
    with pytest.raises(BadGzip):
        inflate(data, 100)
