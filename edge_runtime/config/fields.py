"""Typed reading of a YAML mapping: each mistake names file, line, field, what was found and what was expected.

A wrong type raises `FieldError` (the caller drops the document or stops, as its kind demands); a key that nothing reads
becomes a note with the nearest known name, because a misspelt field that is silently ignored costs its author an hour.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar, overload

from edge_runtime.config import yaml
from edge_runtime.config.values import go_duration_s, nearest
from edge_runtime.config.yaml import Listing, Node, Scalar, Table
from edge_runtime.model.errors import ConfigError

_T = TypeVar("_T")
_KINDS: Final = {Listing: "a list", Table: "a mapping"}


class FieldError(ConfigError):
    """A field with a value of the wrong type or form."""


def describe(node: Node) -> str:
    """What was found, for an error's end."""
    if isinstance(node, Scalar):
        return repr(node.text) if not node.plain or node.text else "nothing"
    return _KINDS[type(node)]


class Fields:
    """The mapping at `path`. With `exact`, keys match by case as Configuration's do; otherwise in any case."""

    __slots__ = ("_notes", "_path", "_table", "exact", "line")

    def __init__(
        self, node: Node | None, path: str, known: tuple[str, ...], notes: list[str], *, exact: bool = False
    ) -> None:
        self.exact = exact
        self._path = path
        self._notes = notes
        self._table = _table(node, path)
        self.line = 0 if self._table is None else self._table.line
        if self._table is not None and known:
            self._note_unknown(self._table, known)

    def _note_unknown(self, table: Table, known: tuple[str, ...]) -> None:
        names = set(known) if self.exact else {name.lower() for name in known}
        for key, line in table.key_lines.items():
            if (key if self.exact else key.lower()) not in names:
                self._notes.append(
                    f"{table.file}:{line}: unknown field {self.path_of(key)!r} is ignored{nearest(key, known)}"
                )

    def path_of(self, name: str) -> str:
        return f"{self._path}.{name}" if self._path else name

    def where(self, name: str) -> str:
        """`file:line: path` of a field, or of the mapping when the field is not there."""
        node = self.get(name)
        place = node if node is not None else self._table
        return f"{place.file}:{place.line}: {self.path_of(name)}" if place is not None else self.path_of(name)

    def get(self, name: str) -> Node | None:
        """The field's node; None when it is absent or null."""
        if self._table is None:
            return None
        node = self._table.pairs.get(name)
        if node is None and not self.exact:
            lowered = name.lower()
            node = next((value for key, value in self._table.pairs.items() if key.lower() == lowered), None)
        return None if yaml.is_null(node) else node

    def __contains__(self, name: str) -> bool:
        return self.get(name) is not None

    def names(self) -> list[str]:
        return [] if self._table is None else list(self._table.pairs)

    def wrong(self, name: str, expected: str) -> FieldError:
        node = self.get(name)
        found = "nothing" if node is None else describe(node)
        return FieldError(f"{self.where(name)}: expected {expected}, found {found}")

    def wrong_unseen(self, name: str, expected: str) -> FieldError:
        """As `wrong`, for what may hold a secret: what was found is not shown."""
        return FieldError(f"{self.where(name)}: expected {expected}; what was found may hold a secret and is not shown")

    def note(self, name: str, text: str) -> None:
        self._notes.append(f"{self.where(name)}: {text}")

    def text(self, name: str, default: str = "") -> str:
        node = self.get(name)
        if node is None:
            return default
        if not isinstance(node, Scalar):
            raise self.wrong(name, "a text")
        return node.text if self.exact else yaml.scalar_text(node)

    @overload
    def flag(self, name: str, default: bool) -> bool: ...
    @overload
    def flag(self, name: str, default: None = None) -> bool | None: ...
    def flag(self, name: str, default: bool | None = None) -> bool | None:
        node = self.get(name)
        if node is None:
            return default
        value = yaml.resolve(node) if isinstance(node, Scalar) else None
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false, without quotes")
        return value

    @overload
    def integer(self, name: str, default: int) -> int: ...
    @overload
    def integer(self, name: str, default: None = None) -> int | None: ...
    def integer(self, name: str, default: int | None = None) -> int | None:
        node = self.get(name)
        if node is None:
            return default
        value = yaml.resolve(node) if isinstance(node, Scalar) else None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.wrong(name, "a whole number, without quotes")
        return value

    @overload
    def duration_s(self, name: str, default: float) -> float: ...
    @overload
    def duration_s(self, name: str, default: None = None) -> float | None: ...
    def duration_s(self, name: str, default: float | None = None) -> float | None:
        """A Go duration, in seconds."""
        return self.parsed(name, go_duration_s, "a duration such as 300ms, 5s or 1h30m", default)

    def parsed(self, name: str, parse: Callable[[str], _T], expected: str, default: _T) -> _T:
        """A text that `parse` understands; its ValueError becomes an error that says what was `expected`."""
        text = self.text(name)
        if not text:
            return default
        try:
            return parse(text)
        except ValueError:
            raise self.wrong(name, expected) from None

    def nodes(self, name: str) -> list[Node]:
        node = self.get(name)
        if node is None:
            return []
        if not isinstance(node, Listing):
            raise self.wrong(name, "a list")
        return node.items

    def texts(self, name: str) -> tuple[str, ...]:
        found: list[str] = []
        for index, node in enumerate(self.nodes(name)):
            if not isinstance(node, Scalar):
                raise FieldError(
                    f"{node.file}:{node.line}: {self.path_of(name)}[{index}]: expected a text, found {describe(node)}"
                )
            found.append(node.text if self.exact else yaml.scalar_text(node))
        return tuple(found)

    def fields(self, name: str, known: tuple[str, ...]) -> Fields:
        """The mapping under `name`; an empty one when there is none."""
        return Fields(self.get(name), self.path_of(name), known, self._notes, exact=self.exact)

    def each(self, name: str, known: tuple[str, ...]) -> Iterator[Fields]:
        """The mappings of the list under `name`."""
        for index, node in enumerate(self.nodes(name)):
            yield Fields(node, f"{self.path_of(name)}[{index}]", known, self._notes, exact=self.exact)

    def text_map(self, name: str) -> dict[str, str]:
        inner = self.fields(name, ())
        return {key: inner.text(key) for key in inner.names()}

    def plain(self, name: str) -> Any:
        """The field as dictionaries, lists and single values."""
        return yaml.plain_value(self.get(name))


def _table(node: Node | None, path: str) -> Table | None:
    if node is None or isinstance(node, Table):
        return node
    if yaml.is_null(node):
        return None
    what = f"{path}: " if path else ""
    raise FieldError(f"{node.file}:{node.line}: {what}expected a mapping, found {describe(node)}")
