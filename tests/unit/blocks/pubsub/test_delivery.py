"""Single delivery: checks, answers, policies, dead letters, and stopping."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from edge_runtime.blocks.pubsub.app import HttpAppDelivery
from edge_runtime.blocks.pubsub.delivery import ENDINGS, Case, Delivery, IngressMetrics, Tools
from edge_runtime.blocks.pubsub.rules import Rule
from edge_runtime.blocks.pubsub.subscriptions import SubscriptionSpec
from edge_runtime.model.errors import DriverError
from edge_runtime.model.ports import Message, Outcome
from edge_runtime.observability.metrics import Metrics, render
from tests.unit.blocks.pubsub.fakes import (
    NOW,
    TRACE,
    Counting,
    FakeApp,
    FakeBroker,
    FakePolicies,
    Retry,
    binding_of,
    publisher_of,
)

EVENT = b'{"id":"1","type":"a","traceparent":"%b"}' % TRACE.encode()
EXPIRED = b'{"id":"1","expiration":"1970-01-01T00:00:00Z"}'


class Setting:
    """One delivery between a broker that remembers and an app that answers by a script."""

    def __init__(
        self,
        *answers: tuple[int, bytes] | Exception,
        rules: tuple[Rule, ...] = (Rule("", "/orders"),),
        dead_letters: bool = False,
        policies: FakePolicies | None = None,
        component: Mapping[str, str] | None = None,
        **metadata: str,
    ) -> None:
        self.broker = FakeBroker()
        self.app = FakeApp(*answers)
        self.metrics = Metrics("app")
        binding = binding_of(self.broker, component)
        tools = Tools(
            HttpAppDelivery(self.app),
            publisher_of(binding),
            policies or FakePolicies(),
            IngressMetrics(self.metrics, "ns"),
            Counting(),
            lambda: NOW,
        )
        spec = SubscriptionSpec("pubsub", "t", rules, metadata, "dead" if dead_letters else "")
        self.delivery = Delivery(spec, binding, tools)

    async def handle(self, data: bytes = EVENT, topic: str = "t", **metadata: str) -> Outcome:
        return await self.delivery.handle(Message(topic, data, metadata))

    def dead(self) -> list[tuple[str, bytes, Mapping[str, str]]]:
        return self.broker.published


async def test_an_event_is_delivered_and_acknowledged() -> None:
    setting = Setting()
    assert await setting.handle(key="v") is Outcome.ACK
    [request] = setting.app.requests
    assert (request.target, request.body.data) == (b"/orders", EVENT)
    assert (b"key", b"v") in request.headers
    assert (b"traceparent", TRACE.encode()) in request.headers


@pytest.mark.parametrize(
    ("answer", "alone", "with_dead_letters", "copied"),
    [
        ((200, b""), Outcome.ACK, Outcome.ACK, False),
        ((200, b'{"status":"SUCCESS"}'), Outcome.ACK, Outcome.ACK, False),
        ((200, b'{"status":"RETRY"}'), Outcome.NACK, Outcome.ACK, True),
        ((200, b'{"status":"what"}'), Outcome.NACK, Outcome.ACK, True),
        ((200, b'{"status":"DROP"}'), Outcome.ACK, Outcome.ACK, True),
        ((404, b""), Outcome.ACK, Outcome.ACK, True),
        ((500, b""), Outcome.NACK, Outcome.ACK, True),
        ((302, b""), Outcome.NACK, Outcome.ACK, True),
        (DriverError("away"), Outcome.NACK, Outcome.ACK, True),
    ],
)
async def test_an_answer_decides(
    answer: tuple[int, bytes] | Exception, alone: Outcome, with_dead_letters: Outcome, copied: bool
) -> None:
    setting = Setting(answer)
    assert await setting.handle() is alone
    assert setting.dead() == []
    setting = Setting(answer, dead_letters=True)
    assert await setting.handle(key="v") is with_dead_letters
    assert setting.dead() == ([("dead", EVENT, {"key": "v"})] if copied else [])


async def test_an_unforeseen_error_is_one_messages(caplog: pytest.LogCaptureFixture) -> None:
    setting = Setting(KeyError("unforeseen"))
    assert await setting.handle() is Outcome.NACK
    assert "unforeseen" in caplog.text
    assert await setting.handle() is Outcome.ACK


@pytest.mark.parametrize(
    ("data", "alone"),
    [
        (b"no json", Outcome.NACK),
        (b"[]", Outcome.NACK),
        (b'{"no":"type"}', Outcome.NACK),  # the rule cannot be evaluated
        (EXPIRED, Outcome.ACK),
        (b'{"type":"b"}', Outcome.ACK),  # no rule holds
    ],
)
async def test_checks_come_before_the_app(data: bytes, alone: Outcome) -> None:
    rules = (Rule('event.type == "a"', "/a"),)
    setting = Setting(rules=rules)
    assert await setting.handle(data) is alone
    assert setting.app.requests == []
    setting = Setting(rules=rules, dead_letters=True)
    assert await setting.handle(data) is Outcome.ACK
    assert setting.app.requests == []
    assert setting.dead() == [("dead", data, {})]


@pytest.mark.parametrize(
    ("answer", "data", "outcome"),
    [
        ((500, b""), EVENT, Outcome.NACK),
        ((404, b""), EVENT, Outcome.NACK),
        ((200, b""), b"no json", Outcome.NACK),
        ((200, b""), EXPIRED, Outcome.ACK),
        ((200, b""), b'{"type":"b"}', Outcome.ACK),
    ],
)
async def test_a_dead_letter_that_fails(answer: tuple[int, bytes], data: bytes, outcome: Outcome) -> None:
    setting = Setting(answer, rules=(Rule('event.type == "a"', "/a"),), dead_letters=True)
    setting.broker.failing["dead"] = DriverError("full")
    assert await setting.handle(data) is outcome


async def test_a_dead_letter_needs_the_scope() -> None:
    setting = Setting((500, b""), dead_letters=True, component={"publishingScopes": "app=t"})
    assert await setting.handle() is Outcome.NACK


async def test_a_dead_letter_has_a_time_limit(autojump_clock: object, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = Setting((500, b""), dead_letters=True)

    async def stuck(*arguments: object) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(setting.broker, "publish", stuck)
    started = trio.current_time()
    assert await setting.handle() is Outcome.NACK
    assert trio.current_time() - started == 30


def test_every_case_has_its_ending() -> None:
    assert set(ENDINGS) == set(Case)


async def test_a_policy_tries_again(autojump_clock: object) -> None:
    setting = Setting((500, b""), (200, b'{"status":"RETRY"}'), policies=FakePolicies(inbound=Retry(3)))
    assert await setting.handle() is Outcome.ACK
    assert len(setting.app.requests) == 3
    setting = Setting(*[(500, b"")] * 9, policies=FakePolicies(inbound=Retry(3)), dead_letters=True)
    assert await setting.handle() is Outcome.ACK
    assert len(setting.app.requests) == 3
    assert len(setting.dead()) == 1


async def test_a_dropped_event_is_not_tried_again() -> None:
    setting = Setting((404, b""), policies=FakePolicies(inbound=Retry(3)))
    assert await setting.handle() is Outcome.ACK
    assert len(setting.app.requests) == 1


async def test_rules_choose_the_path() -> None:
    setting = Setting(rules=(Rule('event.type == "b"', "/b"), Rule("event.n >= 1 + 1", "/many"), Rule("", "/rest")))
    for data in (b'{"type":"b"}', b'{"type":"a","n":2}', b'{"type":"a","n":1}'):
        assert await setting.handle(data) is Outcome.ACK
    assert [request.target for request in setting.app.requests] == [b"/b", b"/many", b"/rest"]


async def test_no_rules_are_no_route() -> None:
    setting = Setting(rules=())
    assert await setting.handle() is Outcome.ACK
    assert setting.app.requests == []


async def test_an_object_that_is_no_event_is_delivered() -> None:
    setting = Setting()
    assert await setting.handle(b'{"any": "thing"}') is Outcome.ACK
    assert setting.app.requests[0].body.data == b'{"any": "thing"}'


async def test_a_raw_payload_is_wrapped() -> None:
    setting = Setting(rawPayload="true")
    assert await setting.handle(b"\xff\x00", traceparent=TRACE) is Outcome.ACK
    assert await setting.handle(b"\xff\x00") is Outcome.ACK
    first, second = setting.app.bodies()
    assert first["data_base64"] == "/wA="
    assert first["traceparent"] == TRACE
    assert (first["id"], second["id"]) == ("id-1", "id-2")
    assert [value for name, value in setting.app.requests[0].headers if name == b"traceparent"] == [TRACE.encode()]


async def test_a_raw_payload_can_be_routed() -> None:
    setting = Setting(rules=(Rule('event.datacontenttype == "application/octet-stream"', "/raw"),), rawPayload="1")
    assert await setting.handle(b"\xff") is Outcome.ACK
    assert setting.app.requests[0].target == b"/raw"


async def test_a_bad_flag_is_invalid() -> None:
    setting = Setting(rawPayload="yes", dead_letters=True)
    assert await setting.handle() is Outcome.ACK
    assert setting.dead() == [("dead", EVENT, {})]
    assert setting.app.requests == []


async def test_a_binary_event_is_routed_by_its_attributes() -> None:
    setting = Setting(rules=(Rule('event.type == "a"', "/a"),))
    metadata = {"Content-Type": "application/octet-stream", "ce_type": "a", "ce_traceparent": TRACE}
    assert await setting.delivery.handle(Message("t", b"\xff", metadata)) is Outcome.ACK
    [request] = setting.app.requests
    assert (request.target, request.body.data) == (b"/a", b"\xff")
    assert (b"content-type", b"application/cloudevents+json") in request.headers
    assert (b"traceparent", TRACE.encode()) in request.headers


async def test_a_namespace_is_taken_off_the_topic() -> None:
    setting = Setting(component={"consumerID": "{namespace}"}, rawPayload="true")
    assert await setting.handle(b"x", topic="nst") is Outcome.ACK
    assert setting.app.bodies()[0]["topic"] == "t"


@pytest.mark.parametrize(
    ("answer", "data", "labels"),
    [
        ((200, b""), EVENT, ("success", "")),
        ((200, b'{"status":"DROP"}'), EVENT, ("drop", "success")),
        ((404, b""), EVENT, ("drop", "")),
        ((500, b""), EVENT, ("retry", "")),
        ((200, b""), b"no json", ("retry", "")),
        ((200, b""), EXPIRED, ("drop", "success")),
    ],
)
async def test_a_delivery_is_counted(answer: tuple[int, bytes], data: bytes, labels: tuple[str, str]) -> None:
    setting = Setting(answer)
    await setting.handle(data)
    assert (
        'dapr_component_pubsub_ingress_count{app_id="app",component="pubsub",namespace="ns",'
        f'process_status="{labels[0]}",status="{labels[1]}",topic="t"}} 1'
    ) in render([setting.metrics])


async def test_slow_deliveries_have_a_latency(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([1.0, 1.25])
    monkeypatch.setattr("time.monotonic", lambda: next(times))
    setting = Setting()
    await setting.handle()
    assert "component_pubsub_ingress_latencies_sum" in render([setting.metrics])
    assert "} 250\n" in render([setting.metrics])


# --- stopping ---------------------------------------------------------------------------------------------------------


async def outcome_in_stop(setting: Setting, data: bytes = EVENT) -> Any:
    """What a delivery in flight comes to when its subscription is stopped: an outcome, or cancelled."""
    result: list[Any] = ["cancelled"]
    setting.app.hold = trio.Event()

    async def handle() -> None:
        result[:] = [await setting.handle(data)]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(handle)
        await wait_all_tasks_blocked()
        setting.delivery.gate.close()
        setting.app.hold.set()
        await setting.delivery.gate.drained()
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    return result[0]


async def test_a_success_in_flight_is_acknowledged() -> None:
    assert await outcome_in_stop(Setting()) is Outcome.ACK


@pytest.mark.parametrize("dead_letters", [False, True])
async def test_a_failure_in_flight_is_left_to_the_broker(dead_letters: bool) -> None:
    setting = Setting((500, b""), dead_letters=dead_letters)
    assert await outcome_in_stop(setting) == "cancelled"
    assert setting.dead() == []


async def test_nothing_new_is_taken_while_stopping(autojump_clock: object) -> None:
    setting = Setting()
    setting.delivery.gate.close()
    await setting.delivery.gate.drained()
    with trio.move_on_after(5) as scope:
        await setting.handle()
    assert scope.cancelled_caught
    assert setting.app.requests == []


def test_the_envelope_in_the_tests_is_json() -> None:
    assert json.loads(EVENT)["id"] == "1"
