"""A configuration route against a link and a mirror of the test's own."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from edge_runtime.config.links import ConfigurationRoute
from edge_runtime.model.errors import DriverError, StoreUnavailable, Unreachable
from edge_runtime.model.ports import ConfigurationItem
from edge_runtime.proto.dapr.proto.common.v1.common_pb2 import ConfigurationItem as WireItem
from edge_runtime.proto.dapr.proto.runtime.v1.configuration_pb2 import (
    SubscribeConfigurationRequest,
    SubscribeConfigurationResponse,
)
from edge_runtime.sync import configuration_down
from edge_runtime.sync.configuration_down import LOOK_S, PATH, ConfigurationDownRoute
from edge_runtime.sync.link_answers import Answer

Item = ConfigurationItem


class Done(NamedTuple):
    written: int = 0
    removed: int = 0
    too_large: Sequence[str] = ()


class FarCall:
    """A subscription as the far sidecar serves it."""

    status: int | None = None
    message = ""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self._told, self._hear = trio.open_memory_channel[bytes](10)

    async def send_raw(self, compressed: bool, data: bytes) -> bool:
        self.sent.append(data)
        return True

    async def end(self) -> None:
        self.sent.append(b"")

    async def recv_raw(self) -> tuple[bool, bytes] | None:
        try:
            return False, await self._hear.receive()
        except trio.EndOfChannel:
            self.status, self.message = 2, "stream closed"
            return None

    def tell(self, **items: str) -> None:
        wire = {key: WireItem(value=value, version="t") for key, value in items.items()}
        self._told.send_nowait(SubscribeConfigurationResponse(id="s", items=wire).SerializeToString())

    def close(self) -> None:
        self._told.close()


class FarLink:
    """A link to a store with `items`."""

    name = "cloud"
    metered = False

    def __init__(self, **items: str) -> None:
        self.items = dict(items)
        self.calls: list[FarCall] = []
        self.gets: list[list[str]] = []
        self.up = trio.Event()
        self.up.set()
        self.failure: DriverError | None = None
        self.judged: list[str] = []

    async def until_up(self) -> None:
        await self.up.wait()

    def heard(self) -> None: ...

    @asynccontextmanager
    async def open_call(self, path: str, *, kind: str) -> AsyncIterator[FarCall]:
        assert (path, kind) == (PATH, "configuration")
        call = FarCall()
        self.calls.append(call)
        call.tell()
        yield call

    async def call(self, method: str, path: str, *, query: Sequence[tuple[str, str]], kind: str) -> Answer:
        assert (method, path, kind) == ("GET", "v1.0/configuration/far%2Fstore", "configuration")
        if self.failure is not None:
            raise self.failure
        keys = [value for _, value in query]
        self.gets.append(keys)
        found = {
            key: {"value": value, "version": "g", "metadata": {"m": "1"}}
            for key, value in self.items.items()
            if not keys or key in keys
        }
        return Answer(200 if found else 204, {}, json.dumps(found).encode() if found else b"")

    async def judge_rpc(self, error: DriverError, since: float) -> None:
        self.judged.append(str(error))


class Kept:
    """A mirror in memory."""

    def __init__(self) -> None:
        self.items: dict[str, ConfigurationItem] = {}
        self.full = False

    async def take(self, items: Mapping[str, ConfigurationItem], asked: Collection[str] | None) -> Done:
        if self.full:
            raise StoreUnavailable("the disk is full")
        for key in list(self.items) if asked is None else asked:
            if key not in items:
                self.items.pop(key, None)
        self.items.update(items)
        return Done(len(items), 0, [key for key, item in items.items() if item.value == "huge"])


class Opened(NamedTuple):
    link: FarLink
    kept: Kept

    def values(self) -> dict[str, str]:
        return {key: item.value for key, item in self.kept.items.items()}


@asynccontextmanager
async def following(*keys: str, **items: str) -> AsyncIterator[Opened]:
    link, kept = FarLink(**items), Kept()
    far: Any = link

    async def open_mirror() -> Kept:
        return kept

    route = ConfigurationDownRoute(ConfigurationRoute("here", keys, "far/store"), far, open_mirror)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(route.run)
        await wait_all_tasks_blocked()
        yield Opened(link, kept)
        nursery.cancel_scope.cancel()


async def test_all_of_it_comes_first(mock_clock: MockClock) -> None:
    async with following(a="1", b="") as opened:
        assert opened.kept.items == {"a": Item("1", "g", {"m": "1"}), "b": Item("", "g", {"m": "1"})}
        assert opened.link.gets == [[]]
        request = SubscribeConfigurationRequest.FromString(opened.link.calls[0].sent[0])
        assert (request.store_name, list(request.keys)) == ("far/store", [])
        assert opened.link.calls[0].sent[1:] == [b""]


async def test_changes_follow_as_they_are_told(mock_clock: MockClock) -> None:
    async with following("a", "b", a="1") as opened:
        opened.link.calls[0].tell(a="2", other="3")
        await wait_all_tasks_blocked()
        assert opened.kept.items == {"a": Item("2", "t")}
        assert opened.link.gets == [["a", "b"]]


async def test_an_empty_value_is_asked_for(mock_clock: MockClock) -> None:
    """A removal and a setting without text are told alike."""
    async with following(a="1", b="1") as opened:
        del opened.link.items["a"]
        opened.link.items["b"] = ""
        opened.link.calls[0].tell(a="", b="", c="3")
        await wait_all_tasks_blocked()
        assert opened.values() == {"b": "", "c": "3"}
        assert sorted(opened.link.gets[-1]) == ["a", "b"]  # a map of protobuf has no order


async def test_what_was_never_told_is_found(autojump_clock: MockClock) -> None:
    async with following(a="1") as opened:
        opened.link.items["a"] = "2"
        await trio.sleep(LOOK_S - 1)
        assert opened.values() == {"a": "1"}
        await trio.sleep(2)
        assert opened.values() == {"a": "2"}
        assert len(opened.link.calls) == 1


async def test_what_changed_meanwhile_comes_after_a_cut(autojump_clock: MockClock) -> None:
    async with following(a="1", b="1") as opened:
        opened.link.items = {"a": "2"}
        opened.link.calls[0].close()
        await trio.sleep(1)
        assert len(opened.link.calls) == 2
        assert opened.values() == {"a": "2"}
        assert opened.link.judged == ["the stream has ended: stream closed"]


async def test_a_link_that_is_down_is_waited_for(mock_clock: MockClock) -> None:
    async with following(a="1") as opened:
        opened.link.up = trio.Event()
        opened.link.failure = Unreachable("gone")
        opened.link.calls[0].tell(x="")
        await wait_all_tasks_blocked()
        assert len(opened.link.calls) == 1
        opened.link.failure = None
        opened.link.up.set()
        await wait_all_tasks_blocked()
        assert len(opened.link.calls) == 2


async def test_a_full_disk_is_tried_again(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    async with following(a="1") as opened:
        opened.kept.full = True
        opened.link.calls[0].tell(a="2")
        opened.link.items["a"] = "2"
        await trio.sleep(0.1)
        opened.kept.full = False
        await trio.sleep(2)
        assert opened.values() == {"a": "2"}
        assert "the disk is full; tried again in" in caplog.text


async def test_a_silent_subscription_is_given_up(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FarCall, "tell", lambda self, **items: None)
    async with following(a="1") as opened:
        await trio.sleep(20)
        assert len(opened.link.calls) == 2
        assert "was not confirmed" in opened.link.judged[0]


async def test_too_much_is_refused(
    mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(configuration_down, "ITEMS_MAX", 1)
    async with following(a="1", b="2") as opened:
        assert opened.values() == {}
        assert "name those that are wanted in `keys`" in caplog.text


async def test_a_value_that_is_too_large_is_said_once(mock_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    async with following(a="huge") as opened:
        opened.link.calls[0].tell(a="huge")
        await wait_all_tasks_blocked()
        assert caplog.text.count("'a' is too large") == 1


async def test_many_keys_are_asked_for_in_parts(mock_clock: MockClock) -> None:
    keys = [f"k{n:03}" for n in range(120)]
    async with following(*keys, **dict.fromkeys(keys, "1")) as opened:
        assert [len(asked) for asked in opened.link.gets] == [50, 50, 20]
        assert len(opened.kept.items) == 120
