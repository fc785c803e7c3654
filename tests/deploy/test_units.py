"""The unit files as systemd reads them: without a warning, confined, with directories and users that fit together."""

from __future__ import annotations

import configparser
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[2] / "deploy" / "systemd"
SYSTEM = Path("usr/lib/systemd/system")
HIGHEST_EXPOSURE = 25  # tenths: 2.5 of 10
PROGRAMS = ("usr/bin/edge-runtime", "bin/kill")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"),
]


def call(*words: str | Path) -> str:
    """Everything that the program says. Fails when it fails."""
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A system with our units, and of its own only what they name."""
    (tmp_path / SYSTEM).mkdir(parents=True)
    for pattern in ("*.target", "*.slice", "systemd-journald*", "*.socket"):
        for path in ("/" / SYSTEM).glob(pattern):
            if not path.is_symlink():
                shutil.copy(path, tmp_path / SYSTEM)
    for path in units():
        shutil.copy(path, tmp_path / SYSTEM)
    for program in PROGRAMS:
        (tmp_path / program).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / program).write_text("#!/bin/sh\n")
        (tmp_path / program).chmod(0o755)
    return tmp_path


def units() -> Iterable[Path]:
    return sorted((*UNITS.glob("*.service"), *UNITS.glob("*.socket")))


def names() -> Sequence[str]:
    return [path.name.replace("@.", "@orders.") for path in units()]


def test_units_are_free_of_warnings(root: Path) -> None:
    assert call("systemd-analyze", "verify", f"--root={root}", "--man=no", *names()) == ""


@pytest.mark.parametrize("path", sorted(path for path in UNITS.glob("dropins/*.conf") if "254" not in path.name))
def test_dropins_are_free_of_warnings(root: Path, path: Path) -> None:
    folder = root / SYSTEM / "edge-runtime.service.d"
    folder.mkdir()
    shutil.copy(path, folder)
    assert call("systemd-analyze", "verify", f"--root={root}", "--man=no", "edge-runtime.service") == ""


def test_the_node_is_confined(root: Path) -> None:
    threshold = f"--threshold={HIGHEST_EXPOSURE}"
    call("systemd-analyze", "security", "--no-pager", "--offline=true", threshold, UNITS / "edge-runtime.service")


def test_user_and_groups_are_made(root: Path) -> None:
    for directory in ("etc", "usr/lib/sysusers.d"):
        (root / directory).mkdir()
    shutil.copy(UNITS / "sysusers.conf", root / "usr/lib/sysusers.d/edge-runtime.conf")
    call("systemd-sysusers", f"--root={root}", "edge-runtime.conf")
    user, _, uid, gid, *_ = (root / "etc/passwd").read_text().strip().split(":")
    groups = dict(line.split(":x:") for line in (root / "etc/group").read_text().split())
    assert user == "edge-runtime"
    assert groups["edge-runtime"] == f"{gid}:"
    assert groups["edge-runtime-apps"].endswith(":edge-runtime")
    assert uid != "0"


def test_unit_and_tmpfiles_agree() -> None:
    """systemd takes the directories of the unit for its own unless they are there with this owner and mode."""
    made = {}
    for line in (UNITS / "tmpfiles.conf").read_text().splitlines():
        if line.startswith("d "):
            _, path, mode, owner, group, _ = line.split()
            made[path] = (mode, owner, group)
    service = read(UNITS / "edge-runtime.service")["Service"]
    assert made["/run/edge-runtime"] == (service["RuntimeDirectoryMode"], service["User"], service["Group"])
    assert made["/var/lib/edge-runtime"] == (service["StateDirectoryMode"], service["User"], service["Group"])
    assert made["/etc/edge-runtime"] == (service["ConfigurationDirectoryMode"], "root", service["Group"])


def test_sockets_have_names_that_the_node_knows() -> None:
    found = {path.name: read(path)["Socket"]["FileDescriptorName"] for path in UNITS.glob("*.socket")}
    assert found == {
        "edge-runtime.socket": "control",
        "edge-runtime-http.socket": "http",
        "edge-runtime-grpc.socket": "grpc",
    }


def read(path: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(path)
    return parser
