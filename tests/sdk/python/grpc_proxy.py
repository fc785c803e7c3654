"""Calls of a service of one's own through the sidecar, by the metadata `dapr-app-id`: four kinds, what goes wrong."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from typing import Any

import echo
import grpc
from clients import refusal
from google.protobuf.wrappers_pb2 import StringValue
from lines import say

TARGET = os.environ["TARGET"]
TO = (("dapr-app-id", TARGET),)
ADDRESS = f"127.0.0.1:{os.environ['DAPR_GRPC_PORT']}"


def texts(*values: object) -> list[StringValue]:
    return [StringValue(value=str(value)) for value in values]


def ended(call: Any, answers: list[str]) -> dict[str, Any]:
    """A refused call: its refusal, and what came before."""
    return {**refusal(call), "answers": answers}


def blocking() -> None:
    with grpc.insecure_channel(ADDRESS) as channel:
        stubs = echo.stubs(channel)
        say("one", stubs.one(*texts("grüße"), metadata=TO).value)
        say("callee", stubs.one(*texts("x"), metadata=(("dapr-callee-app-id", TARGET),)).value)
        say(
            "several",
            [answer.value for answer in stubs.several(*texts(500), metadata=TO)] == [str(n) for n in range(500)],
        )
        say("joined", stubs.joined(iter(texts(*range(500))), metadata=TO).value == ",".join(map(str, range(500))))
        say(
            "each",
            [answer.value for answer in stubs.each(iter(texts(*range(500))), metadata=TO)] == [*map(str, range(500))],
        )
        say("none", [answer.value for answer in stubs.several(*texts(0), metadata=TO)])
        long = "x" * 3_000_000
        say("long", stubs.one(*texts(long), metadata=TO).value == long)
        say(
            "packed",
            stubs.one(*texts("zip " * 1000), metadata=TO, compression=grpc.Compression.Gzip).value == "zip " * 1000,
        )
        metadata = (*TO, ("x-note", "noted"), ("x-note", "twice"), ("x-note-bin", b"\x00\xff"), ("x-long", "l" * 3000))
        answer, call = stubs.headers.with_call(*texts(""), metadata=metadata, timeout=20)
        came = json.loads(answer.value)
        named = ("x-note", "x-note-bin", "dapr-caller-app-id", "dapr-callee-app-id", "dapr-app-id", "dapr-api-token")
        say("metadata", [pair for pair in came["metadata"] if pair[0] in named])
        say("metadata.long", ["x-long", "l" * 3000] in came["metadata"])
        say("traced", any(pair[0] in ("traceparent", "grpc-trace-bin") for pair in came["metadata"]))
        say("deadline", came["deadline"])
        say("initial", [[key, str(value)] for key, value in call.initial_metadata() if key.startswith("x-")])
        say("trailing", [[key, str(value)] for key, value in call.trailing_metadata() if key.startswith("x-")])
        refusals(stubs)
        given_up(stubs)


def refusals(stubs: echo.Stubs) -> None:
    try:
        stubs.fail(*texts("this"), metadata=TO)
    except grpc.RpcError as error:
        say("fail", refusal(error))
        say("fail.trailing", [value for key, value in error.trailing_metadata() if key == "x-last"])
    answers: list[str] = []
    try:
        for answer in stubs.break_off(*texts(""), metadata=TO):
            answers.append(answer.value)
    except grpc.RpcError as error:
        say("break off", ended(error, answers))
    for name, metadata in (("untargeted", ()), ("unknown app", (("dapr-app-id", "no-such-app"),))):
        try:
            stubs.one(*texts(""), metadata=metadata, timeout=20)
        except grpc.RpcError as error:
            say(name, refusal(error))


def given_up(stubs: echo.Stubs) -> None:
    """The app hears of a caller that cancels, and of a deadline that passes."""
    call = stubs.hang(*texts("cancelled"), metadata=TO)
    say("hanging", next(call).value)
    call.cancel()
    say("cancelled", call.code().name)
    late = stubs.hang(*texts("late"), metadata=TO, timeout=0.5)
    try:
        say("late.first", [answer.value for answer in late])
    except grpc.RpcError as error:
        say("late", error.code().name)


async def parallel() -> None:
    """One hundred at once over one connection: unary calls, and streams whose turns are interleaved."""
    async with grpc.aio.insecure_channel(ADDRESS) as channel:
        stubs = echo.stubs(channel)
        answers = await asyncio.gather(*(stubs.one(*texts(n), metadata=TO) for n in range(100)))
        say("parallel", [answer.value for answer in answers] == [str(n) for n in range(100)])

        async def talk(name: int) -> bool:
            async def turns() -> AsyncIterator[StringValue]:
                for n in range(10):
                    yield StringValue(value=f"{name}-{n}")
                    await answered.acquire()

            answered = asyncio.Semaphore(0)
            came = []
            async for answer in stubs.each(turns(), metadata=TO):
                came.append(answer.value)
                answered.release()
            return came == [f"{name}-{n}" for n in range(10)]

        say("parallel.streams", all(await asyncio.gather(*(talk(n) for n in range(100)))))


blocking()
asyncio.run(parallel())
