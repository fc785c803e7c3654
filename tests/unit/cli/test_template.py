import os
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.cli.plan import AppPlan, LogTarget
from edge_runtime.cli.template import parse_template, plan_template, read_template
from edge_runtime.config.flags import DaprdFlags, parse_flags
from edge_runtime.model.errors import ConfigError


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in ("one", "two", "common", "one/own"):
        (tmp_path / name).mkdir()
    (tmp_path / "common.yaml").touch()
    return tmp_path


def plan(place: Path, text: str, environment: dict[str, str] | None = None) -> list[AppPlan]:
    template = parse_template(text, str(place / "dapr.yaml"), str(place))
    return plan_template(template, str(place / "home"), environment or {})


def flags(plan: AppPlan) -> DaprdFlags:
    return parse_flags(plan.arguments)


def test_app_is_merged_over_common(place: Path) -> None:
    one, two = plan(
        place,
        """
version: 1
name: shop
common:
  appProtocol: h2c
  logLevel: debug
  enableApiLogging: true
  appHealthThreshold: 9
  env: {A: common, B: 2, C: true}
apps:
- appDirPath: ./one
  appID: first
  appPort: 80
  command: [python3, app.py, 8]
  logLevel: warn
  env: {A: own}
  enableApiLogging: false
- appDirPath: two
""",
        {"A": "outer", "PATH": "/bin"},
    )
    assert (one.app_id, two.app_id) == ("first", "two")
    assert one.command == ("python3", "app.py", "8")
    assert (one.directory, two.directory) == (str(place / "one"), str(place / "two"))
    assert {key: one.environment[key] for key in ("A", "B", "C", "PATH", "APP_ID", "APP_PORT")} == {
        "A": "own",
        "B": "2",
        "C": "true",
        "PATH": "/bin",
        "APP_ID": "first",
        "APP_PORT": "80",
    }
    assert one.sidecar_environment == {"DAPR_HOST_IP": "127.0.0.1", "A": "outer", "PATH": "/bin"}
    assert (flags(one).log_level, flags(two).log_level) == ("warn", "debug")
    assert flags(one).app_protocol == "h2c"
    assert flags(one).enable_api_logging  # a zero value counts as not written, as in Dapr
    assert flags(one).app_health_threshold == 9
    assert one.prefix == "== APP - first == "
    assert not one.inherit_stdin


def test_scalars_stay_as_written(place: Path) -> None:
    text = "{version: 1, apps: [{appDirPath: one, command: [a, 1.10, 007, yes], env: {A: 1.10, B: no, C: 0x1F, D: }}]}"
    (one,) = plan(place, text)
    assert one.command == ("a", "1.10", "007", "yes")
    assert {key: one.environment[key] for key in "ABCD"} == {"A": "1.10", "B": "no", "C": "0x1F", "D": ""}


def test_anchors_are_merged(place: Path) -> None:
    text = "version: 1\napps:\n- &base {appDirPath: one, appPort: 80}\n- {<<: *base, appID: other, appPort: 0x51}\n"
    one, other = plan(place, text)
    assert (one.app_port, other.app_port, other.directory) == (80, 81, one.directory)


def test_app_variables_win_over_ports(place: Path) -> None:
    (one,) = plan(place, "{version: 1, apps: [{appDirPath: one, env: {DAPR_HTTP_PORT: 5}}]}")
    assert one.environment["DAPR_HTTP_PORT"] == "5"


def test_logs_go_to_files_beside_the_app(place: Path) -> None:
    one, two = plan(
        place,
        "{version: 1, name: n, apps: [{appDirPath: one}, "
        "{appDirPath: two, appLogDestination: console, daprdLogDestination: console}]}",
    )
    assert one.app_log.console
    assert os.path.dirname(one.app_log.path) == str(place / "one/.dapr/logs")
    assert os.path.basename(one.app_log.path).startswith("one_app_")
    assert not one.sidecar_log.console
    assert os.path.basename(one.sidecar_log.path).startswith("one_daprd_")
    assert two.app_log == two.sidecar_log == LogTarget()
    assert one.metadata == {
        "runTemplatePath": str(place / "dapr.yaml"),
        "runTemplateName": "n",
        "appLogPath": one.app_log.path,
        "daprdLogPath": one.sidecar_log.path,
    }
    assert two.metadata == {"runTemplatePath": str(place / "dapr.yaml"), "runTemplateName": "n"}


RESOURCES = """
version: 1
common: {resourcesPath: common, configFilePath: common.yaml}
apps:
- {appDirPath: one, resourcesPaths: [own]}
- {appDirPath: two}
"""


def test_nearest_resources_win(place: Path) -> None:
    one, two = plan(place, RESOURCES)
    assert flags(one).resources_path == (str(place / "one/own"),)
    assert flags(two).resources_path == (str(place / "common"),)
    assert flags(two).config == (str(place / "common.yaml"),)
    (place / "two/.dapr/resources").mkdir(parents=True)
    (place / "two/.dapr/config.yaml").touch()
    _, two = plan(place, RESOURCES)
    assert flags(two).resources_path == (str(place / "two/.dapr/resources"),)
    assert flags(two).config == (str(place / "two/.dapr/config.yaml"),)


def test_runtime_path_is_the_last_resort(place: Path) -> None:
    (place / "rt/.dapr/components").mkdir(parents=True)
    (one,) = plan(place, f"{{version: 1, apps: [{{appDirPath: one, runtimePath: {place}/rt}}]}}")
    assert flags(one).resources_path == (str(place / "rt/.dapr/components"),)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[", "is no YAML"),
        ("!!int version: 1", "is no YAML: a value does not fit its own tag"),
        ("!!timestamp x", "is no YAML: a value does not fit its own tag"),
        ("[]", "expected a map with version and apps"),
        ("{apps: []}", "version: expected 1, found None"),
        ("{version: 1}", "apps: no apps to run"),
        ("{version: 1, apps: [1]}", "apps: expected a list of maps"),
        ("{version: 1, common: 3, apps: [{appDirPath: one}]}", "common: expected a map"),
        ("{version: 1, apps: [{appID: x}]}", "apps[0].appDirPath: required"),
        ("{version: 1, apps: [{appDirPath: nowhere}]}", "nowhere does not exist"),
        ("{version: 1, apps: [{appDirPath: one, appPort: x}]}", "apps[0].appPort: expected a whole number, found 'x'"),
        ("{version: 1, apps: [{appDirPath: one, command: x}]}", "apps[0].command: expected a list of texts"),
        ("{version: 1, apps: [{appDirPath: one, env: [x]}]}", "apps[0].env: expected a map of texts"),
        ("{version: 1, apps: [{appDirPath: one, appSSL: perhaps}]}", "apps[0].appSSL: expected true or false"),
        (
            "{version: 1, common: {appLogDestination: Console}, apps: [{appDirPath: one}]}",
            "common.appLogDestination: invalid log destination type: Console; expected console, file, fileAndConsole",
        ),
        (
            "{version: 1, apps: [{appDirPath: one, containerImagePullPolicy: x}]}",
            "containerImagePullPolicy: x; expected Always, IfNotPresent, Never",
        ),
        ("{version: 1, apps: [{appDirPath: one}, {appDirPath: one}]}", "apps[1].appID: 'one' is there twice"),
    ],
)
def test_mistakes_are_named(place: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan(place, text)
    assert problem in str(caught.value)
    assert str(place / "dapr.yaml") in str(caught.value)


def test_unknown_fields_are_told(place: Path) -> None:
    text = "{version: 1, comn: {}, apps: [{appDirPath: one, apPort: 3}]}"
    template = parse_template(text, "f", str(place))
    assert template.warnings == (
        'f: comn is unknown and is ignored (did you mean "common"?)',
        'f: apps[0].apPort is unknown and is ignored (did you mean "appPort"?)',
    )


def test_directory_means_its_dapr_yaml(place: Path) -> None:
    (place / "dapr.yaml").write_text("{version: 1, apps: [{appDirPath: one}]}")
    assert read_template(str(place)).path == str(place / "dapr.yaml")
    assert read_template(str(place / "dapr.yaml")).directory == str(place)


def test_standard_input_counts_from_here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    monkeypatch.chdir(place)
    monkeypatch.setattr("sys.stdin", io.StringIO("{version: 1, apps: [{appDirPath: one}]}"))
    template = read_template("-")
    assert plan_template(template, "", {})[0].directory == str(place / "one")


@pytest.mark.parametrize(("name", "problem"), [("a.txt", "ends in .yaml or .yml"), ("a.yaml", "cannot be read")])
def test_unreadable_file_is_named(place: Path, name: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        read_template(str(place / name))


def test_no_two_apps_share_a_port(place: Path) -> None:
    plans: list[Any] = plan(place, "{version: 1, apps: [{appDirPath: one}, {appDirPath: two}]}")
    assert len({port for one in plans for port in one.ports}) == 8
