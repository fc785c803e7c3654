"""What every state driver must do, run over each of them; features say what does not apply."""

from __future__ import annotations

import json
import pathlib
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, NamedTuple

import pytest

from edge_runtime.components.registry import DRIVERS, ComponentContext, resolve
from edge_runtime.model.errors import BadMetadata, DriverError, EtagMismatch, NotSupported
from edge_runtime.model.ports import Combine, Compare, DeleteRequest, Query, SetRequest
from edge_runtime.store.database import open_databases

WALL_TIME = 1_700_000_000.25


class Driver(NamedTuple):
    """A driver under test: its type, the metadata it is opened with, and the features that it must declare."""

    type: str
    metadata: dict[str, str]
    features: frozenset[str]
    lasting: bool = True


SQLITE = frozenset({"ETAG", "TRANSACTIONAL", "TTL", "KEYS_LIKE", "QUERY_API"})
MEMORY = frozenset({"ETAG", "TRANSACTIONAL", "TTL", "DELETE_WITH_PREFIX", "KEYS_LIKE"})
SUITE = {
    "sqlite": Driver("state.sqlite", {"connectionString": "state.db"}, SQLITE),
    "sqlite without WAL": Driver("state.sqlite", {"connectionString": "state.db", "disableWAL": "true"}, SQLITE),
    "sqlite other tables": Driver(
        "state.sqlite", {"url": "file:state.db", "tableName": "mine", "metadataTableName": "about"}, SQLITE
    ),
    "sqlite in memory": Driver("state.sqlite", {"connectionString": ":memory:"}, SQLITE, lasting=False),
    "in-memory": Driver("state.in-memory", {}, MEMORY, lasting=False),
}


class Clock:
    """The wall clock of the drivers, moved by hand."""

    def __init__(self) -> None:
        self.now = WALL_TIME

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=SUITE)
def driver(request: pytest.FixtureRequest) -> Driver:
    return SUITE[request.param]


@pytest.fixture
def opened(driver: Driver, clock: Clock, tmp_path: pathlib.Path) -> Callable[[], AbstractAsyncContextManager[Any]]:
    """Opens the driver under test; each call is a new life over the same files."""

    @asynccontextmanager
    async def open_once() -> AsyncIterator[Any]:
        async with open_databases() as databases:
            context = ComponentContext(
                "store", driver.type, "v1", driver.metadata, "app", "", databases, str(tmp_path), str(tmp_path)
            )
            opener: Any = resolve(driver.type)
            async with opener(context, now=clock) as store:
                yield store

    return open_once


@pytest.fixture
async def store(opened: Any) -> AsyncIterator[Any]:
    async with opened() as store:
        yield store


async def value_of(store: Any, key: str) -> bytes | None:
    item = await store.get(key)
    return None if item is None else item.value


def test_every_state_driver_is_here() -> None:
    types = {key.partition("/")[0] for key in DRIVERS if key.startswith("state.")}
    assert types == {driver.type for driver in SUITE.values()}


async def test_features_are_as_declared(store: Any, driver: Driver) -> None:
    assert store.features == driver.features
    if "QUERY_API" not in driver.features:
        with pytest.raises(NotSupported):
            await store.query(Query())
    assert hasattr(store, "delete_with_prefix") == ("DELETE_WITH_PREFIX" in driver.features)
    assert hasattr(store, "keys_like") == ("KEYS_LIKE" in driver.features)
    assert store.transaction_max is None


@pytest.mark.parametrize(
    "value",
    [
        b'"text"',
        b'{"a":[1,2,{"b":null}]}',
        b"12345678901234567890123456789",
        b"-0.5e3",
        b"true",
        b"null",
        b' {"blank" : "kept"} ',
        '"späte Grüße 🛰"'.encode(),
        b'"\\ud83d\\ude00"',
        b"plain text",
        b"",
        b"\x00\x01\xff\xfe",
        b"\x0a\x04abcd",
        b'"' + b"x" * 300_000 + b'"',
    ],
)
async def test_values_come_back_unchanged(store: Any, value: bytes) -> None:
    await store.set(SetRequest("app||key", value))
    assert await value_of(store, "app||key") == value
    await store.set(SetRequest("app||key", b"1"))
    assert await value_of(store, "app||key") == b"1"


async def test_missing_key_is_none(store: Any) -> None:
    assert await store.get("nothing") is None
    await store.delete(DeleteRequest("nothing"))


async def test_deleted_key_is_gone(store: Any) -> None:
    await store.set(SetRequest("key", b"1"))
    await store.delete(DeleteRequest("key"))
    assert await store.get("key") is None


@pytest.mark.parametrize("key", ["a||b", "ключ", "with 'quotes' \"both\"", "%_*?[", "\x00nul", " ", "a" * 2000])
async def test_odd_keys_are_kept_apart(store: Any, key: str) -> None:
    await store.set(SetRequest(key, b"1"))
    await store.set(SetRequest(key + "x", b"2"))
    assert await value_of(store, key) == b"1"
    await store.delete(DeleteRequest(key))
    assert await value_of(store, key) is None
    assert await value_of(store, key + "x") == b"2"


async def test_empty_key_is_refused(store: Any) -> None:
    with pytest.raises(BadMetadata, match="missing key"):
        await store.set(SetRequest("", b"1"))
    with pytest.raises(BadMetadata, match="missing key"):
        await store.delete(DeleteRequest(""))


# --- several keys at once ---------------------------------------------------------------------------------------------


async def test_bulk_get_tells_what_is_missing(store: Any) -> None:
    await store.bulk_set([SetRequest(f"key{number}", b"%d" % number) for number in range(250)])
    asked = ["key1", "none", "key249", "key1"]
    found = [(key, None if item is None else item.value) for key, item in await store.bulk_get(asked)]
    assert sorted(found, key=str) == sorted(
        [("key1", b"1"), ("none", None), ("key249", b"249"), ("key1", b"1")], key=str
    )
    assert len(await store.bulk_get([f"key{number}" for number in range(250)])) == 250


async def test_bulk_failures_stand_at_their_places(store: Any) -> None:
    await store.set(SetRequest("b", b"0"))
    failures = await store.bulk_set([SetRequest("a", b"1"), SetRequest("b", b"1", etag="wrong"), SetRequest("c", b"1")])
    assert [type(failure) for failure in failures] == [type(None), EtagMismatch, type(None)]
    assert "'b'" in str(failures[1])
    assert [await value_of(store, key) for key in "abc"] == [b"1", b"0", b"1"]
    failures = await store.bulk_delete([DeleteRequest("a"), DeleteRequest("b", etag="wrong"), DeleteRequest("none")])
    assert [type(failure) for failure in failures] == [type(None), EtagMismatch, type(None)]
    assert [await value_of(store, key) for key in "abc"] == [None, b"0", b"1"]


# --- etags ------------------------------------------------------------------------------------------------------------


async def test_etags_are_fresh_uuids(store: Any) -> None:
    etags = []
    for _ in range(70):
        await store.set(SetRequest("key", b"1"))
        etags.append((await store.get("key")).etag)
    assert len(set(etags)) == 70
    assert all(uuid.UUID(etag).version == 4 and str(uuid.UUID(etag)) == etag for etag in etags)
    assert (await store.bulk_get(["key"]))[0][1].etag == etags[-1]


async def test_right_etag_writes_and_changes(store: Any) -> None:
    await store.set(SetRequest("key", b"1"))
    etag = (await store.get("key")).etag
    await store.set(SetRequest("key", b"2", etag=etag))
    item = await store.get("key")
    assert item.value == b"2"
    assert item.etag != etag
    with pytest.raises(EtagMismatch, match="'key'"):
        await store.set(SetRequest("key", b"3", etag=etag))
    assert await value_of(store, "key") == b"2"


async def test_wrong_etag_deletes_nothing(store: Any) -> None:
    await store.set(SetRequest("key", b"1"))
    with pytest.raises(EtagMismatch):
        await store.delete(DeleteRequest("key", etag="wrong"))
    assert await value_of(store, "key") == b"1"
    await store.delete(DeleteRequest("key", etag=(await store.get("key")).etag))
    assert await store.get("key") is None


async def test_etag_of_missing_key_mismatches(store: Any) -> None:
    with pytest.raises(EtagMismatch):
        await store.set(SetRequest("none", b"1", etag="any"))
    with pytest.raises(EtagMismatch):
        await store.delete(DeleteRequest("none", etag="any"))
    assert await store.get("none") is None


async def test_empty_etag_is_none(store: Any) -> None:
    await store.set(SetRequest("key", b"1"))
    await store.set(SetRequest("key", b"2", etag=""))
    await store.delete(DeleteRequest("key", etag=""))
    assert await store.get("key") is None


async def test_first_write_wins_once(store: Any) -> None:
    await store.set(SetRequest("key", b"1", first_write=True))
    with pytest.raises(EtagMismatch):
        await store.set(SetRequest("key", b"2", first_write=True))
    await store.set(SetRequest("key", b"3"))
    with pytest.raises(EtagMismatch):
        await store.set(SetRequest("key", b"4", first_write=True))
    stale = (await store.get("key")).etag
    await store.set(SetRequest("key", b"5", etag=stale, first_write=True))
    with pytest.raises(EtagMismatch):
        await store.set(SetRequest("key", b"6", etag=stale, first_write=True))
    assert await value_of(store, "key") == b"5"


# --- expiry -----------------------------------------------------------------------------------------------------------


async def test_value_ends_after_its_ttl(store: Any, clock: Clock) -> None:
    await store.set(SetRequest("key", b"1", ttl_s=2))
    item = await store.get("key")
    assert WALL_TIME + 2 <= item.expires_at < WALL_TIME + 3
    assert (await store.bulk_get(["key"]))[0][1].expires_at == item.expires_at
    clock.now = WALL_TIME + 1.99
    assert await value_of(store, "key") == b"1"
    clock.now = WALL_TIME + 3
    assert await store.get("key") is None
    assert await store.bulk_get(["key"]) == [("key", None)]
    assert await store.keys("", "", 10) == []


@pytest.mark.parametrize("ttl_s", [None, -1, 0])
async def test_later_write_ends_the_ttl(store: Any, clock: Clock, ttl_s: int | None) -> None:
    await store.set(SetRequest("key", b"1", ttl_s=2))
    await store.set(SetRequest("key", b"2", ttl_s=ttl_s))
    assert (await store.get("key")).expires_at is None
    clock.now += 1000
    assert await value_of(store, "key") == b"2"


async def test_expired_key_counts_as_missing(store: Any, clock: Clock) -> None:
    await store.set(SetRequest("key", b"1", ttl_s=1))
    etag = (await store.get("key")).etag
    clock.now += 5
    with pytest.raises(EtagMismatch):
        await store.set(SetRequest("key", b"2", etag=etag))
    await store.set(SetRequest("key", b"3", first_write=True))
    assert await value_of(store, "key") == b"3"


async def test_endless_ttl_is_kept(store: Any) -> None:
    await store.set(SetRequest("key", b"1", ttl_s=2**31 - 1))
    assert (await store.get("key")).expires_at >= WALL_TIME + 2**31 - 1


# --- transactions -----------------------------------------------------------------------------------------------------


async def test_transaction_keeps_its_order(store: Any) -> None:
    await store.transact([SetRequest("a", b"1"), DeleteRequest("a"), SetRequest("a", b"2"), DeleteRequest("none")])
    assert await value_of(store, "a") == b"2"
    await store.transact([SetRequest("a", b"3"), SetRequest("b", b"3"), DeleteRequest("a")])
    assert [await value_of(store, key) for key in "ab"] == [None, b"3"]


async def test_failed_transaction_changes_nothing(store: Any) -> None:
    await store.set(SetRequest("a", b"0"))
    for last in (SetRequest("b", b"1", etag="wrong"), DeleteRequest("b", etag="wrong")):
        with pytest.raises(EtagMismatch):
            await store.transact([SetRequest("a", b"1"), SetRequest("c", b"1"), DeleteRequest("a"), last])
        assert [await value_of(store, key) for key in "abc"] == [b"0", None, None]


async def test_transaction_sees_its_own_writes(store: Any) -> None:
    with pytest.raises(EtagMismatch):
        await store.transact([SetRequest("a", b"1"), SetRequest("a", b"2", first_write=True)])
    await store.transact([SetRequest("a", b"1"), DeleteRequest("a"), SetRequest("a", b"2", first_write=True)])
    assert await value_of(store, "a") == b"2"


async def test_empty_transaction_does_nothing(store: Any) -> None:
    await store.transact([])


# --- keys -------------------------------------------------------------------------------------------------------------


async def test_keys_are_paged_by_prefix(store: Any, clock: Clock) -> None:
    names = ["a", "a||1", "a||2", "a||3", "a}", "b||1", "a||\U0010ffff"]
    await store.bulk_set([SetRequest(name, b"1") for name in names])
    await store.set(SetRequest("a||0", b"1", ttl_s=1))
    clock.now += 10
    assert list(await store.keys("a||", "", 10)) == ["a||1", "a||2", "a||3", "a||\U0010ffff"]
    assert list(await store.keys("a||", "a||1", 2)) == ["a||2", "a||3"]
    assert list(await store.keys("", "", 2)) == ["a", "a||1"]
    assert list(await store.keys("a||\U0010ffff", "", 2)) == ["a||\U0010ffff"]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("app||%", ["app||1", "app||22", "app||a%b"]),
        ("app||_", ["app||1"]),
        ("%2_", ["app||22"]),
        ("app||a\\%b", ["app||a%b"]),
        ("%*%", ["x*y"]),
        ("App%", ["App||1"]),
        ("%[%", ["x[y"]),
    ],
)
async def test_keys_like_a_pattern(store: Any, pattern: str, found: list[str]) -> None:
    names = ["app||1", "app||22", "app||a%b", "App||1", "x*y", "x[y"]
    await store.bulk_set([SetRequest(name, b"1") for name in names])
    assert sorted(await store.keys_like(pattern, "", 10)) == found
    assert list(await store.keys_like(pattern, found[0], 10)) == found[1:]
    with pytest.raises(BadMetadata):
        await store.keys_like("", "", 10)


async def test_delete_with_prefix_stays_on_its_level(store: Any) -> None:
    if "DELETE_WITH_PREFIX" not in store.features:
        pytest.skip("not a feature of this driver")
    await store.bulk_set([SetRequest(name, b"1") for name in ("p||a", "p||b", "p||c||d", "p", "pp||a")])
    assert await store.delete_with_prefix("p") == 2
    assert await store.delete_with_prefix("p||") == 0
    assert list(await store.keys("", "", 10)) == ["p", "pp||a", "p||c||d"]
    for prefix in ("", "||"):
        with pytest.raises(BadMetadata):
            await store.delete_with_prefix(prefix)


# --- lives ------------------------------------------------------------------------------------------------------------


async def test_state_outlives_the_process(opened: Any, driver: Driver) -> None:
    async with opened() as store:
        await store.set(SetRequest("key", b'{"a":1}', ttl_s=60))
        item = await store.get("key")
    async with opened() as store:
        assert await store.get("key") == (item if driver.lasting else None)


# --- queries ----------------------------------------------------------------------------------------------------------

DOCUMENTS: dict[str, Any] = {
    "a": {"n": 1, "s": "x", "b": True, "tags": ["red", 7], "in": {"deep": {"er": 1}}, "z": None},
    "b": {"n": 2.5, "s": "y", "b": False, "tags": [], "in": {"deep": 5}},
    "c": {"n": "1", "s": "X", "b": 1, "in": {"é \"q'": "odd"}},
    "d": {"n": 9007199254740993, "s": "", "dotted.key": 3},
    "e": {"n": 2**70 + 1, "s": "zz", "z": 0},
    "f": {"n": -(2**70), "s": "ünï"},
    "g": [1, 2],
    "h": "x",
}


@pytest.fixture
async def documents(store: Any) -> Any:
    if "QUERY_API" not in store.features:
        pytest.skip("not a feature of this driver")
    await store.bulk_set([SetRequest(key, json.dumps(value).encode()) for key, value in DOCUMENTS.items()])
    await store.set(SetRequest("binary", b"\xff\x00"))
    await store.set(SetRequest("text", b"no JSON"))
    return store


def eq(path: str, value: Any) -> Compare:
    return Compare("EQ", path, value)


@pytest.mark.parametrize(
    ("condition", "found"),
    [
        (None, "abcdefgh"),
        (eq("n", 1), "a"),
        (eq("n", 1.0), "a"),
        (eq("n", "1"), "c"),
        (eq("n", 2.5), "b"),
        (eq("n", 9007199254740993), "d"),
        (eq("n", 9007199254740992), ""),
        (eq("n", 2**70 + 1), "e"),
        (eq("n", 2**70), ""),
        (eq("b", True), "a"),
        (eq("b", 1), "c"),
        (eq("b", False), "b"),
        (eq("z", None), "a"),
        (eq("tags", "red"), "a"),
        (eq("tags", 7), "a"),
        (eq("tags", "7"), ""),
        (eq("in.deep", 5), "b"),
        (eq("in.deep.er", 1), "a"),
        (eq("in.é \"q'", "odd"), "c"),
        (eq("dotted.key", 3), ""),
        (eq("s') OR 1=1 --", "x"), ""),
        (eq("s", "x' OR '1'='1"), ""),
        (eq('s"', "x"), ""),
        (eq("", "x"), ""),
        (Compare("NEQ", "s", "x"), "bcdefgh"),
        (Compare("NEQ", "z", None), "bcdefgh"),
        (Compare("GT", "n", 1), "bde"),
        (Compare("GTE", "n", 1), "abde"),
        (Compare("LT", "n", 2.5), "af"),
        (Compare("LTE", "n", 2.5), "abf"),
        (Compare("GT", "n", "0"), "c"),
        (Compare("GT", "n", 2**70), "e"),
        (Compare("GTE", "n", 2**70 + 1), "e"),
        (Compare("GT", "n", 2**70 + 1), ""),
        (Compare("LT", "n", 2**70 + 1), "abdf"),
        (Compare("LTE", "n", -(2**70)), "f"),
        (Compare("LT", "n", -(2**70)), ""),
        (Compare("GT", "n", -(2**70)), "abde"),
        (Compare("GT", "n", 10**400), ""),
        (Compare("GT", "s", "x"), "bef"),
        (Compare("IN", "s", ["x", "y", "nope"]), "ab"),
        (Compare("IN", "n", [1, "1", 2**70 + 1]), "ace"),
        (Compare("IN", "z", [None, 0]), "ae"),
        (Compare("IN", "tags", ["blue", "red"]), "a"),
        (Compare("IN", "s", [str(number) for number in range(3000)]), ""),
        (Combine("AND", [eq("s", "x"), eq("n", 1)]), "a"),
        (Combine("OR", [eq("s", "x"), eq("n", 2.5), Combine("AND", [eq("b", 1), eq("s", "X")])]), "abc"),
        (Combine("OR", [eq("n", number) for number in range(1500)]), "a"),
    ],
)
async def test_query_finds_what_matches(documents: Any, condition: Any, found: str) -> None:
    result = await documents.query(Query(condition))
    assert sorted(key for key, _ in result.results) == sorted(found)
    assert result.token == ""
    for key, item in result.results:
        assert json.loads(item.value) == DOCUMENTS[key]
        assert item == await documents.get(key)


@pytest.mark.parametrize(
    "condition",
    [
        Compare("GT", "n", True),
        Compare("GT", "n", None),
        Compare("LT", "n", [1]),
        eq("n", {"a": 1}),
        Compare("IN", "n", 1),
        Compare("IN", "n", [[1]]),
        Combine("AND", []),
    ],
)
async def test_query_refuses_what_has_no_order(documents: Any, condition: Any) -> None:
    with pytest.raises(BadMetadata):
        await documents.query(Query(condition))


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        ([("n", "ASC")], "ghfabdec"),
        ([("n", "DESC")], "cedbafgh"),
        ([("b", "ASC"), ("s", "DESC")], "fedghbac"),
        ([("z", "DESC"), ("n", "ASC")], "eaghfbdc"),
    ],
)
@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8, 100])
async def test_pages_follow_the_sort(documents: Any, sort: Any, expected: str, limit: int) -> None:
    found, token = "", ""
    while True:
        page = await documents.query(Query(None, sort, limit, token))
        assert len(page.results) <= limit
        found += "".join(key for key, _ in page.results)
        token = page.token
        if not token:
            break
    assert found == expected


async def test_pages_are_stable_under_writes(documents: Any) -> None:
    sort: Any = [("s", "ASC")]
    first = await documents.query(Query(None, sort, 4))
    seen = [key for key, _ in first.results]
    await documents.delete(DeleteRequest(seen[0]))
    await documents.set(SetRequest("new", b'{"s":""}'))
    rest = await documents.query(Query(None, sort, 100, first.token))
    assert sorted(seen + [key for key, _ in rest.results]) == sorted(DOCUMENTS)


async def test_token_of_another_query_is_refused(documents: Any) -> None:
    token = (await documents.query(Query(None, [("n", "ASC")], 1))).token
    for query in (Query(None, [("s", "ASC")], 1, token), Query(eq("n", 1), [("n", "ASC")], 1, token)):
        with pytest.raises(BadMetadata, match="token"):
            await documents.query(query)
    for nonsense in ("!", "AAAA", "bnVsbA==", "ü"):
        with pytest.raises(BadMetadata, match="token"):
            await documents.query(Query(None, [("n", "ASC")], 1, nonsense))


async def test_query_sees_live_rows_only(documents: Any, clock: Clock) -> None:
    await documents.set(SetRequest("short", b'{"s":"short"}', ttl_s=1))
    hit = (await documents.query(Query(eq("s", "short")))).results[0]
    assert hit[1].expires_at is not None
    clock.now += 5
    assert (await documents.query(Query(eq("s", "short")))).results == []


async def test_half_surrogates_are_refused(store: Any) -> None:
    if store.features == MEMORY:
        pytest.skip("held as they come")
    for call in (store.get("\ud800"), store.set(SetRequest("\ud800", b"1")), store.keys("\ud800", "", 1)):
        with pytest.raises(DriverError, match="surrogate"):
            await call
