"""The Configuration resource: the `--config` files merged in order, then read into values.

Merging happens on the trees, before any field is typed: mappings merge key by key, lists and single values replace, an
explicit null clears. `$NAME` is filled in from the environment in the raw text, as Dapr does it. Keys match by case.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from edge_runtime.config import yaml
from edge_runtime.config.fields import Fields
from edge_runtime.config.resources import read_text_file
from edge_runtime.config.settings import (
    AccessControl,
    ApiLogging,
    ApiRule,
    AppPolicy,
    Configuration,
    Handler,
    MetricRule,
    MetricSettings,
    NameResolution,
    Operation,
    Otel,
    SecretScope,
    Tracing,
    WorkflowSettings,
)
from edge_runtime.config.values import go_duration_s
from edge_runtime.config.yaml import Table
from edge_runtime.model.errors import ConfigError

__all__ = ["Configuration", "expand", "load_configuration", "read_configuration"]


def load_configuration(paths: Iterable[str], environment: Mapping[str, str]) -> Configuration:
    """The files merged over the defaults. Raises ConfigError with file, line and field."""
    root: Table | None = None
    notes: list[str] = []
    for path in paths:
        table = _read(path, environment, notes)
        root = _merged(root, table) if root is not None and table is not None else table or root
    return read_configuration(root, notes)


def _read(path: str, environment: Mapping[str, str], notes: list[str]) -> Table | None:
    try:
        data = read_text_file(path)
    except ConfigError as error:
        raise ConfigError(f"--config {error}; expected a Configuration file") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: no UTF-8; save the file as UTF-8") from None
    text = expand(text, environment, path, notes)
    chunks = [chunk for chunk in yaml.split_documents(text.encode()) if chunk.data.strip()]
    if not chunks:
        return None
    if len(chunks) > 1:
        notes.append(f"{path}:{chunks[1].first_line}: only the first document of a Configuration file is read")
    document = yaml.parse_document(chunks[0], path)
    notes.extend(document.notes)
    if document.root is not None and not isinstance(document.root, Table):
        raise ConfigError(f"{path}:{document.root.line}: expected a mapping with apiVersion, kind and spec")
    return document.root


_VARIABLE: Final = re.compile(r"\$(?:\{([^}]*)\}|(\{)|([A-Za-z_][A-Za-z0-9_]*)|([*#$@!?0-9-]))")


def expand(text: str, environment: Mapping[str, str], file: str = "", notes: list[str] | None = None) -> str:
    """`$NAME` and `${NAME}` by the environment's values; an unknown name is empty. Other `$` stay."""

    def fill(match: re.Match[str]) -> str:
        name = match[1] or match[3] or match[4] or ""
        if notes is not None and name not in environment:
            line = text.count("\n", 0, match.start()) + 1
            notes.append(f"{file}:{line}: the environment has no variable {name!r}; {match[0]} becomes empty")
        return environment.get(name, "")

    return _VARIABLE.sub(fill, text)


def _merged(below: Table, above: Table) -> Table:
    merged = Table(above.file, above.line)
    for table in (below, above):
        for key, node in table.pairs.items():
            earlier = merged.pairs.get(key)
            if isinstance(earlier, Table) and isinstance(node, Table):
                node = _merged(earlier, node)
            merged.put(key, table.key_lines[key], node)
    return merged


# --- from the merged tree to values -----------------------------------------------------------------------------------

_TOP: Final = ("apiVersion", "kind", "metadata", "spec")
_SPEC: Final = (
    "httpPipeline", "appHttpPipeline", "tracing", "metric", "metrics", "mtls", "secrets", "accessControl",
    "nameResolution", "features", "api", "components", "logging", "wasm", "workflow",
)  # fmt: skip
_METRIC: Final = ("enabled", "recordErrorCodes", "http", "latencyDistributionBuckets", "workflow", "rules")
_HTTP_METRIC: Final = ("increasedCardinality", "pathMatching", "excludeVerbs")
_MTLS: Final = (
    "enabled", "workloadCertTTL", "allowedClockSkew", "sentryAddress", "controlPlaneTrustDomain", "tokenValidators",
)  # fmt: skip
_WORKFLOW: Final = (
    "maxConcurrentWorkflowInvocations", "maxConcurrentActivityInvocations", "globalMaxConcurrentWorkflowInvocations",
    "globalMaxConcurrentActivityInvocations", "workflowConcurrencyLimits", "activityConcurrencyLimits",
    "stateRetentionPolicy",
)  # fmt: skip


def read_configuration(root: Table | None, notes: list[str]) -> Configuration:
    """The typed values of a merged tree."""
    spec = Fields(root, "", _TOP, notes, exact=True).fields("spec", _SPEC)
    return Configuration(
        _pipeline(spec, "httpPipeline"),
        _pipeline(spec, "appHttpPipeline"),
        _tracing(spec.fields("tracing", ("samplingRate", "stdout", "zipkin", "otel"))),
        _metrics(spec),
        spec.fields("mtls", _MTLS).flag("enabled", False),
        _secret_scopes(spec),
        _access_control(spec),
        _name_resolution(spec.fields("nameResolution", ("component", "version", "configuration"))),
        {fields.text("name"): fields.flag("enabled", False) for fields in spec.each("features", ("name", "enabled"))},
        _api_rules(spec, "allowed"),
        _api_rules(spec, "denied"),
        spec.fields("components", ("deny",)).texts("deny"),
        _api_logging(spec),
        spec.fields("wasm", ("strictSandbox",)).flag("strictSandbox", False),
        _workflow(spec.fields("workflow", _WORKFLOW)),
        tuple(notes),
    )


def _pipeline(spec: Fields, name: str) -> tuple[Handler, ...]:
    rows = spec.fields(name, ("handlers",)).each("handlers", ("name", "type", "version", "selector"))
    return tuple(Handler(row.text("name"), row.text("type"), row.text("version") or "v1") for row in rows)


def _tracing(fields: Fields) -> Tracing:
    zipkin = fields.fields("zipkin", ("endpointAddress",))
    otel = fields.fields("otel", ("endpointAddress", "protocol", "isSecure", "headers", "timeout"))
    protocol = otel.text("protocol")
    if protocol not in ("", "http", "grpc"):
        raise otel.wrong("protocol", "http or grpc")
    settings = Otel(
        otel.text("endpointAddress"),
        protocol,
        otel.flag("isSecure", True),
        _otel_headers(otel),
        otel.duration_s("timeout", 0.0) or 10.0,
    )
    return Tracing(fields.text("samplingRate"), fields.flag("stdout", False), zipkin.text("endpointAddress"), settings)


def _otel_headers(otel: Fields) -> tuple[tuple[str, str], ...]:
    pairs: list[tuple[str, str]] = []
    for text in otel.texts("headers"):
        name, equals, value = text.partition("=")
        if not equals:
            raise otel.wrong("headers", f'texts such as "name=value", not {text!r}')
        pairs.append((name, value))
    return tuple(pairs)


def _metrics(spec: Fields) -> MetricSettings:
    """`metrics` overrides `metric` one field at a time."""
    sources = [spec.fields(name, _METRIC) for name in ("metrics", "metric")]
    https = [fields.fields("http", _HTTP_METRIC) for fields in sources]
    workflows = [fields.fields("workflow", _WORKFLOW_METRIC) for fields in sources]
    return MetricSettings(
        _first_flag(sources, "enabled", True),
        _first_flag(sources, "recordErrorCodes", False),
        _first_flag(https, "increasedCardinality", True),
        _first_having(https, "pathMatching").texts("pathMatching"),
        _first_flag(https, "excludeVerbs", False),
        _buckets(_first_having(sources, "latencyDistributionBuckets")),
        _buckets(_first_having(workflows, "latencyDistributionBuckets")),
        _first_having(workflows, "latencyDistributionUnits").duration_s("latencyDistributionUnits", 0.001),
        _metric_rules(_first_having(sources, "rules")),
    )


_WORKFLOW_METRIC: Final = ("latencyDistributionBuckets", "latencyDistributionUnits")


def _first_having(sources: list[Fields], name: str) -> Fields:
    return next((fields for fields in sources if name in fields), sources[-1])


def _first_flag(sources: list[Fields], name: str, default: bool) -> bool:
    return _first_having(sources, name).flag(name, default)


def _buckets(fields: Fields) -> tuple[int, ...] | None:
    values = fields.plain("latencyDistributionBuckets")
    if values is None:
        return None
    if not isinstance(values, list) or not all(type(value) is int for value in values):
        raise fields.wrong("latencyDistributionBuckets", "a list of whole numbers")
    return tuple(values) or None


def _metric_rules(fields: Fields) -> tuple[MetricRule, ...]:
    rules = []
    for rule in fields.each("rules", ("name", "labels")):
        labels = []
        for label in rule.each("labels", ("name", "regex")):
            pairs = tuple(label.text_map("regex").items())
            for replacement, pattern in pairs:
                _check_pattern(label, replacement, pattern)
            labels.append((label.text("name"), pairs))
        rules.append(MetricRule(rule.text("name"), tuple(labels)))
    return tuple(rules)


def _check_pattern(label: Fields, replacement: str, pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise label.fields("regex", ()).wrong(replacement, f"a regular expression ({error})") from None


def _secret_scopes(spec: Fields) -> tuple[SecretScope, ...]:
    scopes: dict[str, SecretScope] = {}
    known = ("storeName", "defaultAccess", "allowedSecrets", "deniedSecrets")
    for row in spec.fields("secrets", ("scopes",)).each("scopes", known):
        store = row.text("storeName")
        if store in scopes:
            raise row.wrong("storeName", "each secret store once in spec.secrets.scopes")
        access = row.text("defaultAccess").lower() or "allow"
        if access not in ("allow", "deny"):
            raise row.wrong("defaultAccess", "allow or deny")
        scopes[store] = SecretScope(store, access, row.texts("allowedSecrets"), row.texts("deniedSecrets"))
    return tuple(scopes.values())


def _access_control(spec: Fields) -> AccessControl | None:
    if "accessControl" not in spec:
        return None if "accessControl" in spec.names() else AccessControl()
    fields = spec.fields("accessControl", ("defaultAction", "trustDomain", "policies"))
    policies = tuple(_app_policy(row) for row in fields.each("policies", _POLICY))
    action = fields.text("defaultAction")
    if not action:
        written_empty = "defaultAction" in fields.names()
        action = "deny" if policies and written_empty else "allow"
    return AccessControl(action.lower(), fields.text("trustDomain") or "public", policies)


_POLICY: Final = ("appId", "namespace", "trustDomain", "defaultAction", "operations")


def _app_policy(row: Fields) -> AppPolicy:
    for name in ("appId", "namespace", "trustDomain"):
        if not row.text(name):
            raise row.wrong(name, "a name; appId, namespace and trustDomain are all needed")
    operations = tuple(
        Operation(fields.text("name"), fields.texts("httpVerb"), fields.text("action").lower())
        for fields in row.each("operations", ("name", "httpVerb", "action"))
    )
    return AppPolicy(
        row.text("appId"), row.text("namespace"), row.text("trustDomain"), row.text("defaultAction").lower(), operations
    )


def _name_resolution(fields: Fields) -> NameResolution:
    return NameResolution(
        fields.text("component") or "mdns", fields.text("version") or "v1", fields.plain("configuration")
    )


def _api_rules(spec: Fields, name: str) -> tuple[ApiRule, ...]:
    rules = []
    for row in spec.fields("api", ("allowed", "denied")).each(name, ("name", "version", "protocol")):
        if row.text("protocol").lower() not in ("http", "grpc"):
            raise row.wrong("protocol", "http or grpc")
        rules.append(ApiRule(row.text("name"), row.text("version"), row.text("protocol")))
    return tuple(rules)


def _api_logging(spec: Fields) -> ApiLogging:
    known = ("enabled", "obfuscateURLs", "omitHealthChecks")
    fields = spec.fields("logging", ("apiLogging",)).fields("apiLogging", known)
    return ApiLogging(
        fields.flag("enabled", False), fields.flag("obfuscateURLs", False), fields.flag("omitHealthChecks", False)
    )


def _workflow(fields: Fields) -> WorkflowSettings:
    retention = fields.fields("stateRetentionPolicy", ("anyTerminal", "completed", "failed", "terminated"))
    return WorkflowSettings(
        _limit(fields, "maxConcurrentWorkflowInvocations"),
        _limit(fields, "maxConcurrentActivityInvocations"),
        _limit(fields, "globalMaxConcurrentWorkflowInvocations"),
        _limit(fields, "globalMaxConcurrentActivityInvocations"),
        _named_limits(fields, "workflowConcurrencyLimits"),
        _named_limits(fields, "activityConcurrencyLimits"),
        {
            name: retention.parsed(name, go_duration_s, "a duration such as 0s, 10m or 24h", 0.0)
            for name in retention.names()
            if name in retention
        },
    )


def _limit(fields: Fields, name: str) -> int | None:
    value = fields.integer(name, 0)
    return value if value > 0 else None


def _named_limits(fields: Fields, name: str) -> tuple[tuple[str, int], ...]:
    return tuple(
        (row.text("name"), row.integer("maxConcurrent", 0)) for row in fields.each(name, ("name", "maxConcurrent"))
    )
