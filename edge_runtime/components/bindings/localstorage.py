"""bindings.localstorage: files under one directory, which nothing that a caller names leads out of."""

from __future__ import annotations

import binascii
import json
import logging
import os
import posixpath
from base64 import b64decode
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from edge_runtime.components.metadata import Fields
from edge_runtime.model.errors import BadMetadata, DriverError
from edge_runtime.model.ports import BindingResponse

if TYPE_CHECKING:
    from edge_runtime.components.registry import ComponentContext

logger: Final = logging.getLogger("dapr.contrib")

_FIELDS: Final = ("rootPath",)
_FORBIDDEN: Final = ("/proc", "/sys", "/boot", "/var/run/secrets", "/run/secrets")
_THREADS: Final = 4
LISTED_MAX: Final = 100_000
FILE_BYTES_MAX: Final = 256 * 2**20


class FileMissing(DriverError):
    """There is no such file; asking again changes nothing."""

    permanent = True


class LocalStorage:
    """Keeps `model.ports.OutputBinding`. Files are read and written in threads."""

    operations = ("create", "get", "list", "delete")

    def __init__(self, root: str) -> None:
        self._root = root
        self._threads = trio.CapacityLimiter(_THREADS)

    async def invoke(self, operation: str, data: bytes, metadata: Mapping[str, str]) -> BindingResponse:
        name = metadata.get("fileName", "")
        if not name and operation == "create":
            name = _random_name()
        if not name and operation != "list":
            raise BadMetadata("request metadata 'fileName' is missing")
        work: Callable[[], BindingResponse] = partial(self._do, operation, name, data)
        return await trio.to_thread.run_sync(work, limiter=self._threads)

    def _do(self, operation: str, name: str, data: bytes) -> BindingResponse:
        path = self._path(name)
        try:
            if operation == "create":
                return self._create(path, _content(data))
            if operation == "get":
                return self._get(path)
            if operation == "delete":
                os.remove(path)
                return BindingResponse()
            return self._list(path)
        except FileNotFoundError:
            raise FileMissing(f"file not found: {path}") from None
        except OSError as error:
            raise DriverError(f"{path}: {error.strerror}") from None

    def _path(self, name: str) -> str:
        """The file's place under the root: `..` and a leading slash begin there, and links may not lead out of it."""
        if "\0" in name:
            raise BadMetadata("request metadata 'fileName' holds a NUL character")
        path = os.path.realpath(self._root + posixpath.normpath(f"/{name.lstrip('/')}"))
        if path != self._root and not path.startswith(f"{self._root.rstrip('/')}/"):
            raise BadMetadata(f"request metadata 'fileName' is {name!r}, which leads out of the root by a link")
        return path

    def _create(self, path: str, content: bytes) -> BindingResponse:
        """The file is whole or as it was before, also when the power fails."""
        folder = os.path.dirname(path)
        os.makedirs(folder, 0o777, exist_ok=True)
        part = os.path.join(folder, f".{_random_name()}.part")
        try:
            with open(part, "xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        except BaseException:
            _remove(part)
            raise
        _flush_folder(folder)
        return BindingResponse(_json({"fileName": os.path.relpath(path, self._root)}))

    def _get(self, path: str) -> BindingResponse:
        with open(path, "rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
        if len(content) > FILE_BYTES_MAX:
            raise DriverError(f"{path}: the file is larger than {FILE_BYTES_MAX} bytes")
        return BindingResponse(content)

    def _list(self, path: str) -> BindingResponse:
        if not os.path.isdir(path):
            if not os.path.lexists(path):
                raise FileNotFoundError
            raise DriverError(f"unable to list files as the file specified is not a directory [{path}]")
        found: list[str] = []
        for folder, folders, names in os.walk(path):
            folders.sort()
            found += [os.path.join(folder, name) for name in names]
            if len(found) > LISTED_MAX:
                raise DriverError(f"{path}: there are more than {LISTED_MAX} files")
        return BindingResponse(_json(sorted(found) or None))


def _content(data: bytes) -> bytes:
    """A quoted text without its quotes; then what is base64 decoded, as Dapr has it."""
    try:
        text = json.loads(data)
        if isinstance(text, str):
            data = text.encode("utf-8", "replace")
    except ValueError:
        pass
    try:
        return b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        return data


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")


def _random_name() -> str:
    digits = os.urandom(16).hex()
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"


def _remove(path: str) -> None:
    try:
        os.remove(path)
    except OSError:
        pass  # it was not made, or has its final name


def _flush_folder(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@asynccontextmanager
async def open_localstorage_binding(context: ComponentContext) -> AsyncIterator[LocalStorage]:
    """The binding over its directory, which is made when it is not there."""
    fields = Fields(context.metadata, _FIELDS, context.name)
    for line in fields.warnings():
        logger.warning("%s", line)
    yield LocalStorage(_root(fields, context.directory))


def _root(fields: Fields, directory: str) -> str:
    """The directory without links in its path. Raises ConfigError."""
    text = fields.text("rootPath")
    root = os.path.realpath(os.path.join(directory, text))
    if any(root == place or root.startswith(f"{place}/") for place in _FORBIDDEN):
        raise fields.error("rootPath", text, f"a directory outside {', '.join(_FORBIDDEN)}")
    try:
        os.makedirs(root, 0o777, exist_ok=True)
    except OSError as error:
        raise fields.error("rootPath", text, f"a directory that can be made ({error.strerror})") from None
    return root
