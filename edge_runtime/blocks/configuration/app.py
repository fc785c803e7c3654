"""How an app is told of changed settings: a POST request for each key, every one with all that changed together."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from typing import Any, Final
from urllib.parse import quote

import msgspec

from edge_runtime.model.errors import DriverError
from edge_runtime.model.http import Body, Header, Request
from edge_runtime.model.ports import AppChannel, ConfigurationItem, Policy

logger: Final = logging.getLogger("dapr.runtime.processor.configuration")

_JSON: Final[tuple[Header, ...]] = ((b"content-type", b"application/json"),)


class AppUpdates:
    """The settings that one app is told of, by whatever way its channel takes requests."""

    def __init__(self, channel: AppChannel) -> None:
        self._channel = channel

    async def tell(
        self, subscription_id: str, store: str, items: Mapping[str, ConfigurationItem], policy: Policy
    ) -> None:
        """Nothing is told twice: what the app does not take, in spite of the policy, is said in the log."""
        body = msgspec.json.encode({"id": subscription_id, "items": documents(items)})
        for key in items:
            post = partial(self._post, store, key, body)
            try:
                await (policy.run(post) if policy.active else post())
            except DriverError as error:
                logger.error("the app was not told of %s of configuration store %s: %s", key, store, error)

    async def _post(self, store: str, key: str, body: bytes) -> None:
        response = await self._channel.send(Request("POST", target_of(store, key), _JSON, Body(body)))
        await response.body.aclose()
        if response.status != 200:
            raise DriverError(f"it answered {response.status}", code=response.status)


def documents(items: Mapping[str, ConfigurationItem]) -> dict[str, dict[str, Any]]:
    """Items as JSON has them, sorted by key; what is empty is left out."""
    return {key: _document(items[key]) for key in sorted(items)}


def _document(item: ConfigurationItem) -> dict[str, Any]:
    fields = {"value": item.value, "version": item.version, "metadata": dict(item.metadata)}
    return {name: value for name, value in fields.items() if value}


def target_of(store: str, key: str) -> bytes:
    """The route of a key; a slash in it stands as it is, as Dapr has it."""
    return f"/configuration/{quote(store, safe='')}/{quote(key, safe='/:@!$()*+,;=~-._|')}".encode()
