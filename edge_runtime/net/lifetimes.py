"""Tasks and what they belong to: a client for as long as a block lasts, a nursery for as long as a scope."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Protocol, TypeVar

import trio


class Closable(Protocol):
    """What has connections to close before its tasks are cancelled."""

    def close(self) -> None: ...


C = TypeVar("C", bound=Closable)


@asynccontextmanager
async def open_with_tasks(make: Callable[[trio.Nursery], C]) -> AsyncIterator[C]:
    """What `make` makes around a nursery; closed, and its tasks cancelled, at the end of the block.

    The tasks of a client raise nothing, so an error of the block need not come out as a group.
    """
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        client = make(nursery)
        try:
            yield client
        except Exception as error:
            failure = error
        finally:
            client.close()
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def hold_nursery(scope: trio.CancelScope, *, task_status: trio.TaskStatus[trio.Nursery]) -> None:
    """A nursery that lives until `scope` is cancelled."""
    with scope:
        async with trio.open_nursery() as nursery:
            task_status.started(nursery)
            await trio.sleep_forever()
