"""`edge-runtime run -f`: several apps in one process."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.cli import Run, ask, listed, shell

pytestmark = pytest.mark.slow


def write(place: Path, second: str) -> None:
    for name in ("one", "two"):
        (place / name).mkdir()
    (place / "dapr.yaml").write_text(
        "version: 1\n"
        "name: pair\n"
        "apps:\n"
        "- {appDirPath: one, appID: pair-one, env: {PAIR: yes},"
        "   command: [sh, -c, 'echo \"[$PAIR]\" $PWD; exec sleep 100']}\n"
        f"- {{appDirPath: two, appID: pair-two, appLogDestination: file, command: [sh, -c, '{second}']}}\n"
    )


def test_apps_share_one_process(tmp_path: Path) -> None:
    write(tmp_path, "echo hidden; exec sleep 100")
    with Run(tmp_path, "run", "-f", "dapr.yaml", "--app-id", "ignored") as run:
        run.wait_line("The following flags are ignored when using --run-file")
        run.wait_line('Started Dapr with app id "pair-two"')
        rows = listed(tmp_path, "pair-one", "pair-two")
        assert {row["daprdPid"] for row in rows.values()} == {run.pid}
        assert rows["pair-one"]["runTemplatePath"] == str(tmp_path / "dapr.yaml")
        assert rows["pair-one"]["runTemplateName"] == "pair"
        table = ask(tmp_path, "list").stdout
        assert "RUN TEMPLATE PATH" in table.splitlines()[0]
        stopped = ask(tmp_path, "stop", "-f", "dapr.yaml")
        assert "Dapr and app processes stopped successfully" in stopped.stdout
        assert run.wait() == 0
    assert f"== APP - pair-one == [yes] {tmp_path}/one" in run.said
    assert "hidden" not in run.said
    app_log = Path(rows["pair-two"]["appLogPath"])
    assert app_log.parent == tmp_path / "two/.dapr/logs"
    assert "== APP - pair-two == hidden" in app_log.read_text()
    assert "app_id=pair-two" in Path(rows["pair-two"]["daprdLogPath"]).read_text()
    assert "app_id=pair-one" not in Path(rows["pair-two"]["daprdLogPath"]).read_text()


def test_one_ends_and_the_other_goes_on(tmp_path: Path) -> None:
    write(tmp_path, "exit 3")
    with Run(tmp_path, "run", "-f", ".") as run:
        run.wait_line("The App process pair-two exited with error code: 3")
        assert set(listed(tmp_path, "pair-one", "pair-two")) == {"pair-one", "pair-two"}
        assert "app stopped successfully: pair-two" in ask(tmp_path, "stop", "pair-two").stdout
        assert set(listed(tmp_path, "pair-one", "pair-two")) <= {"pair-one", "pair-two"}
        assert run.stop() == 0


def test_failed_start_stops_all(tmp_path: Path) -> None:
    write(tmp_path, "exec sleep 100")
    text = (tmp_path / "dapr.yaml").read_text().replace("[sh, -c, 'exec", "[no-such-command, 'exec")
    (tmp_path / "dapr.yaml").write_text(text)
    with Run(tmp_path, "run", "-f", ".") as run:
        assert run.wait() == 1
    assert "Failed to find command 'no-such-command'" in run.said
    assert listed(tmp_path, "pair-one", "pair-two") == {}


def test_missing_file_is_named(tmp_path: Path) -> None:
    answer = ask(tmp_path, "run", "-f", "nowhere.yaml", *shell("exit 0"))
    assert answer.returncode == 1
    assert "nowhere.yaml: cannot be read" in answer.stderr


def test_bad_value_names_its_app(tmp_path: Path) -> None:
    write(tmp_path, "exec sleep 100")
    text = (tmp_path / "dapr.yaml").read_text().replace("appID: pair-two", "appID: pair-two, appProtocol: grcp")
    (tmp_path / "dapr.yaml").write_text(text)
    answer = ask(tmp_path, "run", "-f", ".")
    assert answer.returncode == 1
    assert "app pair-two: invalid value 'grcp' for --app-protocol" in answer.stderr
