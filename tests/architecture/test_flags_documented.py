"""Every flag and every variable that the runtime reads has its line in docs/flags.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edge_runtime.config.environment import LATER_VARIABLES
from edge_runtime.config.flags import FLAGS, Flag

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/flags.md").read_text()


def row(flag: Flag) -> str:
    return next((line for line in PAGE.splitlines() if line.startswith(f"| `--{flag.name}` |")), "")


@pytest.mark.parametrize("flag", FLAGS, ids=[flag.name for flag in FLAGS])
def test_flag_has_its_row(flag: Flag) -> None:
    line = row(flag)
    assert flag.help.rstrip(".") in line, f"docs/flags.md has no row for --{flag.name} with its help text"
    assert flag.default in line
    assert ("No effect yet" in line) is bool(flag.later)
    assert ("Deprecated" in line) is bool(flag.deprecated)


def test_page_has_no_other_flags() -> None:
    listed = set(re.findall(r"^\| `--([a-z0-9-]+)` \|", PAGE, re.MULTILINE))
    assert listed == {flag.name for flag in FLAGS}


def test_every_variable_is_documented() -> None:
    source = (ROOT / "edge_runtime/config/environment.py").read_text()
    # Names that are made of two parts in the code are written out in the page's table of exporters.
    names = {name for name in re.findall(r'"([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*)"', source) if "_" in name}
    names |= {"NAMESPACE", *LATER_VARIABLES}
    assert [name for name in sorted(names) if f"`{name}`" not in PAGE] == []
