"""`secretstores.local.env`: the environment variables of the process as secrets, without those that guard the APIs."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from edge_runtime.components.metadata import Fields

if TYPE_CHECKING:
    from edge_runtime.components.registry import ComponentContext

log = logging.getLogger("dapr.contrib")

_KNOWN: Final = ("prefix",)


@asynccontextmanager
async def open_local_env(context: ComponentContext) -> AsyncIterator[LocalEnv]:
    """The store over the app's environment, which is read at each call, not copied."""
    fields = Fields(context.metadata, _KNOWN, context.name)
    for warning in fields.warnings():
        log.warning("%s", warning)
    variables = os.environ if context.environment is None else context.environment
    yield LocalEnv(fields.text("prefix", default=""), variables)


class LocalEnv:
    """Keeps `model.ports.SecretStore`."""

    features: frozenset[str] = frozenset()

    def __init__(self, prefix: str, variables: Mapping[str, str]) -> None:
        self._prefix = prefix
        self._variables = variables

    async def get(self, name: str, metadata: Mapping[str, str]) -> Mapping[str, str]:
        """The variable `<prefix><name>` under `name`; unset and forbidden ones are empty texts, as in Dapr."""
        variable = self._prefix + name
        return {name: _text(self._variables.get(variable, "")) if _allowed(variable) else ""}

    async def bulk_get(self, metadata: Mapping[str, str]) -> Mapping[str, Mapping[str, str]]:
        """Every allowed variable that has the prefix and more, without it."""
        length = len(self._prefix)
        return {
            _text(variable[length:]): {_text(variable[length:]): _text(value)}
            for variable, value in self._variables.items()
            if len(variable) > length and variable.startswith(self._prefix) and _allowed(variable)
        }


def _allowed(variable: str) -> bool:
    upper = variable.upper()
    return upper != "APP_API_TOKEN" and not upper.startswith("DAPR_")


def _text(value: str) -> str:
    """Bytes that are no UTF-8 as U+FFFD; the interpreter keeps them as lone surrogates, which JSON has not."""
    return value if value.isascii() else value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
