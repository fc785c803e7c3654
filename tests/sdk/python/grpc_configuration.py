"""Settings and bindings with the blocking DaprClient; the one with asyncio cannot follow settings."""

from __future__ import annotations

from typing import Any

from clients import Box, done, run, tried
from lines import say

STORE = "configstore"


def shown(response: Any) -> dict[str, list[Any]]:
    return {key: [item.value, item.version, dict(item.metadata)] for key, item in response.items.items()}


async def configuration(client: Any) -> None:
    say("get", shown(await done(client.get_configuration(STORE, ["a", "absent"]))))
    box = Box()
    found = client.subscribe_configuration(STORE, ["a"], lambda key, response: box.put([key, shown(response)]))
    say("subscribed", found)
    key, items = await box.next()
    say("told", [key == found, items])
    say("unsubscribed", await done(client.unsubscribe_configuration(STORE, found)))
    say("unsubscribed.again", await done(client.unsubscribe_configuration(STORE, found)))
    say("get.store", await tried(client.get_configuration, "nothing", ["a"]))


async def bindings(client: Any) -> None:
    answer = await done(client.invoke_binding("files", "create", "hello", {"fileName": "a.txt"}))
    say("create", answer.text())
    answer = await done(client.invoke_binding("files", "get", "", {"fileName": "a.txt"}))
    say("file", answer.text())
    answer = await done(client.invoke_binding("web", "get", "", {"path": "/v1.0/healthz"}))
    say("web", [answer.binding_metadata["statusCode"], answer.binding_metadata["status"]])
    say("binding.operation", await tried(client.invoke_binding, "files", "burn", ""))


async def scenario(client: Any) -> None:
    await bindings(client)
    await configuration(client)


run(scenario)
