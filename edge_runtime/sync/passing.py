"""Bodies of calls that cross a link in pieces: nothing is kept whole, and each piece waits for the link's budget."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from edge_runtime.model.http import Body, Response
from edge_runtime.net.stream import IteratorBody

# What a sidecar says that does not know the token, over HTTP.
_TOKEN_REFUSALS: Final = (b"invalid api token", b"missing api token in request metadata")

Admit = Callable[[int], Awaitable[None]]


class PacedBody(Body):
    """A stream on its way out."""

    __slots__ = ("_admit", "_source")

    def __init__(self, source: Body, admit: Admit) -> None:
        super().__init__()
        self._source = source
        self._admit = admit

    @property
    def length(self) -> int | None:
        return self._source.length

    @property
    def buffered(self) -> bool:
        return False

    async def read(self, limit_bytes: int | None = None) -> bytes:
        return await self._source.read(limit_bytes)

    async def chunks(self) -> AsyncIterator[bytes]:
        async for piece in self._source.chunks():
            await self._admit(0)
            yield piece

    async def aclose(self) -> None:
        await self._source.aclose()


class PassedAnswer(IteratorBody):
    """A stream on its way back. `over` is called once, at its end or when nobody wants more of it."""

    __slots__ = ("_admit", "_over", "_pieces", "_source")

    def __init__(self, source: Body, admit: Admit, over: Callable[[], None]) -> None:
        super().__init__()
        self._source = source
        self._pieces = source.chunks()
        self._admit = admit
        self._over: Callable[[], None] | None = over

    async def __anext__(self) -> bytes:
        try:
            await self._admit(0)
            return await anext(self._pieces)
        except BaseException:
            self._end()
            raise

    async def aclose(self) -> None:
        self._end()
        await self._source.aclose()

    def _end(self) -> None:
        over, self._over = self._over, None
        if over is not None:
            over()


def says_token_refused(response: Response) -> bool:
    """Whether these may be the words of the sidecar itself, and not those of the app behind it."""
    return response.status == 401 and response.body.buffered and response.body.data.strip().lower() in _TOKEN_REFUSALS
