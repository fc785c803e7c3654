"""How a call ended, in every way that a peer may say it."""

from __future__ import annotations

import pytest

from edge_runtime.wire.grpc.status import (
    Ending,
    code_from_http,
    code_name,
    decode_message,
    encode_message,
    ending_from_head,
    ending_from_reset,
    ending_from_trailers,
    is_grpc,
)


def test_codes_have_the_names_of_go() -> None:
    assert [code_name(code) for code in (0, 1, 16, 17)] == ["OK", "Canceled", "Unauthenticated", "Code(17)"]


def test_http_statuses_have_codes() -> None:
    statuses = (400, 401, 403, 404, 429, 502, 503, 504, 200, 500, 418)
    assert [code_from_http(status) for status in statuses] == [13, 16, 7, 12, 14, 14, 14, 14, 2, 2, 2]


def test_a_reset_has_a_code_and_a_name() -> None:
    assert ending_from_reset(8) == Ending(1, "stream terminated by RST_STREAM with error code: CANCEL")
    assert ending_from_reset(7).code == 14
    assert ending_from_reset(11).code == 8
    assert ending_from_reset(99).code == 2


@pytest.mark.parametrize(
    ("message", "value"),
    [
        ("", b""),
        ("plain text ~", b"plain text ~"),
        ("50% of\nit", b"50%25 of%0Ait"),
        ("für", b"f%C3%BCr"),
        ("\ud800", b"?"),
        (" a b", b"%20a%20b"),
        ("with key ", b"with%20key%20"),
        (" ", b"%20"),
    ],
)
def test_messages_are_escaped(message: str, value: bytes) -> None:
    assert encode_message(message) == value


@pytest.mark.parametrize(
    ("value", "message"),
    [(b"a%20b", "a b"), (b"100%", "100%"), (b"%zz%C3%BC", "%zzü"), (b"%FF", "\ufffd"), (b"raw \xc3\xbc", "raw ü")],
)
def test_escapes_are_read_leniently(value: bytes, message: str) -> None:
    assert decode_message(value) == message


def test_a_long_message_is_cut_between_characters() -> None:
    assert encode_message("0123456789", 10) == b"0123456789"
    assert encode_message("0123456789a", 10) == b"0123456..."
    assert encode_message("aüü", 11) == b"a%C3%BC..."
    assert decode_message(encode_message("ü" * 5000, 4096)) == "ü" * ((4096 - 3) // 6) + "..."


def test_trailers_have_a_status() -> None:
    fields = [(b"grpc-status", b"5"), (b"grpc-message", b"no%20such"), (b"grpc-status-details-bin", b"CAU")]
    assert ending_from_trailers(fields) == Ending(5, "no such", b"\x08\x05")
    assert ending_from_trailers([(b"grpc-message", b"x")]) is None
    assert ending_from_trailers([(b"grpc-status", b"99")]) == Ending(99)


@pytest.mark.parametrize("value", [b"", b"-1", b"one", b"1" * 11])
def test_a_malformed_status_is_internal(value: bytes) -> None:
    ending = ending_from_trailers([(b"grpc-status", value)])
    assert ending == Ending(13, f'transport: malformed grpc-status: "{value.decode()}"')


def test_malformed_details_do_not_hide_the_status() -> None:
    fields = [(b"grpc-status", b"5"), (b"grpc-status-details-bin", b"!")]
    assert ending_from_trailers(fields) == Ending(5)


@pytest.mark.parametrize(
    ("content_type", "is_ours"),
    [
        (b"application/grpc", True),
        (b"application/grpc+proto", True),
        (b"application/grpc;x=y", True),
        (b"application/grpc-web", False),
        (b"application/json", False),
        (b"", False),
    ],
)
def test_content_types_of_grpc(content_type: bytes, is_ours: bool) -> None:
    assert is_grpc(content_type) is is_ours


@pytest.mark.parametrize(
    ("fields", "ending"),
    [
        ([(b":status", b"200"), (b"content-type", b"application/grpc")], None),
        (
            [(b":status", b"404")],
            Ending(
                12,
                "unexpected HTTP status code received from server: 404 (Not Found); "
                "transport: missing content-type field",
            ),
        ),
        (
            [(b":status", b"200"), (b"content-type", b"text/html")],
            Ending(
                2,
                "unexpected HTTP status code received from server: 200 (OK); "
                'transport: received unexpected content-type "text/html"',
            ),
        ),
        (
            [(b":status", b"503"), (b"content-type", b"application/grpc")],
            Ending(14, "unexpected HTTP status code received from server: 503 (Service Unavailable)"),
        ),
        (
            [(b":status", b"799"), (b"content-type", b"application/grpc")],
            Ending(2, "unexpected HTTP status code received from server: 799 ()"),
        ),
        ([], Ending(13, "malformed header: missing HTTP status")),
    ],
)
def test_a_head_that_is_no_grpc(fields: list[tuple[bytes, bytes]], ending: Ending | None) -> None:
    assert ending_from_head(fields) == ending
