"""What every binding keeps: its operations, and that a reader ends when it is told to."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest
import trio

from edge_runtime.blocks.bindings import bind_binding
from edge_runtime.components.registry import DRIVERS, ComponentContext, resolve
from edge_runtime.model.errors import DriverError
from edge_runtime.store.database import Databases
from tests.brokers import Mosquitto
from tests.support.app import App


class Driver(NamedTuple):
    """A driver under test. `send` is the request of a `create` that works, None for one that has none."""

    type: str
    open: Callable[[Path], AbstractAsyncContextManager[Any]]
    operations: frozenset[str]
    reads: bool = False
    send: Mapping[str, str] | None = None


@asynccontextmanager
async def component(kind: str, directory: Path, **metadata: str) -> AsyncIterator[Any]:
    databases = cast(Databases, None)  # no binding keeps anything of its own
    context = ComponentContext("b", kind, "v1", metadata, "app", "", databases, str(directory), str(directory))
    async with resolve(kind)(context) as driver:
        yield driver


def files(directory: Path) -> AbstractAsyncContextManager[Any]:
    return component("bindings.localstorage", directory, rootPath="files")


@asynccontextmanager
async def server(directory: Path) -> AsyncIterator[Any]:
    with App({"/": lambda came: (200, b"ok")}) as app:
        async with component("bindings.http", directory, url=f"http://127.0.0.1:{app.port}") as driver:
            yield driver


@asynccontextmanager
async def topic(directory: Path) -> AsyncIterator[Any]:
    broker = Mosquitto(directory / "broker").start()
    try:
        fields = {"url": broker.url, "topic": "t", "consumerID": "c"}
        async with component("bindings.mqtt3", directory, **fields) as driver:
            yield driver
    finally:
        broker.stop()


HTTP = frozenset({"create", "get", "head", "post", "put", "patch", "delete", "options", "trace"})
SUITE = {
    "localstorage": Driver(
        "bindings.localstorage", files, frozenset({"create", "get", "list", "delete"}), send={"fileName": "a"}
    ),
    "http": Driver("bindings.http", server, HTTP, send={}),
    "mqtt3": Driver("bindings.mqtt3", topic, frozenset({"create"}), reads=True, send={}),
}
SLOW = {"mqtt3"}


def those(chosen: Callable[[Driver], bool] = lambda driver: True) -> Any:
    """Runs a test over the drivers that declare what it is about."""
    names = [name for name, driver in SUITE.items() if chosen(driver)]
    marks = {name: [pytest.mark.slow] for name in SLOW}
    params = [pytest.param(name, marks=marks.get(name, [])) for name in names]
    return pytest.mark.parametrize("driver", params, indirect=True)


@pytest.fixture
def driver(request: pytest.FixtureRequest) -> Driver:
    return SUITE[request.param]


@pytest.fixture
async def binding(driver: Driver, tmp_path: Path) -> AsyncIterator[Any]:
    async with driver.open(tmp_path) as opened:
        yield opened


def test_every_driver_is_in_the_suite() -> None:
    listed = {key.rpartition("/")[0] for key in DRIVERS if key.startswith("bindings.")}
    assert listed == {driver.type for driver in SUITE.values()}


@those()
async def test_operations_and_sides_are_as_declared(driver: Driver, binding: Any) -> None:
    bound = bind_binding("b", {}, binding)
    assert (bound.input is not None) == driver.reads
    assert (bound.output is not None) == bool(driver.operations)
    assert driver.operations == set(binding.operations)


@those(lambda driver: driver.send is not None)
async def test_something_can_be_created(driver: Driver, binding: Any) -> None:
    answer = await binding.invoke("create", b'"data"', driver.send)
    assert answer.data is None or isinstance(answer.data, bytes)
    assert all(isinstance(value, str) for value in answer.metadata.values())


@those(lambda driver: {"get", "list", "delete"} <= driver.operations)
async def test_what_is_created_is_found_until_it_is_deleted(driver: Driver, binding: Any) -> None:
    assert driver.send is not None
    await binding.invoke("create", b"\0data", driver.send)
    assert (await binding.invoke("get", b"", driver.send)).data == b"\0data"
    assert len(json.loads((await binding.invoke("list", b"", {})).data)) == 1
    await binding.invoke("delete", b"", driver.send)
    with pytest.raises(DriverError):
        await binding.invoke("get", b"", driver.send)


@those(lambda driver: driver.reads)
async def test_a_reader_gets_events_and_ends(driver: Driver, binding: Any) -> None:
    assert driver.send is not None
    send, came = trio.open_memory_channel[tuple[bytes, Mapping[str, str]]](10)

    async def take(data: bytes, metadata: Mapping[str, str]) -> bytes | None:
        await send.send((data, metadata))
        return None

    for _ in range(2):  # one that has ended can be followed by another
        async with trio.open_nursery() as nursery:
            await nursery.start(lambda *, task_status: binding.read(take, task_status=task_status))
            await binding.invoke("create", b"event", driver.send)
            data, metadata = await came.receive()
            assert data == b"event"
            assert all(isinstance(value, str) for value in metadata.values())
            nursery.cancel_scope.cancel()
