"""The state rpcs through the face, over a store in memory: values, options, and every documented error."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, Help, ResourceInfo
from grpclib.const import Status

from edge_runtime.api.grpc.face import GrpcFace
from edge_runtime.api.settings import FaceSettings
from edge_runtime.blocks.state import State
from edge_runtime.model.errors import DriverError, EtagInvalid
from edge_runtime.model.ports import Item, QueryResult
from edge_runtime.observability.trace import Tracer
from edge_runtime.proto.dapr.proto.common.v1.common_pb2 import Etag, StateItem, StateOptions
from edge_runtime.proto.dapr.proto.runtime.v1 import state_pb2 as pb
from edge_runtime.security.seal import Key, Seal
from tests.support.grpc_call import FakeCall, answer, reason, unpacked
from tests.unit.blocks.state.stores import MapStore, bound, state_of

MISMATCH = "possible etag mismatch. error from state store"
APP = {"appID": "app"}


@pytest.fixture
def store() -> MapStore:
    return MapStore(["ETAG", "TRANSACTIONAL", "TTL", "QUERY_API"], transaction_max=3)


async def ask(state: State | MapStore, rpc: str, request: Message) -> FakeCall:
    if isinstance(state, MapStore):
        state = state_of(bound(state))
    blocks: Any = SimpleNamespace(state=state)
    return await answer(GrpcFace(blocks, FaceSettings(), Tracer(None), None, None), FakeCall(rpc, request))


async def reply(state: State | MapStore, rpc: str, request: Message) -> Any:
    call = await ask(state, rpc, request)
    assert call.status is Status.OK, call.message
    return call.replies[0]


# --- get


async def test_get_gives_the_bytes(store: MapStore) -> None:
    store.rows["app||k"] = Item(b"\xff\0", "7")
    found = await reply(store, "GetState", pb.GetStateRequest(store_name="store", key="k", consistency=2))
    assert found == pb.GetStateResponse(data=b"\xff\0", etag="7")


async def test_get_tells_when_it_expires(store: MapStore) -> None:
    store.rows["app||k"] = Item(b"1", "7", 0.0)
    found = await reply(store, "GetState", pb.GetStateRequest(store_name="store", key="k"))
    assert dict(found.metadata) == {"ttlExpireTime": "1970-01-01T00:00:00Z"}


async def test_a_missing_key_is_empty(store: MapStore) -> None:
    assert await reply(store, "GetState", pb.GetStateRequest(store_name="store", key="k")) == pb.GetStateResponse()


async def test_bulk_get_has_every_key(store: MapStore) -> None:
    store.rows |= {"app||a": Item(b"1", "7"), "app||b": Item(b"2", "8", 0.0)}
    request = pb.GetBulkStateRequest(store_name="store", keys=["a", "b", "c"], parallelism=-1)
    found = await reply(store, "GetBulkState", request)
    assert list(found.items) == [
        pb.BulkStateItem(key="a", data=b"1", etag="7"),
        pb.BulkStateItem(key="b", data=b"2", etag="8", metadata={"ttlExpireTime": "1970-01-01T00:00:00Z"}),
        pb.BulkStateItem(key="c"),
    ]
    assert not (await reply(store, "GetBulkState", pb.GetBulkStateRequest(store_name="store"))).items


async def test_a_key_that_fails_says_so(store: MapStore) -> None:
    seal = Seal(Key("k", bytes(16)))
    store.rows |= {"app||a": Item(b"not sealed", "7"), "app||b": Item(seal.seal(b"x"), "8")}
    state = state_of(bound(store)._replace(seal=seal))
    found = await reply(state, "GetBulkState", pb.GetBulkStateRequest(store_name="store", keys=["a", "b"]))
    failed, passed = found.items
    assert (failed.key, failed.data, failed.etag) == ("a", b"", "")
    assert failed.error
    assert (passed.data, passed.error) == (b"x", "")


# --- save


@pytest.mark.parametrize(
    ("options", "first_write"),
    [
        (None, False),
        (StateOptions(), False),
        (StateOptions(concurrency=StateOptions.CONCURRENCY_LAST_WRITE, consistency=1), False),
        (StateOptions(concurrency=StateOptions.CONCURRENCY_FIRST_WRITE, consistency=2), True),
        (StateOptions(concurrency=7, consistency=-1), False),  # type: ignore[arg-type]
    ],
)
async def test_options_are_words(store: MapStore, options: StateOptions | None, first_write: bool) -> None:
    item = StateItem(key="k", value=b"v", options=options)
    await reply(store, "SaveState", pb.SaveStateRequest(store_name="store", states=[item]))
    [request] = store.requests
    assert getattr(request, "first_write", None) is first_write


async def test_saving_keeps_the_bytes(store: MapStore) -> None:
    items = [
        StateItem(key="raw", value=b' {"a": 1} '),
        StateItem(key="none"),
        StateItem(
            key="json", value=b' {"a": 9007199254740993, "b":0.10}', metadata={"contentType": "application/json"}
        ),
        StateItem(key="text", value=b"x ", metadata={"contentType": "text/plain", "ttlInSeconds": "5"}),
    ]
    await reply(store, "SaveState", pb.SaveStateRequest(store_name="store", states=items))
    values = {key: item.value for key, item in store.rows.items()}
    assert values == {
        "app||raw": b' {"a": 1} ',
        "app||none": b"",
        "app||json": b'{"a":9007199254740993,"b":0.10}',
        "app||text": b"x ",
    }
    assert store.rows["app||text"].expires_at is not None
    await reply(store, "SaveState", pb.SaveStateRequest(store_name="store"))


@pytest.mark.parametrize(("etag", "given"), [(None, None), (Etag(value="1"), "1")])
async def test_an_etag_is_given_by_its_message(store: MapStore, etag: Etag | None, given: str | None) -> None:
    store.rows["app||k"] = Item(b"0", "1")
    await reply(store, "SaveState", pb.SaveStateRequest(store_name="store", states=[StateItem(key="k", etag=etag)]))
    await reply(store, "DeleteState", pb.DeleteStateRequest(store_name="store", key="k", etag=etag and Etag(value="1")))
    assert [request.etag for request in store.requests] == [given, given]


# --- delete, transact, query


async def test_delete_takes_one_key(store: MapStore) -> None:
    store.rows["app||k"] = Item(b"0", "1")
    options = StateOptions(concurrency=1, consistency=2)
    request = pb.DeleteStateRequest(store_name="store", key="k", options=options, metadata={"a": "b"})
    await reply(store, "DeleteState", request)
    await reply(store, "DeleteState", pb.DeleteStateRequest(store_name="store", key="k"))
    assert not store.rows
    assert store.requests[0].metadata == {"a": "b"}


async def test_bulk_delete_takes_many(store: MapStore) -> None:
    store.rows |= {"app||a": Item(b"0", "1"), "app||b": Item(b"0", "1")}
    items = [StateItem(key="a", etag=Etag(value="1")), StateItem(key="b"), StateItem(key="c")]
    await reply(store, "DeleteBulkState", pb.DeleteBulkStateRequest(store_name="store", states=items))
    assert not store.rows
    await reply(store, "DeleteBulkState", pb.DeleteBulkStateRequest(store_name="store"))


def operation(kind: str, key: str = "k", value: bytes = b"", **fields: Any) -> pb.TransactionalStateOperation:
    return pb.TransactionalStateOperation(operationType=kind, request=StateItem(key=key, value=value, **fields))


async def test_a_transaction_is_in_order(store: MapStore) -> None:
    operations = [
        operation("upsert", "a", b" 1", metadata={"contentType": "application/json"}),
        operation("upsert", "b", b"\xff", options=StateOptions(concurrency=1)),
        operation("delete", "a"),
    ]
    request = pb.ExecuteStateTransactionRequest(storeName="store", operations=operations, metadata={"x": "y"})
    await reply(store, "ExecuteStateTransaction", request)
    assert {key: item.value for key, item in store.rows.items()} == {"app||b": b"\xff"}
    assert [request.key for request in store.requests] == ["app||a", "app||b", "app||a"]
    await reply(store, "ExecuteStateTransaction", pb.ExecuteStateTransactionRequest(storeName="store"))


async def test_a_query_gives_rows(store: MapStore) -> None:
    store.answer = QueryResult([("app||a", Item(b'{"n":1}', "7")), ("other||b", Item(b"2", "8"))], "next")
    request = pb.QueryStateRequest(store_name="store", query='{"filter":{"EQ":{"n":1}}}')
    found = await reply(store, "QueryStateAlpha1", request)
    rows = [pb.QueryStateItem(key="a", data=b'{"n":1}', etag="7"), pb.QueryStateItem(key="b", data=b"2", etag="8")]
    assert (list(found.results), found.token) == (rows, "next")
    store.answer = QueryResult(())
    assert await reply(store, "QueryStateAlpha1", request) == pb.QueryStateResponse()


# --- errors

ALL = ["GetState", "GetBulkState", "SaveState", "DeleteState", "DeleteBulkState", "ExecuteStateTransaction"]


def request_of(rpc: str, store: str = "store", key: str = "k", **fields: Any) -> Message:
    """A request of the rpc for one key; `fields` are its item's."""
    match rpc:
        case "GetState":
            return pb.GetStateRequest(store_name=store, key=key)
        case "GetBulkState":
            return pb.GetBulkStateRequest(store_name=store, keys=[key])
        case "SaveState":
            return pb.SaveStateRequest(store_name=store, states=[StateItem(key=key, **fields)])
        case "DeleteState":
            return pb.DeleteStateRequest(store_name=store, key=key, **fields)
        case "DeleteBulkState":
            return pb.DeleteBulkStateRequest(store_name=store, states=[StateItem(key=key, **fields)])
        case "QueryStateAlpha1":
            return pb.QueryStateRequest(store_name=store, query=fields.get("query", "{}"))
    return pb.ExecuteStateTransactionRequest(storeName=store, operations=[operation("upsert", key, **fields)])


@pytest.mark.parametrize("rpc", [*ALL, "QueryStateAlpha1"])
async def test_an_unknown_store_is_refused(rpc: str, store: MapStore) -> None:
    metadata = {} if rpc == "QueryStateAlpha1" else APP
    call = await ask(store, rpc, request_of(rpc, "x"))
    assert (call.status, call.message) == (Status.INVALID_ARGUMENT, "state store x is not found")
    assert unpacked(call.details) == [ErrorInfo(reason="DAPR_STATE_NOT_FOUND", domain="dapr.io", metadata=metadata)]
    call = await ask(state_of(), rpc, request_of(rpc, "x"))
    assert (call.status, call.message) == (Status.FAILED_PRECONDITION, "state store x is not configured")
    assert reason(call.details) == "DAPR_STATE_NOT_CONFIGURED"


@pytest.mark.parametrize("rpc", ALL)
async def test_an_illegal_key_is_refused(rpc: str, store: MapStore) -> None:
    call = await ask(store, rpc, request_of(rpc, key="a||b"))
    text = "input key/keyPrefix 'a||b' can't contain '||'"
    assert (call.status, call.message) == (Status.INVALID_ARGUMENT, text)
    resource, violations, info = unpacked(call.details)
    assert resource == ResourceInfo(resource_type="state", resource_name="store")
    assert violations == BadRequest(field_violations=[BadRequest.FieldViolation(field="a||b", description=text)])
    assert info == ErrorInfo(reason="DAPR_STATE_ILLEGAL_KEY", domain="dapr.io")


@pytest.mark.parametrize(
    ("rpc", "fields", "fault", "status", "why", "text"),
    [
        ("GetState", {}, DriverError("off"), "INTERNAL", "ERR_STATE_GET", "fail to get k from state store store: off"),
        (
            "SaveState",
            {},
            DriverError("off"),
            "INTERNAL",
            "ERR_STATE_SAVE",
            "failed saving state in state store store: off",
        ),
        (
            "SaveState",
            {"etag": Etag(value="9")},
            None,
            "ABORTED",
            "ERR_STATE_SAVE",
            f"failed saving state in state store store: {MISMATCH}",
        ),
        (
            "SaveState",
            {},
            EtagInvalid("x"),
            "INVALID_ARGUMENT",
            "ERR_STATE_SAVE",
            "failed saving state in state store store: invalid etag value: x",
        ),
        (
            "DeleteState",
            {},
            DriverError("off"),
            "INTERNAL",
            "ERR_STATE_DELETE",
            "failed deleting state with key k: off",
        ),
        (
            "DeleteState",
            {"etag": Etag(value="9")},
            None,
            "ABORTED",
            "ERR_STATE_DELETE",
            f"failed deleting state with key k: {MISMATCH}",
        ),
        (
            "DeleteState",
            {},
            EtagInvalid("x"),
            "INVALID_ARGUMENT",
            "ERR_STATE_DELETE",
            "failed deleting state with key k: invalid etag value: x",
        ),
        (
            "DeleteBulkState",
            {},
            DriverError("off"),
            "INTERNAL",
            "ERR_STATE_BULK_DELETE",
            "failed deleting state in state store store: k: off",
        ),
        (
            "DeleteBulkState",
            {"etag": Etag(value="9")},
            None,
            "ABORTED",
            "ERR_STATE_BULK_DELETE",
            f"failed deleting state in state store store: {MISMATCH}: k: ",
        ),
        (
            "ExecuteStateTransaction",
            {},
            DriverError("off"),
            "INTERNAL",
            "ERR_STATE_TRANSACTION",
            "error while executing state transaction: off",
        ),
        (
            "ExecuteStateTransaction",
            {"etag": Etag(value="9")},
            None,
            "INTERNAL",
            "ERR_STATE_TRANSACTION",
            f"error while executing state transaction: {MISMATCH}",
        ),
    ],
)
async def test_failures_have_their_codes(
    rpc: str, fields: dict[str, Any], fault: DriverError | None, status: str, why: str, text: str, store: MapStore
) -> None:
    store.faults = [fault]
    call = await ask(store, rpc, request_of(rpc, **fields))
    assert (call.status, call.message) == (Status[status], text)
    assert unpacked(call.details) == [ErrorInfo(reason=why, domain="dapr.io")]


async def test_an_empty_key_cannot_be_saved(store: MapStore) -> None:
    request = pb.SaveStateRequest(store_name="store", states=[StateItem(key="a"), StateItem()])
    call = await ask(store, "SaveState", request)
    assert (call.status, call.message) == (Status.INVALID_ARGUMENT, "state key cannot be empty")
    assert reason(call.details) == "ERR_STATE_SAVE"
    assert not store.rows


@pytest.mark.parametrize("value", [b"", b"{", b"\xff", b'"\xff"', b"1 2"])
async def test_json_must_be_json(value: bytes, store: MapStore) -> None:
    item = StateItem(key="k", value=value, metadata={"contentType": "application/json"})
    call = await ask(store, "SaveState", pb.SaveStateRequest(store_name="store", states=[item]))
    assert (call.status, reason(call.details)) == (Status.INVALID_ARGUMENT, "ERR_STATE_SAVE")
    assert call.message.startswith("failed saving state in state store store: the value of key k is no JSON: ")


async def test_an_unknown_operation_is_unimplemented(store: MapStore) -> None:
    request = pb.ExecuteStateTransactionRequest(storeName="store", operations=[operation("merge")])
    call = await ask(store, "ExecuteStateTransaction", request)
    assert (call.status, call.message) == (Status.UNIMPLEMENTED, "operation type merge not supported")
    assert reason(call.details) == "ERR_NOT_SUPPORTED_STATE_OPERATION"


async def test_transactions_are_limited(store: MapStore) -> None:
    request = pb.ExecuteStateTransactionRequest(storeName="store", operations=[operation("delete")] * 4)
    call = await ask(store, "ExecuteStateTransaction", request)
    text = "the transaction contains 4 operations, which is more than what the state store supports: 3"
    assert (call.status, call.message) == (Status.INVALID_ARGUMENT, text)
    counts = {"currentOpsTransaction": "4", "maxOpsPerTransaction": "3"}
    assert unpacked(call.details) == [
        ResourceInfo(resource_type="state", resource_name="store"),
        ErrorInfo(reason="DAPR_STATE_TOO_MANY_TRANSACTIONS", domain="dapr.io", metadata=counts),
    ]


async def test_a_store_may_have_none() -> None:
    call = await ask(MapStore(["ETAG"]), "ExecuteStateTransaction", request_of("ExecuteStateTransaction"))
    assert (call.status, call.message) == (Status.UNIMPLEMENTED, "state store store doesn't support transactions")
    resource, help_, info = unpacked(call.details)
    assert resource == ResourceInfo(resource_type="state", resource_name="store")
    assert isinstance(help_, Help)
    assert info == ErrorInfo(reason="DAPR_STATE_TRANSACTIONS_NOT_SUPPORTED", domain="dapr.io")


@pytest.mark.parametrize(
    ("features", "query", "why", "text"),
    [
        (["ETAG"], "{}", "DAPR_STATE_QUERYING_NOT_SUPPORTED", "state store does not support querying"),
        (["QUERY_API"], "{", "DAPR_STATE_QUERY_FAILED", "state store store query failed: "),
    ],
)
async def test_queries_may_fail(features: list[str], query: str, why: str, text: str) -> None:
    call = await ask(MapStore(features), "QueryStateAlpha1", request_of("QueryStateAlpha1", query=query))
    assert call.status is Status.INTERNAL
    assert call.message.startswith(text)
    assert unpacked(call.details) == [
        ResourceInfo(resource_type="state", resource_name="store"),
        ErrorInfo(reason=why, domain="dapr.io"),
    ]
