"""Retry policies as values: how long to wait before the next attempt, and which errors are worth one.

Nothing here sleeps or asks the clock: the runner brings how long it has tried and a random number.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

CodeRanges = tuple[tuple[int, int], ...]

_INITIAL_S: Final = 0.5
_FACTOR: Final = 1.5
_GROWTHS_MAX: Final = 64  # 0.5 s times 1.5 to the 64th is longer than any limit, and still a float
_GRPC_CODE_MAX: Final = 16
_HTTP_CODES: Final = range(100, 600)


class Retry(NamedTuple):
    """`retries_max` below zero is without limit. Empty code ranges mean that every code is tried again."""

    policy: Literal["constant", "exponential"] = "constant"
    duration_s: float = 5.0
    interval_max_s: float = 60.0
    elapsed_max_s: float | None = None
    retries_max: int = -1
    http_codes: CodeRanges = ()
    grpc_codes: CodeRanges = ()


EXPONENTIAL_ELAPSED_MAX_S: Final = 15 * 60.0


def next_delay_s(retry: Retry, retries: int, elapsed_s: float, chance: float) -> float | None:
    """Seconds until the attempt after `retries` retries, or None when there is to be no other.

    `chance` is a number from 0 to 1; it spreads exponential delays by half to either side, so that many callers that
    failed together do not come back together.
    """
    if 0 <= retry.retries_max <= retries:
        return None
    if retry.policy == "constant":
        delay_s = retry.duration_s
    else:
        interval_s = min(_INITIAL_S * _FACTOR ** min(retries, _GROWTHS_MAX), retry.interval_max_s)
        delay_s = interval_s * (0.5 + chance)
    if retry.elapsed_max_s is not None and elapsed_s + delay_s > retry.elapsed_max_s:
        return None
    return delay_s


def worth_another_attempt(retry: Retry, code: int | None) -> bool:
    """Whether an error with this status may be tried again; one without a status, or with a foreign one, always."""
    if code is None:
        return True
    if code in _HTTP_CODES:
        return _listed(retry.http_codes, code)
    if 0 <= code <= _GRPC_CODE_MAX:
        return _listed(retry.grpc_codes, code)
    return True


def _listed(ranges: CodeRanges, code: int) -> bool:
    return not ranges or any(first <= code <= last for first, last in ranges)
