"""Resource files: which are read, what of them counts, and what stops the start."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge_runtime.config.kinds import BulkSubscribe, MetadataItem, RouteRule
from edge_runtime.config.resources import FILE_BYTES_MAX, Resources, default_components, load_resources
from edge_runtime.model.errors import ConfigError


def load(directory: Path, text: str, *, app_id: str = "app", namespace: str = "") -> Resources:
    (directory / "a.yaml").write_text(text)
    return load_resources([str(directory)], app_id=app_id, namespace=namespace)


def component(name: str = "x", more: str = "", meta: str = "") -> str:
    return (
        f"apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata:\n  name: {name}\n{meta}"
        f"spec:\n  type: state.in-memory\n  version: v1\n{more}"
    )


FULL = """
apiVersion: dapr.io/v1alpha1
kind: Component
metadata:
  name: statestore
  namespace: prod
spec:
  type: state.sqlite
  version: v2
  ignoreErrors: true
  initTimeout: 1m
  metadata:
  - name: plain
    value: text
  - name: number
    value: 10
  - name: object
    value: {b: 1, a: yes}
  - name: secret
    secretKeyRef: {name: db, key: password}
  - name: variable
    envRef: HOME_DIR
  - name: nothing
    value: null
auth:
  secretStore: vault
scopes: [app, other]
"""


def test_whole_component_is_read(tmp_path: Path) -> None:
    (found,) = load(tmp_path, FULL).components
    assert found.name == "statestore"
    assert (found.type, found.version, found.namespace) == ("state.sqlite", "v2", "prod")
    assert (found.ignore_errors, found.init_timeout_s, found.secret_store) == (True, 60.0, "vault")
    assert found.scopes == ("app", "other")
    assert found.source == f"{tmp_path / 'a.yaml'}:2"
    assert found.category == "state"
    assert found.log_name == "statestore (state.sqlite/v2)"
    assert found.metadata == (
        MetadataItem("plain", "text"),
        MetadataItem("number", "10"),
        MetadataItem("object", '{"a":true,"b":1}'),
        MetadataItem("secret", None, "db", "password"),
        MetadataItem("variable", env_ref="HOME_DIR"),
        MetadataItem("nothing"),
    )


def test_log_name_without_version(tmp_path: Path) -> None:
    (found,) = load(tmp_path, component().replace("  version: v1\n", "")).components
    assert found.log_name == "x (state.in-memory)"


def test_files_load_in_name_order(tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    for directory in (first, second):
        directory.mkdir()
    (first / "b.yaml").write_text(component("b"))
    (first / "a.YML").write_text(component("a"))
    (second / "0.yaml").write_text(component("last"))
    resources = load_resources([str(first), str(second)], app_id="app")
    assert [item.name for item in resources.components] == ["a", "b", "last"]


def test_other_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "gone.yaml").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.yaml")
    resources = load(tmp_path, component())
    assert [item.name for item in resources.components] == ["x"]
    texts = "\n".join(resources.warnings)
    assert "notes.txt: is no resource file" in texts
    assert "gone.yaml: cannot be read: No such file or directory" in texts
    assert "pipe.yaml: is no regular file" in texts
    assert "folder.yaml" not in texts


def test_huge_file_is_left_out(tmp_path: Path) -> None:
    with open(tmp_path / "b.yaml", "wb") as file:
        file.truncate(FILE_BYTES_MAX + 1)
    resources = load(tmp_path, component())
    assert len(resources.components) == 1
    assert "is larger than" in resources.warnings[0]


def test_missing_directory_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--resources-path .*nowhere' cannot be read: No such file"):
        load_resources([str(tmp_path / "nowhere")], app_id="app")


@pytest.mark.parametrize(
    ("own", "written", "kept"),
    [("", "a", True), ("a", "", True), ("a", "a", True), ("a", "b", False)],
)
def test_namespace_filters_when_both_have_one(tmp_path: Path, own: str, written: str, kept: bool) -> None:
    meta = f"  namespace: {written}\n" if written else ""
    assert bool(load(tmp_path, component(meta=meta), namespace=own).components) is kept


def test_other_apps_components_are_dropped(tmp_path: Path) -> None:
    resources = load(tmp_path, component(more="scopes: [other]\n").replace("  scopes", "scopes"))
    assert resources.components == ()
    assert resources.has_components
    assert resources.warnings == ()


def test_second_definition_stops_the_start(tmp_path: Path) -> None:
    text = component() + "---\n" + component(more="scopes: [other]\n").replace("  scopes", "scopes")
    with pytest.raises(ConfigError, match=r"a.yaml:9: Component 'x' is already defined in .*a.yaml:1"):
        load(tmp_path, text)


def test_definition_after_a_foreign_one_counts(tmp_path: Path) -> None:
    text = component(more="scopes: [other]\n").replace("  scopes", "scopes") + "---\n" + component()
    assert len(load(tmp_path, text).components) == 1


MISSPELT = [
    ("metadata", "metdata", "unknown field 'metdata' is ignored (did you mean \"metadata\"?)"),
    ("  type:", "  typ:", "unknown field 'spec.typ' is ignored (did you mean \"type\"?)"),
    ("  version", "  versoin", "unknown field 'spec.versoin' is ignored (did you mean \"version\"?)"),
    ("spec:", "sepc:", "unknown field 'sepc' is ignored (did you mean \"spec\"?)"),
    ("kind: Component", "kind: component", "unknown kind 'component' is left out (did you mean \"Component\"?)"),
    ("v1alpha1", "v1", "Component with apiVersion 'dapr.io/v1' is left out; expected dapr.io/v1alpha1"),
    ("v1alpha1", "v2alpha1", "Component with apiVersion 'dapr.io/v2alpha1' is left out; expected dapr.io/v1alpha1"),
]


@pytest.mark.parametrize(("right", "wrong", "text"), MISSPELT, ids=[row[1].strip() for row in MISSPELT])
def test_misspelt_words_are_named(tmp_path: Path, right: str, wrong: str, text: str) -> None:
    warnings = load(tmp_path, component().replace(right, wrong, 1)).warnings
    assert any(text in warning for warning in warnings), warnings


@pytest.mark.parametrize("written", ["soon", "0s", "-5s"])
def test_bad_init_timeout_is_the_default(tmp_path: Path, written: str) -> None:
    resources = load(tmp_path, component(more=f"  initTimeout: {written}\n"))
    assert resources.components[0].init_timeout_s == 5.0
    assert "is no positive duration" in resources.warnings[0]


NEW = """
apiVersion: dapr.io/v2alpha1
kind: Subscription
metadata: {name: orders}
spec:
  pubsubname: pubsub
  topic: orders
  deadLetterTopic: dead
  metadata: {rawPayload: true}
  bulkSubscribe: {enabled: true, maxMessagesCount: 5, maxAwaitDurationMs: 40}
  routes:
    rules:
    - {match: '  event.type == "a"  ', path: /a}
    - {path: /b}
    default: /c
scopes: [app]
"""
OLD = """
apiVersion: dapr.io/v1alpha1
kind: Subscription
metadata: {name: orders}
spec: {pubsubname: pubsub, topic: orders, route: /old}
"""


def test_newer_subscription_is_read(tmp_path: Path) -> None:
    (found,) = load(tmp_path, NEW).subscriptions
    assert (found.name, found.pubsub, found.topic, found.dead_letter_topic) == ("orders", "pubsub", "orders", "dead")
    assert found.rules == (RouteRule('event.type == "a"', "/a"), RouteRule("", "/b"))
    assert found.default_route == "/c"
    assert found.metadata == {"rawPayload": "true"}
    assert found.bulk == BulkSubscribe(True, 5, 40)


def test_older_subscription_is_read(tmp_path: Path) -> None:
    (found,) = load(tmp_path, OLD).subscriptions
    assert (found.rules, found.default_route, found.bulk) == ((), "/old", BulkSubscribe(False, 100, 1000))


def test_last_subscription_of_a_name_wins(tmp_path: Path) -> None:
    (found,) = load(tmp_path, OLD + "---" + NEW).subscriptions
    assert found.default_route == "/c"


def test_subscription_of_another_app_is_dropped(tmp_path: Path) -> None:
    assert load(tmp_path, NEW, app_id="stranger").subscriptions == ()


@pytest.mark.parametrize("field", ["pubsubname: pubsub, ", "topic: orders, "])
def test_subscription_needs_its_names(tmp_path: Path, field: str) -> None:
    resources = load(tmp_path, OLD.replace(field, ""))
    assert resources.subscriptions == ()
    assert "expected a name, found nothing; this Subscription is left out" in resources.warnings[0]


def test_fields_of_the_other_version_are_named(tmp_path: Path) -> None:
    (warning,) = load(tmp_path, OLD.replace("route:", "routes:").replace("/old", "{default: /x}")).warnings
    assert "unknown field 'spec.routes' is ignored (did you mean \"route\"?)" in warning


ENDPOINT = """
apiVersion: dapr.io/v1alpha1
kind: HTTPEndpoint
metadata: {name: github}
spec:
  baseUrl: https://api.github.com
  headers:
  - {name: Accept, value: text/plain}
  - {name: Token, secretKeyRef: {name: t, key: k}}
  clientTLS:
    rootCA: {value: PEM}
    privateKey: {secretKeyRef: {name: key, key: pem}}
    renegotiation: OnceAsClient
auth: {secretStore: vault}
"""


def test_whole_endpoint_is_read(tmp_path: Path) -> None:
    (found,) = load(tmp_path, ENDPOINT).http_endpoints
    assert (found.name, found.base_url, found.secret_store) == ("github", "https://api.github.com", "vault")
    assert found.headers == (MetadataItem("Accept", "text/plain"), MetadataItem("Token", None, "t", "k"))
    assert (found.root_ca, found.certificate) == (MetadataItem("rootCA", "PEM"), None)
    assert found.private_key == MetadataItem("privateKey", None, "key", "pem")
    assert found.renegotiation == "OnceAsClient"


@pytest.mark.parametrize(
    ("right", "wrong", "text"),
    [
        ("https://api.github.com", "github", "spec.baseUrl: expected a URL"),
        ("OnceAsClient", "Sometimes", "spec.clientTLS.renegotiation: expected Never or OnceAsClient or FreelyAsClient"),
    ],
)
def test_bad_endpoint_is_left_out(tmp_path: Path, right: str, wrong: str, text: str) -> None:
    resources = load(tmp_path, ENDPOINT.replace(right, wrong))
    assert resources.http_endpoints == ()
    assert text in resources.warnings[0]


def test_doubled_endpoint_takes_all_away(tmp_path: Path) -> None:
    resources = load(tmp_path, ENDPOINT + "---" + ENDPOINT)
    assert resources.http_endpoints == ()
    assert "no HTTPEndpoint at all is loaded" in resources.warnings[-1]


def test_endpoint_of_another_place_is_dropped(tmp_path: Path) -> None:
    elsewhere = ENDPOINT.replace("{name: github}", "{name: github, namespace: b}")
    assert load(tmp_path, elsewhere, namespace="a").http_endpoints == ()
    assert load(tmp_path, ENDPOINT + "scopes: [other]\n").http_endpoints == ()


RESILIENCY = """
apiVersion: dapr.io/v1alpha1
kind: Resiliency
metadata: {name: a/b}
spec:
  policies: {timeouts: {fast: 500}}
"""


def test_resiliency_keeps_its_spec(tmp_path: Path) -> None:
    (found,) = load(tmp_path, RESILIENCY).resiliencies
    assert (found.name, found.spec) == ("a/b", {"policies": {"timeouts": {"fast": 500}}})


def test_resiliency_has_no_namespace_filter(tmp_path: Path) -> None:
    elsewhere = RESILIENCY.replace("{name: a/b}", "{name: r, namespace: b}")
    assert len(load(tmp_path, elsewhere, namespace="a").resiliencies) == 1
    assert load(tmp_path, RESILIENCY + "scopes: [other]\n").resiliencies == ()


def test_only_first_document_may_be_resiliency(tmp_path: Path) -> None:
    resources = load(tmp_path, component() + "---" + RESILIENCY)
    assert resources.resiliencies == ()
    assert "only the first document of a file is read for this kind" in resources.warnings[0]


def test_resiliency_spec_must_be_a_mapping(tmp_path: Path) -> None:
    resources = load(tmp_path, "apiVersion: dapr.io/v1alpha1\nkind: Resiliency\nmetadata: {name: r}\nspec: [a]\n")
    assert resources.resiliencies == ()
    assert "spec: expected a mapping, found a list" in resources.warnings[0]


def test_empty_resiliency_is_fine(tmp_path: Path) -> None:
    (found,) = load(tmp_path, "apiVersion: dapr.io/v1alpha1\nkind: Resiliency\nmetadata: {name: r}\n").resiliencies
    assert found.spec == {}


def test_kinds_of_later_are_listed(tmp_path: Path) -> None:
    text = "apiVersion: dapr.io/v1alpha1\nkind: MCPServer\nmetadata: {name: tools}\nspec: {endpoint: {}}\n"
    resources = load(tmp_path, text + "---\n" + text.replace("MCPServer", "WorkflowAccessPolicy") + "scopes: [b]\n")
    assert [(item.kind, item.name) for item in resources.later] == [("MCPServer", "tools")]
    assert resources.warnings == ()


def test_defaults_hold_without_any_component(tmp_path: Path) -> None:
    assert not load(tmp_path, NEW).has_components
    found = default_components("/var/lib/x")
    assert [(item.name, item.type) for item in found] == [
        ("secretstore", "secretstores.local.env"),
        ("statestore", "state.sqlite"),
        ("pubsub", "pubsub.sqlite"),
        ("configstore", "configuration.sqlite"),
    ]
    assert found[1].metadata == (MetadataItem("connectionString", "/var/lib/x/statestore.db"),)
