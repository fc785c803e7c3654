"""The node's box: its key, and what it gives away without it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge_runtime.model.errors import ConfigError
from edge_runtime.security.seal import SealBroken
from edge_runtime.security.secret_box import CREDENTIAL, SecretBox, open_secret_box


def test_what_was_sealed_is_opened(tmp_path: Path) -> None:
    box = open_secret_box(str(tmp_path), {})
    sealed = box.seal(b"pa$$")
    assert b"pa$$" not in sealed
    assert open_secret_box(str(tmp_path), {}).open(sealed) == b"pa$$"
    assert box.seal(b"pa$$") != sealed
    assert box.mark(b"name") == open_secret_box(str(tmp_path), {}).mark(b"name")
    assert "…" in repr(box)


def test_a_flipped_bit_is_seen() -> None:
    box = SecretBox(bytes(32))
    sealed = bytearray(box.seal(b"pa$$"))
    for place in range(len(sealed)):
        sealed[place] ^= 1
        with pytest.raises(SealBroken):
            box.open(bytes(sealed))
        sealed[place] ^= 1
    for other in (b"", b"x", bytes(100)):
        with pytest.raises(SealBroken):
            box.open(other)
    with pytest.raises(SealBroken):
        SecretBox(b"k" * 32).open(bytes(sealed))
    assert SecretBox(b"k" * 32).mark(b"n") != box.mark(b"n")


def test_the_key_is_its_owner_s_alone(tmp_path: Path) -> None:
    open_secret_box(str(tmp_path), {})
    key = tmp_path / "seal.key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert len(key.read_bytes()) == 32
    assert os.listdir(tmp_path) == ["seal.key"]
    key.chmod(0o640)
    with pytest.raises(ConfigError, match=f"chmod 600 {key}"):
        open_secret_box(str(tmp_path), {})


def test_a_credential_goes_before_the_file(tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    environment = {"CREDENTIALS_DIRECTORY": str(credentials)}
    open_secret_box(str(tmp_path), environment)
    (credentials / CREDENTIAL).write_bytes(b"c" * 32)
    assert open_secret_box(str(tmp_path), environment).mark(b"n") == SecretBox(b"c" * 32).mark(b"n")
    (credentials / CREDENTIAL).write_text((b"c" * 32).hex() + "\n")
    assert open_secret_box(str(tmp_path), environment).mark(b"n") == SecretBox(b"c" * 32).mark(b"n")
    for wrong in (b"", b"c" * 33, b"63" * 31, b"z" * 64, b"63" * 40):
        (credentials / CREDENTIAL).write_bytes(wrong)
        with pytest.raises(ConfigError, match=r"has not 32 bytes, .*; put 32 random bytes into the credential"):
            open_secret_box(str(tmp_path), environment)


def test_a_cut_off_key_is_named(tmp_path: Path) -> None:
    (tmp_path / "seal.key").write_bytes(b"short")
    (tmp_path / "seal.key").chmod(0o600)
    with pytest.raises(ConfigError, match=r"seal.key: the key has not 32 bytes, .*; remove it"):
        open_secret_box(str(tmp_path), {})


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the key cannot be made: No such file or directory"):
        open_secret_box(str(tmp_path / "none"), {})
