"""What is asked of the other sidecar, each by the documented call of Dapr's HTTP API."""

from __future__ import annotations

import binascii
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from edge_runtime.model.errors import BadMetadata, DriverError, EtagInvalid, EtagMismatch, Unreachable
from edge_runtime.sync.ask_app import is_json
from edge_runtime.sync.link import Link
from edge_runtime.sync.link_answers import Refused, segment

JSON: Final = ((b"content-type", b"application/json"),)
BULK_KEYS_MAX: Final = 100

# What a bulk get tells of one key.
Found = tuple[bytes, str] | DriverError | None


class RemoteSidecar:
    """The other sidecar's publish and state, through a link."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def publish(
        self, pubsub: str, topic: str, data: bytes, content_type: str, metadata: Mapping[str, str]
    ) -> None:
        """Returns when the sidecar has given it to its broker."""
        path = f"v1.0/publish/{segment(pubsub)}/{'/'.join(segment(part) for part in topic.split('/'))}"
        query = [(f"metadata.{name}", value) for name, value in metadata.items()]
        headers = ((b"content-type", content_type.encode()),)
        await self._link.call("POST", path, data, query=query, headers=headers, kind="topics-up", bodiless=True)

    async def bulk_get(self, store: str, keys: Sequence[str]) -> Mapping[str, Found]:
        """Value and etag of each key; None for one that is not there; an error for one that nothing is known of."""
        found: dict[str, Found] = {}
        for start in range(0, len(keys), BULK_KEYS_MAX):
            found.update(await self._bulk_get(store, keys[start : start + BULK_KEYS_MAX]))
        return found

    async def _bulk_get(self, store: str, keys: Sequence[str]) -> Mapping[str, Found]:
        body = json.dumps({"keys": list(keys)}).encode()
        path = f"v1.0/state/{segment(store)}/bulk"
        answer = await self._link.call("POST", path, body, headers=JSON, kind="state")
        if (
            not answer.body
        ):  # so a sidecar answers when one of the values is no JSON; it does not mean that all are gone
            return await self._get_apart(store, keys)
        nothing = DriverError(f"link {self._link.name}: {store}: the answer of bulk get says nothing of the key")
        found: dict[str, Found] = dict.fromkeys(keys, nothing)
        try:
            rows = _decode_rows(answer.body)
        except msgspec.DecodeError as error:
            raise DriverError(f"link {self._link.name}: the answer of bulk get is unreadable: {error}") from None
        for row in rows:
            if row.key in found:
                found[row.key] = self._found(store, row)
        return found

    def _found(self, store: str, row: _Row) -> Found:
        if row.error:
            return DriverError(f"link {self._link.name}: {store}: {row.error}")
        try:
            data = _bytes_of(row)
        except ValueError as error:
            return DriverError(f"link {self._link.name}: {store}: the value of {row.key!r} is unreadable: {error}")
        if row.etag:  # without data it is a value without a byte, which is not one that is gone
            return data, row.etag
        return None if not data or data == b"null" else (data, "")

    async def _get_apart(self, store: str, keys: Sequence[str]) -> Mapping[str, Found]:
        """By halves, until the values that hide the others are alone."""
        if len(keys) == 1:
            return {keys[0]: await self._get(store, keys[0])}
        middle = len(keys) // 2
        return {**await self._bulk_get(store, keys[:middle]), **await self._bulk_get(store, keys[middle:])}

    async def _get(self, store: str, key: str) -> Found:
        """By the call for one key, which knows bytes."""
        try:
            answer = await self._link.call("GET", f"v1.0/state/{segment(store)}/{segment(key)}", kind="state")
        except Unreachable:
            raise
        except DriverError as error:
            return error
        return (answer.body, answer.headers.get("etag", "")) if answer.body else None

    async def save(self, store: str, key: str, value: bytes, etag: str | None = None, first_write: bool = True) -> None:
        """Raises `EtagMismatch`, and `BadMetadata` for a value that is no JSON."""
        if not is_json(value):
            raise BadMetadata(
                f"the value is no JSON, and Dapr's HTTP API can save nothing else; add spec.endpoint.grpc to link "
                f"{self._link.name}, over which bytes cross as they are, and let the key be tried again"
            )
        item: dict[str, Any] = {"key": key, "value": msgspec.Raw(value)}
        if etag is not None:
            item["etag"] = etag
        if first_write:
            item["options"] = {"concurrency": "first-write"}
        try:
            await self._link.call(
                "POST", f"v1.0/state/{segment(store)}", msgspec.json.encode([item]), headers=JSON, kind="state"
            )
        except Refused as error:
            raise _etag_error(error) from error

    async def delete(self, store: str, key: str, etag: str | None = None) -> None:
        """Raises `EtagMismatch`."""
        headers = ((b"if-match", etag.encode()),) if etag is not None else ()
        query = (("concurrency", "first-write"),) if etag is not None else ()
        path = f"v1.0/state/{segment(store)}/{segment(key)}"
        try:
            await self._link.call("DELETE", path, query=query, headers=headers, kind="state")
        except Refused as error:
            raise _etag_error(error) from error


class _Row(msgspec.Struct):
    key: str
    data: msgspec.Raw = msgspec.Raw(b"")
    etag: str | None = None
    error: str | None = None
    metadata: dict[str, Any] | None = None


_decode_rows = msgspec.json.Decoder(list[_Row]).decode


def _bytes_of(row: _Row) -> bytes:
    """The value. A node of ours says how it wrote one that is no JSON, where Dapr has no answer. Raises ValueError."""
    data = bytes(row.data)
    encoding = (row.metadata or {}).get("dataEncoding")
    if encoding not in ("text", "base64"):
        return data
    text = json.loads(data)
    if not isinstance(text, str):
        raise ValueError(f"{encoding} is expected in a text")
    return text.encode() if encoding == "text" else binascii.a2b_base64(text, strict_mode=True)


def _etag_error(error: Refused) -> DriverError:
    if error.code == 409:
        return EtagMismatch(str(error), code=409)
    if error.code == 400 and error.answer is not None and b"invalid etag" in error.answer.body:
        return EtagInvalid(str(error), code=400)
    return error
