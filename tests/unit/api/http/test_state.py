"""The state routes, from request to response, over a store in memory."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from edge_runtime.api.errors import error_response
from edge_runtime.api.http.routes import Call
from edge_runtime.api.http.state import ROUTES
from edge_runtime.blocks.state import State
from edge_runtime.model.errors import BodyTooLarge, DriverError, EdgeError
from edge_runtime.model.http import Body, Header, Request, Response
from edge_runtime.model.ports import Compare, Item, QueryResult
from edge_runtime.model.trace import NO_TRACE
from edge_runtime.security.seal import Key, Seal
from tests.unit.blocks.state.stores import MapStore, bound, state_of

HANDLERS = {route.name: route.handler for route in ROUTES}


class Api:
    """Calls a handler as the face does, errors rendered."""

    def __init__(self, state: State) -> None:
        self.blocks: Any = SimpleNamespace(state=state)

    async def call(
        self,
        name: str,
        *params: str,
        body: str | bytes = b"",
        query: str = "",
        headers: tuple[Header, ...] = (),
        limit: int | None = None,
    ) -> Response:
        data = body.encode() if isinstance(body, str) else body
        request = Request("ANY", b"/", headers, Body(data))
        call = Call(self.blocks, request, params, "", query, NO_TRACE, limit)
        try:
            return await HANDLERS[name](call)
        except EdgeError as error:
            return error_response(error)


@pytest.fixture
def store() -> MapStore:
    return MapStore(["ETAG", "TRANSACTIONAL", "TTL", "QUERY_API"], transaction_max=5)


@pytest.fixture
def api(store: MapStore) -> Api:
    return Api(state_of(bound(store)))


def error(response: Response) -> tuple[int, str, str]:
    document = json.loads(response.body.data)
    return response.status, document["errorCode"], document["message"]


# --- get


async def test_get_gives_the_bytes(api: Api, store: MapStore) -> None:
    store.rows["app||k"] = Item(b'{"a": 1}', "7")
    response = await api.call("GetState", "store", "k")
    assert (response.status, response.body.data) == (200, b'{"a": 1}')
    assert list(response.headers) == [(b"content-type", b"application/json"), (b"etag", b"7")]


async def test_get_tells_expiry(api: Api, store: MapStore) -> None:
    store.rows["app||k"] = Item(b"1", "7", 1_900_000_000.9)
    response = await api.call("GetState", "store", "k")
    assert (b"metadata.ttlExpireTime", b"2030-03-17T17:46:40Z") in response.headers


async def test_absent_key_is_204(api: Api) -> None:
    response = await api.call("GetState", "store", "k", query="consistency=strong&metadata.a=b")
    assert (response.status, response.body.data, list(response.headers)) == (204, b"", [])


async def test_get_from_unknown_store(api: Api) -> None:
    response = await api.call("GetState", "none", "k")
    assert error(response) == (400, "ERR_STATE_STORE_NOT_FOUND", "state store none is not found")
    (detail,) = json.loads(response.body.data)["details"]
    assert (detail["reason"], detail["metadata"]) == ("DAPR_STATE_NOT_FOUND", {"appID": "app"})


async def test_illegal_key_is_rich(api: Api) -> None:
    response = await api.call("GetState", "store", "a||b")
    text = "api error: code = InvalidArgument desc = input key/keyPrefix 'a||b' can't contain '||'"
    assert error(response) == (400, "ERR_MALFORMED_REQUEST", text)
    kinds = [detail["@type"].rpartition(".")[2] for detail in json.loads(response.body.data)["details"]]
    assert kinds == ["BadRequest", "ResourceInfo", "ErrorInfo"]


# --- save


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        ('{ "b": 9007199254740993, "a": [ 0.10, 1e400 ] }', '{"b":9007199254740993,"a":[0.10,1e400]}'),
        ('"text"', '"text"'),
        ("null", "null"),
        ('"<é>"', '"<é>"'),
    ],
)
async def test_values_stay_exact(api: Api, value: str, stored: str) -> None:
    response = await api.call("SaveState", "store", body=f'[{{"key": "k", "value": {value}}}]')
    assert response.status == 204
    assert (await api.call("GetState", "store", "k")).body.data.decode() == stored


@pytest.mark.parametrize("plain", [True, False])
async def test_all_fields_are_read(api: Api, store: MapStore, plain: bool) -> None:
    item = {
        "key": "k",
        "value": 5,
        "etag": "",
        "metadata": {"ttlInSeconds": "9", "b": "own"},
        "options": {"concurrency": "first-write", "consistency": "eventual"},
        "contentType": "application/json",
    }
    if not plain:
        item = {name.upper(): value for name, value in item.items()} | {"more": 1, "metadata": item["metadata"]}
    response = await api.call("SaveState", "store", body=json.dumps([item]), query="metadata.b=query&metadata.c=3")
    assert response.status == 204
    (request,) = store.requests
    assert request.metadata == {"ttlInSeconds": "9", "b": "query", "c": "3"}
    assert (request.ttl_s, request.etag, request.first_write) == (9, None, True)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("body", "keys"),
    [
        ('[{"KEY":"a","Value":1}]', {"a": b"1"}),
        ('[{"key":"a"}]', {"a": b"null"}),
        ('[{"key":"a","value":1,"etag":null,"metadata":null,"options":null,"contentType":null}]', {"a": b"1"}),
        ('[{"key":"a","value":1,"unknown":[1,{}]}] and more', {"a": b"1"}),
        ('[{"key":"a","value":1}][]', {"a": b"1"}),
        ('[{"key":"a","value":"\\ud800"}]', {"a": b'"\\ufffd"'}),
        (b'[{"key":"a","value":"\xff"}]', {"a": '"�"'.encode()}),
        ('[{"key":"a","value":1},{"Key":"b","value":[ 2 ]}]', {"a": b"1", "b": b"[2]"}),
        ('[{"key":"a","value":1,"metadata":{"x":null}}]', {"a": b"1"}),
        ("[]", {}),
        ("null", {}),
    ],
)
async def test_odd_bodies_are_tolerated(api: Api, store: MapStore, body: str | bytes, keys: dict[str, bytes]) -> None:
    response = await api.call("SaveState", "store", body=body)
    assert response.status == 204
    assert {key.removeprefix("app||"): item.value for key, item in store.rows.items()} == keys


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("", "unexpected end of JSON input"),
        ("{", "Expecting property name"),
        ('{"key":"a"}', "Expected `array | null`, got `object`"),
        ("[1]", "item 0: expected an object, got 1"),
        ('[{"key":5}]', "item 0.key: Expected `str | null`, got `int`"),
        ('[{"key":"a"},{"key":"b","etag":5}]', "item 1.etag: Expected `str | null`, got `int`"),
        ('[{"key":"a","metadata":{"x":1}}]', "item 0.metadata: Expected `str | null`, got `int`"),
        ('[{"key":"a","options":"x"}]', 'item 0.options: expected an object, got "x"'),
        ('[{"key":"a","options":{"consistency":1}}]', "item 0.options.consistency: Expected"),
        ('[{"value":1}]', '"key" is a required field'),
        ('[{"key":"","value":1}]', '"key" is a required field'),
        ("[null]", '"key" is a required field'),
    ],
)
async def test_bad_bodies_are_malformed(api: Api, store: MapStore, body: str, text: str) -> None:
    status, code, message = error(await api.call("SaveState", "store", body=body))
    assert (status, code) == (400, "ERR_MALFORMED_REQUEST")
    assert message.startswith(text)
    assert not store.rows


async def test_large_body_is_malformed(api: Api) -> None:
    answers = {
        "SaveState": (400, "ERR_MALFORMED_REQUEST", str(BodyTooLarge())),
        "GetBulkState": (400, "ERR_MALFORMED_REQUEST", "failed deserializing HTTP body: stream too large"),
        "ExecuteStateTransaction": (400, "ERR_MALFORMED_REQUEST", "failed deserializing HTTP body: stream too large"),
        "QueryStateAlpha1": (400, "ERR_BODY_READ", "failed to read request body: stream too large"),
    }
    for name, answer in answers.items():
        assert error(await api.call(name, "store", body="[1,2,3]", limit=5)) == answer


async def test_unknown_store_comes_before_the_body(api: Api) -> None:
    for name in ("SaveState", "GetBulkState", "ExecuteStateTransaction"):
        assert error(await api.call(name, "none", body="nonsense"))[1] == "ERR_STATE_STORE_NOT_FOUND"


async def test_stale_etag_is_409(api: Api, store: MapStore) -> None:
    store.rows["app||k"] = Item(b"1", "7")
    response = await api.call("SaveState", "store", body='[{"key":"k","value":2,"etag":"6"}]')
    assert error(response)[:2] == (409, "ERR_STATE_SAVE")


# --- delete


async def test_delete_removes(api: Api, store: MapStore) -> None:
    store.rows["app||k"] = Item(b"1", "7")
    stale = await api.call("DeleteState", "store", "k", headers=((b"if-match", b"6"),))
    assert error(stale)[:2] == (409, "ERR_STATE_DELETE")
    query = "concurrency=first-write&consistency=strong&metadata.a=b"
    response = await api.call("DeleteState", "store", "k", query=query, headers=((b"if-match", b"7"),))
    assert response.status == 204
    assert (await api.call("DeleteState", "store", "k")).status == 204
    assert store.requests[1].metadata == {"a": "b"}
    assert not store.rows


# --- bulk get


async def test_bulk_answers_each_key(api: Api, store: MapStore) -> None:
    store.rows["app||a"] = Item(b'{"x": 12345678901234567890}', "1")
    store.rows["app||b"] = Item(b"2", "2", 1_900_000_000)
    response = await api.call("GetBulkState", "store", body='{"keys":["a","none","b"],"parallelism":2}')
    assert response.status == 200
    assert response.body.data == (
        b'[{"key":"a","data":{"x":12345678901234567890},"etag":"1"},{"key":"none"},'
        b'{"key":"b","data":2,"etag":"2","metadata":{"ttlExpireTime":"2030-03-17T17:46:40Z"}}]'
    )


async def test_foreign_values_do_not_empty_the_answer(api: Api, store: MapStore) -> None:
    store.rows["app||text"] = Item("no jsön".encode(), "1")
    store.rows["app||bytes"] = Item(b"\xff\x00", "2")
    response = await api.call("GetBulkState", "store", body='{"keys":["text","bytes"]}')
    assert json.loads(response.body.data) == [
        {"key": "text", "data": "no jsön", "etag": "1", "metadata": {"dataEncoding": "text"}},
        {"key": "bytes", "data": "/wA=", "etag": "2", "metadata": {"dataEncoding": "base64"}},
    ]


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        ('{"Keys":["a"],"x":1} more', [{"key": "a"}]),
        ('{"keys":["a"],"metadata":{"x":"y"}}', [{"key": "a"}]),
        ('{"keys":null,"parallelism":null}', []),
        ("{}", []),
        ("null", []),
    ],
)
async def test_odd_bulk_bodies_are_tolerated(api: Api, body: str, answer: list[Any]) -> None:
    response = await api.call("GetBulkState", "store", body=body)
    assert (response.status, json.loads(response.body.data)) == (200, answer)


@pytest.mark.parametrize("body", ["", "[]", '{"keys":"a"}', '{"keys":[1]}', '{"keys":["a"],"parallelism":"2"}'])
async def test_bad_bulk_bodies_are_malformed(api: Api, body: str) -> None:
    status, code, message = error(await api.call("GetBulkState", "store", body=body))
    assert (status, code) == (400, "ERR_MALFORMED_REQUEST")
    assert message.startswith("failed deserializing HTTP body: ")


async def test_broken_seal_is_its_items_error(store: MapStore) -> None:
    api = Api(state_of(bound(store, seal=Seal(Key("k", bytes(16))))))
    store.rows["app||a"] = Item(b"clear", "1")
    (hit,) = json.loads((await api.call("GetBulkState", "store", body='{"keys":["a"]}')).body.data)
    assert sorted(hit) == ["error", "key"]
    assert hit["error"].startswith("failed to decrypt")


async def test_bulk_driver_error(api: Api, store: MapStore) -> None:
    store.faults = [DriverError("gone")]
    response = await api.call("GetBulkState", "store", body='{"keys":["a"]}')
    assert error(response) == (500, "ERR_STATE_BULK_GET", "gone")


# --- transaction


async def test_transaction_is_carried_out(api: Api, store: MapStore) -> None:
    store.rows["app||gone"] = Item(b"1", "7")
    body = """{"operations": [
        {"operation": "upsert", "request": {"key": "a", "value": {"n": 1.0}, "metadata": {"x": "own"}}},
        {"operation": "delete", "request": {"key": "gone", "etag": "7"}}
    ], "metadata": {"partitionKey": "p"}}"""
    assert (await api.call("ExecuteStateTransaction", "store", body=body, query="metadata.x=query")).status == 204
    assert {key: item.value for key, item in store.rows.items()} == {"app||a": b'{"n":1.0}'}
    assert store.requests[0].metadata == {"x": "query"}


@pytest.mark.parametrize("body", ["{}", '{"operations":[]}', '{"operations":null}', "null"])
async def test_empty_transaction_is_204(api: Api, body: str) -> None:
    assert (await api.call("ExecuteStateTransaction", "store", body=body)).status == 204


async def test_odd_transaction_is_tolerated(api: Api, store: MapStore) -> None:
    body = '{"Operations":[{"Operation":"upsert","REQUEST":{"Key":"a","VALUE":[ 1 ]}}],"x":1} tail'
    assert (await api.call("ExecuteStateTransaction", "store", body=body)).status == 204
    assert store.rows["app||a"].value == b"[1]"


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        (
            '{"operations":[{"operation":"merge","request":{"key":"a"}}]}',
            (400, "ERR_NOT_SUPPORTED_STATE_OPERATION", "operation type merge not supported"),
        ),
        (
            '{"operations":[{"operation":"upsert","request":{"key":1}}]}',
            (
                400,
                "ERR_MALFORMED_REQUEST",
                "failed deserializing HTTP body: operation 0.request.key: Expected `str | null`, got `int`",
            ),
        ),
        (
            '{"operations":[{"operation":"upsert","request":{"key":"a","etag":"1"}}]}',
            (
                500,
                "ERR_STATE_TRANSACTION",
                "error while executing state transaction: possible etag mismatch. error from state store",
            ),
        ),
    ],
)
async def test_failed_transactions_tell_why(api: Api, body: str, answer: tuple[int, str, str]) -> None:
    assert error(await api.call("ExecuteStateTransaction", "store", body=body)) == answer


async def test_too_many_operations_are_counted(api: Api) -> None:
    body = json.dumps({"operations": [{"operation": "delete", "request": {"key": "a"}}] * 6})
    response = await api.call("ExecuteStateTransaction", "store", body=body)
    assert error(response)[:2] == (400, "ERR_STATE_STORE_TOO_MANY_TRANSACTIONS")
    metadata = json.loads(response.body.data)["details"][1]["metadata"]
    assert metadata == {"currentOpsTransaction": "6", "maxOpsPerTransaction": "5"}


async def test_transactions_need_support() -> None:
    api = Api(state_of(bound(MapStore([]))))
    response = await api.call("ExecuteStateTransaction", "store", body="nonsense")
    assert error(response) == (500, "ERR_STATE_STORE_NOT_SUPPORTED", "state store store doesn't support transactions")


# --- query


async def test_query_answers_hits(api: Api, store: MapStore) -> None:
    store.answer = QueryResult([("app||a", Item(b'{"x": 1}', "1")), ("app||b", Item(b"text", "2"))], "2")
    response = await api.call("QueryStateAlpha1", "store", body='{"filter":{"EQ":{"x":1}}}')
    assert json.loads(response.body.data) == {
        "results": [{"key": "a", "data": {"x": 1}, "etag": "1"}, {"key": "b", "data": "text", "etag": "2"}],
        "token": "2",
    }
    assert store.queries[0].filter == Compare("EQ", "x", 1)


async def test_last_page_has_no_token(api: Api, store: MapStore) -> None:
    store.answer = QueryResult([("app||a", None)])
    response = await api.call("QueryStateAlpha1", "store", body="{}")
    assert response.body.data == b'{"results":[{"key":"a"}]}'


async def test_query_without_hits_is_204(api: Api) -> None:
    assert (await api.call("QueryStateAlpha1", "store", body="{}")).status == 204


async def test_query_errors_are_rich(api: Api) -> None:
    response = await api.call("QueryStateAlpha1", "store", body="{")
    assert error(response)[:2] == (500, "ERR_STATE_QUERY")
    response = await Api(state_of(bound(MapStore()))).call("QueryStateAlpha1", "store", body="{}")
    assert error(response)[:2] == (500, "ERR_STATE_STORE_NOT_SUPPORTED")


def test_routes_cover_the_api() -> None:
    assert sorted((route.methods, route.path) for route in ROUTES) == sorted(
        [
            (("GET",), "v1.0/state/{store}/{key}"),
            (("POST", "PUT"), "v1.0/state/{store}"),
            (("DELETE",), "v1.0/state/{store}/{key}"),
            (("POST", "PUT"), "v1.0/state/{store}/bulk"),
            (("POST", "PUT"), "v1.0/state/{store}/transaction"),
            (("POST", "PUT"), "v1.0-alpha1/state/{store}/query"),
        ]
    )
