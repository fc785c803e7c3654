"""What a package takes on the device's disk, by part."""

from __future__ import annotations

import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from typing import Final

from builder.targets import PAYLOAD, BuildError

_BLOCK: Final = 4096


def measure(package: Path) -> str:
    """A line a part, largest first, in kB of whole 4 kB blocks; then the sum."""
    with tempfile.TemporaryDirectory(prefix="edge-runtime-measure-") as folder:
        if subprocess.run(["dpkg-deb", "-x", str(package), folder]).returncode:
            raise BuildError(f"{package}: dpkg-deb cannot read it")
        return _report(Path(folder))


def _report(root: Path) -> str:
    sizes: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    for path in root.rglob("*"):
        if path.is_symlink():
            continue
        blocks = max(-(-path.stat().st_size // _BLOCK), 1) * _BLOCK // 1024
        sizes[_part(path.relative_to(root))] += blocks
        kinds["directories" if path.is_dir() else _kind(path)] += blocks
    lines = [f"{kilobytes:8} kB  {name}\n" for name, kilobytes in sizes.most_common()]
    lines += ["\n", *(f"{kilobytes:8} kB  {name}\n" for name, kilobytes in kinds.most_common())]
    return "".join([*lines, "\n", f"{sizes.total():8} kB  in all ({sizes.total() / 1024:.1f} MiB)\n"])


def _kind(path: Path) -> str:
    names = {".so": "libraries", ".py": "source", ".pyc": "byte code"}
    return names.get(path.suffix, "other files")


def _part(path: Path) -> str:
    inside = path.parts[len(Path(PAYLOAD).parts) + 3 :]
    if path.is_relative_to(PAYLOAD) and "site-packages" in path.parts and inside:
        return inside[0].removesuffix(".dist-info").split("-")[0].split(".")[0]
    return "the rest"
