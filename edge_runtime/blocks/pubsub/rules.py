"""Routing rules: which path of the app an event goes to.

Rules are tried in order; a blank match always holds. An expression is compiled once, when its subscription is made: the
plain ones by `expressions.py`, the others by the full CEL evaluator, which is imported when the first of them comes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

Event = Mapping[str, Any]
Matcher = Callable[[Event], Any]

_INT64: Final = 2**63


class Rule(NamedTuple):
    """`match` is CEL over `event`; empty always matches."""

    match: str
    path: str


class RuleError(Exception):
    """A match expression that cannot be compiled (the text says where), or be evaluated for an event."""


class EvaluationError(Exception):
    """An expression that cannot be evaluated for this event."""


class Routes:
    """The compiled rules of one subscription."""

    __slots__ = ("_compiled", "always", "needs_event")

    def __init__(self, rules: Sequence[Rule]) -> None:
        """Raises `RuleError` for an expression that is no CEL."""
        self._compiled = [(None if not rule.match.strip() else compile_match(rule.match), rule.path) for rule in rules]
        first = self._compiled[0] if self._compiled else None
        # The path of every event when nothing has to be evaluated for it.
        self.always = first[1] if first is not None and first[0] is None else None
        self.needs_event = self.always is None and bool(self._compiled)

    def path_of(self, event: Any) -> str | None:
        """The first path whose rule matches, or None. Raises `RuleError` when one cannot be evaluated."""
        for matches, path in self._compiled:
            if matches is None:
                return path
            try:
                verdict = matches(event)
            except (EvaluationError, RecursionError) as error:
                raise RuleError(f"cannot evaluate the match for {path}: {error}") from None
            if verdict is not True and verdict is not False:
                raise RuleError(f"the match for {path} is no boolean")
            if verdict:
                return path
        return None


def compile_match(text: str) -> Matcher:
    """A match expression as a function of the event. Raises `RuleError`."""
    from edge_runtime.blocks.pubsub.expressions import NotPlain, compile_plain  # for rules that have a condition

    try:
        return compile_plain(text)
    except NotPlain:
        return _compile_full(text)


def _compile_full(text: str) -> Matcher:
    import celpy  # 12 MB, so only for an expression that needs it
    from celpy.adapter import json_to_cel
    from celpy.celparser import CELParseError
    from celpy.celtypes import BoolType
    from celpy.evaluation import CELEvalError

    environment = celpy.Environment()
    try:
        program = environment.program(environment.compile(text))
    except (CELParseError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise RuleError(f"the match expression {text!r} is not valid CEL: {reason}") from None

    def evaluate(event: Event) -> Any:
        try:
            value = program.evaluate({"event": json_to_cel(_within_int64(event))})
        # The evaluator lets any of these through, by the function and the operand that fail.
        except (CELEvalError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise EvaluationError(" ".join(str(error).split())) from None
        return bool(value) if isinstance(value, (bool, BoolType)) else None

    return evaluate


def _within_int64(value: Any) -> Any:
    """Integers that CEL has no type for, as floating point; the rest as it is."""
    if isinstance(value, int) and not -_INT64 <= value < _INT64:
        return float(value)
    if isinstance(value, Mapping):
        return {key: _within_int64(member) for key, member in value.items()}
    if isinstance(value, list):
        return [_within_int64(member) for member in value]
    return value
