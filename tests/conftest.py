"""Which tests may run beside which: those that start processes, keep cores busy or fill disks, one after the other."""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

ALONE = {"crash", "deploy", "integration", "simulation"}


class ByLayer(LoadScopeScheduling):  # type: ignore[misc, unused-ignore]
    """What has the same scope goes to the same worker, in order: a file's tests, and all of those layers."""

    def _split_scope(self, nodeid: str) -> str:
        path, _, _ = nodeid.partition("::")
        return "alone" if path.split("/")[1] in ALONE else path


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByLayer:
    return ByLayer(config, log)
