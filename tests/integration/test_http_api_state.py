"""The state API of a running sidecar, statement by statement: statuses, bodies, details, headers."""

from __future__ import annotations

import base64
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.raw import Headers, Prefix, Reply, ask, check, info, plain, resource, rich, violation
from tests.support.sidecar import Sidecar

pytestmark = pytest.mark.slow

STORE = "/v1.0/state/statestore"
QUERY = "/v1.0-alpha1/state/statestore/query"
BULK = STORE + "/bulk"
TRANSACTION = STORE + "/transaction"
MISMATCH = "possible etag mismatch. error from state store: "
ILLEGAL = "api error: code = InvalidArgument desc = input key/keyPrefix 'a||b' can't contain '||'"

RESOURCES = """
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: statestore}
spec: {type: state.sqlite, version: v1, metadata: [{name: connectionString, value: "state.db"}]}
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: memory}
spec: {type: state.in-memory, version: v1, metadata: [{name: keyPrefix, value: NONE}]}
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: named}
spec: {type: state.sqlite, version: v1, metadata: [
  {name: connectionString, value: "state.db"}, {name: KEYPREFIX, value: name}]}
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: spaced}
spec: {type: state.sqlite, version: v1, metadata: [
  {name: connectionString, value: "state.db"}, {name: keyPrefix, value: namespace}]}
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: raw}
spec: {type: state.sqlite, version: v1, metadata: [
  {name: connectionString, value: "state.db"}, {name: keyPrefix, value: none}]}
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: keys}
spec: {type: secretstores.local.env, version: v1}
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: sealed}
spec: {type: state.sqlite, version: v1, metadata: [
  {name: connectionString, value: "sealed.db"},
  {name: primaryEncryptionKey, secretKeyRef: {name: STATE_KEY, key: STATE_KEY}}]}
auth: {secretStore: keys}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="module")
def port(place: Path) -> Iterator[int]:
    resources = place / "resources"
    resources.mkdir()
    (resources / "all.yaml").write_text(RESOURCES.replace('"state.db"', f'"{place}/state.db"'))
    with Sidecar(
        place / "node",
        *("--resources-path", str(resources)),
        app_id="me",
        environment={"STATE_KEY": "0f" * 32, "NAMESPACE": "ns"},
        directory=place,
    ) as sidecar:
        yield sidecar.port


def put(port: int, key: str, value: Any = 1, store: str = STORE, **more: Any) -> Reply:
    return ask(port, "POST", store, json.dumps([{"key": key, "value": value, **more}]))


def etag(port: int, key: str) -> str:
    return ask(port, "GET", f"{STORE}/{key}").headers["etag"]


# --- get and save -----------------------------------------------------------------------------------------------------

VALUES = [
    ('"text"', b'"text"'),
    ("9007199254740993", b"9007199254740993"),
    ("1e400", b"1e400"),
    ("0.10", b"0.10"),
    ("null", b"null"),
    ('{ "b" : "<&>", "a" : [ 1 , 2 ] }', b'{"b":"<&>","a":[1,2]}'),
    ('"\\u00e9\\n"', b'"\\u00e9\\n"'),
    ('"\\ud800"', b'"\\ufffd"'),
]


@pytest.mark.parametrize(("value", "stored"), VALUES, ids=[row[0] for row in VALUES])
def test_values_come_back(port: int, value: str, stored: bytes) -> None:
    check(ask(port, "POST", STORE, f'[{{"key":"v","value":{value}}}]'), 204, None)
    reply = ask(port, "GET", STORE + "/v")
    assert (reply.status, reply.body, reply.headers["content-type"]) == (200, stored, "application/json")
    assert '"' not in reply.headers["etag"]
    assert not [name for name in reply.headers if name.startswith("metadata.")]


ODD_BODIES = [
    (b"[]", None),
    (b"null", None),
    (b'[{"key":"odd","value":1}] and more', b"1"),
    (b' \n[{"KEY":"odd","Value":2,"zzz":{}}]', b"2"),
    (b'[{"key":"odd","value":1,"value":3}]', b"3"),
    (b'[{"key":"odd"}]', b"null"),
    (b'[{"key":"odd","value":"\xff"}]', '"\ufffd"'.encode()),
    (b'[{"key":"odd","value":4,"etag":null,"metadata":null,"options":null,"contentType":null}]', b"4"),
    (b'[{"key":"odd","value":5,"etag":"","options":{"concurrency":"","consistency":""}}]', b"5"),
    (b'[{"key":"odd","value":6,"options":{"concurrency":"last-write","consistency":"eventual"}}]', b"6"),
]


@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize(("body", "value"), ODD_BODIES)
def test_odd_bodies_are_read(port: int, method: str, body: bytes, value: bytes | None) -> None:
    check(ask(port, method, STORE, body), 204, None)
    if value is not None:
        assert ask(port, "GET", STORE + "/odd").body == value


MALFORMED = [
    (b"", "unexpected end of JSON input"),
    (b"[", Prefix("")),
    (b"{}", Prefix("")),
    (b"1", Prefix("")),
    (b"[1]", Prefix("item 0")),
    (b'[{"key":1}]', Prefix("item 0.key")),
    (b'[{"key":"a","metadata":{"ttlInSeconds":1}}]', Prefix("item 0.metadata")),
    (b'[{"key":"a","etag":1}]', Prefix("item 0.etag")),
    (b'[{"key":"a","value":NaN}]', Prefix("")),
    (b'[{"key":"a","value":01}]', Prefix("")),
    (b'\xef\xbb\xbf[{"key":"a","value":1}]', Prefix("")),
    ('[{"key":"a","value":1}]'.encode("utf-16"), Prefix("")),
    (b'[{"value":1}]', '"key" is a required field'),
    (b'[{"key":"","value":1}]', '"key" is a required field'),
    (b"[" * 100_000, Prefix("")),
]


@pytest.mark.parametrize(("body", "message"), MALFORMED, ids=[str(row[0][:40]) for row in MALFORMED])
def test_bad_saves_are_malformed(port: int, body: bytes, message: str) -> None:
    check(ask(port, "POST", STORE, body), 400, plain("ERR_MALFORMED_REQUEST", message))


PATHS = [
    ("plain", "plain"),
    ("a%2Fb", "a/b"),
    ("a+b", "a b"),
    ("a%20b", "a b"),
    ("a%2Bb", "a+b"),
    ("%C3%A9", "é"),
    ("é", "é"),
    ("x%7Cy", "x|y"),
    ("bulk", "bulk"),
    ("transaction", "transaction"),
    ("%2e%2e", ".."),
    ("100%", "100%"),
]


@pytest.mark.parametrize(("segment", "key"), PATHS)
def test_keys_are_decoded_once(port: int, segment: str, key: str) -> None:
    put(port, key, segment)
    assert ask(port, "GET", f"{STORE}/{segment}").body == json.dumps(segment).encode()
    check(ask(port, "DELETE", f"{STORE}/{segment}"), 204, None)
    check(ask(port, "GET", f"{STORE}/{segment}"), 204, None)


def test_paths_are_cleaned_first(port: int) -> None:
    put(port, "clean", 7)
    for path in ("//v1.0//state/statestore/clean", "/v1.0/x/../state/./statestore/clean/", STORE + "/a/../clean?x=1"):
        assert ask(port, "GET", path).body == b"7", path


@pytest.mark.parametrize(
    ("method", "target", "body"),
    [
        ("GET", STORE + "/a%7C%7Cb", None),
        ("GET", STORE + "/a||b", None),
        ("DELETE", STORE + "/a%7C%7Cb", None),
        ("POST", STORE, '[{"key":"fine","value":1},{"key":"a||b","value":1}]'),
        ("POST", BULK, '{"keys":["fine","a||b"]}'),
        ("POST", TRANSACTION, '{"operations":[{"operation":"upsert","request":{"key":"a||b","value":1}}]}'),
        ("POST", TRANSACTION, '{"operations":[{"operation":"delete","request":{"key":"a||b"}}]}'),
    ],
)
def test_separators_in_keys_are_illegal(port: int, method: str, target: str, body: str | None) -> None:
    field = "" if target == TRANSACTION else "a||b"
    check(
        ask(port, method, target, body),
        400,
        rich(
            "ERR_MALFORMED_REQUEST",
            ILLEGAL,
            violation(field, ILLEGAL),
            resource("state", "statestore"),
            info("DAPR_STATE_ILLEGAL_KEY", None),
        ),
    )


@pytest.mark.parametrize(
    ("method", "target", "body", "metadata"),
    [
        ("GET", "/v1.0/state/none/k", None, {"appID": "me"}),
        ("DELETE", "/v1.0/state/none/k", None, {"appID": "me"}),
        ("POST", "/v1.0/state/none", "not JSON", {"appID": "me"}),
        ("POST", "/v1.0/state/none/bulk", "not JSON", {"appID": "me"}),
        ("POST", "/v1.0/state/none/transaction", "not JSON", {"appID": "me"}),
        ("POST", "/v1.0-alpha1/state/none/query", "{}", None),
    ],
)
def test_unknown_stores_are_named(port: int, method: str, target: str, body: str | None, metadata: Any) -> None:
    check(
        ask(port, method, target, body),
        400,
        rich("ERR_STATE_STORE_NOT_FOUND", "state store none is not found", info("DAPR_STATE_NOT_FOUND", metadata)),
    )


# --- prefixes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("store", "stored"), [("statestore", "me||p"), ("named", "named||p"), ("spaced", "ns.me||p"), ("raw", "p")]
)
def test_prefixes_are_in_the_file(port: int, place: Path, store: str, stored: str) -> None:
    """All four components share one file."""
    put(port, "p", store, f"/v1.0/state/{store}")
    with closing(sqlite3.connect(place / "state.db")) as file:
        rows = file.execute("SELECT value, is_binary FROM state WHERE key = ?", (stored,)).fetchall()
    assert len(rows) == 1
    assert json.loads(base64.b64decode(rows[0][0]) if rows[0][1] else rows[0][0]) == store
    hits = ask(port, "POST", f"/v1.0/state/{store}/bulk", '{"keys":["p"]}').json()
    assert [(hit["key"], hit["data"]) for hit in hits] == [("p", store)]


# --- etags, options, expiry -------------------------------------------------------------------------------------------


def save_error(message: str) -> dict[str, Any]:
    return plain("ERR_STATE_SAVE", Prefix("failed saving state in state store statestore: " + message))


def test_etags_guard_writes(port: int) -> None:
    put(port, "guarded")
    first = etag(port, "guarded")
    for wrong in ("wrong", f'"{first}"', first.upper()):
        check(put(port, "guarded", 2, etag=wrong), 409, save_error(MISMATCH))
    check(put(port, "guarded", 2, etag=first), 204, None)
    assert etag(port, "guarded") != first
    check(put(port, "guarded", 3, etag=first), 409, save_error(MISMATCH))
    check(put(port, "nothing-there", 1, etag=first), 409, save_error(MISMATCH))
    assert ask(port, "GET", STORE + "/guarded").body == b"2"


def test_last_write_still_looks_at_the_etag(port: int) -> None:
    put(port, "last")
    reply = put(port, "last", 2, etag="wrong", options={"concurrency": "last-write"})
    check(reply, 409, save_error(MISMATCH))


def test_first_write_needs_an_absent_key(port: int) -> None:
    first = {"concurrency": "first-write"}
    check(put(port, "first", 1, options=first), 204, None)
    check(put(port, "first", 2, options=first), 409, save_error(MISMATCH))
    check(put(port, "first", 2, options=first, etag=""), 409, save_error(MISMATCH))
    check(put(port, "first", 3, options=first, etag=etag(port, "first")), 204, None)


DELETES: list[tuple[str, str, Headers, int, Any]] = [
    ("absent", "", (), 204, None),
    ("absent", "", (("If-Match", ""),), 204, None),
    ("absent", "", (("If-Match", "x"),), 409, plain("ERR_STATE_DELETE", Prefix("failed deleting state with key ab"))),
    ("there", "?concurrency=x", (), 500, plain("ERR_STATE_DELETE", Prefix("failed deleting state with key there: "))),
    ("there", "?consistency=x", (), 500, plain("ERR_STATE_DELETE", Prefix("failed deleting state with key there: "))),
    ("there", "", (("If-Match", "wrong"),), 409, plain("ERR_STATE_DELETE", Prefix("failed deleting state with key "))),
    ("there", "?concurrency=first-write&consistency=strong&metadata.a=b", (), 204, None),
]


@pytest.mark.parametrize(("key", "query", "headers", "status", "expected"), DELETES)
def test_deletes_answer(port: int, key: str, query: str, headers: Headers, status: int, expected: Any) -> None:
    put(port, "there")
    check(ask(port, "DELETE", f"{STORE}/{key}{query}", None, headers), status, expected)


def test_the_right_etag_deletes(port: int) -> None:
    put(port, "mine")
    headers = (("if-match", etag(port, "mine")),)
    check(ask(port, "DELETE", STORE + "/mine", None, headers), 204, None)
    check(ask(port, "GET", STORE + "/mine"), 204, None)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"options": {"concurrency": "first"}}, Prefix("unrecognized concurrency model")),
        ({"options": {"consistency": "STRONG"}}, Prefix("unrecognized consistency model")),
        ({"metadata": {"ttlInSeconds": "x"}}, Prefix("incorrect value for metadata 'ttlInSeconds'")),
        ({"metadata": {"ttlInSeconds": "10s"}}, Prefix("incorrect value for metadata 'ttlInSeconds'")),
        ({"metadata": {"ttlInSeconds": "1.5"}}, Prefix("incorrect value for metadata 'ttlInSeconds'")),
        ({"metadata": {"ttlInSeconds": "-2"}}, Prefix("incorrect value for metadata 'ttlInSeconds'")),
    ],
)
def test_bad_options_fail_the_save(port: int, more: dict[str, Any], message: Prefix) -> None:
    start = "failed saving state in state store statestore: "
    check(put(port, "bad", 1, **more), 500, plain("ERR_STATE_SAVE", Prefix(start + str(message))))
    check(ask(port, "GET", STORE + "/bad"), 204, None)


@pytest.mark.parametrize(
    ("text", "expires"), [("1000", True), ("+1000", True), ("0", False), ("-1", False), ("", False)]
)
def test_expiry_is_told(port: int, text: str, expires: bool) -> None:
    check(put(port, "ttl", 1, metadata={"ttlInSeconds": text}), 204, None)
    told = ask(port, "GET", STORE + "/ttl").headers.get("metadata.ttlexpiretime", "")
    assert (len(told), told[-1:]) == ((20, "Z") if expires else (0, ""))
    bulk = ask(port, "POST", BULK, '{"keys":["ttl"]}').json()[0]
    assert bulk.get("metadata") == ({"ttlExpireTime": told} if expires else None)
    check(put(port, "ttl", 2), 204, None)
    assert "metadata.ttlexpiretime" not in ask(port, "GET", STORE + "/ttl").headers


def test_query_metadata_override_the_items(port: int) -> None:
    body = '[{"key":"over","value":1,"metadata":{"ttlInSeconds":"nonsense"}}]'
    check(ask(port, "POST", STORE + "?metadata.ttlInSeconds=50&metadata.ttlInSeconds=bad", body), 204, None)
    assert "metadata.ttlexpiretime" in ask(port, "GET", STORE + "/over").headers
    assert ask(port, "POST", STORE + "?Metadata.ttlInSeconds=50", body).status == 500


def test_some_items_may_be_saved(port: int) -> None:
    body = '[{"key":"some1","value":1},{"key":"some2","value":1,"etag":"x"},{"key":"some3","value":1}]'
    check(ask(port, "POST", STORE, body), 409, save_error(MISMATCH))
    stored = [ask(port, "GET", f"{STORE}/some{number}").status for number in (1, 2, 3)]
    assert stored == [200, 204, 200]


# --- bulk get ---------------------------------------------------------------------------------------------------------


def test_bulk_answers_every_key(port: int) -> None:
    put(port, "b1", {"x": 1})
    body = '{"keys":["missing","b1","b1"],"parallelism":-1,"metadata":{}} trailing'
    reply = ask(port, "PUT", BULK, body)
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    found = sorted(reply.json(), key=lambda hit: str(hit["key"]))
    hit = {"key": "b1", "data": {"x": 1}, "etag": etag(port, "b1")}
    assert [one for one in found if one["key"] == "missing"] == [{"key": "missing"}]
    assert hit in found


@pytest.mark.parametrize("body", ["{}", "null", '{"keys":[]}', '{"KEYS":null}'])
def test_no_keys_are_an_empty_answer(port: int, body: str) -> None:
    check(ask(port, "POST", BULK, body), 200, [])


@pytest.mark.parametrize("body", ["", "[]", "{", '{"keys":"a"}', '{"keys":[1]}', '{"keys":["a"],"parallelism":"1"}'])
@pytest.mark.parametrize("target", [BULK])
def test_bad_bulk_bodies_are_malformed(port: int, target: str, body: str) -> None:
    message = Prefix("failed deserializing HTTP body: ")
    check(ask(port, "POST", target, body), 400, plain("ERR_MALFORMED_REQUEST", message))


# --- transactions -----------------------------------------------------------------------------------------------------

STALE_DELETE = '{"operation":"delete","request":{"key":"t1","etag":"wrong"}}'
TRANSACTIONS: list[tuple[str, int, Any]] = [
    ("{}", 204, None),
    ('{"operations":[]}', 204, None),
    ('{"operations":null,"metadata":{"a":"b"}}', 204, None),
    ('{"OPERATIONS":[{"Operation":"upsert","Request":{"Key":"t1","Value":1}}]}', 204, None),
    ('{"operations":[{"operation":"upsert","request":{"key":"","value":1}}]}', 204, None),
    ('{"operations":[{"operation":"delete","request":{"key":"nothing"}}]}', 204, None),
    (
        '{"operations":[{"operation":"UPSERT","request":{"key":"t1"}}]}',
        400,
        plain("ERR_NOT_SUPPORTED_STATE_OPERATION", "operation type UPSERT not supported"),
    ),
    (
        f'{{"operations":[{{"operation":"upsert","request":{{"key":"t2"}}}},{STALE_DELETE}]}}',
        500,
        plain("ERR_STATE_TRANSACTION", Prefix("error while executing state transaction: " + MISMATCH)),
    ),
    (
        '{"operations":[{"operation":"upsert","request":{"key":"t2","value":1,"options":{"concurrency":"x"}}}]}',
        500,
        plain("ERR_STATE_TRANSACTION", Prefix("error while executing state transaction: unrecognized concurrency")),
    ),
    *(
        (body, 400, plain("ERR_MALFORMED_REQUEST", Prefix("failed deserializing HTTP body: ")))
        for body in (
            "",
            "[]",
            '{"operations":{}}',
            '{"operations":[{"operation":1}]}',
            '{"operations":[{"operation":"upsert","request":{"key":1}}]}',
            '{"operations":[{"operation":"upsert","request":[]}]}',
        )
    ),
]


@pytest.mark.parametrize(("body", "status", "expected"), TRANSACTIONS, ids=[row[0][:60] for row in TRANSACTIONS])
def test_transactions_answer(port: int, body: str, status: int, expected: Any) -> None:
    check(ask(port, "POST", TRANSACTION, body), status, expected)
    check(ask(port, "GET", STORE + "/t2"), 204, None)


def test_query_metadata_reach_the_operations(port: int) -> None:
    body = '{"operations":[{"operation":"upsert","request":{"key":"t3","value":1}}],"metadata":{"ttlInSeconds":"9"}}'
    check(ask(port, "POST", TRANSACTION, body), 204, None)
    assert "metadata.ttlexpiretime" not in ask(port, "GET", STORE + "/t3").headers
    check(ask(port, "PUT", TRANSACTION + "?metadata.ttlInSeconds=9", body), 204, None)
    assert "metadata.ttlexpiretime" in ask(port, "GET", STORE + "/t3").headers


# --- query ------------------------------------------------------------------------------------------------------------


def query_error(store: str, message: str) -> dict[str, Any]:
    text = f"state store {store} query failed: {message}"
    return rich("ERR_STATE_QUERY", Prefix(text), resource("state", store), info("DAPR_STATE_QUERY_FAILED", None))


@pytest.fixture(scope="module")
def people(port: int) -> None:
    for name, age in (("ann", 30), ("ben", 40), ("cid", 50)):
        put(port, f"q-{name}", {"who": {"name": name}, "age": age, "kind": "q"})


QUERIES: list[tuple[str, list[str]]] = [
    ('{"EQ":{"kind":"q"}}', ["q-ann", "q-ben", "q-cid"]),
    ('{"AND":[{"EQ":{"kind":"q"}},{"NEQ":{"who.name":"ann"}}]}', ["q-ben", "q-cid"]),
    ('{"AND":[{"EQ":{"kind":"q"}},{"GT":{"age":30}},{"LTE":{"age":40}}]}', ["q-ben"]),
    ('{"AND":[{"GTE":{"age":30}},{"LT":{"age":40}}]}', ["q-ann"]),
    ('{"OR":[{"EQ":{"who.name":"cid"}},{"EQ":{"who.name":"ann"}}]}', ["q-ann", "q-cid"]),
    ('{"IN":{"who.name":["ben","cid","zoe"]}}', ["q-ben", "q-cid"]),
    ('{"EQ":{"kind":"nothing"}}', []),
]


@pytest.mark.usefixtures("people")
@pytest.mark.parametrize(("where", "keys"), QUERIES)
@pytest.mark.parametrize("order", ["ASC", "DESC"])
def test_queries_find(port: int, where: str, keys: list[str], order: str) -> None:
    reply = ask(port, "POST", QUERY, f'{{"filter":{where},"sort":[{{"key":"age","order":"{order}"}}]}}')
    if not keys:
        check(reply, 204, None)
        return
    document = reply.json()
    assert set(document) == {"results"}
    assert [hit["key"] for hit in document["results"]] == (keys if order == "ASC" else keys[::-1])
    assert {frozenset(hit) for hit in document["results"]} == {frozenset(("key", "data", "etag"))}


@pytest.mark.usefixtures("people")
def test_pages_follow_the_token(port: int) -> None:
    found, token = [], ""
    while True:
        page = {"limit": 2, **({"token": token} if token else {})}
        reply = ask(port, "PUT", QUERY, json.dumps({"filter": {"EQ": {"kind": "q"}}, "page": page}))
        if reply.status == 204:
            break
        found += [hit["key"] for hit in reply.json()["results"]]
        token = reply.json().get("token", "")
        if not token:
            break
    assert sorted(found) == ["q-ann", "q-ben", "q-cid"]


@pytest.mark.parametrize(
    "body",
    [
        "",
        "[",
        "[]",
        '{"filter":{"eq":{"a":1}}}',
        '{"filter":{"EQ":{"a":1},"IN":{"a":[1,2]}}}',
        '{"filter":{"AND":[{"EQ":{"a":1}}]}}',
        '{"filter":{"IN":{"a":1}}}',
        '{"filter":{"EQ":{"a":{"b":1}}}}',
        '{"sort":[{"key":"a","order":"up"}]}',
        '{"page":{"limit":"2"}}',
        '{"page":{"limit":2,"token":"not a token"}}',
        '{"filter":{"EQ":{"a":NaN}}}',
    ],
)
def test_bad_queries_fail(port: int, body: str) -> None:
    check(ask(port, "POST", QUERY, body), 500, query_error("statestore", ""))


def test_some_stores_have_no_query(port: int) -> None:
    check(
        ask(port, "POST", "/v1.0-alpha1/state/memory/query", "{}"),
        500,
        rich(
            "ERR_STATE_STORE_NOT_SUPPORTED",
            "state store does not support querying",
            resource("state", "memory"),
            info("DAPR_STATE_QUERYING_NOT_SUPPORTED", None),
        ),
    )


def test_sealed_values_are_not_searched(port: int) -> None:
    value = {"b": [1, "<"], "a": "x"}
    check(put(port, "secret", value, "/v1.0/state/sealed"), 204, None)
    assert ask(port, "GET", "/v1.0/state/sealed/secret").body == b'{"b":[1,"<"],"a":"x"}'
    check(
        ask(port, "POST", "/v1.0-alpha1/state/sealed/query", "{}"), 500, query_error("sealed", "cannot query encrypted")
    )


def test_capabilities_are_told(port: int) -> None:
    components = {item["name"]: item for item in ask(port, "GET", "/v1.0/metadata").json()["components"]}
    told = components["statestore"]["capabilities"]
    assert {"ETAG", "TRANSACTIONAL", "TTL", "KEYS_LIKE", "ACTOR"} <= set(told)
    assert "QUERY_API" not in components["memory"]["capabilities"]
    assert "capabilities" not in components["keys"]
