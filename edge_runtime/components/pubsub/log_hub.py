"""A log file in this process, however many apps and components use it: topics, groups, the bell, the tidying."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Final

import trio

from edge_runtime.components.pubsub.log_group import STORE_RETRY_S, Counts, Group, GroupSettings, OpenTopic
from edge_runtime.model.errors import DriverError
from edge_runtime.store.log import Drop, Limits, Log, Standing, Topic
from edge_runtime.store.log_wakes import Bells

logger: Final = logging.getLogger("dapr.contrib")

AGE_CHECK_MOST_S: Final = 3600.0
DROP_LINE_EVERY_S: Final = 60.0
LONG_AGO: Final = -(1 << 62)
LOSSES_MAX: Final = 1000  # single losses that wait to be written, and lines of drops that are remembered


class Hub:
    """One file in this process: its open topics and groups, the bell, and the tidying."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.counts = Counts()
        self.bells = _open_bells(log.database.path)
        self.users = 0
        self._topics: dict[int, OpenTopic] = {}
        self._groups: dict[tuple[int, str], Group] = {}
        self._tending = trio.Lock()
        self._hung = trio.Event()
        self._untidy = trio.Event()
        self._losses: list[tuple[Topic, str, str, int, int]] = []
        self._drop_lines: dict[tuple[str, str, str], tuple[float, int]] = {}

    def close(self) -> None:
        if self.bells is not None:
            self.bells.close()

    async def open_topic(self, component: str, name: str, limits: Limits, topics_max: int) -> OpenTopic:
        """The topic, made when there is none. The first to open it in this process sets its limits."""
        topic = await self.log.topic(component, name, topics_max)
        found = self._topics.get(topic.id)
        if found is None:
            found = self._topics[topic.id] = OpenTopic(topic, limits)
            self._untidy.set()
        return found

    def group(self, place: OpenTopic, name: str, number: int, settings: GroupSettings) -> Group:
        """The group in this process; its first member sets how it delivers."""
        key = place.topic.id, name
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = Group(self, place, name, number, settings)
            place.groups.append(group)
        return group

    def forget(self, place: OpenTopic, group: Group) -> None:
        place.groups.remove(group)
        del self._groups[place.topic.id, group.name]

    def listen(self) -> None:
        """From now on publishers in other processes are heard."""
        if self.bells is not None:
            self.bells.hang()
            self._hung.set()

    def appended(self, place: OpenTopic, first: int, data: bytes, metadata: Mapping[str, str]) -> None:
        """A record of this process is on disk: whoever waits for it gets it."""
        counts = self.counts
        size = len(data)
        counts.published += 1
        counts.published_bytes += size
        for group in place.groups:
            group.handed(first, data, metadata)
        place.unchecked_bytes += size + 32
        if place.unchecked_bytes >= place.check_bytes:
            try:
                self.check(place)
            except DriverError as error:  # the message is on disk, so its publisher must not hear of this
                logger.warning("topic %s: its limits could not be looked at: %s", place.topic.name, error)

    def ring(self) -> None:
        """Wake the other processes, after everything of one publish is on disk."""
        if self.bells is not None:
            self.bells.ring()

    def check(self, place: OpenTopic) -> None:
        """Look at the topic's limits: is it full, is there something to forget?"""
        place.unchecked_bytes = 0
        limits, owned = place.limits, place.owned()
        if not limits.drop_oldest:
            backlog_bytes = self.log.standing(place.topic, limits, owned).backlog_bytes
            place.refusing = backlog_bytes >= limits.backlog_bytes
        if self.log.is_due(place.topic, limits, owned):
            place.untidy = True
            self._untidy.set()

    def lose(self, topic: Topic, group: str, reason: str, place: int, size: int) -> None:
        """A group will not get a message: say so, and write it into the table of drops soon."""
        self._report(Drop(topic.name, group, reason, 1, size, place, place, 0.0))
        if len(self._losses) < LOSSES_MAX:
            self._losses.append((topic, group, reason, place, size))
            self._untidy.set()

    # --- tending: one task for the file, in whichever component instance got there first

    async def tend(self) -> None:
        """Hear the bell and forget what is past the limits, until cancelled."""
        async with self._tending, trio.open_nursery() as nursery:
            nursery.start_soon(self._hear)
            await self._tidy()

    async def _hear(self) -> None:
        await self._hung.wait()
        assert self.bells is not None
        while True:
            await self.bells.hear()
            for group in list(self._groups.values()):
                group.rung()

    async def _tidy(self) -> None:
        while True:
            pause_s = AGE_CHECK_MOST_S
            try:
                for place in list(self._topics.values()):
                    pause_s = min(pause_s, await self._tidy_topic(place))
                await self._write_losses()
            except DriverError as error:
                logger.warning("the log in %s: tidying again in %g s: %s", self.log.database.path, STORE_RETRY_S, error)
                await trio.sleep(STORE_RETRY_S)
                continue
            with trio.move_on_after(pause_s):
                await self._untidy.wait()
            self._untidy = trio.Event()

    async def _tidy_topic(self, place: OpenTopic) -> float:
        """Forget what is past the limits; seconds until something may be too old."""
        log, limits = self.log, place.limits
        now = log.now()
        if place.untidy or now >= place.due_at:
            place.due_at = LONG_AGO  # until all of this has succeeded
            place.untidy = False
            await self._flush_groups(place)
            standing = await self._trim(place)
            place.refusing = place.refusing and standing.backlog_bytes >= limits.backlog_bytes
            place.due_at = (now if standing.oldest_at is None else standing.oldest_at) + limits.retention_ms
        return max(1.0, (place.due_at - now) / 1000)

    async def _trim(self, place: OpenTopic) -> Standing:
        while True:
            standing, drops = await self.log.trim(place.topic, place.limits, place.owned())
            for drop in drops:
                self._report(drop)
            if not standing.more:
                return standing

    async def _flush_groups(self, place: OpenTopic) -> None:
        """What was acknowledged already is no loss: let the file know before anything is forgotten."""
        for group in list(place.groups):
            await group.flush_now()

    async def _write_losses(self) -> None:
        while self._losses:
            await self.log.note_drop(*self._losses[0])
            del self._losses[0]

    def _report(self, drop: Drop) -> None:
        """Count each loss, and write one line a burst."""
        self.counts.dropped += drop.entries
        key = drop.topic, drop.group, drop.reason
        if key not in self._drop_lines and len(self._drop_lines) >= LOSSES_MAX:
            self._drop_lines.clear()
        now = trio.current_time()
        at, unsaid = self._drop_lines.get(key, (-math.inf, 0))
        unsaid += drop.entries
        if now - at >= DROP_LINE_EVERY_S:
            logger.warning(
                "topic %s: %d messages were dropped before group %s had them (%s), the last at offset %d",
                drop.topic, unsaid, drop.group, drop.reason, drop.last,
            )  # fmt: skip
            at, unsaid = now, 0
        self._drop_lines[key] = at, unsaid


def _open_bells(path: str) -> Bells | None:
    if path == ":memory:":
        return None
    try:
        return Bells(path)
    except OSError as error:
        logger.warning("the log in %s cannot be shared with other processes: %s", path, error)
        return None
