"""The values of a Configuration resource, with their defaults. `configuration.py` reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple


class Handler(NamedTuple):
    """A middleware component in a pipeline; the first is outermost."""

    name: str
    type: str
    version: str = "v1"


class Otel(NamedTuple):
    """The OpenTelemetry exporter. It runs when endpoint and protocol are both there."""

    endpoint: str = ""
    protocol: str = ""
    secure: bool = True
    headers: tuple[tuple[str, str], ...] = ()
    timeout_s: float = 10.0


class Tracing(NamedTuple):
    """`sampling_rate` is the text that was written: empty is 0.0001 for the sampler, `0` switches tracing off."""

    sampling_rate: str = ""
    stdout: bool = False
    zipkin_endpoint: str = ""
    otel: Otel = Otel()


class MetricRule(NamedTuple):
    """Rewrites label values of one metric: (label, ((replacement, pattern), …)) each."""

    name: str
    labels: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]


class MetricSettings(NamedTuple):
    """`spec.metric` with `spec.metrics` over it. Buckets None are the built-in ones."""

    enabled: bool = True
    record_error_codes: bool = False
    http_increased_cardinality: bool = True
    http_path_matching: tuple[str, ...] = ()
    http_exclude_verbs: bool = False
    latency_buckets_ms: tuple[int, ...] | None = None
    workflow_latency_buckets: tuple[int, ...] | None = None
    workflow_latency_unit_s: float = 0.001
    rules: tuple[MetricRule, ...] = ()


class SecretScope(NamedTuple):
    """Which secrets of one store the API gives. `default_access` is allow or deny."""

    store: str
    default_access: str = "allow"
    allowed: tuple[str, ...] = ()
    denied: tuple[str, ...] = ()


class Operation(NamedTuple):
    name: str
    verbs: tuple[str, ...]
    action: str


class AppPolicy(NamedTuple):
    """What one caller may do; `default_action` may be empty."""

    app_id: str
    namespace: str
    trust_domain: str
    default_action: str
    operations: tuple[Operation, ...]


class AccessControl(NamedTuple):
    default_action: str = "allow"
    trust_domain: str = "public"
    policies: tuple[AppPolicy, ...] = ()


class NameResolution(NamedTuple):
    """`configuration` is free-form."""

    component: str = "mdns"
    version: str = "v1"
    configuration: Any = None


class ApiRule(NamedTuple):
    name: str
    version: str
    protocol: str


class ApiLogging(NamedTuple):
    enabled: bool = False
    obfuscate_urls: bool = False
    omit_health_checks: bool = False


class WorkflowSettings(NamedTuple):
    """Limits are None for unlimited; retention is seconds by outcome, absent for ever."""

    invocations_max: int | None = None
    activities_max: int | None = None
    invocations_global_max: int | None = None
    activities_global_max: int | None = None
    workflow_limits: tuple[tuple[str, int], ...] = ()
    activity_limits: tuple[tuple[str, int], ...] = ()
    retention_s: Mapping[str, float] = {}


class Configuration(NamedTuple):
    """Everything that `--config` can say. `access_control` is None when a null cleared it: then all is allowed."""

    http_pipeline: tuple[Handler, ...] = ()
    app_http_pipeline: tuple[Handler, ...] = ()
    tracing: Tracing = Tracing()
    metrics: MetricSettings = MetricSettings()
    mtls_enabled: bool = False
    secret_scopes: tuple[SecretScope, ...] = ()
    access_control: AccessControl | None = AccessControl()
    name_resolution: NameResolution = NameResolution()
    features: Mapping[str, bool] = {}
    api_allowed: tuple[ApiRule, ...] = ()
    api_denied: tuple[ApiRule, ...] = ()
    components_denied: tuple[str, ...] = ()
    api_logging: ApiLogging = ApiLogging()
    wasm_strict_sandbox: bool = False
    workflow: WorkflowSettings = WorkflowSettings()
    warnings: tuple[str, ...] = ()

    def feature(self, name: str) -> bool:
        """Whether a feature is on; those that Dapr has on by default are on."""
        return self.features.get(name, name in FEATURES_ON)

    def denies_component(self, component_type: str, version: str) -> bool:
        """`components.deny`: an exact `type` or `type/version`. With a list, an empty type or version is denied too."""
        denied = self.components_denied
        if not denied:
            return False
        if not component_type or not version:
            return True
        return component_type in denied or f"{component_type}/{version}" in denied


FEATURES_ON: Final = frozenset({"HotReload", "WorkflowsRemoteActivityReminder"})
