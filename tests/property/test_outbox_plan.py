"""The planner of a route against a plain list: nothing lost, nothing out of order within a key, nobody starved."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edge_runtime.model.ports import Backoff
from edge_runtime.sync.plan import Event, Item, Plan, PlanLimits, Read, Turns, Verdict

LIMITS = PlanLimits(
    in_flight_max=3,
    in_flight_bytes_max=40,
    age_max_ms=50_000,
    attempts_max=4,
    retry=Backoff(first_s=1.0, most_s=4.0, jitter=0.0),
)
KEYS = st.sampled_from(["a", "b", "c", "d"])
ENDS = st.sampled_from([Event.DELIVERED, Event.DELIVERED, Event.FAILED, Event.REJECTED, Event.RELEASED])


class SmallWindow(PlanLimits):
    """A window so small that keys are passed over all the time."""

    __slots__ = ()

    @property
    def key_window_max(self) -> int:
        return 2


class RouteMachine(RuleBasedStateMachine):
    """The disk is a dict; removals reach it late, as they do in a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.disk: dict[int, Item] = {}
        self.gone: set[int] = set()
        self.dead: dict[int, Item] = {}
        self.next = 1
        self.plan = Plan(1, 0, SmallWindow(*LIMITS))
        self.flying: list[Item] = []
        self.due: dict[int, int] = {}

    # --- the disk

    def read(self) -> bool:
        read = self.plan.next_read()
        if read is None:
            return False
        self.plan.loaded(read, self.found(read), self.gone)
        return True

    def found(self, read: Read) -> list[Item]:
        wanted = [
            self.disk[place]
            for place in sorted(self.disk)
            if read.start <= place < read.stop
            and (self.disk[place].key == read.key if read.key is not None else self.disk[place].key not in read.without)
        ]
        return wanted[: read.limit]

    def waiting(self) -> dict[int, Item]:
        return {place: item for place, item in self.disk.items() if place not in self.gone}

    # --- what can happen

    @rule(key=KEYS, size=st.integers(1, 60), count=st.integers(1, 5))
    def append(self, key: str, size: int, count: int) -> None:
        for _ in range(count):
            self.disk[self.next] = Item(self.next, key, size, self.now)
            self.plan.tail = self.next
            self.next += 1

    @rule()
    def read_on(self) -> None:
        self.read()

    @rule()
    def up(self) -> None:
        self.plan.up()

    @rule()
    def down(self) -> None:
        self.plan.down()

    @rule()
    def take(self) -> None:
        had_work = self.plan.has_work(self.now)
        item = self.plan.take(self.now)
        self.sort_out_expired()
        if item is None:
            return
        assert had_work
        assert self.plan.is_up
        assert item.at + LIMITS.age_max_ms > self.now, "nothing that is too old is sent"
        mine = [place for place, other in self.waiting().items() if other.key == item.key]
        assert item.sequence == min(mine), "the first of its key goes first"
        assert self.due.get(item.sequence, 0) <= self.now, "a pause is kept"
        assert item.key not in {other.key for other in self.flying}
        self.flying.append(item)
        assert len(self.flying) <= LIMITS.in_flight_max
        assert len(self.flying) == 1 or sum(other.size for other in self.flying) <= LIMITS.in_flight_bytes_max

    def sort_out_expired(self) -> None:
        expired, self.plan.expired = self.plan.expired, []
        for item in expired:
            assert item.at + LIMITS.age_max_ms <= self.now
            self.gone.add(item.sequence)

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), event=ENDS)
    def finish(self, data: st.DataObject, event: Event) -> None:
        self.end(data.draw(st.sampled_from(self.flying)), event)

    @precondition(lambda self: self.flying)
    @rule(data=st.data())
    def lose_the_link(self, data: st.DataObject) -> None:
        self.end(data.draw(st.sampled_from(self.flying)), Event.UNREACHABLE)
        assert not self.plan.is_up

    def end(self, item: Item, event: Event) -> None:
        self.flying.remove(item)
        verdict = self.plan.finish(item, event, self.now, 0.5)
        if verdict is Verdict.KEEP:
            assert event in (Event.FAILED, Event.RELEASED, Event.UNREACHABLE)
            if event is Event.FAILED:
                self.due[item.sequence] = self.now + 1000 * min(4, 2**item.attempts)
            return
        self.gone.add(item.sequence)
        if verdict is Verdict.BURY:
            assert event is Event.REJECTED or item.attempts + 1 >= 4
            self.dead[item.sequence] = item._replace(attempts=0)

    @rule()
    def flush(self) -> None:
        for place in self.gone:
            del self.disk[place]
        self.gone.clear()

    @precondition(lambda self: self.dead)
    @rule(data=st.data())
    def revive(self, data: st.DataObject) -> None:
        item = self.dead.pop(data.draw(st.sampled_from(sorted(self.dead))))
        if item.sequence in self.gone:
            self.gone.remove(item.sequence)
        self.due.pop(item.sequence, None)
        self.disk[item.sequence] = item._replace(at=self.now)
        self.plan.put_back(item.sequence, item.key)

    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        flying = {item.sequence for item in self.flying}
        can_go = sorted(set(self.waiting()) - flying)
        if can_go:
            chosen = data.draw(st.sets(st.sampled_from(can_go), max_size=4))
            self.plan.forget([self.disk[place] for place in sorted(chosen)])
            self.gone |= chosen

    @rule(passed=st.sampled_from([500, 1000, 4000, 30_000]))
    def wait(self, passed: int) -> None:
        self.now += passed

    @rule()
    def restart(self) -> None:
        self.flush()
        for place, attempts in self.plan.attempts():
            self.disk[place] = self.disk[place]._replace(attempts=attempts)
        self.plan = Plan(1, self.next - 1, SmallWindow(*LIMITS))
        self.flying.clear()
        self.due.clear()

    @invariant()
    def limits_hold(self) -> None:
        assert self.plan._held == sum(len(key.queue) for key in self.plan._keys.values() if key.state.name != "WAITING")
        assert self.plan._held <= self.plan.limits.window_max + 2 * len(self.plan._keys)

    def teardown(self) -> None:
        """From any state on, everything is sent once the link stays up: nothing is lost, nobody starves."""
        for _ in range(40 + 12 * len(self.disk)):
            self.plan.up()
            while self.read():
                pass
            self.take()
            for item in list(self.flying):
                self.end(item, Event.DELIVERED)
            if not self.waiting():
                break
            due = self.plan.next_due()
            if not self.plan.has_work(self.now) and due is not None:
                self.now = max(self.now, due)
        assert not self.waiting(), "all that waits is sent in the end"
        while self.read():
            pass
        assert not self.plan._keys


TestRoute = RouteMachine.TestCase
TestRoute.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)


class TurnsMachine(RuleBasedStateMachine):
    """Routes that share slots: never more than there are, and whoever waits gets one."""

    def __init__(self) -> None:
        super().__init__()
        self.turns = Turns(2)
        self.running: list[int] = []
        self.asked: dict[int, int] = {}  # route -> turns given to others since
        self.granted: list[int] = []

    @rule(route=st.integers(1, 4))
    def ask(self, route: int) -> None:
        if self.turns.ask(route, route):
            self.running.append(route)
            if route in self.granted:
                self.granted.remove(route)
        else:
            self.asked.setdefault(route, 0)
        assert len(self.running) + len(self.granted) <= 2

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        self.running.remove(data.draw(st.sampled_from(self.running)))
        self.grant(self.turns.give_back())

    @rule(route=st.integers(1, 4))
    def withdraw(self, route: int) -> None:
        self.asked.pop(route, None)
        self.granted = [other for other in self.granted if other != route]
        for winner in self.turns.withdraw(route):
            self.grant(winner)

    def grant(self, winner: int | None) -> None:
        if winner is None:
            assert not self.asked
            return
        del self.asked[winner]
        self.granted.append(winner)
        self.asked = {route: passed + 1 for route, passed in self.asked.items()}
        assert all(passed <= 4 * Turns.FAIR_EVERY for passed in self.asked.values()), "nobody waits for ever"

    @invariant()
    def contention_is_known(self) -> None:
        assert self.turns.contended == bool(self.asked)


TestTurns = TurnsMachine.TestCase
TestTurns.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
