"""State over gRPC: get, save, delete, in bulk, transactions and queries.

A value is the bytes that came. Only where its metadata call it JSON is it checked, and made compact as over HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from google.protobuf.empty_pb2 import Empty

from edge_runtime.api.grpc.unary import RpcCall, unary
from edge_runtime.blocks.state import NO_METADATA, DeleteItem, Hit, Operation, SaveItem, expire_time
from edge_runtime.model.errors import EdgeError, Kind
from edge_runtime.proto.dapr.proto.runtime.v1.state_pb2 import (
    BulkStateItem,
    DeleteBulkStateRequest,
    DeleteStateRequest,
    ExecuteStateTransactionRequest,
    GetBulkStateRequest,
    GetBulkStateResponse,
    GetStateRequest,
    GetStateResponse,
    QueryStateItem,
    QueryStateRequest,
    QueryStateResponse,
    SaveStateRequest,
)
from edge_runtime.wire.exact_json import NotJson, compact, is_utf8

if TYPE_CHECKING:
    from edge_runtime.api.blocks import Blocks
    from edge_runtime.proto.dapr.proto.common.v1.common_pb2 import StateItem, StateOptions

# Numbers that are no option say nothing, as 0 does.
_CONCURRENCY: Final = {1: "first-write", 2: "last-write"}
_CONSISTENCY: Final = {1: "eventual", 2: "strong"}
_CONTENT_TYPE: Final = "contentType"
_JSON: Final = "application/json"


class StateRpcs:
    """The state rpcs of one app."""

    blocks: Blocks

    @unary
    async def GetState(self, call: RpcCall, request: GetStateRequest) -> GetStateResponse:
        """A key that is not there is an empty answer."""
        item = await self.blocks.state.get(request.store_name, request.key)
        if item is None:
            return GetStateResponse()
        if item.expires_at is None:
            return GetStateResponse(data=item.value, etag=item.etag)
        return GetStateResponse(data=item.value, etag=item.etag, metadata=_expiry(item.expires_at))

    @unary
    async def GetBulkState(self, call: RpcCall, request: GetBulkStateRequest) -> GetBulkStateResponse:
        """`parallelism` is not needed: the drivers read all keys in one go."""
        hits = await self.blocks.state.bulk_get(request.store_name, list(request.keys))
        return GetBulkStateResponse(items=[_bulk_item(hit) for hit in hits])

    @unary
    async def SaveState(self, call: RpcCall, request: SaveStateRequest) -> Empty:
        """Every item on its own; none is written when one of them is malformed."""
        store = request.store_name
        state = self.blocks.state
        state.require(store)
        await state.save(store, [_saved(store, item) for item in request.states])
        return Empty()

    @unary
    async def DeleteState(self, call: RpcCall, request: DeleteStateRequest) -> Empty:
        await self.blocks.state.delete(request.store_name, _deleted(request))
        return Empty()

    @unary
    async def DeleteBulkState(self, call: RpcCall, request: DeleteBulkStateRequest) -> Empty:
        await self.blocks.state.bulk_delete(request.store_name, [_deleted(item) for item in request.states])
        return Empty()

    @unary
    async def ExecuteStateTransaction(self, call: RpcCall, request: ExecuteStateTransactionRequest) -> Empty:
        """The request's own metadata are for the store as a whole; no driver has a use for them."""
        operations = [
            Operation(operation.operationType, _written(operation.request)) for operation in request.operations
        ]
        await self.blocks.state.transact(request.storeName, operations, call.trace)
        return Empty()

    @unary
    async def QueryStateAlpha1(self, call: RpcCall, request: QueryStateRequest) -> QueryStateResponse:
        page = await self.blocks.state.query(request.store_name, request.query.encode())
        results = [
            QueryStateItem(key=hit.key, data=hit.value or b"", etag=hit.etag, error=hit.error) for hit in page.hits
        ]
        return QueryStateResponse(results=results, token=page.token)


def _saved(store: str, item: StateItem) -> SaveItem:
    """An item to save. Raises EdgeError for one without a key, or whose value is not the JSON that it is called."""
    if not item.key:
        raise EdgeError(Kind.STATE_SAVE_KEY_EMPTY, "state key cannot be empty")
    written = _written(item)
    if not written.metadata or written.metadata.get(_CONTENT_TYPE) != _JSON:
        return written
    try:
        if not is_utf8(written.value):
            raise NotJson("the value is no UTF-8")
        return written._replace(value=compact(written.value))
    except NotJson as error:
        text = f"failed saving state in state store {store}: the value of key {item.key} is no JSON: {error}"
        raise EdgeError(Kind.STATE_SAVE_VALUE, text) from None


def _written(item: StateItem) -> SaveItem:
    etag = item.etag.value if item.HasField("etag") else None
    metadata = dict(item.metadata) if item.metadata else NO_METADATA
    if item.HasField("options"):
        return SaveItem(item.key, item.value, etag, metadata, *_options(item.options))
    return SaveItem(item.key, item.value, etag, metadata)


def _deleted(item: DeleteStateRequest | StateItem) -> DeleteItem:
    etag = item.etag.value if item.HasField("etag") else None
    metadata = dict(item.metadata) if item.metadata else NO_METADATA
    if item.HasField("options"):
        return DeleteItem(item.key, etag, metadata, *_options(item.options))
    return DeleteItem(item.key, etag, metadata)


def _options(options: StateOptions) -> tuple[str, str]:
    """(concurrency, consistency) in the words that stores know."""
    return _CONCURRENCY.get(options.concurrency, ""), _CONSISTENCY.get(options.consistency, "")


def _bulk_item(hit: Hit) -> BulkStateItem:
    if hit.error:
        return BulkStateItem(key=hit.key, error=hit.error)
    metadata = None if hit.expires_at is None else _expiry(hit.expires_at)
    return BulkStateItem(key=hit.key, data=hit.value or b"", etag=hit.etag, metadata=metadata)


def _expiry(unix_s: float) -> Mapping[str, str]:
    return {"ttlExpireTime": expire_time(unix_s)}
