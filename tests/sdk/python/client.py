"""Service invocation as DaprClient does it: over HTTP, after the sidecar's outbound health."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from dapr.actor import ActorId, ActorInterface, ActorProxy, actormethod
from dapr.aio.clients import DaprClient as AsyncDaprClient
from dapr.clients import DaprClient
from dapr.clients.exceptions import DaprHttpError
from dapr.clients.retry import RetryPolicy
from google.protobuf.wrappers_pb2 import StringValue
from lines import say

APP = os.environ["TARGET"]


def call(client: DaprClient, method: str, data: Any = b"", app: str = APP, **extra: Any) -> Any:
    """The answer, or what the SDK makes of a refusal."""
    try:
        answer = client.invoke_method(app, method, data, **extra)
    except DaprHttpError as error:
        return {"status": error.status_code, "code": error.error_code, "message": error.message}
    return answer.json() if answer.content_type == "application/json" else answer.data.decode("latin-1")


def synchronous() -> None:
    with DaprClient(headers_callback=lambda: {"x-from-callback": "yes"}) as client:
        query = (("a", "1"), ("a", "two words"), ("ü", "&=/"))
        say("get", call(client, "echo/me", http_verb="GET", http_querystring=query))
        say("default", call(client, "echo/me"))
        metadata = (("x-note", "noted"), ("accept-language", "de"))
        say(
            "json",
            call(client, "echo/a/b", '{"n": 1}', content_type="application/json", metadata=metadata, http_verb="POST"),
        )
        say("text", call(client, "echo/", "grüße", content_type="text/plain; charset=utf-8", http_verb="PUT"))
        say(
            "bytes",
            call(client, "echo/", bytes(range(256)), content_type="application/octet-stream", http_verb="PATCH"),
        )
        say("message", call(client, "echo/", StringValue(value="packed"), http_verb="POST"))
        say("delete", call(client, "echo/x%20y", http_verb="DELETE"))
        answer = client.invoke_method(APP, "bytes", http_verb="GET")
        headers = {key.lower(): value for key, value in answer.headers.items()}
        kept = headers["x-from"] in ("app", ["app"])
        say("answer", [answer.status_code, answer.content_type, answer.data == bytes(range(256)), kept])
        say("created", client.invoke_method(APP, "status/201", http_verb="POST").status_code)
        for status in (400, 404, 500, 503):
            say(f"status {status}", call(client, f"status/{status}", http_verb="GET"))
        say("absent", call(client, "no-such-method", http_verb="GET"))
        say("unknown app", call(client, "echo/", app="no-such-app", http_verb="GET"))


async def asynchronous() -> None:
    async with AsyncDaprClient() as client:
        calls = [client.invoke_method(APP, f"echo/{n}", "", http_verb="GET") for n in range(30)]
        answers = await asyncio.gather(*calls)
        say("async", all(answer.json()["rest"] == str(n) for n, answer in enumerate(answers)))


class CounterInterface(ActorInterface):
    @actormethod(name="Add")
    async def add(self, number: int) -> int: ...


async def actor() -> None:
    """Actors are not served: the proxy gets the answer of a sidecar that has no placement."""
    proxy = ActorProxy.create("CounterActor", ActorId("1"), CounterInterface)
    try:
        await proxy.Add(1)
    except DaprHttpError as error:
        say("actor", [error.status_code, error.error_code])


say("retries", RetryPolicy().max_attempts)
synchronous()
asyncio.run(asynchronous())
asyncio.run(actor())
