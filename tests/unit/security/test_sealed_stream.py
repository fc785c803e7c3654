"""Sealed streams: what was written comes back, and nothing else does."""

from __future__ import annotations

import io
import os

import pytest

from edge_runtime.security.seal import SealBroken
from edge_runtime.security.sealed_stream import MAGIC, PIECE_BYTES, OpeningReader, SealingWriter

KEY = bytes(range(32))
HEAD = len(MAGIC) + 15 + 8


def sealed(plain: bytes, key: bytes = KEY) -> bytes:
    file = io.BytesIO()
    writer = SealingWriter(file, key)
    for start in range(0, len(plain), 300_000):
        writer.write(plain[start : start + 300_000])
    writer.close()
    return file.getvalue()


def opened(data: bytes, key: bytes = KEY) -> bytes:
    file = io.BytesIO(data)
    file.read(len(MAGIC))
    reader = OpeningReader(file, key)
    found = b""
    while piece := reader.read(77_777):
        found += piece
    return found


def pieces(data: bytes) -> list[bytes]:
    at, found = HEAD, []
    while at < len(data):
        length = 4 + int.from_bytes(data[at : at + 4])
        found.append(data[at : at + length])
        at += length
    return found


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES + 5])
def test_what_was_written_comes_back(size: int) -> None:
    plain = os.urandom(size)
    data = sealed(plain)
    assert opened(data) == plain
    assert len(pieces(data)) == max(-(-size // PIECE_BYTES), 1)
    assert plain[:16] not in data or size == 0 or size == 1


def test_the_wrong_key_is_told_from_damage() -> None:
    with pytest.raises(SealBroken, match="another key"):
        opened(sealed(b"x"), bytes(32))


def test_a_stream_without_its_end_does_not_open() -> None:
    data = sealed(os.urandom(2 * PIECE_BYTES + 9))
    first, _, third = pieces(data)
    for short in (data[:-1], data[: -len(third)], data[:HEAD] + first, data[: HEAD + 2], data[: len(MAGIC) + 3]):
        with pytest.raises(SealBroken, match="cut short"):
            opened(short)
    file = io.BytesIO()
    SealingWriter(file, KEY).write(b"never closed")
    with pytest.raises(SealBroken, match="cut short"):
        opened(file.getvalue())


def test_pieces_stay_in_their_places() -> None:
    data = sealed(os.urandom(3 * PIECE_BYTES))
    first, second, third = pieces(data)
    other = pieces(sealed(os.urandom(3 * PIECE_BYTES)))
    head = data[:HEAD]
    for moved in ((second, first, third), (first, first, third), (first, third), (first, other[1], third)):
        with pytest.raises(SealBroken, match="damaged"):
            opened(head + b"".join(moved))
    with pytest.raises(SealBroken, match="damaged"):
        opened(data + third)


def test_a_changed_bit_anywhere_is_found() -> None:
    data = sealed(b"some plain bytes")
    for at in range(len(MAGIC), len(data)):
        changed = bytearray(data)
        changed[at] ^= 1 << at % 8
        with pytest.raises(SealBroken):
            opened(bytes(changed))


def test_a_piece_that_says_it_is_huge_is_not_read() -> None:
    data = sealed(b"x")
    with pytest.raises(SealBroken, match="damaged"):
        opened(data[:HEAD] + b"\xff\xff\xff\xff" + data[HEAD + 4 :])
