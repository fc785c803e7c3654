"""Log lines as Dapr writes them: logfmt-like text or JSON, one line an entry, flushed at once.

Scopes are the loggers' names (`dapr.runtime`, `dapr.contrib`, …). Which app a line belongs to comes from a context
variable that an app's tasks inherit, so that one process can log for many apps. Lines are cut at `LINE_MAX` characters.
"""

from __future__ import annotations

import contextvars
import io
import json
import logging
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, TextIO

from edge_runtime.model.errors import ConfigError

LINE_MAX: Final = 16_384
LEVELS: Final = {"debug": 10, "info": 20, "warn": 30, "error": 40, "fatal": 50}
_NAMES: Final = {10: "debug", 20: "info", 30: "warning", 40: "error", 50: "fatal"}
_PLAIN: Final = re.compile(r"[A-Za-z0-9\-._/@^+]+")
_ESCAPES: Final = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_CONTROL: Final = re.compile(r'[\\"\x00-\x1f\x7f]')

current_app: Final = contextvars.ContextVar[str]("current_app", default="")
# The component (`name (type/version)`) whose driver's lines these are; only lines of the drivers' scope show it.
current_component: Final = contextvars.ContextVar[str]("current_component", default="")
_DRIVERS: Final = "dapr.contrib"
# Called with (app_id, line) for every line written; the node passes an attached app's lines on to its `run`.
Tap = Callable[[str, str], None]


def setup_logging(
    *, level: str = "info", as_json: bool = False, version: str = "", stream: TextIO | None = None, path: str = ""
) -> Handler:
    """Send every log line of the process to `path` (appended), else `stream`, else standard output.

    Where standard output is systemd's journal, entries go there with their fields; as JSON they stay lines.
    """
    if level.lower() not in LEVELS:
        raise ConfigError(f"--log-level {level!r} is unknown; expected one of {', '.join(LEVELS)}")
    if path:
        try:
            stream = open(path, "a", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
        except OSError as error:
            raise ConfigError(f"--log-file {path}: {error.strerror}; name a file that can be written") from None
    if stream is None and isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # rather an ugly character than no line
    if stream is None and not as_json and is_journal(sys.stdout, os.environ):
        from edge_runtime.observability.journal import JournalHandler

        handler: Handler = JournalHandler(sys.stdout, TextFormat(version), version)
    else:
        handler = Handler(stream or sys.stdout, JsonFormat(version) if as_json else TextFormat(version))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(LEVELS[level.lower()])
    # These two say what the API was asked for; they stay audible when the rest is turned down.
    for name in ("dapr.runtime.http-info", "dapr.runtime.grpc.api-info"):
        logging.getLogger(name).setLevel(min(logging.INFO, root.level))
    logging.raiseExceptions = False
    return handler


def is_journal(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Whether the stream is the connection to the journal that systemd speaks of, and not one that took its place."""
    told = environment.get("JOURNAL_STREAM", "")
    if not told or not isinstance(stream, io.TextIOWrapper):
        return False
    try:
        facts = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return told == f"{facts.st_dev}:{facts.st_ino}"


class Handler(logging.Handler):
    """Writes and flushes a line at a time. A reader that went away (closed pipe) ends the output, not the process."""

    def __init__(self, stream: TextIO, format_: logging.Formatter) -> None:
        super().__init__()
        self.stream = stream
        self.taps: list[Tap] = []
        self.setFormatter(format_)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
            self.tap(line)
            self.write(line)
        except (OSError, ValueError):
            pass  # nobody reads, or the disk is full: serving goes on without the line

    def tap(self, line: str) -> None:
        for tap in self.taps:
            tap(current_app.get(), line)

    def write(self, line: str) -> None:
        self.stream.write(line + "\n")
        self.stream.flush()


class Fields:
    """What an entry carries beside its time, level and text."""

    def __init__(self, version: str) -> None:
        self.version = version
        self.instance = socket.gethostname()

    def of(self, record: logging.LogRecord) -> dict[str, str]:
        fields = {"instance": self.instance, "scope": record.name, "type": "log", "ver": self.version}
        app_id = current_app.get()
        if app_id:
            fields["app_id"] = app_id
        if record.name == _DRIVERS and (component := current_component.get()):
            fields["component"] = component
        extra: Mapping[str, Any] | None = getattr(record, "fields", None)
        if extra:
            fields.update({key: str(value) for key, value in extra.items()})
        return fields


def message(record: logging.LogRecord) -> str:
    """The text of an entry, with its traceback, cut to what a line may have."""
    text = record.getMessage()
    if record.exc_info:
        text += "\n" + logging.Formatter().formatException(record.exc_info)
    return text if len(text) <= LINE_MAX else f"{text[:LINE_MAX]}… ({len(text) - LINE_MAX} characters cut)"


def _time(record: logging.LogRecord) -> str:
    seconds = int(record.created)
    fraction = f"{record.created - seconds:.6f}"[2:]
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{fraction}Z"


class TextFormat(logging.Formatter):
    """`time="…" level=info msg="…" app_id=a instance=h scope=dapr.runtime type=log ver=x`."""

    def __init__(self, version: str) -> None:
        super().__init__()
        self._fields = Fields(version)

    def format(self, record: logging.LogRecord) -> str:
        fields = self._fields.of(record)
        tail = " ".join(f"{key}={_text(fields[key])}" for key in sorted(fields))
        level = _NAMES.get(record.levelno, "info")
        return f'time="{_time(record)}" level={level} msg={_text(message(record))} {tail}'


class JsonFormat(logging.Formatter):
    """The same keys in alphabetical order, one JSON object a line."""

    def __init__(self, version: str) -> None:
        super().__init__()
        self._fields = Fields(version)

    def format(self, record: logging.LogRecord) -> str:
        fields = self._fields.of(record)
        fields["level"] = _NAMES.get(record.levelno, "info")
        fields["msg"] = message(record)
        fields["time"] = _time(record)
        return json.dumps(fields, sort_keys=True)


def _text(value: str) -> str:
    return value if _PLAIN.fullmatch(value) else f'"{_CONTROL.sub(_escape, value)}"'


def _escape(match: re.Match[str]) -> str:
    return _ESCAPES.get(match[0]) or f"\\x{ord(match[0]):02x}"


def instance() -> str:
    """The host's name as log lines carry it."""
    return os.uname().nodename
