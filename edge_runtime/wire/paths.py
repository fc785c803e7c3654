"""Request paths of service invocation: from the caller's target to the app's, byte for byte where that is possible.

A path is decoded once, cleaned, and encoded again, as the wire of Dapr shows it: an encoded slash arrives at the app as
a slash, an encoded percent sign only when two hex digits follow it, and characters that need encoding are encoded.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote_from_bytes, unquote_plus, unquote_to_bytes

# What may stand in a path as it is; beside these only "%" with two hex digits.
_PLAIN: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~$&+,/:;=@!'()*[]"
_KEPT_WHEN_ENCODING: Final = "$&+,/:;=@~"
_BAD_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_INVOKE: Final = re.compile(rb"/+v1\.0/+invoke/+")
_METHOD: Final = b"/method/"
_CONTROL: Final = bytes((*range(32), 127))


def split_target(target: bytes) -> tuple[bytes, bytes]:
    """The path, and the query with its question mark (empty when there is none), of a request target."""
    index = target.find(b"?")
    path, query = (target, b"") if index < 0 else (target[:index], target[index:])
    if path[:1] == b"/":
        return path, query
    scheme, separator, rest = path.partition(b"://")
    if separator and scheme.isalpha():
        return b"/" + rest.partition(b"/")[2], query
    return b"/" + path, query


def decode(path: bytes) -> bytes:
    """`%XX` decoded; a plus stays a plus."""
    return unquote_to_bytes(path) if b"%" in path else path


def clean(path: bytes) -> bytes:
    """`//` collapsed, dots resolved (never above the root), no slash at either end."""
    if b"//" not in path and b"/." not in path and path[:1] != b".":
        return path.strip(b"/")
    kept: list[bytes] = []
    for segment in path.split(b"/"):
        if segment == b"..":
            del kept[-1:]
        elif segment not in (b"", b"."):
            kept.append(segment)
    return b"/".join(kept)


def split_invocation(path: bytes) -> tuple[str, bytes] | None:
    """(target id, cleaned method) of a decoded `/v1.0/invoke/<id>/method/<path>`; None when it has not that form.

    The id is decoded a second time by form rules, so that a direct URL may come encoded. The method may be empty: the
    app's root.
    """
    prefix = _INVOKE.match(path)
    if prefix is None:
        return None
    start = prefix.end()
    index = path.find(_METHOD, start)
    if index <= start:
        return None
    return form_decode(path[start:index]), clean(path[index + len(_METHOD) :])


def form_decode(text: bytes) -> str:
    decoded = text.decode("utf-8", "replace")
    return unquote_plus(decoded) if b"%" in text or b"+" in text else decoded


def encode(method: bytes) -> bytes:
    """A decoded method as it stands in a request line, without a leading slash.

    Raises ValueError, with the reason, for what no app can be sent: `#`, `?`, control characters, a `%` that escapes
    nothing.
    """
    if not method.translate(None, _PLAIN):
        return method
    if len(method.translate(None, _CONTROL)) != len(method):
        raise ValueError("the method holds a control character")
    for character in (b"#", b"?"):
        if character in method:
            raise ValueError(f"the method holds {character.decode()!r}")
    bad = _BAD_ESCAPE.search(method)
    if bad is not None:
        raise ValueError(f"invalid URL escape {method[bad.start() : bad.start() + 3].decode('utf-8', 'replace')!r}")
    if not method.translate(None, _PLAIN + b"%"):
        return method
    return quote_from_bytes(unquote_to_bytes(method), safe=_KEPT_WHEN_ENCODING).encode()
