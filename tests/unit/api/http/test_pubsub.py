"""Publish and bulk publish over HTTP, through the face, byte for byte where the answer is documented."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from edge_runtime.api.http.face import Face, FaceSettings
from edge_runtime.api.http.pubsub import ROUTES
from edge_runtime.api.http.routes import Call, text_response
from edge_runtime.model.errors import BodyTooLarge, DriverError
from edge_runtime.model.http import Body, Header, Request, Response
from edge_runtime.observability.trace import Tracer
from tests.unit.blocks.pubsub.fakes import TRACE, FakeBroker, binding_of, publisher_of


async def fallback(call: Call) -> Response:
    return text_response("fallback", 404)


def face(broker: FakeBroker, component: dict[str, str] | None = None, **settings: Any) -> Face:
    blocks: Any = SimpleNamespace(publisher=publisher_of(binding_of(broker, component)))
    return Face(blocks, ROUTES, FaceSettings(**settings), Tracer(None), None, fallback)


async def post(to: Face, target: str, body: bytes | Body = b"", *headers: Header, method: str = "POST") -> Response:
    whole = body if isinstance(body, Body) else Body(body)
    return await to.handle(Request(method, target.encode(), headers, whole))


def document(response: Response) -> Any:
    return json.loads(response.body.data)


@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_a_message_is_published(method: str) -> None:
    broker = FakeBroker()
    headers = ((b"content-type", b"application/json"), (b"traceparent", TRACE.encode()))
    response = await post(face(broker), "/v1.0/publish/pubsub/a/b%2Fc", b'{"n":1}', *headers, method=method)
    assert (response.status, response.body.data, response.header(b"content-type")) == (204, b"", None)
    [(topic, data, metadata)] = broker.published
    assert (topic, metadata) == ("a/b/c", {})
    event = json.loads(data)
    assert (event["data"], event["traceparent"], event["topic"]) == ({"n": 1}, TRACE, "a/b/c")


async def test_metadata_come_from_the_query() -> None:
    broker = FakeBroker()
    target = "/v1.0/publish/pubsub/t?metadata.rawPayload=true&metadata.key=a+b&other=x"
    assert (await post(face(broker), target, b"\xff")).status == 204
    assert broker.published == [("t", b"\xff", {"rawPayload": "true", "key": "a b"})]


async def test_a_plain_body_is_text() -> None:
    broker = FakeBroker()
    await post(face(broker), "/v1.0/publish/pubsub/t", b"hi")
    event = json.loads(broker.published[0][1])
    assert (event["data"], event["datacontenttype"]) == ("hi", "text/plain")


async def test_an_unknown_component_is_404() -> None:
    response = await post(face(FakeBroker()), "/v1.0/publish/nosuch/t?metadata.a=b", b"x")
    assert response.status == 404
    assert document(response) == {
        "errorCode": "ERR_PUBSUB_NOT_FOUND",
        "message": "pubsub nosuch is not found",
        "details": [
            {
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": "DAPR_PUBSUB_NOT_FOUND",
                "domain": "dapr.io",
                "metadata": {"a": "b"},
            }
        ],
    }
    assert (await post(face(FakeBroker()), "/v1.0/publish/bulk/nosuch/t", b"[]")).status == 404


async def test_a_forbidden_topic_is_403() -> None:
    response = await post(face(FakeBroker(), {"allowedTopics": "a"}), "/v1.0/publish/pubsub/b", b"x")
    text = "topic b is not allowed for app id app"
    assert response.status == 403
    assert document(response) == {
        "errorCode": "ERR_PUBSUB_FORBIDDEN",
        "message": text,
        "details": [
            {
                "@type": "type.googleapis.com/google.rpc.ResourceInfo",
                "resource_type": "pubsub",
                "resource_name": "pubsub",
                "owner": "",
                "description": text,
            },
            {
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": "DAPR_PUBSUB_FORBIDDEN",
                "domain": "dapr.io",
                "metadata": {"topic": "b", "error": text},
            },
        ],
    }


@pytest.mark.parametrize(
    ("target", "headers", "status", "code"),
    [
        ("t?metadata.rawPayload=maybe", (), 400, "ERR_PUBSUB_REQUEST_METADATA"),
        ("t", ((b"content-type", b"application/cloudevents+json"),), 500, "ERR_PUBSUB_CLOUD_EVENTS_SER"),
        ("broken", (), 500, "ERR_PUBSUB_PUBLISH_MESSAGE"),
    ],
)
async def test_failures_have_their_codes(target: str, headers: tuple[Header, ...], status: int, code: str) -> None:
    broker = FakeBroker()
    broker.failing["broken"] = DriverError("away")
    response = await post(face(broker), f"/v1.0/publish/pubsub/{target}", b"x", *headers)
    assert (response.status, document(response)["errorCode"]) == (status, code)


async def test_a_path_without_topic_falls_back() -> None:
    assert (await post(face(FakeBroker()), "/v1.0/publish/pubsub")).status == 404


class Unread(Body):
    """A body that comes piece by piece and is too large."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    @property
    def buffered(self) -> bool:
        return False

    async def read(self, limit_bytes: int | None = None) -> bytes:
        self.reads += 1
        raise BodyTooLarge


@pytest.mark.parametrize("body", [Unread(), b"x" * 11])
async def test_a_large_body_is_refused(body: bytes | Body) -> None:
    small = face(FakeBroker(), body_limit_bytes=10)
    response = await post(small, "/v1.0/publish/pubsub/t", body)
    assert response.status == 500
    assert document(response)["errorCode"] == "ERR_PUBSUB_PUBLISH_MESSAGE"
    assert document(response)["message"] == "error when publishing to topic t in pubsub pubsub: stream too large"
    response = await post(small, "/v1.0/publish/bulk/pubsub/t", body)
    assert (response.status, document(response)["errorCode"]) == (400, "ERR_PUBSUB_EVENTS_SER")
    assert "stream too large" in document(response)["message"]


async def test_an_unknown_component_reads_no_body() -> None:
    body = Unread()
    assert (await post(face(FakeBroker()), "/v1.0/publish/nosuch/t", body)).status == 404
    assert body.reads == 0
    # Nor does a body that is too large hide it.
    small = face(FakeBroker(), body_limit_bytes=10)
    assert (await post(small, "/v1.0/publish/nosuch/t", b"x" * 11)).status == 404


# --- bulk -------------------------------------------------------------------------------------------------------------


def entries(*ids: str) -> bytes:
    return json.dumps(
        [{"entryId": one, "event": {"n": one}, "contentType": "application/json"} for one in ids]
    ).encode()


@pytest.mark.parametrize("version", ["v1.0", "v1.0-alpha1"])
async def test_many_messages_are_published(version: str) -> None:
    broker = FakeBroker("BULK_PUBSUB")
    response = await post(face(broker), f"/{version}/publish/bulk/pubsub/a/b", entries("1", "2"))
    assert (response.status, response.body.data) == (204, b"")
    assert [json.loads(entry.data)["data"] for entry in broker.bulk[0]] == [{"n": "1"}, {"n": "2"}]


async def test_a_component_named_bulk_keeps_short_topics() -> None:
    broker = FakeBroker()
    blocks: Any = SimpleNamespace(publisher=publisher_of(binding_of(broker)._replace(name="bulk")))
    named_bulk = Face(blocks, ROUTES, FaceSettings(), Tracer(None), None, fallback)
    assert (await post(named_bulk, "/v1.0/publish/bulk/t", b"x")).status == 204
    assert (await post(named_bulk, "/v1.0/publish/bulk/t/u", b"[]")).status == 404  # the component `t`


async def test_failed_entries_are_listed() -> None:
    broker = FakeBroker("BULK_PUBSUB")
    broker.failing["2"] = DriverError("too\nlong")
    response = await post(face(broker), "/v1.0/publish/bulk/pubsub/t", entries("1", "2"))
    assert response.status == 500
    assert response.body.data == (
        b'{"failedEntries":[{"entryId":"2","error":"too\\nlong"}],"errorCode":"ERR_PUBSUB_PUBLISH_MESSAGE"}'
    )
    assert response.header(b"content-type") == b"application/json"
    assert response.header(b"metadata.responseData") == response.body.data
    assert response.header(b"metadata.error") == b"error when publishing to topic t in pubsub pubsub: too long"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"{", "DAPR_PUBSUB_UNMARSHAL_EVENTS"),
        (entries("1", "1"), "DAPR_PUBSUB_MARSHAL_EVENTS"),
        (b'[{"entryId":"1","event":5,"contentType":"text/plain"}]', "DAPR_PUBSUB_MARSHAL_ENVELOPE"),
    ],
)
async def test_bad_entries_are_refused(body: bytes, reason: str) -> None:
    response = await post(face(FakeBroker()), "/v1.0/publish/bulk/pubsub/t", body)
    assert (response.status, document(response)["errorCode"]) == (400, "ERR_PUBSUB_EVENTS_SER")
    assert document(response)["details"][1]["reason"] == reason


async def test_a_broken_event_fails_the_request() -> None:
    body = b'[{"entryId":"1","event":5,"contentType":"application/cloudevents+json"}]'
    response = await post(face(FakeBroker()), "/v1.0/publish/bulk/pubsub/t", body)
    assert (response.status, document(response)["errorCode"]) == (500, "ERR_PUBSUB_CLOUD_EVENTS_SER")
