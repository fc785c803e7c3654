"""Nodes, a remote state store and the links between them, in memory: one seed decides everything that happens.

The nodes run the product's own journal (SQLite in memory), planner, merge and syncing loop. The order of tasks is
seeded, and so are the faults: lost requests, lost answers, requests that are done long after they were given up,
doubled requests, partitions, crashes at any await, full disks, wall clocks that jump, writes by another process.

A value is an object with one member for every write that it knows of: who writes adds a member to what was there. So
at the end the ledger can say of every acknowledged write where it went.
"""

from __future__ import annotations

import json
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple, TypeVar

import trio

from edge_runtime.model.errors import DriverError, EtagMismatch, StoreUnavailable, Unreachable
from edge_runtime.model.hlc import Clock
from edge_runtime.model.ports import Backoff, DeleteRequest, SetRequest
from edge_runtime.model.sync import Keys
from edge_runtime.store.conflicts import Entry
from edge_runtime.store.journal import Journal, open_journal
from edge_runtime.store.state import StateTable
from edge_runtime.sync.merge import Conflict, Version, merge
from edge_runtime.sync.state import Stamps, StateSync, SyncLimits
from edge_runtime.sync.state_plan import StateRoute
from tests.simulation.disk import Disk, Unanswered
from tests.simulation.stage import Stage

T = TypeVar("T")
PREFIX = "app||orders/"
REMOTE_PREFIX = "site/"
LIMITS = SyncLimits(
    batch_keys_max=3, requests_max=2, keys_max=8, scan_s=15.0, retry=Backoff(1, 20), unreachable=Backoff(1, 20)
)
WALL_MS = 1_700_000_000_000
# What the wall clock may be wrong by: it begins in 1970, is a day behind, an hour or ten years ahead.
JUMPS_MS = (-WALL_MS, -86_400_000, 0, 3_600_000, 3650 * 86_400_000)


class Plan(NamedTuple):
    """What a run is like."""

    conflict: Any = "remote-wins"
    direction: Any = "both"
    nodes: int = 2
    cloud_writes: bool = True
    active_s: float = 300.0
    calm_s: float = 400.0
    late_s: float = 60.0  # by which a request may be late
    hurry: float = 1.0  # everything happens so many times as often
    crowded: bool = False  # the disk is full from time to time


def draw(chance: random.Random) -> Plan:
    """A plan of its own for a seed: short, with all that can happen close together."""
    direction = chance.choice(("both", "both", "up", "down"))
    alone = direction == "up"  # what others write there does not come back
    return Plan(
        chance.choice(("remote-wins", "local-wins", "last-writer", "merge", "app", "keep-both")),
        direction,
        nodes=1 if alone else chance.choice((1, 1, 2)),
        cloud_writes=direction == "down" or (not alone and chance.random() < 0.7),
        active_s=chance.choice((8.0, 15.0, 40.0)),
        calm_s=40.0,
        late_s=10.0,
        hurry=6.0,
        crowded=chance.random() < 0.3,
    )


def flags_of(value: bytes | None) -> set[str]:
    return set() if value is None else set(json.loads(value))


class Removal(NamedTuple):
    """An acknowledged removal, and the writes that it knew of."""

    key: str
    name: str
    saw: set[str]
    who: str


class Ledger:
    """What was acknowledged: writes, and removals with what they removed."""

    def __init__(self) -> None:
        self.count = 0
        self.written: dict[str, str] = {}  # write -> key
        self.removed: list[Removal] = []
        # Removals that the next value of a place comes after; everybody may know those that have reached the remote.
        self._last: dict[tuple[str, str], dict[str, int]] = {}
        self._reached: dict[str, dict[str, int]] = {}
        self.followed: set[str] = set()  # removals at the remote that somebody's new value came after

    def next(self, who: str) -> str:
        self.count += 1
        return f"{who}{self.count}"

    def remove(self, who: str, key: str, value: bytes) -> None:
        name = self.next("-")
        self.removed.append(Removal(key, name, flags_of(value), who))
        self._last.setdefault((who, key), {})[name] = 1

    def reach(self, who: str, key: str) -> None:
        """What was removed at that place is now removed at the remote."""
        self._reached.setdefault(key, {}).update(self._last.get((who, key), {}))

    def create(self, key: str) -> None:
        """A value was written at the remote where there was none, also for those who had removed theirs too."""
        self.followed |= set(self._reached.get(key, ()))
        for (_, where), names in self._last.items():
            if where == key:
                self.followed |= set(names)

    def first(self, who: str, key: str) -> dict[str, int]:
        """The members of a value that is written where there was none: what was removed there before."""
        return {**self._last.get((who, key), {}), **self._reached.get(key, {})}

    def write(self, who: str, key: str, flag: str, *, first: bool) -> None:
        """It is done."""
        self.written[flag] = key
        if first:
            self._last.pop((who, key), None)


class RemoteStore:
    """A state store as Dapr shows it."""

    def __init__(self) -> None:
        self.items: dict[str, tuple[bytes, str]] = {}
        self.removals: dict[str, list[str]] = {}  # who removed each key
        self.ghosts: dict[str, list[bytes]] = {}  # what late requests brought back
        self.created: set[tuple[str, bytes]] = set()
        self.repeated: set[str] = set()  # made, removed by somebody else, and made again as nobody had heard of it
        self._etags = 0

    def save(self, key: str, value: bytes, etag: str | None, first_write: bool) -> None:
        found = self.items.get(key)
        if (etag is not None and (found is None or found[1] != etag)) or (etag is None and first_write and found):
            raise EtagMismatch(key)
        self._etags += 1
        self.items[key] = value, f"e{self._etags}"

    def delete(self, key: str, etag: str | None, who: str) -> None:
        found = self.items.get(key)
        if etag is not None and (found is None or found[1] != etag):
            raise EtagMismatch(key)
        if self.items.pop(key, None) is not None:
            self.removals.setdefault(key, []).append(who)


class Link:
    """One node's way to the remote store."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.partitioned = False
        self.newest: dict[str, int] = {}

    async def bulk_get(self, store: str, keys: Sequence[str]) -> Mapping[str, tuple[bytes, str] | None]:
        assert len(keys) <= 2 * LIMITS.batch_keys_max
        items = self.world.remote.items
        return await self._call(lambda late: {key: items.get(key) for key in keys})

    async def save(self, store: str, key: str, value: bytes, etag: str | None = None, first_write: bool = True) -> None:
        remote = self.world.remote
        removals = len(remote.removals.get(key, ()))

        def do(late: bool) -> None:
            since = remote.removals.get(key, [])[removals:]
            if late and etag is None and set(since) - {self.name}:
                return  # after somebody else's removal nobody can tell it from a new value: Dapr's API has no fence
            remote.save(key, value, etag, first_write)
            if etag is None:
                if (key, value) in remote.created:
                    remote.repeated.add(key)
                remote.created.add((key, value))
                self.world.ledger.create(key.removeprefix(REMOTE_PREFIX))
            if late and since:
                remote.ghosts.setdefault(key, []).append(value)
            if not late and not key.endswith("~hlc"):
                self._check_order(key, value)

        await self._call(do)

    async def delete(self, store: str, key: str, etag: str | None = None) -> None:
        def do(late: bool) -> None:
            self.world.remote.delete(key, etag, self.name)
            self.world.ledger.reach(self.name, key.removeprefix(REMOTE_PREFIX))

        await self._call(do)

    def _check_order(self, key: str, value: bytes) -> None:
        """What one node wrote arrives in the order in which it wrote it."""
        own = [int(flag[1:]) for flag in flags_of(value) if flag[0] == self.name]
        if own:
            assert max(own) >= self.newest.get(key, 0), f"{key}: an older write of {self.name} came after a newer one"
            self.newest[key] = max(own)

    async def _call(self, do: Callable[[bool], T]) -> T:
        chance = self.world.chance
        await trio.sleep(chance.choice([0, 0.01, 0.2]))
        if self.partitioned:
            await trio.sleep(chance.choice([0, 5]))
            raise Unreachable("partitioned")
        fault = chance.random() if self.world.faulty else 1.0
        if fault < 0.06:
            raise Unreachable("the request was lost")
        if fault < 0.12:  # done, and nobody hears of it
            self._do(do)
            await trio.sleep(chance.uniform(0, 3))
            raise Unreachable("the answer was lost")
        if fault < 0.18:
            self.world.nursery.start_soon(self._do_late, do)
            raise Unreachable("the answer was too late")
        if fault < 0.22:
            if chance.random() < 0.5:
                self._do(do)
            raise DriverError("500, whatever that means")
        if fault < 0.28:  # something on the way asked twice
            self._do(do)
        result = do(False)
        await trio.sleep(chance.choice([0, 0.01, 0.2]))
        return result

    def _do(self, do: Callable[[bool], Any], late: bool = False) -> None:
        try:
            do(late)
        except EtagMismatch:
            pass

    async def _do_late(self, do: Callable[[bool], Any]) -> None:
        await trio.sleep(self.world.chance.uniform(0, self.world.plan.late_s))
        self._do(do, late=True)


class Node:
    """One node: its file, and the process that comes and goes."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.disk = Disk()
        self.disk.copy_from(_template())
        self.database = self.disk.open()
        self.link = Link(world, name)
        self.wall_offset_ms = 0
        self.alive = False
        self.scope = trio.CancelScope()
        self.table: Any = None
        self.journal: Any = None
        self.sync: Any = None

    def wall_ms(self) -> int:
        return max(WALL_MS + self.wall_offset_ms + round(trio.current_time() * 1000), 0)

    async def live(self) -> None:
        """One process, until it is killed."""
        with trio.CancelScope() as self.scope:
            self.database = self.disk.open()
            self.table = StateTable(self.database, now=lambda: self.wall_ms() / 1000)
            await self.table.prepare(cleaned=False)
            stamps = Stamps(Clock(self.name, is_right=lambda: self.wall_offset_ms == 0), self.wall_ms)
            journal: Journal = await open_journal(self.database, self.table, stamps, lambda: self.wall_ms() / 1000)
            stamps.go_on_from(await journal.latest_stamp())
            plan = self.world.plan
            route = StateRoute("r", Keys(PREFIX), "cloud", REMOTE_PREFIX, plan.direction, plan.conflict, poll_s=10.0)
            journal.add_route(route.name, route.keys)
            self.journal = journal
            self.sync = StateSync(
                route, journal, self.link, stamps, ask=self.ask, limits=LIMITS, chance=self.world.chance.random
            )
            async with trio.open_nursery() as nursery:
                await nursery.start(self.sync.run)
                self.alive = True
                await trio.sleep_forever()
        self.alive = False

    def kill(self) -> None:
        """The process ends, whatever it does at this moment."""
        self.alive = False
        self.database.dead = True
        self.scope.cancel()

    async def ask(self, conflict: Conflict) -> Version:
        chance = self.world.chance
        await trio.sleep(chance.choice([0, 0.5]))
        if self.world.faulty and chance.random() < 0.3:
            raise DriverError("the app is away")
        merged = merge(conflict.base, conflict.local.value, conflict.remote.value)
        return Version(chance.choice([conflict.local.value, conflict.remote.value, merged.value]))

    # --- what its app does

    async def write(self, key: str) -> None:
        item = await self.table.get(PREFIX + key)
        value = self.world.ledger.first(self.name, key) if item is None else json.loads(item.value)
        flag = self.world.ledger.next(self.name)
        value[flag] = 1
        request = SetRequest(PREFIX + key, json.dumps(value).encode(), item and item.etag, item is None)
        if await self._done(lambda: self.table.set(request)):
            self.world.ledger.write(self.name, key, flag, first=item is None)

    async def remove(self, key: str) -> None:
        item = await self.table.get(PREFIX + key)
        if item is None:
            return
        if await self._done(lambda: self.table.delete(DeleteRequest(PREFIX + key, item.etag))):
            self.world.ledger.remove(self.name, key, item.value)

    async def _done(self, change: Callable[[], Awaitable[Any]]) -> bool:
        """Is it on disk? The app does not hear of it when the process dies first; what is there counts all the same."""
        try:
            await change()
        except Unanswered:
            return True
        except (EtagMismatch, StoreUnavailable):
            return False
        return True

    async def as_another_process(self, act: Callable[[str], Any], key: str) -> None:
        """No journal hears of it."""
        tap = self.database.taps["state"]
        journal, tap.journal = tap.journal, None
        try:
            await act(key)
        finally:
            tap.journal = journal


class World:
    """Everything, and what happens to it."""

    def __init__(self, stage: Stage, plan: Plan) -> None:
        self.plan = plan
        self.stage = stage
        self.chance = stage.chance
        self.ledger = Ledger()
        self.remote = RemoteStore()
        self.nodes: list[Node] = []
        self.faulty = True
        self.nursery: Any = None
        self.disputes: list[Entry] = []

    async def run(self) -> None:
        self.nodes = [Node(self, "abcdef"[number]) for number in range(self.plan.nodes)]
        async with trio.open_nursery() as self.nursery:
            for node in self.nodes:
                self.nursery.start_soon(self._keep_alive, node)
            with trio.move_on_after(self.plan.active_s):
                async with trio.open_nursery() as busy:
                    for node in self.nodes:
                        busy.start_soon(self._use, node)
                        busy.start_soon(self._trouble, node)
                    if self.plan.cloud_writes:
                        busy.start_soon(self._use_cloud)
            await self._calm_down()
            await self._check()
            self.nursery.cancel_scope.cancel()

    async def _pause(self, seconds: float) -> None:
        await trio.sleep(seconds / self.plan.hurry)

    async def _keep_alive(self, node: Node) -> None:
        while True:
            await node.live()
            await trio.sleep(self.chance.uniform(0, 10) if self.faulty else 0)

    async def _use(self, node: Node) -> None:
        while True:
            await self._pause(self.chance.choice([0.1, 1, 10, 30]))
            if not node.alive:
                continue
            key = self.chance.choice("kmn")
            act = node.remove if self.chance.random() < 0.25 else node.write
            if self.chance.random() < 0.15:
                await node.as_another_process(act, key)
            else:
                await act(key)

    async def _use_cloud(self) -> None:
        while True:
            await self._pause(self.chance.choice([1, 10, 40]))
            key = self.chance.choice("kmn")
            found = self.remote.items.get(REMOTE_PREFIX + key)
            if found is not None and self.chance.random() < 0.25:
                self.remote.delete(REMOTE_PREFIX + key, None, "z")
                self.ledger.remove("z", key, found[0])
                self.ledger.reach("z", key)
            else:
                flag = self.ledger.next("z")
                value = {**(self.ledger.first("z", key) if found is None else json.loads(found[0])), flag: 1}
                # A cloud app's library may spell it another way each time.
                if found is None:
                    self.ledger.create(key)
                text = json.dumps(value, indent=self.chance.choice([None, 1]), sort_keys=self.chance.random() < 0.5)
                self.remote.save(REMOTE_PREFIX + key, text.encode(), None, False)
                self.ledger.write("z", key, flag, first=found is None)
            for node in self.nodes:
                if node.alive and self.chance.random() < 0.6:
                    self.nursery.start_soon(self._tell, node, [REMOTE_PREFIX + key, "elsewhere"])

    async def _tell(self, node: Node, keys: list[str]) -> None:
        """A change topic gives its event until the node has noted it."""
        while True:
            try:
                await node.sync.follow(keys)
                return
            except StoreUnavailable:
                await trio.sleep(1)

    async def _trouble(self, node: Node) -> None:
        while True:
            await self._pause(self.chance.uniform(0, 40))
            what = self.chance.random()
            if what < 0.35:
                node.link.partitioned = not node.link.partitioned
                if not node.link.partitioned and node.alive and self.chance.random() < 0.5:
                    node.sync.up()
            elif what < 0.7:
                self.stage.at_step(self.chance.randrange(1, 40), node.kill)
            elif what < 0.85:
                node.wall_offset_ms = self.chance.choice(JUMPS_MS)
            elif self.plan.crowded:
                node.disk.fill()
                await self._pause(self.chance.uniform(0, 20))
                node.disk.clean_up()

    async def _calm_down(self) -> None:
        """No more faults: what is late arrives, then everything has its time."""
        self.faulty = False
        self.stage.disarm()
        for node in self.nodes:
            node.link.partitioned = False
            node.disk.clean_up()
        await trio.sleep(self.plan.late_s + 40)
        for node in self.nodes:
            node.sync.up()
            await self._tell(node, [REMOTE_PREFIX + key for key in "kmn"])
        await trio.sleep(self.plan.calm_s)

    # --- what must hold

    async def _check(self) -> None:
        if self.plan.direction == "down":
            await self._check_down()
            return
        entries = [entry for node in self.nodes for entry in await node.journal.inbox.entries(0, 10_000)]
        self.disputes = entries
        for key in "kmn":
            final = self.remote.items.get(REMOTE_PREFIX + key)
            await self._check_converged(key, None if final is None else final[0])
            known = [entry for entry in entries if entry.key == PREFIX + key]
            self._check_key(key, None if final is None else final[0], known)

    async def _check_converged(self, key: str, final: bytes | None) -> None:
        for node in self.nodes:
            item = await node.table.get(PREFIX + key)
            here = None if item is None else json.loads(item.value)
            there = None if final is None else json.loads(final)
            assert here == there, f"{key} is {here} on node {node.name} and {there} at the remote"
            pending = await node.journal.pending(Keys(PREFIX), "", 100)
            assert not pending, f"node {node.name} has still to send {pending}"

    async def _check_down(self) -> None:
        """Nodes write nothing there, follow it where they have not written, and lose nothing where they have."""
        for key in "kmn":
            item = self.remote.items.get(REMOTE_PREFIX + key)
            final = None if item is None else item[0]
            there = None if final is None else json.loads(final)
            names = {flag[0] for flag in flags_of(final)} - {"-"}
            assert names <= {"z"}, f"{key}: somebody but the cloud has written {there}"
            for node in self.nodes:
                await self._check_follows(node, key, there)

    async def _check_follows(self, node: Node, key: str, there: Any) -> None:
        item = await node.table.get(PREFIX + key)
        here = None if item is None else json.loads(item.value)
        own = {flag for flag, where in self.ledger.written.items() if where == key and flag[0] == node.name}
        removals = [one for one in self.ledger.removed if one.key == key and one.who == node.name]
        if not own and not removals:
            assert here == there, (
                f"{key} is {here} on node {node.name}, which never wrote it, and {there} at the remote"
            )
        kept = set(here or ()) | {flag for removal in removals for flag in removal.saw}
        for entry in await node.journal.inbox.entries(0, 10_000):
            kept |= flags_of(entry.dispute.local) | flags_of(entry.dispute.remote)
        assert own <= kept, f"{own - kept} of {key} is lost on node {node.name}"

    def _check_key(self, key: str, final: bytes | None, entries: list[Entry]) -> None:
        kept = flags_of(final)
        for entry in entries:
            kept |= flags_of(entry.dispute.local) | flags_of(entry.dispute.remote)
        removals = [removal for removal in self.ledger.removed if removal.key == key]
        for flag, where in self.ledger.written.items():
            if where == key:
                assert flag in kept or any(flag in removal.saw for removal in removals), f"{flag} of {key} is lost"
        ghosts = self.remote.ghosts.get(REMOTE_PREFIX + key)
        if ghosts:  # its node takes it away again, unless another one has built upon it
            assert final not in ghosts, f"{key} came back: {final!r} was brought by a late request"
            return
        if REMOTE_PREFIX + key in self.remote.repeated:
            return
        lost_removal = any(entry.dispute.local is None or entry.dispute.remote is None for entry in entries)
        for removal in reversed(removals):
            if removal.name in kept:  # what came after it lost and is in an inbox, and so is all that went before
                kept |= removal.saw
            there = {flag for flag in removal.saw & flags_of(final) if flag[0] != "-"}
            followed = removal.name in kept or removal.name in self.ledger.followed
            assert not there or lost_removal or followed, f"{key} came back: {there} of {removal}"


@cache
def _template() -> bytes:
    """A file with every table that the product makes in it."""
    disk = Disk()

    async def make() -> None:
        database = disk.open()
        table = StateTable(database)
        await table.prepare(cleaned=False)
        await open_journal(database, table, Stamps(Clock(""), lambda: 0), lambda: 0.0)

    trio.run(make)
    return disk.connection.serialize()


def simulate(seed: int, plan: Plan | None = None) -> World:
    """Run it; a plan that is not given is drawn. The same seed always does the same."""
    _template()
    stage = Stage(seed)
    plan = draw(stage.chance) if plan is None else plan
    world = World(stage, plan)
    try:
        stage.run(world.run)
    except BaseException as error:
        error.add_note(f"seed {seed}, {plan}")
        raise
    finally:
        for node in world.nodes:
            node.disk.close()
    return world
