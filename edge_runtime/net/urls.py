"""Absolute URLs as people write them in resources and invocation targets."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import quote, urljoin, urlsplit

from edge_runtime.net.connections import Origin, default_port

# Characters that stay as they are in a path that somebody wrote, beside "%", which is taken as an escape already.
_PATH_SAFE = "/$&+,:;=@~!'()*[]%"


class Url(NamedTuple):
    """`path` begins with a slash or is empty; `query` has its question mark or is empty."""

    origin: Origin
    path: bytes = b""
    query: bytes = b""


def parse_url(text: str) -> Url:
    """An http or https URL. Raises ValueError with what is wrong."""
    parts = urlsplit(text)
    shown = f"…@{text.rpartition('@')[2]}" if "@" in text else text  # what is left out may be a password
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"{shown!r} is no http:// or https:// URL")
    host = parts.hostname
    if not host:
        raise ValueError(f"{shown!r} names no host")
    if parts.username is not None or parts.password is not None:
        raise ValueError(f"the URL of {host} holds a user name or password; send an Authorization header instead")
    origin = Origin(parts.scheme, host, parts.port or default_port(parts.scheme))
    query = f"?{parts.query}" if parts.query else ""
    return Url(origin, quote(parts.path, safe=_PATH_SAFE).encode(), quote(query, safe=_PATH_SAFE + "?").encode())


def redirected(url: Url, target: bytes, location: bytes) -> Url:
    """Where a `Location` header of an answer from `url`'s origin leads. Raises ValueError."""
    base = f"{url.origin.scheme}://{url.origin.authority}{target.decode('latin-1')}"
    return parse_url(urljoin(base, location.decode("utf-8", "replace")))
