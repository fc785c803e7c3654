"""Encryption at rest: AES-GCM over single values, with a primary key that writes and a secondary one that still reads.

A sealed value is base64(nonce ‖ ciphertext ‖ tag) + `||` + the name of its key. The name is the secret's, so that a
rotation needs no second pass over the data: the former primary key is named as the secondary, and both can be read.
"""

from __future__ import annotations

import binascii
import os
from typing import Final, NamedTuple

from edge_runtime.model.errors import ConfigError, DriverError

_NONCE_BYTES: Final = 12
_KEY_BYTES: Final = (16, 24, 32)
_SEPARATOR: Final = b"||"


class SealBroken(DriverError):
    """A stored value cannot be decrypted with the keys at hand."""

    permanent = True


class Key(NamedTuple):
    """AES key bytes under the name that is stored beside each value."""

    name: str
    secret: bytes

    def __repr__(self) -> str:
        return f"Key({self.name!r}, …)"


def key_from_hex(field: str, name: str, text: str) -> Key:
    """The key that a component's metadata field holds. Raises ConfigError; the text never shows the key."""
    try:
        secret = binascii.unhexlify(text.strip())
    except (binascii.Error, ValueError):
        raise ConfigError(f"{field}: the key is not written in hexadecimal digits") from None
    if len(secret) not in _KEY_BYTES:
        raise ConfigError(
            f"{field}: the key has {len(secret)} bytes; expected 16, 24 or 32 (32, 48 or 64 hexadecimal digits),"
            " such as `openssl rand -hex 32` makes"
        )
    return Key(name, secret)


class Seal:
    """Seals with the primary key, opens with the key that the value names."""

    __slots__ = ("_ciphers", "_suffix", "_write")

    def __init__(self, primary: Key, secondary: Key | None = None) -> None:
        # cryptography costs 9 MB, so it is loaded with the first encrypted store.
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._ciphers = {key.name.encode(): AESGCM(key.secret) for key in (secondary, primary) if key is not None}
        self._write = self._ciphers[primary.name.encode()]
        self._suffix = _SEPARATOR + primary.name.encode()

    def seal(self, plain: bytes) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        return binascii.b2a_base64(nonce + self._write.encrypt(nonce, plain, None), newline=False) + self._suffix

    def open(self, sealed: bytes) -> bytes:
        """The value as it was before `seal`. An empty stored value is an empty value. Raises SealBroken."""
        if not sealed:
            return b""
        from cryptography.exceptions import InvalidTag

        encoded, separator, name = sealed.rpartition(_SEPARATOR)
        if not separator:
            raise SealBroken("failed to decrypt: the value was stored before encryption was turned on")
        cipher = self._ciphers.get(name)
        if cipher is None:
            raise SealBroken(
                f'failed to decrypt: the value was sealed with the key "{name.decode(errors="replace")}", which is'
                " neither the primary nor the secondary encryption key"
            )
        try:
            blob = binascii.a2b_base64(encoded, strict_mode=True)
            return cipher.decrypt(blob[:_NONCE_BYTES], blob[_NONCE_BYTES:], None)
        except (binascii.Error, ValueError, InvalidTag):
            raise SealBroken("failed to decrypt: the value is damaged, or its key has changed under its name") from None
