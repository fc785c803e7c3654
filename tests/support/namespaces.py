"""Network namespaces for tests: a cable between two of them, whose ends can be taken down and up."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess


@functools.cache
def why_not() -> str:
    """Why no network namespace can be made here; empty when one can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None or shutil.which("unshare") is None:
        return "network namespaces need the programs ip and unshare"
    command = ["unshare", "--net", "ip", "link", "add", "near", "type", "veth", "peer", "name", "far"]
    tried = subprocess.run(command, capture_output=True, text=True, check=False)
    return f"no network namespace can be made: {tried.stderr.strip()}" if tried.returncode else ""
