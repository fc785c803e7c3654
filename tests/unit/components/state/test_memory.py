"""state.in-memory: its limit, and that expired items are forgotten."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from edge_runtime.components.registry import ComponentContext
from edge_runtime.components.state.memory import MemoryState, open_memory_state
from edge_runtime.model.errors import ConfigError, Overloaded
from edge_runtime.model.ports import DeleteRequest, SetRequest


@asynccontextmanager
async def opened(now: Any = lambda: 0.0, **metadata: str) -> AsyncIterator[MemoryState]:
    databases: Any = None
    context = ComponentContext("m", "state.in-memory", "v1", metadata, "app", "", databases, "")
    async with open_memory_state(context, now) as store:
        yield store


async def test_unknown_fields_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    async with opened(maxByte="2Ki"):
        assert "metadata 'maxByte' is not known and ignored (did you mean \"maxBytes\"?)" in caplog.text


async def test_full_store_refuses_more() -> None:
    async with opened(maxBytes="2Ki") as store:
        await store.set(SetRequest("a", b"x" * 1000))
        with pytest.raises(Overloaded, match=r"state\.in-memory holds 2048 bytes at most; raise maxBytes"):
            await store.set(SetRequest("b", b"x" * 1000))
        await store.set(SetRequest("a", b"y" * 1500))
        failures = await store.bulk_set([SetRequest("b", b"x" * 1000), SetRequest("c", b"")])
        assert [type(failure) for failure in failures] == [Overloaded, type(None)] or failures[0] is not None
        await store.transact([DeleteRequest("a"), DeleteRequest("c"), SetRequest("b", b"x" * 1500)])
        with pytest.raises(Overloaded):
            await store.transact([SetRequest("c", b"x" * 100), SetRequest("d", b"x" * 100)])
        assert list(await store.keys("", "", 9)) == ["b"]


async def test_limit_must_be_a_size() -> None:
    with pytest.raises(ConfigError, match="'maxBytes' is 'much'; expected a size"):
        async with opened(maxBytes="much"):
            pass


async def test_expired_items_free_their_space(autojump_clock: trio.testing.MockClock) -> None:
    async with opened(trio.current_time, maxBytes="2Ki") as store:
        for _ in range(3):
            await store.set(SetRequest("a", b"x" * 1500, ttl_s=10))
            with pytest.raises(Overloaded):
                await store.set(SetRequest("b", b"x" * 1500))
            await trio.sleep(12)
        await store.set(SetRequest("b", b"x" * 1500))


async def test_renewed_item_outlives_its_first_ttl(autojump_clock: trio.testing.MockClock) -> None:
    async with opened(trio.current_time) as store:
        await store.set(SetRequest("a", b"1", ttl_s=1))
        await store.set(SetRequest("a", b"2"))
        await trio.sleep(100)
        assert await store.get("a") is not None


async def test_rewritten_expiries_are_forgotten() -> None:
    async with opened() as store:
        for _ in range(5000):
            await store.set(SetRequest("a", b"1", ttl_s=1000))
        assert len(store._expiries) < 2000
