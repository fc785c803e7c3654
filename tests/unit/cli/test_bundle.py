"""Update bundles: what a trusted key has signed is taken whole; anything else is refused before it is unpacked."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from edge_runtime.cli import bundle
from edge_runtime.cli.main import dispatch
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

PACKAGE = b"!<arch>\n" + bytes(range(256)) * 20_000


class Sender:
    """A pair of keys, and a bundle of two packages that they signed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        private, public = make_keys()
        (folder / "a.key").write_text(private)
        (folder / "keys").mkdir()
        (folder / "keys/a.pub").write_text(public)
        self.bundle = folder / "update.bundle"

    @property
    def keys(self) -> list[bytes]:
        return trusted_keys(str(self.folder / "keys"))

    def send(self, version: str = "1.2.0", min_version: str = "") -> Manifest:
        files = {}
        for arch in ("arm64", "amd64"):
            path = self.folder / f"edge-runtime_{version}_{arch}.deb"
            path.write_bytes(PACKAGE + arch.encode())
            package = describe(str(path), arch, "3.11")
            files[package] = str(path)
        manifest = Manifest(version, min_version, tuple(files))
        with self.bundle.open("wb") as out:
            places = {package.name: path for package, path in files.items()}
            write_bundle(out, manifest, places, read_key(str(self.folder / "a.key"), "private"))
        return manifest


@pytest.fixture
def sender(tmp_path: Path) -> Sender:
    return Sender(tmp_path / "sender")


def test_signed_bundle_is_read_back(sender: Sender) -> None:
    manifest = sender.send()
    assert verify_bundle(str(sender.bundle), sender.keys) == manifest
    out = io.BytesIO()
    extract(str(sender.bundle), sender.keys, manifest.package_for("arm64", "3.11"), out)
    assert out.getvalue() == PACKAGE + b"arm64"


def test_foreign_signature_is_refused(sender: Sender, tmp_path: Path) -> None:
    sender.send()
    other = Sender(tmp_path / "other")
    with pytest.raises(BundleError, match="no trusted key has signed it"):
        verify_bundle(str(sender.bundle), other.keys)


def test_no_key_is_told(sender: Sender, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no key is trusted: put the sender's \.pub file into"):
        trusted_keys(str(tmp_path))


def test_no_flipped_bit_changes_what_is_taken(sender: Sender) -> None:
    """It is refused, or in what nobody reads: padding, and the owners and modes of a header."""
    manifest = sender.send()
    whole = sender.bundle.read_bytes()
    refused = 0
    for at in [*range(0, 3_072, 37), *range(3_072, len(whole) - 20_480, len(whole) // 40)]:
        damaged = bytearray(whole)
        damaged[at] ^= 0x10
        sender.bundle.write_bytes(damaged)
        try:
            assert verify_bundle(str(sender.bundle), sender.keys) == manifest
        except BundleError:
            refused += 1
    assert refused > 80


@pytest.mark.parametrize("size", [0, 100, 511, 512, 1_500, 3_000, 1_000_000])
def test_cut_off_bundle_is_refused(sender: Sender, size: int) -> None:
    sender.send()
    sender.bundle.write_bytes(sender.bundle.read_bytes()[:size])
    with pytest.raises(BundleError, match=r"no bundle|cut off|damaged"):
        verify_bundle(str(sender.bundle), sender.keys)


def test_something_else_is_no_bundle(sender: Sender) -> None:
    sender.bundle.write_bytes(b"#!/bin/sh\n" * 1_000)
    with pytest.raises(BundleError, match="it is no bundle"):
        verify_bundle(str(sender.bundle), sender.keys)


def test_more_than_the_manifest_says_is_refused(sender: Sender) -> None:
    sender.send()
    with sender.bundle.open("ab") as file:
        file.write(b"more")
    with pytest.raises(BundleError, match="more in it than its manifest says"):
        verify_bundle(str(sender.bundle), sender.keys)


def test_other_machine_is_told_what_there_is(sender: Sender) -> None:
    with pytest.raises(BundleError, match=r"no package for riscv64 .*there is arm64 with Python 3\.11"):
        sender.send().package_for("riscv64", "3.11")


@pytest.mark.parametrize(
    ("version", "min_version", "running", "said"),
    [
        ("1.2.0", "", "1.3.0+deb12", "is older than 1.3.0, which runs; --allow-downgrade"),
        ("1.2.0", "1.1.0", "1.0.0+deb12", "updates from version 1.1.0 or later; 1.0.0 runs"),
        ("1.2.0", "1.1.0", "1.2.0~git20260101000000.abc+deb12", ""),
        ("1.2.0", "", "", ""),
    ],
)
def test_versions_are_compared(version: str, min_version: str, running: str, said: str) -> None:
    manifest = Manifest(version, min_version, ())
    if not said:
        bundle._check_version(manifest, running, False)
        return
    with pytest.raises(BundleError, match=said):
        bundle._check_version(manifest, running, False)


def test_downgrade_is_done_when_asked() -> None:
    bundle._check_version(Manifest("1.0.0", "", ()), "1.2.0+deb12", True)


def test_key_files_are_made_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bundle", "keygen", "--out", str(tmp_path / "fleet")]
    assert dispatch(words) == 0
    assert (tmp_path / "fleet.key").stat().st_mode & 0o777 == 0o600
    assert dispatch(words) == 1
    assert "fleet.key: File exists" in capsys.readouterr().err


def test_verify_says_who_and_what(sender: Sender, capsys: pytest.CaptureFixture[str]) -> None:
    sender.send()
    words = ["bundle", "verify", str(sender.bundle), "--keys", str(sender.folder / "keys")]
    assert dispatch(words) == 0
    assert "version 1.2.0, signed by a trusted key: edge-runtime_1.2.0_arm64.deb" in capsys.readouterr().out
    sender.bundle.write_bytes(sender.bundle.read_bytes()[:2_000])
    assert dispatch(words) == 1
    assert "update.bundle: it is no bundle, or cut off" in capsys.readouterr().err


def test_private_key_is_not_taken_for_a_public_one(sender: Sender) -> None:
    with pytest.raises(BundleError, match="expected one line `edge-runtime-update-key public"):
        read_key(str(sender.folder / "a.key"), "public")
