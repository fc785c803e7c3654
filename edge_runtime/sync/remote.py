"""What is asked of the other sidecar, each by the documented call of Dapr's HTTP API."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from edge_runtime.model.errors import DriverError, EtagInvalid, EtagMismatch
from edge_runtime.sync.link import Link
from edge_runtime.sync.link_answers import Refused, segment

JSON: Final = ((b"content-type", b"application/json"),)
_BULK_KEYS_MAX: Final = 100

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
        """Value (JSON text) and etag of each key; None for one that is not there; an error for one that has one."""
        found: dict[str, Found] = {}
        for start in range(0, len(keys), _BULK_KEYS_MAX):
            found.update(await self._bulk_get(store, keys[start : start + _BULK_KEYS_MAX]))
        return found

    async def _bulk_get(self, store: str, keys: Sequence[str]) -> Mapping[str, Found]:
        body = json.dumps({"keys": list(keys)}).encode()
        path = f"v1.0/state/{segment(store)}/bulk"
        answer = await self._link.call("POST", path, body, headers=JSON, kind="state")
        found: dict[str, Found] = dict.fromkeys(keys)
        try:
            rows = _decode_rows(answer.body) if answer.body else []
        except msgspec.DecodeError as error:
            raise DriverError(f"link {self._link.name}: the answer of bulk get is unreadable: {error}") from None
        for row in rows:
            data = bytes(row.data)
            if row.error:
                found[row.key] = DriverError(f"link {self._link.name}: {store}: {row.error}")
            elif row.key in found and data and data != b"null":
                found[row.key] = (data, row.etag or "")
        return found

    async def save(self, store: str, key: str, value: bytes, etag: str | None = None, first_write: bool = True) -> None:
        """Raises `EtagMismatch`. `value` is JSON text."""
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


_decode_rows = msgspec.json.Decoder(list[_Row]).decode


def _etag_error(error: Refused) -> DriverError:
    if error.code == 409:
        return EtagMismatch(str(error), code=409)
    if error.code == 400 and error.answer is not None and b"invalid etag" in error.answer.body:
        return EtagInvalid(str(error), code=400)
    return error
