"""The state block around a store whose faults the test chooses."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from edge_runtime.blocks.state import BoundStore, DeleteItem, Hit, Operation, SaveItem
from edge_runtime.model.errors import DriverError, EdgeError, EtagInvalid, EtagMismatch, Kind
from edge_runtime.model.ports import DeleteRequest, Item, QueryResult, SetRequest
from edge_runtime.observability.metrics import Metrics, render
from edge_runtime.security.seal import Key, Seal
from tests.unit.blocks.state.stores import MapStore, bound, state_of

RETRY = {
    "policies": {"retries": {"r": {"duration": "1s", "maxRetries": 3}}},
    "targets": {"components": {"store": {"outbound": {"retry": "r"}}}},
}


def upsert(key: str, value: bytes = b"1", **more: Any) -> Operation:
    return Operation("upsert", SaveItem(key, value, **more))


async def raised(call: Any) -> EdgeError:
    with pytest.raises(EdgeError) as caught:
        await call
    return caught.value


# --- get and save


async def test_saved_value_comes_back() -> None:
    state = state_of(bound(MapStore()))
    await state.save("store", [SaveItem("k", b'{"a":1}')])
    assert await state.get("store", "k") == Item(b'{"a":1}', "1")
    assert await state.get("store", "other") is None


@pytest.mark.parametrize(
    ("strategy", "namespace", "stored"),
    [
        ("appid", "ns", "app||k"),
        ("name", "ns", "store||k"),
        ("namespace", "ns", "ns.app||k"),
        ("namespace", "", "app||k"),
        ("none", "ns", "k"),
        ("shared", "ns", "shared||k"),
    ],
)
async def test_prefix_follows_its_strategy(strategy: str, namespace: str, stored: str) -> None:
    store = MapStore()
    state = state_of(bound(store, key_prefix=strategy), namespace=namespace)
    await state.save("store", [SaveItem("k", b"1")])
    assert list(store.rows) == [stored]
    assert [hit.key for hit in await state.bulk_get("store", ["k"])] == ["k"]


async def test_missing_store_is_named() -> None:
    error = await raised(state_of(bound(MapStore())).get("stor", "k"))
    assert (error.kind, error.message) == (Kind.STATE_STORE_NOT_FOUND, "state store stor is not found")
    assert error.metadata == {"appID": "app"}
    error = await raised(state_of().get("stor", "k"))
    assert (error.kind, error.message) == (Kind.STATE_STORE_NOT_CONFIGURED, "state store stor is not configured")


async def test_separator_in_key_is_refused() -> None:
    state = state_of(bound(MapStore()))
    text = "api error: code = InvalidArgument desc = input key/keyPrefix 'a||b' can't contain '||'"
    for call in (
        state.get("store", "a||b"),
        state.save("store", [SaveItem("a||b", b"1")]),
        state.delete("store", DeleteItem("a||b")),
        state.bulk_get("store", ["x", "a||b"]),
        state.bulk_delete("store", [DeleteItem("a||b")]),
    ):
        error = await raised(call)
        assert (error.kind, error.message) == (Kind.STATE_ILLEGAL_KEY, text)
        assert error.resource == ("state", "store")
        assert list(error.violations) == [("a||b", text)]


async def test_key_is_required() -> None:
    store = MapStore()
    error = await raised(state_of(bound(store)).save("store", [SaveItem("a", b"1"), SaveItem("", b"1")]))
    assert (error.kind, error.message) == (Kind.MALFORMED_REQUEST, '"key" is a required field')
    assert not store.rows


async def test_driver_error_on_get() -> None:
    store = MapStore()
    store.faults = [DriverError("disk on fire")]
    error = await raised(state_of(bound(store)).get("store", "k"))
    assert (error.kind, error.message) == (Kind.STATE_GET, "fail to get k from state store store: disk on fire")


@pytest.mark.parametrize(
    ("fault", "kind", "text"),
    [
        (DriverError("full"), Kind.STATE_SAVE, "full"),
        (
            EtagMismatch("old"),
            Kind.STATE_SAVE_ETAG_MISMATCH,
            "possible etag mismatch. error from state store: old",
        ),
        (EtagMismatch(""), Kind.STATE_SAVE_ETAG_MISMATCH, "possible etag mismatch. error from state store"),
        (EtagInvalid("not a number"), Kind.STATE_SAVE_ETAG_INVALID, "invalid etag value: not a number"),
        (EtagInvalid("invalid etag value: x"), Kind.STATE_SAVE_ETAG_INVALID, "invalid etag value: x"),
    ],
)
async def test_save_errors_have_their_kind(fault: DriverError, kind: Kind, text: str) -> None:
    store = MapStore()
    store.faults = [fault]
    error = await raised(state_of(bound(store)).save("store", [SaveItem("k", b"1")]))
    assert (error.kind, error.message) == (kind, f"failed saving state in state store store: {text}")


async def test_options_reach_the_driver() -> None:
    store = MapStore()
    state = state_of(bound(store))
    item = SaveItem("k", b"1", "", {"ttlInSeconds": "30", "x": "y"}, "first-write", "strong")
    await state.save("store", [item])
    assert store.requests == [SetRequest("app||k", b"1", None, True, 30, {"ttlInSeconds": "30", "x": "y"})]
    error = await raised(state.save("store", [item]))
    assert error.kind is Kind.STATE_SAVE_ETAG_MISMATCH


@pytest.mark.parametrize(
    ("item", "text"),
    [
        (SaveItem("k", b"1", concurrency="first"), "unrecognized concurrency model 'first'"),
        (SaveItem("k", b"1", consistency="total"), "unrecognized consistency model 'total'"),
        (SaveItem("k", b"1", metadata={"ttlInSeconds": "soon"}), "incorrect value for metadata 'ttlInSeconds': 'soon'"),
        (SaveItem("k", b"1", metadata={"ttlInSeconds": "-2"}), "incorrect value for metadata 'ttlInSeconds': -2 must"),
        (SaveItem("k", b"1", metadata={"ttlInSeconds": "2147483648"}), "must be from -1 to 2147483647"),
    ],
)
@pytest.mark.parametrize("more", [[], [SaveItem("other", b"2")]])
async def test_bad_options_save_nothing(item: SaveItem, text: str, more: list[SaveItem]) -> None:
    store = MapStore()
    error = await raised(state_of(bound(store)).save("store", [*more, item]))
    assert error.kind is Kind.STATE_SAVE
    assert text in error.message
    assert not store.rows


@pytest.mark.parametrize("text", ["", "0", "-1"])
async def test_no_expiry_is_none(text: str) -> None:
    store = MapStore()
    await state_of(bound(store)).save("store", [SaveItem("k", b"1", metadata={"ttlInSeconds": text})])
    assert store.rows["app||k"].expires_at is None


async def test_empty_save_does_nothing() -> None:
    store = MapStore()
    await state_of(bound(store)).save("store", [])
    assert not store.calls


# --- several at once


async def test_etag_error_decides_a_bulk() -> None:
    store = MapStore()
    store.faults = [DriverError("full"), EtagMismatch("old")]
    items = [SaveItem("a", b"1"), SaveItem("b", b"2"), SaveItem("c", b"3")]
    error = await raised(state_of(bound(store)).save("store", items))
    assert error.kind is Kind.STATE_SAVE_ETAG_MISMATCH
    assert error.message.endswith("possible etag mismatch. error from state store: b: old")
    assert list(store.rows) == ["app||c"]


async def test_first_failure_decides_otherwise() -> None:
    store = MapStore()
    store.faults = [None, DriverError("full"), DriverError("other")]
    items = [SaveItem("a", b"1"), SaveItem("b", b"2"), SaveItem("c", b"3")]
    error = await raised(state_of(bound(store)).save("store", items))
    assert (error.kind, error.message) == (Kind.STATE_SAVE, "failed saving state in state store store: b: full")


async def test_only_failed_items_are_retried(autojump_clock: MockClock) -> None:
    store = MapStore()
    store.faults = [None, DriverError("busy"), EtagMismatch("old"), DriverError("busy")]
    items = [SaveItem("a", b"1"), SaveItem("b", b"2"), SaveItem("c", b"3", "9")]
    error = await raised(state_of(bound(store), policies=RETRY).save("store", items))
    assert error.kind is Kind.STATE_SAVE_ETAG_MISMATCH
    assert store.calls == 5
    assert sorted(store.rows) == ["app||a", "app||b"]
    assert trio.current_time() == 2.0


async def test_bulk_retries_end(autojump_clock: MockClock) -> None:
    store = MapStore()
    store.faults = [DriverError("busy")] * 9
    error = await raised(
        state_of(bound(store), policies=RETRY).save("store", [SaveItem("a", b"1"), SaveItem("b", b"2")])
    )
    assert (error.kind, error.message) == (Kind.STATE_SAVE, "failed saving state in state store store: a: busy")
    assert store.calls == 8


async def test_hanging_bulk_meets_the_timeout(autojump_clock: MockClock) -> None:
    class Hanging(MapStore):
        async def bulk_set(self, requests: Any) -> Any:
            await trio.sleep_forever()

    policies = {
        "policies": {"timeouts": {"t": "2s"}},
        "targets": {"components": {"store": {"outbound": {"timeout": "t"}}}},
    }
    state = state_of(bound(Hanging()), policies=policies)
    error = await raised(state.save("store", [SaveItem("a", b"1"), SaveItem("b", b"2")]))
    assert error.message == "failed saving state in state store store: a: context deadline exceeded"


async def test_single_calls_are_retried(autojump_clock: MockClock) -> None:
    store = MapStore()
    state = state_of(bound(store), policies=RETRY)
    busy = DriverError("busy")
    store.faults = [busy, None, busy, None, busy, None, busy]
    await state.save("store", [SaveItem("a", b"1")])
    assert await state.get("store", "a") is not None
    await state.delete("store", DeleteItem("a"))
    assert await state.bulk_get("store", ["a"]) == [Hit("a")]
    assert store.calls == 8


async def test_bulk_get_tells_all() -> None:
    state = state_of(bound(MapStore()))
    await state.save("store", [SaveItem("a", b"1"), SaveItem("b", b"2", metadata={"ttlInSeconds": "5"})])
    assert await state.bulk_get("store", ["a", "none", "b"]) == [
        Hit("a", b"1", "1"),
        Hit("none"),
        Hit("b", b"2", "2", 1_900_000_005.0),
    ]
    assert await state.bulk_get("store", []) == []


async def test_bulk_get_error() -> None:
    store = MapStore()
    store.faults = [DriverError("gone")]
    error = await raised(state_of(bound(store)).bulk_get("store", ["a"]))
    assert (error.kind, error.message) == (Kind.STATE_BULK_GET, "gone")


# --- delete


async def test_delete_removes() -> None:
    store = MapStore()
    state = state_of(bound(store))
    await state.save("store", [SaveItem("k", b"1")])
    error = await raised(state.delete("store", DeleteItem("k", "7")))
    assert error.kind is Kind.STATE_DELETE_ETAG_MISMATCH
    assert error.message == ("failed deleting state with key k: possible etag mismatch. error from state store")
    await state.delete("store", DeleteItem("k", "1", concurrency="first-write"))
    assert not store.rows
    error = await raised(state.delete("store", DeleteItem("k", concurrency="x")))
    assert error.kind is Kind.STATE_DELETE


async def test_bulk_delete_removes() -> None:
    store = MapStore()
    state = state_of(bound(store))
    await state.save("store", [SaveItem("a", b"1"), SaveItem("b", b"1")])
    await state.bulk_delete("store", [])
    error = await raised(state.bulk_delete("store", [DeleteItem("a"), DeleteItem("b", "9")]))
    assert error.kind is Kind.STATE_BULK_DELETE_ETAG_MISMATCH
    await state.bulk_delete("store", [DeleteItem("b")])
    assert not store.rows


# --- transactions


async def test_transaction_applies_in_order() -> None:
    store = MapStore()
    state = state_of(bound(store))
    operations = [upsert("a"), Operation("delete", SaveItem("a", b"")), upsert("b", metadata={"ttlInSeconds": "9"})]
    await state.transact("store", operations)
    assert store.requests == [
        SetRequest("app||a", b"1"),
        DeleteRequest("app||a"),
        SetRequest("app||b", b"1", ttl_s=9, metadata={"ttlInSeconds": "9"}),
    ]
    await state.transact("store", [])
    assert store.calls == 1


async def test_transaction_conflict_is_no_409() -> None:
    state = state_of(bound(MapStore()))
    error = await raised(state.transact("store", [upsert("a", etag="3")]))
    assert error.kind is Kind.STATE_TRANSACTION
    assert error.message == ("error while executing state transaction: possible etag mismatch. error from state store")


async def test_transaction_needs_support() -> None:
    error = await raised(state_of(bound(MapStore(features=()))).transact("store", []))
    assert error.kind is Kind.STATE_TRANSACTIONS_NOT_SUPPORTED
    assert error.message == "state store store doesn't support transactions"
    assert error.resource == ("state", "store")


async def test_transaction_has_a_limit() -> None:
    error = await raised(state_of(bound(MapStore(transaction_max=1))).transact("store", [upsert("a"), upsert("b")]))
    assert error.kind is Kind.STATE_TOO_MANY_TRANSACTIONS
    assert error.metadata == {"currentOpsTransaction": "2", "maxOpsPerTransaction": "1"}


async def test_unknown_operation_is_named() -> None:
    error = await raised(state_of(bound(MapStore())).transact("store", [Operation("merge", SaveItem("a", b""))]))
    assert (error.kind, error.message) == (
        Kind.STATE_OPERATION_NOT_SUPPORTED,
        "operation type merge not supported",
    )


async def test_illegal_key_in_transaction_has_no_field() -> None:
    error = await raised(state_of(bound(MapStore())).transact("store", [upsert("a||b")]))
    assert error.kind is Kind.STATE_ILLEGAL_KEY
    assert error.violations[0][0] == ""


async def test_transaction_may_lack_a_key() -> None:
    store = MapStore()
    await state_of(bound(store)).transact("store", [upsert("")])
    assert list(store.rows) == ["app||"]


# --- encryption


def sealed_store(store: MapStore) -> BoundStore:
    return bound(store, seal=Seal(Key("name", bytes(16))))


async def test_encrypted_values_are_unreadable() -> None:
    store = MapStore()
    state = state_of(sealed_store(store))
    await state.save("store", [SaveItem("a", b'{"x":1}')])
    await state.transact("store", [upsert("b", b'"two"')])
    assert all(item.value.endswith(b"||name") for item in store.rows.values())
    item = await state.get("store", "a")
    assert item is not None
    assert item.value == b'{"x":1}'
    assert [hit.value for hit in await state.bulk_get("store", ["b"])] == [b'"two"']


async def test_broken_seal_is_an_error() -> None:
    store = MapStore()
    state = state_of(sealed_store(store))
    store.rows["app||a"] = Item(b"clear", "1")
    error = await raised(state.get("store", "a"))
    assert error.kind is Kind.STATE_GET
    assert "failed to decrypt" in error.message
    (hit,) = await state.bulk_get("store", ["a"])
    assert hit.value is None
    assert "failed to decrypt" in hit.error


# --- query


async def test_query_needs_support() -> None:
    error = await raised(state_of(bound(MapStore())).query("store", b"{}"))
    assert (error.kind, error.resource) == (Kind.STATE_QUERY_NOT_SUPPORTED, ("state", "store"))
    error = await raised(state_of(bound(MapStore())).query("other", b"{}"))
    assert (error.kind, error.metadata) == (Kind.STATE_STORE_NOT_FOUND, None)


async def test_encrypted_store_is_not_queried() -> None:
    error = await raised(state_of(sealed_store(MapStore(["QUERY_API"]))).query("store", b"{}"))
    assert error.kind is Kind.STATE_QUERY_FAILED
    assert error.message == "state store store query failed: cannot query encrypted store"


async def test_query_answers_plain_keys() -> None:
    store = MapStore(["QUERY_API"])
    store.answer = QueryResult([("app||a", Item(b"1", "1")), ("foreign||b", Item(b"2", "1")), ("bare", None)], "2")
    page = await state_of(bound(store)).query("store", b'{"page": {"limit": 3}}')
    assert [hit.key for hit in page.hits] == ["a", "b", "bare"]
    assert page.token == "2"
    assert store.queries[0].limit == 3


async def test_bad_query_is_told() -> None:
    store = MapStore(["QUERY_API"])
    error = await raised(state_of(bound(store)).query("store", b"{"))
    assert error.kind is Kind.STATE_QUERY_FAILED
    store.faults = [DriverError("gone")]
    error = await raised(state_of(bound(store)).query("store", b"{}"))
    assert error.message == "state store store query failed: gone"


# --- metrics


async def test_only_whole_milliseconds_are_observed(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([5.0, 5.0009, 6.0, 6.0025])
    monkeypatch.setattr("edge_runtime.blocks.state.block.perf_counter", lambda: next(times))
    metrics = Metrics()
    state = state_of(bound(MapStore()), metrics=metrics)
    await state.get("store", "k")
    assert "latencies" not in render([metrics]).replace("# TYPE dapr_component_state_latencies", "")
    await state.get("store", "k")
    assert 'latencies_sum{component="store",namespace="",operation="get",success="true"} 2' in render([metrics])


async def test_operations_are_counted() -> None:
    metrics = Metrics()
    store = MapStore()
    state = state_of(bound(store), metrics=metrics, namespace="ns")
    await state.save("store", [SaveItem("k", b"1")])
    await state.get("store", "k")
    store.faults = [DriverError("no"), DriverError("no"), DriverError("no")]
    await raised(state.get("store", "k"))
    await raised(state.save("store", [SaveItem("k", b"1")]))
    await raised(state.transact("store", [upsert("k")]))
    page = render([metrics])
    for operation, success in (("set", "true"), ("set", "false"), ("get", "true"), ("get", "false")):
        labels = f'component="store",namespace="ns",operation="{operation}",success="{success}"'
        assert f"dapr_component_state_count{{{labels}}} 1" in page
    assert 'operation="transaction",success="false"} 1' in page
