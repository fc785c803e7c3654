"""What a route sends next, and whose turn it is."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from edge_runtime.model.ports import Backoff
from edge_runtime.sync.plan import NEXT, Event, Item, Plan, PlanLimits, Read, State, Turns, Verdict, pause_ms

LIMITS = PlanLimits(in_flight_max=2, retry=Backoff(first_s=1.0, most_s=4.0, jitter=0.0), age_max_ms=1000)


def plan_of(*entries: tuple[str, int], limits: PlanLimits = LIMITS) -> Plan:
    """A route that is up, with entries (key, size) that were taken in at 0."""
    plan = Plan(1, len(entries), limits)
    items = [Item(place, key, size, 0) for place, (key, size) in enumerate(entries, 1)]
    while (read := plan.next_read()) is not None:
        plan.loaded(read, found(read, items))
    plan.up()
    return plan


def found(read: Read, items: Sequence[Item]) -> list[Item]:
    keys = {read.key} if read.key is not None else {item.key for item in items} - set(read.without)
    return [item for item in items if read.start <= item.sequence < read.stop and item.key in keys][: read.limit]


def taken(plan: Plan, now: int = 0) -> Item:
    item = plan.take(now)
    assert item is not None
    return item


def test_every_state_has_its_way_out() -> None:
    assert {state for state, _ in NEXT} == set(State)
    assert {event for _, event in NEXT} == set(Event)
    assert all(event is Event.TAKEN for (_, event), step in NEXT.items() if step.state is State.FLYING)


def test_nothing_is_sent_while_down() -> None:
    plan = plan_of(("a", 1))
    plan.down()
    assert plan.take(0) is None
    assert not plan.has_work(0)
    plan.up()
    assert plan.has_work(0)
    assert taken(plan).sequence == 1


def test_a_key_is_sent_one_by_one() -> None:
    plan = plan_of(("a", 1), ("a", 1), ("b", 1))
    first, other = taken(plan), taken(plan)
    assert (first.sequence, other.sequence) == (1, 3)
    assert plan.take(0) is None
    assert plan.finish(first, Event.DELIVERED, 0, 0.5) is Verdict.REMOVE
    assert taken(plan).sequence == 2


def test_what_may_come_back_goes_first() -> None:
    """The first was dropped to make room, and the disk has not said yet whether it takes the change."""
    plan = plan_of(("a", 1), ("a", 1), ("b", 1))
    plan.pause(["a"])
    plan.forget([Item(1, "a", 1, 0)])
    assert taken(plan).sequence == 3
    assert not plan.has_work(0)
    plan.put_back(1, "a")
    plan.go_on(["a"])
    read = plan.next_read()
    assert read is not None
    plan.loaded(read, [Item(1, "a", 1, 0), Item(2, "a", 1, 0)])
    assert taken(plan).sequence == 1


def test_a_paused_key_goes_on_with_the_last() -> None:
    plan = plan_of(("a", 1))
    plan.pause(["a"])
    plan.pause(["a"])
    plan.go_on(["a"])
    assert plan.take(0) is None
    plan.go_on(["a"])
    assert taken(plan).sequence == 1


def test_a_failure_waits_longer_each_time() -> None:
    plan = plan_of(("a", 1))
    for attempts, due in enumerate((1000, 2000, 4000, 4000)):
        item = taken(plan)
        assert item.attempts == attempts
        assert plan.finish(item, Event.FAILED, 0, 0.5) is Verdict.KEEP
        assert plan.next_due() == due
        assert not plan.has_work(due - 1)
        assert plan.attempts() == [(1, attempts + 1)]
        plan.limits = LIMITS._replace(age_max_ms=10_000)
        assert plan.has_work(due)


def test_a_lost_link_takes_the_route_down() -> None:
    plan = plan_of(("a", 1))
    assert plan.finish(taken(plan), Event.UNREACHABLE, 0, 0.5) is Verdict.KEEP
    assert not plan.is_up
    plan.up()
    assert taken(plan).attempts == 0


def test_the_last_attempt_buries() -> None:
    plan = plan_of(("a", 1), limits=LIMITS._replace(attempts_max=1))
    assert plan.finish(taken(plan), Event.FAILED, 0, 0.5) is Verdict.BURY
    assert plan.take(0) is None


def test_too_old_is_not_sent() -> None:
    plan = plan_of(("a", 1), ("b", 1))
    assert plan.take(1000) is None
    assert [item.sequence for item in plan.expired] == [1, 2]


def test_bytes_in_flight_are_bounded() -> None:
    plan = plan_of(("a", 60), ("b", 50), ("c", 10), limits=LIMITS._replace(in_flight_bytes_max=50))
    big = taken(plan)
    assert big.size == 60, "one alone may be bigger"
    assert plan.take(0) is None
    plan.finish(big, Event.DELIVERED, 0, 0.5)
    assert taken(plan).sequence == 2


def test_one_key_takes_its_share() -> None:
    plan = Plan(1, 10_000, LIMITS)
    read = plan.next_read()
    assert read == Read(1, 4097, 32, None, [])
    while not read.without:
        plan.loaded(read, [Item(place, "a", 1, 0) for place in range(read.start, read.start + read.limit)])
        read = plan.next_read()
        assert read is not None
    assert read.without == ["a"]
    assert (read.start, read.stop) == (65, 4161)
    plan.loaded(read, [])
    assert plan.cursor == 4161


def test_what_was_passed_over_is_read_again() -> None:
    entries = [("a", 1)] * 100 + [("b", 1)]
    plan = plan_of(*entries)
    items = [Item(place, key, size, 0) for place, (key, size) in enumerate(entries, 1)]
    order = []
    while (item := plan.take(0)) is not None:
        order.append(item.sequence)
        plan.finish(item, Event.DELIVERED, 0, 0.5)
        while (read := plan.next_read()) is not None:
            plan.loaded(read, found(read, items))
    assert sorted(order) == list(range(1, 102))
    assert [place for place in order if place != 101] == list(range(1, 101))


def test_many_waiting_keys_stop_the_reading() -> None:
    plan = plan_of(("a", 1), ("b", 1), limits=LIMITS._replace(keys_max=2))
    plan.tail = 10
    assert plan.next_read() is None
    assert not plan.low
    plan.finish(taken(plan), Event.DELIVERED, 0, 0.5)
    assert plan.low


def test_an_entry_that_came_back_goes_first() -> None:
    plan = plan_of(("a", 1), ("a", 1), ("a", 1))
    plan.finish(taken(plan), Event.REJECTED, 0, 0.5)
    plan.put_back(1, "a")
    read = plan.next_read()
    assert read is not None
    assert (read.key, read.start) == ("a", 1)
    plan.loaded(read, [Item(place, "a", 1, 0) for place in (1, 2, 3)])
    assert taken(plan).sequence == 1


def test_one_that_came_back_waits_for_what_flies() -> None:
    plan = plan_of(("a", 1), ("a", 1))
    plan.finish(taken(plan), Event.REJECTED, 0, 0.5)
    flying = taken(plan)
    plan.put_back(1, "a")
    assert plan.take(0) is None
    plan.finish(flying, Event.DELIVERED, 0, 0.5)
    read = plan.next_read()
    assert read is not None
    plan.loaded(read, [Item(1, "a", 1, 0), Item(2, "a", 1, 0)], gone={2})
    assert taken(plan).sequence == 1
    plan.put_back(7, "b")  # not read yet: it will be found
    plan.put_back(2, "c")
    assert plan.low


def test_what_is_dropped_is_forgotten() -> None:
    plan = plan_of(("a", 1), ("a", 1), ("b", 1))
    plan.forget([Item(2, "a", 1, 0), Item(3, "b", 1, 0), Item(4, "c", 1, 0)])
    plan.finish(taken(plan), Event.FAILED, 0, 0.5)
    plan.forget([Item(1, "a", 1, 0)])
    assert plan.take(5000) is None
    assert plan.attempts() == []


@pytest.mark.parametrize(("chance", "expected"), [(0.0, 800), (0.5, 1000), (1.0, 1200)])
def test_pauses_are_jittered(chance: float, expected: int) -> None:
    assert pause_ms(1, Backoff(first_s=1.0, most_s=60.0, jitter=0.2), chance) == expected


def test_pauses_have_an_end() -> None:
    assert pause_ms(10**6, Backoff(first_s=1.0, most_s=60.0, jitter=0.0), 0.5) == 60_000


def test_the_highest_priority_has_its_turn() -> None:
    turns = Turns(1)
    assert turns.ask(1, 5)
    assert not turns.ask(2, 1)
    assert not turns.ask(3, 9)
    assert turns.contended
    assert turns.give_back() == 3
    assert turns.ask(3, 9)
    assert turns.pass_on(3, 9) is None, "it may go on"
    assert turns.pass_on(3, 0) == 2
    assert turns.ask(2, 1)


def test_whoever_waits_long_has_a_turn() -> None:
    turns = Turns(1)
    turns.ask(1, 9)
    turns.ask(2, 0)
    winners = [turns.pass_on(1, 9) for _ in range(Turns.FAIR_EVERY)]
    assert winners == [None] * (Turns.FAIR_EVERY - 1) + [2]


def test_what_was_granted_is_passed_on() -> None:
    turns = Turns(2)
    assert turns.ask(1, 1)
    assert turns.ask(1, 1)
    assert not turns.ask(2, 1)
    assert turns.give_back() == 2
    assert not turns.ask(3, 1)
    assert turns.withdraw(2) == [3]
    assert turns.withdraw(3) == []
    assert turns.ask(1, 1)


def test_several_turns_may_be_granted() -> None:
    turns = Turns(2)
    turns.ask(1, 1)
    turns.ask(1, 1)
    turns.ask(2, 1)
    assert turns.give_back() == 2
    turns._waiting[2] = 1
    assert turns.give_back() == 2
    assert turns.ask(2, 1)
    assert turns.ask(2, 1)
    assert not turns.ask(2, 1)


def test_a_full_window_reads_no_more() -> None:
    limits = LIMITS._replace(in_flight_max=1)
    plan = Plan(1, 10_000, limits)
    keys = [Item(place, f"k{place}", 1, 0) for place in range(1, limits.window_max + 1)]
    while plan.next_read() is not None:
        read = plan.next_read()
        assert read is not None
        plan.loaded(read, found(read, keys))
        if plan._held * 2 > limits.window_max:
            break
    plan.loaded(Read(plan.cursor, plan.cursor + 200, 200, None, ()), keys[plan._held :])
    assert plan.next_read() is None
    assert not plan.low


def test_one_that_came_back_goes_before_a_failure() -> None:
    plan = plan_of(("a", 1), ("a", 1))
    plan.finish(taken(plan), Event.REJECTED, 0, 0.5)
    plan.finish(taken(plan), Event.FAILED, 0, 0.5)
    plan.put_back(1, "a")
    read = plan.next_read()
    assert read is not None
    plan.loaded(read, [Item(1, "a", 1, 0), Item(2, "a", 1, 0)])
    assert taken(plan).sequence == 1
    assert plan.next_due() is None or plan.take(5000) is None


@pytest.mark.parametrize("event", [Event.RELEASED, Event.FAILED])
def test_one_that_came_back_goes_before_what_flew(event: Event) -> None:
    plan = plan_of(("a", 1), ("a", 1))
    plan.finish(taken(plan), Event.REJECTED, 0, 0.5)
    flying = taken(plan)
    plan.put_back(1, "a")
    assert plan.finish(flying, event, 0, 0.5) is Verdict.KEEP
    read = plan.next_read()
    assert read is not None
    plan.loaded(read, [Item(1, "a", 1, 0), Item(2, "a", 1, 0)])
    assert taken(plan).sequence == 1


def test_a_drop_that_failed_is_read_again() -> None:
    plan = plan_of(("a", 1), ("a", 1))
    plan.forget([Item(2, "a", 1, 0, attempts=3)])
    plan.put_back(2, "a")
    plan.finish(taken(plan), Event.DELIVERED, 0, 0.5)
    read = plan.next_read()
    assert read is not None
    assert (read.key, read.start, read.stop) == ("a", 2, 3)
    plan.loaded(read, [Item(2, "a", 1, 0)])
    assert taken(plan).sequence == 2
