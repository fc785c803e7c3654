"""The bodies of the state API: save, bulk get and transaction, from JSON to what the block takes.

Nearly every body has the plain shape and is decoded in one go. Whatever the typed decoder refuses is read again with
Go's habits: names in any case, unknown members, nulls, text after the first value. What that refuses is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from edge_runtime.blocks.state import NO_METADATA, Operation, SaveItem
from edge_runtime.wire.exact_json import NULL, NotJson, compact, decode, first_value, folded, is_utf8

T = TypeVar("T")


class BulkGet(NamedTuple):
    """`parallelism` is checked but not needed: the drivers read all keys in one go."""

    keys: list[str]
    parallelism: int = 0
    metadata: Mapping[str, str] = NO_METADATA


class _Options(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    concurrency: str = ""
    consistency: str = ""


class _Item(msgspec.Struct, forbid_unknown_fields=True):
    key: str = ""
    value: msgspec.Raw = NULL
    etag: str | None = None
    metadata: dict[str, str] | None = None
    options: _Options | None = None
    contentType: str | None = None


class _Operation(msgspec.Struct, forbid_unknown_fields=True):
    operation: str
    request: _Item


class _Transaction(msgspec.Struct, forbid_unknown_fields=True):
    operations: list[_Operation]
    metadata: dict[str, str] | None = None


class _BulkGet(msgspec.Struct, forbid_unknown_fields=True):
    keys: list[str]
    parallelism: int = 0
    metadata: dict[str, str] | None = None


_decode_items: Final = msgspec.json.Decoder(list[_Item]).decode
_decode_transaction: Final = msgspec.json.Decoder(_Transaction).decode
_decode_bulk_get: Final = msgspec.json.Decoder(_BulkGet).decode
_UNUSUAL: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def save_items(body: bytes, metadata: Mapping[str, str]) -> list[SaveItem]:
    """The items of a save; the query's `metadata` goes over their own. Raises NotJson."""
    try:
        if is_utf8(body):
            return [_item(item, metadata) for item in _decode_items(body)]
    except _UNUSUAL:
        pass
    items: list[msgspec.Raw] | None = decode(first_value(body), list[msgspec.Raw] | None)
    return [_any_item(f"item {index}", raw, metadata) for index, raw in enumerate(items or ())]


def transaction(body: bytes, metadata: Mapping[str, str]) -> list[Operation]:
    """The operations of a transaction; the query's `metadata` goes over that of each. Raises NotJson."""
    try:
        if is_utf8(body):
            found = _decode_transaction(body).operations
            return [Operation(operation.operation, _item(operation.request, metadata)) for operation in found]
    except _UNUSUAL:
        pass
    raws = _member("the body", folded(first_value(body)), "operations", list[msgspec.Raw] | None, None)
    return [_any_operation(f"operation {index}", raw, metadata) for index, raw in enumerate(raws or ())]


def bulk_get(body: bytes, metadata: Mapping[str, str]) -> BulkGet:
    """The keys of a bulk get. Raises NotJson."""
    try:
        if is_utf8(body):
            plain = _decode_bulk_get(body)
            return BulkGet(plain.keys, plain.parallelism, _merged(plain.metadata, metadata))
    except _UNUSUAL:
        pass
    members = folded(first_value(body))
    keys = _member("the body", members, "keys", list[str | None] | None, None)
    parallelism = _member("the body", members, "parallelism", int | None, None)
    own = _member("the body", members, "metadata", dict[str, str] | None, None)
    return BulkGet([key or "" for key in keys or ()], parallelism or 0, _merged(own, metadata))


def _item(item: _Item, metadata: Mapping[str, str]) -> SaveItem:
    options = item.options
    return SaveItem(
        item.key,
        msgspec.json.format(item.value, indent=-1),
        item.etag,
        _merged(item.metadata, metadata),
        options.concurrency if options else "",
        options.consistency if options else "",
        item.contentType or "",
    )


def _merged(own: Mapping[str, str] | None, query: Mapping[str, str]) -> Mapping[str, str]:
    if not own:
        return query
    return {**own, **query} if query else own


def _any_item(path: str, raw: msgspec.Raw, metadata: Mapping[str, str]) -> SaveItem:
    members = _object(path, raw)
    options = _object(f"{path}.options", members.get("options", NULL))
    own = _member(path, members, "metadata", dict[str, str | None] | None, None)
    return SaveItem(
        _text(path, members, "key"),
        compact(members.get("value", NULL)),
        _text(path, members, "etag"),
        _merged({name: value or "" for name, value in own.items()} if own else None, metadata),
        _text(f"{path}.options", options, "concurrency"),
        _text(f"{path}.options", options, "consistency"),
        _text(path, members, "contentType"),
    )


def _any_operation(path: str, raw: msgspec.Raw, metadata: Mapping[str, str]) -> Operation:
    members = _object(path, raw)
    item = _any_item(f"{path}.request", members.get("request", NULL), metadata)
    return Operation(_text(path, members, "operation"), item)


def _object(path: str, raw: msgspec.Raw) -> dict[str, msgspec.Raw]:
    try:
        return folded(raw)
    except NotJson:
        raise NotJson(f"{path}: expected an object, got {_shown(raw)}") from None


def _text(path: str, members: Mapping[str, msgspec.Raw], name: str) -> str:
    return _member(path, members, name, str | None, None) or ""


def _member(path: str, members: Mapping[str, msgspec.Raw], name: str, shape: Any, default: Any) -> Any:
    raw = members.get(name.lower())
    if raw is None:
        return default
    try:
        return decode(raw, shape)
    except NotJson as error:
        raise NotJson(f"{path}.{name}: {error}") from None


def _shown(raw: msgspec.Raw) -> str:
    return bytes(raw)[:40].decode(errors="replace")
