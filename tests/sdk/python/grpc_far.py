"""Service invocation over a cloud link: TARGET speaks gRPC, WEB speaks HTTP, and both are far away."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from clients import done, run
from dapr.clients import DaprClient
from lines import say

TARGET, WEB = os.environ["TARGET"], os.environ["WEB"]


def over_http() -> Any:
    with DaprClient() as blocking:  # reads the variable when it is made
        return blocking.invoke_method(WEB, "do/it", "x", http_verb="POST").json()


async def scenario(client: Any) -> None:
    answer = await done(client.invoke_method(TARGET, "echo", "hello", content_type="text/plain"))
    say("grpc", answer.text())
    answer = await done(client.invoke_method(WEB, "do/it", "", http_verb="PUT", http_querystring=(("a", "1"),)))
    say("web", answer.json())
    os.environ["DAPR_API_METHOD_INVOCATION_PROTOCOL"] = "http"
    say("http", await asyncio.to_thread(over_http))


run(scenario)
