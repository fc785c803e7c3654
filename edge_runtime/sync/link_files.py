"""What a link remembers beside the outbox: what it has spent of its day, and that somebody has paused it."""

from __future__ import annotations

import json
import logging
import os
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import trio

from edge_runtime.model.errors import StoreUnavailable

logger: Final = logging.getLogger("dapr.runtime.link")

FOLDER: Final = "links"


class DayFile:
    """What a link has spent of its day, in a small file: read once, and written some dozens of times a day."""

    def __init__(self, path: str, wall: Callable[[], float]) -> None:
        self._path = path
        self._wall = wall

    def load(self) -> tuple[int, float]:
        """A file that cannot be read begins a day; a clock that went back makes no new day."""
        try:
            with open(self._path, "rb") as file:
                saved = json.loads(file.read(1000))
            spent, began = int(saved["spent"]), int(saved["began"])
            if saved.get("crc", _checksum(spent, began)) != _checksum(spent, began):
                raise ValueError("its checksum fails")
            return spent, max(self._wall() - began, 0.0)
        except FileNotFoundError:
            return 0, 0.0
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            logger.warning("%s: is damaged, so the link's day begins anew: %r", self._path, error)
            return 0, 0.0

    def save(self, spent: int, day_age_s: float) -> None:
        """On disk when it returns, whole or not at all: a power cut must not give a metered day its bytes again."""
        began = round(self._wall() - day_age_s)
        text = json.dumps({"spent": spent, "began": began, "crc": _checksum(spent, began)})
        try:
            folder = os.path.dirname(self._path)
            os.makedirs(folder, mode=0o700, exist_ok=True)
            with open(f"{self._path}.new", "w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(f"{self._path}.new", self._path)
            _sync(folder)
            _sync(os.path.dirname(folder))
        except OSError as error:
            logger.warning("%s: cannot be written: %s", self._path, error.strerror)


class PauseMark:
    """A file that is there while its link is paused. That it is paused is more than what stands in it."""

    def __init__(self, state_dir: str, link: str) -> None:
        # Names of links have no slash: config/documents.py.
        self._path = os.path.join(state_dir, FOLDER, f"{link}.paused")

    def is_set(self) -> bool:
        return os.path.exists(self._path)

    async def set(self, paused: bool) -> None:
        """On disk when it returns. Raises `StoreUnavailable`."""
        try:
            await trio.to_thread.run_sync(self._make if paused else self._remove)
        except OSError as error:
            raise StoreUnavailable(f"{self._path}: cannot be changed: {error.strerror}") from error
        try:
            await trio.to_thread.run_sync(self._flush)
        except OSError as error:
            raise StoreUnavailable(
                f"{self._path}: was changed, but whether a power cut would keep that is not known: {error.strerror}"
            ) from error

    def _make(self) -> None:
        folder = os.path.dirname(self._path)
        os.makedirs(folder, mode=0o700, exist_ok=True)
        os.close(os.open(self._path, os.O_CREAT | os.O_WRONLY, 0o600))

    def _remove(self) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self._path)

    def _flush(self) -> None:
        folder = os.path.dirname(self._path)
        if os.path.isdir(folder):
            _sync(folder)
            _sync(os.path.dirname(folder))


def _checksum(spent: int, began: int) -> int:
    return zlib.crc32(f"{spent} {began}".encode())


def _sync(folder: str) -> None:
    """The names in it are on disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
