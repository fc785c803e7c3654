"""docs/grpc-api.md has every rpc with its group."""

from pathlib import Path

import pytest

from edge_runtime.api.grpc.groups import GROUPS

PAGE = (Path(__file__).parents[2] / "docs" / "grpc-api.md").read_text()
ROWS = {
    tuple(cells[1].replace("`", "").split()): {name.strip() for name in cells[2].split(",")}
    for line in PAGE.splitlines()
    if line.startswith("| `") and len(cells := line.split("|")) > 3
}


@pytest.mark.parametrize("group", sorted(set(GROUPS.values())), ids=".".join)
def test_every_group_has_its_row(group: tuple[str, str]) -> None:
    assert ROWS[group] == {rpc for rpc, its in GROUPS.items() if its == group}
