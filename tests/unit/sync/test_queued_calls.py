"""Queued calls: what is kept of them, what is sent, and which answers are their outcome."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from edge_runtime.model.errors import BadMetadata, DriverError, StoreUnavailable, Unreachable
from edge_runtime.model.http import Body, Request, Response
from edge_runtime.model.ports import Entry, EntryId
from edge_runtime.sync.far_binding import FarBinding, QueuedBinding, is_exact_json
from edge_runtime.sync.link_answers import Refused
from edge_runtime.sync.outbox_route import Expired
from edge_runtime.sync.queued_calls import Denied, QueuedCalls

HTML = ((b"content-type", b"text/html; charset=utf-8"),)


class FarLink:
    """Answers as it is told; `gone` is what it says when it is asked whether the other end is there."""

    name = "cloud"

    def __init__(self, *answers: Response, grpc: str = "") -> None:
        self.answers = list(answers)
        self.sent: list[Request] = []
        self.limits: list[float] = []
        self.confirmed = 0
        self.gone = False
        self.settings: Any = type("Settings", (), {"resource": type("Resource", (), {"grpc": grpc})})

    async def pass_on(self, request: Request, limit_s: float = math.inf) -> Response:
        self.sent.append(request)
        self.limits.append(limit_s)
        return self.answers.pop(0)

    async def rpc(self, path: str, request: Any, reply_type: Any, metadata: Any, limit_s: float) -> Any:
        self.limits.append(limit_s)
        return SimpleNamespace(message=reply_type(data=b"123456789"))

    async def confirm(self) -> None:
        self.confirmed += 1
        if self.gone:
            raise Unreachable("link cloud: it is a portal")


class Kept:
    """A route of the outbox that keeps what it is given."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, Any, int]] = []

    async def append(self, key: str, payload: Any, *, priority: int | None = None, size_bytes: int = 0) -> EntryId:
        self.entries.append((key, payload, size_bytes))
        return EntryId("n", 1, len(self.entries))


def entry(payload: Mapping[str, Any]) -> Entry:
    return Entry(EntryId("n", 1, 7), "r", "k", payload, "", 1000.0, 0)


PAYLOAD = {"caller": "me", "app": "a", "method": "PUT", "path": b"/x?q", "headers": [[b"x-own", b"1"]], "body": b"body"}


def calls(link: Any, now: float = 1000.0) -> QueuedCalls:
    return QueuedCalls(link, "a", 8, lambda: now)


async def test_a_call_is_kept_whole() -> None:
    queued, kept = calls(FarLink()), Kept()
    request = Request("PUT", b"/x?q", [(b"x-own", b"1")], Body(b"body"))
    with pytest.raises(StoreUnavailable, match="the call cannot be kept"):
        await queued.take("me", "a", request, "", None)
    queued.route = kept  # type: ignore[assignment]
    assert await queued.take("me", "a", request, "", None) == "n-1-1"
    assert await queued.take("me", "a.prod", request, "key", 5.0) == "n-1-2"
    assert [(key, payload) for key, payload, _ in kept.entries] == [
        ("a", PAYLOAD),
        ("key", {**PAYLOAD, "app": "a.prod", "ttl": 5.0}),
    ]
    assert all(size > 100 for _, _, size in kept.entries)


async def test_it_goes_out_with_its_identity() -> None:
    link = FarLink(Response(201, ((b"x-a", b"1"),), Body(b"123456789")))
    said = await calls(link).send(entry(PAYLOAD))
    sent = link.sent[0]
    assert (sent.method, sent.target, sent.body.data) == ("PUT", b"/v1.0/invoke/a/method/x?q", b"body")
    assert sent.headers == [
        (b"x-own", b"1"),
        (b"edge-node", b"n"),
        (b"edge-epoch", b"1"),
        (b"edge-sequence", b"7"),
    ]
    assert (said["caller"], said["app"], said["method"], said["path"], said["enqueued"]) == (
        "me", "a", "PUT", b"/x?q", 1000.0,
    )  # fmt: skip
    assert said["answer"] == {"status": 201, "headers": [[b"x-a", b"1"]], "body": b"12345678", "truncated": True}


class Endless(Body):
    """`closed` when nobody wants more of it."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = False

    @property
    def buffered(self) -> bool:
        return False

    async def chunks(self) -> AsyncIterator[bytes]:
        while True:
            yield b"abc"

    async def aclose(self) -> None:
        self.closed = True


class Hanging(Endless):
    async def chunks(self) -> AsyncIterator[bytes]:
        yield b"a"
        await trio.sleep_forever()


async def test_of_a_stream_the_beginning_is_kept() -> None:
    endless = Endless()
    said = await calls(FarLink(Response(200, (), endless))).send(entry(PAYLOAD))
    assert (said["answer"]["body"], said["answer"]["truncated"], endless.closed) == (b"abcabcab", True, True)


def words(code: str) -> Body:
    return Body(json.dumps({"errorCode": code, "message": "m"}).encode())


@pytest.mark.parametrize(
    ("status", "body", "outcome"),
    [
        (200, Body(), None),
        (302, Body(), None),
        (401, Body(), None),
        (404, Body(b"[]"), None),
        (409, words("ERR_OF_THE_APP"), None),
        (403, words("ERR_DIRECT_INVOKE"), Denied),
        (500, words("ERR_DIRECT_INVOKE"), DriverError),
        (404, words("ERR_DIRECT_INVOKE"), DriverError),
        *((status, Body(), DriverError) for status in (407, 408, 425, 429, 500, 501, 502, 503, 504)),
    ],
)
async def test_which_answers_are_the_outcome(status: int, body: Body, outcome: type[DriverError] | None) -> None:
    queued = QueuedCalls(FarLink(Response(status, (), body)), "a", 0, lambda: 0.0)  # type: ignore[arg-type]
    if outcome is None:
        assert (await queued.send(entry(PAYLOAD)))["answer"]["status"] == status
        return
    with pytest.raises(DriverError, match=f"link cloud: answered {status}") as caught:
        await queued.send(entry(PAYLOAD))
    assert (type(caught.value), caught.value.permanent) == (outcome, outcome is Denied)


@pytest.mark.parametrize("answer", [Response(200, HTML), Response(302), Response(502), Response(407)])
async def test_a_portal_s_answer_is_none(answer: Response) -> None:
    link = FarLink(answer)
    link.gone = True
    with pytest.raises(Unreachable, match="portal"):
        await calls(link).send(entry(PAYLOAD))


async def test_time_passes_while_it_waits() -> None:
    with pytest.raises(Expired, match=r"its time to live, 5 s, passed"):
        await calls(FarLink(), 1005.0).send(entry({**PAYLOAD, "ttl": 5.0}))
    link = FarLink(Response(200))
    await calls(link, 1004.0).send(entry({**PAYLOAD, "ttl": 5.0}))


async def test_an_answer_is_not_waited_for_without_end(autojump_clock: object) -> None:
    link = FarLink(Response(200, (), Hanging()))
    with pytest.raises(DriverError, match="did not come to its end within 60 s"):
        await calls(link).send(entry({**PAYLOAD, "body": b"x" * 30_000}))
    assert link.limits == [90.0]


# --- bindings ---------------------------------------------------------------------------------------------------------


def binding(link: Any, now: float = 1000.0) -> QueuedBinding:
    return QueuedBinding(link, "mail", "smtp", 8, lambda: now)


BOUND = {"operation": "create", "data": b'{"n":0.10}', "metadata": {"to": "x"}}


async def test_a_far_binding_is_asked_over_http() -> None:
    shown = ((b"metadata.id", b"7"), (b"content-type", b"application/json"))
    link = FarLink(Response(200, shown, Body(b"{}")), Response(204), Response(500, shown, words("X")))
    far = FarBinding(link, "a b")  # type: ignore[arg-type]
    answer = await far.invoke("create", b'{"n":0.10}', {"to": "x", "dapr-api-token": "secret"})
    assert (answer.data, answer.metadata) == (b"{}", {"id": "7"})
    sent = link.sent[0]
    assert (sent.method, sent.target) == ("POST", b"/v1.0/bindings/a%20b")
    assert sent.body.data == b'{"operation":"create","data":{"n":0.10},"metadata":{"to":"x"}}'
    assert (await far.invoke("create", b"1", {})).data is None
    with pytest.raises(DriverError, match="link cloud: answered 500: m") as caught:
        await far.invoke("create", b"1", {})
    assert (caught.value.code, getattr(caught.value, "metadata", None)) == (500, {"id": "7"})


def test_only_exact_json_goes_as_json() -> None:
    assert [is_exact_json(data) for data in (b"1", b'{"a":1}', b'{"a": 1}', b"", b"\xff", b'"\xff"')] == [
        True, True, False, False, False, False,
    ]  # fmt: skip


async def test_other_data_need_grpc() -> None:
    with pytest.raises(BadMetadata, match=r"needs spec\.endpoint\.grpc"):
        await FarBinding(FarLink(), "b").invoke("create", b"\xff", {})  # type: ignore[arg-type]
    queued = binding(FarLink())
    queued.route = Kept()  # type: ignore[assignment]
    with pytest.raises(BadMetadata):
        await queued.invoke("create", b"\xff", {})


async def test_a_queued_binding_keeps_and_sends() -> None:
    link, kept = FarLink(Response(204)), Kept()
    queued = binding(link)
    queued.route = kept  # type: ignore[assignment]
    answer = await queued.invoke("create", b'{"n":0.10}', {"to": "x", "PartitionKey": "p"})
    assert (answer.data, answer.metadata) == (None, {"edge-tracking-id": "n-1-1"})
    await queued.invoke("create", b"1", {})
    assert [key for key, _, _ in kept.entries] == ["p", "mail"]
    said = await queued.send(entry(BOUND))
    assert json.loads(link.sent[0].body.data)["metadata"] == {
        "to": "x", "edgenode": "n", "edgeepoch": "1", "edgesequence": "7",
    }  # fmt: skip
    assert said == {"operation": "create", "enqueued": 1000.0, "answer": {"status": 204, "metadata": {}, "body": b""}}


async def test_a_long_answer_of_a_binding_is_one(autojump_clock: object) -> None:
    """It was made: to make it again because of what it said would do harm."""
    endless = Endless()
    said = await binding(FarLink(Response(200, (), endless))).send(entry(BOUND))
    assert (said["answer"]["body"], said["answer"]["truncated"], endless.closed) == (b"abcabcab", True, True)
    said = await binding(FarLink(Response(200, (), Body(b"123456789")))).send(entry(BOUND))
    assert (said["answer"]["body"], said["answer"]["truncated"]) == (b"12345678", True)


async def test_a_binding_s_answer_is_not_waited_for_without_end(autojump_clock: object) -> None:
    link = FarLink(Response(200, (), Hanging()))
    with pytest.raises(DriverError, match="did not come to its end within 60 s"):
        await binding(link).send(entry(BOUND))


async def test_other_data_have_as_long_to_be_answered() -> None:
    link = FarLink(grpc="http://far")
    said = await binding(link).send(entry({**BOUND, "data": b"\xff" * 30_000}))
    assert said["answer"] == {"status": 200, "metadata": {}, "body": b"12345678", "truncated": True}
    assert link.limits == [90.0]


@pytest.mark.parametrize(("status", "permanent"), [(400, True), (403, True), (429, False), (500, False)])
async def test_what_a_binding_refuses_for_good(status: int, permanent: bool) -> None:
    link = FarLink(Response(status, (), words("X")))
    with pytest.raises(DriverError) as caught:
        await binding(link).send(entry(BOUND))
    assert (isinstance(caught.value, Refused), caught.value.permanent, link.confirmed) == (permanent, permanent, 1)


async def test_what_is_left_of_the_time_goes_along() -> None:
    link = FarLink(Response(204))
    bound = {**BOUND, "metadata": {"ttlInSeconds": "60"}}
    await binding(link, 1020.5).send(entry(bound))
    assert json.loads(link.sent[0].body.data)["metadata"]["ttlInSeconds"] == "39"
    with pytest.raises(Expired):
        await binding(link, 1060.0).send(entry(bound))
