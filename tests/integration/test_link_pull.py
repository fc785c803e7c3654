"""What comes down a link into local stores, between two real nodes: settings are mirrored, secrets are kept sealed."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration.cli import ask
from tests.integration.test_cloud_links import DOWN, UP, metric, until, url, write_link
from tests.integration.test_configuration_stores import Stream, put
from tests.support.app import App
from tests.support.drivers import python
from tests.support.line import Line, Mode
from tests.support.resources import component, resources_flags, write
from tests.support.sidecar import Sidecar

pytestmark = pytest.mark.slow

ALL = "{configuration: [{store: configstore, remoteStore: configstore}]}"
STORE = "/v1.0/configuration/configstore"
VAULT = "{secrets: [{remoteStore: vault}]}"
SECRETS = {"password": "correct-horse", "db": {"user": "ann", "pin": "battery-staple"}, "hidden": "no-one"}
SCOPES = """
apiVersion: dapr.io/v1alpha1
kind: Configuration
metadata: {name: scoped}
spec: {secrets: {scopes: [{storeName: vault, deniedSecrets: [hidden]}]}}
"""


class Ends:
    """The cloud's node with its place, and the lines to it."""

    def __init__(self, cloud: Sidecar, place: Path, line: Line, grpc_line: Line) -> None:
        self.cloud = cloud
        self.place = place
        self.line = line
        self.grpc_line = grpc_line

    def cut(self) -> None:
        self.line.cut(Mode.REFUSE)
        self.grpc_line.cut(Mode.REFUSE)

    def mend(self) -> None:
        self.line.mend()
        self.grpc_line.mend()


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[Ends]:
    with ExitStack() as stack:
        place = tmp_path / "far"
        place.mkdir()
        (place / "secrets.json").write_text(json.dumps(SECRETS))
        vault = component("vault", "secretstores.local.file", {"secretsFile": "secrets.json", "multiValued": "true"})
        store = component("configstore", "configuration.sqlite", {"connectionString": "state/configstore.db"})
        flags = resources_flags(write(place / "resources", "all.yaml", vault, store))
        cloud = stack.enter_context(Sidecar(place / "state", *flags, app_id="cloud", directory=place))
        line, grpc_line = (stack.enter_context(Line(port)) for port in (cloud.port, cloud.grpc_port))
        yield Ends(cloud, place, line, grpc_line)


@contextmanager
def edge_of(ends: Ends, tmp_path: Path, routes: str, more: str = "", **options: Any) -> Iterator[Sidecar]:
    flags = write_link(tmp_path / "resources", url(ends.line.port), url(ends.grpc_line.port), routes, more)
    with Sidecar(tmp_path / "state", *flags, app_id="edge", **options) as node:
        yield node


def secret(node: Sidecar, name: str, store: str = "vault") -> Any:
    answer = node.http("GET", f"/v1.0/secrets/{store}/{name}")
    return answer.json() if answer.status == 200 else f"{answer.status}: {answer.json()['message']}"


def settings(node: Sidecar, key: str = "") -> Any:
    answer = node.http("GET", f"{STORE}?key={key}" if key else STORE)
    return answer.json() if answer.body else {}


def test_settings_come_down_and_stay(ends: Ends, tmp_path: Path) -> None:
    item = {"value": "1", "version": "v1", "metadata": {"unit": "s"}}
    put(ends.place, "a", "1", "-m", "unit=s", "--version", "v1")
    put(tmp_path, "own", "kept")
    told: Any = {f"/configuration/configstore/{key}": lambda came: (200, b"") for key in ("a", "b")}
    with App(told) as app, edge_of(ends, tmp_path, ALL, app_port=app.port) as edge:
        assert edge.http("GET", f"{STORE}/subscribe").status == 200
        until(lambda: settings(edge, "a") == {"a": item})
        stream = Stream(edge)
        assert stream.values() == {}
        put(ends.place, "b", "2")
        assert stream.values() == {"b": "2"}
        while "b" not in (came := app.next().json()["items"]):
            pass
        assert came["b"]["value"] == "2"
        assert ask(ends.place, "config", "delete", "b").returncode == 0
        assert stream.values() == {"b": ""}
        ends.cut()
        edge.wait_line(DOWN)
        put(ends.place, "a", "2")
        assert settings(edge).keys() == {"a", "own"}
        assert edge.stop() == 0
    with edge_of(ends, tmp_path, ALL) as edge:  # offline from its first moment
        assert settings(edge, "a") == {"a": item}
        put(tmp_path, "a", "by hand")
        assert settings(edge, "a")["a"]["value"] == "by hand"
        ends.mend()
        edge.wait_line(UP)
        until(lambda: settings(edge, "a")["a"]["value"] == "2")
        assert settings(edge, "own")["own"]["value"] == "kept"
        assert metric(edge, "edge_link_bytes_total", **{"class": "configuration", "direction": "received"}) > 0
        assert edge.stop() == 0
    assert set(ends.grpc_line.rpcs()) == {"/dapr.proto.runtime.v1.Dapr/SubscribeConfiguration"}
    paths = {re.sub(r"\?.*", "", request) for request in ends.line.requests()}
    assert paths == {"GET /v1.0/healthz/outbound", f"GET {STORE}"}


def test_named_keys_alone_come_down(ends: Ends, tmp_path: Path) -> None:
    for key in ("a", "b", "c"):
        put(ends.place, key, "1")
    routes = (
        "{configuration: [{store: configstore, keys: [a, z], remoteStore: configstore},"
        " {store: configstore, keys: b, remoteStore: configstore}, {store: statestore, remoteStore: configstore}]}"
    )
    with edge_of(ends, tmp_path, routes) as edge:
        until(lambda: settings(edge).keys() == {"a", "b"})
        put(ends.place, "c", "2")
        put(ends.place, "z", "9")
        until(lambda: settings(edge).keys() == {"a", "b", "z"})
        assert "the component 'statestore' of app edge is state.sqlite; its settings do not come down" in edge.said


# --- secrets ----------------------------------------------------------------------------------------------------------


def test_secrets_are_read_here_and_kept_sealed(ends: Ends, tmp_path: Path) -> None:
    scopes = write(tmp_path, "config.yaml", SCOPES) / "config.yaml"
    routes = ALL[:-1] + ", " + VAULT[1:]
    put(ends.place, "a", "1", "--version", "v1")
    shown = {"password": {"password": "correct-horse"}, "db": SECRETS["db"]}
    flags = write_link(tmp_path / "resources", url(ends.line.port), url(ends.grpc_line.port), routes)
    said = ""
    with Sidecar(tmp_path / "state", *flags, "--config", str(scopes), app_id="edge") as edge:
        assert secret(edge, "password") == {"password": "correct-horse"}  # at once, with the link not up yet
        assert edge.http("GET", "/v1.0/secrets/vault/bulk").json() == shown
        assert secret(edge, "hidden").startswith("403: access denied by policy")
        assert "not found" in secret(edge, "absent")
        until(lambda: settings(edge, "a"))
        listed = edge.http("GET", "/v1.0/metadata").json()["components"]
        assert {"name": "vault", "type": "secretstores.cloudlink", "version": "v1"} in listed
        (mirrored, sealed) = edge.http("GET", "/edge/v1/sync/cloud").json()["routes"]
        assert (mirrored["route"], mirrored["name"], mirrored["subscribed"]) == ("configuration", "configstore/*", True)
        assert (mirrored["from"], mirrored["lastError"]) == ("configstore", "")
        assert (sealed["route"], sealed["name"], sealed["kept"]) == ("secrets", "vault", 3)
        assert 0 <= sealed["oldestAgeSeconds"] < sealed["maxAgeSeconds"] == 86400
        ends.cut()
        edge.wait_line(DOWN)
        assert secret(edge, "db") == SECRETS["db"]
        assert edge.stop() == 0
        said += edge.said
    with Sidecar(tmp_path / "state", *flags, app_id="edge") as edge:  # offline from its first moment
        ports = {"DAPR_GRPC_PORT": str(edge.grpc_port)}
        with python("link_pull.py", edge.port, **ports) as program:
            results = program.results()
        del results["ended"]
        assert results == {
            "setting": ["1", "v1"],
            "secret": {"password": "correct-horse"},
            "secrets": {**shown, "hidden": {"hidden": "no-one"}},
        }
        assert "nothing is kept of it here that is younger than maxAge (24h0m0s)" in secret(edge, "absent")
        said += edge.said
        said += edge.metrics()
        edge.kill()
    kept = b"".join(path.read_bytes() for path in (tmp_path / "state").rglob("*") if path.is_file())
    for text in ("correct-horse", "battery-staple", "no-one"):
        assert text not in said
        assert text.encode() not in kept


def test_secrets_grow_too_old(ends: Ends, tmp_path: Path) -> None:
    with edge_of(ends, tmp_path, VAULT.replace("vault", "vault, maxAge: 1s")) as edge:
        assert secret(edge, "password") == {"password": "correct-horse"}
        ends.cut()
        refusal = "500: failed getting secret with key password from secret store vault: link cloud is down"
        until(lambda: str(secret(edge, "password")).startswith(refusal))
        ends.mend()
        until(lambda: secret(edge, "password") == {"password": "correct-horse"})


def test_a_damaged_secret_is_fetched_anew(ends: Ends, tmp_path: Path) -> None:
    with edge_of(ends, tmp_path, VAULT) as edge:
        assert secret(edge, "password") == {"password": "correct-horse"}
        assert edge.stop() == 0
    with closing(sqlite3.connect(tmp_path / "state" / "node.db")) as connection, connection:
        connection.execute("UPDATE sealed_secret SET record = substr(record, 2)")
    with edge_of(ends, tmp_path, VAULT) as edge:
        assert secret(edge, "password") == {"password": "correct-horse"}
        assert "a kept secret cannot be opened: it is damaged, or was sealed with another key" in edge.said
        assert "it is fetched anew" in edge.said
    paths = {request.partition("?")[0] for request in ends.line.requests()}
    assert paths <= {"GET /v1.0/healthz/outbound", "GET /v1.0/secrets/vault/password"}


def test_a_store_of_the_same_name_stays(ends: Ends, tmp_path: Path) -> None:
    routes = "{secrets: [{remoteStore: secretstore}, {remoteStore: none}]}"
    with edge_of(ends, tmp_path, routes, environment={"EDGE_SECRET_pin": "local"}) as edge:
        assert secret(edge, "pin", "secretstore") == {"pin": "local"}
        assert "app edge has a secret store 'secretstore' already, which stays" in edge.said
        until(lambda: UP in edge.said)
        assert "failed finding secret store with key none" in secret(edge, "pin", "none")
        assert metric(edge, "edge_link_up") == 1


def test_a_key_that_others_may_read_keeps_nothing(ends: Ends, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    key = tmp_path / "state" / "seal.key"
    key.write_bytes(b"k" * 32)
    key.chmod(0o644)
    with edge_of(ends, tmp_path, VAULT) as edge:
        assert f"others than its owner may read the key; chmod 600 {key}" in edge.said
        assert secret(edge, "password") == {"password": "correct-horse"}
        ends.cut()
        until(lambda: "500" in str(secret(edge, "password")))
