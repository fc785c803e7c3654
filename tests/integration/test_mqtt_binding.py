"""bindings.mqtt3 against a real mosquitto."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from edge_runtime.model.errors import BadMetadata, ConfigError, DriverError, NotSupported
from edge_runtime.store.database import open_databases
from tests.brokers import Inbox, Mosquitto, open_broker
from tests.support.cable import open_cable
from tests.support.sidecar import free_port

pytestmark = pytest.mark.slow


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path / "broker") as running:
        yield running


@asynccontextmanager
async def opened(tmp_path: Path, mosquitto: Mosquitto, **metadata: str) -> AsyncIterator[Any]:
    fields = {"url": mosquitto.url, "topic": "commands", "consumerID": "gateway", **metadata}
    async with open_broker(tmp_path, "bindings.mqtt3", **fields) as binding:
        yield binding


class App:
    """Takes events after it has refused so many."""

    def __init__(self, refusals: int = 0) -> None:
        self.events: list[tuple[bytes, Mapping[str, str]]] = []
        self._refusals = refusals
        self._changed = trio.Event()

    async def __call__(self, data: bytes, metadata: Mapping[str, str]) -> bytes | None:
        self.events.append((data, metadata))
        self._changed.set()
        await trio.lowlevel.checkpoint()
        if len(self.events) <= self._refusals:
            raise DriverError("not now")
        return None

    async def wait_for(self, count: int) -> None:
        while len(self.events) < count:
            self._changed = trio.Event()
            await self._changed.wait()


async def test_what_is_created_is_read(tmp_path: Path, mosquitto: Mosquitto, nursery: trio.Nursery) -> None:
    app = App()
    async with opened(tmp_path, mosquitto, topic="commands/#") as binding, trio.open_nursery() as reading:
        await reading.start(binding.read, app)
        assert not any("gateway-producer" in line for line in mosquitto.process.lines)
        answer = await binding.invoke("create", b"on", {"topic": "commands/lamp"})
        await app.wait_for(1)
        reading.cancel_scope.cancel()
    assert (answer.data, answer.metadata) == (None, {})
    assert app.events == [(b"on", {"topic": "commands/lamp"})]
    connected = [line for line in mosquitto.process.lines if "New client connected" in line]
    assert ["gateway-consumer" in line or "gateway-producer" in line for line in connected] == [True, True]


async def test_refused_events_come_again(tmp_path: Path, mosquitto: Mosquitto) -> None:
    app = App(refusals=3)
    fields = {"backOffMaxRetries": "1", "retryInterval": "1ms", "redeliverInterval": "1ms"}
    async with opened(tmp_path, mosquitto, **fields) as binding, trio.open_nursery() as reading:
        await reading.start(binding.read, app)
        await binding.invoke("create", b"on", {})
        await app.wait_for(4)
        await mosquitto.said("Received PUBACK from gateway-consumer")
        reading.cancel_scope.cancel()


async def test_negative_retries_never_end(tmp_path: Path, mosquitto: Mosquitto) -> None:
    """The broker's message stays in hand all the while, and nothing is acknowledged."""
    app = App(refusals=20)
    fields = {"backOffMaxRetries": "-1", "retryInterval": "1ms", "redeliverInterval": "1h"}
    async with opened(tmp_path, mosquitto, **fields) as binding, trio.open_nursery() as reading:
        await reading.start(binding.read, app)
        await binding.invoke("create", b"on", {})
        await app.wait_for(20)
        assert "Received PUBACK from gateway-consumer" not in mosquitto.process.said
        await app.wait_for(21)
        await mosquitto.said("Received PUBACK from gateway-consumer")
        reading.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("field", "metadata", "kept"),
    [("false", {}, False), ("false", {"retain": "true"}, True), ("true", {}, True), ("true", {"Retain": "0"}, False)],
)
async def test_the_broker_keeps_what_is_retained(
    tmp_path: Path, mosquitto: Mosquitto, field: str, metadata: dict[str, str], kept: bool
) -> None:
    inbox = Inbox()
    async with opened(tmp_path, mosquitto, retain=field) as binding:
        await binding.invoke("create", b"on", metadata)
    async with open_broker(tmp_path, "pubsub.mqtt3", url=mosquitto.url) as broker, trio.open_nursery() as nursery:
        await nursery.start(broker.subscribe, "#", "app", {}, inbox)
        await broker.publish("end", b"end", {})
        await inbox.wait_for_all([b"end"])
        nursery.cancel_scope.cancel()
    retained = [message for message in inbox.messages if message.metadata["retained"] == "true"]
    assert [message.data for message in retained] == [b"on"] * kept


@pytest.mark.parametrize(("clean", "expected"), [("false", [b"1", b"2"]), ("true", [b"2"])])
async def test_a_clean_session_forgets(tmp_path: Path, mosquitto: Mosquitto, clean: str, expected: list[bytes]) -> None:
    """What is published while the reader's process is gone."""
    async with opened(tmp_path, mosquitto, cleanSession=clean) as binding, trio.open_nursery() as reading:
        await reading.start(binding.read, App())
        reading.cancel_scope.cancel()
    app = App()
    async with opened(tmp_path, mosquitto, cleanSession=clean) as binding, trio.open_nursery() as reading:
        await binding.invoke("create", b"1", {})
        await reading.start(binding.read, app)
        await binding.invoke("create", b"2", {})
        await app.wait_for(len(expected))
        reading.cancel_scope.cancel()
    assert sorted(data for data, _ in app.events) == expected


async def test_a_lost_answer_is_asked_for_again(tmp_path: Path, mosquitto: Mosquitto) -> None:
    """The cable is cut under a create: the connection is made again, and the create done, before it gives up."""
    async with open_cable(mosquitto.port) as cable:
        url = f"mqtt://127.0.0.1:{cable.port}"
        async with opened(tmp_path, mosquitto, url=url) as binding:
            await binding.invoke("create", b"1", {})
            cable.cut()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(binding.invoke, "create", b"2", {})
                await trio.testing.wait_all_tasks_blocked()
                cable.mend()
                await cable.drop()
            await mosquitto.said("Sending PUBACK to gateway-producer", 2)
        assert cable.connections == 2


async def test_a_will_has_each_sides_own_loss(tmp_path: Path, mosquitto: Mosquitto) -> None:
    inbox = Inbox()
    will = {"willTopic": "gone", "willPayload": "bang", "willQos": "1"}
    async with open_broker(tmp_path, "pubsub.mqtt3", url=mosquitto.url) as watcher, trio.open_nursery() as nursery:
        await nursery.start(watcher.subscribe, "gone", "app", {}, inbox)
        async with open_cable(mosquitto.port) as cable:
            async with opened(tmp_path, mosquitto, url=f"mqtt://127.0.0.1:{cable.port}", **will) as binding:
                await binding.invoke("create", b"1", {})
                await cable.drop()
                await inbox.wait_for(1)
        nursery.cancel_scope.cancel()
    assert inbox.data == [b"bang"]


async def test_unread_events_wait_for_the_reader(tmp_path: Path, mosquitto: Mosquitto) -> None:
    async with opened(tmp_path, mosquitto) as binding:
        for expected in (b"1", b"2"):
            app = App()
            if expected == b"2":
                await binding.invoke("create", expected, {})
            async with trio.open_nursery() as reading:
                await reading.start(binding.read, app)
                if expected == b"1":
                    await binding.invoke("create", expected, {})
                await app.wait_for(1)
                await trio.testing.wait_all_tasks_blocked()
                reading.cancel_scope.cancel()
            assert app.events == [(expected, {"topic": "commands"})]


async def test_requests_are_checked(tmp_path: Path, mosquitto: Mosquitto) -> None:
    async with opened(tmp_path, mosquitto) as binding:
        assert binding.operations == ("create",)
        with pytest.raises(NotSupported, match="expected create"):
            await binding.invoke("get", b"", {})
        with pytest.raises(BadMetadata, match="neither"):
            await binding.invoke("create", b"", {"topic": "a/#"})
        with pytest.raises(BadMetadata, match="'retain' is 'maybe'"):
            await binding.invoke("create", b"", {"retain": "maybe"})


async def test_an_absent_broker_is_told(tmp_path: Path) -> None:
    fields = {"url": f"mqtt://127.0.0.1:{free_port()}", "topic": "a", "consumerID": "me", "publishTimeout": "100ms"}
    async with open_broker(tmp_path, "bindings.mqtt3", **fields) as binding:
        with pytest.raises(DriverError, match="not connected to broker"):
            await binding.invoke("create", b"", {})


@pytest.mark.parametrize("missing", ["url", "topic", "consumerID"])
async def test_required_fields_are_told(tmp_path: Path, missing: str) -> None:
    fields = {"url": "mqtt://127.0.0.1:1", "topic": "a", "consumerID": "me"}
    del fields[missing]
    async with open_databases() as databases:
        with pytest.raises(ConfigError, match=f"metadata '{missing}' is required"):
            async with open_broker(tmp_path, "bindings.mqtt3", databases=databases, **fields):
                pass
