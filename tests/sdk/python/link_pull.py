"""What a link has brought: a setting and a secret, with the blocking DaprClient."""

from __future__ import annotations

from typing import Any

from clients import done, run
from lines import say


async def scenario(client: Any) -> None:
    items = (await done(client.get_configuration("configstore", ["a"]))).items
    say("setting", [items["a"].value, items["a"].version])
    say("secret", dict((await done(client.get_secret("vault", "password"))).secret))
    say("secrets", (await done(client.get_bulk_secret("vault"))).secrets)


run(scenario)
