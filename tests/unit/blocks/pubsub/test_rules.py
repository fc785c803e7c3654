"""Which path an event goes to."""

from __future__ import annotations

import subprocess
import sys

import pytest

from edge_runtime.blocks.pubsub.rules import Routes, Rule, RuleError, compile_match


def test_the_first_rule_that_holds_wins() -> None:
    routes = Routes((Rule('event.type == "a"', "/a"), Rule("event.n > 1", "/many"), Rule("", "/rest")))
    assert routes.needs_event
    assert routes.always is None
    assert routes.path_of({"type": "a"}) == "/a"
    assert routes.path_of({"type": "b", "n": 2}) == "/many"
    assert routes.path_of({"type": "b", "n": 1}) == "/rest"


def test_a_blank_match_holds_where_it_stands() -> None:
    routes = Routes((Rule(" ", "/all"), Rule('event.type == "a"', "/a")))
    assert routes.always == "/all"
    assert not routes.needs_event
    assert routes.path_of({"type": "a"}) == "/all"


def test_no_rule_may_hold() -> None:
    assert Routes(()).path_of({}) is None
    assert Routes((Rule("event.n == 1", "/a"),)).path_of({"n": 2}) is None


@pytest.mark.parametrize("match", ["event.gone == 1", "event.n", "nosuch == 1", "event.n.matches(event.n)"])
def test_a_rule_that_cannot_be_evaluated_is_an_error(match: str) -> None:
    routes = Routes((Rule(match, "/a"), Rule("", "/b")))
    with pytest.raises(RuleError, match="/a"):
        routes.path_of({"n": 5})


@pytest.mark.parametrize("match", ["event.type ==", "(", "event.n == 'x", "a b", "{"])
def test_what_is_no_cel_is_refused(match: str) -> None:
    with pytest.raises(RuleError, match="is not valid CEL"):
        Routes((Rule(match, "/a"),))


@pytest.mark.parametrize(
    ("match", "path"),
    [
        ("event.n + 1 == 3", "/a"),
        ("event.list.exists(x, x > 2)", "/a"),
        ("event.n > 5 ? true : false", None),
        ("event.text == r'\\d'", None),
        ("event.big > 1.0 && event.n + 0 == 2", "/a"),
    ],
)
def test_the_full_evaluator_takes_the_rest(match: str, path: str | None) -> None:
    event = {"n": 2, "list": [1, 3], "text": "x", "big": 2**80, "deep": {"list": [{"a": -(2**90)}]}}
    assert Routes((Rule(match, "/a"),)).path_of(event) == path


def test_a_raw_text_can_be_matched() -> None:
    assert compile_match("event == 'x'")("x") is True  # type: ignore[arg-type]
    with pytest.raises(RuleError):
        Routes((Rule("event.type == 'x'", "/a"),)).path_of("x")


@pytest.mark.slow
def test_plain_rules_load_no_evaluator() -> None:
    program = (
        "import sys\n"
        "from edge_runtime.blocks.pubsub.rules import Routes, Rule\n"
        "Routes((Rule('event.type == \"a\" && event.data.n > 1', '/a'), Rule('', '/b')))\n"
        "assert not {'celpy', 'lark', 're2'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
