"""The plain part of CEL, and that it agrees with the full evaluator wherever that one follows cel-go."""

from __future__ import annotations

import itertools
import operator
import sys
from typing import Any

import pytest

from edge_runtime.blocks.pubsub.expressions import NotPlain, compile_plain
from edge_runtime.blocks.pubsub.rules import EvaluationError

EVENT: dict[str, Any] = {
    "type": "order.made",
    "data": {
        "n": 1,
        "half": 0.5,
        "two": 2.0,
        "big": 2**70,
        "yes": True,
        "no": False,
        "nothing": None,
        "list": [1, "a", 2.0],
        "map": {"k": 1, "odd key": "v"},
        "text": 'héllo "x"',
    },
}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('event.type == "order.made"', True),
        ("event.type != 'order.made'", False),
        ('event["type"] == "order.made"', True),
        ("event.data.n == 1", True),
        ("event.data.n == 1.0", True),
        ("event.data.two == 2", True),
        ("event.data.half < 1", True),
        ("1 > event.data.half", True),
        ("event.data.big > 9223372036854775807", True),
        ("event.data.n == -1", False),
        ("event.data.n >= -1.5e0", True),
        ("event.data.n <= 0x10", True),
        ("event.data.yes == true", True),
        ("event.data.yes == 1", False),
        ("event.data.no < event.data.yes", True),
        ("event.data.nothing == null", True),
        ("event.data.n == null", False),
        ('event.data.n == "1"', False),
        ('event.data.n != "1"', True),
        ("event.data.list == [1, 'a', 2]", True),
        ("event.data.list == [1, 'a']", False),
        ("event.data.map == event.data.map", True),
        ("event.data.map == event.data", False),
        ("event.data.list[1] == 'a'", True),
        ("event.data.list[event.data.two] == 2", True),
        ('event.data.map["odd key"] == "v"', True),
        ('"a" in event.data.list', True),
        ("3 in event.data.list", False),
        ('"k" in event.data.map', True),
        ("1 in event.data.map", False),
        ("event.type in ['a', 'order.made']", True),
        ("event.type in []", False),
        ("has(event.data.n)", True),
        ("has(event.data.nothing)", True),
        ("has(event.data.other)", False),
        ("!has(event.data.other)", True),
        ("!!event.data.yes", True),
        ("!(event.data.n == 1)", False),
        ("event.type.startsWith('order')", True),
        ("event.type.endsWith('made')", True),
        ("event.type.contains('r.m')", True),
        ("event.type.matches('^order[.]')", True),
        ("event.type.matches('^made')", False),
        ("size(event.data.list) == 3", True),
        ("event.data.text.size() == 9", True),
        ("size(event.data.map) == 2", True),
        ('event.data.text == "h\\u00e9llo \\"x\\""', True),
        ("event.data.text == 'h\\xe9llo \\x22x\\042'", True),
        ("'\\n\\t\\\\\\'' == '\\U0000000a\\t\\\\\\''", True),
        ("event.data.n == 1 && event.data.yes || event.missing", True),
        ("event.missing == 1 || event.data.yes", True),
        ("event.missing == 1 && event.data.no", False),
        ("event.data.n && event.data.no", False),
        ("event.data.yes || event.data.n", True),
        ("event.data.no || event.data.no", False),
        ("event.data.yes && event.data.yes", True),
        ("(event.data.no || event.data.yes) && event.data.yes", True),
        ("event.data.n == 1 == true", True),
        (" event . data . yes ", True),
    ],
)
def test_plain_expressions_have_a_value(text: str, value: bool) -> None:
    assert compile_plain(text)(EVENT) is value


@pytest.mark.parametrize(
    "text",
    [
        "event.missing == 1",
        "event.type.deep == 1",
        "event.data.n.deep == 1",
        "event.data.list.name == 1",
        "event.data.list[3] == 1",
        "event.data.list[-1] == 1",
        "event.data.list['a'] == 1",
        "event.data.list[true] == 1",
        "event.data.map['x'] == 1",
        "event.data.map[1] == 1",
        "event.data.n < 'x'",
        "event.data.nothing < null",
        "event.data.list < event.data.list",
        "event.data.yes < 1",
        "!event.data.n",
        "has(event.other.name)",
        "has(event.type.name)",
        "1 in event.type",
        "event.data.n.startsWith('x')",
        "event.type.startsWith(1)",
        "event.data.n.matches('x')",
        "size(event.data.n) == 1",
        "event.missing == 1 || event.data.no",
        "event.data.no || event.data.n",
        "event.missing == 1 && event.data.yes",
        "event.data.n && event.data.yes",
    ],
)
def test_an_absent_or_wrong_value_is_an_error(text: str) -> None:
    with pytest.raises(EvaluationError):
        compile_plain(text)(EVENT)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "event.type ==",
        "(event.type",
        "event.type == 'x' 'y'",
        "event.type == 'x",
        "event.type == r'x'",
        'event.type == """x"""',
        "event.type == b'x'",
        "event.type == 'x' // note",
        "event.data.n + 1 == 2",
        "event.data.n - 1 == 0",
        "event.data.n-1 == 0",
        "-event.data.n == 1",
        "event.data.n == 1u",
        "event.data.n == 1.",
        "event.data.n == 9223372036854775808",
        "event.data.n > 0 ? true : false",
        "event.data.map == {'k': 1}",
        "event.data.list.exists(x, x == 1)",
        "event.type.upper() == 'x'",
        "event.true == 1",
        "event.package == 1",
        "nosuch == 1",
        "size == 1",
        "has(event)",
        "has(event['x'])",
        "event.type == '\\q'",
        "event.type == '\\ud800'",
        "event.type.matches('(')",
        "event.type.matches(event.type)",
        "event.5 == 1",
        "[1 2] == []",
        "é == 1",
        "(" * 60 + "true" + ")" * 60,
    ],
)
def test_what_is_not_plain_is_left_alone(text: str) -> None:
    with pytest.raises(NotPlain):
        compile_plain(text)


# --- against the full evaluator ---------------------------------------------------------------------------------------

_LEFT = ("event.type", "event.data.n", "event.data.half", "event.data.yes", "event.data.nothing", "event.gone")
_RIGHT = ("'order.made'", "'a'", "1", "0", "0.5", "1.5", "true", "false", "null")


def _kind(term: str) -> str:
    value = compile_plain(term)(EVENT)
    return type(value).__name__


def _comparable(left: str, right: str) -> bool:
    """Where the full evaluator does as cel-go: operands of one type, and no null to be ordered."""
    return left == "event.gone" or _kind(left) == _kind(right)


def _full(text: str) -> Any:
    import celpy
    from celpy.adapter import json_to_cel

    environment = celpy.Environment()
    event = {**EVENT, "data": {**EVENT["data"], "big": 0}}
    try:
        value = environment.program(environment.compile(text)).evaluate({"event": json_to_cel(event)})
    except celpy.CELEvalError:
        return "error"
    return bool(value)


def _plain(text: str) -> Any:
    try:
        return compile_plain(text)(EVENT)
    except EvaluationError:
        return "error"


@pytest.mark.slow
def test_comparisons_agree_with_the_full_evaluator() -> None:
    for left, right, mark in itertools.product(_LEFT, _RIGHT, ("==", "!=", "<", "<=", ">", ">=")):
        if _comparable(left, right):
            text = f"{left} {mark} {right}"
            assert _plain(text) == _full(text), text


@pytest.mark.slow
def test_logic_agrees_with_the_full_evaluator() -> None:
    # Not with operands that are no booleans: the full evaluator lets `true && 1` through, cel-go does not.
    terms = ("event.data.yes", "event.data.no", "event.gone == 1", "!event.data.yes", "has(event.gone)")
    for left, right, mark in itertools.product(terms, terms, ("&&", "||")):
        for text in (
            f"{left} {mark} {right}",
            f"!({left} {mark} {right})",
            f"({left}) {mark} {right} || event.data.yes",
        ):
            assert _plain(text) == _full(text), text


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        "event.type.startsWith('order')",
        "event.type.endsWith('x')",
        "event.type.contains('.')",
        "event.type.matches('m.de$')",
        "size(event.type) == 10",
        "event.data.text.size() == 9",
        "event.data.list[1] == 'a'",
        "event.data.map['odd key'] == 'v'",
        "'k' in event.data.map",
        "1 in [1, 2]",
        "event.data.text == 'h\\xe9llo \\\"x\\042'",
        "event.data.list[9] == 'a'",
        "event['type'] == \"order.made\"",
        "-5 < event.data.n",
    ],
)
def test_the_rest_agrees_with_the_full_evaluator(text: str) -> None:
    assert _plain(text) == _full(text)


def test_without_re2_matches_is_not_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "re2", None)
    with pytest.raises(NotPlain):
        compile_plain("event.type.matches('x')")


def test_comparison_is_by_value_not_by_type() -> None:
    for mark, compare in (("<", operator.lt), ("<=", operator.le), (">", operator.gt), (">=", operator.ge)):
        for value in (0.5, 1, 2.5):
            assert compile_plain(f"event.n {mark} 1")({"n": value}) is compare(value, 1)
