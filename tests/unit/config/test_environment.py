"""Environment variables, and where the runtime keeps its files."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from pathlib import Path

import pytest

from edge_runtime.config import environment as subject
from edge_runtime.config.environment import (
    Environment,
    OtelVariables,
    later_variables,
    own_variables,
    read_environment,
    state_dir,
    with_otel_variables,
)
from edge_runtime.config.flags import parse_flags
from edge_runtime.config.settings import Otel, Tracing
from edge_runtime.model.errors import ConfigError


def test_nothing_set_is_the_defaults() -> None:
    assert read_environment({}) == Environment()
    assert Environment().namespace_or_default == "default"


def test_every_variable_is_read() -> None:
    found = read_environment(
        {
            "NAMESPACE": "prod",
            "POD_NAME": "pod-1",
            "DAPR_API_TOKEN": "in",
            "APP_API_TOKEN": "out",
            "DAPR_HOST_IP": "10.0.0.1",
            "DAPR_HTTP_DISABLE_H2C": "Yes",
            "DAPR_ENV_KEYS": "A  B",
            "DAPR_TRUST_ANCHORS": "PEM",
            "DAPR_SCHEDULER_HOST_ADDRESS_DNS_A": "a:1,b:2",
            "OTEL_SERVICE_NAME": "svc",
            "OTEL_RESOURCE_ATTRIBUTES": "k=v",
        }
    )
    assert (found.namespace, found.namespace_or_default, found.pod_name) == ("prod", "prod", "pod-1")
    assert (found.api_token, found.app_token, found.host_ip, found.disable_h2c) == ("in", "out", "10.0.0.1", True)
    assert found.env_keys == {"A", "B"}
    assert found.trust_anchors == "PEM"
    assert found.scheduler_addresses == ("a:1", "b:2")
    assert (found.otel.service_name, found.otel.resource_attributes) == ("svc", (("k", "v"),))


def test_trace_variables_go_before_general_ones() -> None:
    found = read_environment(
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://general:4318",
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://traces:4318",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "",
            "OTEL_EXPORTER_OTLP_INSECURE": "true",
            "OTEL_EXPORTER_OTLP_HEADERS": "a=b%20c, d=e=f",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "1500",
        }
    ).otel
    assert found == OtelVariables(
        "http://traces:4318", "http/protobuf", True, (("a", "b c"), ("d", "e=f")), 1.5, "", ()
    )


@pytest.mark.parametrize(
    ("variables", "text"),
    [
        ({"OTEL_EXPORTER_OTLP_HEADERS": "novalue"}, "OTEL_EXPORTER_OTLP_HEADERS has 'novalue': expected name=value"),
        ({"OTEL_EXPORTER_OTLP_HEADERS": "=b"}, "expected name=value"),
        (
            {"OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "5s"},
            "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT is '5s': expected whole milli",
        ),
    ],
)
def test_malformed_variables_are_named(variables: Mapping[str, str], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        read_environment(variables)


def test_variables_fill_in_an_exporter() -> None:
    variables = OtelVariables("https://host:4317/v1", "grpc", False, (("a", "b"),), None)
    found = with_otel_variables(Tracing(), variables)
    assert found.otel == Otel("host:4317/v1", "grpc", True, (("a", "b"),), 10.0)
    assert found.sampling_rate == "1"
    assert with_otel_variables(Tracing("0.5"), variables).sampling_rate == "0.5"


def test_configured_exporter_stays() -> None:
    written = Tracing(otel=Otel("mine", "http"))
    assert with_otel_variables(written, OtelVariables("other")) is written
    assert with_otel_variables(Tracing(), OtelVariables()) == Tracing()
    assert with_otel_variables(Tracing(), OtelVariables("h:1", "http/json")).otel.protocol == "http"


def test_variables_of_later_are_listed() -> None:
    lines = later_variables({"DAPR_TRUST_ANCHORS": "x", "DAPR_SENTRY_TOKEN_FILE": "", "HOME": "/"})
    assert lines == ["the variable DAPR_TRUST_ANCHORS has no effect yet; it comes with mTLS between nodes"]


def test_sidecar_sets_its_own_variables() -> None:
    flags = parse_flags(["--app-id=a", "--app-port=3000", "--dapr-http-port=3501"])
    assert own_variables(flags, "10.0.0.1") == {
        "APP_ID": "a",
        "APP_PORT": "3000",
        "HOST_ADDRESS": "10.0.0.1",
        "DAPR_PORT": "0",
        "DAPR_GRPC_PORT": "50001",
        "DAPR_HTTP_PORT": "3501",
        "DAPR_METRICS_PORT": "9090",
        "DAPR_PROFILE_PORT": "7777",
    }


class _User:
    def __init__(self, home: str) -> None:
        self.pw_dir = home


def be_user(monkeypatch: pytest.MonkeyPatch, uid: int, home: str | None) -> None:
    def entry(_: int) -> _User:
        if home is None:
            raise KeyError("uid not found")
        return _User(home)

    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(pwd, "getpwuid", entry)


def test_flag_goes_before_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    be_user(monkeypatch, 1000, str(tmp_path))
    variables = {"EDGE_RUNTIME_STATE_DIR": "/variable", "STATE_DIRECTORY": "/managed:/second"}
    assert state_dir(variables, "/flag") == "/flag"
    assert state_dir(variables) == "/variable"
    assert state_dir({"STATE_DIRECTORY": "/managed:/second"}) == "/managed"
    assert state_dir({}, "relative") == os.path.abspath("relative")


def test_home_comes_from_the_user_database(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    be_user(monkeypatch, 1000, str(tmp_path))
    assert state_dir({"HOME": "/elsewhere"}) == f"{tmp_path}/.local/state/edge-runtime"


def test_root_uses_the_systems_place(monkeypatch: pytest.MonkeyPatch) -> None:
    be_user(monkeypatch, 0, "/root")
    assert state_dir({}) == "/var/lib/edge-runtime"


@pytest.mark.parametrize("home", [None, "/nonexistent"])
def test_user_without_home_has_a_place(monkeypatch: pytest.MonkeyPatch, home: str | None) -> None:
    be_user(monkeypatch, 1234, home)
    assert state_dir({}) == "/var/tmp/edge-runtime-1234"
    assert subject.STATE_DIR_VARIABLE == "EDGE_RUNTIME_STATE_DIR"
