"""State of the other sidecar over Dapr's gRPC API, which knows bytes: every value crosses as it is, both ways.

Loaded when a link with `endpoint.grpc` has a state route. Its answers mean what those over HTTP do: a component that
is not there may come yet, and what a proxy between the two may have said is no considered refusal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

from google.protobuf.empty_pb2 import Empty

from edge_runtime.model.errors import DriverError, EtagInvalid, EtagMismatch, Unreachable
from edge_runtime.proto.dapr.proto.common.v1.common_pb2 import Etag, StateItem, StateOptions
from edge_runtime.proto.dapr.proto.runtime.v1.state_pb2 import (
    BulkStateItem,
    DeleteStateRequest,
    GetBulkStateRequest,
    GetBulkStateResponse,
    SaveStateRequest,
)
from edge_runtime.sync.link_answers import Refused, TooLarge
from edge_runtime.sync.remote import BULK_KEYS_MAX, Found

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from edge_runtime.sync.link import Link

    M = TypeVar("M", bound=Message)

_SERVICE: Final = "/dapr.proto.runtime.v1.Dapr/"
_PARALLELISM: Final = 10  # reads that the other sidecar does at once for one call, as over HTTP when nothing is said
_FIRST_WRITE: Final = StateOptions(concurrency=StateOptions.CONCURRENCY_FIRST_WRITE)
_INVALID_ARGUMENT: Final = 3
_RESOURCE_EXHAUSTED: Final = 8
_ABORTED: Final = 10
# What gRPC libraries say of a message past a limit, this node's among them. The code alone may mean haste.
_TOO_LARGE: Final = "larger than max"


class GrpcState:
    """Keeps `sync.state.RemoteState`."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def bulk_get(self, store: str, keys: Sequence[str]) -> Mapping[str, Found]:
        """Value and etag of each key; None for one that is not there; an error for one that nothing is known of."""
        found: dict[str, Found] = {}
        for start in range(0, len(keys), BULK_KEYS_MAX):
            found.update(await self._bulk_get(store, keys[start : start + BULK_KEYS_MAX]))
        return found

    async def _bulk_get(self, store: str, keys: Sequence[str]) -> Mapping[str, Found]:
        request = GetBulkStateRequest(store_name=store, keys=keys, parallelism=_PARALLELISM)
        try:
            answer = await self._call("GetBulkState", request, GetBulkStateResponse)
        except TooLarge as error:
            if len(keys) == 1:
                return {keys[0]: error}
            middle = len(keys) // 2  # by halves, until those that hide the others are alone
            return {**await self._bulk_get(store, keys[:middle]), **await self._bulk_get(store, keys[middle:])}
        nothing = DriverError(f"link {self._link.name}: {store}: the answer of GetBulkState says nothing of the key")
        found: dict[str, Found] = dict.fromkeys(keys, nothing)
        found.update((item.key, self._found(store, item)) for item in answer.items if item.key in found)
        return found

    def _found(self, store: str, item: BulkStateItem) -> Found:
        if item.error:
            return DriverError(f"link {self._link.name}: {store}: {item.error}")
        return (item.data, item.etag) if item.data or item.etag else None

    async def save(self, store: str, key: str, value: bytes, etag: str | None = None, first_write: bool = True) -> None:
        """Raises `EtagMismatch`.

        Without a content type, also for JSON: what is called JSON is parsed there, and its numbers are rounded.
        """
        item = StateItem(key=key, value=value, etag=None if etag is None else Etag(value=etag))
        if first_write:
            item.options.CopyFrom(_FIRST_WRITE)
        await self._call("SaveState", SaveStateRequest(store_name=store, states=[item]), Empty)

    async def delete(self, store: str, key: str, etag: str | None = None) -> None:
        """Raises `EtagMismatch`."""
        request = DeleteStateRequest(store_name=store, key=key)
        if etag is not None:
            request.etag.value = etag
            request.options.CopyFrom(_FIRST_WRITE)
        await self._call("DeleteState", request, Empty)

    async def _call(self, method: str, request: Message, reply_type: type[M]) -> M:
        try:
            return await self._link.state_rpc(_SERVICE + method, request, reply_type)
        except Unreachable:
            raise
        except DriverError as error:
            raise _meaning(error, str(error)) from error


def _meaning(error: DriverError, text: str) -> DriverError:
    """What a failure means for a key, by its code and, where one code says several things, by its words."""
    if error.code == _ABORTED:
        return EtagMismatch(text, code=_ABORTED)
    if error.code == _RESOURCE_EXHAUSTED and _TOO_LARGE in text:
        return TooLarge(f"{text}; the limit of the other sidecar is its --max-body-size", code=_RESOURCE_EXHAUSTED)
    if error.code == _INVALID_ARGUMENT and "invalid etag" in text:
        return EtagInvalid(text, code=_INVALID_ARGUMENT)
    if isinstance(error, Refused) and not _is_considered(error, text):
        return DriverError(text, code=error.code)
    return error


def _is_considered(error: Refused, text: str) -> bool:
    """Of all codes only this one is the sidecar's alone, and it says it of a store that may come yet as well."""
    return error.code == _INVALID_ARGUMENT and not text.rstrip().endswith(("is not found", "is not configured"))
