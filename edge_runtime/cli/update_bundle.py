"""Update bundles: one tar of packages under a signed manifest, read from front to back in little memory.

    manifest.json       names, sizes and SHA-256 of what follows, versions, the oldest version to update from
    manifest.sig        Ed25519 over a fixed prefix and the bytes of the manifest
    packages/*.deb      in the order of the manifest

The manifest is believed once a trusted key has signed it, a package once its bytes have the manifest's sum. Nothing is
written anywhere before both are so.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, Any, Final, NamedTuple

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
SIGNATURE: Final = "manifest.sig"
MANIFEST_BYTES_MAX: Final = 64 * 1024
PACKAGE_BYTES_MAX: Final = 256 * 2**20
PACKAGES_MAX: Final = 16
_SIGNATURE_BYTES: Final = 64
_PIECE_BYTES: Final = 1024 * 1024
_BLOCK: Final = 512
# Signed along, so that a signature for something else is none for a bundle.
_PREFIX: Final = b"edge-runtime update bundle 1\n"
_KEY_HEAD: Final = "edge-runtime-update-key"
_NAME: Final = re.compile(r"packages/[A-Za-z0-9][A-Za-z0-9.+~_-]{0,85}\.deb")  # what a plain header has room for


class BundleError(Exception):
    """The bundle, or a key, is not to be used; the text says why."""


class Package(NamedTuple):
    """`python` is the version of the interpreter that it is for."""

    name: str
    arch: str
    python: str
    size: int
    sha256: str


class Manifest(NamedTuple):
    """`min_version` is the oldest version that may be updated from; empty for any."""

    version: str
    min_version: str
    packages: tuple[Package, ...]

    def encode(self) -> bytes:
        packages = [package._asdict() for package in self.packages]
        document = {"format": FORMAT, "version": self.version, "minVersion": self.min_version, "packages": packages}
        return json.dumps(document, indent=2).encode() + b"\n"

    def package_for(self, arch: str, python: str) -> Package:
        for package in self.packages:
            if (package.arch, package.python) == (arch, python):
                return package
        known = ", ".join(f"{package.arch} with Python {package.python}" for package in self.packages)
        raise BundleError(f"there is no package for {arch} with Python {python} in it; there is {known}")


# --- keys -------------------------------------------------------------------------------------------------------------


def make_keys() -> tuple[str, str]:
    """The texts of a fresh private key and of its public key."""
    from nacl.signing import SigningKey

    key = SigningKey.generate()
    return f"{_KEY_HEAD} private {bytes(key).hex()}\n", f"{_KEY_HEAD} public {bytes(key.verify_key).hex()}\n"


def read_key(path: str, kind: str) -> bytes:
    """The bytes of a key file. `kind` is private or public."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            text = file.read(1024)
    except OSError as error:
        raise BundleError(f"key file {path}: {error.strerror}") from None
    found = re.fullmatch(rf"{_KEY_HEAD} {kind} ([0-9a-f]{{64}})\s*", text)
    if found is None:
        raise BundleError(f"key file {path}: expected one line `{_KEY_HEAD} {kind} …`, as `bundle keygen` writes it")
    return bytes.fromhex(found[1])


def trusted_keys(directory: str) -> list[bytes]:
    """The public keys in the directory's *.pub files."""
    try:
        names = sorted(name for name in os.listdir(directory) if name.endswith(".pub"))
    except OSError as error:
        raise BundleError(f"key directory {directory}: {error.strerror}") from None
    if not names:
        raise BundleError(f"no key is trusted: put the sender's .pub file into {directory}")
    return [read_key(os.path.join(directory, name), "public") for name in names]


def _check_signature(manifest: bytes, signature: bytes, keys: Sequence[bytes]) -> None:
    from nacl.exceptions import BadSignatureError
    from nacl.signing import VerifyKey

    for key in keys:
        try:
            VerifyKey(key).verify(_PREFIX + manifest, signature)
            return
        except (BadSignatureError, ValueError):
            continue
    raise BundleError("no trusted key has signed it: it is damaged, or comes from somebody else")


# --- writing ----------------------------------------------------------------------------------------------------------


def write_bundle(out: IO[bytes], manifest: Manifest, files: Mapping[str, str], private_key: bytes) -> None:
    """Write the bundle; `files` is where the package of a name lies."""
    from nacl.signing import SigningKey

    text = manifest.encode()
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.USTAR_FORMAT) as archive:
        _add_bytes(archive, MANIFEST, text)
        _add_bytes(archive, SIGNATURE, SigningKey(private_key).sign(_PREFIX + text).signature)
        for package in manifest.packages:
            with open(files[package.name], "rb") as file:
                archive.addfile(_member(package.name, package.size), file)


def describe(path: str, arch: str, python: str) -> Package:
    """The manifest's line for a package file."""
    digest, size = hashlib.sha256(), 0
    with open(path, "rb") as file:
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
            size += len(piece)
    return Package(f"packages/{os.path.basename(path)}", arch, python, size, digest.hexdigest())


def _add_bytes(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    import io

    archive.addfile(_member(name, len(content)), io.BytesIO(content))


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    return member


# --- reading ----------------------------------------------------------------------------------------------------------


class _Archive:
    """A tar archive's regular files, one after the other.

    Not by tarfile: it would follow long names and extended headers into memory before anything was verified.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def open_member(self, name: str, size_max: int) -> int:
        """The size of the next file, which has to be this one. Its bytes are next."""
        header = self._read(_BLOCK)
        sums = sum(header[:148]) + 8 * 32 + sum(header[156:])
        if header[:100].rstrip(b"\0") != name.encode() or header[156:157] not in (b"0", b"\0"):
            raise BundleError(f"it is no bundle, or damaged: {name} is missing or out of its place")
        try:
            size, written = int(header[124:136].rstrip(b"\0 "), 8), int(header[148:156].rstrip(b"\0 "), 8)
        except ValueError:
            size, written = -1, -1
        if written != sums or not 0 <= size <= size_max:
            raise BundleError(f"it is damaged: {name} has no sound size")
        return size

    def pieces(self, size: int) -> Iterator[bytes]:
        left = size
        while left:
            piece = self._read(min(left, _PIECE_BYTES))
            left -= len(piece)
            yield piece
        self._read(-size % _BLOCK)

    def at_end(self) -> bool:
        """Whether nothing but the zeros of an archive's end is left."""
        while piece := self._file.read(_PIECE_BYTES):
            if piece.count(0) != len(piece):
                return False
        return True

    def _read(self, size: int) -> bytes:
        content = self._file.read(size)
        if len(content) != size:
            raise BundleError("it is no bundle, or cut off")
        return content


def verify_bundle(path: str, keys: Sequence[bytes]) -> Manifest:
    """The manifest, when a trusted key has signed it and every package has its sum. Nothing is written."""
    with _opened(path) as archive:
        manifest = _manifest(archive, keys)
        for package in manifest.packages:
            for _ in _pieces(archive, package):
                pass
        if not archive.at_end():
            raise BundleError("there is more in it than its manifest says")
    return manifest


def extract(path: str, keys: Sequence[bytes], wanted: Package, out: IO[bytes]) -> None:
    """Write one package of a verified bundle. It is verified again as it is read: the file may have changed."""
    with _opened(path) as archive:
        for package in _manifest(archive, keys).packages:
            for piece in _pieces(archive, package):
                if package == wanted:
                    out.write(piece)


@contextmanager
def _opened(path: str) -> Iterator[_Archive]:
    try:
        with open(path, "rb") as file:
            yield _Archive(file)
    except OSError as error:
        raise BundleError(str(error.strerror)) from None


def _manifest(archive: _Archive, keys: Sequence[bytes]) -> Manifest:
    text = b"".join(archive.pieces(archive.open_member(MANIFEST, MANIFEST_BYTES_MAX)))
    signature = b"".join(archive.pieces(archive.open_member(SIGNATURE, _SIGNATURE_BYTES)))
    _check_signature(text, signature, keys)
    return _parse(text)


def _pieces(archive: _Archive, package: Package) -> Iterator[bytes]:
    """The package's bytes, in pieces. Raises BundleError at its end when its sum is another."""
    digest = hashlib.sha256()
    if archive.open_member(package.name, package.size) != package.size:
        raise BundleError(f"{package.name} is damaged: it is shorter than the manifest says")
    for piece in archive.pieces(package.size):
        digest.update(piece)
        yield piece
    if digest.hexdigest() != package.sha256:
        raise BundleError(f"{package.name} is damaged: its SHA-256 is not the manifest's")


def _parse(text: bytes) -> Manifest:
    """A manifest whose signature is good; so what is wrong in it is its maker's mistake, or a newer format."""
    try:
        found: Any = json.loads(text)
        if found["format"] != FORMAT:
            raise BundleError(f"its format is {found['format']}; this version reads format {FORMAT}")
        packages = tuple(
            Package(str(item["name"]), str(item["arch"]), str(item["python"]), int(item["size"]), str(item["sha256"]))
            for item in found["packages"]
        )
        manifest = Manifest(str(found["version"]), str(found["minVersion"]), packages)
    except (ValueError, KeyError, TypeError) as error:
        raise BundleError(f"its manifest cannot be read: {error!r}") from None
    names = [package.name for package in packages]
    if not 0 < len(names) <= PACKAGES_MAX or len(set(names)) != len(names) or not all(map(_NAME.fullmatch, names)):
        raise BundleError("its manifest names no packages, too many, or some that it may not name")
    if any(not 0 < package.size <= PACKAGE_BYTES_MAX for package in packages):
        raise BundleError(f"its manifest names a package over {PACKAGE_BYTES_MAX // 2**20} MB")
    return manifest
