"""`edge-runtime completion`, by the shells themselves."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from edge_runtime.__main__ import main
from edge_runtime.cli.completion import script
from edge_runtime.cli.main import COMMANDS

# The shell's own completion is not running, so what steers it does nothing.
ASK = """
compopt() { :; }
COMP_WORDS=(%s)
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_edge_runtime
printf '%%s\\n' "${COMPREPLY[@]}"
"""


def bash(words: str, place: Path | None = None) -> list[str]:
    """What bash offers for the last of the words."""
    done = subprocess.run(["bash", "-c", script("bash") + ASK % words], capture_output=True, text=True, cwd=place)
    assert done.stderr == ""
    return done.stdout.split()


def test_commands_are_offered() -> None:
    assert set(bash("edge-runtime ''")) == {"help", *COMMANDS}
    assert bash("edge-runtime se") == ["serve"]
    assert bash("edge-runtime --runtime-path run se") == ["serve"]
    assert bash("edge-runtime help outb") == ["outbox"]


def test_flags_of_the_command_are_offered() -> None:
    assert bash("edge-runtime run --app-po") == ["--app-port"]
    assert "--kubernetes" not in bash("edge-runtime run --")
    assert bash("edge-runtime --vers") == ["--version"]
    assert bash("daprd --dapr-http-p") == ["--dapr-http-port"]


def test_words_of_the_command_are_offered() -> None:
    assert bash("edge-runtime sync ''") == ["status", "dry-run", "pause", "resume", "now"]
    assert bash("edge-runtime sync -a shop res") == ["resume"]
    assert bash("edge-runtime outbox re") == ["retry"]
    assert bash("edge-runtime outbox retry re") == []


def test_paths_are_offered_for_flags_that_take_one(tmp_path: Path) -> None:
    (tmp_path / "resources").mkdir()
    assert bash("edge-runtime run --resources-path res", tmp_path) == ["resources"]
    assert bash("edge-runtime run --resources-path = res", tmp_path) == ["resources"]
    assert bash("edge-runtime run --app-id res", tmp_path) == []


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_understand_their_script(shell: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    (tmp_path / "script").write_text(script(shell))
    done = subprocess.run([shell, "-n", str(tmp_path / "script")], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_command_is_in_every_script() -> None:
    for shell in ("bash", "zsh", "fish"):
        text = script(shell)
        assert not [name for name in COMMANDS if name not in text]


def test_an_unknown_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bsh"]) == 255
    assert '(did you mean "bash"?)' in capsys.readouterr().err
    assert main(["completion", "bash"]) == 0
    assert capsys.readouterr().out == script("bash")
