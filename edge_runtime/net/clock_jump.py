"""Waits until somebody sets the wall clock, such as a time server on a board that booted in 1970.

The wall clock is compared with the one that only goes on, once a second: for who waits with a reason, and not for ever.
Sleep of the machine looks the same, and is as good a reason to try again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

_STEP_S: Final = 1.0
_JUMP_S: Final = 2.0


async def until_clock_is_set(wall: Callable[[], float]) -> None:
    """Until the clock has jumped from where it was at the call."""
    offset = wall() - trio.current_time()
    while abs(wall() - trio.current_time() - offset) < _JUMP_S:  # noqa: ASYNC110 - only a look tells
        await trio.sleep(_STEP_S)
