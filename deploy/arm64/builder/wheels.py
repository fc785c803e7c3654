"""The vendored wheels: chosen once into a lock file, fetched by their hashes, unpacked without pip."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from builder.targets import LOCK, RELEASES, ROOT, TARGETS, UNUSED, WHEELS, BuildError, Target

_HEAD: Final = """\
# The wheels in the packages, for every architecture and interpreter. Written by `deploy/arm64/build --lock`.
"""


def fetch(target: Target, python: str) -> list[Path]:
    """The wheels of the lock file for one machine and interpreter, in order of their names."""
    folder = WHEELS / f"{target.arch}-{python}"
    folder.mkdir(parents=True, exist_ok=True)
    locked = locked_hashes()
    missing = set(locked) - {_name(path) for path in _known(folder, locked)}
    if missing:
        _download(target, python, folder, ("--no-deps", "--require-hashes", "-r", str(LOCK)))
    wheels = sorted(_known(folder, locked))
    if missing := set(locked) - {_name(path) for path in wheels}:
        raise BuildError(f"{LOCK.name}: no wheel for {', '.join(sorted(missing))} on {target.arch}, Python {python}")
    return wheels


def lock() -> str:
    """The text of a fresh lock file: what pip chooses for the first target, and the same versions for the others."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        wanted = [*tomllib.load(file)["project"]["dependencies"]]
    hashes: dict[str, set[str]] = {}
    pins: list[str] = []
    for target in TARGETS.values():
        for python in RELEASES:
            folder = WHEELS / f"{target.arch}-{python}"
            shutil.rmtree(folder, ignore_errors=True)
            _download(target, python, folder, ["--no-deps", *pins] if pins else wanted)
            wheels = [path for path in sorted(folder.glob("*.whl")) if _name(path) not in UNUSED]
            pins = pins or [f"{_name(path)}=={_version(path)}" for path in wheels]
            for path in wheels:
                hashes.setdefault(f"{_name(path)}=={_version(path)}", set()).add(_sha256(path))
    return _HEAD + "".join(_entry(pin, sorted(found)) for pin, found in sorted(hashes.items()))


def _entry(pin: str, hashes: Sequence[str]) -> str:
    return " \\\n".join((pin, *(f"    --hash=sha256:{digest}" for digest in hashes))) + "\n"


def locked_hashes() -> dict[str, set[str]]:
    """Name → the hashes that its wheel may have."""
    found: dict[str, set[str]] = {}
    name = ""
    for line in LOCK.read_text().splitlines():
        if head := re.match(r"([a-z0-9-]+)==", line):
            name = head[1]
        found.setdefault(name, set()).update(re.findall(r"sha256:([0-9a-f]{64})", line))
    return {name: hashes for name, hashes in found.items() if name}


def _known(folder: Path, locked: dict[str, set[str]]) -> Iterator[Path]:
    for path in folder.glob("*.whl"):
        if _sha256(path) in locked.get(_name(path), ()):
            yield path


def _download(target: Target, python: str, folder: Path, what: Sequence[str]) -> None:
    command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "-d", str(folder)]
    command += ["--only-binary=:all:", "--implementation", "cp", "--python-version", python]
    for platform in target.platforms:
        command += ["--platform", platform]
    if subprocess.run([*command, *what]).returncode:
        raise BuildError(f"the wheels for {target.arch}, Python {python} cannot be fetched; pip has said why")


def unpack(wheels: Sequence[Path], site: Path) -> None:
    """Lay the wheels' packages side by side into `site`, as an installer does, without scripts."""
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.infolist():
                place = _place(member.filename)
                if place and not member.is_dir():
                    path = site / place
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(archive.read(member))


def _place(name: str) -> str:
    """Where a member goes below site-packages; empty for one that goes elsewhere."""
    if ".." in name.split("/") or name.startswith("/"):
        raise BuildError(f"a wheel has a member {name!r}")
    head, _, rest = name.partition("/")
    if not head.endswith(".data"):
        return name
    kind, _, rest = rest.partition("/")
    return rest if kind in ("purelib", "platlib") else ""


def _name(wheel: Path) -> str:
    return re.sub(r"[-_.]+", "-", wheel.name.split("-")[0]).lower()


def _version(wheel: Path) -> str:
    return wheel.name.split("-")[1]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
