"""A state store in a dictionary whose faults a test chooses, and blocks built around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edge_runtime.blocks.state import BoundStore, Outbox, State
from edge_runtime.model.errors import DriverError, EtagMismatch, NotSupported
from edge_runtime.model.ports import DeleteRequest, Item, Query, QueryResult, SetRequest
from edge_runtime.observability.metrics import Metrics
from edge_runtime.resiliency import Policies


class MapStore:
    """`faults` are raised by the next calls, one each; `calls` counts them. Etags count writes."""

    def __init__(self, features: Sequence[str] = ("ETAG", "TRANSACTIONAL", "TTL"), transaction_max: int | None = None):
        self.features = frozenset(features)
        self.transaction_max = transaction_max
        self.rows: dict[str, Item] = {}
        self.requests: list[SetRequest | DeleteRequest] = []
        self.faults: list[DriverError | None] = []
        self.calls = 0
        self.answer = QueryResult(())
        self.queries: list[Query] = []

    def _call(self) -> None:
        self.calls += 1
        fault = self.faults.pop(0) if self.faults else None
        if fault is not None:
            raise fault

    def _apply(self, request: SetRequest | DeleteRequest) -> None:
        self.requests.append(request)
        present = self.rows.get(request.key)
        if request.etag is not None and (present is None or present.etag != request.etag):
            raise EtagMismatch("")
        if isinstance(request, DeleteRequest):
            self.rows.pop(request.key, None)
            return
        if request.first_write and request.etag is None and present is not None:
            raise EtagMismatch("")
        expires_at = None if request.ttl_s is None else 1_900_000_000.0 + request.ttl_s
        self.rows[request.key] = Item(request.value, str(len(self.requests)), expires_at)

    async def get(self, key: str) -> Item | None:
        self._call()
        return self.rows.get(key)

    async def bulk_get(self, keys: Sequence[str]) -> Sequence[tuple[str, Item | None]]:
        self._call()
        return [(key, self.rows.get(key)) for key in keys]

    async def set(self, request: SetRequest) -> None:
        self._call()
        self._apply(request)

    async def delete(self, request: DeleteRequest) -> None:
        self._call()
        self._apply(request)

    async def bulk_set(self, requests: Sequence[SetRequest]) -> Sequence[Exception | None]:
        return [self._outcome(request) for request in requests]

    async def bulk_delete(self, requests: Sequence[DeleteRequest]) -> Sequence[Exception | None]:
        return [self._outcome(request) for request in requests]

    def _outcome(self, request: SetRequest | DeleteRequest) -> Exception | None:
        try:
            self._call()
            self._apply(request)
        except DriverError as error:
            return error
        return None

    async def transact(self, operations: Sequence[SetRequest | DeleteRequest]) -> None:
        self._call()
        before = dict(self.rows)
        try:
            for operation in operations:
                self._apply(operation)
        except DriverError:
            self.rows = before
            raise

    async def query(self, query: Query) -> QueryResult:
        self._call()
        if "QUERY_API" not in self.features:
            raise NotSupported("no queries")
        self.queries.append(query)
        return self.answer

    async def keys(self, prefix: str, after: str, limit: int) -> Sequence[str]:
        return sorted(key for key in self.rows if key.startswith(prefix) and key > after)[:limit]


def bound(store: MapStore, name: str = "store", **settings: Any) -> BoundStore:
    return BoundStore(name, store, **settings)


def state_of(
    *stores: BoundStore,
    policies: Mapping[str, Any] | None = None,
    metrics: Metrics | None = None,
    namespace: str = "",
    outbox: Outbox | None = None,
) -> State:
    metrics = metrics or Metrics()
    resources = [("r", policies)] if policies else []
    return State(
        {one.name: one for one in stores},
        "app",
        namespace,
        Policies(resources, metrics, "app", namespace),
        metrics,
        outbox,
    )
