"""Whether the kernel says that the wall clock is right. Asked only when something depends on it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Final

_TIME_ERROR: Final = 5
# What systemd-timesyncd leaves once it has set the clock in this boot; for where the kernel may not be asked, as with
# ProtectClock= in the service's unit.
_FLAG: Final = "/run/systemd/timesync/synchronized"
_ASKED_EVERY_S: Final = 1.0
_TIMEX_BYTES: Final = 512  # more than any machine's struct timex; all zero asks for nothing to be changed


def is_synchronized() -> bool:
    """Whether some program keeps the clock by a time server at the moment."""
    try:
        import ctypes

        state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    except (OSError, AttributeError, MemoryError):  # the last is what a confined ctypes may say
        state = -1
    if state < 0:
        return os.path.exists(_FLAG)
    return bool(state != _TIME_ERROR)


class Synchronized:
    """The same for who asks often: the kernel is asked once a second."""

    def __init__(self, ask: Callable[[], bool] = is_synchronized, now: Callable[[], float] = time.monotonic) -> None:
        self._ask = ask
        self._now = now
        self._asked_at = float("-inf")
        self._answer = False

    def __call__(self) -> bool:
        if self._now() - self._asked_at >= _ASKED_EVERY_S:
            self._answer, self._asked_at = self._ask(), self._now()
        return self._answer
