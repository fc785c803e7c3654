"""`deploy/arm64/build`: the flags, and one package after the other."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from builder.deb import fresh, make_deb
from builder.measure import measure
from builder.targets import LOCK, RELEASES, ROOT, TARGETS, BuildError
from builder.tree import make_tree
from builder.version import read_version
from builder.wheels import lock


def main() -> int:
    flags = _flags().parse_args()
    try:
        if flags.measure:
            print(measure(Path(flags.measure)), end="")
        elif flags.lock:
            LOCK.write_text(lock())
        else:
            for arch in TARGETS if flags.arch == "all" else (flags.arch,):
                print(build(arch, flags.python, Path(flags.out), flags.compression))
    except BuildError as error:
        print(f"deploy/arm64/build: {error}", file=sys.stderr)
        return 1
    return 0


def _flags() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(prog="deploy/arm64/build", description="Build the Debian packages.")
    flags.add_argument("--arch", choices=(*TARGETS, "all"), default="all")
    flags.add_argument("--python", choices=tuple(RELEASES), default="3.11", help="3.11: Debian 12, 3.13: Debian 13")
    flags.add_argument("--out", default=str(ROOT / "dist"), help="where the packages go (default: dist/)")
    flags.add_argument("--compression", choices=("xz", "gzip", "none"), default="xz", help="gzip is quicker, for tests")
    flags.add_argument("--lock", action="store_true", help="choose the vendored wheels anew")
    flags.add_argument("--measure", metavar="PACKAGE", help="show what is how large once installed")
    return flags


def build(arch: str, python: str, out: Path, compression: str) -> Path:
    """One package. Its path is the value."""
    target, version = TARGETS[arch], read_version(RELEASES[python])
    with tempfile.TemporaryDirectory(prefix="edge-runtime-build-") as folder:
        root = fresh(Path(folder) / "root")
        make_tree(target, python, version, root)
        return make_deb(target, python, version, root, out, compression)


if __name__ == "__main__":
    sys.exit(main())
