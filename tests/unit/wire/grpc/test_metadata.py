"""Metadata as header fields, and header fields as metadata."""

from __future__ import annotations

import pytest

from edge_runtime.wire.grpc.metadata import (
    RESERVED,
    BadBinary,
    decode_metadata,
    decode_values,
    encode_metadata,
)


def test_text_and_bytes_are_read_in_order() -> None:
    fields = [(b"b", b"2"), (b"a-bin", b"AAE="), (b"b", b"1")]
    assert decode_metadata(fields) == [("b", "2"), ("a-bin", b"\x00\x01"), ("b", "1")]


def test_the_transports_fields_are_left_out() -> None:
    fields = [(b":path", b"/a/b"), *((name, b"0") for name in RESERVED), (b"user-agent", b"x")]
    assert decode_metadata(fields) == [("user-agent", "x")]


def test_trace_contexts_of_grpc_are_shown() -> None:
    assert decode_metadata([(b"grpc-trace-bin", b"AAA")]) == [("grpc-trace-bin", b"\x00\x00")]


@pytest.mark.parametrize("value", [b"AQI=", b"AQI", b" AQI "])
def test_padding_may_be_there_or_not(value: bytes) -> None:
    assert decode_values(b"x-bin", value) == [b"\x01\x02"]


def test_joined_values_are_taken_apart() -> None:
    assert decode_metadata([(b"x-bin", b"AQ==,Ag, ,Aw==")]) == [
        ("x-bin", b"\x01"),
        ("x-bin", b"\x02"),
        ("x-bin", b""),
        ("x-bin", b"\x03"),
    ]


@pytest.mark.parametrize("value", [b"A", b"AQ=", b"A_-=", b"!!!!", b"AQI=AQI=", b"=AQI"])
def test_what_is_no_base64_is_refused(value: bytes) -> None:
    with pytest.raises(BadBinary, match=r'^malformed binary metadata ".*" in header "x-bin": '):
        decode_metadata([(b"x-bin", value)])


def test_metadata_is_written_as_fields() -> None:
    assert encode_metadata([("Key", "value "), ("raw-bin", b"\xff\x00"), ("text-bin", "é"), ("bytes", b"ab")]) == [
        (b"key", b"value"),
        (b"raw-bin", b"/wA"),
        (b"text-bin", b"w6k"),
        (b"bytes", b"ab"),
    ]


@pytest.mark.parametrize("name", ["Transfer-Encoding", "keep-alive", "upgrade", "proxy-connection", "connection"])
def test_nobody_can_send_what_is_http1s(name: str) -> None:
    assert encode_metadata([(name, "x")]) == []


def test_one_field_has_so_many_values() -> None:
    assert len(decode_values(b"x-bin", b"," * 255)) == 256
    with pytest.raises(BadBinary, match="too many values"):
        decode_values(b"x-bin", b"," * 256)


def test_nobody_can_send_reserved_names() -> None:
    assert encode_metadata([(":path", "/"), ("grpc-status", "0"), ("Content-Type", "x"), ("te", "x")]) == []


@pytest.mark.parametrize("key", ["", "a b", "a\nb", "é", "a:b"])
def test_a_name_that_no_header_has_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="metadata name"):
        encode_metadata([(key, "x")])


@pytest.mark.parametrize("value", ["a\nb", "a\x00", "\x7f"])
def test_control_characters_are_refused(value: str) -> None:
    with pytest.raises(ValueError, match="control character"):
        encode_metadata([("x", value)])


def test_text_beyond_ascii_passes_as_it_is() -> None:
    fields = encode_metadata([("x", "grün")])
    assert fields == [(b"x", "grün".encode())]
    assert decode_metadata(fields) == [("x", "grün")]
    assert encode_metadata(decode_metadata([(b"x", b"\xff")])) == [(b"x", b"\xff")]
