"""A topic of the other sidecar whose events name keys that have changed there, for the state routes that follow them.

An event is acknowledged when its keys are on disk as followed: they are looked at now, or after a crash with the first
poll. One that names no key says that something has changed: everything that is followed is looked at.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from edge_runtime.model.errors import DriverError
from edge_runtime.proto.dapr.proto.runtime.v1.appcallback_pb2 import TopicEventRequest
from edge_runtime.sync.link import Link
from edge_runtime.sync.subscription import BACKOFF, SUCCESS, Status, Subscription

logger: Final = logging.getLogger("dapr.runtime.link")

# Of an event that names more, everything that is followed is looked at.
KEYS_MAX: Final = 1000
_SEPARATOR: Final = "||"


class Follower(Protocol):
    """A state route that wants to hear of changes."""

    async def follow(self, remote_keys: Sequence[str]) -> None: ...
    def poll(self) -> None: ...


class ChangeTopic(Subscription):
    """One change topic. `followers` are the routes that follow it at the moment."""

    def __init__(self, link: Link, pubsub: str, topic: str, followers: Callable[[], Sequence[Follower]]) -> None:
        super().__init__(link, pubsub, topic)
        self._followers = followers
        self._where = f"cloud link {link.name}: change topic {topic} of {pubsub}"

    def failed(self, reason: str) -> None:
        """Told by who supervises the subscription."""
        self.last_error = reason

    async def take(self, event: TopicEventRequest) -> Status:
        keys = keys_of(event)
        pause_s = BACKOFF.first_s
        while True:
            try:
                await self._tell(keys)
                self.last_error = ""
                return SUCCESS
            except DriverError as error:
                if self.last_error != str(error):
                    logger.warning("%s: event %s is held until its keys can be noted: %s", self._where, event.id, error)
                self.last_error = str(error)
            await self.rest(pause_s)
            pause_s = min(pause_s * 2, BACKOFF.most_s)

    async def _tell(self, keys: Sequence[str]) -> None:
        followers = self._followers()
        if not followers:
            raise DriverError("no state route follows it at the moment")
        for follower in followers:
            if keys:
                await follower.follow(keys)
            else:
                follower.poll()


def keys_of(event: TopicEventRequest) -> list[str]:
    """The keys that an event names, as an app of the other sidecar knows them; none when it names none, or too many.

    They are in the attribute `key`, else in the data: `{"key": …}` or `{"keys": […]}`. A key may have the prefix of
    its app, as it is in the store.
    """
    attribute = event.extensions.fields.get("key")
    if attribute is not None and attribute.string_value:
        return [_plain(attribute.string_value)]
    try:
        data = json.loads(event.data)
    except (ValueError, RecursionError):
        return []
    keys = _named(data) if isinstance(data, Mapping) else []
    return [_plain(key) for key in keys] if len(keys) <= KEYS_MAX else []


def _named(data: Mapping[str, Any]) -> list[str]:
    keys = data.get("keys")
    found: list[Any] = keys if isinstance(keys, list) else [data.get("key")]
    return found if all(isinstance(key, str) and key for key in found) else []


def _plain(key: str) -> str:
    return key.partition(_SEPARATOR)[2] or key
