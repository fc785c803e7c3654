"""Streaming subscriptions on the real process: replies, clients that vanish, stops and reloads."""

from __future__ import annotations

import json
import random
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, ResourceInfo
from google.rpc.status_pb2 import Status
from h2.connection import H2Connection
from h2.events import RemoteSettingsChanged

from tests.support.resources import broker, component, resiliency, resources_flags, write
from tests.support.sidecar import SERVING, Program, Sidecar, free_port
from tests.support.topic_stream import DROP, RETRY, TopicStream, begin, done, subscribed

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
both_brokers = pytest.mark.parametrize("pubsub", ["pubsub", "memory"])


@pytest.fixture(scope="module")
def sidecar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    directory = tmp_path_factory.mktemp("streams")
    retried = {"retries": {"twice": {"policy": "constant", "duration": "10ms", "maxRetries": 1}}}
    write(
        directory / "r",
        "all.yaml",
        broker(),
        broker("retried"),
        component("memory", "pubsub.in-memory"),
        component("scoped", "pubsub.in-memory", {"subscriptionScopes": "app=mine"}),
    )
    policy = resiliency("r", retried, {"components": {"retried": {"inbound": {"retry": "twice"}}}})
    write(directory / "r", "resiliency.yaml", policy)
    with Sidecar(directory, *resources_flags(directory / "r")) as sidecar:
        yield sidecar
        assert sidecar.stop() == 0


def publish(sidecar: Sidecar, topic: str, *data: Any, pubsub: str = "pubsub", query: str = "") -> None:
    for item in data:
        body = item if isinstance(item, bytes) else json.dumps(item).encode()
        path = f"/v1.0/publish/{pubsub}/{topic}{query}"
        assert sidecar.http("POST", path, body, {"content-type": "application/json"}).status == 204


def numbers(events: list[Any]) -> list[int]:
    return [json.loads(event.data) for event in events]


# --- events and replies -----------------------------------------------------------------------------------------------


@both_brokers
def test_an_event_comes_and_is_done(sidecar: Sidecar, pubsub: str) -> None:
    with subscribed(sidecar.grpc_port, "one", pubsub=pubsub) as stream:
        publish(sidecar, "one", {"exact": 9007199254740993}, pubsub=pubsub)
        event = stream.event()
        assert (event.topic, event.pubsub_name, event.path, event.type) == ("one", pubsub, "/", "com.dapr.event.sent")
        assert event.data == b'{"exact":9007199254740993}'
        assert event.extensions["topic"] == "one"
        rows = sidecar.http("GET", "/v1.0/metadata").json()["subscriptions"]
        assert [row["type"] for row in rows if row["topic"] == "one" and row["pubsubname"] == pubsub] == ["STREAMING"]
        stream.answer(event)
        publish(sidecar, "one", 2, pubsub=pubsub)
        assert numbers([stream.event()]) == [2]


def test_many_are_in_flight_and_answered_in_any_order(sidecar: Sidecar) -> None:
    with subscribed(sidecar.grpc_port, "many") as stream:
        publish(sidecar, "many", *range(70))
        first = stream.events(64)  # as many as may be unanswered
        for event in reversed(first):
            stream.send(done("nobody's"))
            stream.answer(event)
        assert sorted(numbers(first) + numbers(stream.events(6))) == list(range(70))


def test_one_id_is_with_the_client_once(sidecar: Sidecar) -> None:
    with subscribed(sidecar.grpc_port, "twins") as stream:
        for number in (1, 2):
            publish(sidecar, "twins", number, query="?metadata.cloudevent.id=same")
        first = stream.event()
        stream.answer(first)
        second = stream.event()
        assert sorted(numbers([first, second])) == [1, 2]
        stream.answer(second)
        publish(sidecar, "twins", 3)
        assert numbers([stream.event()]) == [3]


def test_retry_and_drop_do_what_they_say(sidecar: Sidecar) -> None:
    with subscribed(sidecar.grpc_port, "said") as stream:
        publish(sidecar, "said", 1)
        stream.answer(stream.event(), RETRY)
        again = stream.event()
        assert numbers([again]) == [1]
        stream.answer(again, 77)  # a status that nobody knows
        again = stream.event()
        stream.answer(again, DROP)
        publish(sidecar, "said", 2)
        assert numbers([stream.event()]) == [2]


@pytest.mark.parametrize("status", [RETRY, DROP])
def test_dead_letters_go_to_their_topic(sidecar: Sidecar, status: int) -> None:
    topic, dead = f"poison-{status}", f"dead-{status}"
    with (
        subscribed(sidecar.grpc_port, topic, dead=dead) as stream,
        subscribed(sidecar.grpc_port, dead) as graveyard,
    ):
        publish(sidecar, topic, 1)
        stream.answer(stream.event(), status)
        buried = graveyard.event()
        assert (buried.topic, buried.extensions["topic"], buried.data) == (dead, topic, b"1")
        graveyard.answer(buried)


def test_the_inbound_policy_tries_again(sidecar: Sidecar) -> None:
    with (
        subscribed(sidecar.grpc_port, "again", pubsub="retried", dead="given-up") as stream,
        subscribed(sidecar.grpc_port, "given-up", pubsub="retried") as graveyard,
    ):
        publish(sidecar, "again", 1, pubsub="retried")
        for _ in range(2):
            stream.answer(stream.event(), RETRY)
        assert numbers([graveyard.event()]) == [1]


def test_raw_payloads_are_wrapped(sidecar: Sidecar) -> None:
    with subscribed(sidecar.grpc_port, "raw", metadata={"rawPayload": "true"}) as stream:
        publish(sidecar, "raw", b"\x00\xffbytes", query="?metadata.rawPayload=true")
        event = stream.event()
        assert (event.data, event.data_content_type) == (b"\x00\xffbytes", "application/octet-stream")
        stream.answer(event)


# --- refusals ---------------------------------------------------------------------------------------------------------


def refusal(sidecar: Sidecar, *messages: Any) -> tuple[grpc.StatusCode, str, list[Any]]:
    with TopicStream(sidecar.grpc_port, *messages) as stream:
        error: Any = stream.end()
        trailers = dict(error.trailing_metadata())
        details = Status.FromString(trailers.get("grpc-status-details-bin", b"")).details
        return error.code(), error.details(), list(details)


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ((done("1"),), "initial request is required"),
        ((begin("t", pubsub=""),), "pubsubName is required"),
        ((begin(""),), "topic is required"),
        ((begin("twice"), begin("twice")), "duplicate initial request received"),
        ((begin("other", pubsub="scoped"),), "subscription to topic 'other' on pubsub 'scoped' is not allowed"),
    ],
)
def test_a_bad_beginning_is_refused(sidecar: Sidecar, messages: tuple[Any, ...], text: str) -> None:
    assert refusal(sidecar, *messages) == (grpc.StatusCode.UNKNOWN, text, [])


def test_an_unknown_component_is_a_rich_error(sidecar: Sidecar) -> None:
    code, text, details = refusal(sidecar, begin("t", pubsub="nowhere"))
    assert (code, text) == (grpc.StatusCode.INVALID_ARGUMENT, "pubsub nowhere is not found")
    [info] = [ErrorInfo.FromString(item.value) for item in details if item.Is(ErrorInfo.DESCRIPTOR)]
    assert (info.domain, info.reason) == ("dapr.io", "DAPR_PUBSUB_NOT_FOUND")
    assert not any(item.Is(ResourceInfo.DESCRIPTOR) for item in details)


# --- clients that leave -----------------------------------------------------------------------------------------------


def leave(stream: TopicStream, how: str) -> None:
    {"cancel": stream.cancel, "half-close": stream.half_close, "disconnect": stream.close}[how]()


@pytest.mark.parametrize("how", ["cancel", "half-close", "disconnect"])
@both_brokers
def test_unanswered_events_go_to_another_stream(sidecar: Sidecar, how: str, pubsub: str) -> None:
    topic = f"left-{how}"
    with subscribed(sidecar.grpc_port, topic, pubsub=pubsub) as leaving:
        publish(sidecar, topic, 1, pubsub=pubsub)
        assert numbers([leaving.event()]) == [1]
        with subscribed(sidecar.grpc_port, topic, pubsub=pubsub) as staying:
            leave(leaving, how)
            event = staying.event()
            assert numbers([event]) == [1]
            staying.answer(event)


@pytest.mark.parametrize("how", ["cancel", "half-close", "disconnect"])
def test_unanswered_events_come_back_after_a_reconnect(sidecar: Sidecar, how: str) -> None:
    topic = f"back-{how}"
    publish(sidecar, topic, *range(20))
    with subscribed(sidecar.grpc_port, topic) as stream:
        seen = stream.events(20)
        for event in seen[:5]:
            stream.answer(event)
        publish(sidecar, topic, 20)
        assert numbers([stream.event()]) == [20]
        leave(stream, how)
    with subscribed(sidecar.grpc_port, topic) as stream:
        # Who cancels may take answers back that were on their way; then these come again too.
        missing = set(range(21)) - set(numbers(seen[:5]))
        while missing:
            event = stream.event()
            missing -= set(numbers([event]))
            stream.answer(event)


def test_what_was_answered_before_a_half_close_is_done(sidecar: Sidecar) -> None:
    """Client after client takes some, answers a few of them in any order and leaves: nothing is lost or done twice."""
    chance = random.Random(7)
    publish(sidecar, "relay", *range(300))
    answered: list[int] = []
    while len(answered) < 300:
        with subscribed(sidecar.grpc_port, "relay") as stream:
            seen = stream.events(min(chance.randint(1, 40), 300 - len(answered)))
            chosen = chance.sample(seen, chance.randint(1, len(seen)))
            for event in chosen:
                stream.answer(event)
            stream.half_close()
            stream.end()
            answered += numbers(chosen)
    assert sorted(answered) == list(range(300))


def test_a_half_close_ends_as_dapr_ends_it(sidecar: Sidecar) -> None:
    with subscribed(sidecar.grpc_port, "ended") as stream:
        stream.half_close()
        error: Any = stream.end()
        assert (error.code(), error.details()) == (grpc.StatusCode.UNKNOWN, "EOF")
    assert "ended" not in str(sidecar.http("GET", "/v1.0/metadata").json().get("subscriptions"))


def test_a_killed_client_loses_nothing(sidecar: Sidecar) -> None:
    publish(sidecar, "killed", *range(100))
    seen: list[int] = []
    for answered in (10, 20):
        command = [sys.executable, "-m", "tests.support.topic_stream", str(sidecar.grpc_port), "killed", str(answered)]
        with Program(command, directory=ROOT) as client:
            for _ in range(answered + 5):  # all that it has answered, and some that it has not
                seen.append(int(client.wait_line("")))
            client.kill()
    with subscribed(sidecar.grpc_port, "killed") as stream:
        left: set[int] = set()
        while left | set(seen) != set(range(100)) or len(left) < 70:
            event = stream.event()
            left.add(json.loads(event.data))
            stream.answer(event)


def test_who_does_not_read_loses_nothing(sidecar: Sidecar) -> None:
    text = "x" * 100_000
    with subscribed(sidecar.grpc_port, "slow") as slow, subscribed(sidecar.grpc_port, "quick") as quick:
        publish(sidecar, "slow", *(f"{number} {text}" for number in range(100)))
        publish(sidecar, "quick", 1)
        assert numbers([quick.event()]) == [1]  # others are not held up
        came = []
        for _ in range(100):
            event = slow.event()
            slow.answer(event)
            came.append(int(json.loads(event.data).partition(" ")[0]))
        assert sorted(came) == list(range(100))


# --- the app, stops and reloads ---------------------------------------------------------------------------------------


def test_streams_wait_for_no_app(tmp_path: Path) -> None:
    checks = ("--enable-app-health-check", "--app-protocol", "grpc")
    with Sidecar(tmp_path, *checks, app_port=free_port(), ready=SERVING) as sidecar:
        with subscribed(sidecar.grpc_port, "t") as stream:
            publish(sidecar, "t", 1)
            assert numbers([stream.event()]) == [1]
        assert sidecar.http("GET", "/v1.0/healthz").status == 500


def test_a_stop_waits_for_the_reply(tmp_path: Path) -> None:
    write(tmp_path / "r", "a.yaml", broker())
    with Sidecar(tmp_path, *resources_flags(tmp_path / "r")) as sidecar:
        with subscribed(sidecar.grpc_port, "t") as stream:
            publish(sidecar, "t", 1)
            event = stream.event()
            sidecar.signal(signal.SIGTERM)
            sidecar.wait_line("Dapr is shutting down")
            stream.answer(event)
            error: Any = stream.end()
            assert (error.code(), error.details()) == (grpc.StatusCode.UNKNOWN, "stream closed")
            assert sidecar.wait() == 0
    with Sidecar(tmp_path, *resources_flags(tmp_path / "r")) as sidecar:
        publish(sidecar, "t", 2)
        with subscribed(sidecar.grpc_port, "t") as stream:
            assert numbers([stream.event()]) == [2]  # the first was done


def test_a_killed_process_delivers_again(tmp_path: Path) -> None:
    write(tmp_path / "r", "a.yaml", broker())
    with Sidecar(tmp_path, *resources_flags(tmp_path / "r")) as sidecar:
        with subscribed(sidecar.grpc_port, "t") as stream:
            publish(sidecar, "t", 1)
            assert numbers([stream.event()]) == [1]
            sidecar.kill()
            stream.end()
    with Sidecar(tmp_path, *resources_flags(tmp_path / "r")) as sidecar:
        with subscribed(sidecar.grpc_port, "t") as stream:
            assert numbers([stream.event()]) == [1]


def test_a_reload_makes_clients_come_again(tmp_path: Path) -> None:
    write(tmp_path / "r", "a.yaml", broker())
    with Sidecar(tmp_path, *resources_flags(tmp_path / "r")) as sidecar:
        with subscribed(sidecar.grpc_port, "t") as stream:
            publish(sidecar, "t", 1, 2)
            first, second = stream.events(2)
            write(tmp_path / "r", "b.yaml", broker("more"))
            sidecar.signal(signal.SIGHUP)
            sidecar.wait_line("Going over to the new files")
            publish(sidecar, "t", 3)  # not sent on this stream any more
            stream.answer(second)
            stream.answer(first, RETRY)
            error: Any = stream.end()
            assert (error.code(), error.details()) == (grpc.StatusCode.UNKNOWN, "stream closed")
        with subscribed(sidecar.grpc_port, "t") as stream, subscribed(sidecar.grpc_port, "t", pubsub="more"):
            events = stream.events(2)
            assert sorted(numbers(events)) == sorted([3, *numbers([first])])
        assert sidecar.stop() == 0


def test_flags_set_the_limits(tmp_path: Path) -> None:
    flags = ("--subscription-streams", "1", "--subscription-stream-events", "2", "--grpc-calls-per-connection", "3")
    with Sidecar(tmp_path, *flags) as sidecar, subscribed(sidecar.grpc_port, "one") as stream:
        with TopicStream(sidecar.grpc_port, begin("two")) as refused:
            error: Any = refused.end()
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "--subscription-streams" in error.details()
        publish(sidecar, "one", *range(5))
        for _ in range(2):
            first, second = stream.events(2)
            stream.answer(second)
            stream.answer(first)
        assert numbers([stream.event()]) == [4]
        assert announced_streams(sidecar.grpc_port) == 3
        assert sidecar.stop() == 0


def announced_streams(port: int) -> int | None:
    """How many streams the server says that a connection may have."""
    connection = H2Connection()
    connection.initiate_connection()
    with socket.create_connection(("127.0.0.1", port), 30) as sock:
        sock.sendall(connection.data_to_send())
        while not any(isinstance(event, RemoteSettingsChanged) for event in connection.receive_data(sock.recv(65536))):
            pass
    return connection.remote_settings.max_concurrent_streams
