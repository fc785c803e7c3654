"""The environment variables that the runtime reads, typed, and those that it sets for its components.

Everything takes the mapping as an argument: the apps of one node have an environment each.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import unquote

from edge_runtime.config.flags import DaprdFlags
from edge_runtime.config.settings import Otel, Tracing
from edge_runtime.config.values import truthy
from edge_runtime.model.errors import ConfigError

STATE_DIR_VARIABLE: Final = "EDGE_RUNTIME_STATE_DIR"


class OtelVariables(NamedTuple):
    """What OTEL_EXPORTER_OTLP_* say; None and empty are unset."""

    endpoint: str = ""
    protocol: str = ""
    insecure: bool = False
    headers: tuple[tuple[str, str], ...] = ()
    timeout_s: float | None = None
    service_name: str = ""
    resource_attributes: tuple[tuple[str, str], ...] = ()


class Environment(NamedTuple):
    """`namespace` is as it was set (empty switches the namespace filter off); `env_keys` None allows every envRef."""

    namespace: str = ""
    pod_name: str | None = None
    api_token: str = ""
    app_token: str = ""
    host_ip: str = ""
    disable_h2c: bool = False
    env_keys: frozenset[str] | None = None
    trust_anchors: str = ""
    scheduler_addresses: tuple[str, ...] = ()
    otel: OtelVariables = OtelVariables()

    @property
    def namespace_or_default(self) -> str:
        """The namespace of identity, `{namespace}` and invocation."""
        return self.namespace or "default"


# Read by Dapr, without effect here yet: name → which later part will read it.
LATER_VARIABLES: Final[Mapping[str, str]] = {
    "DAPR_TRUST_ANCHORS": "mTLS between nodes",
    "DAPR_CONTROLPLANE_NAMESPACE": "mTLS between nodes",
    "DAPR_CONTROLPLANE_TRUST_DOMAIN": "mTLS between nodes",
    "DAPR_SENTRY_TOKEN_FILE": "mTLS between nodes",
    "SENTRY_LOCAL_IDENTITY": "mTLS between nodes",
    "DAPR_SCHEDULER_HOST_ADDRESS_DNS_A": "jobs, which need no scheduler service here",
    "DAPR_COMPONENTS_SOCKETS_FOLDER": "pluggable components",
    "DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK": "pluggable components",
}


def read_environment(variables: Mapping[str, str]) -> Environment:
    """The variables of one app. Raises ConfigError for a malformed one."""
    keys = variables.get("DAPR_ENV_KEYS", "")
    return Environment(
        variables.get("NAMESPACE", ""),
        variables.get("POD_NAME"),
        variables.get("DAPR_API_TOKEN", ""),
        variables.get("APP_API_TOKEN", ""),
        variables.get("DAPR_HOST_IP", ""),
        truthy(variables.get("DAPR_HTTP_DISABLE_H2C", "")),
        frozenset(keys.split()) if keys.strip() else None,
        variables.get("DAPR_TRUST_ANCHORS", ""),
        tuple(filter(None, variables.get("DAPR_SCHEDULER_HOST_ADDRESS_DNS_A", "").split(","))),
        _otel(variables),
    )


def later_variables(variables: Mapping[str, str]) -> list[str]:
    """One line for each variable that is set, known and has no effect yet."""
    return [
        f"the variable {name} has no effect yet; it comes with {part}"
        for name, part in LATER_VARIABLES.items()
        if variables.get(name)
    ]


def _otel(variables: Mapping[str, str]) -> OtelVariables:
    return OtelVariables(
        _otlp(variables, "ENDPOINT")[1],
        _otlp(variables, "PROTOCOL")[1],
        variables.get("OTEL_EXPORTER_OTLP_INSECURE") == "true",
        _pairs(*_otlp(variables, "HEADERS")),
        _milliseconds(*_otlp(variables, "TIMEOUT")),
        variables.get("OTEL_SERVICE_NAME", ""),
        _pairs("OTEL_RESOURCE_ATTRIBUTES", variables.get("OTEL_RESOURCE_ATTRIBUTES", "")),
    )


def _otlp(variables: Mapping[str, str], ending: str) -> tuple[str, str]:
    """Name and value of the first non-empty one, that for traces before the general one."""
    for name in (f"OTEL_EXPORTER_OTLP_TRACES_{ending}", f"OTEL_EXPORTER_OTLP_{ending}"):
        if variables.get(name):
            return name, variables[name]
    return f"OTEL_EXPORTER_OTLP_{ending}", ""


def _pairs(name: str, text: str) -> tuple[tuple[str, str], ...]:
    pairs = []
    for part in text.split(",") if text else []:
        key, equals, value = part.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"the variable {name} has {part!r}: expected name=value pairs parted by commas")
        pairs.append((key.strip(), unquote(value.strip())))
    return tuple(pairs)


def _milliseconds(name: str, text: str) -> float | None:
    if not text:
        return None
    try:
        return int(text, 10) / 1000
    except ValueError:
        raise ConfigError(f"the variable {name} is {text!r}: expected whole milliseconds such as 10000") from None


def with_otel_variables(tracing: Tracing, otel: OtelVariables) -> Tracing:
    """The Configuration's tracing, its exporter taken from the variables when it names no endpoint itself."""
    if tracing.otel.endpoint or not otel.endpoint:
        return tracing
    exporter = Otel(
        otel.endpoint.partition("://")[2] or otel.endpoint,
        "http" if otel.protocol.startswith("http") else "grpc",
        not otel.insecure,
        otel.headers,
        10.0 if otel.timeout_s is None else otel.timeout_s,
    )
    return tracing._replace(otel=exporter, sampling_rate=tracing.sampling_rate or "1")


def state_dir(environment: Mapping[str, str], flag: str = "") -> str:
    """Where the runtime keeps what is its own: as told, as systemd says, else the system's or the user's place."""
    for told in (flag, environment.get(STATE_DIR_VARIABLE, "")):
        if told:
            return os.path.abspath(told)
    # systemd's StateDirectory=; with several directories, the first.
    managed = environment.get("STATE_DIRECTORY", "").partition(":")[0]
    if managed:
        return managed
    if os.geteuid() == 0:
        return "/var/lib/edge-runtime"
    home = _home_directory()
    if home:
        return os.path.join(home, ".local", "state", "edge-runtime")
    return f"/var/tmp/edge-runtime-{os.geteuid()}"


def _home_directory() -> str:
    """From the user database, so that it is the same from a login, a unit and a cron job; empty when there is none."""
    import pwd

    try:
        home = pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:
        return ""
    return home if os.path.isdir(home) and os.access(home, os.W_OK) else ""


def own_variables(flags: DaprdFlags, host_address: str) -> dict[str, str]:
    """What the sidecar sets in its own environment: components, envRef and secretstores.local.env see them."""
    return {
        "APP_ID": flags.app_id,
        "APP_PORT": str(flags.app_port or 0),
        "HOST_ADDRESS": host_address,
        "DAPR_PORT": str(flags.dapr_internal_grpc_port or 0),
        "DAPR_GRPC_PORT": str(flags.dapr_grpc_port),
        "DAPR_HTTP_PORT": str(flags.dapr_http_port),
        "DAPR_METRICS_PORT": str(flags.metrics_port),
        "DAPR_PROFILE_PORT": str(flags.profile_port),
    }
