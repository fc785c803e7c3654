"""Settings that are read and followed: by an app over HTTP, by a stream, over failures, stops and reloads."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from edge_runtime.blocks.configuration import (
    Configuration,
    ConfigurationLimits,
    End,
    KeptSubscription,
    SubscriptionsStopped,
)
from edge_runtime.blocks.configuration.block import DRAIN_LIMIT_S
from edge_runtime.model.errors import DriverError, EdgeError, Kind
from edge_runtime.model.ports import ConfigurationItem
from edge_runtime.observability.metrics import Metrics, render
from tests.unit.blocks.bindings.fakes import policies
from tests.unit.blocks.configuration.fakes import FakeApp, FakeClient, FakeStore

ITEMS = {"a": ConfigurationItem("1", "v1", {"unit": "s"}), "b": ConfigurationItem("2")}


@asynccontextmanager
async def running(block: Configuration) -> AsyncIterator[trio.CancelScope]:
    """The block while it runs; cancelling what is given stops deliveries. Streams are released at the end."""
    scope = trio.CancelScope()

    async def run() -> None:
        with scope:
            await block.run()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await wait_all_tasks_blocked()
        yield scope
        scope.cancel()
    block.release()


# --- reading ----------------------------------------------------------------------------------------------------------


async def test_items_are_read_by_key_or_all() -> None:
    store = FakeStore(ITEMS)
    block = Configuration({"s": store})
    assert await block.get("s", ["a", "zz"], {"m": "1"}) == {"a": ITEMS["a"]}
    assert await block.get("s", [], {}) == ITEMS
    assert store.asked == [(["a", "zz"], {"m": "1"}), ([], {})]


@pytest.mark.parametrize(
    ("stores", "kind", "text"),
    [
        ({}, Kind.CONFIGURATION_STORE_NOT_CONFIGURED, "configuration stores not configured"),
        ({"t": FakeStore()}, Kind.CONFIGURATION_STORE_NOT_FOUND, "configuration store s not found"),
    ],
)
async def test_a_store_that_is_not_there_is_named(stores: Any, kind: Kind, text: str) -> None:
    block = Configuration(stores)
    for call in (
        lambda: block.get("s", [], {}),
        lambda: block.subscribe("s", [], {}),
        lambda: block.unsubscribe("s", "id"),
        lambda: block.stream("s", [], {}, FakeClient()),
    ):
        with pytest.raises(EdgeError) as raised:
            await call()
        assert (raised.value.kind, raised.value.message) == (kind, text)


async def test_a_failed_read_names_its_keys() -> None:
    store = FakeStore()
    store.failing = DriverError("off")
    with pytest.raises(EdgeError) as raised:
        await Configuration({"s": store}).get("s", ["a", "b"], {})
    assert raised.value.kind is Kind.CONFIGURATION_GET
    assert raised.value.message == "failed to get [a b] from Configuration store s: off"


async def test_calls_are_counted_by_operation() -> None:
    metrics = Metrics("app")
    block = Configuration({"s": FakeStore(ITEMS)}, FakeApp(), None, metrics, "ns")
    await block.get("s", [], {})
    async with running(block):
        await block.unsubscribe("s", await block.subscribe("s", [], {}))
    lines = [line for line in render([metrics]).splitlines() if "configuration_count{" in line]
    label = 'app_id="app",component="s",namespace="ns"'
    assert lines == [
        f'dapr_component_configuration_count{{{label},operation="{operation}",success="true"}} 1'
        for operation in ("get", "subscribe", "unsubscribe")
    ]


# --- an app over HTTP -------------------------------------------------------------------------------------------------


async def test_the_app_is_told_key_by_key() -> None:
    store, app = FakeStore(), FakeApp()
    block = Configuration({"my store": store}, app)
    async with running(block):
        found = await block.subscribe("my store", ["a"], {"m": "1"})
        await store.change(**{"b/c": "2", "a?": "1"})
    assert app.told == ["/configuration/my%20store/b/c", "/configuration/my%20store/a%3F"]
    items = {"a?": {"value": "1", "version": "2"}, "b/c": {"value": "2", "version": "2"}}
    assert all(json.loads(request.body.data) == {"id": found, "items": items} for request in app.requests)
    assert all(request.headers == ((b"content-type", b"application/json"),) for request in app.requests)


async def test_without_an_app_nobody_can_be_told() -> None:
    with pytest.raises(EdgeError) as raised:
        await Configuration({"s": FakeStore()}).subscribe("s", [], {})
    assert raised.value.kind is Kind.CONFIGURATION_NO_APP
    text = "app channel is not initialized. cannot subscribe to configuration updates"
    assert raised.value.message == text


async def test_a_failed_subscription_names_its_keys() -> None:
    block = Configuration({"s": FakeStore({}, DriverError("off"))}, FakeApp())
    async with running(block):
        with pytest.raises(EdgeError) as raised:
            await block.subscribe("s", ["a"], {})
    assert raised.value.kind is Kind.CONFIGURATION_SUBSCRIBE
    assert raised.value.message == "failed to subscribe [a] from Configuration store s: off"


async def test_an_outbound_policy_subscribes_again(autojump_clock: MockClock) -> None:
    store = FakeStore({}, DriverError("off"))
    block = Configuration({"s": store}, FakeApp(), policies(s="outbound"))
    async with running(block):
        await block.subscribe("s", [], {})
        assert (store.followed, len(store.handlers)) == (2, 1)


async def test_an_inbound_policy_tells_again(autojump_clock: MockClock) -> None:
    store, app = FakeStore(), FakeApp(500, 204, 200)
    block = Configuration({"s": store}, app, policies(s="inbound"))
    async with running(block):
        await block.subscribe("s", [], {})
        await store.change(a="1")
    assert app.told == ["/configuration/s/a"] * 3


async def test_what_the_app_refuses_is_not_told_again() -> None:
    store, app = FakeStore(), FakeApp(500)
    block = Configuration({"s": store}, app)
    async with running(block):
        await block.subscribe("s", [], {})
        await store.change(a="1", b="2")
    assert app.told == ["/configuration/s/a", "/configuration/s/b"]


async def test_nothing_is_told_after_unsubscribing() -> None:
    store, app = FakeStore(), FakeApp()
    block = Configuration({"s": store, "t": FakeStore()}, app)
    async with running(block):
        found = await block.subscribe("s", [], {})
        with pytest.raises(DriverError, match=f"subscription with id {found} does not exist"):
            await block.unsubscribe("t", found)
        await block.unsubscribe("s", found)
        with pytest.raises(DriverError, match="does not exist"):
            await block.unsubscribe("s", found)
        await wait_all_tasks_blocked()
        assert not store.handlers


async def test_an_app_may_unsubscribe_while_it_is_told() -> None:
    store, app = FakeStore(), FakeApp()
    app.hold = trio.Event()
    block = Configuration({"s": store}, app)
    async with running(block), trio.open_nursery() as nursery:
        found = await block.subscribe("s", [], {})
        nursery.start_soon(lambda: store.change(a="1"))
        await wait_all_tasks_blocked()
        await block.unsubscribe("s", found)
        await wait_all_tasks_blocked()
        assert store.handlers, "what is being told is told"
        app.hold.set()
        await wait_all_tasks_blocked()
        assert not store.handlers
        nursery.cancel_scope.cancel()


async def test_a_store_that_fails_is_followed_again(autojump_clock: MockClock) -> None:
    class Failing(FakeStore):
        async def subscribe(self, *args: Any, task_status: Any) -> None:
            if not self.followed:
                task_status.started()
                self.followed = 1
                raise RuntimeError("gone")
            await super().subscribe(*args, task_status=task_status)

    store, app = Failing(), FakeApp()
    block = Configuration({"s": store}, app)
    async with running(block):
        await block.subscribe("s", [], {})
        await trio.sleep(1)
        await store.change(a="1")
    assert app.told == ["/configuration/s/a"]


async def test_there_is_a_limit_to_subscriptions() -> None:
    block = Configuration({"s": FakeStore()}, FakeApp(), limits=ConfigurationLimits(1))
    async with running(block):
        await block.subscribe("s", [], {})
        with pytest.raises(EdgeError, match="there are 1 subscriptions, which is the limit"):
            await block.subscribe("s", ["a"], {})


async def test_an_app_that_is_restarted_may_ask_again() -> None:
    store, app = FakeStore(), FakeApp()
    block = Configuration({"s": store}, app, limits=ConfigurationLimits(2))
    async with running(block):
        found = [await block.subscribe("s", [], {}) for _ in range(5)]
        with pytest.raises(DriverError):
            await block.unsubscribe("s", found[0])
        await store.change(a="1")
    assert app.told == ["/configuration/s/a"] * 2


# --- stops and reloads ------------------------------------------------------------------------------------------------


async def test_a_stop_lets_the_app_be_told(autojump_clock: MockClock) -> None:
    store, app = FakeStore(), FakeApp()
    app.hold = trio.Event()
    block = Configuration({"s": store}, app)
    async with trio.open_nursery() as nursery:
        async with running(block) as scope:
            await block.subscribe("s", [], {})
            nursery.start_soon(lambda: store.change(a="1"))
            await wait_all_tasks_blocked()
            scope.cancel()
            await wait_all_tasks_blocked()
            app.hold.set()
        assert len(app.requests) == 1
        assert trio.current_time() < DRAIN_LIMIT_S


async def test_subscriptions_outlast_a_reload() -> None:
    store, app, kept = FakeStore(), FakeApp(), dict[str, KeptSubscription]()
    before = Configuration({"s": store}, app, kept=kept)
    async with running(before):
        found = await before.subscribe("s", ["a"], {"m": "1"})
    assert not store.handlers
    assert kept == {found: KeptSubscription("s", ("a",), {"m": "1"})}
    after = Configuration({"s": store}, app, kept=kept)
    async with running(after):
        assert store.asked[-1] == (["a"], {"m": "1"})
        await store.change(a="1")
        await after.unsubscribe("s", found)
    assert app.told == ["/configuration/s/a"]
    assert not kept


async def test_a_subscription_during_a_reload_begins_after_it() -> None:
    store, app, kept = FakeStore(), FakeApp(), dict[str, KeptSubscription]()
    before = Configuration({"s": store}, app, kept=kept)
    async with running(before):
        pass
    found = await before.subscribe("s", [], {})
    assert not store.followed
    async with running(Configuration({"s": store}, app, kept=kept)):
        assert len(store.handlers) == 1
    assert list(kept) == [found]


async def test_one_whose_store_is_gone_can_be_ended() -> None:
    kept = {"x": KeptSubscription("gone", (), {})}
    block = Configuration({"s": FakeStore()}, FakeApp(), kept=kept)
    async with running(block):
        with pytest.raises(EdgeError, match="configuration store gone not found"):
            await block.unsubscribe("gone", "x")


async def test_a_store_that_cannot_be_followed_after_a_reload_is_tried(autojump_clock: MockClock) -> None:
    store = FakeStore({}, DriverError("not yet"))
    async with running(Configuration({"s": store}, FakeApp(), kept={"x": KeptSubscription("s", (), {})})):
        await trio.sleep(1)
        assert len(store.handlers) == 1


# --- streams ----------------------------------------------------------------------------------------------------------


async def test_a_stream_has_its_id_first() -> None:
    store, client = FakeStore(), FakeClient()
    block = Configuration({"s": store})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(block.stream, "s", ["a"], {}, client)
        await client.opened.wait()
        await store.change(a="1")
        nursery.cancel_scope.cancel()
    ((found, first), (again, items)) = client.came
    assert (first, items) == ({}, {"a": ConfigurationItem("1", "2")})
    assert found == again
    assert not store.handlers


async def ended(block: Configuration, client: FakeClient, ends: Any) -> End:
    """How a stream ends after `ends` did something."""
    found: list[End] = []

    async def serve() -> None:
        found.append(await block.stream("s", [], {}, client))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        await client.opened.wait()
        await ends()
    return found[0]


async def test_a_stream_can_be_unsubscribed() -> None:
    block, client = Configuration({"s": FakeStore()}), FakeClient()
    assert await ended(block, client, lambda: block.unsubscribe("s", client.came[0][0])) is End.UNSUBSCRIBED


async def test_a_stream_that_is_lost_ends() -> None:
    store = FakeStore()
    block, client = Configuration({"s": store}), FakeClient()

    async def lose() -> None:
        client.lost = True
        await store.change(a="1")

    assert await ended(block, client, lose) is End.CLIENT


async def test_a_stream_that_is_lost_at_once_ends() -> None:
    block, client = Configuration({"s": FakeStore()}), FakeClient()
    client.lost = True
    assert await block.stream("s", [], {}, client) is End.CLIENT


async def test_a_stop_keeps_streams_until_they_are_released() -> None:
    store, client = FakeStore(), FakeClient()
    block = Configuration({"s": store})

    async def stop() -> None:
        async with running(block) as scope:
            scope.cancel()
            await wait_all_tasks_blocked()
            assert not store.handlers
            with trio.move_on_after(0):
                await block.stream("s", [], {}, FakeClient())
                raise AssertionError("who comes now waits")

    assert await ended(block, client, stop) is End.STOPPED
    with pytest.raises(SubscriptionsStopped):
        await block.stream("s", [], {}, FakeClient())


async def test_a_stream_that_cannot_begin_says_why() -> None:
    client = FakeClient()
    with pytest.raises(EdgeError, match=r"failed to subscribe \[\] from Configuration store s: off"):
        await Configuration({"s": FakeStore({}, DriverError("off"))}).stream("s", [], {}, client)
    assert not client.came
