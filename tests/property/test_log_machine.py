"""The log against plain lists: the planner alone, step by step, then the driver with crashes, groups and limits."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edge_runtime.model.ports import BulkEntry, Message, Outcome
from edge_runtime.store.database import open_databases
from edge_runtime.store.log import describe, drops
from edge_runtime.store.log_plan import Plan, decode_in_hand, encode_in_hand
from tests.brokers import open_broker, until

KEYS = st.sampled_from([None, None, "a", "b"])


class PlanMachine(RuleBasedStateMachine):
    """A plan with its redeliveries, keys and restarts; the model is the set of what is done."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.plan = Plan(1, strict=False, in_hand_max=8)
        self.keys: dict[int, str | None] = {}
        self.done: set[int] = set()
        self.flying: list[int] = []
        self.waiting: dict[int, float] = {}
        self.written = encode_in_hand((), 1), 1

    @precondition(lambda self: self.plan.room)
    @rule(key=KEYS, gap=st.sampled_from([0, 0, 0, 2]))
    def offer(self, key: str | None, gap: int) -> None:
        self.done |= set(range(self.plan.next, self.plan.next + gap))
        self.plan.skip_to(self.plan.next + gap)
        self.keys[self.plan.next] = key
        self.plan.offer(self.plan.next, key)

    @rule()
    def take(self) -> None:
        offset = self.plan.take(self.now)
        expected = self.deliverable()
        if offset is None:
            assert not expected
        else:
            assert offset in expected
            self.waiting.pop(offset, None)
            self.flying.append(offset)

    def deliverable(self) -> set[int]:
        """What is neither done, in flight, waiting, nor behind another of its key."""
        found = set()
        heads: dict[str, int] = {}
        for offset, key in self.keys.items():
            if offset in self.done:
                continue
            head = key is None or heads.setdefault(key, offset) == offset
            if head and offset not in self.flying and self.waiting.get(offset, self.now) <= self.now:
                found.add(offset)
        return found

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), what=st.sampled_from(["done", "done", "again", "release"]))
    def finish(self, data: st.DataObject, what: str) -> None:
        offset = data.draw(st.sampled_from(self.flying))
        self.flying.remove(offset)
        if what == "done":
            self.plan.done(offset)
            self.done.add(offset)
        elif what == "again":
            self.plan.again(offset, self.now + 3)
            self.waiting[offset] = self.now + 3
        else:
            self.plan.release(offset)

    @rule(passed=st.sampled_from([1.0, 3.0]))
    def wait(self, passed: float) -> None:
        self.now += passed

    @rule()
    def restart(self) -> None:
        text = encode_in_hand(self.plan.in_hand.items(), self.plan.next)
        plan = Plan(self.plan.next, strict=False, in_hand_max=8)
        for offset, attempts in decode_in_hand(text, self.plan.next):
            plan.offer(offset, self.keys[offset], attempts)
        self.plan = plan
        self.flying.clear()
        self.waiting.clear()

    @invariant()
    def nothing_is_lost_or_done_twice(self) -> None:
        open_offsets = set(range(1, self.plan.next)) - self.done
        assert set(self.plan.in_hand) == open_offsets
        assert self.plan.cursor == min(open_offsets, default=self.plan.next)
        assert self.plan.has_work(self.now) == bool(self.deliverable())


TestPlan = PlanMachine.TestCase
TestPlan.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


class World:
    """The driver on a file that is copied away at a crash, beside what must be true of it."""

    def __init__(self, folder: Path, strict: bool) -> None:
        self.folder = folder / "0"
        self.folder.mkdir()
        self.strict = strict
        self.published: list[bytes] = []
        self.acknowledged: dict[str, set[bytes]] = {}
        self.safe: dict[str, set[bytes]] = {}  # acknowledged, and written down for certain
        self.outcomes: list[bool] = []
        self.stack = AsyncExitStack()
        self.subscriptions: dict[str, trio.CancelScope] = {}
        self.order: dict[str, list[bytes]] = {}
        self.broker: Any = None
        self.file: Any = None

    async def open(self) -> None:
        databases = await self.stack.enter_async_context(open_databases())
        metadata = {"retentionBytes": "300", "redeliverInterval": "1ms", "ackFlushInterval": "2ms"}
        if self.strict:
            metadata["order"] = "strict"
        self.broker = await self.stack.enter_async_context(open_broker(self.folder, databases=databases, **metadata))
        self.nursery = await self.stack.enter_async_context(trio.open_nursery())
        self.file = await databases.get(str(self.folder / "node.db"))

    async def close(self) -> None:
        for scope in self.subscriptions.values():
            scope.cancel()
        self.subscriptions.clear()
        await self.stack.aclose()

    # --- what a script can do

    async def publish(self, count: int) -> None:
        data = [b"%05d" % number for number in range(len(self.published), len(self.published) + count)]
        if count == 1:
            await self.broker.publish("orders", data[0], {})
        else:
            await self.broker.bulk_publish("orders", [BulkEntry("", item) for item in data], {})
        self.published += data

    async def subscribe(self, group: str) -> None:
        if group in self.subscriptions:
            return
        if group not in self.acknowledged:
            self.acknowledged[group], self.safe[group], self.order[group] = set(), set(), []

        async def handle(message: Message) -> Outcome:
            assert message.data not in self.safe[group], "acknowledged and written, yet delivered again"
            self.order[group].append(message.data)
            await trio.lowlevel.checkpoint()
            if self.outcomes and not self.outcomes.pop():
                return Outcome.NACK
            self.acknowledged[group].add(message.data)
            return Outcome.ACK

        async def serve(*, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    await nursery.start(self.broker.subscribe, "orders", group, {}, handle)
                    task_status.started(scope)

        self.subscriptions[group] = await self.nursery.start(serve)

    async def unsubscribe(self, group: str) -> None:
        scope = self.subscriptions.pop(group, None)
        if scope is not None:
            scope.cancel()

    async def quiet(self, _: object = None) -> None:
        """Until every subscribed group has everything and the file says so."""
        for group in self.subscriptions:
            kept = {item[0] for item in self.kept()}
            await until(lambda group=group, kept=kept: kept <= self.acknowledged[group], 0.002)
            await until(lambda group=group: self.lag(group) == 0, 0.002)
            self.safe[group] |= self.acknowledged[group]

    async def crash(self, _: object = None) -> None:
        """Go on with a copy of the files as they are now; the old process never gets to write again."""
        copy = self.folder.parent / str(int(self.folder.name) + 1)
        copy.mkdir()
        for name in ("node.db", "node.db-wal"):
            if (self.folder / name).exists():
                shutil.copyfile(self.folder / name, copy / name)
        await self.close()
        self.folder = copy
        self.stack = AsyncExitStack()
        await self.open()
        self.learn_what_was_written()

    async def restart(self, _: object = None) -> None:
        await self.close()
        self.stack = AsyncExitStack()
        await self.open()
        acknowledged = {group: set(data) for group, data in self.acknowledged.items()}
        self.learn_what_was_written()
        assert self.safe == acknowledged, "an orderly end writes down everything"

    def learn_what_was_written(self) -> None:
        """What the file says is done was acknowledged, and will not come again; the rest of it will."""
        for group, next_place, in_hand in self.file.read("SELECT name, next, in_hand FROM log_group"):
            places = set(range(1, next_place)) - {place for place, _ in decode_in_hand(in_hand, next_place)}
            done = {self.published[place - 1] for place in places}
            assert self.safe[group] <= done | self.forgotten(group)
            assert done <= self.acknowledged[group] | self.forgotten(group)
            self.safe[group] = self.acknowledged[group] & done
            self.acknowledged[group] = set(self.safe[group])

    def forgotten(self, group: str) -> set[bytes]:
        """What was trimmed before the group joined."""
        return set(self.published) - {row[0] for row in self.kept()}

    async def refuse(self, outcomes: list[bool]) -> None:
        self.outcomes += outcomes

    # --- looking

    def kept(self) -> list[tuple[bytes]]:
        return self.file.read("SELECT data FROM log_entry WHERE id & 1099511627775 > 0 AND length(data)")

    def lag(self, group: str) -> int:
        return sum(info.lag for topic in describe(self.file) for info in topic.groups if info.group == group)

    def check(self) -> None:
        kept = [row[0] for row in self.kept()]
        assert kept == self.published[len(self.published) - len(kept) :], "what is kept is the newest, without a gap"
        assert drops(self.file) == []


OPERATIONS = st.one_of(
    st.tuples(st.just("publish"), st.integers(1, 4)),
    st.tuples(st.just("subscribe"), st.sampled_from(["x", "y"])),
    st.tuples(st.just("unsubscribe"), st.sampled_from(["x", "y"])),
    st.tuples(st.sampled_from(["quiet", "crash", "restart"]), st.none()),
    st.tuples(st.just("refuse"), st.lists(st.booleans(), max_size=4)),
)


async def run_script(script: list[tuple[str, Any]], strict: bool, folder: Path) -> None:
    world = World(folder, strict)
    await world.open()
    try:
        await act_and_check(world, script)
    finally:
        await world.close()


async def act_and_check(world: World, script: list[tuple[str, Any]]) -> None:
    for name, argument in script:
        step: Callable[[Any], Awaitable[None]] = getattr(world, name)
        await step(argument)
    groups = list(world.acknowledged)
    for group in groups:
        await world.subscribe(group)
    await world.quiet()
    world.check()
    for group in groups:
        first_seen = list(dict.fromkeys(world.order[group]))
        if world.strict:
            assert first_seen == sorted(first_seen)
        # Each group has everything from the first that it was given on.
        assert set(first_seen) == set(world.published[world.published.index(min(first_seen)) :] if first_seen else ())


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(script=st.lists(OPERATIONS, max_size=14), strict=st.booleans())
def test_the_driver_keeps_its_word(script: list[tuple[str, Any]], strict: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        trio.run(run_script, script, strict, Path(folder))
