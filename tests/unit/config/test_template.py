"""Multi-app templates."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_runtime.config.template import Bases, Template, TemplateApp, find_template, load_template, read_template
from edge_runtime.model.errors import ConfigError


@pytest.fixture
def bases(tmp_path: Path) -> Bases:
    for name in ("home/.dapr", "work", "node/a", "node/b"):
        (tmp_path / name).mkdir(parents=True)
    return Bases(str(tmp_path / "home"), str(tmp_path / "home/.dapr"), str(tmp_path / "work"))


def load(bases: Bases, text: str) -> Template:
    node = Path(bases.home).parent / "node"
    (node / "dapr.yaml").write_text(text)
    return load_template(str(node), bases)


def one(bases: Bases, fields: str, common: str = "{}") -> TemplateApp:
    return load(bases, f"version: 1\ncommon: {common}\napps:\n- {{appDirPath: a, {fields}}}\n").apps[0]


def test_smallest_template_is_read(bases: Bases) -> None:
    found = load(bases, "version: 1\napps:\n- appDirPath: ./a/\n")
    (app,) = found.apps
    assert (found.name, found.warnings) == ("", ())
    assert found.path.endswith("node/dapr.yaml")
    assert (app.app_id, app.command, app.app_port, app.http_port) == ("a", (), -1, -1)
    assert app.directory == str(Path(found.path).parent / "a")
    assert (app.resource_paths, app.config_path, app.app_max_concurrency) == ((), "", -1)
    assert (app.placement, app.scheduler, app.app_protocol) == (None, None, "http")
    assert (app.daprd_log_destination, app.app_log_destination) == ("file", "fileAndConsole")


WHOLE = """
version: 1
name: demo
common:
  appProtocol: https
  enableApiLogging: true
  logLevel: warn
  appMaxConcurrency: 7
  placementHostAddress: ""
  maxBodySize: 8Mi
  readBufferSize: 8Ki
  appHealthCheckPath: /up
  appHealthProbeInterval: 9
  env: {A: common, B: common}
  daprdLogDestination: console
  apiListenAddresses: 127.0.0.1
apps:
- appDirPath: a
  appID: first
  command: [python, -m, app]
  appPort: 8000
  daprHTTPPort: 3501
  daprGRPCPort: 3502
  daprInternalGRPCPort: 3503
  metricsPort: 3504
  profilePort: 3505
  appChannelAddress: localhost
  unixDomainSocket: ~/sockets
  enableProfiling: true
  enableAppHealthCheck: true
  appSSL: true
  logLevel: debug
  enableApiLogging: false
  schedulerHostAddress: s:1
  appHealthProbeTimeout: 100
  appHealthThreshold: 2
  runtimePath: tools
  env: {B: app, C: 1}
  appLogDestination: file
  containerImagePullPolicy: Always
- appDirPath: b
"""


def test_common_fills_what_is_zero(bases: Bases) -> None:
    found = load(bases, WHOLE)
    first, second = found.apps
    assert (found.name, found.warnings) == ("demo", ())
    assert (first.app_id, second.app_id) == ("first", "b")
    assert first.command == ("python", "-m", "app")
    assert (first.app_port, first.http_port, first.grpc_port, first.internal_grpc_port) == (8000, 3501, 3502, 3503)
    assert (first.metrics_port, first.profile_port, first.app_channel_address) == (3504, 3505, "localhost")
    assert first.unix_domain_socket == f"{bases.home}/sockets"
    assert (first.enable_profiling, first.enable_app_health_check, first.app_ssl) == (True, True, True)
    assert (first.log_level, second.log_level) == ("debug", "warn")
    assert first.enable_api_logging, "an app cannot turn a common true into false"
    assert (first.app_protocol, first.app_max_concurrency) == ("https", 7)
    assert (first.placement, first.scheduler, second.scheduler) == ("", "s:1", None)
    assert (first.max_body_size, first.read_buffer_size, first.listen_addresses) == ("8Mi", "8Ki", "127.0.0.1")
    assert (first.health_check_path, first.health_probe_interval) == ("/up", 9)
    assert (first.health_probe_timeout, first.health_threshold) == (100, 2)
    assert first.runtime_path == f"{first.directory}/tools"
    assert first.env == {"A": "common", "B": "app", "C": "1"}
    assert second.env == {"A": "common", "B": "common"}
    assert (first.daprd_log_destination, first.app_log_destination) == ("console", "file")


def test_common_runtime_path_counts_from_the_template(bases: Bases) -> None:
    assert one(bases, "", "{runtimePath: tools}").runtime_path.endswith("/node/tools")


def test_resources_come_from_the_nearest_level(bases: Bases) -> None:
    node = Path(bases.home).parent / "node"
    shared, default = node / "shared", Path(bases.dapr) / "components"
    own, beside = node / "a/own", node / "a/.dapr/resources"
    common = "{resourcesPaths: [shared]}"
    assert one(bases, "").resource_paths == ()
    for path in (default, shared, beside, own):
        path.mkdir(parents=True)
    assert one(bases, "resourcesPaths: [own], resourcesPath: ../shared", common).resource_paths == (
        str(own),
        str(shared),
    )
    assert one(bases, "", common).resource_paths == (str(beside),)
    beside.rmdir()
    assert one(bases, "", common).resource_paths == (str(shared),)
    assert one(bases, "").resource_paths == (str(default),)


def test_config_comes_from_the_nearest_level(bases: Bases) -> None:
    node = Path(bases.home).parent / "node"
    shared, default, own = node / "c.yaml", Path(bases.dapr) / "config.yaml", node / "a/own.yaml"
    beside = node / "a/.dapr/config.yaml"
    beside.parent.mkdir()
    for path in (shared, default, own, beside):
        path.touch()
    assert one(bases, "configFilePath: own.yaml", "{configFilePath: c.yaml}").config_path == str(own)
    assert one(bases, "", "{configFilePath: c.yaml}").config_path == str(beside)
    beside.unlink()
    assert one(bases, "", "{configFilePath: c.yaml}").config_path == str(shared)
    assert one(bases, "").config_path == str(default)


WRONG = [
    ("apps: [{appDirPath: a}]", "version: expected a number that is not 0"),
    ("version: 0\napps: [{appDirPath: a}]", "version: expected a number that is not 0"),
    ("version: 1", "No apps to run"),
    ("version: 1\napps: []", "No apps to run"),
    ("version: 1\napps: {a: b}", "apps: expected a list, found a mapping"),
    ("version: 1\napps: [{appID: a}]", "apps[0].appDirPath: expected the app's directory"),
    ("version: 1\napps: [{appDirPath: nowhere}]", "apps[0].appDirPath: there is no directory"),
    ("version: 1\napps: [{appDirPath: a, appPort: 70000}]", "apps[0].appPort: expected a port from 1 to 65535"),
    ("version: 1\napps: [{appDirPath: a, appPort: x}]", "apps[0].appPort: expected a whole number"),
    ("version: 1\napps: [{appDirPath: a, resourcesPaths: [gone]}]", "apps[0].resourcesPaths: there is nothing at"),
    ("version: 1\ncommon: {configFilePath: gone}\napps: [{appDirPath: a}]", "common.configFilePath: there is nothing"),
    ("version: 1\napps: [{appDirPath: a, appProtocol: smtp}]", "apps[0].appProtocol: expected one of http, https"),
    ("version: 1\ncommon: {appLogDestination: Console}\napps: [{appDirPath: a}]", "common.appLogDestination: expected"),
    ("version: 1\napps: [{appDirPath: a, maxBodySize: big}]", "apps[0].maxBodySize: expected a size"),
    ("version: 1\napps: [{appDirPath: a, containerImagePullPolicy: Often}]", "expected one of Always, IfNotPresent"),
    ("version: 1\napps: [{appDirPath: a, appID: x}, {appDirPath: b, appID: x}]", "two apps have the appID 'x'"),
    ("- a", "expected a template with version and apps"),
    ("", "expected a template with version and apps"),
    ("version: [", "no valid YAML"),
]


@pytest.mark.parametrize(("text", "problem"), WRONG, ids=[problem for _, problem in WRONG])
def test_mistakes_are_named(bases: Bases, text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load(bases, text)
    assert problem in str(raised.value)
    assert "dapr.yaml" in str(raised.value)


def test_misspelt_fields_are_noted(bases: Bases) -> None:
    (warning,) = load(bases, "version: 1\napps:\n- {appDirPath: a, appport: 1}\n").warnings
    assert "unknown field 'apps[0].appport' is ignored (did you mean \"appPort\"?)" in warning


def test_standard_input_counts_from_the_working_directory(bases: Bases) -> None:
    (Path(bases.working) / "c").mkdir()
    found = read_template(b"version: 1\napps: [{appDirPath: c}]\n", "", bases)
    assert (found.path, found.apps[0].directory) == ("", f"{bases.working}/c")


def test_files_are_found(bases: Bases, tmp_path: Path) -> None:
    (tmp_path / "other.yml").touch()
    assert find_template(str(tmp_path / "other.yml")) == str(tmp_path / "other.yml")
    with pytest.raises(ConfigError, match=r"there is no file .*node/dapr.yaml"):
        find_template(str(tmp_path / "node"))
    with pytest.raises(ConfigError, match=r"ends in .yaml or .yml"):
        find_template(str(tmp_path / "run.json"))
