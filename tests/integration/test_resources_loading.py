"""What a sidecar makes of its resource files: order, references, failures, scopes, reloads."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support.app import App
from tests.support.resources import (
    broker,
    component,
    document,
    resiliency,
    resources_flags,
    routed,
    subscription,
    write,
)
from tests.support.sidecar import READY, Sidecar

pytestmark = pytest.mark.slow
MEMORY = "state.in-memory"


def loaded(sidecar: Sidecar) -> list[str]:
    return [item["name"] for item in sidecar.http("GET", "/v1.0/metadata").json()["components"]]


def secrets_file(tmp_path: Path, **secrets: Any) -> str:
    path = tmp_path / "secrets.json"
    path.write_text(json.dumps(secrets))
    return str(path)


def test_files_and_documents_in_order(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    secret = component("late", "secretstores.local.env")
    write(one, "b.yaml", component("b1", MEMORY), "", component("b2", MEMORY))
    write(one, "a.YML", "---\n" + json.dumps(component("a", MEMORY)), "key: [", component("after", MEMORY))
    write(one, "notes.txt", "not read")
    write(one / "deeper", "c.yaml", component("unseen", MEMORY))
    write(two, "a.yaml", component("z", "State.In-Memory"), secret, {"apiVersion": "v1", "kind": "Pod"})
    with Sidecar(tmp_path, *resources_flags(one, two)) as sidecar:
        assert loaded(sidecar) == ["late", "a", "after", "b1", "b2", "z"]
        assert f"{one / 'a.YML'}:" in sidecar.said  # the bad document, by file and line
        assert "notes.txt" in sidecar.said


def test_scopes_and_namespaces_filter(tmp_path: Path) -> None:
    other = component("spaced", MEMORY)
    other["metadata"]["namespace"] = "elsewhere"
    own = component("own", MEMORY)
    own["metadata"]["namespace"] = "prod"
    mine, foreign = component("mine", MEMORY, scopes=["app", "x"]), component("foreign", MEMORY, scopes=["x"])
    resources = write(tmp_path / "r", "a.yaml", other, own, mine, foreign, component("open", MEMORY))
    with Sidecar(tmp_path, *resources_flags(resources), environment={"NAMESPACE": "prod"}) as sidecar:
        assert loaded(sidecar) == ["own", "mine", "open"]
    with Sidecar(tmp_path, *resources_flags(resources), environment={"NAMESPACE": ""}) as sidecar:
        assert loaded(sidecar) == ["spaced", "own", "mine", "open"]


@pytest.mark.parametrize(
    ("documents", "said"),
    [
        ([component("same", MEMORY), component("same", MEMORY)], ["a.yaml:3", "'same' is already defined", "a.yaml:1"]),
        (
            [component("x", "state.mysql")],
            ["[CREATE_COMPONENT_FAILURE]: creation error occurred for x (state.mysql/v1)"],
        ),
        ([component("x", "nonsense.kind")], ["nonsense.kind", "a.yaml:1"]),
        (
            [component("x", "secretstores.local.file", {"secretsFile": "/nowhere/s.json"})],
            ["[INIT_COMPONENT_FAILURE]: initialization error occurred for x (secretstores.local.file/v1)", "/nowhere"],
        ),
        (
            [component("x", MEMORY, {"keyPrefix": "a||b"})],
            [
                "[INIT_COMPONENT_FAILURE]: initialization error occurred for x (state.in-memory/v1)",
                "a.yaml:1",
                "keyPrefix",
            ],
        ),
        (
            [component("x", "state.sqlite", {"timeout": "soon"})],
            ["INIT_COMPONENT_FAILURE", "timeout", "soon", "a.yaml:1"],
        ),
    ],
)
def test_a_fatal_component_is_named(tmp_path: Path, documents: list[dict[str, Any]], said: list[str]) -> None:
    resources = write(tmp_path / "r", "a.yaml", *documents)
    with Sidecar(tmp_path, *resources_flags(resources), ready="") as sidecar:
        assert sidecar.wait() == 1
        line = next(line for line in sidecar.lines if "Fatal error from runtime: " in line)
        assert "level=fatal" in line
        for text in said:
            assert text in line


def test_a_missing_directory_is_fatal(tmp_path: Path) -> None:
    with Sidecar(tmp_path, *resources_flags(tmp_path / "none"), ready="") as sidecar:
        assert sidecar.wait() == 1
        assert "--resources-path" in sidecar.said


def test_errors_can_be_ignored(tmp_path: Path) -> None:
    bad = component("bad", "secretstores.local.file", {"secretsFile": "/nowhere/s.json"}, ignoreErrors=True)
    unknown = component("unknown", "state.mysql", ignoreErrors=True)
    resources = write(tmp_path / "r", "a.yaml", bad, unknown, component("good", MEMORY))
    with Sidecar(tmp_path, *resources_flags(resources)) as sidecar:
        assert loaded(sidecar) == ["good"]
        text = sidecar.metrics()
        head = 'dapr_runtime_component_init_fail_total{app_id="app",component='
        assert head + '"secretstores.local.file",componentName="bad",reason="init"} 1' in text
        assert head + '"state.mysql",componentName="unknown",reason="creation"} 1' in text
        assert 'dapr_runtime_component_loaded{app_id="app"} 3' in text
        assert 'dapr_runtime_component_init_total{app_id="app",component="state.in-memory"} 1' in text


def test_a_slow_component_is_given_up(tmp_path: Path) -> None:
    late = component("late", MEMORY, initTimeout="1ns", ignoreErrors=True)
    odd = component("odd", MEMORY, initTimeout="-1s")  # no such limit: the default holds
    resources = write(tmp_path / "r", "a.yaml", late, odd)
    with Sidecar(tmp_path, *resources_flags(resources)) as sidecar:
        assert "init timeout for component late exceeded after" in sidecar.said
        assert loaded(sidecar) == ["odd"]
    write(resources, "a.yaml", component("late", MEMORY, initTimeout="1ns"))
    with Sidecar(tmp_path, *resources_flags(resources), ready="init timeout for component late") as sidecar:
        assert sidecar.wait() == 1


def test_references_and_templates_are_resolved(tmp_path: Path) -> None:
    file = secrets_file(tmp_path, key={"path": str(tmp_path / "x.db")}, plain="app=allowed")
    secret = {"secretKeyRef": {"name": "plain"}}
    documents = (
        # The store comes last: who refers to it waits.
        component("pubsub", "pubsub.in-memory", {"publishingScopes": secret}, auth={"secretStore": "vault"}),
        component("parked", MEMORY, {"keyPrefix": secret}, auth={"secretStore": "nobody"}),
        component(
            "prefixed", "state.sqlite", {"keyPrefix": "{appID}-{namespace}", "connectionString": str(tmp_path / "y.db")}
        ),
        component("env", "state.sqlite", {"connectionString": {"envRef": "DB_FILE"}}),
        component(
            "denied",
            "state.sqlite",
            {"keyPrefix": {"envRef": "DAPR_API_TOKEN"}, "connectionString": str(tmp_path / "z.db")},
        ),
        component("vault", "secretstores.local.file", {"secretsFile": file}),
    )
    resources = write(tmp_path / "r", "a.yaml", *documents)
    environment = {"DB_FILE": str(tmp_path / "env.db"), "NAMESPACE": "ns"}
    with Sidecar(tmp_path, *resources_flags(resources), environment=environment) as sidecar:
        # A parked component is no failure, and is not there.
        assert sorted(loaded(sidecar)) == ["denied", "env", "prefixed", "pubsub", "vault"]
        assert "parked (state.in-memory/v1) waits for the secret store" in sidecar.said
        assert "DAPR_API_TOKEN" in sidecar.said
        assert sidecar.http("POST", "/v1.0/publish/pubsub/allowed", {}).status == 204
        assert sidecar.http("POST", "/v1.0/publish/pubsub/other", {}).status == 403
        assert (tmp_path / "env.db").exists()
        assert sidecar.http("POST", "/v1.0/state/prefixed", [{"key": "k", "value": 1}]).status == 204
        assert sidecar.stop() == 0
    assert keys(tmp_path / "y.db") == ["app-ns.app||k"]


def keys(path: Path) -> list[str]:
    import sqlite3

    connection = sqlite3.connect(path)
    try:
        return [key for (key,) in connection.execute("SELECT key FROM state ORDER BY key")]
    finally:
        connection.close()


def test_a_missing_secret_is_an_error_line(tmp_path: Path) -> None:
    file = secrets_file(tmp_path, known="x")
    unknown = {"secretKeyRef": {"name": "unknown", "key": "unknown"}}
    documents = (
        component("vault", "secretstores.local.file", {"secretsFile": file}),
        component("s", MEMORY, {"keyPrefix": unknown}, auth={"secretStore": "vault"}),
    )
    resources = write(tmp_path / "r", "a.yaml", *documents)
    with Sidecar(tmp_path, *resources_flags(resources)) as sidecar:
        assert loaded(sidecar) == ["vault", "s"]
        assert "unknown" in sidecar.said


def test_a_bad_rule_in_a_file_is_fatal(tmp_path: Path) -> None:
    bad = routed("t", {"rules": [{"match": "event.(", "path": "/x"}]})
    resources = write(tmp_path / "r", "a.yaml", broker(), bad)
    with Sidecar(tmp_path, *resources_flags(resources), ready="") as sidecar:
        assert sidecar.wait() == 1
        assert "a.yaml:3" in sidecar.said
        assert "spec.routes.rules" in sidecar.said


def test_duplicate_endpoints_are_none(tmp_path: Path) -> None:
    spec = {"baseUrl": "http://127.0.0.1:1"}
    resources = write(tmp_path / "r", "a.yaml", component("s", MEMORY), document("HTTPEndpoint", "e", spec))
    write(resources, "b.yaml", document("HTTPEndpoint", "e", spec), document("HTTPEndpoint", "f", spec))
    with Sidecar(tmp_path, *resources_flags(resources)) as sidecar:
        assert sidecar.http("GET", "/v1.0/metadata").json().get("httpEndpoints", []) == []
        assert "b.yaml:1" in sidecar.said


def test_several_configurations_merge(tmp_path: Path) -> None:
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    vault = component("vault", "secretstores.local.file", {"secretsFile": secrets_file(tmp_path, a="1", b="2")})
    resources = write(tmp_path / "r", "a.yaml", vault, component("s", MEMORY), component("p", "pubsub.in-memory"))
    scope = {"storeName": "vault", "defaultAccess": "deny", "allowedSecrets": ["a"]}
    one.write_text(json.dumps({"spec": {"secrets": {"scopes": [scope]}, "features": [{"name": "X", "enabled": True}]}}))
    two.write_text(
        "spec:\n  components: {deny: [pubsub.in-memory/v1]}\n"
        "  api: {denied: [{name: $GROUP, version: v1, protocol: http}]}"
    )
    flags = ("--config", str(one), "--config", str(two), *resources_flags(resources))
    with Sidecar(tmp_path, *flags, environment={"GROUP": "state"}) as sidecar:
        assert loaded(sidecar) == ["vault", "s"]
        assert "denied by components.deny" in sidecar.said
        assert sidecar.http("GET", "/v1.0/secrets/vault/a").json() == {"a": "1"}
        assert sidecar.http("GET", "/v1.0/secrets/vault/b").status == 403
        assert sidecar.http("GET", "/v1.0/state/s/k").status in (400, 404)
        assert "X" in sidecar.http("GET", "/v1.0/metadata").json()["enabledFeatures"]
    with Sidecar(tmp_path, "--config", str(tmp_path / "none.yaml"), ready="") as sidecar:
        assert sidecar.wait() == 1
        assert "none.yaml" in sidecar.said


# --- SIGHUP -----------------------------------------------------------------------------------------------------------


def reload(sidecar: Sidecar, said: str = READY) -> None:
    sidecar.signal(signal.SIGHUP)
    sidecar.wait_line(said)


def test_a_reload_adds_changes_and_removes(tmp_path: Path) -> None:
    resources = write(tmp_path / "r", "a.yaml", broker(), subscription("t", "/old"))
    write(resources, "gone.yaml", component("gone", MEMORY))
    kept = write(
        resources, "kept.yaml", component("kept", "state.sqlite", {"connectionString": str(tmp_path / "k.db")})
    )
    with (
        App({"/old": lambda _: (200, b""), "/new": lambda _: (200, b"")}) as app,
        Sidecar(tmp_path, *resources_flags(resources), app_port=app.port) as sidecar,
    ):
        assert sidecar.http("POST", "/v1.0/state/kept", [{"key": "a", "value": 1}]).status == 204
        assert sidecar.http("POST", "/v1.0/publish/pubsub/t", 1).status == 204
        assert app.next().path == "/old"
        before = sidecar.metrics().count("dapr_component_pubsub_ingress_count")
        (resources / "gone.yaml").unlink()
        write(resources, "new.yaml", component("new", MEMORY), subscription("u", "/new"))
        write(resources, "a.yaml", broker(concurrency="1"), subscription("t", "/new"))
        write(kept, "res.yaml", resiliency("res", {"timeouts": {"t": "1s"}}, {}))
        reload(sidecar)
        assert loaded(sidecar) == ["pubsub", "kept", "new"]
        assert sidecar.http("GET", "/v1.0/metadata").json()["resiliencies"] == [{"name": "res"}]
        assert sidecar.http("GET", "/v1.0/state/kept/a").json() == 1
        assert sidecar.http("GET", "/v1.0/state/gone/a").status == 400
        for topic in "tu":
            assert sidecar.http("POST", f"/v1.0/publish/pubsub/{topic}", topic).status == 204
            came = app.next()
            assert (came.path, came.json()["data"]) == ("/new", topic)
        assert sidecar.metrics().count("dapr_component_pubsub_ingress_count") >= before
        assert sidecar.http("GET", "/v1.0/healthz").status == 204
        assert sidecar.stop() == 0


STAYS = "what runs stays as it is"
AGAIN = "what ran before is opened again"


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (component("same", MEMORY), STAYS),  # a second one of this name
        (component("x", "state.mysql"), STAYS),
        (routed("t", {"rules": [{"match": "event.(", "path": "/x"}]}), STAYS),
        (component("x", "secretstores.local.file", {"secretsFile": "/nowhere/s.json"}), AGAIN),
        (component("x", MEMORY, {"keyPrefix": "a||b"}), AGAIN),
    ],
)
def test_a_bad_reload_changes_nothing(tmp_path: Path, bad: dict[str, Any], said: str) -> None:
    kept = component("kept", "state.sqlite", {"connectionString": str(tmp_path / "k.db")})
    resources = write(tmp_path / "r", "a.yaml", component("same", MEMORY), broker(), kept)
    with Sidecar(tmp_path, *resources_flags(resources)) as sidecar:
        for store in ("same", "kept"):
            assert sidecar.http("POST", f"/v1.0/state/{store}", [{"key": "a", "value": 1}]).status == 204
        write(resources, "b.yaml", bad)
        reload(sidecar, said)
        assert any(said in line and "b.yaml" in line for line in sidecar.lines)
        assert sidecar.http("GET", "/v1.0/state/kept/a").json() == 1
        if said == STAYS:
            assert sidecar.http("GET", "/v1.0/state/same/a").json() == 1
        assert loaded(sidecar) == ["same", "pubsub", "kept"]
        (resources / "b.yaml").unlink()
        reload(sidecar)
        assert loaded(sidecar) == ["same", "pubsub", "kept"]
        assert sidecar.stop() == 0
