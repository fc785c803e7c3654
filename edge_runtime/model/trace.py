"""The trace context of one call, as W3C headers name it."""

from __future__ import annotations

from typing import Final, NamedTuple


class Trace(NamedTuple):
    """Empty strings where there is none."""

    traceparent: str = ""
    tracestate: str = ""
    baggage: str = ""


NO_TRACE: Final = Trace()
