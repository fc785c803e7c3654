"""State on disk, encryption, the transactional outbox, and two processes on one state directory."""

from __future__ import annotations

import base64
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tests.support.app import App
from tests.support.resources import broker, component, resources_flags, subscription, write
from tests.support.sidecar import Sidecar

pytestmark = pytest.mark.slow
FIRST, SECOND = "11" * 16, "22" * 16


def rows(path: Path, sql: str) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def save(sidecar: Sidecar, store: str, **values: Any) -> None:
    items = [{"key": key, "value": value} for key, value in values.items()]
    assert sidecar.http("POST", f"/v1.0/state/{store}", items).status == 204


def test_the_file_has_the_columns_of_dapr(tmp_path: Path) -> None:
    file = tmp_path / "state.db"
    resources = write(tmp_path / "r", "a.yaml", component("s", "state.sqlite", {"connectionString": str(file)}))
    with Sidecar(tmp_path, *resources_flags(resources)) as sidecar:
        save(sidecar, "s", text="x", number=1)
        binary = [{"key": "ttl", "value": 1, "metadata": {"ttlInSeconds": "1000"}}]
        assert sidecar.http("POST", "/v1.0/state/s", binary).status == 204
        columns = [name for _, name, *_ in rows(file, "PRAGMA table_info(state)")]
        assert columns == ["key", "value", "is_binary", "etag", "expiration_time", "update_time"]
        found = {key: (value, flag, expires) for key, value, flag, _, expires, _ in rows(file, "SELECT * FROM state")}
        assert found["app||text"] == ('"x"', 0, None)
        assert found["app||number"] == ("1", 0, None)
        assert found["app||ttl"][2] is not None
        assert sidecar.stop() == 0


def vault(tmp_path: Path, **keys: str) -> dict[str, Any]:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps(keys))
    return component("vault", "secretstores.local.file", {"secretsFile": str(path)})


def sealed(tmp_path: Path, **fields: str) -> dict[str, Any]:
    metadata: dict[str, Any] = {"connectionString": str(tmp_path / "sealed.db")}
    metadata |= {field: {"secretKeyRef": {"name": key}} for field, key in fields.items()}
    return component("s", "state.sqlite", metadata, auth={"secretStore": "vault"})


def test_encryption_and_the_change_of_its_key(tmp_path: Path) -> None:
    file = tmp_path / "sealed.db"
    keys = vault(tmp_path, old=FIRST, new=SECOND)
    resources = write(tmp_path / "r", "a.yaml", keys, sealed(tmp_path, primaryEncryptionKey="old"))
    with Sidecar(tmp_path, *resources_flags(resources)) as sidecar:
        save(sidecar, "s", a="very secret words", n={"x": 2**60})
        assert sidecar.http("GET", "/v1.0/state/s/a").json() == "very secret words"
        assert sidecar.stop() == 0
    for path in tmp_path.glob("sealed.db*"):
        assert b"secret words" not in path.read_bytes()
    [(value, is_binary)] = rows(file, "SELECT value, is_binary FROM state WHERE key = 'app||a'")
    text, _, name = base64.b64decode(value).partition(b"||")
    assert (is_binary, name) == (1, b"old")
    assert len(base64.b64decode(text)) == 12 + len(b'"very secret words"') + 16  # nonce, text, tag

    write(resources, "a.yaml", keys, sealed(tmp_path, primaryEncryptionKey="new", secondaryEncryptionKey="old"))
    with Sidecar(tmp_path, *resources_flags(resources)) as sidecar:
        assert sidecar.http("GET", "/v1.0/state/s/a").json() == "very secret words"
        assert sidecar.http("GET", "/v1.0/state/s/n").json() == {"x": 2**60}
        save(sidecar, "s", a="other words")
        bulk = sidecar.http("POST", "/v1.0/state/s/bulk", {"keys": ["a", "n"]}).json()
        assert {item["key"]: item["data"] for item in bulk} == {"a": "other words", "n": {"x": 2**60}}
        assert sidecar.stop() == 0

    write(resources, "a.yaml", keys, sealed(tmp_path, primaryEncryptionKey="new"))
    with Sidecar(tmp_path, *resources_flags(resources)) as sidecar:
        assert sidecar.http("GET", "/v1.0/state/s/a").json() == "other words"
        assert sidecar.http("GET", "/v1.0/state/s/n").status == 500  # the old key is gone


OUTBOX = {"outboxPublishPubsub": "pubsub", "outboxPublishTopic": "orders"}


def outbox(tmp_path: Path, **more: str) -> dict[str, Any]:
    return component("s", "state.sqlite", {"connectionString": str(tmp_path / "s.db"), **OUTBOX, **more})


def transact(sidecar: Sidecar, *operations: dict[str, Any], **metadata: str) -> int:
    body = {"operations": list(operations), "metadata": metadata}
    return sidecar.http("POST", "/v1.0/state/s/transaction", body).status


def upsert(key: str, value: Any, **more: Any) -> dict[str, Any]:
    return {"operation": "upsert", "request": {"key": key, "value": value, **more}}


def test_a_transaction_becomes_events(tmp_path: Path) -> None:
    resources = write(tmp_path / "r", "a.yaml", outbox(tmp_path), broker(), subscription("orders", "/in"))
    with (
        App({"/in": lambda _: (200, b"")}) as app,
        Sidecar(tmp_path, *resources_flags(resources), app_port=app.port) as sidecar,
    ):
        delete = {"operation": "delete", "request": {"key": "gone"}}
        projection = upsert("b", {"shown": True}, metadata={"outbox.projection": "true", "cloudevent.type": "order"})
        assert transact(sidecar, upsert("a", {"n": 2**60}), upsert("b", {"kept": True}), projection, delete) == 204
        events = [app.next().json() for _ in range(2)]
        assert {json.dumps(event["data"]) for event in events} == {json.dumps({"n": 2**60}), '{"shown": true}'}
        for event in events:
            assert (event["topic"], event["pubsubname"], event["source"]) == ("orders", "pubsub", "app")
            assert event["type"] == "com.dapr.event.sent"
        assert sidecar.http("GET", "/v1.0/state/s/b").json() == {"kept": True}
        # A transaction that is refused makes no event; the next one shows that none is on its way.
        stale = upsert("a", 2, etag="999", options={"concurrency": "first-write"})
        assert transact(sidecar, upsert("c", "never"), stale) >= 400
        assert transact(sidecar, upsert("d", "last")) == 204
        assert app.next().json()["data"] == "last"
        assert sidecar.stop() == 0
    assert [key for (key,) in rows(tmp_path / "s.db", "SELECT key FROM state ORDER BY key")] == [
        "app||a",
        "app||b",
        "app||d",
    ]


def test_an_outbox_event_outlasts_a_kill(tmp_path: Path) -> None:
    """Killed right after the answer, wherever the event is on its way then."""
    resources = write(tmp_path / "r", "a.yaml", outbox(tmp_path), broker(), subscription("orders", "/in"))
    with Sidecar(tmp_path, *resources_flags(resources)) as sidecar:
        assert transact(sidecar, upsert("a", "kept")) == 204
        sidecar.kill()
    with App({"/in": lambda _: (200, b"")}) as app, Sidecar(tmp_path, *resources_flags(resources), app_port=app.port):
        assert app.next().json()["data"] == "kept"


def test_two_processes_exchange_topics(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    resources = write(
        tmp_path / "r", "a.yaml", broker(), component("s", "state.sqlite", {"connectionString": str(tmp_path / "s.db")})
    )
    write(resources, "b.yaml", subscription("to-a", "/a", scopes=["a"]), subscription("to-b", "/b", scopes=["b"]))
    both = subscription("both", "/both")
    write(resources, "c.yaml", both)
    routes = {path: (lambda _: (200, b"")) for path in ("/a", "/b", "/both")}
    flags = resources_flags(resources)
    with (
        App(routes) as app_a,
        App(routes) as app_b,
        Sidecar(shared, *flags, app_id="a", app_port=app_a.port) as a,
        Sidecar(shared, *flags, app_id="b", app_port=app_b.port) as b,
    ):
        for n in range(5):
            assert a.http("POST", "/v1.0/publish/pubsub/to-b", n).status == 204
            assert b.http("POST", "/v1.0/publish/pubsub/to-a", n).status == 204
        assert sorted(app_a.next().json()["data"] for _ in range(5)) == list(range(5))
        assert sorted(app_b.next().json()["data"] for _ in range(5)) == list(range(5))
        assert a.http("POST", "/v1.0/publish/pubsub/both", "x").status == 204
        for app in (app_a, app_b):
            event = app.next()
            assert (event.path, event.json()["source"]) == ("/both", "a")
        save(a, "s", k="from a")
        assert b.http("GET", "/v1.0/state/s/k").status == 204  # each app has its own prefix
        assert a.kill() != 0
        assert b.http("POST", "/v1.0/publish/pubsub/to-b", "alone").status == 204
        assert app_b.next().json()["data"] == "alone"
        assert b.stop() == 0
