"""What every call to an app or a foreign URL has in common: a place, the usual headers, plain bytes back, the count.

A place is taken before anything is sent and kept until the answer's body has been read or closed. Who waits is served
in order; a wait ends without a place when it is cancelled.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Protocol

import trio

from edge_runtime.channel.metrics import HttpClientMetrics
from edge_runtime.model.http import Body, Header, Headers, Request, Response
from edge_runtime.net.connections import Origin
from edge_runtime.net.stream import IteratorBody

TOKEN_HEADER: Final = b"dapr-api-token"
# What apps behind Dapr see of a caller that names none.
_USER_AGENT: Final[Header] = (b"user-agent", b"Go-http-client/1.1")
_GZIP: Final[Header] = (b"accept-encoding", b"gzip")


class Client(Protocol):
    """What sends a request and has its answer: `HttpClient`, or `H2cClient` beside it."""

    async def send(self, origin: Origin, request: Request) -> Response: ...


class Calls:
    """Sends through `client`. `max_concurrency` below 1 is no limit; `token` replaces the caller's `dapr-api-token`."""

    def __init__(
        self,
        client: Client,
        *,
        max_concurrency: int = -1,
        token: str = "",
        metrics: HttpClientMetrics | None = None,
    ) -> None:
        self._client = client
        self._places = trio.Semaphore(max_concurrency) if max_concurrency > 0 else None
        self._token = token.encode()
        self._metrics = metrics

    async def send(self, origin: Origin, request: Request) -> Response:
        """The answer, its body unpacked if this side asked for gzip. Raises `DriverError`."""
        places = self._places
        if places is None:
            return await self._call(origin, request)
        try:
            places.acquire_nowait()
        except trio.WouldBlock:
            await places.acquire()
        try:
            response = await self._call(origin, request)
        except BaseException:
            places.release()
            raise
        if response.body.buffered:
            places.release()
        else:
            response.body = HeldBody(response.body, places.release)
        return response

    async def _call(self, origin: Origin, request: Request) -> Response:
        started = time.monotonic()
        headers, asked_gzip = completed_headers(request.method, request.headers, self._token)
        sent = Request(request.method, request.target, headers, request.body)
        response = await self._client.send(origin, sent)
        if self._metrics is not None:
            latency_ms = int((time.monotonic() - started) * 1000)
            body = request.body
            self._metrics.record(
                request.method, request.target, response.status, latency_ms, body.length or 0, len(response.body.data)
            )
        return _plain(response) if asked_gzip else response


def completed_headers(method: str, headers: Headers, token: bytes) -> tuple[list[Header], bool]:
    """The headers with what is missing added, and whether gzip was asked for on the caller's behalf."""
    agent = encoding = False
    replaced = False
    for name, _ in headers:
        if name == b"user-agent":
            agent = True
        elif name == b"accept-encoding" or name == b"range":
            encoding = True
        elif name == TOKEN_HEADER and token:
            replaced = True
    sent = [header for header in headers if header[0] != TOKEN_HEADER] if replaced else list(headers)
    if token:
        sent.append((TOKEN_HEADER, token))
    if not agent:
        sent.append(_USER_AGENT)
    if encoding or method == "HEAD":
        return sent, False
    sent.append(_GZIP)
    return sent, True


def _plain(response: Response) -> Response:
    for name, value in response.headers:
        if name == b"content-encoding" and value.lower() == b"gzip":
            break
    else:
        return response
    if response.body.buffered and not response.body.data:
        return response
    # Imported when the first app packs its answer: most on loopback never do.
    from edge_runtime.channel.gunzip import GunzipBody

    headers = [header for header in response.headers if header[0] != b"content-encoding"]
    return Response(response.status, headers, GunzipBody(response.body))


class HeldBody(IteratorBody):
    """A stream that calls `release` once, when it has ended or is closed."""

    __slots__ = ("_pieces", "_release", "_source")

    def __init__(self, source: Body, release: Callable[[], None]) -> None:
        super().__init__()
        self._source = source
        self._pieces = source.chunks()
        self._release: Callable[[], None] | None = release

    @property
    def length(self) -> int | None:
        return self._source.length

    async def __anext__(self) -> bytes:
        try:
            return await anext(self._pieces)
        except BaseException:
            self._let_go()
            raise

    async def aclose(self) -> None:
        self._let_go()
        await self._source.aclose()

    def _let_go(self) -> None:
        release, self._release = self._release, None
        if release is not None:
            release()
