"""Bytes of any length, sealed: XSalsa20-Poly1305 of PyNaCl over pieces of 1 MiB, each bound to its place.

    header  magic, 15 random bytes, the key's mark
    piece   its length (4 bytes), then what SecretBox makes of it

A piece's nonce is the header's random bytes, the piece's number, and whether it is the last. So none can be left out,
moved, or taken from another stream, and a stream that was cut between two pieces does not open.
"""

from __future__ import annotations

import hashlib
import os
from typing import IO, Final

from edge_runtime.security.seal import SealBroken
from edge_runtime.security.secret_box import KEY_BYTES

MAGIC: Final = b"edge-runtime sealed 1\n"
PIECE_BYTES: Final = 2**20
_PREFIX_BYTES: Final = 15
_MARK_BYTES: Final = 8
_NUMBER_BYTES: Final = 8
_LENGTH_BYTES: Final = 4
_TAG_BYTES: Final = 16


class SealingWriter:
    """Writes into `file`, sealed. Without `close` the stream has no end and does not open."""

    def __init__(self, file: IO[bytes], key: bytes) -> None:
        from nacl.secret import SecretBox as Box

        self._file = file
        self._box = Box(key)
        self._prefix = os.urandom(_PREFIX_BYTES)
        self._number = 0
        self._held = bytearray()
        file.write(MAGIC + self._prefix + _mark(key))

    def write(self, data: bytes) -> int:
        self._held += data
        while len(self._held) > PIECE_BYTES:  # the last piece is told apart by being the last, so one is kept back
            self._put(bytes(self._held[:PIECE_BYTES]), last=False)
            del self._held[:PIECE_BYTES]
        return len(data)

    def close(self) -> None:
        """Write the last piece; the file stays open."""
        self._put(bytes(self._held), last=True)
        self._held.clear()

    def _put(self, plain: bytes, *, last: bool) -> None:
        sealed = self._box.encrypt(plain, _nonce(self._prefix, self._number, last)).ciphertext
        self._file.write(len(sealed).to_bytes(_LENGTH_BYTES) + sealed)
        self._number += 1


class OpeningReader:
    """Reads what a `SealingWriter` wrote; `file` stands behind the magic. Raises SealBroken."""

    def __init__(self, file: IO[bytes], key: bytes) -> None:
        from nacl.secret import SecretBox as Box

        self._file = file
        self._box = Box(key)
        self._prefix = self._exactly(_PREFIX_BYTES)
        if self._exactly(_MARK_BYTES) != _mark(key):
            raise SealBroken("it was sealed with another key")
        self._number = 0
        self._length = int.from_bytes(self._exactly(_LENGTH_BYTES))
        self._plain = b""
        self._at = 0

    def read(self, size: int) -> bytes:
        """Fewer bytes at the end only."""
        found = bytearray()
        while len(found) < size:
            if self._at == len(self._plain):
                if not self._length:
                    break
                self._plain, self._at = self._next(), 0
                continue
            piece = self._plain[self._at : self._at + size - len(found)]
            found += piece
            self._at += len(piece)
        return bytes(found)

    def _next(self) -> bytes:
        from nacl.exceptions import CryptoError

        if not _TAG_BYTES <= self._length <= PIECE_BYTES + _TAG_BYTES:
            raise SealBroken("it is damaged")
        sealed = self._exactly(self._length)
        following = self._file.read(_LENGTH_BYTES)
        last = not following
        if not last and len(following) < _LENGTH_BYTES:
            raise SealBroken("it was cut short")
        try:
            plain = self._box.decrypt(sealed, _nonce(self._prefix, self._number, last))
        except (CryptoError, ValueError):
            raise SealBroken("it is damaged, or was cut short") from None
        self._number += 1
        self._length = int.from_bytes(following)
        return plain

    def _exactly(self, size: int) -> bytes:
        found = self._file.read(size)
        if len(found) < size:
            raise SealBroken("it was cut short")
        return found


def _mark(key: bytes) -> bytes:
    """Tells the wrong key from damage, and nothing about the key."""
    if len(key) != KEY_BYTES:
        raise ValueError(f"a key has {KEY_BYTES} bytes")
    return hashlib.blake2b(b"stream", key=key, digest_size=_MARK_BYTES).digest()


def _nonce(prefix: bytes, number: int, last: bool) -> bytes:
    return prefix + number.to_bytes(_NUMBER_BYTES) + (b"\x01" if last else b"\x00")
