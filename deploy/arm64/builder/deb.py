"""The `.deb` around a tree: Debian's control files, fixed modes and times, the same bytes each time."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

from builder.targets import HERE, BuildError, Target
from builder.version import Version

SCRIPTS: Final = ("preinst", "postinst", "prerm", "postrm")


def make_deb(target: Target, python: str, version: Version, root: Path, out: Path, compression: str) -> Path:
    """Write the package into `out`. The path of it is the value."""
    control = root / "DEBIAN"
    control.mkdir()
    installed_kb = _installed_kb(root)
    _control_files(target, python, version, root, control, installed_kb)
    _settle(root, version.epoch_s)
    out.mkdir(parents=True, exist_ok=True)
    package = out / f"edge-runtime_{version.text}_{target.arch}.deb"
    command = ["dpkg-deb", "--root-owner-group", f"-Z{compression}", "--threads-max=1", "--build", str(root)]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(version.epoch_s), "TZ": "UTC"}
    done = subprocess.run([*command, str(package)], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise BuildError(f"dpkg-deb: {done.stderr.strip()}")
    return package


def _control_files(target: Target, python: str, version: Version, root: Path, control: Path, installed_kb: int) -> None:
    values = {"@VERSION@": version.text, "@ARCH@": target.arch, "@SIZE@": str(installed_kb), "@PYTHON@": python}
    values["@PYTHON_AFTER@"] = f"3.{int(python.split('.')[1]) + 1}"
    for name in ("control", "triggers", *SCRIPTS):
        source = HERE / "debian" / name
        if source.exists():
            text = source.read_text()
            for word, value in values.items():
                text = text.replace(word, value)
            (control / name).write_text(text)
    etc = sorted(path for path in (root / "etc").rglob("*") if path.is_file()) if (root / "etc").exists() else []
    if etc:
        (control / "conffiles").write_text("".join(f"/{path.relative_to(root)}\n" for path in etc))
    files = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    lines = [
        f"{hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()}  {path.relative_to(root)}\n"
        for path in files
        if control not in path.parents and path not in etc
    ]
    (control / "md5sums").write_text("".join(lines))


def _installed_kb(root: Path) -> int:
    """As dpkg counts: every file in whole kilobytes, one for each other thing."""
    found = [path for path in root.rglob("*") if "DEBIAN" not in path.parts]
    return sum(-(-path.stat().st_size // 1024) if path.is_file() and not path.is_symlink() else 1 for path in found)


def _settle(root: Path, epoch_s: int) -> None:
    """One time for all, and of modes only whether it can be run."""
    programs = {root / "DEBIAN" / name for name in SCRIPTS}
    for path in sorted(root.rglob("*"), reverse=True):
        if not path.is_symlink():
            runs = path.is_dir() or path in programs or (path.stat().st_mode & 0o100 and path.suffix == "")
            path.chmod(0o755 if runs else 0o644)
        os.utime(path, (epoch_s, epoch_s), follow_symlinks=False)
    root.chmod(0o755)
    os.utime(root, (epoch_s, epoch_s))


def fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
