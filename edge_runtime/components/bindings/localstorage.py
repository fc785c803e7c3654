"""bindings.localstorage: files under one directory, which nothing that a caller names leads out of."""

from __future__ import annotations

import binascii
import errno
import json
import logging
import os
import posixpath
import stat
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
                return self._delete(path)
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

    def _open(self, path: str, flags: int) -> int:
        """Open what was checked; who put a link in its way meanwhile gets nothing. A pipe is not waited for."""
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        if os.readlink(f"/proc/self/fd/{descriptor}") == path:
            return descriptor
        os.close(descriptor)
        raise DriverError(f"{path}: the way to it has changed meanwhile; ask again")

    def _create(self, path: str, content: bytes) -> BindingResponse:
        """The file is whole or as it was before, also when the power fails."""
        if path == self._root:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        folder_path, name = os.path.split(path)
        os.makedirs(folder_path, 0o777, exist_ok=True)
        folder = self._open(folder_path, os.O_DIRECTORY)
        try:
            _write_whole(folder, name, content)
        finally:
            os.close(folder)
        return BindingResponse(_json({"fileName": os.path.relpath(path, self._root)}))

    def _delete(self, path: str) -> BindingResponse:
        if path == self._root:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        folder_path, name = os.path.split(path)
        folder = self._open(folder_path, os.O_DIRECTORY)
        try:
            os.remove(name, dir_fd=folder)
        finally:
            os.close(folder)
        return BindingResponse()

    def _get(self, path: str) -> BindingResponse:
        with open(self._open(path, os.O_RDONLY), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise DriverError(f"{path}: is no file")
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


def _write_whole(folder: int, name: str, content: bytes) -> None:
    part = f".{_random_name()}.part"
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with open(os.open(part, flags, 0o666, dir_fd=folder), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        _remove(part, folder)
        raise
    os.fsync(folder)


def _remove(name: str, folder: int) -> None:
    try:
        os.remove(name, dir_fd=folder)
    except OSError:
        pass  # it was not made, or has its final name


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
