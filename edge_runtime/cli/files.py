"""How commands read a node's files when the node does not run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

_T = TypeVar("_T")


def read_files(read: Callable[[str], Awaitable[_T]], path: str) -> _T:
    """What `read` finds. An error comes as itself, out of the groups that the store's nurseries put around it."""
    import trio

    try:
        return trio.run(read, path)
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None
