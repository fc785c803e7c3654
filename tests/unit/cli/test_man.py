"""`edge-runtime man`: a page for every command, in which the formatter finds nothing wrong."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from edge_runtime.__main__ import main
from edge_runtime.cli.main import COMMANDS
from edge_runtime.cli.man import pages
from edge_runtime.cli.tables import command_tables


def formatted(page: Path) -> str:
    done = subprocess.run(
        ["man", "--warnings=w", "-l", "-P", "cat", str(page)],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "MANWIDTH": "200"},
    )
    assert (done.returncode, done.stderr) == (0, ""), page.name
    return done.stdout


def test_every_command_has_a_page() -> None:
    named = {f"edge-runtime-{name}.1" for name in COMMANDS if name != "daprd"}
    assert pages().keys() == {"edge-runtime.1", "daprd.1", *named}


def test_every_flag_is_explained() -> None:
    made = pages()
    for table in command_tables():
        page = made["daprd.1" if table.name == "daprd" else f"edge-runtime-{table.name}.1"]
        for option in table.options:
            assert f"\\fB\\-\\-{option.name.replace('-', chr(92) + '-')}\\fR" in page
            assert option.help, f"{table.name} --{option.name} says nothing"


@pytest.mark.slow
def test_the_formatter_finds_nothing_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = tmp_path / "man" / "man1"
    assert main(["man", "--directory", str(directory)]) == 0
    for page in directory.iterdir():
        text = formatted(page)
        assert "NAME" in text
        assert "EXIT STATUS" in text
    assert "--dapr-http-port" in formatted(directory / "daprd.1")
    assert "app's sidecar" in formatted(directory / "edge-runtime-sync.1").replace("’", "'")


def test_a_mistake_in_a_page_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "bad.1").write_text('.TH "X" "1"\n.SH NAME\n.mistaken x\n')
    with pytest.raises(AssertionError):
        formatted(tmp_path / "bad.1")


def test_one_page_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("sync", "edge-runtime-sync", "edge-runtime-sync.1"):
        assert main(["man", name]) == 0
        assert capsys.readouterr().out == pages()["edge-runtime-sync.1"]
    assert main(["man", "edge-runtime-snc"]) == 255
    assert '(did you mean "edge-runtime-sync"?)' in capsys.readouterr().err


def test_a_directory_that_cannot_be_made_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["man", "--directory", str(tmp_path / "file" / "man")]) == 1
    assert "cannot be written: Not a directory" in capsys.readouterr().err
