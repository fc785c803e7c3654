"""What people and scripts see: status lines, tables, ages, JSON and YAML, as Dapr's command line prints them."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Final, TextIO

from edge_runtime.model.errors import ConfigError

_MARKS: Final = {"success": "✅  ", "failure": "❌  ", "warning": "⚠  ", "pending": "⌛  ", "info": "ℹ️  "}
_COMMAND_MAX: Final = 20


class Messages:
    """Status lines on stdout, failures on stderr; every line is flushed."""

    def __init__(self, as_json: bool = False, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self._as_json = as_json
        self._out = out or sys.stdout
        self._err = err or sys.stderr

    def success(self, text: str) -> None:
        self._say(self._out, "success", text)

    def info(self, text: str) -> None:
        self._say(self._out, "info", text)

    def pending(self, text: str) -> None:
        self._say(self._out, "pending", text)

    def warning(self, text: str) -> None:
        self._say(self._out, "warning", text)

    def failure(self, text: str) -> None:
        self._say(self._err, "failure", text)

    def _say(self, stream: TextIO, status: str, text: str) -> None:
        line = _json_line(status, text) if self._as_json else f"{_mark(stream, status)}{text}"
        try:
            print(line, file=stream, flush=True)
        except OSError:
            pass  # nobody reads it; what runs goes on


def _mark(stream: TextIO, status: str) -> str:
    """The mark before a line; none in a regular file, nor where the encoding has no such letters."""
    try:
        if stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            return ""
    except (OSError, ValueError):
        pass
    mark = _MARKS[status]
    try:
        mark.encode(stream.encoding or "utf-8")
    except UnicodeEncodeError:
        return ""
    return mark


def _json_line(status: str, text: str) -> str:
    import json
    import time

    now_ns = time.time_ns()
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now_ns // 1_000_000_000))
    moment = f"{seconds}.{now_ns % 1_000_000_000:09d}Z"
    return json.dumps({"time": moment, "status": status, "msg": text}, ensure_ascii=False, separators=(",", ":"))


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns side by side, two blanks apart, none at the ends. A column that is blank in every row is left out."""
    cells = [[" ".join(cell.split()) for cell in row] for row in rows]
    kept = [index for index in range(len(header)) if any(row[index] for row in cells)]
    lines = [[header[index].replace("_", " ") for index in kept], *([row[index] for index in kept] for row in cells)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(kept))]
    padded = ("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) for line in lines)
    return "".join(f"{line.rstrip()}\n" for line in padded)


def as_json(value: Any) -> str:
    import json

    return json.dumps(value, indent=2, ensure_ascii=False)


def as_yaml(value: Any) -> str:
    import yaml

    return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True))


def age(seconds: float) -> str:
    """`59s`, `5m`, `3h`, `2d`: whole numbers of the largest unit that fits."""
    seconds = max(0.0, seconds)
    for size, unit in ((60, "s"), (3600, "m"), (86400, "h")):
        if seconds < size:
            return f"{int(seconds // {'s': 1, 'm': 60, 'h': 3600}[unit])}{unit}"
    return f"{int(seconds // 86400)}d"


def created(moment: float) -> str:
    """Local time, with a dot before the seconds as Dapr writes it."""
    import time

    return time.strftime("%Y-%m-%d %H:%M.%S", time.localtime(moment))


def shortened(command: str) -> str:
    return command if len(command) <= _COMMAND_MAX else command[: _COMMAND_MAX - 3] + "..."


def chosen_output(as_json_flag: bool, named: str) -> str:
    """`table`, `json` or `yaml`, from `--json` and `--output`. Raises ConfigError."""
    output = "json" if as_json_flag else named
    if output not in ("table", "json", "yaml"):
        raise ConfigError("An invalid output format was specified.")
    return output


def render(value: Sequence[Any], output: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """`value` as JSON or YAML, or `rows` as a table."""
    if output == "json":
        return as_json(value)
    if output == "yaml":
        return as_yaml(value)
    return table(header, rows)
