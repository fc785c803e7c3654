"""A conflict put to an app: POST to its route `/edge/conflicts/<store>`, and what its answer says.

The same over gRPC, where the route is the method of `OnInvoke`. An app that cannot say is asked again later.
"""

from __future__ import annotations

import binascii
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple
from urllib.parse import quote

import msgspec
import trio

from edge_runtime.model.errors import BodyTooLarge, DriverError
from edge_runtime.model.hlc import parse
from edge_runtime.model.http import Body, Header, Request, Response
from edge_runtime.model.ports import AppChannel
from edge_runtime.sync.merge import Conflict, Version

ROUTE: Final = "/edge/conflicts/"
# An app over gRPC has no status for it; a value without a byte may be one that somebody forgot.
REMOVED_HEADER: Final[Header] = (b"edge-removed", b"true")
ANSWER_BYTES_MAX: Final = 16 * 2**20
ANSWER_TIMEOUT_S: Final = 30.0
_JSON: Final[Header] = (b"content-type", b"application/json")

_is_json = msgspec.json.Decoder(msgspec.Raw).decode


class AppAsker(NamedTuple):
    """Asks one app about keys of one store; `prefix` stands before them there, and the app does not know it."""

    channel: AppChannel
    link: str
    store: str
    prefix: str

    async def ask(self, conflict: Conflict) -> Version:
        """The version to keep. Raises DriverError."""
        body = msgspec.json.encode(question(conflict, self))
        target = (ROUTE + quote(self.store, safe="")).encode()
        with trio.move_on_after(ANSWER_TIMEOUT_S):
            response = await self.channel.send(Request("POST", target, (_JSON,), Body(body)))
            return await _answer(response, target.decode())
        raise DriverError(f"the app did not answer POST {target.decode()} within {ANSWER_TIMEOUT_S:g} s")


def question(conflict: Conflict, asker: AppAsker) -> dict[str, Any]:
    """The body: the key as the app knows it, and the three versions; `base` is null when it is not known."""
    return {
        "link": asker.link,
        "store": asker.store,
        "key": conflict.key.removeprefix(asker.prefix),
        "base": None if conflict.base is None else version_document(conflict.base),
        "local": version_document(conflict.local.value, conflict.local.stamp),
        "remote": version_document(conflict.remote.value, conflict.remote.stamp),
    }


def version_document(value: bytes | None, stamp: str | None = None) -> dict[str, Any]:
    """A version as JSON has it: `value`, or `base64` of what is no JSON, or `removed`; and when, as far as is known."""
    document: dict[str, Any] = {}
    if value is None:
        document["removed"] = True
    elif is_json(value):
        document["value"] = msgspec.Raw(value)
    else:
        document["base64"] = binascii.b2a_base64(value, newline=False).decode()
    if stamp:
        document |= {"at": moment(stamp), "stamp": stamp}
    return document


def is_json(value: bytes) -> bool:
    """Can it stand in a JSON document as it is?"""
    try:
        _is_json(value)
        value.decode()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def moment(stamp: str) -> str | None:
    """The time of a stamp, for people; None for one that lies past what calendars have."""
    try:
        return datetime.fromtimestamp(parse(stamp).ms / 1000, UTC).isoformat(timespec="milliseconds")
    except (ValueError, OverflowError, OSError):
        return None


async def _answer(response: Response, target: str) -> Version:
    body = response.body
    try:
        data = body.data if body.buffered else await body.read(ANSWER_BYTES_MAX)
    except BodyTooLarge:
        raise DriverError(f"the app's answer to POST {target} is longer than {ANSWER_BYTES_MAX} bytes") from None
    finally:
        await body.aclose()
    if response.status == 204 or (response.status == 200 and REMOVED_HEADER in response.headers):
        return Version(None)
    if response.status == 200:
        if data.strip() in (b"", b"null"):
            raise DriverError(f"the app answered POST {target} without a value; 204 removes the key")
        return Version(data)
    excerpt = " ".join(data[:300].decode("utf-8", "replace").split())
    raise DriverError(f"the app answered {response.status} to POST {target}{': ' if excerpt else ''}{excerpt}")
