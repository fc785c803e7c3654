"""docs/cli.md has every command and every flag."""

from importlib import import_module
from pathlib import Path

import pytest

from edge_runtime.cli.main import COMMANDS, ROOT_OPTIONS
from edge_runtime.cli.run_options import FORWARDED, OWN
from edge_runtime.cli.template import _APP

TEXT = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()


def test_every_command_has_its_words() -> None:
    missing = [name for name in COMMANDS if f"edge-runtime {name}" not in TEXT]
    assert not missing


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_has_its_words(command: str) -> None:
    module = import_module(f"edge_runtime.cli.{COMMANDS[command].module}")
    options = (*OWN, *FORWARDED) if command == "run" else getattr(module, "OPTIONS", ())
    shown = {name for option in (*options, *ROOT_OPTIONS) if not option.hidden for name in option.names}
    missing = {name for name in shown if f"--{name}" not in TEXT}
    assert not missing


def test_every_field_of_a_run_file_has_its_words() -> None:
    assert not [field for field in _APP if f"`{field}`" not in TEXT]
