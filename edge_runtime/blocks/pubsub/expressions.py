"""The plain part of CEL, compiled to closures: paths into `event`, literals, comparisons, has(), text tests, logic.

Most routing rules need no more, and the full evaluator costs 12 MB and a quarter of a millisecond a message. What this
reader does not know it answers with `NotPlain`, and `rules.py` hands the expression to the full evaluator. What it does
know it evaluates as cel-go, Dapr's evaluator: numbers compare by value whatever their type, values of different types
are unequal and cannot be ordered, a missing attribute is an error, and `&&` and `||` let a decided side outweigh an
error on the other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from edge_runtime.blocks.pubsub.rules import EvaluationError, Event, Matcher

Node = Matcher


class NotPlain(Exception):
    """The expression needs the full evaluator (or is no CEL at all)."""


_TOKEN: Final = re.compile(
    r"""\s*(?:
    (?P<number>(?:\d+\.\d+(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+|0x[0-9a-fA-F]+|\d+)(?![\w.]))
  | (?P<name>[A-Za-z_]\w*(?!["'\w]))
  | (?P<text>"(?!"")(?:[^"\\\r\n]|\\.)*"|'(?!'')(?:[^'\\\r\n]|\\.)*')
  | (?P<mark>&&|\|\||==|!=|<=|>=|[<>!().,\[\]\-])
    )""",
    re.VERBOSE | re.ASCII,
)
_ESCAPE: Final = re.compile(r"\\(?:(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[0-3][0-7]{2})|(.))", re.DOTALL)
_SIMPLE_ESCAPES: Final = {
    **{mark: mark for mark in "\\\"'`?"},
    "a": "\a",
    "b": "\b",
    "f": "\f",
    "n": "\n",
    "r": "\r",
    "t": "\t",
    "v": "\v",
}
_RESERVED: Final = re.compile(
    "true|false|null|in|as|break|const|continue|else|for|function|if|import|let|loop|package|namespace|return|var|void"
    "|while"
)
_INT64_MAX: Final = 2**63 - 1
_DEPTH_MAX: Final = 50


def compile_plain(text: str) -> Node:
    """The expression as a function of the event, which raises `EvaluationError`. Raises `NotPlain`."""
    return _Parser(text).expression()


class _Parser:
    """Recursive descent over CEL's grammar, from `||` down to members."""

    def __init__(self, text: str) -> None:
        self._tokens = _tokens(text)
        self._at = 0
        self._depth = 0

    def expression(self) -> Node:
        node = self._or()
        if self._peek()[0]:
            raise NotPlain
        return node

    def _peek(self) -> tuple[str, str]:
        return self._tokens[self._at]

    def _take(self, *marks: str) -> str:
        """The next token when it is one of `marks`, else an empty text."""
        kind, text = self._tokens[self._at]
        if text in marks and (kind == "mark" or text == "in"):
            self._at += 1
            return text
        return ""

    def _expect(self, mark: str) -> None:
        if not self._take(mark):
            raise NotPlain

    def _or(self) -> Node:
        self._depth += 1
        if self._depth > _DEPTH_MAX:
            raise NotPlain
        node = self._and()
        while self._take("||"):
            node = _logic(node, self._and(), decided=True)
        self._depth -= 1
        return node

    def _and(self) -> Node:
        node = self._relation()
        while self._take("&&"):
            node = _logic(node, self._relation(), decided=False)
        return node

    def _relation(self) -> Node:
        node = self._unary()
        while operator := self._take("==", "!=", "<=", ">=", "<", ">", "in"):
            node = _compare(operator, node, self._unary())
        return node

    def _unary(self) -> Node:
        if self._take("!"):
            negations = 1
            while self._take("!"):
                negations += 1
            return _negated(self._member(), negations)
        if self._take("-"):
            return _constant(-self._number())
        return self._member()

    def _member(self) -> Node:
        node = self._primary()
        while True:
            if self._take("."):
                name = self._name()
                node = self._method(node, name) if self._take("(") else _attribute(node, name)
            elif self._take("["):
                node = _element(node, self._or())
                self._expect("]")
            else:
                return node

    def _primary(self) -> Node:
        kind, text = self._peek()
        if kind == "number":
            return _constant(self._number())
        if kind == "mark":
            return self._grouped()
        self._at += 1
        if kind == "text":
            return _constant(_unescaped(text))
        if text in ("true", "false", "null"):
            return _constant({"true": True, "false": False, "null": None}[text])
        if text == "event":
            return _whole_event
        if text in ("has", "size") and self._take("("):
            return self._has() if text == "has" else self._size()
        raise NotPlain

    def _grouped(self) -> Node:
        if self._take("("):
            node = self._or()
            self._expect(")")
            return node
        self._expect("[")
        items: list[Node] = []
        while not self._take("]"):
            if items:
                self._expect(",")
            items.append(self._or())
        return lambda event: [item(event) for item in items]

    def _name(self) -> str:
        kind, text = self._peek()
        if kind != "name" or _RESERVED.fullmatch(text):
            raise NotPlain
        self._at += 1
        return text

    def _number(self) -> int | float:
        kind, text = self._peek()
        if kind != "number":
            raise NotPlain
        self._at += 1
        if "." in text or ("e" in text.lower() and not text.startswith("0x")):
            return float(text)
        value = int(text, 16) if text.startswith("0x") else int(text)
        if value > _INT64_MAX:
            raise NotPlain
        return value

    def _has(self) -> Node:
        """`has(path.name)`: whether the map that the path leads to has the name."""
        node = self._primary()
        name = ""
        self._expect(".")
        while True:
            name = self._name()
            if self._take(")"):
                return _presence(node, name)
            node = _attribute(node, name)
            self._expect(".")

    def _size(self) -> Node:
        node = self._or()
        self._expect(")")
        return _size_of(node)

    def _method(self, node: Node, name: str) -> Node:
        if name == "size":
            self._expect(")")
            return _size_of(node)
        if name == "matches":
            return self._matches(node)
        test = _TEXT_TESTS.get(name)
        if test is None:
            raise NotPlain
        argument = self._or()
        self._expect(")")
        return _text_test(test, node, argument)

    def _matches(self, node: Node) -> Node:
        kind, text = self._peek()
        self._at += 1
        if kind != "text":
            raise NotPlain
        self._expect(")")
        search = _re2_search(_unescaped(text))
        return _text_test(lambda subject, _: search(subject), node, _constant(""))


def _tokens(text: str) -> list[tuple[str, str]]:
    found = []
    at = 0
    end = len(text.rstrip())
    while at < end:
        match = _TOKEN.match(text, at)
        if match is None:
            raise NotPlain
        kind = match.lastgroup or ""
        found.append((kind, match[kind]))
        at = match.end()
    found.append(("", ""))
    return found


def _unescaped(literal: str) -> str:
    return _ESCAPE.sub(_escape_value, literal[1:-1])


def _escape_value(match: re.Match[str]) -> str:
    code, mark = match[1], match[2]
    if mark is not None:
        if mark not in _SIMPLE_ESCAPES:
            raise NotPlain
        return _SIMPLE_ESCAPES[mark]
    point = int(code[1:], 16) if code[0] in "xuU" else int(code, 8)
    if point > 0x10FFFF or 0xD800 <= point < 0xE000:
        raise NotPlain
    return chr(point)


def _re2_search(pattern: str) -> Callable[[str], bool]:
    """CEL's regular expressions are RE2's, which has no backtracking; Python's own would be another language."""
    try:
        import re2  # type: ignore[import-untyped]
    except ImportError:
        raise NotPlain from None
    try:
        options = re2.Options()
        options.log_errors = False
        search = re2.compile(pattern, options=options).search
    except re2.error:
        raise NotPlain from None
    return lambda subject: search(subject) is not None


# --- what the closures do ---------------------------------------------------------------------------------------------


def _whole_event(event: Event) -> Any:
    return event


def _constant(value: Any) -> Node:
    return lambda event: value


def _attribute(node: Node, name: str) -> Node:
    def value(event: Event) -> Any:
        try:
            return node(event)[name]
        except (KeyError, TypeError, IndexError):
            raise EvaluationError(f"no such attribute: {name}") from None

    return value


def _element(node: Node, key: Node) -> Node:
    def value(event: Event) -> Any:
        container = node(event)
        index = key(event)
        if isinstance(container, dict):
            if isinstance(index, str) and index in container:
                return container[index]
        elif isinstance(container, list) and _is_number(index) and index == int(index) and 0 <= index < len(container):
            return container[int(index)]
        raise EvaluationError(f"no such element: {index!r}")

    return value


def _presence(node: Node, name: str) -> Node:
    def value(event: Event) -> bool:
        container = node(event)
        if not isinstance(container, dict):
            raise EvaluationError(f"has() looks for {name} in what is no map")
        return name in container

    return value


def _size_of(node: Node) -> Node:
    def value(event: Event) -> int:
        container = node(event)
        if not isinstance(container, (str, list, dict)):
            raise EvaluationError("size() of what has none")
        return len(container)

    return value


def _text_test(test: Callable[[str, str], bool], node: Node, argument: Node) -> Node:
    def value(event: Event) -> bool:
        text, part = node(event), argument(event)
        if not isinstance(text, str) or not isinstance(part, str):
            raise EvaluationError("a text test on what is no text")
        return test(text, part)

    return value


_TEXT_TESTS: Final[Mapping[str, Callable[[str, str], bool]]] = {
    "startsWith": lambda text, part: text.startswith(part),
    "endsWith": lambda text, part: text.endswith(part),
    "contains": lambda text, part: part in text,
}


def _negated(node: Node, negations: int) -> Node:
    def value(event: Event) -> bool:
        found = node(event)
        if found is not True and found is not False:
            raise EvaluationError("! of what is no boolean")
        return found is not bool(negations & 1)

    return value


def _logic(left: Node, right: Node, *, decided: bool) -> Node:
    """`||` (decided by true) and `&&` (decided by false): one decided side is enough, even beside an error."""

    def value(event: Event) -> bool:
        try:
            first = _boolean(left(event))
        except EvaluationError:
            if _boolean(right(event)) is decided:
                return decided
            raise
        return decided if first is decided else _boolean(right(event))

    return value


def _boolean(value: Any) -> bool:
    if value is True or value is False:
        return bool(value)
    raise EvaluationError("a condition that is no boolean")


def _compare(operator: str, left: Node, right: Node) -> Node:
    if operator == "==":
        return lambda event: equal(left(event), right(event))
    if operator == "!=":
        return lambda event: not equal(left(event), right(event))
    if operator == "in":
        return lambda event: _contains(right(event), left(event))
    return _ordered(operator, left, right)


def _ordered(operator: str, left: Node, right: Node) -> Node:
    def value(event: Event) -> bool:
        a, b = left(event), right(event)
        comparable = (_is_number(a) and _is_number(b)) or (type(a) is type(b) and isinstance(a, (str, bool)))
        if not comparable:
            raise EvaluationError(f"{operator} between values that have no order")
        if operator == "<":
            return bool(a < b)
        if operator == "<=":
            return bool(a <= b)
        return bool(a > b if operator == ">" else a >= b)

    return value


def _contains(container: Any, item: Any) -> bool:
    if isinstance(container, list):
        return any(equal(item, member) for member in container)
    if isinstance(container, dict):
        return isinstance(item, str) and item in container
    raise EvaluationError("in needs a list or a map")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and value is not True and value is not False


def equal(a: Any, b: Any) -> bool:
    """CEL's equality: numbers by value, other types only with their own kind, lists and maps member by member."""
    if _is_number(a):
        return _is_number(b) and bool(a == b)
    if type(a) is not type(b):
        return False
    if isinstance(a, list):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(value, b[key]) for key, value in a.items())
    return bool(a == b)
