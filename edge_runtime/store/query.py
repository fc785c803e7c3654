"""A state query as SQL over a `state.sqlite` table: pure, and every word of the caller is an argument, never SQL.

JSON types are kept apart: 1 is not "1" and not true. EQ and IN also match an array that holds the value. NEQ is what EQ
is not, a missing path included. A comparison of order holds between two numbers or two strings only. Whole numbers of
any size are compared exactly. In a sort a missing path comes first, then null, booleans, numbers, strings, the rest.

A page ends with a token that holds the sort values of its last row; the next page starts after them, whatever has been
written meanwhile.
"""

from __future__ import annotations

import json
import re
import zlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from edge_runtime.model.errors import BadMetadata
from edge_runtime.model.ports import Compare, Filter, Query

ROWS_MAX: Final = 10_000

_INT64_MAX: Final = 2**63 - 1
_SIGNS: Final = {"GT": ">", "GTE": ">=", "LT": "<", "LTE": "<="}
_SORTABLE: Final = "('false', 'true', 'integer', 'real', 'text')"
# Segments that SQLite's own paths take literally. Others (quotes, backslashes, non-ASCII, empty) go through `json_at`.
_PLAIN_PATH: Final = re.compile(r"[A-Za-z0-9_ $@/:+#-]+(\.[A-Za-z0-9_ $@/:+#-]+)*")


class CompiledQuery(NamedTuple):
    """`sql` gives rows of (key, JSON, etag, expiry, then rank and value of each sort key), one more than `limit`."""

    sql: str
    args: dict[str, Any]
    limit: int
    sort_keys: int
    shape: int


class _Place(NamedTuple):
    """SQL for a place in the document: its JSON type, SQL value and JSON text, and the argument of json_each."""

    type: str
    value: str
    text: str
    each: str


def compile_query(query: Query, table: str, now_text: str) -> CompiledQuery:
    """The query as one SELECT. Raises BadMetadata for what cannot be compared, and for a token of another query."""
    compiler = _Compiler()
    condition = compiler.filter(query.filter) if query.filter is not None else "1"
    ranks: list[tuple[str, str]] = []
    for path, order in query.sort:
        place = compiler.place(path)
        direction = "<" if order == "DESC" else ">"
        ranks.append((_rank(place), direction))
        ranks.append((f"CASE WHEN {place.type} IN {_SORTABLE} THEN {place.value} ELSE 0 END", direction))
    shape = zlib.crc32(repr((query.filter, tuple(query.sort))).encode("utf-8", "backslashreplace"))
    if query.token:
        values = _open_token(query.token, shape, len(ranks))
        condition = f"({condition}) AND {compiler.after([*ranks, ('key', '>')], values)}"
    columns = "".join(f", {expression}" for expression, _ in ranks)
    order_by = "".join(f"{number}{' DESC' if sign == '<' else ''}, " for number, (_, sign) in enumerate(ranks, start=5))
    limit = min(query.limit or ROWS_MAX, ROWS_MAX)
    # CASE keeps SQLite from looking into a text that is no JSON; a plain AND may be evaluated in any order.
    sql = (
        f"SELECT key, CAST(doc AS BLOB), etag, expiration_time{columns} FROM"
        " (SELECT key, CASE WHEN is_binary THEN stored_text(value) ELSE value END AS doc, etag, expiration_time"
        f" FROM {table} WHERE expiration_time IS NULL OR expiration_time > :now)"
        f" WHERE CASE WHEN json_valid(doc) THEN {condition} ELSE 0 END ORDER BY {order_by}key LIMIT :limit"
    )
    return CompiledQuery(sql, {**compiler.args, "now": now_text, "limit": limit + 1}, limit, len(ranks), shape)


def next_token(compiled: CompiledQuery, last_row: Sequence[Any]) -> str:
    """The token of the page that ends with this row."""
    key, sort_values = last_row[0], list(last_row[4 : 4 + compiled.sort_keys])
    return urlsafe_b64encode(json.dumps([compiled.shape, *sort_values, key]).encode()).decode()


def _open_token(token: str, shape: int, sort_keys: int) -> list[Any]:
    try:
        found = json.loads(urlsafe_b64decode(token.encode()))
    except ValueError:
        found = None
    if not isinstance(found, list) or len(found) != sort_keys + 2 or found[0] != shape:
        raise BadMetadata("page.token does not belong to this query; ask for the first page without a token")
    return found[1:]


def _rank(place: _Place) -> str:
    return (
        f"CASE WHEN {place.type} IS NULL THEN 0 ELSE CASE {place.type} WHEN 'null' THEN 1 WHEN 'false' THEN 2"
        " WHEN 'true' THEN 2 WHEN 'integer' THEN 3 WHEN 'real' THEN 3 WHEN 'text' THEN 4 ELSE 5 END END"
    )


class _Compiler:
    """Gathers the arguments while the SQL grows."""

    def __init__(self) -> None:
        self.args: dict[str, Any] = {}

    def argument(self, value: Any) -> str:
        name = f"a{len(self.args)}"
        self.args[name] = value
        return f":{name}"

    def place(self, path: str) -> _Place:
        if _PLAIN_PATH.fullmatch(path):
            where = self.argument("$" + "".join(f'."{segment}"' for segment in path.split(".")))
            place = f"doc, {where}"
            return _Place(f"json_type({place})", f"json_extract({place})", f"(doc -> {where})", place)
        document = f"json_at(doc, {self.argument(path)})"
        return _Place(f"json_type({document})", f"json_extract({document}, '$')", document, document)

    def filter(self, node: Filter) -> str:
        if isinstance(node, Compare):
            return self.compare(node)
        if not node.parts:
            raise BadMetadata(f"{node.operator} needs at least one part")
        return _balanced([self.filter(part) for part in node.parts], f" {node.operator} ")

    def compare(self, node: Compare) -> str:
        place = self.place(node.path)
        if node.operator in ("EQ", "NEQ"):
            equal = f"coalesce({self.equals_any(place, [node.value], node.operator)}, 0)"
            return f"NOT {equal}" if node.operator == "NEQ" else equal
        if node.operator == "IN":
            if not isinstance(node.value, (list, tuple)):
                raise BadMetadata("IN takes a list of values")
            return f"coalesce({self.equals_any(place, list(node.value), 'IN')}, 0)"
        return f"coalesce({self.ordered(place, node.operator, node.value)}, 0)"

    def equals_any(self, place: _Place, values: Sequence[Any], operator: str) -> str:
        """Holds when the place, or an element of the array there, is one of the values."""
        small, big = _by_type(values, operator)
        parts = [f"({place.type} = 'integer' AND {place.text} = {self.argument(str(value))})" for value in big]
        if small.anything:
            in_array = self.is_one_of(_Place("e.type", "e.value", "", ""), small)
            parts.append(self.is_one_of(place, small))
            parts.append(
                f"({place.type} = 'array' AND EXISTS (SELECT 1 FROM json_each({place.each}) AS e WHERE {in_array}))"
            )
        return _balanced(parts, " OR ") if parts else "0"

    def is_one_of(self, place: _Place, values: _ByType) -> str:
        parts = []
        if values.words:
            parts.append(f"{place.type} IN ({', '.join(self.argument(word) for word in values.words)})")
        if values.texts:
            texts = ", ".join(self.argument(text) for text in values.texts)
            parts.append(f"({place.type} = 'text' AND {place.value} IN ({texts}))")
        if values.numbers:
            numbers = ", ".join(self.argument(number) for number in values.numbers)
            parts.append(f"({place.type} IN ('integer', 'real') AND {place.value} IN ({numbers}))")
        return f"({' OR '.join(parts)})"

    def ordered(self, place: _Place, operator: str, value: Any) -> str:
        sign = _SIGNS[operator]
        if isinstance(value, str):
            return f"({place.type} = 'text' AND {place.value} {sign} {self.argument(value)})"
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise BadMetadata(f"{operator} takes a number or a string, not {json.dumps(value)}")
        if isinstance(value, int) and abs(value) > _INT64_MAX:
            return self.ordered_big(place, sign, value)
        return f"({place.type} IN ('integer', 'real') AND {place.value} {sign} {self.argument(value)})"

    def ordered_big(self, place: _Place, sign: str, value: int) -> str:
        """Past 64 bits SQLite has doubles only, so whole numbers are compared as text: first length, then digits."""
        digits = self.argument(str(abs(value)))
        text = place.text if value > 0 else f"substr({place.text}, 2)"
        same_sign = f"{place.text} {'NOT LIKE' if value > 0 else 'LIKE'} '-%'"
        size = f"(length({text}) > length({digits}) OR (length({text}) = length({digits}) AND {text} > {digits}))"
        farther = f"({same_sign} AND {size})"
        equal = f"({same_sign} AND {text} = {digits})"
        away = (">" in sign) == (value > 0)  # the sign asks for numbers farther from zero than `value`
        whole = farther if away else f"(NOT {farther} AND NOT {equal})"
        if "=" in sign:
            whole = f"({whole} OR {equal})"
        real = f"({place.value} {sign} {self.argument(_as_float(value))})"
        return f"CASE {place.type} WHEN 'integer' THEN {whole} WHEN 'real' THEN {real} ELSE 0 END"

    def after(self, columns: Sequence[tuple[str, str]], values: Sequence[Any]) -> str:
        """Holds for rows that sort after the values: greater in the first column where they differ."""
        condition = "0"
        for (expression, sign), value in zip(reversed(columns), reversed(values), strict=True):
            name = self.argument(value)
            condition = f"({expression} {sign} {name} OR ({expression} = {name} AND {condition}))"
        return condition


class _ByType(NamedTuple):
    """Values as SQL tells them apart: `words` are the JSON types that have one value each."""

    words: list[str]
    texts: list[str]
    numbers: list[float]

    @property
    def anything(self) -> bool:
        return bool(self.words or self.texts or self.numbers)


def _by_type(values: Sequence[Any], operator: str) -> tuple[_ByType, list[int]]:
    found = _ByType([], [], [])
    big: list[int] = []
    for value in values:
        if value is None:
            found.words.append("null")
        elif isinstance(value, bool):
            found.words.append("true" if value else "false")
        elif isinstance(value, str):
            found.texts.append(value)
        elif isinstance(value, int) and abs(value) > _INT64_MAX:
            big.append(value)
        elif isinstance(value, (int, float)):
            found.numbers.append(value)
        else:
            raise BadMetadata(f"{operator} takes strings, numbers, booleans and null, not {json.dumps(value)}")
    return found, big


def _as_float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


def _balanced(parts: Sequence[str], joint: str) -> str:
    """The parts joined as a tree: SQLite allows expressions 1000 deep, and a chain is as deep as it is long."""
    if len(parts) == 1:
        return parts[0]
    middle = len(parts) // 2
    return f"({_balanced(parts[:middle], joint)}{joint}{_balanced(parts[middle:], joint)})"


def json_at(document: str, path: str) -> str | None:
    """The JSON at a dotted path, for paths that SQLite cannot say; None when there is none."""
    value: Any = json.loads(document)
    for segment in path.split("."):
        if not isinstance(value, dict) or segment not in value:
            return None
        value = value[segment]
    return json.dumps(value, ensure_ascii=False)
