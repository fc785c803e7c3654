"""State as every API face sees it: key prefixes, options, encryption, policies and metrics around a driver."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Final, TypeVar

from edge_runtime.blocks.state import failures
from edge_runtime.blocks.state.binding import SEPARATOR, BoundStore, stored_prefix
from edge_runtime.blocks.state.query import QueryError, parse_query
from edge_runtime.blocks.state.requests import DeleteItem, Hit, Operation, Page, SaveItem, check_options, ttl_s
from edge_runtime.model.errors import DriverError, EdgeError, Kind
from edge_runtime.model.ports import DeleteRequest, Item, Policy, SetRequest, StateStore
from edge_runtime.model.trace import NO_TRACE, Trace
from edge_runtime.observability.metrics import Labels, Metrics
from edge_runtime.resiliency import Policies

if TYPE_CHECKING:
    from edge_runtime.blocks.state.outbox import Outbox
    from edge_runtime.security.seal import Seal

R = TypeVar("R", SetRequest, DeleteRequest)
T = TypeVar("T")
_OPERATIONS: Final = ("get", "set", "delete", "query", "transaction", "bulk_get", "bulk_delete")
_LABELS: Final = ("component", "namespace", "operation", "success")


class GuardedStore:
    """One store with everything that its name decides, worked out once."""

    __slots__ = ("bound", "failed", "name", "outbox", "passed", "policy", "prefix", "seal", "store")

    def __init__(self, bound: BoundStore, app_id: str, namespace: str, policies: Policies) -> None:
        self.bound = bound
        self.name = bound.name
        self.store: StateStore = bound.store
        self.prefix = stored_prefix(bound, app_id, namespace)
        self.seal: Seal | None = bound.seal
        self.outbox = bound.outbox
        policy = policies.for_component(bound.name, "Statestore", "Outbound")
        self.policy: Policy | None = policy if policy.active else None
        self.passed: dict[str, Labels] = {op: (bound.name, namespace, op, "true") for op in _OPERATIONS}
        self.failed: dict[str, Labels] = {op: (bound.name, namespace, op, "false") for op in _OPERATIONS}

    def key(self, key: str, field: str | None = None) -> str:
        """The stored key. Raises EdgeError for one that holds the separator."""
        if SEPARATOR in key:
            raise failures.illegal_key(self.name, key, key if field is None else field)
        return self.prefix + key

    def plain_key(self, stored: str) -> str:
        """The key as the app knows it, also of a row that another prefix wrote."""
        if stored.startswith(self.prefix):
            return stored[len(self.prefix) :]
        return stored.partition(SEPARATOR)[2] or stored

    def hit(self, stored: str, item: Item | None) -> Hit:
        key = self.plain_key(stored)
        if item is None:
            return Hit(key)
        value = item.value
        if self.seal is not None:
            try:
                value = self.seal.open(value)
            except DriverError as error:
                return Hit(key, error=str(error))
        return Hit(key, value, item.etag, item.expires_at)

    def set_request(self, item: SaveItem, stored: str) -> SetRequest:
        """Raises BadMetadata."""
        if item.concurrency or item.consistency:
            check_options(item.concurrency, item.consistency)
        metadata = item.metadata
        return SetRequest(
            stored,
            item.value if self.seal is None else self.seal.seal(item.value),
            item.etag or None,
            item.concurrency == "first-write",
            ttl_s(metadata) if metadata else None,
            metadata,
        )

    def delete_request(self, item: DeleteItem | SaveItem, stored: str) -> DeleteRequest:
        """Raises BadMetadata."""
        if item.concurrency or item.consistency:
            check_options(item.concurrency, item.consistency)
        return DeleteRequest(stored, item.etag or None, item.metadata)


class State:
    """The state stores of one app. `namespace` is the raw NAMESPACE, empty when unset."""

    def __init__(
        self,
        stores: Mapping[str, BoundStore],
        app_id: str,
        namespace: str,
        policies: Policies,
        metrics: Metrics,
        outbox: Outbox | None = None,
    ) -> None:
        self._stores = {name: GuardedStore(bound, app_id, namespace, policies) for name, bound in stores.items()}
        self._app_id = app_id
        self._outbox = outbox
        self._count = metrics.counter("component_state_count", *_LABELS)
        self._latencies = metrics.histogram("component_state_latencies", *_LABELS)

    def require(self, store_name: str) -> GuardedStore:
        """The store of that name; faces ask before they read a body. Raises EdgeError."""
        store = self._stores.get(store_name)
        if store is None:
            raise failures.not_found(store_name, self._stores, {"appID": self._app_id})
        return store

    async def get(self, store_name: str, key: str) -> Item | None:
        """The item under `key`, or None when there is none."""
        store = self.require(store_name)
        stored = store.key(key)
        begun = perf_counter()
        try:
            if store.policy is None:
                item = await store.store.get(stored)
            else:
                item = await store.policy.run(partial(store.store.get, stored))
            if item is not None and store.seal is not None:
                item = item._replace(value=store.seal.open(item.value))
        except DriverError as error:
            self._measure(store.failed["get"], begun)
            raise failures.get_failed(store_name, key, error) from error
        self._measure(store.passed["get"], begun)
        return item

    async def bulk_get(self, store_name: str, keys: Sequence[str]) -> list[Hit]:
        """A hit for every key, in the store's order. A value that cannot be decrypted is a hit with an error."""
        store = self.require(store_name)
        stored = [store.key(key) for key in keys]
        if not stored:
            return []
        try:
            rows = await self._run(store, "bulk_get", partial(store.store.bulk_get, stored))
        except DriverError as error:
            raise EdgeError(Kind.STATE_BULK_GET, str(error)) from error
        return [store.hit(key, item) for key, item in rows]

    async def save(self, store_name: str, items: Sequence[SaveItem]) -> None:
        """Write every item, each on its own. Nothing is written when one of them is malformed."""
        store = self.require(store_name)
        if not items:
            return
        stored = [store.key(_named(item)) for item in items]
        begun = perf_counter()
        try:
            if len(items) == 1:
                request = store.set_request(items[0], stored[0])
                if store.policy is None:
                    await store.store.set(request)
                else:
                    await store.policy.run(partial(store.store.set, request))
            else:
                requests = [store.set_request(item, key) for item, key in zip(items, stored, strict=True)]
                await _each(store, [item.key for item in items], requests, store.store.bulk_set)
        except DriverError as error:
            self._measure(store.failed["set"], begun)
            raise failures.save_failed(store_name, error) from error
        self._measure(store.passed["set"], begun)

    async def delete(self, store_name: str, item: DeleteItem) -> None:
        """Remove one key; that it is not there is no error unless an etag is given."""
        store = self.require(store_name)
        stored = store.key(item.key)
        try:
            request = store.delete_request(item, stored)
            await self._run(store, "delete", partial(store.store.delete, request))
        except DriverError as error:
            raise failures.delete_failed(item.key, error) from error

    async def bulk_delete(self, store_name: str, items: Sequence[DeleteItem]) -> None:
        """Remove every key, each on its own."""
        store = self.require(store_name)
        keys = [item.key for item in items]
        if not keys:
            return
        stored = [store.key(key) for key in keys]
        begun = perf_counter()
        try:
            requests = [store.delete_request(item, key) for item, key in zip(items, stored, strict=True)]
            await _each(store, keys, requests, store.store.bulk_delete)
        except DriverError as error:
            self._measure(store.failed["bulk_delete"], begun)
            raise failures.bulk_delete_failed(store_name, error) from error
        self._measure(store.passed["bulk_delete"], begun)

    def require_transactions(self, store_name: str) -> None:
        """Raises EdgeError unless the store is there and has transactions."""
        if "TRANSACTIONAL" not in self.require(store_name).store.features:
            raise failures.transactions_not_supported(store_name)

    async def transact(self, store_name: str, operations: Sequence[Operation], trace: Trace = NO_TRACE) -> None:
        """All operations in order, or none of them; with an outbox, their events too."""
        self.require_transactions(store_name)
        store = self.require(store_name)
        if not operations:
            return
        for operation in operations:
            if operation.operation not in ("upsert", "delete"):
                text = f"operation type {operation.operation} not supported"
                raise EdgeError(Kind.STATE_OPERATION_NOT_SUPPORTED, text)
            store.key(operation.item.key, "")
        limit = store.store.transaction_max
        if limit and len(operations) > limit:
            raise failures.too_many_operations(store_name, len(operations), limit)
        try:
            if store.outbox is None:
                await self._commit(store, [_request(store, operation) for operation in operations])
            else:
                await self._commit_with_events(store, operations, trace)
        except DriverError as error:
            raise failures.transaction_failed(error) from error

    async def _commit(self, store: GuardedStore, requests: Sequence[SetRequest | DeleteRequest]) -> None:
        await self._run(store, "transaction", partial(store.store.transact, requests))

    async def _commit_with_events(self, store: GuardedStore, operations: Sequence[Operation], trace: Trace) -> None:
        outbox, settings = self._outbox, store.outbox
        if outbox is None or settings is None:
            text = "no publish and subscribe component is ready for it"
            raise EdgeError(
                Kind.OUTBOX_PUBLISH,
                f"error while publishing outbox message: {text}",
                metadata={"appID": self._app_id, "error": text},
            )
        staged = outbox.stage(settings, operations, trace)
        requests = [_request(store, operation) for operation in staged.operations]
        requests += staged.markers
        await outbox.publish(settings, staged)
        uncertain = False  # an attempt failed in a way that may have left its transaction in the store

        async def attempt() -> None:
            nonlocal uncertain
            known, uncertain = not uncertain, True
            try:
                await store.store.transact(requests)
            except DriverError as error:
                uncertain = not (known and error.permanent)
                raise

        try:
            await self._run(store, "transaction", attempt)
        except DriverError:
            if not uncertain:
                outbox.withdraw(staged)
            raise

    async def query(self, store_name: str, body: bytes) -> Page:
        """The hits of a query in its JSON form. Rows of every key prefix are searched, as in Dapr."""
        store = self._stores.get(store_name)
        if store is None:
            raise failures.not_found(store_name, self._stores, None)
        if "QUERY_API" not in store.store.features:
            raise failures.query_not_supported(store_name)
        if store.seal is not None:
            raise failures.query_failed(store_name, "cannot query encrypted store")
        try:
            query = parse_query(body)
            result = await self._run(store, "query", partial(store.store.query, query))
        except (DriverError, QueryError) as error:
            raise failures.query_failed(store_name, str(error)) from error
        return Page([store.hit(key, item) for key, item in result.results], result.token)

    async def _run(self, store: GuardedStore, operation: str, call: Callable[[], Awaitable[T]]) -> T:
        begun = perf_counter()
        try:
            result = await (call() if store.policy is None else store.policy.run(call))
        except DriverError:
            self._measure(store.failed[operation], begun)
            raise
        self._measure(store.passed[operation], begun)
        return result

    def _measure(self, labels: Labels, begun: float) -> None:
        self._count.add(labels)
        elapsed_ms = int((perf_counter() - begun) * 1000)
        if elapsed_ms:
            self._latencies.observe(elapsed_ms, labels)


def _named(item: SaveItem) -> str:
    if not item.key:
        raise EdgeError(Kind.MALFORMED_REQUEST, '"key" is a required field')
    return item.key


def _request(store: GuardedStore, operation: Operation) -> SetRequest | DeleteRequest:
    item = operation.item
    stored = store.prefix + item.key
    return store.set_request(item, stored) if operation.operation == "upsert" else store.delete_request(item, stored)


async def _each(
    store: GuardedStore,
    keys: Sequence[str],
    requests: Sequence[R],
    send: Callable[[Sequence[R]], Awaitable[Sequence[Exception | None]]],
) -> None:
    """Send all; raise the failure that decides. With a policy, what failed and may be tried again is sent again."""
    if store.policy is None:
        outcomes = await send(requests)
    else:
        outcomes = await _each_again(store.policy, requests, send)
    failure = failures.deciding(keys, outcomes)
    if failure is not None:
        raise failure


async def _each_again(
    policy: Policy, requests: Sequence[R], send: Callable[[Sequence[R]], Awaitable[Sequence[Exception | None]]]
) -> Sequence[Exception | None]:
    outcomes: list[Exception | None] = [None] * len(requests)
    waiting = list(range(len(requests)))

    async def attempt() -> None:
        nonlocal waiting
        for index, outcome in zip(waiting, await send([requests[index] for index in waiting]), strict=True):
            outcomes[index] = outcome
        failed = [(index, error) for index in waiting if (error := outcomes[index]) is not None]
        again = [(index, error) for index, error in failed if not getattr(error, "permanent", False)]
        waiting = [index for index, _ in again]
        if again:
            raise again[0][1]

    try:
        await policy.run(attempt)
    except DriverError as error:
        for index in waiting:
            outcomes[index] = outcomes[index] or error
    return outcomes
