"""A gzip-encoded body as plain bytes, decoded piece by piece with bounded memory, whatever it unpacks to."""

from __future__ import annotations

import zlib
from typing import Final

from edge_runtime.model.errors import DriverError
from edge_runtime.model.http import Body
from edge_runtime.net.stream import IteratorBody

_GZIP_WINDOW: Final = 31  # zlib's way to say gzip format
_PIECE_BYTES: Final = 65536


class GunzipBody(IteratorBody):
    """What `source` unpacks to. Several gzip members one after the other are one body, as the format has it."""

    __slots__ = ("_decoder", "_pending", "_pieces", "_source", "_touched")

    def __init__(self, source: Body) -> None:
        super().__init__()
        self._source = source
        # What is in memory needs no iterator, which would have to be closed when the data is bad.
        self._pieces = None if source.buffered else source.chunks()
        self._decoder = zlib.decompressobj(_GZIP_WINDOW)
        self._pending = source.data
        self._touched = False  # the decoder has seen a part of a member

    async def __anext__(self) -> bytes:
        while True:
            if not self._pending:
                self._pending = b"" if self._pieces is None else await anext(self._pieces, b"")
            if not self._pending:
                if self._touched:
                    raise DriverError("the app's gzip body ends too early")
                raise StopAsyncIteration
            plain = self._unpack()
            if plain:
                return plain

    def _unpack(self) -> bytes:
        decoder = self._decoder
        try:
            plain = decoder.decompress(self._pending, _PIECE_BYTES)
        except zlib.error as error:
            raise DriverError(f"the app's gzip body cannot be decoded: {error}") from error
        self._touched = True
        if decoder.eof:
            self._pending = decoder.unused_data
            self._decoder = zlib.decompressobj(_GZIP_WINDOW)
            self._touched = False
        else:
            self._pending = decoder.unconsumed_tail
        return plain

    async def aclose(self) -> None:
        await self._source.aclose()
