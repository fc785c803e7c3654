"""Runs what has to go on: after an error that nobody foresaw it is logged, told of, and begun again after a pause."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from edge_runtime.model.errors import leaves
from edge_runtime.model.ports import Backoff

logger: Final = logging.getLogger("dapr.runtime.sync")

PAUSES: Final = Backoff(1.0, 60.0)


async def supervised(
    run: Callable[[], Awaitable[None]], what: str, tell: Callable[[str], None] = lambda reason: None
) -> None:
    """Until `run` returns. `tell` hears why it rests, and an empty text when it begins again.

    Only the task rests: its neighbours go on. What went well for the longest pause makes the next one short again.
    """
    pause_s = PAUSES.first_s
    while True:
        began = trio.current_time()
        try:
            await run()
            return
        except Exception as error:  # a mistake in one task must not end the node
            reason = f"an internal error: {describe(error)}"
            logger.exception("%s: %s; begun again in %.0f s", what, reason, pause_s)
        if trio.current_time() - began > PAUSES.most_s:
            pause_s = PAUSES.first_s
        tell(reason)
        await trio.sleep(pause_s)
        tell("")
        pause_s = min(pause_s * 2, PAUSES.most_s)


def describe(error: Exception) -> str:
    """What went wrong in the first place, also when several tasks fell together."""
    first = leaves(error)[0]
    return f"{type(first).__name__}: {first}"
