"""Flags as POSIX and GNU programs take them, from a table a command.

`-p 3000`, `-p3000`, `--app-port 3000` and `--app-port=3000` are the same; flags and other words may mix; `--` ends the
flags. The standard library's parser is left out because `run` is the process that stays and serves.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from edge_runtime.config.values import go_bool, nearest

TEXT: Final = "text"
FLAG: Final = "flag"
INTEGER: Final = "integer"
LIST: Final = "list"


class UsageError(Exception):
    """The command line cannot be understood; the text says which word and what was expected."""


class Option(NamedTuple):
    """One flag. `names` starts with the long name; the others are older names for it."""

    names: tuple[str, ...]
    kind: str = TEXT
    short: str = ""
    help: str = ""
    default: str = ""
    hidden: bool = False

    @property
    def name(self) -> str:
        return self.names[0]


HELP: Final = Option(("help",), FLAG, "h", "Show this text.")


class Parsed:
    """What a command line said. A flag that was not given has its default."""

    def __init__(self, options: Mapping[str, Option]) -> None:
        self._options = options
        self._given: dict[str, list[str]] = {}
        self.words: list[str] = []
        self.rest: list[str] | None = None  # what follows `--`

    def add(self, option: Option, value: str) -> None:
        _check(option, value)
        self._given.setdefault(option.name, []).append(value)

    def names(self) -> list[str]:
        """The flags that were given."""
        return list(self._given)

    def settings(self) -> dict[str, list[str]]:
        """The flags that were given, with their values in order."""
        return {name: list(values) for name, values in self._given.items()}

    def given(self, name: str) -> bool:
        return name in self._given

    def text(self, name: str) -> str:
        """The last value given, or the default."""
        values = self._given.get(name)
        return values[-1] if values else self._options[name].default

    def flag(self, name: str) -> bool:
        return go_bool(self.text(name) or "false")

    def integer(self, name: str) -> int:
        return int(self.text(name) or "0", 10)

    def items(self, name: str) -> list[str]:
        """Every value, each split at its commas."""
        values = self._given.get(name) or [self._options[name].default]
        return [part for value in values for part in value.split(",") if part]

    def values(self, name: str) -> list[str]:
        """Every value as it was written."""
        return list(self._given.get(name, ()))


def parse(options: Iterable[Option], argv: Sequence[str]) -> Parsed:
    """Read `argv` by the table. Raises UsageError."""
    by_name = {name: option for option in options for name in option.names}
    by_short = {option.short: option for option in by_name.values() if option.short}
    parsed = Parsed(by_name)
    words = list(argv)
    while words:
        word = words.pop(0)
        if word == "--":
            parsed.rest = words
            break
        if word.startswith("--"):
            _long(parsed, by_name, word, words)
        elif len(word) > 1 and word[0] == "-":
            _short(parsed, by_short, word, words)
        else:
            parsed.words.append(word)
    return parsed


def _long(parsed: Parsed, by_name: Mapping[str, Option], word: str, words: list[str]) -> None:
    name, equals, value = word[2:].partition("=")
    option = by_name.get(name)
    if option is None:
        visible = (known for known, candidate in by_name.items() if not candidate.hidden)
        raise UsageError(f"unknown flag: --{name}{nearest(name, visible)}")
    if not equals:
        value = "true" if option.kind == FLAG else _next(words, f"--{name}")
    parsed.add(option, value)


def _short(parsed: Parsed, by_short: Mapping[str, Option], word: str, words: list[str]) -> None:
    letters = word[1:]
    while letters:
        letter, letters = letters[0], letters[1:]
        option = by_short.get(letter)
        if option is None:
            raise UsageError(f"unknown shorthand flag: '{letter}' in {word}")
        if letters.startswith("="):
            parsed.add(option, letters[1:])
            return
        if option.kind != FLAG:
            parsed.add(option, letters or _next(words, f"-{letter}"))
            return
        parsed.add(option, "true")


def _next(words: list[str], flag: str) -> str:
    if not words:
        raise UsageError(f"flag needs an argument: {flag}")
    return words.pop(0)


def _check(option: Option, value: str) -> None:
    try:
        if option.kind == FLAG:
            go_bool(value)
        elif option.kind == INTEGER:
            int(value, 10)
    except ValueError:
        expected = "true or false" if option.kind == FLAG else "a whole number"
        raise UsageError(f"invalid argument {value!r} for --{option.name}: expected {expected}") from None


def require(parsed: Parsed, *names: str) -> None:
    """Raise UsageError unless each of the flags was given."""
    missing = [name for name in names if not parsed.given(name)]
    if missing:
        listed = ", ".join(f'"{name}"' for name in missing)
        raise UsageError(f"required flag(s) {listed} not set")


def help_text(usage: str, summary: str, options: Iterable[Option], epilog: str = "") -> str:
    """What `--help` prints."""
    rows = [(_spelling(option), _meaning(option)) for option in options if not option.hidden]
    width = max((len(left) for left, _ in rows), default=0)
    lines = [summary, "", "Usage:", f"  {usage}", "", "Flags:"]
    lines += [f"  {left.ljust(width)}   {right}".rstrip() for left, right in rows]
    return "\n".join(lines) + "\n" + (f"\n{epilog}\n" if epilog else "")


def _spelling(option: Option) -> str:
    short = f"-{option.short}, " if option.short else "    "
    value = {FLAG: "", TEXT: " text", INTEGER: " number", LIST: " list"}[option.kind]
    return f"{short}--{option.name}{value}"


def _meaning(option: Option) -> str:
    if not option.default or option.kind == FLAG:
        return option.help
    return f"{option.help} (default {option.default})"


def print_error(text: str) -> None:
    """One line on stderr, at once."""
    print(text, file=sys.stderr, flush=True)
