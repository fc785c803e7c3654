"""The other ends: a store whose changes a test makes, an app that keeps what it is told, a client of a stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import trio

from edge_runtime.model.errors import DriverError
from edge_runtime.model.http import Request, Response
from edge_runtime.model.ports import ConfigurationHandler, ConfigurationItem


class FakeStore:
    features: frozenset[str] = frozenset()

    def __init__(self, items: Mapping[str, ConfigurationItem] | None = None, *errors: Exception) -> None:
        self.items = dict(items or {})
        self.errors = list(errors)  # of subscriptions that begin
        self.failing: DriverError | None = None
        self.asked: list[tuple[Sequence[str], Mapping[str, str]]] = []
        self.handlers: list[ConfigurationHandler] = []
        self.followed = 0

    async def get(self, keys: Sequence[str], metadata: Mapping[str, str]) -> Mapping[str, ConfigurationItem]:
        self.asked.append((list(keys), metadata))
        if self.failing is not None:
            raise self.failing
        return {key: item for key, item in self.items.items() if not keys or key in keys}

    async def subscribe(
        self, keys: Sequence[str], metadata: Mapping[str, str], handler: ConfigurationHandler, *, task_status: Any
    ) -> None:
        self.asked.append((list(keys), metadata))
        self.followed += 1
        await trio.lowlevel.checkpoint()
        if self.errors:
            raise self.errors.pop(0)
        self.handlers.append(handler)
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            self.handlers.remove(handler)

    async def change(self, **values: str) -> None:
        """Tell everybody who follows."""
        items = {key: ConfigurationItem(value, "2") for key, value in values.items()}
        for handler in list(self.handlers):
            await handler(items)


class FakeApp:
    """An AppChannel; `statuses` are answered one by one, then 200."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.requests: list[Request] = []
        self.hold: trio.Event | None = None

    async def send(self, request: Request) -> Response:
        self.requests.append(request)
        if self.hold is not None:
            await self.hold.wait()
        return Response(self.statuses.pop(0) if self.statuses else 200)

    @property
    def told(self) -> list[str]:
        return [request.target.decode() for request in self.requests]


class FakeClient:
    """`lost`: from then on nothing can be sent."""

    def __init__(self) -> None:
        self.came: list[tuple[str, Mapping[str, ConfigurationItem]]] = []
        self.lost = False
        self.opened = trio.Event()

    async def send(self, subscription_id: str, items: Mapping[str, ConfigurationItem]) -> bool:
        if self.lost:
            return False
        self.came.append((subscription_id, items))
        self.opened.set()
        return True
