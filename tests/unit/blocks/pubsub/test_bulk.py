"""Bulk delivery: how batches fill, where they go, and an outcome for each message."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from edge_runtime.blocks.pubsub.app import HttpAppDelivery
from edge_runtime.blocks.pubsub.bulk import BulkDelivery
from edge_runtime.blocks.pubsub.delivery import IngressMetrics, Tools
from edge_runtime.blocks.pubsub.rules import Rule
from edge_runtime.blocks.pubsub.subscriptions import BulkSettings, SubscriptionSpec
from edge_runtime.model.errors import DriverError
from edge_runtime.model.http import Body, Request, Response
from edge_runtime.model.ports import Message, Outcome
from edge_runtime.observability.metrics import Metrics, render
from tests.unit.blocks.pubsub.fakes import (
    NOW,
    Counting,
    FakeBroker,
    FakePolicies,
    Retry,
    binding_of,
    publisher_of,
)


class BulkApp:
    """Answers by `says`: event id → status; what it does not know succeeds. `answers` come first."""

    def __init__(self, *answers: tuple[int, bytes], says: Mapping[str, str] | None = None) -> None:
        self.answers = list(answers)
        self.says = dict(says or {})
        self.batches: list[tuple[bytes, dict[str, Any]]] = []
        self.at: list[float] = []

    async def send(self, request: Request) -> Response:
        batch = json.loads(request.body.data)
        self.batches.append((request.target, batch))
        self.at.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        if self.answers:
            status, body = self.answers.pop(0)
            return Response(status, (), Body(body))
        return Response(200, (), Body(json.dumps({"statuses": self.statuses(batch)}).encode()))

    def statuses(self, batch: dict[str, Any]) -> list[dict[str, str]]:
        return [
            {"entryId": entry["entryId"], "status": self.says.get(self.event_id(entry), "SUCCESS")}
            for entry in batch["entries"]
        ]

    @staticmethod
    def event_id(entry: dict[str, Any]) -> str:
        return str(entry["event"]["id"]) if isinstance(entry["event"], dict) else str(entry["event"])

    def ids(self) -> list[list[str]]:
        return [[self.event_id(entry) for entry in batch["entries"]] for _, batch in self.batches]


class Setting:
    def __init__(
        self,
        app: BulkApp,
        *,
        broker: FakeBroker | None = None,
        rules: tuple[Rule, ...] = (Rule("", "/bulk"),),
        dead_letters: bool = False,
        policies: FakePolicies | None = None,
        bulk: BulkSettings = BulkSettings(True, 3, 1000),  # noqa: B008 - a value
        **metadata: str,
    ) -> None:
        self.app = app
        self.broker = broker or FakeBroker("BULK_PUBSUB")
        self.metrics = Metrics("app")
        binding = binding_of(self.broker)
        tools = Tools(
            HttpAppDelivery(app),
            publisher_of(binding),
            policies or FakePolicies(),
            IngressMetrics(self.metrics, "ns"),
            Counting(),
            lambda: NOW,
        )
        spec = SubscriptionSpec("pubsub", "t", rules, metadata, "dead" if dead_letters else "", bulk)
        self.delivery = BulkDelivery(spec, binding, tools)
        self.outcomes: dict[str, Outcome] = {}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[trio.Nursery]:
        async with trio.open_nursery() as nursery:
            await nursery.start(self.delivery.run)
            yield nursery
            nursery.cancel_scope.cancel()

    def push(self, nursery: trio.Nursery, event_id: str, data: bytes | None = None, **metadata: str) -> None:
        body = json.dumps({"id": event_id}).encode() if data is None else data

        async def handle() -> None:
            self.outcomes[event_id] = await self.delivery.handle(Message("t", body, metadata))

        nursery.start_soon(handle)

    async def run(self, *event_ids: str) -> dict[str, Outcome]:
        async with self.running() as nursery:
            for event_id in event_ids:
                self.push(nursery, event_id)
                await wait_all_tasks_blocked()  # in this order
            await trio.sleep(60)
        return self.outcomes

    def dead(self) -> list[list[bytes]]:
        return [[entry.data for entry in batch] for batch in self.broker.bulk]


async def test_bad_text_spoils_no_batch() -> None:
    app = BulkApp()
    setting = Setting(app)
    async with setting.running() as nursery:
        setting.push(nursery, "bad", b'{"id":"bad","data":"\xff"}')
        setting.push(nursery, "é")
        setting.push(nursery, "ö", '{"id":"ö"}'.encode())
        await wait_all_tasks_blocked()
    assert sorted(app.ids()[0]) == ["bad", "é", "ö"]
    assert list(setting.outcomes.values()) == [Outcome.ACK] * 3


async def test_a_full_batch_goes_at_once(autojump_clock: object) -> None:
    setting = Setting(BulkApp())
    started = trio.current_time()
    assert await setting.run("1", "2", "3") == dict.fromkeys("123", Outcome.ACK)
    [(target, batch)] = setting.app.batches
    assert setting.app.at == [started]
    assert target == b"/bulk"
    assert batch == {
        "id": "id-4",
        "entries": [
            {
                "entryId": f"id-{number}",
                "event": {"id": str(number)},
                "contentType": "application/cloudevents+json",
                "metadata": None,
            }
            for number in (1, 2, 3)
        ],
        "metadata": {"pubsubName": "pubsub"},
        "topic": "t",
        "pubsubname": "pubsub",
        "type": "com.dapr.event.sent.bulk",
    }


async def test_a_batch_waits_for_its_time(autojump_clock: object) -> None:
    setting = Setting(BulkApp())
    started = trio.current_time()
    await setting.run("1", "2")
    assert setting.app.ids() == [["1", "2"]]
    assert setting.app.at == [started + 1]


async def test_the_time_counts_from_the_first(autojump_clock: object) -> None:
    setting = Setting(BulkApp())
    async with setting.running() as nursery:
        await trio.sleep(5)
        started = trio.current_time()
        setting.push(nursery, "1")
        await trio.sleep(0.9)
        setting.push(nursery, "2")
        await trio.sleep(0.5)
        setting.push(nursery, "3")
        await trio.sleep(2)
    assert setting.app.ids() == [["1", "2"], ["3"]]
    assert setting.app.at == [started + 1, pytest.approx(started + 2.4)]


async def test_more_than_a_batch_is_several(autojump_clock: object) -> None:
    setting = Setting(BulkApp())
    await setting.run(*"1234567")
    assert sorted(len(ids) for ids in setting.app.ids()) == [1, 3, 3]


async def test_an_immediate_broker_does_not_wait(autojump_clock: object) -> None:
    setting = Setting(BulkApp(), broker=FakeBroker("BULK_SUBSCRIBE_IMMEDIATE"))
    started = trio.current_time()
    await setting.run("1")
    assert setting.app.at == [started]


@pytest.mark.parametrize("dead_letters", [False, True])
async def test_each_entry_has_its_outcome(autojump_clock: object, dead_letters: bool) -> None:
    setting = Setting(BulkApp(says={"2": "DROP", "3": "RETRY"}), dead_letters=dead_letters)
    outcomes = await setting.run("1", "2", "3")
    failed = Outcome.ACK if dead_letters else Outcome.NACK
    assert outcomes == {"1": Outcome.ACK, "2": Outcome.ACK, "3": failed}
    assert setting.dead() == ([[b'{"id": "2"}'], [b'{"id": "3"}']] if dead_letters else [])


async def test_a_missing_route_has_no_dead_letters(autojump_clock: object) -> None:
    setting = Setting(BulkApp((404, b"")), dead_letters=True)
    assert await setting.run("1", "2") == dict.fromkeys("12", Outcome.ACK)
    assert setting.dead() == []


@pytest.mark.parametrize("answer", [(500, b""), (200, b""), (200, b"{}")])
async def test_a_failed_batch_fails_all(autojump_clock: object, answer: tuple[int, bytes]) -> None:
    setting = Setting(BulkApp(answer))
    assert await setting.run("1", "2") == dict.fromkeys("12", Outcome.NACK)
    setting = Setting(BulkApp(answer), dead_letters=True)
    assert await setting.run("1", "2") == dict.fromkeys("12", Outcome.ACK)
    assert setting.dead() == [[b'{"id": "1"}', b'{"id": "2"}']]


async def test_a_policy_sends_only_what_failed(autojump_clock: object) -> None:
    setting = Setting(BulkApp(says={"2": "RETRY"}), policies=FakePolicies(inbound=Retry(3)))
    assert await setting.run("1", "2", "3") == {"1": Outcome.ACK, "2": Outcome.NACK, "3": Outcome.ACK}
    assert setting.app.ids() == [["1", "2", "3"], ["2"], ["2"]]


async def test_dead_letters_that_fail_are_refused(autojump_clock: object) -> None:
    setting = Setting(BulkApp((500, b"")), dead_letters=True)
    setting.broker.failing["id-1"] = DriverError("full")
    assert await setting.run("1", "2") == {"1": Outcome.NACK, "2": Outcome.ACK}
    setting = Setting(BulkApp((500, b"")), dead_letters=True)
    setting.broker.failing["dead"] = DriverError("away")
    assert await setting.run("1", "2") == dict.fromkeys("12", Outcome.NACK)


async def test_dead_letters_need_the_scope(autojump_clock: object) -> None:
    setting = Setting(BulkApp((500, b"")), dead_letters=True)
    setting.delivery._tools.publisher._components = {}  # type: ignore[assignment]
    assert await setting.run("1") == {"1": Outcome.NACK}


async def test_dead_letters_have_a_time_limit(autojump_clock: object, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = Setting(BulkApp((500, b"")), dead_letters=True)

    async def stuck(*arguments: object) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(setting.broker, "bulk_publish", stuck)
    assert await setting.run("1") == {"1": Outcome.NACK}


async def test_entries_are_grouped_by_path(autojump_clock: object) -> None:
    rules = (Rule('event.id == "1"', "/one"), Rule('event.id != "9"', "/others"))
    setting = Setting(BulkApp(), rules=rules, dead_letters=True, bulk=BulkSettings(True, 4, 1000))
    assert await setting.run("1", "2", "3", "9") == dict.fromkeys("1239", Outcome.ACK)
    assert [target for target, _ in setting.app.batches] == [b"/one", b"/others"]
    assert setting.app.ids() == [["1"], ["2", "3"]]
    assert [data for _, data, _ in setting.broker.published] == [b'{"id": "9"}']  # no route: a copy, no call


async def test_bad_entries_leave_the_others_alone(autojump_clock: object) -> None:
    setting = Setting(BulkApp())
    async with setting.running() as nursery:
        setting.push(nursery, "bad", b"no json")
        setting.push(nursery, "old", b'{"id":"old","expiration":"1970-01-01T00:00:00Z"}')
        setting.push(nursery, "good", k="v")
        await wait_all_tasks_blocked()
    assert setting.outcomes == {"bad": Outcome.NACK, "old": Outcome.ACK, "good": Outcome.ACK}
    assert setting.app.ids() == [["good"]]
    assert setting.app.batches[0][1]["entries"][0]["metadata"] == {"k": "v"}
    page = render([setting.metrics])
    for status in ("retry", "drop", "success"):
        assert (
            'component_pubsub_ingress_bulk_event_count{app_id="app",component="pubsub",namespace="ns",'
            f'process_status="{status}",topic="t"}} 1\n'
        ) in page
    assert "component_pubsub_ingress_bulk_count{" in page


async def test_raw_payloads_are_base64_texts(autojump_clock: object) -> None:
    setting = Setting(BulkApp(), rawPayload="true", rules=(Rule("event == 'hit'", "/hit"), Rule("", "/rest")))
    async with setting.running() as nursery:
        setting.push(nursery, "a", b"hit")
        setting.push(nursery, "b", b"\xff")
        setting.push(nursery, "c", b"hit")
        await wait_all_tasks_blocked()
    batches = dict(setting.app.batches)
    assert {target: len(batch["entries"]) for target, batch in batches.items()} == {b"/hit": 2, b"/rest": 1}
    [entry] = batches[b"/rest"]["entries"]
    assert (entry["event"], entry["contentType"]) == ("/w==", "application/octet-stream")


@pytest.mark.parametrize(
    ("rule", "flag", "outcome"),
    [("event.id == 'x'", "true", Outcome.NACK), ("event == 'x'", "true", Outcome.ACK), ("", "maybe", Outcome.NACK)],
)
async def test_raw_payloads_have_checks(autojump_clock: object, rule: str, flag: str, outcome: Outcome) -> None:
    setting = Setting(BulkApp(), rawPayload=flag, rules=(Rule(rule, "/x"),))
    assert await setting.run("1") == {"1": outcome}
    assert setting.app.batches == []


async def test_binary_events_become_json(autojump_clock: object) -> None:
    setting = Setting(BulkApp())
    async with setting.running() as nursery:
        setting.push(nursery, "1", b"\xff", **{"content-type": "application/octet-stream", "ce_id": "7"})
        await trio.sleep(2)
    assert setting.app.batches[0][1]["entries"][0]["event"] == {
        "id": "7",
        "datacontenttype": "application/octet-stream",
        "data_base64": "/w==",
    }


async def test_a_cancelled_message_leaves_its_batch(autojump_clock: object) -> None:
    setting = Setting(BulkApp())
    async with setting.running() as nursery:
        with trio.move_on_after(0.5):
            await setting.delivery.handle(Message("t", b'{"id":"gone"}'))
        setting.push(nursery, "1")
        await trio.sleep(2)
    assert setting.app.ids() == [["1"]]


async def test_slow_batches_have_a_latency(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([1.0, 1.25])
    setting = Setting(BulkApp())
    async with setting.running() as nursery:
        monkeypatch.setattr("time.monotonic", lambda: next(times))
        for event_id in "123":
            setting.push(nursery, event_id)
        await wait_all_tasks_blocked()
    assert (
        'component_pubsub_ingress_bulk_latencies_sum{app_id="app",component="pubsub",namespace="ns",'
        'process_status="",topic="t"} 250\n'
    ) in render([setting.metrics])


async def test_a_burst_is_cut_into_batches(autojump_clock: object) -> None:
    setting = Setting(BulkApp())
    async with setting.running() as nursery:
        for event_id in "12345678":
            setting.push(nursery, event_id)
        await trio.sleep(5)
    assert sorted(len(ids) for ids in setting.app.ids()) == [2, 3, 3]
    assert setting.outcomes == dict.fromkeys("12345678", Outcome.ACK)


async def test_a_message_can_be_cancelled_on_its_way(autojump_clock: object) -> None:
    setting = Setting(BulkApp(says={"1": "RETRY"}), policies=FakePolicies(inbound=Retry(3)))
    async with setting.running():
        with trio.move_on_after(1.5) as scope:
            await setting.delivery.handle(Message("t", b'{"id":"1"}'))
        await trio.sleep(5)
    assert scope.cancelled_caught
    assert setting.app.ids() == [["1"]] * 3


async def test_failures_in_a_stop_are_left_to_the_broker(autojump_clock: object) -> None:
    setting = Setting(BulkApp(says={"2": "RETRY"}), dead_letters=True)
    async with setting.running() as nursery:
        setting.push(nursery, "1")
        setting.push(nursery, "2")
        await trio.sleep(0.5)
        setting.delivery.gate.close()
        await setting.delivery.gate.drained()
        await wait_all_tasks_blocked()
    assert setting.outcomes == {"1": Outcome.ACK}
    assert setting.dead() == []
