"""The grammar of state queries: JSON in, `model.ports.Query` or an error in words out."""

from __future__ import annotations

import json
from typing import Any, Final, Literal, NoReturn, get_args

from edge_runtime.config.values import nearest
from edge_runtime.model.ports import Combine, Compare, Filter, Query

_Comparison = Literal["EQ", "NEQ", "GT", "GTE", "LT", "LTE"]
_OPERATORS: Final = (*get_args(_Comparison), "IN", "AND", "OR")
_DEPTH_MAX: Final = 64


class QueryError(ValueError):
    """The text names the place in the query and what was expected there."""


def parse_query(body: bytes) -> Query:
    """The query that the body asks. Raises QueryError."""
    try:
        raw = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise QueryError(f"failed to parse JSON query body: {error}") from None
    query = _object("the query", raw)
    page = _object("page", query.get("page"))
    return Query(
        _filter("filter", query["filter"], 0) if query.get("filter") else None,
        tuple(_sorting(f"sort[{index}]", entry) for index, entry in enumerate(_list("sort", query.get("sort")))),
        _limit(page.get("limit")),
        _text("page.token", page.get("token")),
    )


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON value")


def _filter(path: str, raw: Any, depth: int) -> Filter:
    if depth > _DEPTH_MAX:
        raise QueryError(f"{path}: filters are nested more than {_DEPTH_MAX} deep")
    fields = _object(path, raw)
    if len(fields) != 1:
        raise QueryError(f"{path}: expected exactly one operator, got {len(fields)}")
    operator, operand = next(iter(fields.items()))
    path = f"{path}.{operator}"
    match operator:
        case "EQ" | "NEQ" | "GT" | "GTE" | "LT" | "LTE":
            name, value = _pair(path, operand)
            return Compare(operator, name, _scalar(path, value))
        case "IN":
            name, value = _pair(path, operand)
            return Compare("IN", name, tuple(_scalar(path, one) for one in _list_of(path, value, 1)))
        case "AND" | "OR":
            parts = _list_of(path, operand, 2)
            return Combine(operator, tuple(_filter(f"{path}[{i}]", part, depth + 1) for i, part in enumerate(parts)))
    raise QueryError(f'{path}: "{operator}" is no operator; expected {", ".join(_OPERATORS)}{_hint(operator)}')


def _hint(operator: str) -> str:
    return nearest(operator, _OPERATORS)


def _pair(path: str, raw: Any) -> tuple[str, Any]:
    fields = _object(path, raw)
    if len(fields) != 1:
        raise QueryError(f"{path}: expected one path and its value, got {len(fields)} of them")
    return next(iter(fields.items()))


def _scalar(path: str, value: Any) -> Any:
    if isinstance(value, (dict, list)):
        raise QueryError(f"{path}: expected a text, a number, true, false or null to compare with")
    return value


def _sorting(path: str, raw: Any) -> tuple[str, Literal["ASC", "DESC"]]:
    fields = _object(path, raw)
    key = _text(f"{path}.key", fields.get("key"))
    if not key:
        raise QueryError(f"{path}.key: expected the path to sort by")
    match fields.get("order"):
        case None | "" | "ASC":
            return key, "ASC"
        case "DESC":
            return key, "DESC"
        case other:
            raise QueryError(f"{path}.order: {json.dumps(other)} is no order; expected ASC or DESC")


def _limit(raw: Any) -> int | None:
    if raw is None:
        return None
    if isinstance(raw, bool) or not isinstance(raw, int) or raw < 0:
        raise QueryError(f"page.limit: expected a number of results, got {json.dumps(raw)}")
    return raw or None


def _object(path: str, raw: Any) -> dict[str, Any]:
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise QueryError(f"{path}: expected an object")
    return raw


def _list(path: str, raw: Any) -> list[Any]:
    if raw is None:
        return []
    if not isinstance(raw, list):
        raise QueryError(f"{path}: expected a list")
    return raw


def _list_of(path: str, raw: Any, least: int) -> list[Any]:
    parts = _list(path, raw)
    if len(parts) < least:
        raise QueryError(f"{path}: expected a list of at least {least}, got {len(parts)}")
    return parts


def _text(path: str, raw: Any) -> str:
    if raw is None:
        return ""
    if not isinstance(raw, str):
        raise QueryError(f"{path}: expected a text, got {json.dumps(raw)}")
    return raw
