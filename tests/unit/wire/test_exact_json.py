"""JSON that stays as it was written."""

from __future__ import annotations

import msgspec
import pytest

from edge_runtime.wire.exact_json import NotJson, compact, decode, first_value, folded, is_utf8


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ('{ "b" : 12345678901234567890123 }', '{"b":12345678901234567890123}'),
        ("[ 1.10e+5,\t-0.0, 1E400 ]", "[1.10e+5,-0.0,1E400]"),
        ('"a  b"', '"a  b"'),
        ('"\\u003c é \\/"', '"\\u003c é \\/"'),
        (" null\n", "null"),
        ('"\\ud83d\\ude00"', '"\\ud83d\\ude00"'),
    ],
)
def test_only_blanks_go(raw: str, expected: str) -> None:
    assert compact(raw.encode()) == expected.encode()
    assert compact(msgspec.Raw(raw.encode())) == expected.encode()


@pytest.mark.parametrize("raw", [b"", b"{", b'{"a":}', b"[1,]", b"01", b"1 2", b'"\n"', b"NaN", b"[" * 100_000])
def test_no_json_is_refused(raw: bytes) -> None:
    with pytest.raises(NotJson):
        compact(raw)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b" [1, 2] trailing", b"[1, 2]"),
        (b'{"a":1}{"b":2}', b'{"a":1}'),
        (b'"\xff"', '"�"'.encode()),
        (b'"\\ud800x"', b'"\\ufffdx"'),
        (b'"\\udc00\\ud83d\\ude00"', b'"\\ufffd\\ud83d\\ude00"'),
        (b'"\\\\ud800"', b'"\\\\ud800"'),
        (b"123456789012345678901234567890" * 200, b"123456789012345678901234567890" * 200),
    ],
)
def test_first_value_is_taken(body: bytes, expected: bytes) -> None:
    assert first_value(body) == expected


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "unexpected end of JSON input"),
        (b" \n", "unexpected end of JSON input"),
        (b"nope", "Expecting value at character 0"),
        (b"[NaN]", "NaN is no JSON value"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_no_first_value_is_told(body: bytes, text: str) -> None:
    with pytest.raises(NotJson, match=text):
        first_value(body)


def test_names_fold() -> None:
    assert {name: bytes(raw) for name, raw in folded(b'{"Key": 1, "kEY": "x"}').items()} == {"key": b'"x"'}
    assert folded(b"null") == {}
    with pytest.raises(NotJson):
        folded(b"[]")


def test_shapes_are_checked() -> None:
    assert decode(b'"x"', str) == "x"
    with pytest.raises(NotJson, match="Expected `str`, got `int`"):
        decode(b"5", str)
    with pytest.raises(NotJson):
        decode(b'"\xff"', str)


def test_text_is_told_from_bytes() -> None:
    assert is_utf8(b"plain")
    assert is_utf8("é".encode())
    assert not is_utf8(b"\xff")
