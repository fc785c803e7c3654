"""Bodies that arrive piece by piece, with the methods of `model.http.Body`."""

from __future__ import annotations

from collections.abc import AsyncIterator

from edge_runtime.model.errors import BodyTooLarge
from edge_runtime.model.http import Body


class StreamBody(Body):
    """A body that is read when somebody asks for it. A subclass says how the next piece is had."""

    __slots__ = ("_length", "_started", "_whole")

    def __init__(self, length: int | None) -> None:
        super().__init__()
        self._length = length
        self._started = False
        self._whole = False

    @property
    def length(self) -> int | None:
        return self._length

    @property
    def buffered(self) -> bool:
        """True once `read` has taken everything; `data` has it then."""
        return self._whole

    async def next_piece(self) -> bytes:
        """More of the body, b"" at its end."""
        raise NotImplementedError

    async def read(self, limit_bytes: int | None = None) -> bytes:
        """Everything, as one piece; again the same when asked again."""
        if not self._whole:
            if limit_bytes is not None and (self._length or 0) > limit_bytes:
                raise BodyTooLarge
            self._start()
            self.data = await self._join(limit_bytes)
            self._whole = True
            self._length = len(self.data)
        return await super().read(limit_bytes)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The content as it arrives. Can be gone through once, unless `read` has taken it."""
        if self._whole:
            if self.data:
                yield self.data
            return
        self._start()
        while piece := await self.next_piece():
            yield piece

    def _start(self) -> None:
        if self._started:
            raise RuntimeError("this body has been gone through already")
        self._started = True

    async def _join(self, limit_bytes: int | None) -> bytes:
        pieces: list[bytes] = []
        size = 0
        while piece := await self.next_piece():
            size += len(piece)
            if limit_bytes is not None and size > limit_bytes:
                raise BodyTooLarge
            pieces.append(piece)
        return b"".join(pieces)


class IteratorBody(Body):
    """A body that is its own iterator: a subclass has `__anext__` and `aclose`. Its length is not known beforehand."""

    __slots__ = ()

    @property
    def length(self) -> int | None:
        return None

    @property
    def buffered(self) -> bool:
        return False

    async def read(self, limit_bytes: int | None = None) -> bytes:
        return await read_all(self, limit_bytes)

    def chunks(self) -> AsyncIterator[bytes]:
        return self

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        raise NotImplementedError


async def read_all(body: Body, limit_bytes: int | None) -> bytes:
    """Everything of a stream, which is closed afterwards. Raises `BodyTooLarge` past the limit."""
    pieces: list[bytes] = []
    size = 0
    try:
        async for piece in body.chunks():
            size += len(piece)
            if limit_bytes is not None and size > limit_bytes:
                raise BodyTooLarge
            pieces.append(piece)
    finally:
        await body.aclose()
    return b"".join(pieces)
