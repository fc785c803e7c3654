"""The other ends: bindings that a test pushes, and an app that answers by a script."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import trio

from edge_runtime.blocks.bindings import BoundBinding
from edge_runtime.blocks.bindings.app import Event
from edge_runtime.model.errors import DriverError
from edge_runtime.model.http import Body, Request, Response
from edge_runtime.model.ports import BindingHandler, BindingResponse
from edge_runtime.observability.metrics import Metrics
from edge_runtime.resiliency import Policies


class FakeOutput:
    operations: tuple[str, ...] = ("create", "get")

    def __init__(self, *answers: BindingResponse | DriverError) -> None:
        self.answers = list(answers)
        self.came: list[tuple[str, bytes, Mapping[str, str]]] = []

    async def invoke(self, operation: str, data: bytes, metadata: Mapping[str, str]) -> BindingResponse:
        self.came.append((operation, data, metadata))
        await trio.lowlevel.checkpoint()
        answer = self.answers.pop(0) if self.answers else BindingResponse()
        if isinstance(answer, DriverError):
            raise answer
        return answer


class FakeInput:
    """`readers` counts those that read now."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.handler: BindingHandler | None = None
        self.readers = 0
        self.begun = 0

    async def read(self, handler: BindingHandler, *, task_status: Any) -> None:
        self.begun += 1
        if self.errors:
            raise self.errors.pop(0)
        self.handler = handler
        self.readers += 1
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            self.readers -= 1

    async def push(self, data: bytes, metadata: Mapping[str, str] | None = None) -> bytes | None:
        assert self.handler is not None
        return await self.handler(data, metadata or {})


class FakeBindingApp:
    """Takes the bindings of `wanted`; `answers` are taken one by one, then each further event is taken."""

    def __init__(self, *answers: bytes | DriverError, wanted: tuple[str, ...] = ("b",)) -> None:
        self.answers = list(answers)
        self.wanted = wanted
        self.asked: list[str] = []
        self.away = 0  # so many questions find nobody
        self.came: list[tuple[Event, bool]] = []
        self.hold: trio.Event | None = None

    async def takes(self, binding: str, route: str) -> bool:
        self.asked.append(route)
        if self.away:
            self.away -= 1
            raise DriverError("nobody is there")
        return binding in self.wanted

    async def deliver(self, event: Event, *, strict: bool) -> bytes:
        self.came.append((event, strict))
        if self.hold is not None:
            await self.hold.wait()
        answer = self.answers.pop(0) if self.answers else b""
        if isinstance(answer, DriverError):
            raise answer
        return answer


class FakeChannel:
    """An AppChannel; `answers` are taken one by one, then every further answer is an empty 200."""

    def __init__(self, *answers: tuple[int, bytes] | None) -> None:
        self.answers = list(answers)
        self.requests: list[Request] = []

    async def send(self, request: Request) -> Response:
        self.requests.append(request)
        answer = self.answers.pop(0) if self.answers else (200, b"")
        if answer is None:
            await trio.sleep_forever()
        assert answer is not None
        return Response(answer[0], (), Body(answer[1]))


def reading(driver: FakeInput, name: str = "b", *, explicit: bool = False) -> BoundBinding:
    return BoundBinding(name, f"route-{name}", driver, None, explicit)


def policies(metrics: Metrics | None = None, **targets: Any) -> Policies:
    """`targets` by component: inbound and outbound, each a retry of so many times after 1 s."""
    spec = {
        "policies": {"retries": {"twice": {"policy": "constant", "duration": "1s", "maxRetries": 2}}},
        "targets": {"components": {name: {side: {"retry": "twice"}} for name, side in targets.items()}},
    }
    return Policies([("r", spec)] if targets else [], metrics or Metrics(), "app")
