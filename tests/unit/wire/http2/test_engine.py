from __future__ import annotations

import sys

import pytest

from edge_runtime.wire.http2 import ConnectionFault, Engine, engine
from edge_runtime.wire.http2 import engine as engines
from edge_runtime.wire.http2.codes import code_name
from tests.unit.wire.http2.wires import ENGINES, REQUEST


def test_the_native_engine_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    assert engine().name == "jh2"
    engines.cache_clear()
    monkeypatch.setitem(sys.modules, "jh2", None)
    assert engine().name == "h2"
    engines.cache_clear()


def test_other_engines_are_unknown() -> None:
    with pytest.raises(ValueError, match="nghttp2"):
        engine("nghttp2")


@ENGINES
def test_secrets_stay_out_of_the_table(codec: Engine) -> None:
    encoder = codec.new_encoder()
    blocks = [encoder.encode([*REQUEST, (b"dapr-api-token", b"secret")]) for _ in range(3)]
    assert len(blocks[1]) == len(blocks[2]) > 10
    assert len(encoder.encode(REQUEST)) < 10


@ENGINES
@pytest.mark.parametrize("block", [b"\x7f", b"\xff\xff", b"\x40\x05ab", b"\xbe", b"\x80", b"\x40", b"\x0f"])
def test_blocks_that_are_cut_off_are_faults(codec: Engine, block: bytes) -> None:
    with pytest.raises(ConnectionFault, match="COMPRESSION_ERROR"):
        codec.new_decoder(1000).decode(block)


@ENGINES
def test_interrupts_pass(codec: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = codec.new_decoder(1000)

    def interrupt(block: bytes, raw: bool) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(decoder, "_decode", interrupt)
    with pytest.raises(KeyboardInterrupt):
        decoder.decode(b"")


def test_codes_have_names() -> None:
    assert [code_name(code) for code in (0, 11, 13, 14)] == [
        "NO_ERROR",
        "ENHANCE_YOUR_CALM",
        "HTTP_1_1_REQUIRED",
        "error code 14",
    ]
