"""Connections that are counted byte by byte, and that may go through an HTTP proxy (CONNECT).

What is counted are the bytes below TLS, as a provider counts them but for the headers of TCP and IP.
"""

from __future__ import annotations

import base64
import socket
import ssl
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple
from urllib.parse import unquote, urlsplit

import trio

from edge_runtime.net.connections import (
    RECEIVE_BYTES,
    ConnectFailed,
    Connection,
    Origin,
    TlsConnection,
    open_connection,
)

# Takes the bytes that were sent and that were received.
Count = Callable[[int, int], None]

_ANSWER_BYTES_MAX: Final = 8192
_USER_TIMEOUT_MS: Final = 20_000
# What the fastest of the last connections took says how long the way is; so many times that it is given.
_PATIENCE: Final = 4
_LAST: Final = 8
_REACH_MOST_S: Final = 5.0


class Proxy(NamedTuple):
    """Where an HTTP proxy is; `authorization` is the value of its header, empty for none."""

    origin: Origin
    authorization: str = ""


def parse_proxy(text: str) -> Proxy:
    """The proxy of `http://user:password@host:port`. Raises ValueError without repeating the text: it may be secret."""
    try:
        parts = urlsplit(text)
        port = parts.port or 80
    except ValueError:
        raise ValueError("it is no URL; expected one such as http://proxy.example.com:3128") from None
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError("it is no http:// URL; expected one such as http://proxy.example.com:3128")
    authorization = ""
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = f"Basic {base64.b64encode(pair.encode()).decode()}"
    return Proxy(Origin("http", parts.hostname, port), authorization)


class CountedConnection(Connection):
    """A plain connection that tells what flows."""

    __slots__ = ("_count",)

    def __init__(self, sock: socket.socket, count: Count) -> None:
        super().__init__(sock)
        self._count = count

    def try_send(self, data: bytes) -> int:
        sent = super().try_send(data)
        self._count(sent, 0)
        return sent

    async def send_all(self, data: bytes | memoryview) -> None:
        self._count(len(data), 0)
        await super().send_all(data)

    async def receive(self) -> bytes:
        data = await super().receive()
        self._count(0, len(data))
        return data

    async def receive_more(self) -> bytes:
        try:
            data = self._socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return await self.receive()
        self._count(0, len(data))
        await trio.lowlevel.checkpoint()
        return data


def _told(error: BaseException) -> str:
    """OpenSSL's words, which lead nobody from an answer in the clear to the scheme of the URL."""
    if getattr(error, "reason", "") == "WRONG_VERSION_NUMBER":
        return f"{error}; does it speak TLS? If not, its URL begins with http://"
    return str(error)


class _CountedStream(trio.abc.Stream):
    """The same below TLS."""

    def __init__(self, sock: socket.socket, count: Count) -> None:
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        self._count = count

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self._count(len(data), 0)
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        data = bytes(await self._stream.receive_some(max_bytes))
        self._count(0, len(data))
        return data

    async def aclose(self) -> None:
        await self._stream.aclose()


class Dialer:
    """Makes connections through `proxy`, or straight when it is None; `count` hears of all their bytes."""

    def __init__(self, proxy: Proxy | None, count: Count) -> None:
        self._proxy = proxy
        self._count = count
        self._took_s: deque[float] = deque(maxlen=_LAST)  # connections, with their names

    async def dial(self, origin: Origin, tls: ssl.SSLContext | None, timeout_s: float) -> Connection:
        """As `open_connection`. Raises `ConnectFailed`."""
        try:
            with trio.fail_after(timeout_s):
                sock = await self._reach(origin, timeout_s)
                return CountedConnection(sock, self._count) if tls is None else await self._secured(sock, tls, origin)
        except trio.TooSlowError:
            raise ConnectFailed(f"dial tcp {origin}: i/o timeout") from None

    async def can_reach(self, origin: Origin, timeout_s: float) -> bool:
        """Whether a new connection comes about, to the proxy where there is one. Nothing is said on it.

        A slow way is given more time than `timeout_s`. After half of it a second connection is tried beside the first:
        the system would send a first packet that was lost again only after a second.
        """
        target = origin if self._proxy is None else self._proxy.origin
        limit_s = min(max(timeout_s, _PATIENCE * min(self._took_s, default=0.0)), _REACH_MOST_S)
        reached = False

        async def attempt(delay_s: float) -> None:
            nonlocal reached
            await trio.sleep(delay_s)
            try:
                (await open_connection(target, None, limit_s)).close()
                reached = True
            except ConnectFailed:
                pass
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.cancel_scope.deadline = trio.current_time() + limit_s
            nursery.start_soon(attempt, 0)
            nursery.start_soon(attempt, limit_s / 2)
        return reached

    async def _reach(self, origin: Origin, timeout_s: float) -> socket.socket:
        proxy = self._proxy
        began = trio.current_time()
        connection = await open_connection(origin if proxy is None else proxy.origin, None, timeout_s)
        self._took_s.append(trio.current_time() - began)
        sock = connection.detach()
        # What is sent and never acknowledged ends the connection, also where no time limit of a call does.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT_MS)
        if proxy is not None:
            try:
                await self._pass_proxy(CountedConnection(sock, self._count), proxy, origin)
            except BaseException:
                sock.close()
                raise
        return sock

    async def _pass_proxy(self, connection: Connection, proxy: Proxy, origin: Origin) -> None:
        """CONNECT, and the proxy's answer without a byte of what comes behind it."""
        host = f"[{origin.host}]" if ":" in origin.host else origin.host
        lines = [f"CONNECT {host}:{origin.port} HTTP/1.1", f"Host: {host}:{origin.port}"]
        if proxy.authorization:
            lines.append(f"Proxy-Authorization: {proxy.authorization}")
        answer = b""
        try:
            await connection.send_all(("\r\n".join(lines) + "\r\n\r\n").encode())
            while b"\r\n\r\n" not in answer:
                data = await connection.receive()
                answer += data
                if not data or len(answer) > _ANSWER_BYTES_MAX:
                    raise ConnectFailed(f"proxy {proxy.origin}: no answer to CONNECT {origin}")
        except OSError as error:
            raise ConnectFailed(f"proxy {proxy.origin}: {error.strerror or error}") from error
        status = answer.split(b"\r\n", 1)[0].decode("latin-1")
        if not status.startswith(("HTTP/1.1 2", "HTTP/1.0 2")):
            raise ConnectFailed(f"proxy {proxy.origin} refused CONNECT {origin}: {status[:200]}")
        if not answer.endswith(b"\r\n\r\n"):
            raise ConnectFailed(f"proxy {proxy.origin}: bytes behind the answer to CONNECT {origin}")

    async def _secured(self, sock: socket.socket, tls: ssl.SSLContext, origin: Origin) -> Connection:
        counted = _CountedStream(sock, self._count)
        stream = trio.SSLStream(counted, tls, server_hostname=origin.host, https_compatible=True)
        try:
            await stream.do_handshake()
        except (trio.BrokenResourceError, OSError) as error:
            sock.close()
            raise ConnectFailed(f"dial tcp {origin}: tls: {_told(error.__cause__ or error)}") from error
        except BaseException:
            sock.close()
            raise
        return TlsConnection(sock, stream)
