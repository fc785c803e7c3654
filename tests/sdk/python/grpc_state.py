"""The state API as DaprClient uses it over gRPC, sync and asyncio."""

from __future__ import annotations

import json
from typing import Any

from clients import AIO, at_once, done, outcome, run, tried
from dapr.clients.grpc._request import TransactionalStateOperation, TransactionOperationType
from dapr.clients.grpc._state import Concurrency, Consistency, StateItem, StateOptions
from lines import say

STORE = "statestore"
OWN = "aio" if AIO else "sync"


async def values(client: Any) -> None:
    kept = {"text": "grüße 🌍", "bytes": bytes(range(256)), "empty": "", "a key, with: marks": "x", "zeros": b"\0\0"}
    for key, value in kept.items():
        await done(client.save_state(STORE, key, value))
    same = []
    for key, value in kept.items():
        came = await done(client.get_state(STORE, key))
        same.append(came.data == (value.encode() if isinstance(value, str) else value) and came.etag != "")
    say("same", same)
    absent = await done(client.get_state(STORE, "absent"))
    say("absent", [absent.data.decode(), absent.etag])
    say("delete", await outcome(client.delete_state, STORE, "text"))
    say("delete.absent", await outcome(client.delete_state, STORE, "text"))
    say("deleted", (await done(client.get_state(STORE, "text"))).data.decode())


async def bulk(client: Any) -> None:
    items = [StateItem(f"bulk-{n}", str(n), metadata={"ttlInSeconds": "1000"}) for n in range(20)]
    await done(client.save_bulk_state(STORE, items))
    answer = await done(client.get_bulk_state(STORE, [*(f"bulk-{n}" for n in range(20)), "absent"], parallelism=4))
    say("bulk", sorted([item.key, item.data.decode(), item.etag != "", item.error] for item in answer.items)[:3])
    say("bulk.count", len(answer.items))
    say("bulk.absent", [[item.data.decode(), item.etag] for item in answer.items if item.key == "absent"])
    say("bulk.none", len((await done(client.get_bulk_state(STORE, []))).items))
    mixed = [StateItem("bulk-0", "lost", etag="999"), StateItem("bulk-1", "kept")]
    say("bulk.stale", await outcome(client.save_bulk_state, STORE, mixed))


async def etags(client: Any) -> None:
    await done(client.save_state(STORE, "e", "1"))
    old = (await done(client.get_state(STORE, "e"))).etag
    say("etag.right", await outcome(client.save_state, STORE, "e", "2", etag=old))
    say("etag.stale", await outcome(client.save_state, STORE, "e", "3", etag=old))
    say("etag.wrong", await outcome(client.save_state, STORE, "e", "3", etag="no etag of ours"))
    say("etag.empty", await outcome(client.save_state, STORE, "e empty", "1", etag=""))
    say("etag.delete.stale", await outcome(client.delete_state, STORE, "e", etag=old))
    say("etag.kept", (await done(client.get_state(STORE, "e"))).data.decode())
    now = (await done(client.get_state(STORE, "e"))).etag
    say("etag.delete.right", await outcome(client.delete_state, STORE, "e", etag=now))
    first = StateOptions(Consistency.strong, Concurrency.first_write)
    say("first.new", await outcome(client.save_state, STORE, "f", "1", options=first))
    say("first.again", await outcome(client.save_state, STORE, "f", "2", options=first))
    say("ttl.wrong", await outcome(client.save_state, STORE, "t", "1", state_metadata={"ttlInSeconds": "soon"}))


async def transactions(client: Any) -> None:
    upsert, delete = TransactionOperationType.upsert, TransactionOperationType.delete
    operation = TransactionalStateOperation
    await done(client.save_state(STORE, "t0", "gone soon"))
    several = [
        operation(operation_type=upsert, key="t1", data="one"),
        operation(operation_type=upsert, key="t2", data=b"two", metadata={"ttlInSeconds": "1000"}),
        operation(operation_type=delete, key="t0"),
    ]
    say("transaction", await outcome(client.execute_state_transaction, STORE, several))
    stale = [operation(key="t1", data="lost"), operation(key="t2", data="lost", etag="999")]
    say("transaction.stale", await outcome(client.execute_state_transaction, STORE, stale))
    say("transaction.none", await outcome(client.execute_state_transaction, STORE, []))
    say("transaction.kept", [(await done(client.get_state(STORE, key))).data.decode() for key in ("t0", "t1", "t2")])


async def queries(client: Any) -> None:
    people = [("Ann", 30, "Ulm"), ("Ben", 25, "Bonn"), ("Cem", 41, "Ulm"), ("Dan", 19, "Ulm")]
    items = [
        StateItem(
            f"{OWN}-{name}",
            json.dumps({"person": {"name": name, "age": age, "city": f"{OWN} {city}"}}),
            metadata={"contentType": "application/json"},
        )
        for name, age, city in people
    ]
    await done(client.save_bulk_state(STORE, items))
    of_ulm = {"EQ": {"person.city": f"{OWN} Ulm"}}
    query: dict[str, Any] = {"filter": of_ulm, "sort": [{"key": "person.age"}], "page": {"limit": 2}}
    found = await done(client.query_state(STORE, json.dumps(query)))
    say(
        "query", [[item.key.removeprefix(f"{OWN}-"), json.loads(item.value)["person"]["age"]] for item in found.results]
    )
    query["page"]["token"] = found.token
    rest = await done(client.query_state(STORE, json.dumps(query)))
    say("query.rest", [item.key.removeprefix(f"{OWN}-") for item in rest.results])
    say("query.wrong", await tried(client.query_state, STORE, json.dumps({"filter": {"LIKE": {"a": 1}}})))


async def refusals(client: Any) -> None:
    say("store.unknown.get", await tried(client.get_state, "nowhere", "k"))
    say("store.unknown.bulk", await tried(client.get_bulk_state, "nowhere", ["k"]))
    say("store.unknown.save", await tried(client.save_state, "nowhere", "k", "v"))
    say("store.unknown.delete", await tried(client.delete_state, "nowhere", "k"))
    say("store.unknown.transaction", await tried(client.execute_state_transaction, "nowhere", []))
    say("store.unknown.query", await tried(client.query_state, "nowhere", "{}"))
    say("key.illegal", await tried(client.save_state, STORE, "a||b", "v"))
    say("key.empty", await tried(client.save_state, STORE, "", "v"))
    say("large", await outcome(client.save_state, STORE, "large", b"x" * (4 * 1024 * 1024 - 100)))
    say("large.same", len((await done(client.get_state(STORE, "large"))).data))
    say("too.large", await outcome(client.save_state, STORE, "large", b"x" * (5 * 1024 * 1024)))


async def many(client: Any) -> None:
    saves = [lambda n=n: client.save_state(STORE, f"many-{n}", str(n)) for n in range(100)]
    await at_once(saves)
    answers = await at_once([lambda n=n: client.get_state(STORE, f"many-{n}") for n in range(100)])
    say("many", all(answer.data == str(n).encode() for n, answer in enumerate(answers)))


async def scenario(client: Any) -> None:
    for part in (values, bulk, etags, transactions, queries, refusals, many):
        await part(client)


run(scenario)
