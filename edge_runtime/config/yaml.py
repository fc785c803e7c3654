"""YAML text as a tree that remembers its lines: scalars are resolved only when somebody says what they should be.

Dapr reads its resources through a YAML 1.1 parser that becomes JSON, so `yes` and `on` are booleans, `0x10` and `1_000`
are integers, and a date is a text. The tree is built from parser events, never by recursion: a document cannot exhaust
the stack or, by aliases of aliases, the memory. PyYAML is imported by the first document.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from edge_runtime.model.errors import ConfigError

DOCUMENT_BYTES_MAX: Final = 64 * 1024
DEPTH_MAX: Final = 64
# Newer libyaml reads ahead and refuses far deeper nesting by itself, before its events come to be counted here.
_LIBYAML_TOO_DEEP: Final = "exceeded maximum nesting depth"
# Aliases count as often as they are used: what a reader of the tree has to walk is what is limited.
VALUES_MAX: Final = 40_000
# What is longer is a text: turning thousands of digits into a number and back is work for nothing.
NUMBER_LENGTH_MAX: Final = 100

_SEPARATOR: Final = b"\n---"
_TAG: Final = "tag:yaml.org,2002:"
_INTEGER: Final = re.compile(r"([+-]?)(0x[0-9a-fA-F]+|0b[01]+|0o[0-7]+|0[0-7]*|[1-9][0-9]*)")
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: Final[dict[str, bool | float | None]] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"), True),
    **dict.fromkeys(("n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"), False),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), math.inf),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), -math.inf),
}


class YamlError(ConfigError):
    """A document that is no usable YAML; the text names file and line."""


class Scalar:
    """A single value as it was written. `plain` is false for quoted and block texts, which are never anything else."""

    __slots__ = ("file", "line", "plain", "text")

    def __init__(self, file: str, line: int, text: str, plain: bool) -> None:
        self.file = file
        self.line = line
        self.text = text
        self.plain = plain


class Listing:
    """A sequence."""

    __slots__ = ("file", "items", "line")

    def __init__(self, file: str, line: int) -> None:
        self.file = file
        self.line = line
        self.items: list[Node] = []


class Table:
    """A mapping. The keys are texts; a key given twice keeps its last value, as in Dapr."""

    __slots__ = ("file", "key_lines", "line", "pairs")

    def __init__(self, file: str, line: int) -> None:
        self.file = file
        self.line = line
        self.pairs: dict[str, Node] = {}
        self.key_lines: dict[str, int] = {}

    def put(self, key: str, line: int, value: Node) -> None:
        self.pairs[key] = value
        self.key_lines[key] = line


Node = Scalar | Listing | Table


class Document(NamedTuple):
    """One document: its tree, None when it holds nothing, and what a reader should be told about it."""

    root: Node | None
    notes: list[str]


class Chunk(NamedTuple):
    """The bytes of one document of a file, and the file's line on which they begin."""

    data: bytes
    first_line: int


def split_documents(data: bytes) -> Iterator[Chunk]:
    """Cut at each newline followed by `---`; the rest of that line belongs to neither side."""
    start = search = 0
    line = 1
    while (cut := data.find(_SEPARATOR, search)) >= 0:
        yield Chunk(data[start:cut], line)
        end = data.find(b"\n", cut + len(_SEPARATOR))
        if end < 0:
            return
        line += data.count(b"\n", start, end + 1)
        # The newline that ends the separator's line may begin the next separator.
        start, search = end + 1, end
    yield Chunk(data[start:], line)


def parse_document(chunk: Chunk, file: str) -> Document:
    """The document's tree. Raises `YamlError`."""
    where = f"{file}:{chunk.first_line}"
    if len(chunk.data) > DOCUMENT_BYTES_MAX:
        raise YamlError(
            f"{where}: this document has {len(chunk.data)} bytes; at most {DOCUMENT_BYTES_MAX} (64 KiB) are read. "
            "Split it into several documents"
        )
    try:
        text = chunk.data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = chunk.first_line + chunk.data.count(b"\n", 0, error.start)
        raise YamlError(
            f"{file}:{line}: byte 0x{chunk.data[error.start]:02x} is no UTF-8; save the file as UTF-8"
        ) from None
    control = _CONTROL.search(text)
    if control is not None:
        line = chunk.first_line + text.count("\n", 0, control.start())
        raise YamlError(f"{file}:{line}: the control character U+{ord(control[0]):04X} is not allowed in YAML")
    return _Builder(file, chunk.first_line).build(text)


_CONTROL: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


class _Frame:
    """A container that is still open."""

    __slots__ = ("anchor", "height", "key", "key_line", "merges", "node", "values")

    def __init__(self, node: Listing | Table, anchor: str | None) -> None:
        self.node = node
        self.anchor = anchor
        self.key: str | None = None
        self.key_line = 0
        self.merges: list[tuple[int, Node]] = []
        self.values = 1
        self.height = 1


class _Builder:
    """Turns parser events into a tree, counting values and depth as it goes."""

    def __init__(self, file: str, first_line: int) -> None:
        self._file = file
        self._offset = first_line
        self._stack: list[_Frame] = []
        # anchor → (node, values in it, its height); the last two are what an alias to it costs.
        self._anchors: dict[str, tuple[Node, int, int]] = {}
        self._root: Node | None = None
        self._notes: list[str] = []

    def build(self, text: str) -> Document:
        import yaml

        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        try:
            for event in yaml.parse(text, Loader=loader):
                if isinstance(event, yaml.DocumentEndEvent):
                    break
                self._take(event, type(event).__name__)
        except yaml.MarkedYAMLError as error:
            raise self._broken(error, text) from None
        except yaml.YAMLError as error:
            raise YamlError(f"{self._file}:{self._offset}: no valid YAML: {error}") from None
        root = self._root
        if isinstance(root, Scalar) and root.plain and root.text in ("", "~", "null"):
            root = None
        return Document(root, self._notes)

    def _broken(self, error: Any, text: str) -> YamlError:
        mark = error.problem_mark or error.context_mark
        line = mark.line if mark is not None else 0
        if error.problem == _LIBYAML_TOO_DEEP:
            return self._too_deep(self._offset + line)
        problem = error.problem or error.context or "it cannot be read"
        indent = re.match(r"[ \t]*", "".join(text.split("\n")[line : line + 1]))
        hint = "; indent with blanks, YAML takes no tabs" if indent and "\t" in indent[0] else ""
        return YamlError(f"{self._file}:{self._offset + line}: no valid YAML: {problem}{hint}")

    def _take(self, event: Any, name: str) -> None:
        line = self._offset + event.start_mark.line
        if name == "ScalarEvent":
            self._scalar(event, line)
        elif name in ("MappingStartEvent", "SequenceStartEvent"):
            self._open(event.anchor, line, Table if name == "MappingStartEvent" else Listing)
        elif name in ("MappingEndEvent", "SequenceEndEvent"):
            self._close()
        elif name == "AliasEvent":
            self._alias(event.anchor, line)

    def _scalar(self, event: Any, line: int) -> None:
        text, tag = event.value, event.tag
        plain = event.style in (None, "")
        if tag is not None:
            plain = tag in (f"{_TAG}int", f"{_TAG}bool", f"{_TAG}float", f"{_TAG}null")
            if tag == f"{_TAG}binary":
                text = self._binary(text, line)
        frame = self._stack[-1] if self._stack else None
        if frame is not None and isinstance(frame.node, Table) and frame.key is None:
            frame.key, frame.key_line = text, line
            return
        node = Scalar(self._file, line, text, plain)
        if event.anchor is not None:
            self._anchors[event.anchor] = (node, 1, 1)
        self._attach(node, 1, 1)

    def _binary(self, text: str, line: int) -> str:
        try:
            return base64.b64decode("".join(text.split()), validate=True).decode()
        except ValueError:  # no base64, no ASCII, no UTF-8
            raise YamlError(f"{self._file}:{line}: !!binary needs base64 of UTF-8 text") from None

    def _open(self, anchor: str | None, line: int, kind: type[Listing] | type[Table]) -> None:
        if self._stack and isinstance(self._stack[-1].node, Table) and self._stack[-1].key is None:
            raise YamlError(f"{self._file}:{line}: a key must be a text, not a list or a mapping")
        if len(self._stack) >= DEPTH_MAX:
            raise self._too_deep(line)
        self._stack.append(_Frame(kind(self._file, line), anchor))

    def _close(self) -> None:
        frame = self._stack.pop()
        if isinstance(frame.node, Table):
            self._merge(frame.node, frame.merges)
        if frame.anchor is not None:
            self._anchors[frame.anchor] = (frame.node, frame.values, frame.height)
        self._attach(frame.node, frame.values, frame.height)

    def _alias(self, anchor: str, line: int) -> None:
        found = self._anchors.get(anchor)
        if found is None:
            raise YamlError(f"{self._file}:{line}: *{anchor} refers to no earlier &{anchor}, or to itself")
        frame = self._stack[-1]
        if isinstance(frame.node, Table) and frame.key is None:
            if not isinstance(found[0], Scalar):
                raise YamlError(f"{self._file}:{line}: a key must be a text, not a list or a mapping")
            frame.key, frame.key_line = found[0].text, line
            return
        if len(self._stack) + found[2] > DEPTH_MAX:
            raise self._too_deep(line)
        self._attach(*found)

    def _too_deep(self, line: int) -> YamlError:
        return YamlError(f"{self._file}:{line}: nested deeper than {DEPTH_MAX} levels")

    def _attach(self, node: Node, values: int, height: int) -> None:
        if not self._stack:
            self._root = node
            return
        frame = self._stack[-1]
        frame.values += values
        frame.height = max(frame.height, height + 1)
        if frame.values > VALUES_MAX:
            raise YamlError(f"{self._file}:{node.line}: holds more than {VALUES_MAX} values once aliases are filled in")
        if isinstance(frame.node, Listing):
            frame.node.items.append(node)
            return
        key, frame.key = frame.key or "", None
        if key == "<<":
            frame.merges.append((frame.key_line, node))
            return
        if key in frame.node.pairs:
            first = frame.node.key_lines[key]
            self._notes.append(
                f"{self._file}:{frame.key_line}: {key!r} is given twice (first on line {first}); the last one counts"
            )
        frame.node.put(key, frame.key_line, node)

    def _merge(self, table: Table, merges: list[tuple[int, Node]]) -> None:
        """`<<`: keys of the named mappings, where the table has none of its own; the earlier mapping wins."""
        for line, node in merges:
            for source in node.items if isinstance(node, Listing) else [node]:
                if not isinstance(source, Table):
                    raise YamlError(f"{self._file}:{line}: << needs a mapping or a list of mappings")
                for key, value in source.pairs.items():
                    if key not in table.pairs:
                        table.put(key, source.key_lines[key], value)


def resolve(scalar: Scalar) -> str | bool | int | float | None:
    """What the scalar is by YAML 1.1's rules as Go's parser has them."""
    text = scalar.text
    if not scalar.plain:
        return text
    if text in _WORDS:
        return _WORDS[text]
    if len(text) > NUMBER_LENGTH_MAX:
        return text
    digits = text.replace("_", "")
    match = _INTEGER.fullmatch(digits)
    if match is not None:
        body = match[2]
        octal = len(body) > 1 and body[0] == "0" and body[1].isdigit()
        value = int(body, 8) if octal else int(body, 0)
        return -value if match[1] == "-" else value
    if _FLOAT.fullmatch(digits):
        return float(digits)
    return text


def plain_value(node: Node | None) -> Any:
    """The tree as dictionaries, lists and single values."""
    if node is None:
        return None
    if isinstance(node, Scalar):
        return resolve(node)
    if isinstance(node, Listing):
        return [plain_value(item) for item in node.items]
    return {key: plain_value(value) for key, value in node.pairs.items()}


def is_null(node: Node | None) -> bool:
    return node is None or (isinstance(node, Scalar) and node.plain and resolve(node) is None)


def scalar_text(scalar: Scalar) -> str:
    """The scalar where a text is wanted: numbers and booleans by their value (`0x10` is `16`), null empty."""
    value = resolve(scalar)
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return _float_text(value) if isinstance(value, float) else str(value)


def value_text(node: Node) -> str:
    """What a component's metadata `value` becomes: texts as they are, everything else its JSON."""
    if isinstance(node, Scalar):
        return scalar_text(node)
    return json.dumps(_tidy(plain_value(node)), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _tidy(value: Any) -> Any:
    """Whole floats as integers, as Go's JSON writes them; infinities, which JSON has not, as texts."""
    if isinstance(value, float):
        if not math.isfinite(value):
            return _float_text(value)
        return int(value) if value == int(value) and abs(value) < 1e21 else value
    if isinstance(value, list):
        return [_tidy(item) for item in value]
    if isinstance(value, dict):
        return {key: _tidy(item) for key, item in value.items()}
    return value


def _float_text(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) and abs(value) < 1e21 else repr(value)
