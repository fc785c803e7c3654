"""The files of the package, laid out as they are installed, with nothing in them that depends on who builds."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from builder.targets import HERE, PAYLOAD, PRUNED, RELEASES, ROOT, SLOTS, BuildError, Target
from builder.version import Version, sources
from builder.wheels import fetch, unpack

_UNITS: Final = "usr/lib/systemd/system"
_PROGRAMS: Final = {"edge-runtime": "main", "daprd": "daprd"}
_SCRIPT: Final = """\
#!{slot}/bin/python3 -IB
import sys

from edge_runtime.__main__ import {function}

sys.exit({function}())
"""
_COMPLETIONS: Final = {
    "bash": "bash-completion/completions/edge-runtime",
    "zsh": "zsh/vendor-completions/_edge-runtime",
    "fish": "fish/vendor_completions.d/edge-runtime.fish",
}
_FOUND_UNDER: Final = {
    "*.service": _UNITS,
    "*.socket": _UNITS,
    "*.timer": _UNITS,
    "*.target": _UNITS,
    "*.path": _UNITS,
}


def make_tree(target: Target, python: str, version: Version, root: Path) -> None:
    """Everything below `root` but Debian's own files."""
    payload = root / PAYLOAD
    site = payload / "lib" / f"python{python}" / "site-packages"
    unpack(fetch(target, python), site)
    prune(site)
    for path in sources("edge_runtime"):
        if path.suffix == ".py":
            _copy(path, site / path.relative_to(ROOT))
    _check_libraries(target, site)
    _strip(target, site)
    _environment(payload, version)
    _compile(payload, python, version)
    _leave_vendored_sources_out(site, python)
    _service_files(root, python)
    _updater(root)
    _documents(root)


def prune(site: Path) -> None:
    """Take out what no node reads."""
    for pattern in PRUNED:
        for path in list(site.glob(pattern)):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
    for folder, _, _ in sorted(os.walk(site), reverse=True):
        if not os.listdir(folder):
            os.rmdir(folder)


def libraries(folder: Path) -> Iterator[Path]:
    return iter(sorted(path for path in folder.rglob("*.so*") if path.is_file() and not path.is_symlink()))


def elf_machine(path: Path) -> int | None:
    """The machine that an ELF file is for; None for another file."""
    with path.open("rb") as file:
        head = file.read(20)
    return int.from_bytes(head[18:20], "little") if head.startswith(b"\x7fELF") else None


def _check_libraries(target: Target, site: Path) -> None:
    for path in libraries(site):
        if elf_machine(path) != target.elf_machine:
            raise BuildError(f"{path.relative_to(site)} is no library for {target.arch}")
    if not list(site.glob("google/_upb/_message*.so")):
        raise BuildError("protobuf came without its own library; name both manylinux platforms to pip")


def _strip(target: Target, site: Path) -> None:
    """Symbols that only a debugger reads are four tenths of the libraries."""
    tool = f"{target.triplet}-strip"
    if shutil.which(tool) is None:
        raise BuildError(f"{tool} is missing; install binutils-{target.triplet.replace('_', '-')}")
    subprocess.run([tool, "--strip-unneeded", *map(str, libraries(site))], check=True)


def _environment(payload: Path, version: Version) -> None:
    """A virtual environment by hand: nothing in it has to be run to make it."""
    slot = f"{SLOTS}/{version.text}"
    scripts = payload / "bin"
    scripts.mkdir()
    (scripts / "python3").symlink_to("/usr/bin/python3")
    for name, function in _PROGRAMS.items():
        (scripts / name).write_text(_SCRIPT.format(slot=slot, function=function))
        (scripts / name).chmod(0o755)
    (payload / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
    (payload / "VERSION").write_text(version.text + "\n")


def _compile(payload: Path, python: str, version: Version) -> None:
    """Byte code that is never compared with its source and never written again. One process: its output is stable.

    Without columns, which only the carets below a traceback's lines show, it is a fifth smaller, on disk and in memory.
    """
    command = [interpreter(python), "-I", "-X", "no_debug_ranges", "-m", "compileall", "-q"]
    command += [
        "--invalidation-mode",
        "unchecked-hash",
        "-s",
        str(payload),
        "-p",
        f"{SLOTS}/{version.text}",
        str(payload / "lib"),
    ]
    if subprocess.run(command, env={"PYTHONHASHSEED": "0", "PATH": os.environ["PATH"]}).returncode:
        raise BuildError("a module cannot be compiled; the compiler has said which")


def _leave_vendored_sources_out(site: Path, python: str) -> None:
    """Byte code alone, where an import finds it without its source: a quarter less on disk. Ours can be read there."""
    tag = f"cpython-{python.replace('.', '')}"
    for source in list(site.rglob("*.py")):
        if source.relative_to(site).parts[0] != "edge_runtime":
            cache = source.parent / "__pycache__"
            (cache / f"{source.stem}.{tag}.pyc").rename(source.with_suffix(".pyc"))
            source.unlink()
            if not os.listdir(cache):
                cache.rmdir()


def interpreter(python: str) -> str:
    """One whose byte code the device reads. Debian's own where it is there."""
    for name in (f"/usr/bin/python{python}", shutil.which(f"python{python}"), sys.executable):
        if name and os.path.exists(name) and _says(name) == python:
            return name
    raise BuildError(f"python{python} is missing, which makes the byte code; install it or choose another --python")


def _says(name: str) -> str:
    probe = "import sys; print('%d.%d' % sys.version_info[:2])"
    return subprocess.run([name, "-I", "-c", probe], capture_output=True, text=True).stdout.strip()


def _service_files(root: Path, python: str) -> None:
    for folder in (ROOT / "deploy" / "systemd", HERE / "units"):
        for pattern, place in _FOUND_UNDER.items():
            for path in sorted(folder.glob(pattern)):
                _copy(path, root / place / path.name)
    dropin = "systemd-254.conf"
    if RELEASES[python] != "deb12":  # whose systemd is older, and warns of settings that it does not know
        _copy(ROOT / "deploy" / "systemd" / "dropins" / dropin, root / _UNITS / "edge-runtime.service.d" / dropin)
    for kind in ("sysusers", "tmpfiles"):
        _copy(ROOT / "deploy" / "systemd" / f"{kind}.conf", root / f"usr/lib/{kind}.d/edge-runtime.conf")
    for path in sources("deploy/arm64/etc"):
        _copy(path, root / "etc" / path.relative_to(HERE / "etc"))


def _updater(root: Path) -> None:
    for path in sources("deploy/arm64/updater"):
        _copy(path, root / "usr/lib/edge-runtime/updater" / path.relative_to(HERE / "updater"))
    program = root / "usr/sbin/edge-runtime-update"
    program.parent.mkdir(parents=True)
    program.write_text('#!/bin/sh\nexec /usr/bin/python3 -IB /usr/lib/edge-runtime/updater "$@"\n')
    program.chmod(0o755)
    (root / "usr/bin").mkdir(parents=True)
    for name in _PROGRAMS:
        (root / "usr/bin" / name).symlink_to(f"/opt/edge-runtime/current/bin/{name}")


def _documents(root: Path) -> None:
    place = root / "usr/share/doc/edge-runtime"
    _copy(HERE / "debian" / "copyright", place / "copyright")
    for name in ("README.md", "CHANGELOG.md"):
        _copy(ROOT / name, place / name)
    _manual(root)
    overrides = root / "usr/share/lintian/overrides/edge-runtime"
    _copy(HERE / "debian" / "lintian-overrides", overrides)


def _manual(root: Path) -> None:
    """The manual pages and completions, as the program itself writes them."""
    pages = root / "usr/share/man/man1"
    _program("man", "--directory", str(pages))
    for page in sorted(pages.glob("*.1")):
        page.with_name(page.name + ".gz").write_bytes(gzip.compress(page.read_bytes(), mtime=0))
        page.unlink()
    for shell, place in _COMPLETIONS.items():
        path = root / "usr/share" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_program("completion", shell))


def _program(*words: str) -> str:
    done = subprocess.run([sys.executable, "-m", "edge_runtime", *words], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise BuildError(f"edge-runtime {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def _copy(source: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, place)
