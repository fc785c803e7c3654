"""Where lines go when several apps run under one process: the terminal, a file of the app's own, or both."""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import TextIO

from edge_runtime.cli.lines import Printer, without_colours
from edge_runtime.cli.plan import AppPlan, LogTarget
from edge_runtime.model.errors import ConfigError

LineSink = Callable[[bytes], Awaitable[None]]


class LogFile:
    """A file that lines are added to. A disk that is full costs the line, not the node."""

    def __init__(self, path: str) -> None:
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            self._file = open(path, "ab", buffering=0)  # noqa: SIM115
        except OSError as error:
            raise ConfigError(f"log file {path}: {error.strerror}; expected a directory that can be written") from None

    def write(self, line: bytes) -> None:
        try:
            self._file.write(without_colours(line) + b"\n")
        except OSError:
            pass


def app_sink(plan: AppPlan, printer: Printer) -> LineSink:
    """Takes the lines of one app's output."""
    prefix = plan.prefix.encode()
    file = LogFile(plan.app_log.path) if plan.app_log.path else None

    async def write(line: bytes) -> None:
        line = prefix + line
        if file is not None:
            file.write(line)
        if plan.app_log.console:
            await printer.write(line + b"\n")

    return write


class RoutedOutput:
    """Stands in for standard output under the log: sends each line to where its app's sidecar logs."""

    def __init__(self, targets: Mapping[str, LogTarget], stream: TextIO | None = None) -> None:
        from edge_runtime.observability.log import current_app

        self._app = current_app
        self._stream = stream or sys.stdout
        self._targets = targets
        self._files = {app_id: LogFile(target.path) for app_id, target in targets.items() if target.path}

    def write(self, text: str) -> int:
        app_id = self._app.get()
        file = self._files.get(app_id)
        if file is not None:
            file.write(text.rstrip("\n").encode("utf-8", "backslashreplace"))
        target = self._targets.get(app_id)
        if target is None or target.console:
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def fileno(self) -> int:
        return self._stream.fileno()
