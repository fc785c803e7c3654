"""Who published before whom, by topic: what goes to the outbox must not be there before what was called earlier.

A publish takes its place with its call and leaves it when it is at the broker, or on its way to the outbox. One that
is kept waits until it is the first of its topic, and what comes behind it is kept too.
"""

from __future__ import annotations

from collections import deque

import trio


class _Line:
    """The publishes of one topic that are under way, in the order of their calls."""

    __slots__ = ("kept", "places")

    def __init__(self) -> None:
        self.places: deque[Place] = deque()
        self.kept = 0


class Place:
    """One publish among those of its topic; left once, however often `leave` is called."""

    __slots__ = ("_first", "_kept", "_line", "_order", "_topic")

    def __init__(self, order: PublishOrder, topic: str, line: _Line) -> None:
        self._order = order
        self._topic = topic
        self._line: _Line | None = line
        self._kept = False
        self._first: trio.Event | None = None
        line.places.append(self)

    @property
    def behind_kept(self) -> bool:
        """Does an earlier one wait for its way to the outbox?"""
        return self._line is not None and self._line.kept > 0

    async def keep(self) -> None:
        """This one goes to the outbox: wait for all earlier ones, and leave. Nothing may be awaited before it goes."""
        line = self._line
        assert line is not None
        self._kept = True
        line.kept += 1
        if line.places[0] is not self:
            self._first = trio.Event()
            await self._first.wait()
        self.leave()

    def leave(self) -> None:
        line, self._line = self._line, None
        if line is None:
            return
        line.kept -= self._kept
        line.places.remove(self)
        if not line.places:
            self._order.forget(self._topic)
        elif line.places[0]._first is not None:
            line.places[0]._first.set()


class PublishOrder:
    """The publishes under way of one component."""

    def __init__(self) -> None:
        self._lines: dict[str, _Line] = {}

    def place(self, topic: str) -> Place:
        line = self._lines.get(topic)
        if line is None:
            line = self._lines[topic] = _Line()
        return Place(self, topic, line)

    def forget(self, topic: str) -> None:
        del self._lines[topic]
