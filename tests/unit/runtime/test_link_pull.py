"""What comes down a link for one app: who runs the mirror, and what is said of a store that cannot be one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from edge_runtime.config.links import CloudLink, ConfigurationRoute
from edge_runtime.runtime.link_pull import open_pull
from tests.unit.sync.test_configuration_down import FarLink, Kept

RESOURCE = CloudLink(
    "cloud",
    "http://cloud",
    "http://cloud",
    configuration=(ConfigurationRoute("here", (), "far/store"), ConfigurationRoute("here", ("k",), "far/store")),
    source="link.yaml:1",
)


class Store:
    """A component that can be a mirror."""

    def __init__(self, path: str) -> None:
        self.place = path, "configuration"
        self.kept = Kept()
        self.asked: list[str] = []

    async def mirror(self, route: str) -> Kept:
        self.asked.append(route)
        return self.kept


def app(components: Mapping[str, tuple[str, Any]]) -> Any:
    opened = {
        name: SimpleNamespace(component=SimpleNamespace(type=kind), driver=driver)
        for name, (kind, driver) in components.items()
    }
    return SimpleNamespace(app=SimpleNamespace(app_id="a", node=None), components=opened, blocks=None)


class Joined:
    """An app that has the link, until it leaves."""

    def __init__(self, scope: trio.CancelScope) -> None:
        self.leave = scope.cancel


@asynccontextmanager
async def apps(shared: Any, *stores: Store) -> AsyncIterator[list[Joined]]:
    joined: list[Joined] = []

    async def join(store: Store, *, task_status: Any) -> None:
        with trio.CancelScope() as scope:
            async with open_pull(app({"here": ("configuration.sqlite", store)}), shared, RESOURCE):
                task_status.started(Joined(scope))
                await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        for store in stores:
            joined.append(await nursery.start(join, store))
            await wait_all_tasks_blocked()
        yield joined
        nursery.cancel_scope.cancel()


def shared_link() -> tuple[Any, FarLink]:
    link = FarLink(a="1", k="2")
    return SimpleNamespace(link=link, locks={}, showing=lambda route: nullcontext()), link


async def test_apps_with_one_file_share_a_mirror(mock_clock: MockClock) -> None:
    shared, link = shared_link()
    first, second = Store("/one.db"), Store("/one.db")
    async with apps(shared, first, second) as joined:
        assert len(link.calls) == 2, "one a route"
        assert first.kept.items.keys() == {"a", "k"}
        assert not second.asked
        joined[0].leave()
        await wait_all_tasks_blocked()
        assert len(link.calls) == 4
        assert second.asked == ["link/cloud/far/store"] * 2
        assert second.kept.items.keys() == {"a", "k"}


async def test_apps_with_other_files_have_mirrors_of_their_own(mock_clock: MockClock) -> None:
    shared, link = shared_link()
    first, second = Store("/one.db"), Store("/two.db")
    async with apps(shared, first, second):
        assert len(link.calls) == 4
        assert first.kept.items == second.kept.items


@pytest.mark.parametrize(
    ("components", "text"),
    [({}, "is not there"), ({"here": ("configuration.redis", None)}, "is configuration.redis")],
)
async def test_a_store_that_cannot_be_a_mirror_is_named(
    mock_clock: MockClock, caplog: pytest.LogCaptureFixture, components: Any, text: str
) -> None:
    shared, link = shared_link()
    async with open_pull(app(components), shared, RESOURCE):
        await wait_all_tasks_blocked()
    assert f"link.yaml:1: CloudLink 'cloud': routes.configuration: the component 'here' of app a {text}" in caplog.text
    assert "name a configuration.sqlite component in `store`" in caplog.text
    assert not link.calls


async def test_a_mirror_that_breaks_takes_nothing_along(
    mock_clock: MockClock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared, _ = shared_link()
    store = Store("/one.db")

    async def broken(route: str) -> Kept:
        raise ZeroDivisionError

    monkeypatch.setattr(store, "mirror", broken)
    async with apps(shared, store):
        assert "configuration of here: an internal error: ZeroDivisionError" in caplog.text
