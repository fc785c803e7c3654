"""The package of each architecture: its contents, the same bytes twice, and the program running from its slot."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.sidecar import Program, free_port, request

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "deploy" / "arm64" / "build"
MACHINES = {"arm64": 183, "amd64": 62}
INSTALLED_BYTES_MAX = 40_000_000

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not installed"),
    pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the package's byte code is for Python 3.11"),
]


def build(out: Path, arch: str, **variables: str) -> Path:
    """The package, uncompressed: what matters of it is inside."""
    words = [str(BUILD), "--arch", arch, "--compression", "none", "--out", str(out)]
    environment = {**os.environ, "EDGE_RUNTIME_VENV": sys.prefix, **variables}
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    return {arch: build(tmp_path_factory.mktemp(arch), arch) for arch in MACHINES}


@pytest.fixture(scope="module")
def trees(packages: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    found = {}
    for arch, package in packages.items():
        found[arch] = tmp_path_factory.mktemp(f"tree-{arch}")
        subprocess.run(["dpkg-deb", "-R", str(package), str(found[arch])], check=True)
    return found


def site(tree: Path) -> Path:
    return tree / "usr/lib/edge-runtime/payload/lib/python3.11/site-packages"


def test_same_bytes_twice(packages: Mapping[str, Path], tmp_path: Path) -> None:
    assert build(tmp_path, "arm64").read_bytes() == packages["arm64"].read_bytes()


@pytest.mark.parametrize("arch", MACHINES)
def test_libraries_are_of_its_machine(trees: Mapping[str, Path], arch: str) -> None:
    libraries = list(trees[arch].rglob("*.so"))
    assert len(libraries) > 8
    for path in libraries:
        head = path.read_bytes()[:20]
        assert (head[:4], int.from_bytes(head[18:20], "little")) == (b"\x7fELF", MACHINES[arch]), path
    assert list(site(trees[arch]).glob("google/_upb/_message*.so"))


@pytest.mark.parametrize("arch", MACHINES)
def test_every_module_has_its_byte_code(trees: Mapping[str, Path], arch: str) -> None:
    modules = list(site(trees[arch]).rglob("*.py"))
    assert {path.relative_to(site(trees[arch])).parts[0] for path in modules} == {"edge_runtime"}
    vendored = [path for path in site(trees[arch]).rglob("*.pyc") if path.parent.name != "__pycache__"]
    assert len(vendored) > 300
    for code in [*vendored, *(path.parent / "__pycache__" / f"{path.stem}.cpython-311.pyc" for path in modules)]:
        assert code.read_bytes()[4:8] == b"\x01\0\0\0", "byte code is not compared with its source"


@pytest.mark.parametrize("arch", MACHINES)
def test_installed_size_is_within_budget(trees: Mapping[str, Path], arch: str) -> None:
    paths = [path for path in trees[arch].rglob("*") if not path.is_symlink() and "DEBIAN" not in path.parts]
    paths += [path for path in paths if path.is_dir()]  # those of the slot; its files are links
    assert sum(-(-path.stat().st_size // 4096) * 4096 for path in paths) <= INSTALLED_BYTES_MAX


def test_control_files_fit_together(trees: Mapping[str, Path]) -> None:
    both = []
    for arch, tree in trees.items():
        control = (tree / "DEBIAN/control").read_text()
        assert f"Architecture: {arch}\n" in control
        assert "Depends: python3 (>= 3.11), python3 (<< 3.12)," in control
        assert "@" not in control.replace("edge-runtime@localhost", "")
        both.append({str(path.relative_to(tree)) for path in tree.rglob("*") if path.suffix != ".so"})
        for name in ("postinst", "prerm", "postrm"):
            subprocess.run(["sh", "-n", str(tree / "DEBIAN" / name)], check=True)
            assert os.access(tree / "DEBIAN" / name, os.X_OK)
    assert both[0] == both[1]
    assert "usr/lib/systemd/system/edge-runtime.service" in both[0]
    assert not any("systemd-254" in path for path in both[0]), "Debian 12 has an older systemd"
    assert {"usr/share/man/man1/edge-runtime.1.gz", "usr/share/bash-completion/completions/edge-runtime"} <= both[0]
    assert (trees["amd64"] / "DEBIAN/conffiles").read_text() == "/etc/edge-runtime/update-keys.d/README\n"


@pytest.fixture
def slot(trees: Mapping[str, Path], tmp_path: Path) -> Path:
    """The payload of this machine's package where it can run: an environment finds its files by where it is."""
    arch = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
    place = tmp_path / "slot"
    shutil.copytree(trees[arch] / "usr/lib/edge-runtime/payload", place, symlinks=True)
    python = place / "bin" / "python3"
    python.unlink()
    base = Path(os.path.realpath(sys.executable))
    python.symlink_to(base)
    (place / "pyvenv.cfg").write_text(f"home = {base.parent}\ninclude-system-site-packages = false\n")
    return place


IMPORT_ALL = """
import ast, importlib, pathlib, pkgutil, sys
import edge_runtime
from google.protobuf.internal import api_implementation
assert api_implementation.Type() == "upb", api_implementation.Type()
for module in pkgutil.walk_packages(edge_runtime.__path__, "edge_runtime."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
wanted = set()
for path in pathlib.Path(edge_runtime.__path__[0]).rglob("*.py"):
    for node in ast.walk(ast.parse(path.read_text())):  # also those inside functions
        if isinstance(node, ast.Import):
            wanted.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            wanted.add(node.module)
for name in sorted(wanted):
    if name.split(".")[0] not in {"h2", "sqlite_utils"}:  # instead of jh2 elsewhere; in the tools of development
        importlib.import_module(name)
import celpy, nacl.signing, re2
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
AESGCM(b"1" * 32).encrypt(b"1" * 12, b"a", b"")
nacl.signing.SigningKey.generate().sign(b"a")
cel = celpy.Environment()
rule = cel.compile("'edge'.matches('e.*') && timestamp('2020-01-01T00:00:00Z') > timestamp('1970-01-01T00:00:00Z')")
assert cel.program(rule).evaluate({})
outside = {m.__file__ for m in sys.modules.values() if "site-packages" in (getattr(m, "__file__", "") or "")}
assert all(path.startswith(sys.prefix) for path in outside), outside
"""


def test_everything_can_be_imported(slot: Path) -> None:
    done = subprocess.run([str(slot / "bin/python3"), "-IB", "-c", IMPORT_ALL], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not list(slot.rglob("*.pyc.*"))


def test_sidecar_runs_from_the_slot(slot: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in slot.rglob("*")}
    port = free_port()
    flags = ["--app-id", "a", "--dapr-http-port", str(port), "--dapr-grpc-port", str(free_port())]
    flags += ["--metrics-port", str(free_port()), "--state-dir", str(tmp_path / "state")]
    with Program([str(slot / "bin/python3"), "-IB", str(slot / "bin/daprd"), *flags]) as program:
        program.wait_line("dapr initialized. Status: Running")
        assert request(port, "POST", "/v1.0/state/statestore", [{"key": "a", "value": 1}]).status == 204
        assert request(port, "GET", "/v1.0/state/statestore/a").json() == 1
        assert program.stop() == 0
    assert {path: path.stat().st_mtime_ns for path in slot.rglob("*")} == before, "nothing writes into a slot"


def test_document_of_versions_is_json(slot: Path) -> None:
    command = [str(slot / "bin/python3"), "-IB", str(slot / "bin/edge-runtime"), "version", "--json"]
    assert "Cli version" in json.loads(subprocess.check_output(command, text=True))
