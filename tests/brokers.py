"""Brokers for tests: a driver opened like the runtime opens it, and an inbox that says what becomes of messages."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from edge_runtime.components.registry import ComponentContext, resolve
from edge_runtime.model.ports import Message, Outcome
from edge_runtime.store.database import Databases, open_databases
from tests.support.sidecar import Program, free_port


@asynccontextmanager
async def open_broker(
    state_dir: Path,
    driver: str = "pubsub.sqlite",
    *,
    databases: Databases | None = None,
    component: str = "pubsub",
    outbox: Any = None,
    **metadata: str,
) -> AsyncIterator[Any]:
    """The driver. With no `databases` of its own process it has them to itself, as another process would."""
    if databases is None:
        async with open_databases() as own:
            async with open_broker(
                state_dir, driver, databases=own, component=component, outbox=outbox, **metadata
            ) as broker:
                yield broker
        return
    context = ComponentContext(component, driver, "v1", metadata, "app", "", databases, str(state_dir), outbox=outbox)
    async with resolve(driver)(context) as broker:
        yield broker


class Mosquitto:
    """A real MQTT broker on a loopback port of its own. Its sessions outlive it when it is started again."""

    def __init__(self, directory: Path, *lines: str, port: int = 0) -> None:
        """`lines` are added to the listener's part of the configuration."""
        self.port = port or free_port()
        self._config = directory / "mosquitto.conf"
        directory.mkdir(parents=True, exist_ok=True)
        self._config.write_text(
            "\n".join(
                (
                    "log_dest stderr",
                    "log_type all",
                    "persistence true",
                    f"persistence_location {directory}/",
                    *(() if any(line.startswith("allow_anonymous") for line in lines) else ("allow_anonymous true",)),
                    *(() if any(line.startswith("user ") for line in lines) else ("user root",)),
                    f"listener {self.port} 127.0.0.1",
                    *lines,
                    "",
                )
            )
        )
        self._process: Program | None = None

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    @property
    def process(self) -> Program:
        assert self._process is not None
        return self._process

    def start(self) -> Mosquitto:
        self._process = Program([_mosquitto(), "-c", str(self._config)])
        self._process.wait_line("running")
        return self

    def stop(self) -> None:
        """SIGTERM: it writes down its sessions."""
        self.process.stop()

    def kill(self) -> None:
        self.process.kill()

    async def said(self, text: str, count: int = 1) -> None:
        """Until so many lines of its log have the text."""
        await until(lambda: sum(text in line for line in self.process.lines) >= count)

    def __enter__(self) -> Mosquitto:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.process.__exit__(None, None, None)


def _mosquitto() -> str:
    found = shutil.which("mosquitto") or shutil.which("/usr/sbin/mosquitto")
    if found is None:
        pytest.skip("mosquitto is not installed: run `apt-get install mosquitto`, or tools/test")
    return found


class Inbox:
    """A handler that keeps what it got, and answers as `outcomes` say: ACK once they are used up."""

    def __init__(self, outcomes: Iterable[Outcome] = (), decide: Callable[[Message], Outcome] | None = None) -> None:
        self.messages: list[Message] = []
        self.busy = 0
        self.busy_most = 0
        self._outcomes = iter(outcomes)
        self._decide = decide
        self._changed = trio.Event()
        self.gate: trio.Event | None = None  # while unset, handlers wait in it

    @property
    def data(self) -> list[bytes]:
        return [message.data for message in self.messages]

    async def __call__(self, message: Message) -> Outcome:
        self.messages.append(message)
        self.busy += 1
        self.busy_most = max(self.busy_most, self.busy)
        self._changed.set()
        try:
            if self.gate is not None:
                await self.gate.wait()
            else:
                await trio.lowlevel.checkpoint()
        finally:
            self.busy -= 1
        if self._decide is not None:
            return self._decide(message)
        return next(self._outcomes, Outcome.ACK)

    async def wait_for(self, count: int) -> None:
        """Until `count` messages have come."""
        while len(self.messages) < count:
            self._changed = trio.Event()
            await self._changed.wait()

    async def wait_for_all(self, data: Iterable[bytes]) -> None:
        """Until each of `data` has come at least once."""
        missing = set(data)
        while not missing <= set(self.data):
            self._changed = trio.Event()
            await self._changed.wait()


async def until(condition: Callable[[], Any], pause_s: float = 0.01) -> Any:
    """The first true answer of `condition`; for what shows in the file alone."""
    while not (answer := condition()):  # noqa: ASYNC110 - nobody says when a file has changed
        await trio.sleep(pause_s)
    return answer
