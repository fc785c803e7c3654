"""Nodes whose apps publish and subscribe over cloud links that fail in every way: one seed decides everything.

Each node runs the product's outbox on SQLite in memory, its planner, its cloud link with HTTP client, budget and
probes, and the routes of topics up and down. Ours are the network, the sidecars, the broker, the disk and the clocks.

Every publish that was acknowledged has to be acted on by the cloud's app once, in the order of its key, or to be a dead
letter, or to stand in the ledger of drops. Every event of the cloud has to reach each node's app once.
"""

from __future__ import annotations

import json
import logging
import random
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, nullcontext
from contextvars import ContextVar
from functools import cache
from typing import Any, Final, NamedTuple

import trio

import edge_runtime.sync.link_keeper as link_module
from edge_runtime.config.links import CloudLink, TopicDown, TopicUp
from edge_runtime.model.errors import DriverError, Overloaded, StoreUnavailable
from edge_runtime.model.ports import EntryId
from edge_runtime.observability.metrics import Metrics
from edge_runtime.store.outbox import open_outbox_store
from edge_runtime.sync.forward import Outbox, open_outbox
from edge_runtime.sync.link import Link
from edge_runtime.sync.link_files import DayFile
from edge_runtime.sync.link_settings import Clocks, LinkLimits, LinkMetrics, LinkSettings
from edge_runtime.sync.links import Guest, SharedLink
from tests.simulation.cloud import Broker, Reader, Sidecar, Troubles
from tests.simulation.disk import Disk, OneDatabase, ProcessDatabase, Unanswered
from tests.simulation.network import Faults, Line, Way
from tests.simulation.stage import Stage

WALL_S: Final = 1_700_000_000.0
DAY_S: Final = 86_400.0
# What the wall clock may be wrong by: it begins in 1970, is a day behind, an hour or ten years ahead.
JUMPS_S: Final = (-WALL_S, -DAY_S, 0.0, 3600.0, 3650 * DAY_S)
ROUTE: Final = "link/cloud/pubsub/orders"
POISONED: Final = "p"
_ENTRY_BYTES_MAX: Final = 600  # about what an event of ours counts with
_CALL_BYTES: Final = 3000  # an event on its way, in both directions, with heads and what is said twice


class Plan(NamedTuple):
    """What a run is like."""

    nodes: int = 1
    publishers: int = 2  # a node's
    keys: str = "kmnp"
    pause_s: float = 3.0  # between an app's publishes, in the mean
    burst: int = 1  # publishes at once
    active_s: float = 60.0
    late_s: float = 20.0
    trouble_s: float = 12.0  # between two faults of a node, in the mean
    bytes_max: int = 0  # 0: more than there will be
    age_max_s: float = 7 * DAY_S
    when_full: Any = "refuse"
    bytes_per_second: int = 0
    bytes_per_day: int = 0
    metered: bool = False
    poison: bool = True
    probe_s: float = 30.0
    pause_most_s: float = 60.0  # between two tries of a link that is down
    outage_s: float = 0.0  # a long one, on purpose
    down: bool = False
    cloud_pause_s: float = 0.0  # between the cloud's own events; 0: none
    faults: Faults = Faults()
    troubles: Troubles = Troubles()

    @property
    def drops(self) -> bool:
        """May the node drop something?"""
        return bool(self.bytes_max) or self.age_max_s < max(self.outage_s, DAY_S)


def draw(chance: random.Random) -> Plan:
    """A plan of its own for a seed: mostly short and plain, each difficulty now and then."""
    down = chance.random() < 0.25
    small = chance.random() < 0.2
    limited = chance.random()
    return Plan(
        nodes=2 if chance.random() < 0.1 else 1,
        publishers=chance.choice((1, 1, 1, 2)),
        pause_s=chance.choice((0.7, 1.5, 3.0)),
        burst=4 if limited < 0.1 else chance.choice((1, 1, 1, 1, 4)),
        active_s=chance.choice((4.0, 6.0, 6.0, 10.0, 15.0)),
        trouble_s=chance.choice((1.0, 2.0, 4.0)),
        bytes_max=chance.choice((1500, 4000)) if small else 0,
        age_max_s=chance.choice((5.0, 20.0)) if chance.random() < 0.1 else 60 * DAY_S,
        when_full=chance.choice(("refuse", "drop-oldest", "drop-lowest-priority")),
        bytes_per_second=chance.choice((300, 2000)) if limited < 0.1 else 0,
        bytes_per_day=chance.choice((4000, 12_000)) if limited > 0.99 else 0,
        metered=chance.random() < 0.3,
        poison=chance.random() < 0.2,
        down=down,
        cloud_pause_s=chance.choice((0.0, 3.0)) if down else 0.0,
    )


class SimulatedLink(Link):
    """The product's link over our network."""

    def __init__(self, node: Node, *args: Any) -> None:
        super().__init__(*args)
        self._node = node
        self._dialer = _Dialer(node, self._counting(""))  # type: ignore[assignment]

    def _counting(self, kind: str) -> Callable[[int, int], None]:
        def count(sent: int, received: int) -> None:
            self._node.charged(sent + received)
            self._meter.count(sent, received, kind)

        return count

    @asynccontextmanager
    async def _open_grpc(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        yield _Streams(self._node, self._counting("topics-down"))


class _Dialer:
    """`Dialer`, on our network."""

    def __init__(self, node: Node, count: Callable[[int, int], None]) -> None:
        self._node, self._count = node, count

    async def dial(self, origin: Any, tls: Any, timeout_s: float) -> Line:
        return await self._node.way.dial(origin, timeout_s, self._count)

    async def can_reach(self, origin: Any, timeout_s: float) -> bool:
        try:
            await self._node.way.reach(origin, timeout_s)
        except DriverError:
            return False
        return True


class _Streams:
    """`GrpcClient`, as far as subscriptions need it."""

    def __init__(self, node: Node, count: Callable[[int, int], None]) -> None:
        self._node, self._count = node, count

    def open_call(self, path: str, metadata: Any = (), timeout_s: float | None = None) -> Any:
        return self._node.way.call(self._count)


class _RouteChanges:
    """What the kernel tells, on our network."""

    def __init__(self, way: Way) -> None:
        self._way = way

    async def wait(self) -> None:
        await self._way.told.wait()


# The way of the node whose process this task belongs to: the kernel is asked without a name.
_current_way: ContextVar[Way] = ContextVar("current_way")


@asynccontextmanager
async def _open_route_changes() -> AsyncIterator[_RouteChanges]:
    yield _RouteChanges(_current_way.get())


class _Recorder:
    """The route's end, which notes what became an entry."""

    def __init__(self, route: Any, note: Callable[[str, EntryId], None]) -> None:
        self._route, self._note = route, note

    async def append(self, key: str, payload: Any, **more: Any) -> EntryId:
        entry: EntryId = await self._route.append(key, payload, **more)
        self._note(json.loads(payload["data"])["id"], entry)
        return entry

    def __getattr__(self, name: str) -> Any:
        return getattr(self._route, name)


class LocalTopics:
    """A node's own broker: durable, and refused while the disk is full."""

    topic_prefix = ""

    def __init__(self, node: Node, database: ProcessDatabase) -> None:
        self._node, self._database = node, database

    @property
    def driver(self) -> Any:
        return self

    async def publish(self, topic: str, data: bytes, metadata: Mapping[str, str]) -> None:
        if topic != "commands":
            return
        await trio.lowlevel.checkpoint()
        if self._database.dead or self._node.disk.full:
            raise StoreUnavailable("the disk is full, or nobody writes any more")
        self._node.app.get(json.loads(data))
        await trio.lowlevel.checkpoint()
        if self._database.dead:
            raise Unanswered("the process died after its commit")


class Node:
    """One node: its disk, its clocks, and the process that comes and goes."""

    def __init__(self, world: World, name: str, sidecar: Sidecar) -> None:
        plan = world.plan
        self.world, self.name, self.stage = world, name, world.stage
        self.disk = Disk()
        self.disk.copy_from(_template())
        self.sidecar = sidecar
        self.way = Way(world.stage, sidecar, plan.faults, plan.late_s)
        self.app = Reader(world.stage)  # what reads the topic on the node
        self.accepted: list[str] = []
        self.accepted_at: dict[str, float] = {}
        self.unanswered: set[str] = set()
        self.entries: dict[str, EntryId] = {}
        self.wall_offset_s = 0.0
        self.clock_went_ahead = False
        self.boots = 0
        self.booted_at = 0.0
        self.alive = False
        self.lives = 0
        self.database = self.disk.open()
        self.scope = trio.CancelScope()
        self.outbox: Outbox
        self.shared: SharedLink
        self._bytes = 0
        self._began_at = 0.0

    # --- clocks

    def wall(self) -> float:
        return max(WALL_S + self.wall_offset_s + self.stage.now, 0.0)

    def up_ms(self) -> int:
        return round((self.stage.now - self.booted_at) * 1000) + 5000

    def boot(self) -> str:
        return f"boot {self.boots}"

    # --- the process

    async def live(self) -> None:
        """One life, until it is killed or stopped."""
        chance = self.stage.chance.random
        clocks = Clocks(self.wall, time.gmtime, chance)
        plan = self.world.plan
        self._bytes, self._began_at = 0, self.stage.now
        self.lives += 1
        with trio.CancelScope() as self.scope:
            database = self.database = self.disk.open()
            metrics = Metrics()
            async with open_outbox(
                OneDatabase(database),  # type: ignore[arg-type]
                "",
                metrics,
                clock_ms=self.up_ms,
                wall=self.wall,
                boot=self.boot,
                is_right=lambda: self.wall_offset_s == 0.0,
                chance=chance,
            ) as outbox:
                self.outbox = outbox
                day = DayFile(f"{self.world.folder}/{self.name}.json", self.wall)
                link = SimulatedLink(self, _settings(plan), LinkMetrics(metrics), day, clocks)
                shared = self.shared = SharedLink(link, outbox, lambda: outbox.node, clocks)
                shared.guests.append(Guest("app", {"pubsub": LocalTopics(self, database)}))
                _current_way.set(self.way)
                async with trio.open_nursery() as nursery:
                    await nursery.start(shared.run)
                    self._record()
                    self.alive = True
                    await trio.sleep_forever()
        self.alive = False

    def _record(self) -> None:
        for up in self.shared._ups:
            if up.route is not None:
                up.route = _Recorder(up.route, self.entries.__setitem__)

    def kill(self) -> None:
        """The process ends, whatever it does at this moment."""
        self.alive = False
        self.database.dead = True
        self.way.sever()
        self.scope.cancel()

    def stop(self) -> None:
        """It is asked to end."""
        self.alive = False
        self.scope.cancel()

    def reboot(self) -> None:
        self.kill()
        self.boots += 1
        self.booted_at = self.stage.now

    # --- what its apps do

    async def publish(self, event_id: str, key: str, text: str) -> bool:
        """Whether it may be in the outbox."""
        if not self.alive or not self.shared._ups or self.shared._ups[0].route is None:
            return False
        event = {
            "specversion": "1.0", "id": event_id, "source": self.name, "type": "t",
            "data": {"key": key, "text": text},
        }  # fmt: skip
        data = json.dumps(event).encode()
        try:
            await self.shared.forwards()["pubsub", "orders"](data, {"partitionKey": key})
        except Unanswered:
            self.unanswered.add(event_id)
            return True
        except (Overloaded, StoreUnavailable):
            return False
        self.accepted.append(event_id)
        self.accepted_at[event_id] = self.stage.now
        self._check_room()
        return True

    def _check_room(self) -> None:
        limit = self.world.plan.bytes_max
        if limit and self.alive:
            held = self.outbox.state(ROUTE).bytes
            if held > limit:
                self.stage.fail(f"node {self.name}: {held} bytes wait in a route of {limit}")

    def charged(self, count: int) -> None:
        """Bytes have crossed: is the second's budget kept in the mean?"""
        rate = self.world.plan.bytes_per_second
        self._bytes += count
        if rate and self._bytes > rate * (self.stage.now - self._began_at) + rate + 4 * _ENTRY_BYTES_MAX:
            self.stage.fail(f"node {self.name}: {self._bytes} bytes in {self.stage.now - self._began_at:.1f} s")
        if self.world.plan.bytes_per_day:
            self.world.days.setdefault(self.name, []).append((self.stage.now, count))


class World:
    """Everything, and what happens to it."""

    def __init__(self, stage: Stage, plan: Plan, folder: str = "") -> None:
        self.stage, self.plan, self.folder = stage, plan, folder
        self.chance = stage.chance
        self.broker = Broker(stage)
        self.broker.acted = self._acted
        self.faulty = True
        self.nodes: list[Node] = []
        self.days: dict[str, list[tuple[float, int]]] = {}
        self.published = 0
        self._newest: dict[tuple[str, str], int] = {}
        self._overtaken: list[str] = []
        self._retried = False
        self._nursery: Any = None

    def open(self) -> None:
        for number in range(self.plan.nodes):
            poisoned = POISONED if self.plan.poison else ""
            sidecar = Sidecar(self.stage, self.broker, self.plan.troubles, poisoned)
            self.nodes.append(Node(self, "abc"[number], sidecar))

    def close(self) -> None:
        for node in self.nodes:
            node.disk.close()

    async def run(self) -> None:
        self.open()
        async with trio.open_nursery() as self._nursery:
            for node in self.nodes:
                self._nursery.start_soon(self.keep_alive, node)
            with trio.move_on_after(self.plan.active_s):
                async with trio.open_nursery() as busy:
                    for node in self.nodes:
                        for number in range(self.plan.publishers):
                            busy.start_soon(self._use, node, f"{node.name}{number}")
                        busy.start_soon(self._trouble, node)
                    if self.plan.cloud_pause_s:
                        busy.start_soon(self._use_cloud)
            await self.calm_down()
            await self.check()
            self._nursery.cancel_scope.cancel()

    async def keep_alive(self, node: Node) -> None:
        while True:
            try:
                await node.live()
            except* StoreUnavailable:  # as on a full disk: what looks after the process starts it again
                node.alive = False
            await trio.sleep(self.chance.uniform(0, 8) if self.faulty else 0.1)

    # --- what apps do

    async def _use(self, node: Node, who: str) -> None:
        number = 0
        while True:
            await trio.sleep(self.chance.expovariate(1 / self.plan.pause_s))
            for _ in range(self.plan.burst):
                number += 1
                await self.publish(node, who, number)

    async def publish(self, node: Node, who: str, number: int) -> bool:
        key = self.chance.choice(self.plan.keys)
        self.published += 1
        return await node.publish(f"{who}-{number}", key, "x" * self.chance.choice((0, 10, 100)))

    async def _use_cloud(self) -> None:
        number = 0
        while True:
            await trio.sleep(self.chance.expovariate(1 / self.plan.cloud_pause_s))
            number += 1
            self.broker.append(
                {"specversion": "1.0", "id": f"z-{number}", "source": "z", "type": "t",
                 "data": {"key": "z", "text": ""}}
            )  # fmt: skip

    # --- faults

    async def _trouble(self, node: Node) -> None:
        while True:
            await trio.sleep(self.chance.expovariate(1 / self.plan.trouble_s))
            what = self.chance.random()
            if what < 0.3:
                await self._partition(node)
            elif what < 0.5:
                self.stage.at_step(self.chance.randrange(1, 60), node.kill)
            elif what < 0.55:
                self.stage.at_step(self.chance.randrange(1, 60), node.reboot)
            elif what < 0.6:
                node.stop()
            elif what < 0.7:
                await self._fill_disk(node)
            elif what < 0.8:
                self.jump(node, self.chance.choice(JUMPS_S))
            elif what < 0.9:
                await self._close_sidecar(node)
            else:
                node.way.break_all()

    async def _partition(self, node: Node) -> None:
        visible = self.chance.random() < 0.5
        node.way.cut(visible=visible)
        try:
            await trio.sleep(self.chance.expovariate(1 / 12))
        finally:
            node.way.mend(visible=visible)

    async def _fill_disk(self, node: Node) -> None:
        node.disk.fill()
        try:
            await trio.sleep(self.chance.uniform(0, 10))
        finally:
            node.disk.clean_up()

    async def _close_sidecar(self, node: Node) -> None:
        sidecar = node.sidecar
        if self.chance.random() < 0.5:
            sidecar.healthy = False
        else:
            sidecar.listens = False
            node.way.break_all()
        try:
            await trio.sleep(self.chance.uniform(0, 15))
        finally:
            sidecar.healthy = sidecar.listens = True

    def jump(self, node: Node, offset_s: float) -> None:
        node.clock_went_ahead |= offset_s > node.wall_offset_s
        node.wall_offset_s = offset_s

    # --- the end of all faults

    async def calm_down(self) -> None:
        self.faulty = self.broker.faulty = False
        self.stage.disarm()
        for node in self.nodes:
            node.way.faulty = node.sidecar.faulty = False
        await trio.sleep(self.plan.late_s + 35)
        await self._until(self._settled)
        for node in self.nodes:
            await self._check_dead(node)
            node.sidecar.poisoned = ""
        self._retried = True
        for node in self.nodes:
            await node.outbox.retry(ROUTE)
        await self._until(self._settled)

    async def _until(self, settled: Callable[[], str]) -> None:
        """A key that failed waits five minutes at most; a budget may need longer, a day's some days."""
        limit_s = 500.0 + (50 * DAY_S if self.plan.bytes_per_day else 0.0)
        if self.plan.bytes_per_second:
            limit_s += len(self.broker.log) * _CALL_BYTES / self.plan.bytes_per_second
        deadline = self.stage.now + limit_s
        pause_s = 0.5
        while why := settled():
            if self.stage.now > deadline:
                self.stage.fail(f"{limit_s:.0f} s after the last fault {why}")
            await trio.sleep(pause_s)
            pause_s = min(pause_s * 1.5, 600.0)

    def _settled(self) -> str:
        """Empty, or what is not done yet."""
        for node in self.nodes:
            if not node.alive:
                return f"node {node.name} does not run"
            waiting = node.outbox.state(ROUTE)
            if waiting.entries:
                return f"node {node.name} has {waiting.entries} entries: {waiting}"
            if self.plan.down and node.sidecar.next < len(self.broker.log):
                return f"node {node.name} has acknowledged {node.sidecar.next} of {len(self.broker.log)} events"
        return ""

    # --- what must hold

    def _acted(self, event: dict[str, Any], late: bool) -> None:
        """The cloud's app acts on an event: in the order in which one app published to one key."""
        who, _, number = event["id"].partition("-")
        place = who, event["data"]["key"]
        if int(number) < self._newest.get(place, 0):
            if self._retried:  # somebody has put a dead letter back
                return
            if self.plan.drops:  # its request came late after all, when it had been dropped: the ledger will tell
                self._overtaken.append(event["id"])
            else:
                self.stage.fail(f"{event['id']} of key {place[1]} came after {who}-{self._newest[place]}")
            return
        self._newest[place] = int(number)

    async def _check_dead(self, node: Node) -> None:
        """A dead letter is what the sidecar has refused in its own words."""
        for letter in node.outbox.dead_letters(ROUTE, limit=100_000):
            assert letter.content is not None
            event_id = json.loads(letter.content.payload["data"])["id"]  # type: ignore[call-overload]
            if event_id not in node.sidecar.refused:
                self.stage.fail(f"{event_id} is a dead letter, and nobody refused it: {letter.reason}")

    async def check(self) -> None:
        for node in self.nodes:
            self._check_delivered(node)
            self._check_days(node)
            if self.plan.down:
                self._check_down(node)

    def _check_delivered(self, node: Node) -> None:
        """Everything that was acknowledged has arrived, or the ledger says why not."""
        missing = [one for one in node.accepted if one not in self.broker.reader.ids]
        lines = node.outbox.ledger(ROUTE)
        if missing and not self.plan.drops:
            self.stage.fail(f"{missing} were acknowledged and are lost")
        if lines and not self.plan.drops:
            self.stage.fail(f"something was dropped: {lines}")
        if len(missing) > sum(line.entries for line in lines):
            self.stage.fail(f"{len(missing)} are missing, and the ledger knows of {lines}")
        gone = missing + [one for one in self._overtaken if one.startswith(node.name)]
        for event_id in gone:
            entry = node.entries.get(event_id)
            if entry and not any(line.first <= entry.sequence <= line.last for line in lines):
                self.stage.fail(f"{event_id} is missing, or was overtaken, and no line of the ledger has it")
        totals = node.outbox.dropped(ROUTE)
        if sum(count for count, _ in totals.values()) != sum(line.entries for line in lines):
            self.stage.fail(f"the ledger's sums {totals} are not those of its lines")

    def _check_days(self, node: Node) -> None:
        """In no 24 hours of a link's day may more cross than the budget has."""
        limit = self.plan.bytes_per_day
        if not limit or node.clock_went_ahead:  # a clock that went ahead makes a new day of it after a restart
            return
        spent = 0
        began: float | None = None
        for now, count in self.days.get(node.name, ()):
            if began is None or now >= began + DAY_S:
                began, spent = now, 0
            spent += count
            if spent > limit + 16 * _ENTRY_BYTES_MAX:
                self.stage.fail(f"node {node.name}: {spent} bytes in a day of {limit}")

    def _check_down(self, node: Node) -> None:
        """All of the cloud's events are here, but those that the node itself has sent."""
        own = {event["id"] for event in self.broker.log if event["source"] == node.name}
        there = {event["id"] for event in self.broker.log} - own
        if here := node.app.ids & own:
            self.stage.fail(f"node {node.name} got back what it had sent: {here}")
        if missing := there - node.app.ids:
            self.stage.fail(f"{missing} did not come down to node {node.name}")


def _settings(plan: Plan) -> LinkSettings:
    return LinkSettings(_resource(plan), limits=LinkLimits(pause_most_s=plan.pause_most_s))


def _resource(plan: Plan) -> CloudLink:
    up = TopicUp("pubsub", "orders", "kafka", "orders", when_full=plan.when_full, age_max_s=plan.age_max_s)
    if plan.bytes_max:
        up = up._replace(bytes_max=plan.bytes_max)
    return CloudLink(
        "cloud",
        "http://192.0.2.1:3500",
        "http://192.0.2.1:50001",
        bytes_per_second=plan.bytes_per_second,
        bytes_per_day=plan.bytes_per_day,
        metered=plan.metered,
        probe_s=plan.probe_s,
        topics_up=(up,),
        topics_down=(TopicDown("kafka", "orders", "pubsub", "commands"),) if plan.down else (),
    )


class _Problems(logging.Handler):
    """What the product caught and logged with a traceback is a failure here."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(logging.ERROR)
        self._stage = stage

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not None:
            self._stage._failed(record.exc_info[1])


@cache
def _template() -> bytes:
    """A file with every table that the product makes in it."""
    disk = Disk()

    async def make() -> None:
        database = disk.open()
        await open_outbox_store(database)
        disk.connection.execute("DELETE FROM node_identity")

    trio.run(make)
    return disk.connection.serialize()


def simulate(seed: int, plan: Plan | None = None) -> World:
    """Run it. The same seed always does the same."""
    stage = Stage(seed)
    drawn = draw(stage.chance)
    return stage_world(stage, drawn if plan is None else plan, World.run)


def stage_world(stage: Stage, plan: Plan, main: Callable[[World], Any]) -> World:
    """Do something with a world."""
    _template()
    logger = logging.getLogger("dapr.runtime")
    handler, level = _Problems(stage), logger.level
    product: Any = link_module
    kernel, product.open_route_changes = product.open_route_changes, _open_route_changes
    logger.addHandler(handler)
    logger.setLevel(logging.ERROR)
    try:
        with tempfile.TemporaryDirectory() if plan.bytes_per_day else nullcontext("") as folder:
            world = World(stage, plan, folder)
            try:
                stage.run(lambda: main(world))
            finally:
                world.close()
    except BaseException as error:
        error.add_note(f"seed {stage.seed}, {plan}")
        raise
    finally:
        product.open_route_changes = kernel
        logger.removeHandler(handler)
        logger.setLevel(level)
    return world
