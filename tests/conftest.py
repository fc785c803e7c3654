"""Which tests may run beside which: those that start processes, keep cores busy or fill disks, one after the other."""

from __future__ import annotations

from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
ALONE = {"crash", "deploy", "integration", "simulation"}


@pytest.hookimpl(tryfirst=True)  # xdist's own hook reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        path = item.path.relative_to(FOLDER)
        item.add_marker(pytest.mark.xdist_group("alone" if path.parts[0] in ALONE else path.as_posix()))
