"""Which keys an event of a change topic names, and when it is acknowledged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import trio
import trio.testing

from edge_runtime.model.errors import DriverError
from edge_runtime.proto.dapr.proto.runtime.v1.appcallback_pb2 import TopicEventRequest
from edge_runtime.sync.change_topic import KEYS_MAX, ChangeTopic, keys_of
from edge_runtime.sync.subscription import SUCCESS
from tests.unit.sync.test_topics import idle_link


@pytest.mark.parametrize(
    ("data", "keys"),
    [
        (b'{"key": "orders/1"}', ["orders/1"]),
        (b'{"keys": ["a", "cloud||b"]}', ["a", "b"]),
        (b'{"keys": []}', []),
        (b'{"keys": ["a", 1]}', []),
        (b'{"key": 1}', []),
        (b'["a"]', []),
        (b"[" * 100_000, []),
        (b"no JSON", []),
        (b'{"keys": [' + b",".join([b'"a"'] * (KEYS_MAX + 1)) + b"]}", []),
    ],
)
def test_keys_are_found_in_the_data(data: bytes, keys: list[str]) -> None:
    assert keys_of(TopicEventRequest(data=data)) == keys


def test_the_attribute_counts_before_the_data() -> None:
    event = TopicEventRequest(data=b'{"key": "other"}')
    event.extensions.update({"key": "cloud||orders/1"})
    assert keys_of(event) == ["orders/1"]


class Route:
    """A follower whose disk may be full."""

    def __init__(self) -> None:
        self.heard: list[Any] = []
        self.full = False

    async def follow(self, remote_keys: Sequence[str]) -> None:
        if self.full:
            raise DriverError("no space left on device")
        self.heard.append(list(remote_keys))

    def poll(self) -> None:
        self.heard.append("all")


async def test_an_event_is_held_until_its_keys_are_on_disk(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    route = Route()
    routes: list[Route] = []
    topic = ChangeTopic(idle_link(), "kafka", "changes", lambda: routes)
    taken: list[Any] = []

    async def take(data: bytes) -> None:
        taken.append(await topic.take(TopicEventRequest(data=data)))

    nursery.start_soon(take, b'{"key": "a"}')
    await trio.sleep(1)
    assert "no state route follows it" in topic.last_error
    route.full = True
    routes.append(route)
    await trio.sleep(5)
    assert (taken, topic.last_error) == ([], "no space left on device")
    route.full = False
    await trio.sleep(60)
    await take(b"else")
    assert (route.heard, taken, topic.last_error) == ([["a"], "all"], [SUCCESS, SUCCESS], "")
