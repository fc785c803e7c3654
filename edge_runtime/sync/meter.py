"""Counts every byte of a link, charges it to the budget, and lets calls wait for their share."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Final

import trio

from edge_runtime.config.links import CloudLink
from edge_runtime.model.errors import Unreachable
from edge_runtime.sync.budget import DAY_S, Budget
from edge_runtime.sync.link_settings import Ledger, LinkMetrics

# What the bytes on a connection are for.
current_class: ContextVar[str] = ContextVar("link_class", default="probe")
_STEPS: Final = 64  # of a day's budget: how often what was spent is written down
_STEP_BYTES_MIN: Final = 65536


class Meter:
    """`spent` is called when the day's budget is; `reserved` bytes are admitted and not counted yet."""

    def __init__(
        self, resource: CloudLink, metrics: LinkMetrics, ledger: Ledger | None, spent: Callable[[], object]
    ) -> None:
        self.budget = Budget(resource.bytes_per_second, resource.bytes_per_day)
        self._name = resource.name
        self._per_day = resource.bytes_per_day
        self._metrics = metrics
        self._ledger = ledger if resource.bytes_per_day else None
        self._spent = spent
        self._turns = trio.Lock()
        self._saved = 0
        if self._ledger is not None:
            self.budget.restore(*self._ledger.load(), trio.current_time())
            self._saved = self.budget.spent

    def count(self, sent: int, received: int, kind: str = "") -> None:
        """Every byte below TLS comes by here."""
        kind = kind or current_class.get()
        if sent:
            self._metrics.bytes.add((self._name, kind, "sent"), sent)
        if received:
            self._metrics.bytes.add((self._name, kind, "received"), received)
        now = trio.current_time()
        self.budget.charge(sent + received, now)
        left = self.budget.day_left(now)
        if left is not None:
            self._metrics.day_left.set(left, (self._name,))
            self.save()
            if not left:
                self._spent()

    def save(self, *, force: bool = False) -> None:
        """Ahead of what is spent, a step at a time: few writes, and no byte is forgotten."""
        budget = self.budget
        if self._ledger is None:
            return
        step = max(self._per_day // _STEPS, min(_STEP_BYTES_MIN, self._per_day // 8))
        if budget.spent >= self._saved or budget.spent < self._saved - 2 * step or (force and budget.spent):
            self._saved = budget.spent if force else budget.spent + step
            age_s = DAY_S - budget.resets_in_s(trio.current_time())
            self._ledger.save(min(self._saved, max(self._per_day, budget.spent)), age_s)

    async def admit(self, size: int) -> None:
        """Wait until there is room, first come, first served. Raises `Unreachable` when the day's bytes are spent."""
        budget = self.budget
        if budget.wait_s(trio.current_time()):
            async with self._turns:
                while pause_s := budget.wait_s(trio.current_time()):
                    if pause_s == float("inf"):
                        raise Unreachable(f"link {self._name}: the day's bytes are spent")
                    await trio.sleep(min(pause_s, 60.0))
        budget.reserved += size

    def release(self, size: int) -> None:
        """What was reserved has been counted, or never will be."""
        self.budget.reserved -= size
