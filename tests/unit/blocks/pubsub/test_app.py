"""Events as requests to an HTTP app, and what its answers mean."""

from __future__ import annotations

import json

import pytest

from edge_runtime.blocks.pubsub.app import (
    Batch,
    BulkEvent,
    DeliveryFailed,
    Event,
    HttpAppDelivery,
    Verdict,
    bulk_body,
    bulk_verdicts,
    single_verdict,
    target_of,
)
from edge_runtime.model.errors import BodyTooLarge, DriverError
from edge_runtime.model.http import Body, Request, Response
from edge_runtime.observability.trace import Tracer
from tests.unit.blocks.pubsub.fakes import TRACE, FakeApp


async def deliver(event: Event, path: str = "orders") -> Request:
    app = FakeApp()
    assert await HttpAppDelivery(app).deliver(event, path) is Verdict.SUCCESS
    [request] = app.requests
    return request


async def test_an_event_is_posted_as_it_is() -> None:
    request = await deliver(Event("pubsub", "t", b'{"id":"1"}'))
    assert (request.method, request.target, request.body.data) == ("POST", b"/orders", b'{"id":"1"}')
    assert list(request.headers) == [(b"content-type", b"application/cloudevents+json"), (b"pubsubname", b"pubsub")]


async def test_the_trace_goes_on() -> None:
    request = await deliver(Event("pubsub", "t", b"{}", {"traceparent": "other", "k": "v"}, TRACE, "a=b"))
    assert list(request.headers)[2:] == [(b"k", b"v"), (b"traceparent", TRACE.encode()), (b"tracestate", b"a=b")]
    plain = await deliver(Event("pubsub", "t", b"{}", {}, TRACE))
    assert list(plain.headers)[2:] == [(b"traceparent", TRACE.encode())]
    odd = await deliver(Event("pubsub", "t", b"{}", {}, "no trace\r\n"))
    assert len(odd.headers) == 2


async def test_a_tracer_makes_a_span_of_each_delivery() -> None:
    app = FakeApp()
    delivery = HttpAppDelivery(app, Tracer(1.0))
    await delivery.deliver(Event("p", "t", b"{}", {}, TRACE), "/x")
    [(_, traceparent)] = list(app.requests[0].headers)[2:]
    assert traceparent[:36] == TRACE[:36].encode()
    assert traceparent != TRACE.encode()


@pytest.mark.parametrize(
    ("key", "value", "header"),
    [
        ("Key", "v", (b"key", b"v")),
        ("content-length", "5", None),
        ("Content-Type", "x", None),
        ("transfer-encoding", "chunked", None),
        ("host", "x", None),
        ("trace-bin", "x", None),
        ("destination-app-id", "x", None),
        ("pubsubName", "other", None),
        ("named", "x", None),
        ("grpc-timeout", "1", (b"dapr-grpc-timeout", b"1")),
        (":method", "GET", (b"dapr-method", b"GET")),
        ("two words", "x", None),
        ("näme", "x", None),
        ("half\ud800", "x", None),
        ("expect", "100-continue", None),
        ("", "x", None),
        ("k", "a\r\nb: c\x00", (b"k", b"a  b: c")),
        ("k", "ü", (b"k", "ü".encode())),
    ],
)
async def test_metadata_become_headers(key: str, value: str, header: tuple[bytes, bytes] | None) -> None:
    request = await deliver(Event("p", "t", b"{}", {key: value, "Connection": "close, Named"}))
    assert list(request.headers)[2:] == ([] if header is None else [header])


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("orders", b"/orders"),
        ("/orders", b"/orders"),
        ("", b"/"),
        ("/a b?x=1&y=%20", b"/a%20b?x=1&y=%20"),
        ("/ü\r\n", b"/%C3%BC%0D%0A"),
    ],
)
def test_a_path_becomes_a_target(path: str, target: bytes) -> None:
    assert target_of(path) == target


@pytest.mark.parametrize(
    ("status", "body", "verdict"),
    [
        (200, b"", Verdict.SUCCESS),
        (204, b"", Verdict.SUCCESS),
        (299, b"text", Verdict.SUCCESS),
        (200, b"{}", Verdict.SUCCESS),
        (200, b"[]", Verdict.SUCCESS),
        (200, b'{"status":""}', Verdict.SUCCESS),
        (200, b'{"status":null}', Verdict.SUCCESS),
        (200, b'{"status":5}', Verdict.SUCCESS),
        (200, b'{"status":"SUCCESS","x":1}', Verdict.SUCCESS),
        (201, b'{"Status":"DROP"}', Verdict.DROP),
        (200, b'{"status":"RETRY"}', None),
        (200, b'{"status":"success"}', None),
        (404, b'{"status":"SUCCESS"}', Verdict.MISSING),
    ],
)
def test_an_answer_has_a_meaning(status: int, body: bytes, verdict: Verdict | None) -> None:
    if verdict is not None:
        assert single_verdict(status, body, "t") is verdict
        return
    with pytest.raises(DeliveryFailed) as caught:
        single_verdict(status, body, "t")
    assert caught.value.code is None


@pytest.mark.parametrize("status", [100, 302, 400, 403, 429, 500, 503])
def test_other_statuses_are_failures_with_a_code(status: int) -> None:
    with pytest.raises(DeliveryFailed) as caught:
        single_verdict(status, b"reason", "t")
    assert caught.value.code == status
    assert not caught.value.permanent
    with pytest.raises(DeliveryFailed) as caught:
        bulk_verdicts(status, b"reason", batch())
    assert caught.value.code == status


async def test_a_broken_connection_is_a_failure() -> None:
    with pytest.raises(DriverError):
        await HttpAppDelivery(FakeApp(DriverError("away"))).deliver(Event("p", "t", b"{}"), "/x")


class Endless(Body):
    """A body that is never whole; remembers that it was given back."""

    closed = False

    @property
    def buffered(self) -> bool:
        return False

    async def read(self, limit_bytes: int | None = None) -> bytes:
        raise BodyTooLarge

    async def aclose(self) -> None:
        self.closed = True


async def test_an_endless_answer_is_given_back() -> None:
    body = Endless()

    class App:
        async def send(self, request: Request) -> Response:
            return Response(200, (), body)

    assert await HttpAppDelivery(App()).deliver(Event("p", "t", b"{}"), "/x") is Verdict.SUCCESS
    assert body.closed


# --- batches ----------------------------------------------------------------------------------------------------------


def batch() -> Batch:
    return Batch(
        "b-1",
        "p",
        "t",
        [
            BulkEvent("1", b'{"id":12345678901234567890}', "application/cloudevents+json", {"k": "v"}),
            BulkEvent("2", b'"AAE="', "application/octet-stream"),
        ],
    )


def test_a_batch_byte_by_byte() -> None:
    assert bulk_body(batch()) == (
        b'{"id":"b-1","entries":['
        b'{"entryId":"1","event":{"id":12345678901234567890},"contentType":"application/cloudevents+json",'
        b'"metadata":{"k":"v"}},'
        b'{"entryId":"2","event":"AAE=","contentType":"application/octet-stream","metadata":null}],'
        b'"metadata":{"pubsubName":"p"},"topic":"t","pubsubname":"p","type":"com.dapr.event.sent.bulk"}'
    )


async def test_a_batch_is_posted_as_json() -> None:
    app = FakeApp((200, b'{"statuses":[{"entryId":"1","status":"SUCCESS"}]}'))
    assert await HttpAppDelivery(app).deliver_bulk(batch(), "bulk") == {"1": Verdict.SUCCESS}
    [request] = app.requests
    assert request.target == b"/bulk"
    assert list(request.headers) == [(b"content-type", b"application/json"), (b"pubsubname", b"p")]


@pytest.mark.parametrize(
    ("statuses", "verdicts"),
    [
        ([{"entryId": "1", "status": "SUCCESS"}, {"entryId": "2", "status": "DROP"}], {"1": "success", "2": "drop"}),
        ([{"entryid": "1", "Status": "SUCCESS"}], {"1": "success"}),
        ([{"entryId": "1", "status": "RETRY"}, {"entryId": "2", "status": ""}], {}),
        ([{"entryId": "1"}, {"status": "SUCCESS"}, {"entryId": "9", "status": "SUCCESS"}], {}),
        ([{"entryId": [], "status": "SUCCESS"}, {"entryId": "1", "status": {}}, 5], {}),
        ([], {}),
    ],
)
def test_silence_about_an_entry_is_failure(statuses: list[object], verdicts: dict[str, str]) -> None:
    found = bulk_verdicts(200, json.dumps({"statuses": statuses}).encode(), batch())
    assert {entry_id: verdict.value for entry_id, verdict in found.items()} == verdicts


@pytest.mark.parametrize("body", [b"", b"x", b"{}", b"[]", b'{"statuses": {}}'])
def test_an_unreadable_answer_fails_the_batch(body: bytes) -> None:
    with pytest.raises(DeliveryFailed):
        bulk_verdicts(200, body, batch())


def test_a_missing_bulk_route_is_said() -> None:
    assert bulk_verdicts(404, b"", batch()) == {"1": Verdict.MISSING, "2": Verdict.MISSING}
