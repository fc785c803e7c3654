"""`secretstores.local.file`: secrets from a JSON file, read once when the component starts.

Flat (the default): every leaf is a secret named by its path, `a:b:0`. With `multiValued`, a top-level object is one
secret with several keys. Leaves are texts; numbers and booleans become the text that the file has.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from edge_runtime.components.metadata import Fields
from edge_runtime.model.errors import ConfigError, DriverError

if TYPE_CHECKING:
    from edge_runtime.components.registry import ComponentContext

log = logging.getLogger("dapr.contrib")

FILE_BYTES_MAX: Final = 4 * 2**20
_KNOWN: Final = ("secretsFile", "nestedSeparator", "multiValued")

Secrets = Mapping[str, Mapping[str, str]]


class SecretNotFound(DriverError):
    """There is no such secret; asking again changes nothing."""

    permanent = True


@asynccontextmanager
async def open_local_file(context: ComponentContext) -> AsyncIterator[LocalFile]:
    """The store over the file as it is now; a changed file is seen when the component is opened again."""
    fields = Fields(context.metadata, _KNOWN, context.name)
    for warning in fields.warnings():
        log.warning("%s", warning)
    path = os.path.join(context.directory, fields.text("secretsFile"))
    if not path:
        raise ConfigError(
            f'component "{context.name}": metadata "secretsFile" is missing; expected the path of a JSON file'
        )
    separator = fields.text("nestedSeparator", default=":") or ":"
    multi_valued = fields.flag("multiValued")
    yield LocalFile(read_secrets(path, separator, multi_valued=multi_valued), multi_valued)


class LocalFile:
    """Keeps `model.ports.SecretStore`."""

    def __init__(self, secrets: Secrets, multi_valued: bool) -> None:
        self.features = frozenset({"MULTIPLE_KEY_VALUES_PER_SECRET"} if multi_valued else ())
        self._secrets = secrets

    async def get(self, name: str, metadata: Mapping[str, str]) -> Mapping[str, str]:
        secret = self._secrets.get(name)
        if secret is None:
            raise SecretNotFound(f"secret {name} not found")
        return secret

    async def bulk_get(self, metadata: Mapping[str, str]) -> Secrets:
        return self._secrets


def read_secrets(path: str, separator: str, *, multi_valued: bool) -> Secrets:
    """The file's secrets. Raises ConfigError with the file and, where there is one, the line; never with a value."""
    try:
        content = _parse(path, _read(path))
        return dict(_multi(content, separator) if multi_valued else _flat(content, separator, path))
    except RecursionError:
        raise ConfigError(f"secretsFile {path}: is nested too deeply") from None


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(
            f"secretsFile {path}: cannot be read: {error.strerror}; a relative path counts from the directory in which "
            "the runtime was started"
        ) from None
    if len(data) > FILE_BYTES_MAX:
        raise ConfigError(f"secretsFile {path}: is larger than {FILE_BYTES_MAX} bytes")
    return data


def _parse(path: str, data: bytes) -> dict[str, Any]:
    try:
        # Numbers stay as they are written: a PIN of 007.10 or a 20-digit id must not pass through a float.
        content = json.loads(data.decode("utf-8-sig"), parse_int=str, parse_float=str, parse_constant=_no_constant)
    except UnicodeDecodeError:
        raise ConfigError(f"secretsFile {path}: is no UTF-8 text") from None
    except json.JSONDecodeError as error:
        raise ConfigError(f"secretsFile {path}:{error.lineno}: no valid JSON: {error.msg}") from None
    except ValueError as error:
        raise ConfigError(f"secretsFile {path}: no valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"secretsFile {path}: expected a JSON object with the secrets by name")
    return content


def _no_constant(text: str) -> str:
    raise ValueError(f"{text} is no JSON number")


def _leaves(name: str, value: Any, separator: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(f"{name}{separator}{key}" if name else key, inner, separator)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _leaves(f"{name}{separator}{index}" if name else str(index), inner, separator)
    else:
        yield name, _text(value)


def _text(value: str | bool | None) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else str(value).lower()


def _flat(content: dict[str, Any], separator: str, path: str) -> Iterator[tuple[str, Mapping[str, str]]]:
    seen: set[str] = set()
    for top, value in content.items():
        for name, text in _leaves(top, value, separator):
            if name in seen:
                log.warning("secretsFile %s: %r is there twice once it is flattened; the later one counts", path, name)
            seen.add(name)
            yield name, {name: text}


def _multi(content: dict[str, Any], separator: str) -> Iterator[tuple[str, Mapping[str, str]]]:
    for name, value in content.items():
        if isinstance(value, dict):
            yield name, {key: text for top, inner in value.items() for key, text in _leaves(top, inner, separator)}
        elif not isinstance(value, list) and value is not None:
            yield name, {name: _text(value)}
