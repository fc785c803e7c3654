"""What a face asks of state: items, operations and hits, and how their options and expiry are read."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

from edge_runtime.model.errors import BadMetadata

NO_METADATA: Final[Mapping[str, str]] = {}
_TTL_MAX_S: Final = 2**31 - 1
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,20}")


class SaveItem(NamedTuple):
    """One value to save. Over HTTP `value` is compact JSON; an empty `etag` is none."""

    key: str
    value: bytes
    etag: str | None = None
    metadata: Mapping[str, str] = NO_METADATA
    concurrency: str = ""
    consistency: str = ""
    content_type: str = ""


class DeleteItem(NamedTuple):
    """One key to remove."""

    key: str
    etag: str | None = None
    metadata: Mapping[str, str] = NO_METADATA
    concurrency: str = ""
    consistency: str = ""


class Operation(NamedTuple):
    """One operation of a transaction; `operation` is what the caller wrote, known or not."""

    operation: Literal["upsert", "delete"] | str
    item: SaveItem


class Hit(NamedTuple):
    """One result of a bulk get or a query. A missing key has neither value nor error."""

    key: str
    value: bytes | None = None
    etag: str = ""
    expires_at: float | None = None
    error: str = ""


class Page(NamedTuple):
    """The results of a query; an empty `token` is the last page."""

    hits: list[Hit]
    token: str = ""


def check_options(concurrency: str, consistency: str) -> None:
    """Raises BadMetadata for words that are no options."""
    if consistency not in ("", "strong", "eventual"):
        raise BadMetadata(f"unrecognized consistency model '{consistency}'; expected strong or eventual")
    if concurrency not in ("", "first-write", "last-write"):
        raise BadMetadata(f"unrecognized concurrency model '{concurrency}'; expected first-write or last-write")


def ttl_s(metadata: Mapping[str, str]) -> int | None:
    """Seconds until the value expires, None for never. Raises BadMetadata."""
    text = metadata.get("ttlInSeconds")
    if not text:
        return None
    if _INTEGER.fullmatch(text) is None:
        raise BadMetadata(f"incorrect value for metadata 'ttlInSeconds': {text!r} is no whole number of seconds")
    seconds = int(text)
    if not -1 <= seconds <= _TTL_MAX_S:
        raise BadMetadata(f"incorrect value for metadata 'ttlInSeconds': {seconds} must be from -1 to {_TTL_MAX_S}")
    return seconds if seconds > 0 else None


def expire_time(unix_s: float) -> str:
    """When a value expires, as the response metadata `ttlExpireTime` says it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(unix_s))
