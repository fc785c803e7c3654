"""Events as HTTP requests, and the question whether an app takes them."""

from __future__ import annotations

import pytest
from trio.testing import MockClock

from edge_runtime.blocks.bindings.app import Event, HttpBindingApp, NotTaken
from edge_runtime.model.errors import DriverError
from edge_runtime.observability.trace import Tracer
from tests.unit.blocks.bindings.fakes import FakeChannel

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def app(*answers: tuple[int, bytes] | None, tracer: Tracer | None = None) -> tuple[HttpBindingApp, FakeChannel]:
    channel = FakeChannel(*answers)
    return HttpBindingApp(channel, tracer or Tracer(None)), channel


@pytest.mark.parametrize(("status", "taken"), [(200, True), (204, True), (405, True), (404, False), (500, False)])
async def test_options_says_whether_events_are_taken(status: int, taken: bool) -> None:
    asked, channel = app((status, b""))
    assert await asked.takes("b", "/a route/é") is taken
    (request,) = channel.requests
    assert (request.method, request.target) == ("OPTIONS", b"/a%20route/%C3%A9")


async def test_an_app_that_does_not_answer_is_a_failure(autojump_clock: MockClock) -> None:
    asked, _ = app(None)
    with pytest.raises(DriverError, match=r"did not answer OPTIONS /b within 3 s .*app-binding-options-timeout"):
        await asked.takes("b", "b")


async def test_an_event_is_a_post_with_its_metadata() -> None:
    told, channel = app((200, b"answer"))
    metadata = {"topic": "t", "Content-Type": "text/plain", "x-bin": "b", "grpc-x": "g", "line": "a\r\nb"}
    assert await told.deliver(Event("b", "r/1", b"\0\1", metadata), strict=False) == b"answer"
    (request,) = channel.requests
    assert (request.method, request.target, request.body.data) == ("POST", b"/r/1", b"\0\1")
    assert request.headers == [
        (b"content-type", b"application/json"),
        (b"topic", b"t"),
        (b"dapr-grpc-x", b"g"),
        (b"line", b"a  b"),
    ]


@pytest.mark.parametrize(("status", "strict"), [(201, True), (404, False), (302, False), (500, True)])
async def test_other_answers_are_failures(status: int, strict: bool) -> None:
    told, _ = app((status, b"because"))
    with pytest.raises(NotTaken, match=f"the app answered {status} to POST /r: because") as raised:
        await told.deliver(Event("b", "r", b"", {}), strict=strict)
    assert raised.value.code == status


async def test_any_2xx_is_taken_without_a_policy() -> None:
    told, _ = app((202, b"ok"))
    assert await told.deliver(Event("b", "r", b"", {}), strict=False) == b"ok"


async def test_an_answer_beyond_the_limit_is_a_failure() -> None:
    told, channel = app()

    class Long:
        buffered = False

        async def read(self, limit: int) -> bytes:
            from edge_runtime.model.errors import BodyTooLarge

            raise BodyTooLarge

        async def aclose(self) -> None: ...

    async def send(request: object) -> object:
        return type("R", (), {"status": 200, "body": Long()})()

    channel.send = send  # type: ignore[method-assign,assignment]
    with pytest.raises(NotTaken, match="larger than"):
        await told.deliver(Event("b", "r", b"", {}), strict=False)


async def test_a_trace_passes_through_or_gets_a_span() -> None:
    event = Event("b", "r", b"", {"traceparent": TRACE, "tracestate": "a=1"})
    told, channel = app()
    await told.deliver(event, strict=False)
    assert dict(channel.requests[0].headers)[b"traceparent"] == TRACE.encode()
    assert dict(channel.requests[0].headers)[b"tracestate"] == b"a=1"
    told, channel = app(tracer=Tracer(1.0))
    await told.deliver(event, strict=False)
    minted = dict(channel.requests[0].headers)[b"traceparent"].decode()
    assert minted[:36] == TRACE[:36]
    assert minted != TRACE
    await told.deliver(Event("b", "r", b"", {}), strict=False)
    assert b"traceparent" in dict(channel.requests[1].headers)


async def test_a_malformed_trace_is_left_out() -> None:
    told, channel = app()
    await told.deliver(Event("b", "r", b"", {"traceparent": "x"}), strict=False)
    assert b"traceparent" not in dict(channel.requests[0].headers)
