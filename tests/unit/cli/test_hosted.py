from __future__ import annotations

import io
from pathlib import Path

import pytest

from edge_runtime.cli.hosted import credentials, hosted_apps
from edge_runtime.cli.output import Messages
from edge_runtime.cli.serve import config_dir
from edge_runtime.model.errors import ConfigError


def test_no_run_file_means_no_apps(tmp_path: Path) -> None:
    assert hosted_apps(str(tmp_path), {}, Messages()) == []


def test_ports_stay_the_same(tmp_path: Path) -> None:
    (tmp_path / "dapr.yaml").write_text(
        "version: 1\napps:\n- {appID: a, appDirPath: .}\n- {appID: b, appDirPath: ., daprHTTPPort: 8080}\n"
    )
    first, second = hosted_apps(str(tmp_path), {}, Messages())
    assert {"--dapr-http-port=3500", "--dapr-grpc-port=50001", "--metrics-port=9090"} <= set(first.arguments)
    assert {"--dapr-http-port=8080", "--dapr-grpc-port=50002", "--metrics-port=9091"} <= set(second.arguments)


def test_commands_are_left_to_others(tmp_path: Path) -> None:
    (tmp_path / "dapr.yaml").write_text("version: 1\napps:\n- {appID: a, appDirPath: ., command: [x], oops: 1}\n")
    said = io.StringIO()
    assert len(hosted_apps(str(tmp_path), {}, Messages(out=said))) == 1
    assert "app a: its command is not run by the node" in said.getvalue()
    assert "oops is unknown" in said.getvalue()


def test_credentials_become_variables(tmp_path: Path) -> None:
    (tmp_path / "edge-runtime-api-token").write_text("abc\n")
    assert credentials({"CREDENTIALS_DIRECTORY": str(tmp_path)}) == {"DAPR_API_TOKEN": "abc"}
    assert credentials({}) == {}


@pytest.mark.parametrize("text", ["", "x" * 20_000])
def test_useless_credential_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "edge-runtime-api-token").write_text(text)
    with pytest.raises(ConfigError, match="expected a token"):
        credentials({"CREDENTIALS_DIRECTORY": str(tmp_path)})


def test_unreadable_credential_is_named(tmp_path: Path) -> None:
    (tmp_path / "edge-runtime-app-token").mkdir()
    with pytest.raises(ConfigError, match="edge-runtime-app-token: cannot be read"):
        credentials({"CREDENTIALS_DIRECTORY": str(tmp_path)})


def test_configuration_directory_comes_from_flag_or_manager() -> None:
    assert config_dir({"CONFIGURATION_DIRECTORY": "/etc/a:/etc/b"}) == "/etc/a"
    assert config_dir({"CONFIGURATION_DIRECTORY": "/etc/a"}, "/etc/c") == "/etc/c"
    assert config_dir({}) == ""
