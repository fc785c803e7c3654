"""Which version is built, and the moment that stands for it in every file: both come from the last commit."""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

from builder.targets import ROOT, BuildError


class Version(NamedTuple):
    """`text` is Debian's version and the name of the slot."""

    text: str
    epoch_s: int


def read_version(suffix: str) -> Version:
    """`suffix` names Debian's release. A tagged commit is the release, others come before it by date."""
    text = (ROOT / "edge_runtime" / "__init__.py").read_text()
    found = re.search(r'^__version__ = "([0-9][0-9A-Za-z.+]*)"$', text, re.MULTILINE)
    if found is None:
        raise BuildError("edge_runtime/__init__.py: there is no __version__")
    release = found[1]
    stamp = os.environ.get("SOURCE_DATE_EPOCH", "") or _git("log", "-1", "--format=%ct")
    if not stamp.isdecimal():
        raise BuildError("the date of the last commit is not known: build in a clone, or set SOURCE_DATE_EPOCH")
    epoch_s = int(stamp)
    commit = _git("rev-parse", "--short=8", "HEAD")
    if not commit or f"v{release}" in _git("tag", "--points-at", "HEAD").split():
        return Version(f"{release}+{suffix}", epoch_s)
    changed = ".dirty" if _git("status", "--porcelain", "--untracked-files=no") else ""
    moment = time.strftime("%Y%m%d%H%M%S", time.gmtime(epoch_s))
    return Version(f"{release}~git{moment}.{commit}{changed}+{suffix}", epoch_s)


def sources(folder: str) -> list[Path]:
    """The files of a folder that belong to the project, in order."""
    listed = _git("ls-files", "-z", "--cached", "--others", "--exclude-standard", folder).split("\0")
    found = [ROOT / name for name in listed if name] or list((ROOT / folder).rglob("*"))
    return sorted(path for path in found if path.is_file() and "__pycache__" not in path.parts)


def _git(*words: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip("\n")
