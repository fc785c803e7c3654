"""`edge-runtime bundle`: updates as one signed file, for devices without a network: make, verify, install, keygen."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from edge_runtime.cli.arguments import FLAG, HELP, Option, Parsed, UsageError, help_text, parse, require
from edge_runtime.cli.output import Messages, as_json
from edge_runtime.cli.update_bundle import (
    BundleError,
    Manifest,
    describe,
    extract,
    make_keys,
    read_key,
    trusted_keys,
    verify_bundle,
    write_bundle,
)
from edge_runtime.config.values import nearest

USAGE: Final = "edge-runtime bundle make|verify|install|keygen [flags] [file ...]"
KEYS: Final = "/etc/edge-runtime/update-keys.d"
OPTIONS: Final = (
    HELP,
    Option(("key",), help="make: the file of the private key."),
    Option(("out",), short="o", help="make: the bundle. keygen: <out>.key and <out>.pub."),
    Option(("min-version",), help="make: the oldest version that may be updated from."),
    Option(("keys",), help="verify, install: the directory of the trusted public keys.", default=KEYS),
    Option(("allow-downgrade",), FLAG, help="install: also a version older than the one that runs."),
    Option(("json",), FLAG, help="verify: print the manifest as JSON."),
    Option(("log-as-json",), FLAG, hidden=True),
    Option(("runtime-path",), hidden=True),
)
_CURRENT: Final = "/opt/edge-runtime/current/VERSION"


def main(argv: Sequence[str]) -> int:
    parsed = parse(OPTIONS, argv)
    if parsed.flag("help") or not parsed.words:
        print(help_text(USAGE, "Make, check and install updates that are one signed file.", OPTIONS), end="")
        return 0
    action, *files = parsed.words
    if action not in _ACTIONS:
        raise UsageError(f'unknown command "{action}" for "edge-runtime bundle"{nearest(action, _ACTIONS)}')
    messages = Messages(parsed.flag("log-as-json"))
    try:
        return _ACTIONS[action](parsed, files, messages)
    except BundleError as error:
        where = f"{files[0]}: " if action in ("verify", "install") else ""
        messages.failure(f"{where}{error}")
        return 1


def _keygen(parsed: Parsed, files: Sequence[str], messages: Messages) -> int:
    require(parsed, "out")
    private, public = make_keys()
    for ending, text, mode in ((".key", private, 0o600), (".pub", public, 0o644)):
        path = parsed.text("out") + ending
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        except OSError as error:
            raise BundleError(f"{path}: {error.strerror}") from None
        with os.fdopen(handle, "w") as file:
            file.write(text)
    messages.success(f"{parsed.text('out')}.key signs; keep it away from devices. The .pub goes into {KEYS} of each")
    return 0


def _make(parsed: Parsed, files: Sequence[str], messages: Messages) -> int:
    require(parsed, "key", "out")
    if not files:
        raise UsageError("bundle make: expected the packages")
    key = read_key(parsed.text("key"), "private")
    packages, versions = {}, set()
    for path in files:
        fields = _fields(path)
        package = describe(path, fields["Architecture"], fields["Depends"].partition("(>= ")[2].partition(")")[0])
        packages[package.name] = (package, path)
        versions.add(fields["Version"].rpartition("+deb")[0] or fields["Version"])
    if len(versions) != 1:
        raise BundleError(f"the packages are of {len(versions)} versions: {', '.join(sorted(versions))}")
    manifest = Manifest(versions.pop(), parsed.text("min-version"), tuple(package for package, _ in packages.values()))
    fresh = parsed.text("out") + ".new"
    with open(fresh, "wb") as out:
        write_bundle(out, manifest, {name: path for name, (_, path) in packages.items()}, key)
        os.fsync(out.fileno())
    os.replace(fresh, parsed.text("out"))
    messages.success(f"{parsed.text('out')}: version {manifest.version}, {len(packages)} packages")
    return 0


def _fields(path: str) -> Mapping[str, str]:
    command = ["dpkg-deb", "-f", path, "Package", "Version", "Architecture", "Depends"]
    done = _call(command)
    fields = dict(line.partition(": ")[::2] for line in done.stdout.splitlines())
    if done.returncode or fields.get("Package") != "edge-runtime":
        raise BundleError(f"{path}: it is no package of edge-runtime; {done.stderr.strip()}")
    return fields


def _verify(parsed: Parsed, files: Sequence[str], messages: Messages) -> int:
    manifest = verify_bundle(_one(files, "verify"), trusted_keys(parsed.text("keys")))
    if parsed.flag("json"):
        print(as_json({**manifest._asdict(), "packages": [package._asdict() for package in manifest.packages]}))
    else:
        names = ", ".join(package.name.partition("/")[2] for package in manifest.packages)
        messages.success(f"{files[0]}: version {manifest.version}, signed by a trusted key: {names}")
    return 0


def _install(parsed: Parsed, files: Sequence[str], messages: Messages) -> int:
    path, keys = _one(files, "install"), trusted_keys(parsed.text("keys"))
    manifest = verify_bundle(path, keys)
    arch = _call(["dpkg", "--print-architecture"]).stdout.strip()
    package = manifest.package_for(arch, f"{sys.version_info[0]}.{sys.version_info[1]}")
    _check_version(manifest, running_version(), parsed.flag("allow-downgrade"))
    with tempfile.TemporaryDirectory(prefix="edge-runtime-bundle-") as folder:
        place = os.path.join(folder, os.path.basename(package.name))
        with open(place, "wb") as out:
            extract(path, keys, package, out)
            os.fsync(out.fileno())
        messages.pending(f"installing {os.path.basename(place)}")
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        code = subprocess.run(["dpkg", "--force-confdef", "--force-confold", "-i", place], env=environment).returncode
    if code:
        raise BundleError("the version was not put into service; `edge-runtime-update status` says why")
    messages.success(f"version {manifest.version} is installed")
    return 0


def running_version(path: str = _CURRENT) -> str:
    """The version of the slot that runs, which may be older than the package after an update was taken back."""
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return ""


def _check_version(manifest: Manifest, running: str, allow_downgrade: bool) -> None:
    bare = running.rpartition("+deb")[0] or running
    if not running:
        return
    if _is_older(manifest.version, bare) and not allow_downgrade:
        raise BundleError(f"version {manifest.version} is older than {bare}, which runs; --allow-downgrade installs it")
    if manifest.min_version and _is_older(bare, manifest.min_version):
        raise BundleError(f"it updates from version {manifest.min_version} or later; {bare} runs. Install that first")


def _is_older(one: str, other: str) -> bool:
    """By Debian's own order, in which 1.0~rc1 is before 1.0."""
    return _call(["dpkg", "--compare-versions", one, "lt", other]).returncode == 0


def _one(files: Sequence[str], action: str) -> str:
    if len(files) != 1:
        raise UsageError(f"bundle {action}: expected one bundle")
    return files[0]


def _call(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        raise BundleError(f"{command[0]}: {error.strerror}; bundles are for Debian and its kin") from None


_ACTIONS: Final[Mapping[str, Callable[[Parsed, Sequence[str], Messages], int]]] = {
    "make": _make,
    "verify": _verify,
    "install": _install,
    "keygen": _keygen,
}
