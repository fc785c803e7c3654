"""Configuration files: merged in order, variables filled in, every field typed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from edge_runtime.config.configuration import expand, load_configuration
from edge_runtime.config.settings import (
    AccessControl,
    ApiLogging,
    ApiRule,
    AppPolicy,
    Configuration,
    Handler,
    MetricRule,
    NameResolution,
    Operation,
    Otel,
    SecretScope,
)
from edge_runtime.model.errors import ConfigError


def load(directory: Path, *texts: str, environment: Mapping[str, str] | None = None) -> Configuration:
    paths = []
    for index, text in enumerate(texts):
        path = directory / f"{index}.yaml"
        path.write_text(text)
        paths.append(str(path))
    return load_configuration(paths, environment or {})


def spec(text: str) -> str:
    return "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {name: c}\nspec:\n" + text


def test_no_file_is_the_defaults() -> None:
    assert load_configuration([], {}) == Configuration()
    assert Configuration().feature("HotReload")
    assert not Configuration().feature("ActorStateTTL")


WHOLE = """
  httpPipeline: {handlers: [{name: a, type: middleware.http.routeralias, selector: {fields: []}}]}
  appHttpPipeline: {handlers: [{name: b, type: middleware.http.bearer, version: v2}]}
  tracing:
    samplingRate: 1
    stdout: yes
    zipkin: {endpointAddress: "http://z/api"}
    otel: {endpointAddress: "h:4317", protocol: grpc, isSecure: false, headers: ["a=b=c", "d="], timeout: 3s}
  mtls: {enabled: true}
  secrets:
    scopes:
    - {storeName: s, defaultAccess: Deny, allowedSecrets: [x], deniedSecrets: [y]}
    - {storeName: t}
  accessControl:
    defaultAction: DENY
    trustDomain: home
    policies:
    - appId: caller
      namespace: default
      trustDomain: public
      defaultAction: allow
      operations: [{name: /a, httpVerb: [GET], action: deny}]
  nameResolution: {component: sqlite, version: v2, configuration: {a: 1}}
  features: [{name: HotReload, enabled: false}, {name: Mine, enabled: true}]
  api:
    allowed: [{name: state, version: v1.0, protocol: HTTP}]
    denied: [{name: invoke, version: v1, protocol: grpc}]
  components: {deny: [bindings.smtp, state.x/v2]}
  logging: {apiLogging: {enabled: true, obfuscateURLs: true, omitHealthChecks: true}}
  wasm: {strictSandbox: true}
  workflow:
    maxConcurrentWorkflowInvocations: 5
    maxConcurrentActivityInvocations: 0
    workflowConcurrencyLimits: [{name: w, maxConcurrent: 2}]
    stateRetentionPolicy: {anyTerminal: 24h, failed: 0s}
"""


def test_every_field_is_read(tmp_path: Path) -> None:
    found = load(tmp_path, spec(WHOLE))
    assert found.warnings == ()
    assert found.http_pipeline == (Handler("a", "middleware.http.routeralias", "v1"),)
    assert found.app_http_pipeline == (Handler("b", "middleware.http.bearer", "v2"),)
    assert (found.tracing.sampling_rate, found.tracing.stdout) == ("1", True)
    assert found.tracing.zipkin_endpoint == "http://z/api"
    assert found.tracing.otel == Otel("h:4317", "grpc", False, (("a", "b=c"), ("d", "")), 3.0)
    assert found.mtls_enabled
    assert found.secret_scopes == (SecretScope("s", "deny", ("x",), ("y",)), SecretScope("t"))
    operation = Operation("/a", ("GET",), "deny")
    policy = AppPolicy("caller", "default", "public", "allow", (operation,))
    assert found.access_control == AccessControl("deny", "home", (policy,))
    assert found.name_resolution == NameResolution("sqlite", "v2", {"a": 1})
    assert not found.feature("HotReload")
    assert found.feature("Mine")
    assert found.api_allowed == (ApiRule("state", "v1.0", "HTTP"),)
    assert found.api_denied == (ApiRule("invoke", "v1", "grpc"),)
    assert found.components_denied == ("bindings.smtp", "state.x/v2")
    assert found.api_logging == ApiLogging(True, True, True)
    assert found.wasm_strict_sandbox
    assert (found.workflow.invocations_max, found.workflow.activities_max) == (5, None)
    assert found.workflow.workflow_limits == (("w", 2),)
    assert found.workflow.retention_s == {"anyTerminal": 86400.0, "failed": 0.0}


def test_metrics_overrides_metric_field_by_field(tmp_path: Path) -> None:
    text = """
  metric:
    enabled: true
    recordErrorCodes: true
    http: {increasedCardinality: false, pathMatching: [/a], excludeVerbs: true}
    latencyDistributionBuckets: [1, 2]
    rules: [{name: dapr_x, labels: [{name: method, regex: {"orders/": "orders/.+"}}]}]
  metrics:
    enabled: false
    http: {pathMatching: [/b, /c]}
    workflow: {latencyDistributionBuckets: [5], latencyDistributionUnits: 1s}
"""
    found = load(tmp_path, spec(text)).metrics
    assert (found.enabled, found.record_error_codes) == (False, True)
    assert (found.http_increased_cardinality, found.http_exclude_verbs) == (False, True)
    assert found.http_path_matching == ("/b", "/c")
    assert (found.latency_buckets_ms, found.workflow_latency_buckets) == ((1, 2), (5,))
    assert found.workflow_latency_unit_s == 1.0
    assert found.rules == (MetricRule("dapr_x", (("method", (("orders/", "orders/.+"),)),)),)


def test_later_files_merge_over_earlier(tmp_path: Path) -> None:
    first = spec("  tracing: {samplingRate: '1', stdout: true}\n  features: [{name: A, enabled: true}]\n")
    second = spec("  tracing: {samplingRate: '0'}\n  features: [{name: B, enabled: true}]\n")
    found = load(tmp_path, first, second)
    assert (found.tracing.sampling_rate, found.tracing.stdout) == ("0", True)
    assert found.features == {"B": True}


def test_null_clears_what_was_said(tmp_path: Path) -> None:
    first = spec("  tracing: {samplingRate: '1'}\n  accessControl: {defaultAction: deny}\n")
    found = load(tmp_path, first, spec("  tracing: null\n  accessControl: null\n"))
    assert found.tracing.sampling_rate == ""
    assert found.access_control is None


def test_empty_files_change_nothing(tmp_path: Path) -> None:
    assert load(tmp_path, spec("  mtls: {enabled: true}\n"), "", "# nothing\n").mtls_enabled
    assert load(tmp_path, "", spec("  mtls: {enabled: true}\n")).mtls_enabled


EXPANSIONS = [
    ("$HOST", "here"),
    ("${HOST}", "here"),
    ("x$HOST.y", "xhere.y"),
    ("$MISSING.", "."),
    ("cost $ 5", "cost $ 5"),
    ("'$'", "'$'"),
    ("end $", "end $"),
    ("$$", ""),
    ("$1x", "x"),
    ("${}", ""),
    ("${HOST", "HOST"),
]


@pytest.mark.parametrize(("text", "expanded"), EXPANSIONS, ids=[text for text, _ in EXPANSIONS])
def test_variables_expand_as_in_go(text: str, expanded: str) -> None:
    assert expand(text, {"HOST": "here"}) == expanded


def test_unset_variable_is_named(tmp_path: Path) -> None:
    found = load(tmp_path, spec("  tracing: {samplingRate: '${RATE}'}\n"), environment={})
    assert "0.yaml:5: the environment has no variable 'RATE'; ${RATE} becomes empty" in found.warnings[0]
    found = load(tmp_path, spec("  tracing: {samplingRate: '${R}'}\n"), environment={"R": "0.5"})
    assert (found.tracing.sampling_rate, found.warnings) == ("0.5", ())


def test_keys_match_by_case(tmp_path: Path) -> None:
    found = load(tmp_path, spec("  Tracing: {samplingRate: '1'}\n"))
    assert found.tracing.sampling_rate == ""
    assert "unknown field 'spec.Tracing' is ignored (did you mean \"tracing\"?)" in found.warnings[0]


def test_only_first_document_is_read(tmp_path: Path) -> None:
    found = load(tmp_path, spec("  mtls: {enabled: true}\n") + "---\n" + spec("  mtls: {enabled: false}\n"))
    assert found.mtls_enabled
    assert "only the first document of a Configuration file is read" in found.warnings[0]


FATAL = [
    ("  mtls: {enabled: maybe}\n", "spec.mtls.enabled: expected true or false"),
    ("  mtls: [a]\n", "spec.mtls: expected a mapping, found a list"),
    ("  tracing: {otel: {protocol: udp}}\n", "spec.tracing.otel.protocol: expected http or grpc, found 'udp'"),
    ("  tracing: {otel: {headers: [novalue]}}\n", "not 'novalue'"),
    ("  tracing: {otel: {timeout: soon}}\n", "spec.tracing.otel.timeout: expected a duration"),
    ("  secrets: {scopes: [{storeName: a}, {storeName: a}]}\n", "each secret store once"),
    ("  components: {deny: [[a]]}\n", "spec.components.deny[0]: expected a text, found a list"),
    ("  secrets: {scopes: [{storeName: a, defaultAccess: ask}]}\n", "expected allow or deny, found 'ask'"),
    ("  accessControl: {policies: [{appId: a, namespace: b}]}\n", "policies[0].trustDomain: expected a name"),
    ("  api: {allowed: [{name: a, version: v1, protocol: udp}]}\n", "expected http or grpc, found 'udp'"),
    ("  metric: {latencyDistributionBuckets: [a]}\n", "expected a list of whole numbers"),
    ("  metric: {rules: [{labels: [{regex: {a: '['}}]}]}\n", "expected a regular expression"),
    ("  workflow: {stateRetentionPolicy: {failed: never}}\n", "expected a duration such as 0s"),
    ("  workflow: {maxConcurrentWorkflowInvocations: many}\n", "expected a whole number"),
    ("  workflow: {maxConcurrentWorkflowInvocations: .inf}\n", "expected a whole number, without quotes, found '.inf'"),
    ("  workflow: {maxConcurrentWorkflowInvocations: 1.5}\n", "expected a whole number"),
    ("  features: {HotReload: false}\n", "spec.features: expected a list, found a mapping"),
    ("  a: [\n", "no valid YAML"),
]


@pytest.mark.parametrize(("text", "problem"), FATAL, ids=[problem[:40] for _, problem in FATAL])
def test_wrong_types_stop_the_start(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load(tmp_path, spec(text))
    assert problem in str(raised.value)
    assert str(tmp_path / "0.yaml") in str(raised.value)


def test_unreadable_files_stop_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--config .*none.yaml: cannot be read: No such file"):
        load_configuration([str(tmp_path / "none.yaml")], {})
    with pytest.raises(ConfigError, match=r"0.yaml:1: expected a mapping with apiVersion"):
        load(tmp_path, "- a\n")
    (tmp_path / "latin.yaml").write_bytes(b"a: 1\nb: caf\xe9\n")
    with pytest.raises(ConfigError, match=r"latin.yaml:2: no UTF-8"):
        load_configuration([str(tmp_path / "latin.yaml")], {})


POLICY = "[{appId: a, namespace: b, trustDomain: c}]"


@pytest.mark.parametrize(
    ("text", "action"),
    [("{}", "allow"), (f"{{policies: {POLICY}}}", "allow"), (f"{{defaultAction: '', policies: {POLICY}}}", "deny")],
)
def test_default_action_is_filled_in(tmp_path: Path, text: str, action: str) -> None:
    control = load(tmp_path, spec(f"  accessControl: {text}\n")).access_control
    assert control is not None
    assert control.default_action == action


def test_denied_components_match_exactly() -> None:
    listed = Configuration(components_denied=("bindings.smtp", "state.x/v2"))
    assert listed.denies_component("bindings.smtp", "v1")
    assert listed.denies_component("state.x", "v2")
    assert not listed.denies_component("state.x", "v1")
    assert listed.denies_component("state.y", "")
    assert not Configuration().denies_component("", "")
