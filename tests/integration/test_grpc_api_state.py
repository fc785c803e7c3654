"""The state API of a running sidecar over gRPC, statement by statement: replies, codes, texts, details."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, Help, ResourceInfo

from edge_runtime.proto.dapr.proto.common.v1.common_pb2 import Etag, StateItem, StateOptions
from edge_runtime.proto.dapr.proto.runtime.v1 import state_pb2 as pb
from tests.support.app import App, Received
from tests.support.grpc_client import DaprClient
from tests.support.sidecar import Sidecar

pytestmark = pytest.mark.slow

STORES = ["statestore", "memory", "sealed"]
MISMATCH = "possible etag mismatch. error from state store"
JSON = {"contentType": "application/json"}
FIRST = StateOptions(concurrency=StateOptions.CONCURRENCY_FIRST_WRITE)
LAST = StateOptions(concurrency=StateOptions.CONCURRENCY_LAST_WRITE, consistency=StateOptions.CONSISTENCY_STRONG)
APP = {"appID": "me"}

RESOURCES = """
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: statestore}
spec: {type: state.sqlite, version: v1, metadata: [{name: connectionString, value: "state.db"}]}
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: memory}
spec: {type: state.in-memory, version: v1, metadata: [{name: keyPrefix, value: none}]}
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
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: bus}
spec: {type: pubsub.in-memory, version: v1}
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: told}
spec: {type: state.sqlite, version: v1, metadata: [
  {name: connectionString, value: "told.db"},
  {name: outboxPublishPubsub, value: bus}, {name: outboxPublishTopic, value: orders}]}
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: mute}
spec: {type: state.sqlite, version: v1, metadata: [
  {name: connectionString, value: "mute.db"},
  {name: outboxPublishPubsub, value: nobus}, {name: outboxPublishTopic, value: orders}]}
"""


class Setting(NamedTuple):
    client: DaprClient
    http: Sidecar
    app: App


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    place = tmp_path_factory.mktemp("state")
    resources = place / "resources"
    resources.mkdir()
    (resources / "all.yaml").write_text(RESOURCES)
    wanted = [{"pubsubname": "bus", "topic": "orders", "route": "/orders"}]

    def subscribe(_: Received) -> tuple[int, Any]:
        return 200, wanted

    with (
        App({"/dapr/subscribe": subscribe, "/orders": lambda _: (200, {"status": "SUCCESS"})}) as app,
        Sidecar(
            place / "node",
            *("--resources-path", str(resources)),
            app_id="me",
            app_port=app.port,
            environment={"STATE_KEY": "0f" * 32},
            directory=place,
        ) as sidecar,
        DaprClient(sidecar.grpc_port) as client,
    ):
        yield Setting(client, sidecar, app)


@pytest.fixture
def client(setting: Setting) -> DaprClient:
    return setting.client


def save(client: DaprClient, key: str, value: bytes = b"v", store: str = "statestore", **more: Any) -> None:
    item = StateItem(key=key, value=value, **more)
    client.reply("SaveState", pb.SaveStateRequest(store_name=store, states=[item]))


def get(client: DaprClient, key: str, store: str = "statestore") -> pb.GetStateResponse:
    reply: pb.GetStateResponse = client.reply("GetState", pb.GetStateRequest(store_name=store, key=key))
    return reply


# --- values -----------------------------------------------------------------------------------------------------------

VALUES = [b"", b"\x00\xff", b'"text"', b'{"a": 1}', b" 1 ", b"9007199254740993", "é".encode(), b"x" * 100_000]


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("value", VALUES, ids=[repr(value[:20]) for value in VALUES])
def test_values_come_back(client: DaprClient, store: str, value: bytes) -> None:
    save(client, "v", value, store)
    found = get(client, "v", store)
    assert found.data == value
    assert found.etag
    assert not found.metadata


NUMBERS = [
    (b"9007199254740993", b"9007199254740993"),
    (b"[ 18446744073709551616 , -9223372036854775809 ]", b"[18446744073709551616,-9223372036854775809]"),
    (b'{"b":0.10, "a":1e400}', b'{"b":0.10,"a":1e400}'),
]


@pytest.mark.parametrize(("written", "kept"), NUMBERS)
def test_numbers_are_exact(setting: Setting, written: bytes, kept: bytes) -> None:
    save(setting.client, "n", written, metadata=JSON)
    assert get(setting.client, "n").data == kept
    assert setting.http.http("GET", "/v1.0/state/statestore/n").body == kept
    body = b'[{"key":"n","value":' + written + b"}]"
    assert setting.http.http("POST", "/v1.0/state/statestore", body).status == 204
    assert get(setting.client, "n").data == kept


@pytest.mark.parametrize("store", STORES)
def test_a_missing_key_is_empty(client: DaprClient, store: str) -> None:
    assert get(client, "nothing", store) == pb.GetStateResponse()


@pytest.mark.parametrize("key", ["a/b", "é ", "", "x|y", "a" * 1000])
def test_keys_are_any_text(client: DaprClient, key: str) -> None:
    if key:
        save(client, key, b"1")
        assert get(client, key).data == b"1"
    else:
        assert get(client, key) == pb.GetStateResponse()


def test_expiry_is_told(client: DaprClient) -> None:
    save(client, "ttl", metadata={"ttlInSeconds": "1000"})
    told = get(client, "ttl").metadata["ttlExpireTime"]
    assert (len(told), told[-1]) == (20, "Z")
    request = pb.GetBulkStateRequest(store_name="statestore", keys=["ttl"])
    assert client.reply("GetBulkState", request).items[0].metadata == {"ttlExpireTime": told}
    save(client, "ttl", metadata={"ttlInSeconds": "-1"})
    assert not get(client, "ttl").metadata


@pytest.mark.parametrize("parallelism", [0, -1, 1, 100])
def test_bulk_answers_every_key(client: DaprClient, parallelism: int) -> None:
    save(client, "b1", b"\xff")
    keys = ["b1", "gone", "b1"]
    request = pb.GetBulkStateRequest(store_name="statestore", keys=keys, parallelism=parallelism)
    found = sorted(client.reply("GetBulkState", request).items, key=lambda item: str(item.key))
    hit = pb.BulkStateItem(key="b1", data=b"\xff", etag=get(client, "b1").etag)
    assert found[0] == hit
    assert pb.BulkStateItem(key="gone") in found
    assert client.reply("GetBulkState", pb.GetBulkStateRequest(store_name="statestore")) == pb.GetBulkStateResponse()


def test_json_can_be_queried(client: DaprClient) -> None:
    store = "statestore"
    save(client, "q1", b'{"kind":"grpc","n":1}', store, metadata=JSON)
    save(client, "q2", b'{"kind":"grpc","n":2}', store)  # bytes that are JSON are found as well
    save(client, "q3", b"\xff", store)
    query = {"filter": {"EQ": {"kind": "grpc"}}, "sort": [{"key": "n", "order": "DESC"}], "page": {"limit": 1}}
    request = pb.QueryStateRequest(store_name=store, query=json.dumps(query))
    page = client.reply("QueryStateAlpha1", request)
    assert [(hit.key, hit.data, hit.error) for hit in page.results] == [("q2", b'{"kind":"grpc","n":2}', "")]
    assert page.token
    nothing = pb.QueryStateRequest(store_name=store, query='{"filter":{"EQ":{"kind":"none"}}}')
    assert not client.reply("QueryStateAlpha1", nothing).results


# --- etags and options ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("store", STORES)
def test_etags_guard_writes(client: DaprClient, store: str) -> None:
    save(client, "guarded", b"1", store)
    first = get(client, "guarded", store).etag
    save(client, "guarded", b"2", store, etag=Etag(value=first))
    request = pb.SaveStateRequest(store_name=store, states=[StateItem(key="guarded", etag=Etag(value=first))])
    assert client.ask("SaveState", request).code == "ABORTED"
    delete = pb.DeleteStateRequest(store_name=store, key="guarded", etag=Etag(value=first))
    assert client.ask("DeleteState", delete).code == "ABORTED"
    save(client, "guarded", b"3", store, options=LAST, etag=Etag(value=""))
    delete.etag.value = get(client, "guarded", store).etag
    client.reply("DeleteState", delete)
    client.reply("DeleteState", pb.DeleteStateRequest(store_name=store, key="guarded"))


@pytest.mark.parametrize("store", STORES)
def test_first_write_needs_an_absent_key(client: DaprClient, store: str) -> None:
    client.reply("DeleteState", pb.DeleteStateRequest(store_name=store, key="first"))
    save(client, "first", b"1", store, options=FIRST)
    again = pb.SaveStateRequest(store_name=store, states=[StateItem(key="first", options=FIRST)])
    assert client.ask("SaveState", again).code == "ABORTED"
    again.states[0].options.concurrency = StateOptions.CONCURRENCY_UNSPECIFIED
    client.reply("SaveState", again)


def test_some_items_may_be_saved(client: DaprClient) -> None:
    items = [StateItem(key="some1"), StateItem(key="some2", etag=Etag(value="x")), StateItem(key="some3")]
    answered = client.ask("SaveState", pb.SaveStateRequest(store_name="statestore", states=items))
    assert (answered.code, answered.reason) == ("ABORTED", "ERR_STATE_SAVE")
    assert [bool(get(client, f"some{number}").etag) for number in (1, 2, 3)] == [True, False, True]


# --- transactions and the outbox --------------------------------------------------------------------------------------


def operation(kind: str, key: str = "t", value: bytes = b"", **more: Any) -> pb.TransactionalStateOperation:
    return pb.TransactionalStateOperation(operationType=kind, request=StateItem(key=key, value=value, **more))


@pytest.mark.parametrize("store", STORES)
def test_a_transaction_is_whole(client: DaprClient, store: str) -> None:
    request = pb.ExecuteStateTransactionRequest(
        storeName=store, operations=[operation("upsert", "t1", b"\xff"), operation("delete", "t2")], metadata={"a": "b"}
    )
    client.reply("ExecuteStateTransaction", request)
    assert get(client, "t1", store).data == b"\xff"
    request = pb.ExecuteStateTransactionRequest(
        storeName=store, operations=[operation("delete", "t1"), operation("upsert", "t3", etag=Etag(value="x"))]
    )
    answered = client.ask("ExecuteStateTransaction", request)
    assert (answered.code, answered.reason) == ("INTERNAL", "ERR_STATE_TRANSACTION")
    assert answered.message.startswith(f"error while executing state transaction: {MISMATCH}")
    assert get(client, "t1", store).data == b"\xff"
    client.reply("ExecuteStateTransaction", pb.ExecuteStateTransactionRequest(storeName=store))


def test_an_outbox_tells_of_it(setting: Setting) -> None:
    operations = [
        operation("upsert", "o1", b'{"n":9007199254740993}', metadata=JSON),
        operation("upsert", "o1", b"shown", metadata={"outbox.projection": "true"}),
    ]
    request = pb.ExecuteStateTransactionRequest(storeName="told", operations=operations)
    setting.client.reply("ExecuteStateTransaction", request)
    event = setting.app.next().json()
    assert (event["topic"], event["data"]) == ("orders", "shown")
    assert get(setting.client, "o1", "told").data == b'{"n":9007199254740993}'


def test_an_outbox_without_broker_fails(client: DaprClient) -> None:
    request = pb.ExecuteStateTransactionRequest(storeName="mute", operations=[operation("upsert", "o2", b"1")])
    answered = client.ask("ExecuteStateTransaction", request)
    assert (answered.code, answered.reason) == ("INTERNAL", "DAPR_PUBSUB_OUTBOX")
    assert answered.message.startswith("error while publishing outbox message: ")
    assert not get(client, "o2", "mute").etag


# --- every rpc, every error -------------------------------------------------------------------------------------------

ALL = {
    "GetState": lambda store, key: pb.GetStateRequest(store_name=store, key=key),
    "GetBulkState": lambda store, key: pb.GetBulkStateRequest(store_name=store, keys=["fine", key]),
    "SaveState": lambda store, key: pb.SaveStateRequest(store_name=store, states=[StateItem(key=key)]),
    "DeleteState": lambda store, key: pb.DeleteStateRequest(store_name=store, key=key),
    "DeleteBulkState": lambda store, key: pb.DeleteBulkStateRequest(store_name=store, states=[StateItem(key=key)]),
    "ExecuteStateTransaction": lambda store, key: pb.ExecuteStateTransactionRequest(
        storeName=store, operations=[operation("delete", key)]
    ),
}


@pytest.mark.parametrize("rpc", [*ALL, "QueryStateAlpha1"])
def test_unknown_stores_are_named(client: DaprClient, rpc: str) -> None:
    query = rpc == "QueryStateAlpha1"
    request = pb.QueryStateRequest(store_name="none") if query else ALL[rpc]("none", "a||b")
    answered = client.ask(rpc, request)
    assert (answered.code, answered.message) == ("INVALID_ARGUMENT", "state store none is not found")
    metadata = {} if query else APP
    assert answered.parts == [ErrorInfo(reason="DAPR_STATE_NOT_FOUND", domain="dapr.io", metadata=metadata)]


@pytest.mark.parametrize("rpc", ALL)
def test_separators_in_keys_are_illegal(client: DaprClient, rpc: str) -> None:
    answered = client.ask(rpc, ALL[rpc]("statestore", "a||b"))
    text = "input key/keyPrefix 'a||b' can't contain '||'"
    assert (answered.code, answered.message) == ("INVALID_ARGUMENT", text)
    assert answered.parts == [
        ResourceInfo(resource_type="state", resource_name="statestore"),
        BadRequest(field_violations=[BadRequest.FieldViolation(field="a||b", description=text)]),
        ErrorInfo(reason="DAPR_STATE_ILLEGAL_KEY", domain="dapr.io"),
    ]


SAVE = "failed saving state in state store statestore: "
STALE = Etag(value="stale")
BAD_TTL = {"ttlInSeconds": "x"}


def saved(**fields: Any) -> Message:
    return pb.SaveStateRequest(store_name="statestore", states=[StateItem(**fields)])


def bulk_deleted(**fields: Any) -> Message:
    return pb.DeleteBulkStateRequest(store_name="statestore", states=[StateItem(key="fine"), StateItem(**fields)])


def transacted(*operations: pb.TransactionalStateOperation) -> Message:
    return pb.ExecuteStateTransactionRequest(storeName="statestore", operations=operations)


ERRORS: list[tuple[str, Message, str, str, str]] = [
    ("SaveState", saved(), "INVALID_ARGUMENT", "ERR_STATE_SAVE", "state key cannot be empty"),
    ("SaveState", saved(key="k", etag=STALE), "ABORTED", "ERR_STATE_SAVE", SAVE + MISMATCH),
    ("SaveState", saved(key="k", metadata=BAD_TTL), "INTERNAL", "ERR_STATE_SAVE", SAVE + "incorrect value for "),
    ("SaveState", saved(key="k", value=b"{", metadata=JSON), "INVALID_ARGUMENT", "ERR_STATE_SAVE", SAVE),
    (
        "DeleteState",
        pb.DeleteStateRequest(store_name="statestore", key="k", etag=STALE),
        "ABORTED",
        "ERR_STATE_DELETE",
        f"failed deleting state with key k: {MISMATCH}",
    ),
    (
        "DeleteBulkState",
        bulk_deleted(key="k", etag=STALE),
        "ABORTED",
        "ERR_STATE_BULK_DELETE",
        f"failed deleting state in state store statestore: {MISMATCH}",
    ),
    (
        "ExecuteStateTransaction",
        transacted(operation("UPSERT")),
        "UNIMPLEMENTED",
        "ERR_NOT_SUPPORTED_STATE_OPERATION",
        "operation type UPSERT not supported",
    ),
    (
        "ExecuteStateTransaction",
        transacted(operation("upsert", metadata=BAD_TTL)),
        "INTERNAL",
        "ERR_STATE_TRANSACTION",
        "error while executing state transaction: incorrect value",
    ),
    (
        "QueryStateAlpha1",
        pb.QueryStateRequest(store_name="memory", query="{}"),
        "INTERNAL",
        "DAPR_STATE_QUERYING_NOT_SUPPORTED",
        "state store does not support querying",
    ),
    (
        "QueryStateAlpha1",
        pb.QueryStateRequest(store_name="statestore", query="{"),
        "INTERNAL",
        "DAPR_STATE_QUERY_FAILED",
        "state store statestore query failed: ",
    ),
    (
        "QueryStateAlpha1",
        pb.QueryStateRequest(store_name="sealed", query="{}"),
        "INTERNAL",
        "DAPR_STATE_QUERY_FAILED",
        "state store sealed query failed: ",
    ),
]


@pytest.mark.parametrize(("rpc", "request_", "code", "reason", "start"), ERRORS)
def test_errors_are_told(client: DaprClient, rpc: str, request_: Message, code: str, reason: str, start: str) -> None:
    answered = client.ask(rpc, request_)
    assert (answered.code, answered.reason) == (code, reason)
    assert answered.message.startswith(start)
    parts = answered.parts
    assert len(parts) == (2 if reason.startswith("DAPR_") else 1)
    assert not isinstance(parts[-1], Help)


def test_without_a_store_none_is_configured(tmp_path: Path) -> None:
    resources = tmp_path / "resources"
    resources.mkdir()
    (resources / "a.yaml").write_text(RESOURCES.split("---")[2])
    with (
        Sidecar(tmp_path / "node", "--resources-path", str(resources), app_id="me") as sidecar,
        DaprClient(sidecar.grpc_port) as client,
    ):
        for rpc, make in ALL.items():
            answered = client.ask(rpc, make("x", "k"))
            assert (answered.code, answered.message) == ("FAILED_PRECONDITION", "state store x is not configured"), rpc
            info = ErrorInfo(reason="DAPR_STATE_NOT_CONFIGURED", domain="dapr.io", metadata=APP)
            assert answered.parts == [info], rpc
