"""When a circuit breaker trips: CEL expressions over its counts.

Nearly all are comparisons such as `consecutiveFailures > 5`, perhaps joined by `&&` and `||`. Those are evaluated here;
for anything else the CEL evaluator is loaded, which costs several megabytes.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from edge_runtime.model.errors import ConfigError


class Counts(NamedTuple):
    """What a breaker has seen since it entered its state."""

    requests: int = 0
    total_successes: int = 0
    total_failures: int = 0
    consecutive_successes: int = 0
    consecutive_failures: int = 0


Trip = Callable[[Counts], bool]

VARIABLES: Final = {
    "requests": "requests",
    "totalSuccesses": "total_successes",
    "totalFailures": "total_failures",
    "consecutiveSuccesses": "consecutive_successes",
    "consecutiveFailures": "consecutive_failures",
}
_OPERATORS: Final[dict[str, Callable[[int, int], bool]]] = {
    "==": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_COMPARISON: Final = re.compile(r"\s*([A-Za-z]+)\s*(==|!=|>=|<=|>|<)\s*(-?\d{1,18})\s*")


def default_trip(counts: Counts) -> bool:
    """`consecutiveFailures > 5`, what a breaker does when its resource names no expression."""
    return counts.consecutive_failures > 5


def compile_trip(text: str) -> Trip:
    """The expression as a function. Raises ConfigError when it is no CEL expression."""
    return _simple(text) or _cel(text)


def _simple(text: str) -> Trip | None:
    alternatives: list[list[tuple[str, Callable[[int, int], bool], int]]] = []
    for alternative in text.split("||"):
        conditions = []
        for part in alternative.split("&&"):
            match = _COMPARISON.fullmatch(part)
            if match is None or match[1] not in VARIABLES:
                return None
            conditions.append((VARIABLES[match[1]], _OPERATORS[match[2]], int(match[3])))
        alternatives.append(conditions)

    def trips(counts: Counts) -> bool:
        return any(
            all(compare(getattr(counts, name), bound) for name, compare, bound in conditions)
            for conditions in alternatives
        )

    return trips


def _cel(text: str) -> Trip:
    import celpy
    from celpy.celparser import CELParseError
    from celpy.evaluation import CELEvalError

    environment = celpy.Environment(annotations=dict.fromkeys(VARIABLES, celpy.celtypes.IntType))
    try:
        program = environment.program(environment.compile(text))
    except CELParseError as error:
        raise ConfigError(
            f"{text!r} is no CEL expression ({error.args[0].splitlines()[0]}); expected one such as"
            f' "consecutiveFailures > 5" with the variables {", ".join(VARIABLES)}'
        ) from None

    def trips(counts: Counts) -> bool:
        activation: dict[str, Any] = {
            name: celpy.celtypes.IntType(getattr(counts, field)) for name, field in VARIABLES.items()
        }
        try:
            verdict = program.evaluate(activation)
        except CELEvalError:
            return False
        return isinstance(verdict, celpy.celtypes.BoolType) and bool(verdict)

    return trips
