"""What waits while a broker is away, seen and changed over the API and from the command line."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.brokers import Inbox, Mosquitto, open_broker, until
from tests.integration.cli import Run, ask
from tests.support.resources import component, write
from tests.support.sidecar import Answer, free_port, request

pytestmark = pytest.mark.slow

ROUTE = "pubsub.mqtt3/outbox-app/pubsub"
UP = "You're up and running!"


class Node:
    """`edge-runtime run` for one app, on the state of the test's directory."""

    def __init__(self, place: Path, *flags: str, variables: dict[str, str] | None = None) -> None:
        self.port = free_port()
        words = ("run", "-a", "outbox-app", "-H", str(self.port), "--resources-path", str(place / "resources"), *flags)
        self.run = Run(place, *words, variables=variables)
        self.run.wait_line(UP)

    def __enter__(self) -> Node:
        return self

    def __exit__(self, *error: object) -> None:
        self.run.__exit__(None, None, None)

    def publish(self, number: int) -> None:
        path = "/v1.0/publish/pubsub/a?metadata.rawPayload=true"
        headers = {"content-type": "application/octet-stream"}
        assert request(self.port, "POST", path, b"%d" % number, headers).status == 204

    def get(self, path: str = "", headers: dict[str, str] | None = None) -> Answer:
        return request(self.port, "GET", f"/edge/v1/outbox{path}", headers=headers)

    def route(self) -> dict[str, Any]:
        routes: list[dict[str, Any]] = self.get().json()["routes"]
        (route,) = routes
        return route


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    broker = Mosquitto(tmp_path / "broker")
    fields = {"url": broker.url, "consumerID": "publisher", "reconnectIntervalMax": "500ms"}
    write(tmp_path / "resources", "pubsub.yaml", component("pubsub", "pubsub.mqtt3", fields))
    with broker:
        yield broker


def told(place: Path, *words: str) -> Any:
    """What a command answers as JSON."""
    done = ask(place, "outbox", *words, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def exported(place: Path, *words: str) -> list[dict[str, Any]]:
    done = ask(place, "outbox", "export", *words)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def numbers(entries: list[dict[str, Any]]) -> list[int]:
    return [int(entry["payload"]["data"]) for entry in entries]


@asynccontextmanager
async def subscribed(place: Path, mosquitto: Mosquitto, inbox: Inbox) -> AsyncIterator[None]:
    async with (
        open_broker(place / "subscriber", "pubsub.mqtt3", url=mosquitto.url) as broker,
        trio.open_nursery() as nursery,
    ):
        await nursery.start(broker.subscribe, "a", "app", {"order": "strict"}, inbox)
        yield
        nursery.cancel_scope.cancel()


async def test_what_waits_is_seen_until_it_arrives(tmp_path: Path, mosquitto: Mosquitto) -> None:
    """A hundred in one life of the node; one of them is dropped in the next, and the others are sent."""
    app = ("--app-id", "outbox-app")
    inbox = Inbox()
    async with subscribed(tmp_path, mosquitto, Inbox()):
        pass  # the broker keeps messages for it from now on
    mosquitto.stop()
    with Node(tmp_path) as node:
        for number in range(100):
            node.publish(number)
        route = node.route()
        assert (route["route"], route["link"], route["entries"], route["deadLetters"]) == (ROUTE, "down", 100, 0)
        assert route["bytes"] > 0
        assert route["oldestAgeSeconds"] >= 0
        assert route["reason"]
        assert node.run.stop() == 0

    # The node does not run: its file tells.
    (route,) = told(tmp_path, "list", *app)
    assert (route["link"], route["entries"]) == ("unknown", 100)
    assert [entry["key"] for entry in told(tmp_path, "show", ROUTE, "--limit", "3")["entries"]] == ["a"] * 3
    assert numbers(exported(tmp_path, ROUTE)) == list(range(100))

    with Node(tmp_path) as node:
        (route,) = told(tmp_path, "list", *app)
        assert (route["link"], route["entries"]) == ("down", 100)
        entries = exported(tmp_path, ROUTE, *app)
        assert numbers(entries) == list(range(100))
        assert len({entry["id"] for entry in entries}) == 100
        assert entries[7]["id"].endswith(f"-{entries[7]['sequence']}")
        assert "100" in ask(tmp_path, "outbox", "list", *app).stdout
        assert told(tmp_path, "drop", ROUTE, entries[7]["id"], *app) == {"dropped": 1}
        assert ask(tmp_path, "outbox", "drop", ROUTE, entries[7]["id"], *app).returncode == 1
        page = told(tmp_path, "show", ROUTE, "--after", str(entries[5]["sequence"]), "--limit", "2", *app)
        assert [entry["sequence"] for entry in page["entries"]] == [entries[6]["sequence"], entries[8]["sequence"]]

        mosquitto.start()
        async with subscribed(tmp_path, mosquitto, inbox):
            await inbox.wait_for(99)
            await until(lambda: node.route()["entries"] == 0)
        assert node.route()["link"] == "up"
        assert told(tmp_path, "show", ROUTE, *app)["entries"] == []
        dropped = told(tmp_path, "show", ROUTE, "--dropped", *app)
        assert dropped["dropped"]["discarded"]["entries"] == 1
        (line,) = dropped["lines"]
        assert (line["reason"], line["first"], line["firstKey"]) == ("discarded", entries[7]["sequence"], "a")
    assert [int(data) for data in inbox.data] == [number for number in range(100) if number != 7]


def test_the_token_guards_the_outbox(tmp_path: Path, mosquitto: Mosquitto) -> None:
    with Node(tmp_path, variables={"DAPR_API_TOKEN": "secret"}) as node:
        assert node.get().status == 401
        assert node.get(headers={"dapr-api-token": "secret"}).json()["routes"][0]["link"] == "up"
        done = ask(tmp_path, "outbox", "export", ROUTE, "-a", "outbox-app")
        assert (done.returncode, done.stdout) == (1, "")
        assert "set DAPR_API_TOKEN to the token of the sidecar" in done.stderr


def test_looking_makes_no_outbox(tmp_path: Path) -> None:
    """A store's file is there or not: neither gets an outbox because somebody looks."""
    write(tmp_path / "resources", "state.yaml", component("statestore", "state.in-memory"))
    with Node(tmp_path) as node:
        for _ in range(2):
            assert node.get().json() == {"routes": []}
            answer = node.get("/pubsub.mqtt3%2Foutbox-app%2Fpubsub/entries")
            assert answer.status == 404
            assert answer.json() == {
                "errorCode": "ERR_EDGE_OUTBOX_ROUTE_NOT_FOUND",
                "message": f"outbox route {ROUTE!r} is not found; there is none",
            }
            assert not (tmp_path / "state" / "node.db").exists()
    assert "No outbox routes found." in ask(tmp_path, "outbox", "list").stdout
    done = ask(tmp_path, "outbox", "list", "--state-dir", str(tmp_path / "other"))
    assert done.returncode == 1
    assert "there is no file" in done.stderr
