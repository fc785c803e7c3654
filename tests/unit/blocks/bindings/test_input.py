"""Input bindings: when they are read, how they pause and stop, and what the driver is told."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from edge_runtime.blocks.bindings.input import DRAIN_LIMIT_S, SETTLE_S, InputBindings
from edge_runtime.model.errors import DriverError
from edge_runtime.observability.metrics import Metrics, render
from tests.unit.blocks.bindings.fakes import FakeBindingApp, FakeInput, policies, reading


@asynccontextmanager
async def running(inputs: InputBindings) -> AsyncIterator[Callable[[], None]]:
    """The bindings while they run; what is given stops them. At the end they have stopped."""
    scope = trio.CancelScope()

    async def run() -> None:
        with scope:
            await inputs.run()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await wait_all_tasks_blocked()
        yield scope.cancel
        scope.cancel()


def block(driver: FakeInput, app: FakeBindingApp, metrics: Metrics | None = None, **targets: str) -> InputBindings:
    return InputBindings([reading(driver)], app, policies(**targets), metrics or Metrics("app"), "ns")


async def test_an_event_reaches_the_app_and_its_answer_the_driver() -> None:
    driver, app = FakeInput(), FakeBindingApp(b"thanks")
    async with running(block(driver, app)):
        assert await driver.push(b"ring", {"k": "v"}) == b"thanks"
    ((event, strict),) = app.came
    assert event == ("b", "route-b", b"ring", {"k": "v"})
    assert not strict
    assert app.asked == ["route-b"]


async def test_what_the_app_does_not_take_is_not_read() -> None:
    driver = FakeInput()
    async with running(block(driver, FakeBindingApp(wanted=()))):
        assert not driver.begun


async def test_an_explicit_binding_is_not_asked_for() -> None:
    driver, app = FakeInput(), FakeBindingApp(wanted=())
    inputs = InputBindings([reading(driver, explicit=True)], app, policies(), Metrics())
    async with running(inputs):
        assert driver.readers == 1
    assert not app.asked


async def test_without_an_app_nothing_is_read() -> None:
    driver = FakeInput()
    inputs = InputBindings([reading(driver)], None, policies(), Metrics())
    async with running(inputs):
        assert not driver.begun


async def test_an_app_that_is_away_is_asked_again(autojump_clock: MockClock) -> None:
    driver, app = FakeInput(), FakeBindingApp()
    app.away = 2
    async with running(block(driver, app)):
        await trio.sleep(2)
        assert driver.readers == 1
    assert len(app.asked) == 3


async def test_a_driver_that_breaks_is_read_again(autojump_clock: MockClock) -> None:
    driver = FakeInput(DriverError("broken"), RuntimeError("worse"))
    async with running(block(driver, FakeBindingApp())):
        await trio.sleep(2)
        assert (driver.begun, driver.readers) == (3, 1)


async def test_what_the_app_refuses_is_the_drivers_to_redeliver() -> None:
    driver, app = FakeInput(), FakeBindingApp(DriverError("no"))
    async with running(block(driver, app)):
        with pytest.raises(DriverError, match="no"):
            await driver.push(b"ring")


async def test_a_policy_tries_again_and_is_strict(autojump_clock: MockClock) -> None:
    driver, app = FakeInput(), FakeBindingApp(DriverError("no"), b"yes")
    async with running(block(driver, app, b="inbound")):
        assert await driver.push(b"ring") == b"yes"
    assert [strict for _, strict in app.came] == [True, True]


async def test_a_pause_ends_reading_and_asks_anew() -> None:
    driver, app = FakeInput(), FakeBindingApp()
    inputs = block(driver, app)
    async with running(inputs):
        inputs.pause()
        await wait_all_tasks_blocked()
        assert driver.readers == 0
        inputs.resume()
        await wait_all_tasks_blocked()
        assert driver.readers == 1
    assert len(app.asked) == 2


async def test_a_stop_waits_for_the_handler_and_a_moment(autojump_clock: MockClock) -> None:
    driver, app = FakeInput(), FakeBindingApp(b"done")
    app.hold = trio.Event()
    answers: list[bytes | None] = []

    async def push() -> None:
        answers.append(await driver.push(b"ring"))

    async with trio.open_nursery() as nursery:
        async with running(block(driver, app)) as stop:
            nursery.start_soon(push)
            await wait_all_tasks_blocked()
            stop()
            await wait_all_tasks_blocked()
            assert driver.readers == 1
            app.hold.set()
            began = trio.current_time()
    assert answers == [b"done"]
    assert driver.readers == 0
    assert trio.current_time() - began == pytest.approx(SETTLE_S)


async def test_a_handler_that_never_ends_does_not_hold_the_stop(autojump_clock: MockClock) -> None:
    driver, app = FakeInput(), FakeBindingApp()
    app.hold = trio.Event()
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        async with running(block(driver, app)):
            nursery.start_soon(driver.push, b"ring")
            await wait_all_tasks_blocked()
        assert trio.current_time() - began == pytest.approx(DRAIN_LIMIT_S + SETTLE_S)
        nursery.cancel_scope.cancel()


async def test_an_event_during_the_stop_is_neither_taken_nor_refused(autojump_clock: MockClock) -> None:
    driver, app = FakeInput(), FakeBindingApp()
    app.hold = trio.Event()
    async with trio.open_nursery() as nursery:
        async with running(block(driver, app)) as stop:
            nursery.start_soon(driver.push, b"first")
            await wait_all_tasks_blocked()
            stop()
            await wait_all_tasks_blocked()
            nursery.start_soon(driver.push, b"second")
            await wait_all_tasks_blocked()
            app.hold.set()
        assert [event.data for event, _ in app.came] == [b"first"]
        nursery.cancel_scope.cancel()


async def test_events_are_counted() -> None:
    metrics = Metrics("app")
    driver, app = FakeInput(), FakeBindingApp(b"", DriverError("no"))
    async with running(block(driver, app, metrics)):
        await driver.push(b"1")
        with pytest.raises(DriverError):
            await driver.push(b"2")
    lines = [line for line in render([metrics]).splitlines() if "input_binding_count{" in line]
    labels = 'app_id="app",component="b",namespace="ns"'
    assert lines == [
        f'dapr_component_input_binding_count{{{labels},success="true"}} 1',
        f'dapr_component_input_binding_count{{{labels},success="false"}} 1',
    ]
