"""State drivers against a plain dictionary: every kind of write, time that passes, restarts and power cuts as steps."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import AsyncExitStack
from typing import Any, NamedTuple

import hypothesis.strategies as st
import pytest
import trio
from hypothesis import given, settings

from edge_runtime.components.registry import ComponentContext, resolve
from edge_runtime.model.errors import EtagMismatch
from edge_runtime.model.ports import DeleteRequest, SetRequest
from edge_runtime.store.database import open_databases


class Change(NamedTuple):
    """A write to be; `etag` says which one is sent, as the true one is only known while running."""

    key: str
    value: bytes | None  # None deletes
    etag: str
    ttl_s: int | None


CHANGE = st.builds(
    Change,
    st.sampled_from(["a", "app||b", "ä%_", "app||"]),
    st.none() | st.binary(max_size=12) | st.sampled_from([b'{"a":1}', b'"x"', b"null", b"not JSON"]),
    st.sampled_from(["", "", "right", "wrong", "first"]),
    st.sampled_from([None, None, -1, 0, 1, 5]),
)
STEP = st.one_of(
    st.tuples(st.just("change"), CHANGE),
    st.tuples(st.just("bulk"), st.lists(CHANGE, max_size=4, unique_by=lambda change: change.key)),
    st.tuples(st.just("transaction"), st.lists(CHANGE, max_size=4)),
    st.tuples(st.just("wait"), st.integers(1, 6)),
    st.tuples(st.sampled_from(["restart", "kill"]), st.none()),
)


class Machine:
    """The driver in its present life, and what a reader of it must find."""

    def __init__(self, driver: str, metadata: dict[str, str], lasting: bool, root: str) -> None:
        self.driver, self.metadata, self.lasting, self.root = driver, metadata, lasting, root
        self.now = 1_700_000_000
        self.lives = 0
        self.rows: dict[str, tuple[bytes, str, float | None]] = {}
        self.store: Any = None
        self.stack = AsyncExitStack()
        self.folder = os.path.join(root, "0")
        os.mkdir(self.folder)

    async def open(self) -> None:
        databases = await self.stack.enter_async_context(open_databases())
        context = ComponentContext("s", self.driver, "v1", self.metadata, "app", "", databases, "", self.folder)
        opener: Any = resolve(self.driver)
        self.store = await self.stack.enter_async_context(opener(context, now=lambda: self.now))

    async def restart(self, _: None) -> None:
        await self.stack.aclose()
        await self.reopen()

    async def kill(self, _: None) -> None:
        """The next life begins with the files as they lie now; what the last one does while closing is lost."""
        self.lives += 1
        folder = os.path.join(self.root, str(self.lives))
        shutil.copytree(self.folder, folder, ignore=shutil.ignore_patterns("*-shm"))
        await self.stack.aclose()
        self.folder = folder
        await self.reopen()

    async def reopen(self) -> None:
        self.stack = AsyncExitStack()
        if not self.lasting:
            self.rows = {}
        await self.open()

    async def wait(self, seconds: int) -> None:
        self.now += seconds

    async def change(self, change: Change) -> None:
        rows = dict(self.rows)
        allowed = self.expect(rows, change)
        request = self.request(change, self.rows)
        try:
            await (self.store.delete if isinstance(request, DeleteRequest) else self.store.set)(request)
        except EtagMismatch:
            assert allowed is not True
        else:
            assert allowed is not False
            self.rows = rows
            await self.learn([change.key])

    async def bulk(self, changes: list[Change]) -> None:
        for kind in (True, False):
            some = [change for change in changes if (change.value is None) is kind]
            before = dict(self.rows)
            allowed = [self.expect(self.rows, change) for change in some]
            requests = [self.request(change, before) for change in some]
            failures = await (self.store.bulk_delete if kind else self.store.bulk_set)(requests)
            for change, ok, failure in zip(some, allowed, failures, strict=True):
                assert ok is None or (failure is None) is ok, (change, failure)
            await self.learn([change.key for change in some])

    async def transaction(self, changes: list[Change]) -> None:
        rows = dict(self.rows)
        allowed = [self.expect(rows, change) for change in changes]
        try:
            await self.store.transact([self.request(change, self.rows) for change in changes])
        except EtagMismatch:
            assert not all(allowed)
        else:
            assert False not in allowed
            self.rows = rows
            await self.learn([change.key for change in changes])

    def request(self, change: Change, rows: dict[str, tuple[bytes, str, float | None]]) -> SetRequest | DeleteRequest:
        etag: str | None = change.etag
        if etag == "right":
            etag = rows[change.key][1] if change.key in rows else "none to know"
        if change.value is None:
            return DeleteRequest(change.key, None if etag == "first" else etag)
        first = etag == "first"
        return SetRequest(change.key, change.value, None if first else etag, first, change.ttl_s)

    def expect(self, rows: dict[str, tuple[bytes, str, float | None]], change: Change) -> bool | None:
        """Apply it to the dictionary; whether it must succeed (None: either, as an expired row may linger)."""
        key, value, etag, ttl_s = change
        row = rows.get(key)
        live = row is not None and (row[2] is None or row[2] > self.now)
        if etag == "wrong":
            return False
        if etag == "right":
            known = row is not None and row == self.rows.get(key)  # not written earlier in the same transaction
            if value is None and known and not live:
                rows.pop(key)
                return None
            if not (known and live):
                return False
        if etag == "first" and value is not None and live:
            return False
        if value is None:
            rows.pop(key, None)
        else:
            rows[key] = (value, "written", self.now + ttl_s if ttl_s is not None and ttl_s > 0 else None)
        return True

    async def learn(self, keys: list[str]) -> None:
        """The etags of what was written just now."""
        for key in keys:
            item = await self.store.get(key)
            if item is not None and key in self.rows:
                self.rows[key] = (self.rows[key][0], item.etag, self.rows[key][2])

    async def check(self) -> None:
        live = {key: row for key, row in self.rows.items() if row[2] is None or row[2] > self.now}
        for key, item in await self.store.bulk_get(["a", "app||b", "ä%_", "app||"]):
            assert item == live.get(key), key
        assert list(await self.store.keys("", "", 10)) == sorted(live)
        assert list(await self.store.keys("app", "", 10)) == sorted(key for key in live if key.startswith("app"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("driver", "metadata", "lasting"),
    [
        ("state.sqlite", {"connectionString": "state.db"}, True),
        ("state.sqlite", {"connectionString": "state.db", "disableWAL": "yes", "tableName": "other"}, True),
        ("state.sqlite", {"connectionString": ":memory:"}, False),
        ("state.in-memory", {}, False),
    ],
)
def test_drivers_are_dictionaries(driver: str, metadata: dict[str, str], lasting: bool) -> None:
    @settings(max_examples=150, deadline=None)
    @given(st.lists(STEP, max_size=12))
    def run(steps: list[tuple[str, Any]]) -> None:
        async def live() -> None:
            with tempfile.TemporaryDirectory() as root:
                machine = Machine(driver, metadata, lasting, root)
                await machine.open()
                try:
                    for name, argument in steps:
                        await getattr(machine, name)(argument)
                        await machine.check()
                finally:
                    await machine.stack.aclose()

        trio.run(live)

    run()
