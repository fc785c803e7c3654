"""Service invocation of DaprClient over gRPC, of an app that speaks gRPC (TARGET) and one that speaks HTTP (WEB)."""

from __future__ import annotations

import os
from typing import Any

from clients import at_once, run, tried
from google.protobuf.wrappers_pb2 import StringValue
from lines import say

TARGET, WEB = os.environ.get("TARGET", ""), os.environ.get("WEB", "")


def shown(answer: Any) -> Any:
    if isinstance(answer, dict):
        return answer  # a refusal
    if answer.is_proto():
        came = StringValue()
        answer.unpack(came)
        return {"packed": came.value}
    json = answer.content_type.startswith("application/json") and answer.data
    value = answer.json() if json else answer.data.decode("latin-1")
    return {"type": answer.content_type, "value": value, "headers": answer.headers}


async def grpc_app(client: Any) -> None:
    async def call(method: str, data: Any = "", **more: Any) -> Any:
        return shown(await tried(client.invoke_method, TARGET, method, data, **more))

    say("echo", await call("echo", "grüße", content_type="text/plain; charset=utf-8"))
    say("echo.metadata", await call("echo", "x", metadata=(("x-note", "noted"),)))
    say("echo.http", await call("echo", '{"a": 1}', content_type="application/json", http_verb="PUT"))
    say("bytes", await call("bytes", bytes(range(256))))
    say("packed", await call("packed", StringValue(value="ab")))
    say("nothing", await call("nothing"))
    say("deep", await call("deep/er/path"))
    say("raise", await call("raise"))
    say("absent", await call("no-such-method"))
    say("late", await call("slow", timeout=0.3))
    say("unknown", shown(await tried(client.invoke_method, "no-such-app", "echo", "")))
    answers = await at_once([lambda n=n: client.invoke_method(TARGET, "bytes", str(n)) for n in range(100)])
    say("many", all(answer.data == str(n).encode() for n, answer in enumerate(answers)))


async def http_app(client: Any) -> None:
    async def call(method: str, data: Any = "", **more: Any) -> Any:
        return shown(await tried(client.invoke_method, WEB, method, data, **more))

    query = (("a", "1"), ("a", "two words"), ("ü", "&=/"))
    for verb in ("GET", "POST", "PUT", "DELETE", "PATCH"):
        say(verb, await call("echo/me", "" if verb == "GET" else verb, http_verb=verb, http_querystring=query))
    say("json", await call("echo/a/b", '{"n": 1}', content_type="application/json", http_verb="POST"))
    say("bytes", await call("bytes", http_verb="GET"))
    say("created", await call("status/201", http_verb="POST"))
    for status in (400, 401, 403, 404, 408, 409, 418, 429, 500, 501, 503, 504):
        say(f"status {status}", await call(f"status/{status}", http_verb="GET"))
    say("no verb", await call("echo/me"))
    say("connect", await call("echo/me", http_verb="CONNECT"))


run(grpc_app if TARGET else http_app)
