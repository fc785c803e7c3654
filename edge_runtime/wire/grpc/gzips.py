"""gzip of single messages, with a bound on what comes out."""

from __future__ import annotations

import zlib
from typing import Final

from edge_runtime.wire.grpc.frames import MessageTooLarge

_GZIP: Final = 31  # zlib's window bits for a gzip header and a 32 KiB window
_MEMBERS_MAX: Final = 64  # each costs a copy of what follows it, however little it holds


class BadGzip(Exception):
    """The bytes are no gzip."""


def inflate(data: bytes, bytes_max: int) -> bytes:
    """The content; nothing past `bytes_max` is ever inflated. Raises `MessageTooLarge` or `BadGzip`."""
    pieces: list[bytes] = []
    room = bytes_max + 1
    for _ in range(_MEMBERS_MAX):
        inflater = zlib.decompressobj(_GZIP)
        try:
            piece = inflater.decompress(data, room)
        except zlib.error as error:
            raise BadGzip(str(error)) from None
        pieces.append(piece)
        room -= len(piece)
        if room <= 0:
            raise MessageTooLarge(bytes_max + 1, bytes_max, inflated=True)
        if not inflater.eof:
            raise BadGzip("unexpected EOF")
        data = inflater.unused_data
        if not data:
            return b"".join(pieces)
    raise BadGzip("too many members")


def deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(6, zlib.DEFLATED, _GZIP)
    return packer.compress(data) + packer.flush()
