"""The state routes over the real drivers: what an app sees is the same whichever keeps the bytes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.blocks.state import bind_store
from edge_runtime.components.registry import ComponentContext, resolve
from edge_runtime.store.database import open_databases
from tests.unit.api.http.test_state import Api, error
from tests.unit.blocks.state.stores import state_of

KEY = "00112233445566778899aabbccddeeff"


@pytest.fixture(params=["state.in-memory", "state.sqlite", "encrypted"])
async def api(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Api]:
    kind = "state.sqlite" if request.param == "encrypted" else request.param
    metadata = {"connectionString": str(tmp_path / "state.db")} if kind == "state.sqlite" else {}
    secrets: Any = {"secret_store": "vault", "key_names": {"primaryEncryptionKey": "k"}}
    own = {"primaryEncryptionKey": KEY} if request.param == "encrypted" else {}
    async with open_databases() as databases:
        context = ComponentContext("store", kind, "v1", metadata, "app", "", databases, str(tmp_path))
        async with resolve(kind, "v1")(context) as store:
            yield Api(state_of(bind_store("store", metadata | own, store, **secrets)))


async def save(api: Api, *items: dict[str, Any]) -> int:
    return (await api.call("SaveState", "store", body=json.dumps(items))).status


async def value(api: Api, key: str) -> tuple[bytes, str]:
    response = await api.call("GetState", "store", key)
    return response.body.data, (response.header(b"etag") or b"").decode()


@pytest.mark.parametrize(
    "text", ['{"b":9007199254740993,"a":0.10}', '"<text> é"', "[]", "null", "1E400", "true", '"\\u0000"']
)
async def test_value_survives(api: Api, text: str) -> None:
    body = f'[{{"key": "k", "value": {text}}}]'
    assert (await api.call("SaveState", "store", body=body)).status == 204
    assert (await value(api, "k"))[0].decode() == text


async def test_etag_guards_a_write(api: Api) -> None:
    assert await save(api, {"key": "k", "value": 1}) == 204
    _, etag = await value(api, "k")
    assert await save(api, {"key": "k", "value": 2, "etag": etag}) == 204
    assert await save(api, {"key": "k", "value": 3, "etag": etag}) == 409
    assert (await value(api, "k"))[0] == b"2"
    stale = await api.call("DeleteState", "store", "k", headers=((b"if-match", etag.encode()),))
    assert error(stale)[:2] == (409, "ERR_STATE_DELETE")


async def test_first_write_wins(api: Api) -> None:
    first = {"key": "k", "value": 1, "options": {"concurrency": "first-write"}}
    assert [await save(api, first), await save(api, first)] == [204, 409]


async def test_expiry_is_told_and_cleared(api: Api) -> None:
    await save(api, {"key": "k", "value": 1, "metadata": {"ttlInSeconds": "100"}})
    response = await api.call("GetState", "store", "k")
    assert response.header(b"metadata.ttlExpireTime") is not None
    await save(api, {"key": "k", "value": 1})
    response = await api.call("GetState", "store", "k")
    assert response.header(b"metadata.ttlExpireTime") is None


async def test_bulk_keeps_what_succeeded(api: Api) -> None:
    assert await save(api, {"key": "a", "value": 1}, {"key": "b", "value": 2, "etag": "stale"}) == 409
    response = await api.call("GetBulkState", "store", body='{"keys":["a","b"]}')
    found = {item["key"]: item.get("data") for item in json.loads(response.body.data)}
    assert found == {"a": 1, "b": None}


async def test_transaction_is_whole(api: Api) -> None:
    await save(api, {"key": "old", "value": 1})
    operations = [
        {"operation": "upsert", "request": {"key": "new", "value": {"n": 1}}},
        {"operation": "delete", "request": {"key": "old"}},
    ]
    response = await api.call("ExecuteStateTransaction", "store", body=json.dumps({"operations": operations}))
    assert response.status == 204
    assert ((await value(api, "new"))[0], (await value(api, "old"))[0]) == (b'{"n":1}', b"")
    operations[1] = {"operation": "upsert", "request": {"key": "new", "value": 2, "etag": "stale"}}
    operations[0] = {"operation": "delete", "request": {"key": "new"}}
    response = await api.call("ExecuteStateTransaction", "store", body=json.dumps({"operations": operations}))
    assert error(response)[:2] == (500, "ERR_STATE_TRANSACTION")
    assert (await value(api, "new"))[0] == b'{"n":1}'


async def test_removed_key_is_gone(api: Api) -> None:
    await save(api, {"key": "k", "value": 1})
    assert (await api.call("DeleteState", "store", "k")).status == 204
    assert (await api.call("GetState", "store", "k")).status == 204
