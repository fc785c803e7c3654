"""One subscription to settings while it runs: a task that follows the store and tells what changes."""

from __future__ import annotations

import enum
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import trio

from edge_runtime.model.errors import DriverError, leaves
from edge_runtime.model.ports import ConfigurationItem, ConfigurationStore

logger: Final = logging.getLogger("dapr.runtime.processor.configuration")

BACK_OFF_FIRST_S: Final = 0.5
BACK_OFF_FACTOR: Final = 1.5
BACK_OFF_MAX_S: Final = 60.0

# Takes what changed of a subscription of that id.
Tell = Callable[[str, Mapping[str, ConfigurationItem]], Awaitable[None]]


class End(enum.Enum):
    """Why a subscription is over."""

    CLIENT = "its client is gone"
    UNSUBSCRIBED = "it was unsubscribed"
    STOPPED = "deliveries were stopped"


class Subscription:
    """Follows `store` until it is ended. A store that fails once it was followed is followed again."""

    def __init__(
        self,
        subscription_id: str,
        name: str,
        store: ConfigurationStore,
        keys: Sequence[str],
        metadata: Mapping[str, str],
        tell: Tell,
    ) -> None:
        self.id = subscription_id
        self.name = name
        self._store = store
        self._keys = keys
        self._metadata = metadata
        self._tell = tell
        self._scope = trio.CancelScope()
        self._status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
        self._began = False
        self._telling = False
        self._closed = False
        self._quiet = trio.Event()
        self._delay_s = BACK_OFF_FIRST_S
        self.over = trio.Event()
        self.reason = End.STOPPED

    # --- the task -----------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Raises what the store raises before it was followed once; then it may be run again."""
        self._status = task_status
        self._scope = trio.CancelScope()
        with self._scope:
            await self._follow_for_ever()

    async def resume(self) -> None:
        """The same for one that was followed before, by a generation that is gone: it is tried until it succeeds."""
        self._began = True
        with self._scope:
            await self._follow_for_ever()

    async def _follow_for_ever(self) -> None:
        while True:
            # A supervised service: whatever a store raises, it is followed again.
            reason = "the store ended it"
            try:
                await self._store.subscribe(self._keys, self._metadata, self._handle, task_status=self)
            except Exception as error:
                first = leaves(error)[0]
                if not self._began:
                    raise first from None
                reason = str(first) if isinstance(first, DriverError) else repr(first)
            logger.error(
                "subscription %s to configuration store %s: %s; next attempt in %.1f s",
                self.id,
                self.name,
                reason,
                self._delay_s,
            )
            await trio.sleep(self._delay_s)
            self._delay_s = min(self._delay_s * BACK_OFF_FACTOR, BACK_OFF_MAX_S)

    def started(self, value: Any = None) -> None:
        """The store's word that changes are told from now on; this object is its `task_status`."""
        self._delay_s = BACK_OFF_FIRST_S
        if not self._began:
            self._began = True
            self._status.started()

    async def _handle(self, items: Mapping[str, ConfigurationItem]) -> None:
        if self._closed:
            await trio.sleep_forever()  # about to be cancelled
        self._telling = True
        try:
            await self._tell(self.id, items)
        finally:
            self._telling = False
            if self._closed:
                self._quiet.set()
                if self.over.is_set():
                    self._scope.cancel()

    # --- its end ------------------------------------------------------------------------------------------------------

    def end(self, reason: End) -> None:
        """Tell nothing more. What is being told is told first: whoever takes it may be the one that ends it."""
        self._close()
        if not self.over.is_set():
            self.reason = reason
            self.over.set()
        if not self._telling:
            self._scope.cancel()

    async def finish(self, limit_s: float) -> None:
        """Let what is being told be told, tell nothing more, and follow the store no longer."""
        self._close()
        with trio.move_on_after(limit_s):
            await self._quiet.wait()
        self._scope.cancel()

    def _close(self) -> None:
        self._closed = True
        if not self._telling:
            self._quiet.set()
