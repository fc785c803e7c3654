"""The grammar of state queries."""

from __future__ import annotations

import json

import pytest

from edge_runtime.blocks.state.query import QueryError, parse_query
from edge_runtime.model.ports import Combine, Compare, Query


def test_empty_query_asks_for_all() -> None:
    assert parse_query(b"{}") == parse_query(b"null") == Query()


def test_whole_query_is_read() -> None:
    body = {
        "filter": {
            "OR": [
                {"EQ": {"person.org": "Dev"}},
                {"AND": [{"IN": {"state": ["CA", "WA"]}}, {"GTE": {"person.id": 9007199254740993}}]},
            ]
        },
        "sort": [{"key": "state", "order": "DESC"}, {"key": "person.id"}],
        "page": {"limit": 3, "token": "6"},
    }
    assert parse_query(json.dumps(body).encode()) == Query(
        Combine(
            "OR",
            (
                Compare("EQ", "person.org", "Dev"),
                Combine("AND", (Compare("IN", "state", ("CA", "WA")), Compare("GTE", "person.id", 9007199254740993))),
            ),
        ),
        (("state", "DESC"), ("person.id", "ASC")),
        3,
        "6",
    )


@pytest.mark.parametrize("operator", ["EQ", "NEQ", "GT", "GTE", "LT", "LTE"])
@pytest.mark.parametrize("value", ["x", 1, 1.5, True, None])
def test_comparisons_take_scalars(operator: str, value: object) -> None:
    body = json.dumps({"filter": {operator: {"a.b": value}}}).encode()
    assert parse_query(body).filter == Compare(operator, "a.b", value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "failed to parse JSON query body"),
        (b"{} x", "failed to parse JSON query body"),
        (b"[" * 100_000, "failed to parse JSON query body"),
        (b'{"filter": {"EQ": {"a": NaN}}}', "NaN is no JSON value"),
        (b"[]", "the query: expected an object"),
        (b'{"filter": []}', None),
        (b'{"filter": [1]}', "filter: expected an object"),
        (b'{"filter": {"EQ": {"a": 1}, "GT": {"a": 1}}}', "filter: expected exactly one operator, got 2"),
        (b'{"filter": {"eq": {"a": 1}}}', r'filter\.eq: "eq" is no operator; expected EQ.*\(did you mean "EQ"\?\)'),
        (b'{"filter": {"EQ": {"a": 1, "b": 2}}}', r"filter\.EQ: expected one path and its value, got 2"),
        (b'{"filter": {"EQ": {"a": [1]}}}', r"filter\.EQ: expected a text, a number"),
        (b'{"filter": {"IN": {"a": []}}}', r"filter\.IN: expected a list of at least 1, got 0"),
        (b'{"filter": {"IN": {"a": 1}}}', r"filter\.IN: expected a list"),
        (b'{"filter": {"AND": [{"EQ": {"a": 1}}]}}', r"filter\.AND: expected a list of at least 2, got 1"),
        (b'{"filter": {"OR": [{"EQ": {"a": 1}}, {}]}}', r"filter\.OR\[1\]: expected exactly one operator, got 0"),
        (b'{"sort": {}}', "sort: expected a list"),
        (b'{"sort": [{"order": "ASC"}]}', r"sort\[0\]\.key: expected the path"),
        (b'{"sort": [{"key": 1}]}', r"sort\[0\]\.key: expected a text, got 1"),
        (b'{"sort": [{"key": "a", "order": "asc"}]}', r'sort\[0\]\.order: "asc" is no order; expected ASC or DESC'),
        (b'{"page": {"limit": "3"}}', r'page\.limit: expected a number of results, got "3"'),
        (b'{"page": {"limit": -1}}', r"page\.limit: expected a number"),
        (b'{"page": {"token": 3}}', r"page\.token: expected a text"),
    ],
)
def test_mistakes_are_told_in_words(body: bytes, text: str | None) -> None:
    if text is None:
        assert parse_query(body) == Query()
        return
    with pytest.raises(QueryError, match=text):
        parse_query(body)


def test_deep_filters_are_refused() -> None:
    raw: object = {"EQ": {"a": 1}}
    for _ in range(70):
        raw = {"AND": [raw, {"EQ": {"b": 1}}]}
    with pytest.raises(QueryError, match="nested more than 64 deep"):
        parse_query(json.dumps({"filter": raw}).encode())
