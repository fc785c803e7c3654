"""`DaprClient` of either kind behind one set of scenarios: CLIENT is `sync` or `aio`. Both have the same methods."""

from __future__ import annotations

import asyncio
import inspect
import os
import queue
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import grpc
from dapr.aio.clients import DaprClient as AsyncDaprClient
from dapr.clients import DaprClient
from dapr.clients.exceptions import DaprGrpcError, DaprInternalError
from google.protobuf.json_format import MessageToDict
from grpc_status import rpc_status
from lines import say

AIO = os.environ.get("CLIENT") == "aio"
WAIT_S = 20.0


@asynccontextmanager
async def open_client(**options: Any) -> AsyncIterator[Any]:
    if AIO:
        async with AsyncDaprClient(**options) as client:
            yield client
    else:
        with DaprClient(**options) as client:
            yield client


async def done(value: Any) -> Any:
    """What a method of either client gives in the end."""
    return await value if inspect.isawaitable(value) else value


async def tried(call: Callable[..., Any], *args: Any, **more: Any) -> Any:
    """What the call gave, or its refusal as the SDK shows it."""
    try:
        return await done(call(*args, **more))
    except (grpc.RpcError, DaprInternalError) as error:
        return refusal(error)


async def outcome(call: Callable[..., Any], *args: Any, **more: Any) -> Any:
    """`done`, or the refusal: for calls whose answer has nothing in it."""
    answer = await tried(call, *args, **more)
    return answer if isinstance(answer, dict) and "code" in answer else "done"


def refusal(error: BaseException) -> dict[str, Any]:
    """Code, text, and the details by their kind. The SDK wraps some refusals in errors without a code."""
    while not isinstance(error, grpc.RpcError):
        if error.__cause__ is None:
            raise error
        error = error.__cause__
    status = error.get_grpc_status() if isinstance(error, DaprGrpcError) else rpc_status.from_call(error)
    said = {"code": error.code().name, "message": error.details()}
    if isinstance(error, DaprGrpcError):
        said["error_code"] = error.error_code()
    for detail in status.details if status is not None else ():
        shown = MessageToDict(detail, preserving_proto_field_name=True)
        said[shown.pop("@type").rpartition(".")[2]] = shown
    return said


async def at_once(calls: Iterable[Callable[[], Any]]) -> list[Any]:
    """All calls in parallel: as tasks, or in threads where the client is the blocking one."""
    if AIO:
        return await asyncio.gather(*(call() for call in calls))
    with ThreadPoolExecutor(100) as threads:
        return list(threads.map(lambda call: call(), calls))


class Box(queue.Queue[Any]):
    """What handlers put in, in whatever thread or task they run."""

    async def next(self) -> Any:
        return await asyncio.to_thread(self.get, timeout=WAIT_S)


def run(scenario: Callable[[Any], Coroutine[Any, Any, None]], **options: Any) -> None:
    async def main() -> None:
        async with open_client(**options) as client:
            await scenario(client)

    asyncio.run(main())
    say("ended")
