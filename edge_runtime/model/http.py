"""HTTP messages as the rooms pass them on: no sockets, no parser.

Header names are lower-case bytes as they came, values are bytes without surrounding blanks. A body is a `Body`: all in
memory, or one of the streams of `net`, which have the same methods.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Final

from edge_runtime.model.errors import BodyTooLarge

Header = tuple[bytes, bytes]
Headers = Sequence[Header]


class Body:
    """A message's content, whole in memory. Streams in `net` derive from it and override everything."""

    __slots__ = ("data",)

    def __init__(self, data: bytes = b"") -> None:
        self.data = data

    @property
    def length(self) -> int | None:
        """Bytes in all, or None when that is not known before the end (chunked)."""
        return len(self.data)

    @property
    def buffered(self) -> bool:
        """True when `data` holds everything already, so that no await is needed to have it."""
        return True

    async def read(self, limit_bytes: int | None = None) -> bytes:
        """Everything, as one piece. Raises `BodyTooLarge` past `limit_bytes`."""
        if limit_bytes is not None and len(self.data) > limit_bytes:
            raise BodyTooLarge
        return self.data

    async def chunks(self) -> AsyncIterator[bytes]:
        """The content piece by piece, none of them empty. Can be gone through once."""
        if self.data:
            yield self.data

    async def aclose(self) -> None:
        """Give back what the body holds (a connection, a slot). Safe to call at any time and more than once."""


EMPTY: Final = Body()


class Request:
    """One HTTP request, received or about to be sent."""

    __slots__ = ("body", "headers", "http_version", "local", "method", "peer", "scheme", "target")

    def __init__(
        self,
        method: str,
        target: bytes,
        headers: Headers,
        body: Body = EMPTY,
        *,
        http_version: bytes = b"1.1",
        peer: str = "",
        local: str = "",
        scheme: str = "http",
    ) -> None:
        self.method = method
        self.target = target  # as on the wire: path, "?" and query, percent-encoding untouched
        self.headers = headers
        self.body = body
        self.http_version = http_version
        self.peer = peer  # the caller's address without its port; empty for a unix socket
        self.local = local
        self.scheme = scheme

    def header(self, name: bytes) -> bytes | None:
        """The first value of the header, by its lower-case name."""
        for key, value in self.headers:
            if key == name:
                return value
        return None


class Response:
    """One HTTP response, received or about to be sent. `content-length` is never among `headers` here."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, headers: Headers = (), body: Body = EMPTY) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    def header(self, name: bytes) -> bytes | None:
        """The first value of the header, by its lower-case name."""
        for key, value in self.headers:
            if key == name:
                return value
        return None


class StatusResponse(Response):
    """The answer of an app that speaks gRPC and had an error: `code` is its own word for what `status` says."""

    __slots__ = ("code",)

    def __init__(self, code: int, status: int, headers: Headers, body: Body) -> None:
        super().__init__(status, headers, body)
        self.code = code
