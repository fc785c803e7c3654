"""Header blocks that come again."""

from __future__ import annotations

import pytest

from edge_runtime.wire.http2.codes import ConnectionFault
from edge_runtime.wire.http2.engine import Header, engine

FIRST: list[Header] = [(b":method", b"POST"), (b"content-type", b"application/grpc"), (b"x", b"1")]
OTHER: list[Header] = [(b":method", b"POST"), (b"y", b"2"), (b"z", b"3")]
engines = pytest.mark.parametrize("codec", ["jh2", "h2"])


@engines
def test_same_block_gives_the_same_headers(codec: str) -> None:
    encoder, decoder = engine(codec).new_encoder(), engine(codec).new_decoder(65536)
    assert decoder.decode(encoder.encode(FIRST)) == FIRST
    block = encoder.encode(FIRST)
    again = decoder.decode(block)
    assert again == FIRST
    assert decoder.decode(block) is again


@engines
def test_same_block_may_mean_something_else_later(codec: str) -> None:
    encoder, decoder = engine(codec).new_encoder(), engine(codec).new_decoder(65536)
    decoder.decode(encoder.encode(FIRST))
    block = encoder.encode(FIRST)
    assert decoder.decode(block) == FIRST
    decoder.decode(encoder.encode(OTHER))
    assert decoder.decode(block) == OTHER, "the references count from the newest entry of the table"
    assert decoder.decode(encoder.encode(FIRST)) == FIRST


@engines
def test_reference_to_nothing_is_a_fault(codec: str) -> None:
    decoder = engine(codec).new_decoder(65536)
    for _ in range(2):
        with pytest.raises(ConnectionFault):
            engine(codec).new_decoder(65536).decode(b"\xfe")
    assert decoder.decode(b"\x83") == [(b":method", b"POST")]


@engines
def test_many_different_blocks_are_read(codec: str) -> None:
    decoder = engine(codec).new_decoder(65536)
    for _ in range(2):
        for index in range(0x82, 0x90):
            assert len(decoder.decode(bytes((index,)))) == 1
    assert len(decoder.decode(b"\x82" * 1000)) == 1000


@engines
def test_blocks_that_are_cut_off_are_faults(codec: str, capfd: pytest.CaptureFixture[str]) -> None:
    block = bytes.fromhex("82 86 84 41 0f") + b"www.example.com" + bytes.fromhex("40 0a") + b"custom-key"
    block += bytes.fromhex("7f 8e 01 ff 00") + b"v" * 127
    cut_off = [block[:end] for end in range(len(block) + 1)] + [bytes((first,)) for first in range(256)]
    cut_off += [b"\xff" + b"\x80" * 9, b"\x40\x7f" + b"\xff" * 100_000, b"\x40\x01a", b"\x40\xff\x00"]
    for one in cut_off:
        try:
            engine(codec).new_decoder(65536).decode(one)
        except ConnectionFault:
            pass
    assert capfd.readouterr().err == ""


@engines
def test_only_small_lists_are_kept(codec: str) -> None:
    encoder, decoder = engine(codec).new_encoder(), engine(codec).new_decoder(65536)
    large = [(b"x", b"y" * 3000)]
    decoder.decode(encoder.encode(large))
    reference = encoder.encode(large)
    assert len(reference) == 1
    assert decoder.decode(reference) is decoder.decode(reference), "one is small"
    assert decoder.decode(reference * 9) is not decoder.decode(reference * 9)
