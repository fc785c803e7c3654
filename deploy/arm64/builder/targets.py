"""For which machines and interpreters is built, and what is left out of the package."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parents[3]
HERE: Final = ROOT / "deploy" / "arm64"
LOCK: Final = HERE / "requirements.lock"
WHEELS: Final = ROOT / ".cache" / "wheels"

PAYLOAD: Final = "usr/lib/edge-runtime/payload"
SLOTS: Final = "/opt/edge-runtime/slots"


class Target(NamedTuple):
    """`elf_machine` is what the header of each of its libraries says; `triplet` names Debian's tools for it."""

    arch: str
    machine: str
    triplet: str
    elf_machine: int

    @property
    def platforms(self) -> tuple[str, ...]:
        # Both: pip does not take the newer one to include the older, and would fall back to a pure-Python protobuf.
        return (f"manylinux2014_{self.machine}", f"manylinux_2_28_{self.machine}")


TARGETS: Final = {
    "arm64": Target("arm64", "aarch64", "aarch64-linux-gnu", 183),
    "amd64": Target("amd64", "x86_64", "x86_64-linux-gnu", 62),
}

# Python's version → the release of Debian, and of Raspberry Pi OS, that has it. A package is for one of them: with the
# libraries of both in it, it would be past its 40 MB.
RELEASES: Final = {"3.11": "deb12", "3.13": "deb13"}

# Wheels that are asked for by a distribution and never imported by the node.
UNUSED: Final = {
    "click": "sqlite-utils",
    "click-default-group": "sqlite-utils",
    "h2": "grpclib's own client and server; the node has a transport of its own",
    "hyperframe": "h2",
    "jmespath": "cel-python, for expressions of another project",
    "pip": "sqlite-utils, for its command that installs plug-ins",
    "pluggy": "sqlite-utils",
    "pycparser": "cffi, when it compiles",
    "sqlite-fts4": "sqlite-utils",
    "sqlite-utils": "a tool for development",
    "tabulate": "sqlite-utils",
    "tzdata": "Debian's own package has the same",
}

# Below site-packages. Tests, sources in C, what only a compiler or a type checker reads, examples.
PRUNED: Final = (
    "**/*.pyi",
    "**/*.pyx",
    "**/*.pxd",
    "**/*.c",
    "**/*.cc",
    "**/*.h",
    "**/*.proto",
    "**/py.typed",
    "**/*.dist-info/RECORD",
    "**/*.dist-info/WHEEL",
    "**/*.dist-info/top_level.txt",
    "**/*.dist-info/entry_points.txt",
    "**/*.dist-info/direct_url.json",
    "**/*.dist-info/sboms",
    "attr/_cmp_doctest.py",
    "celpy/c7nlib.py",
    "cffi",
    "cryptography/fernet.py",
    "cryptography/hazmat/primitives/twofactor",
    "cryptography/x509",
    "dateutil/zoneinfo",
    "google/api",
    "google/cloud",
    "google/gapic",
    "google/logging",
    "google/longrunning",
    "google/shopping",
    "google/type",
    "google/protobuf/compiler",
    "google/protobuf/testdata",
    "google/rpc/context",
    "grpclib/plugin",
    "lark/__pyinstaller",
    "lark/tools",
    "multidict/_testcapi*",
    "pendulum/locales/[!e]?",
    "pendulum/locales/e[!n]",
    "pendulum/locales/??_??",
    "pendulum/testing",
    "sniffio/_tests",
    "trio/_core/_generated_io_[kw]*",
    "trio/_core/_generated_windows*",
    "trio/_core/_io_[kw]*",
    "trio/_core/_tests",
    "trio/_core/_windows*",
    "trio/_tests",
    "trio/_tools",
    "trio/testing",
)


class BuildError(Exception):
    """The text says what is missing or wrong, and the mend."""
