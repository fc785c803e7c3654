"""What a sidecar loads at its start: memory is style too, and a careless import costs megabytes on every device."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.sidecar import Sidecar

# Each is for something that has to be configured or asked for first.
KEPT_OUT = (
    "asyncio",
    "argparse",
    "cbor2",
    "celpy",
    "cryptography",
    "edge_runtime.net.systemd",
    "edge_runtime.observability.journal",
    "edge_runtime.runtime.service",
    "edge_runtime.store.outbox",
    "edge_runtime.sync",
    "email",
    "h11",
    "hashlib",
    "http.client",
    "sqlite_utils",
    "unittest",
    "urllib.request",
    "yaml",
)
LOAD = """
import sys
from edge_runtime.lean import defer_all
defer_all()
import edge_runtime.cli.daprd, edge_runtime.runtime, edge_runtime.components.state.sqlite
import edge_runtime.components.pubsub.sqlite, edge_runtime.components.secretstores.local_env
print(*sys.modules)
"""


@pytest.mark.slow
def test_seldom_needed_modules_stay_out() -> None:
    pytest.importorskip("httptools", reason="without it h11 is the engine and has to be loaded")
    loaded = subprocess.run([sys.executable, "-c", LOAD], capture_output=True, text=True, check=True).stdout.split()
    assert not set(KEPT_OUT) & set(loaded)
    assert "_ssl" not in loaded
    assert "_hashlib" not in loaded


@pytest.mark.slow
def test_an_idle_sidecar_maps_no_openssl(tmp_path: Path) -> None:
    with Sidecar(tmp_path) as sidecar:
        maps = Path(f"/proc/{sidecar.pid}/maps").read_text()
        assert "libsqlite3" in maps or "_sqlite3" in maps
        assert "libcrypto" not in maps
        assert sidecar.stop() == 0
