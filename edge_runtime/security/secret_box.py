"""Seals what the node keeps for others and must not lie open on its disk: XSalsa20-Poly1305 of PyNaCl.

The key is the systemd credential `edge-runtime-seal-key` where there is one, which can be bound to the machine's TPM.
Else it is a file in the state directory, made at first use: that keeps secrets out of copies of the database, not from
who takes the whole disk.
"""

from __future__ import annotations

import binascii
import hashlib
import os
import stat
from collections.abc import Mapping
from typing import Final

from edge_runtime.model.errors import ConfigError
from edge_runtime.security.seal import SealBroken

KEY_BYTES: Final = 32
CREDENTIAL: Final = "edge-runtime-seal-key"
KEY_FILE: Final = "seal.key"
_MARK_BYTES: Final = 16
_FILE_BYTES_MAX: Final = 128


class SecretBox:
    """Seals and opens; `mark` gives names that tell nothing to who has not the key."""

    __slots__ = ("_box", "_mark_key")

    def __init__(self, key: bytes) -> None:
        from nacl.secret import SecretBox as Box  # a megabyte: only what seals pays for it

        self._box = Box(key)
        self._mark_key = hashlib.blake2b(b"marks", key=key, digest_size=KEY_BYTES).digest()

    def __repr__(self) -> str:
        return "SecretBox(…)"

    def seal(self, plain: bytes) -> bytes:
        return bytes(self._box.encrypt(plain))

    def open(self, sealed: bytes) -> bytes:
        """Raises SealBroken when it was sealed with another key, or one bit has changed."""
        from nacl.exceptions import CryptoError

        try:
            return self._box.decrypt(sealed)
        except (CryptoError, ValueError, TypeError):
            raise SealBroken("it is damaged, or was sealed with another key") from None

    def mark(self, plain: bytes) -> bytes:
        """The same for the same bytes and key."""
        return hashlib.blake2b(plain, key=self._mark_key, digest_size=_MARK_BYTES).digest()


def open_secret_box(state_dir: str, environment: Mapping[str, str]) -> SecretBox:
    """With the node's key, which is made when there is none. Raises ConfigError, which names the file."""
    directory = environment.get("CREDENTIALS_DIRECTORY", "")
    credential = os.path.join(directory, CREDENTIAL)
    if directory and os.path.exists(credential):
        return SecretBox(read_key(credential, "put 32 random bytes into the credential"))
    path = os.path.join(state_dir, KEY_FILE)
    try:
        _make(path)
    except OSError as error:
        raise ConfigError(f"{path}: the key cannot be made: {error.strerror}; make its folder writable") from None
    if os.stat(path).st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"{path}: others than its owner may read the key; chmod 600 {path}")
    return SecretBox(read_key(path, "remove it, and a new one is made; what was sealed is fetched again"))


def read_key(path: str, mend: str) -> bytes:
    """The key in a file, plain or in hexadecimal digits. Raises ConfigError, which never shows it."""
    try:
        with open(path, "rb") as file:
            found = file.read(_FILE_BYTES_MAX)
    except OSError as error:
        raise ConfigError(f"{path}: the key cannot be read: {error.strerror}") from None
    try:
        key = found if len(found) == KEY_BYTES else binascii.unhexlify(found.strip())
    except binascii.Error:
        key = b""
    if len(key) != KEY_BYTES:
        raise ConfigError(f"{path}: the key has not {KEY_BYTES} bytes, plain or in hexadecimal digits; {mend}")
    return key


def _make(path: str) -> None:
    """Whole or not at all, and never over one that is there: of two processes the first makes it."""
    if os.path.exists(path):
        return
    new = f"{path}.{os.getpid()}"
    handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(handle, os.urandom(KEY_BYTES))
        os.fsync(handle)
    finally:
        os.close(handle)
    try:
        os.link(new, path)
    except FileExistsError:
        pass
    finally:
        os.unlink(new)
    folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
