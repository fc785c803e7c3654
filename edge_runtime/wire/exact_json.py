"""JSON that stays as it was written: numerals digit for digit, keys in their order, only blanks between tokens removed.

Values are carried as raw pieces (`msgspec.Raw`) and never become Python numbers, so that 9007199254740993 and 0.1000
come back as they went in.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final, NoReturn, TypeVar

import msgspec

T = TypeVar("T")

NULL: Final = msgspec.Raw(b"null")
# A pair of surrogate escapes, half of one, or any other escape; a half stands for no character.
_ESCAPE: Final = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(?P<half>\\u[dD][89a-fA-F][0-9a-fA-F]{2})|\\."
)


class NotJson(ValueError):
    """The bytes are no JSON, or not of the expected shape; the text says where and why."""


def is_utf8(data: bytes) -> bool:
    """Whether the bytes are text. JSON must be; the decoder does not look inside values it only passes on."""
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def compact(value: bytes | msgspec.Raw) -> bytes:
    """One JSON value without blanks between its tokens. Raises NotJson."""
    try:
        return msgspec.json.format(value, indent=-1)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise NotJson(str(error)) from None


def first_value(body: bytes) -> bytes:
    """The first JSON value of the body, mended as Go's decoder mends it; what follows it is left out.

    Bytes that are no UTF-8, and halves of surrogate pairs, become U+FFFD. Raises NotJson.
    """
    text = mend_surrogates(body).decode("utf-8", "replace").lstrip(" \t\r\n")
    if not text:
        raise NotJson("unexpected end of JSON input")
    try:
        _, end = _SCANNER.raw_decode(text)
    except json.JSONDecodeError as error:
        raise NotJson(f"{error.msg} at character {error.pos}") from None
    except RecursionError:
        raise NotJson("the value is nested too deeply") from None
    return text[:end].encode()


def decode(data: bytes | msgspec.Raw, shape: Any) -> Any:
    """A JSON value as Python values of `shape`. Raises NotJson."""
    try:
        return msgspec.json.decode(data, type=shape)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise NotJson(str(error)) from None


def folded(data: bytes | msgspec.Raw) -> dict[str, msgspec.Raw]:
    """An object's members by lower-case name, the last of several winning; null is an object without members."""
    members: dict[str, msgspec.Raw] | None = decode(data, dict[str, msgspec.Raw] | None)
    return {name.lower(): value for name, value in members.items()} if members else {}


def mend_surrogates(document: bytes) -> bytes:
    """Escapes that are half of a surrogate pair become U+FFFD, as Go reads them; everything else stays as it is."""
    return _ESCAPE.sub(_mend, document)


def _mend(match: re.Match[bytes]) -> bytes:
    return b"\\ufffd" if match["half"] else match[0]


def _no_constant(word: str) -> NoReturn:
    raise json.JSONDecodeError(f"{word} is no JSON value", word, 0)


# Only looks for the end of the value, so numbers need not be made.
_SCANNER: Final = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=_no_constant)
