"""What receivers know again: runs of sequences, their bounds, and the middleware around an app."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.receiver import (
    DropRepeats,
    Identity,
    Message,
    Receive,
    Receiver,
    Runs,
    Scope,
    Send,
    identity_of,
    identity_of_headers,
)


def event(sequence: object = "7", node: object = "n", epoch: object = "1") -> dict[str, Any]:
    return {"id": "x", "edgenode": node, "edgeepoch": epoch, "edgesequence": sequence}


def test_an_identity_is_read() -> None:
    assert identity_of(event()) == Identity("n", 1, 7)
    assert identity_of(event(7, epoch=1.0)) == Identity("n", 1, 7)
    assert identity_of(event("900719925474099301")) == Identity("n", 1, 900719925474099301)


@pytest.mark.parametrize(
    "sequence", [None, "", "-1", "1.5", 1.5, -1, True, "9" * 19, [], "٣", {"a": 1}, float("inf"), float("nan")]
)
def test_what_is_no_number_is_no_identity(sequence: object) -> None:
    assert identity_of(event(sequence)) is None


def test_a_call_has_its_identity_in_headers() -> None:
    headers = {"Edge-Node": "n", "edge-epoch": "1", "EDGE-SEQUENCE": "7", "edge": "x"}
    assert identity_of_headers(headers) == identity_of_headers(headers.items()) == Identity("n", 1, 7)
    assert identity_of_headers({**headers, "edge-epoch": "?"}) is None
    assert identity_of_headers({}) is None


@pytest.mark.parametrize("node", [None, "", 5])
def test_without_a_node_nothing_is_known(node: object) -> None:
    assert identity_of(event(node=node)) is None


@given(st.lists(st.integers(0, 60)))
def test_runs_are_a_set(numbers: list[int]) -> None:
    runs, known = Runs(1000), set[int]()
    for number in numbers:
        assert (number in runs) == (number in known)
        runs.add(number)
        known.add(number)
    assert [number for number in range(62) if number in runs] == sorted(known)
    assert all(begin <= end for begin, end in zip(runs.begins, runs.ends, strict=True))
    assert all(end + 1 < begin for end, begin in zip(runs.ends, runs.begins[1:], strict=False))
    again = Runs.from_json(runs.to_json(), 1000)
    assert (again.begins, again.ends) == (runs.begins, runs.ends)


def test_the_lowest_of_too_many_runs_is_forgotten() -> None:
    runs = Runs(3)
    for number in (1, 3, 5, 7):
        runs.add(number)
    assert [number for number in range(9) if number in runs] == [3, 5, 7]
    assert Runs.from_json([1, 1, 3, 3, 5, 6], 2).to_json() == [3, 3, 5, 6]


class Memory:
    def __init__(self) -> None:
        self.texts: dict[str, str] = {}

    def load(self, node: str) -> str | None:
        return self.texts.get(node)

    def save(self, node: str, text: str) -> None:
        self.texts[node] = text


def test_repeats_are_known_over_a_restart() -> None:
    memory = Memory()
    receiver = Receiver(memory)
    assert not receiver.seen(Identity("n", 1, 5))
    receiver.mark(Identity("n", 1, 5))
    receiver.mark(Identity("n", 1, 6))
    assert json.loads(memory.texts["n"]) == {"1": [5, 6]}
    again = Receiver(memory)
    assert again.seen(Identity("n", 1, 6))
    assert not again.seen(Identity("n", 2, 6))
    assert not again.seen(Identity("m", 1, 6))


def test_what_is_marked_twice_is_one() -> None:
    receiver = Receiver()
    for number in (1, 3, 1, 2, 2):
        receiver.mark(Identity("n", 1, number))
    assert receiver._epochs("n")[1].to_json() == [1, 3]


def test_events_of_others_are_always_new() -> None:
    receiver = Receiver()
    receiver.mark(None)
    assert not receiver.seen(None)


def test_nodes_and_epochs_are_bounded() -> None:
    receiver = Receiver(nodes_max=2)
    for epoch in (9, 3, 5, 4, 1):
        receiver.mark(Identity("a", epoch, 1))
    assert [receiver.seen(Identity("a", epoch, 1)) for epoch in (9, 3, 5, 4, 1)] == [False, True, True, True, True]
    receiver.mark(Identity("b", 1, 1))
    receiver.mark(Identity("c", 1, 1))
    assert not receiver.seen(Identity("a", 1, 1))
    assert receiver.seen(Identity("c", 1, 1))


class Site:
    """An app behind the middleware, and one request at a time."""

    def __init__(self, status: int = 200, body: bytes = b"", **options: Any) -> None:
        self.status = status
        self.body = body
        self.bodies: list[bytes] = []
        self.types: list[str] = []
        self.within: list[tuple[int, bytes]] = []
        self.post_within: Mapping[str, Any] | None = None
        self.middleware = DropRepeats(self._app, **options)

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.types.append(scope["type"])
        body = b""
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        self.bodies.append(body)
        if self.post_within is not None:
            document, self.post_within = self.post_within, None
            self.within.append(await self.post(document))
        await send({"type": "http.response.start", "status": self.status, "headers": []})
        await send({"type": "http.response.body", "body": self.body})

    async def post(
        self,
        document: object,
        *,
        content_type: bytes = b"application/cloudevents+json; charset=utf-8",
        method: str = "POST",
        kind: str = "http",
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> tuple[int, bytes]:
        data = document if isinstance(document, bytes) else json.dumps(document).encode()
        waiting: list[Message] = [
            {"type": "http.request", "body": data[:5], "more_body": True},
            {"type": "http.request", "body": data[5:], "more_body": False},
            {"type": "http.disconnect"},
        ]
        sent: list[Message] = []

        async def receive() -> Message:
            return waiting.pop(0)

        async def send(message: Message) -> None:
            sent.append(message)

        headers = [(b"host", b"x"), (b"Content-Type", content_type), *headers]
        await self.middleware({"type": kind, "method": method, "headers": headers}, receive, send)
        return sent[0]["status"], b"".join(one.get("body", b"") for one in sent[1:])


async def test_a_repeat_never_reaches_the_app() -> None:
    site = Site(204)
    assert await site.post(event()) == (204, b"")
    assert await site.post(event()) == (200, b'{"status":"SUCCESS"}')
    assert await site.post(event("8")) == (204, b"")
    assert len(site.bodies) == 2
    assert json.loads(site.bodies[0]) == event()


@pytest.mark.parametrize(
    ("status", "body", "taken"),
    [
        (200, b'{"status":"SUCCESS"}', True),
        (200, b'{"status":"DROP"}', True),
        (200, b'{"status":7}', True),
        (200, b"[]", True),
        (200, b"thanks", True),
        (200, b'{"status":"RETRY"}', False),
        (200, b'{"status":"LATER"}', False),
        (500, b"", False),
        (404, b"", False),
    ],
)
async def test_only_what_the_app_took_is_marked(status: int, body: bytes, taken: bool) -> None:
    site = Site(status, body)
    assert await site.post(event()) == (status, body)
    await site.post(event())
    assert len(site.bodies) == (1 if taken else 2)


async def test_what_is_in_hand_comes_later() -> None:
    site = Site()
    site.post_within = event()
    assert await site.post(event()) == (200, b"")
    assert site.within == [(200, b'{"status":"RETRY"}')]


async def test_a_failing_app_gets_it_again() -> None:
    site = Site()

    async def fail(scope: Scope, receive: Receive, send: Send) -> None:
        raise LookupError

    site.middleware._app = fail
    for _ in range(2):
        with pytest.raises(LookupError):
            await site.post(event())
    assert not site.middleware.receiver.in_hand


async def test_what_is_no_event_passes() -> None:
    site = Site()
    for _ in range(2):
        await site.post(event(), content_type=b"application/json")
        await site.post(event(), method="PUT")
        await site.post(event(), kind="websocket")
        await site.post(b"no json")
        await site.post([1])
        await site.post({"id": "of somebody else"})
    assert len(site.bodies) == 12
    scope: Scope = {"type": "http", "method": "POST", "headers": []}

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None: ...

    await site.middleware(scope, receive, send)
    assert len(site.bodies) == 13


async def test_a_body_that_is_too_large_passes() -> None:
    site = Site(body_bytes_max=20)
    for _ in range(2):
        await site.post(event())
    assert len(site.bodies) == 2
    assert json.loads(site.bodies[0]) == event()


async def test_a_broken_off_body_passes() -> None:
    site = Site()
    headers = [(b"content-type", b"application/cloudevents+json")]

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None: ...

    await site.middleware({"type": "http", "method": "POST", "headers": headers}, receive, send)
    assert site.bodies == [b""]


async def test_an_app_may_look_further_than_the_body() -> None:
    kinds: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        kinds.extend([(await receive())["type"] for _ in range(3)])
        await send({"type": "http.response.start", "status": 200, "headers": []})

    site = Site()
    site.middleware._app = app
    assert (await site.post(event()))[0] == 200
    assert kinds == ["http.request", "http.request", "http.disconnect"]


CALL = ((b"Edge-Node", b"n"), (b"edge-epoch", b"1"), (b"edge-sequence", b"7"))


@pytest.mark.parametrize(("status", "taken"), [(200, True), (404, True), (302, True), (503, False), (429, False)])
async def test_a_call_is_marked_by_its_outcome(status: int, taken: bool) -> None:
    site = Site(status, b"said")
    for _ in range(2):
        said = await site.post(b"any body", content_type=b"text/plain", method="PUT", headers=CALL)
    assert said == ((208, b'{"status":"REPEAT"}') if taken else (status, b"said"))
    assert len(site.bodies) == (1 if taken else 2)


async def test_a_call_in_hand_comes_later() -> None:
    site = Site()
    site.middleware.receiver.in_hand.add(Identity("n", 1, 7))
    assert await site.post(b"", headers=CALL) == (425, b'{"status":"RETRY"}')


RAW = ((b"EdgeNode", b"n"), (b"edgeepoch", b"1"), (b"edgesequence", b"7"))


async def test_a_raw_event_is_known_by_its_headers() -> None:
    """Its body is what the runtime makes of it, with another id each time."""
    site = Site()
    assert await site.post({"id": "1", "data_base64": "AA=="}, headers=RAW) == (200, b"")
    assert await site.post({"id": "2", "data_base64": "AA=="}, headers=RAW) == (200, b'{"status":"SUCCESS"}')
    assert await site.post(event("8"), headers=RAW) == (200, b"")  # what the event says itself counts
    assert len(site.bodies) == 2


@pytest.mark.parametrize("names", ["edgenode edgeepoch edgesequence", "Edge-Node Edge-Epoch Edge-Sequence"])
def test_headers_of_events_and_calls_are_read(names: str) -> None:
    headers = [("host", "x"), *zip(names.split(), ("n", "1", "7"), strict=True)]
    assert identity_of_headers(headers) == identity_of_headers(dict(headers)) == Identity("n", 1, 7)
    assert identity_of_headers(headers[:-1]) is None
