"""One outgoing TCP or TLS connection: non-blocking, tried first, waited for only when the kernel says so.

Plain connections use the socket itself, because on loopback a stream object around it costs as much as the exchange.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

import trio

from edge_runtime.model.errors import DriverError

RECEIVE_BYTES: Final = 65536
CONNECT_TIMEOUT_S: Final = 30.0  # what Go's default dialer allows


class Origin(NamedTuple):
    """Where requests go; one pool of connections each. `host` is a name or an address, IPv6 without brackets."""

    scheme: str
    host: str
    port: int

    @property
    def authority(self) -> str:
        """As the `Host` header has it: the default port of the scheme is left out."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == default_port(self.scheme) else f"{host}:{self.port}"

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def default_port(scheme: str) -> int:
    return 443 if scheme == "https" else 80


class ConnectFailed(DriverError):
    """No connection came about, so nothing was sent and any request may be tried again."""


class Connection:
    """A plain TCP connection. One task may send while another receives."""

    __slots__ = ("_socket", "idle_since")

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        # Of a server's connection: since when nothing goes on there, None while something does.
        self.idle_since: Callable[[], float | None] | None = None

    def try_send(self, data: bytes) -> int:
        """Sends what the kernel takes at once; the number of bytes, perhaps 0. Raises OSError."""
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0

    async def send_all(self, data: bytes | memoryview) -> None:
        """Raises OSError or, when the connection was closed under the call, `trio.ClosedResourceError`."""
        view = memoryview(data)
        while view:
            try:
                view = view[self._socket.send(view) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._socket)

    async def receive(self) -> bytes:
        """Waits for bytes, then takes them; b"" at the end. For the first bytes of an answer."""
        sock = self._socket
        while True:
            await trio.lowlevel.wait_readable(sock)
            try:
                return sock.recv(RECEIVE_BYTES)
            except BlockingIOError:
                continue

    async def receive_more(self) -> bytes:
        """The same for what is probably here already; lets other tasks run either way."""
        try:
            data = self._socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return await self.receive()
        await trio.lowlevel.checkpoint()
        return data

    @property
    def alpn(self) -> str | None:
        """The protocol that was agreed on in the TLS handshake."""
        return None

    def end_sending(self) -> bool:
        """Closes our direction, so that the peer reads to the end. False when that cannot be."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            return False
        return True

    def is_quiet(self) -> bool:
        """True when the peer has neither closed an idle connection nor said anything on it."""
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def shut_down(self) -> None:
        """Wakes a task that waits on the connection: it sees the end."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the peer was faster

    def detach(self) -> socket.socket:
        """The socket itself, for who goes on with it in another way."""
        return self._socket

    def close(self) -> None:
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()


class TlsConnection(Connection):
    """The same over TLS."""

    __slots__ = ("_stream",)

    def __init__(self, sock: socket.socket, stream: trio.SSLStream[Any]) -> None:
        super().__init__(sock)
        self._stream = stream

    @property
    def alpn(self) -> str | None:
        protocol: str | None = self._stream.selected_alpn_protocol()
        return protocol

    def try_send(self, data: bytes) -> int:
        return 0

    async def send_all(self, data: bytes | memoryview) -> None:
        try:
            await self._stream.send_all(data)
        except trio.BrokenResourceError as error:
            raise _as_os_error(error) from error

    async def receive(self) -> bytes:
        try:
            return bytes(await self._stream.receive_some(RECEIVE_BYTES))
        except trio.BrokenResourceError as error:
            raise _as_os_error(error) from error

    async def receive_more(self) -> bytes:
        return await self.receive()


def _as_os_error(error: trio.BrokenResourceError) -> OSError:
    return error.__cause__ if isinstance(error.__cause__, OSError) else ConnectionError(str(error.__cause__ or error))


def checking_tls() -> ssl.SSLContext:
    """TLS with the system's authorities. A function of ours, so that OpenSSL is loaded with the first https call."""
    return ssl.create_default_context()


async def open_connection(origin: Origin, tls: ssl.SSLContext | None, timeout_s: float) -> Connection:
    """Connects, and shakes hands when `tls` is given. Raises `ConnectFailed`."""
    try:
        with trio.fail_after(timeout_s):
            sock = await _connect(origin)
            return Connection(sock) if tls is None else await _secured(sock, tls, origin.host)
    except trio.TooSlowError:
        raise ConnectFailed(f"dial tcp {origin}: i/o timeout") from None
    except trio.BrokenResourceError as error:
        raise ConnectFailed(f"dial tcp {origin}: tls: {error.__cause__ or error}") from error
    except OSError as error:
        raise ConnectFailed(f"dial tcp {origin}: connect: {_reason(error)}") from error


# Makes the connections of a client: `open_connection`, or what goes another way.
Dial = Callable[[Origin, "ssl.SSLContext | None", float], Awaitable[Connection]]


def _reason(error: OSError) -> str:
    return error.strerror.lower() if error.strerror and error.errno else str(error)


async def _connect(origin: Origin) -> socket.socket:
    family = _family(origin.host)
    if family is None:
        stream = await trio.open_tcp_stream(origin.host, origin.port)
        sock = socket.socket(fileno=stream.socket.detach())
    else:
        sock = await _connect_address(family, (origin.host, origin.port))
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _family(host: str) -> socket.AddressFamily | None:
    """The family of a numeric address; None for a name."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except OSError:
            continue
        return family
    return None


async def _connect_address(family: socket.AddressFamily, address: tuple[str, int]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        try:
            sock.connect(address)
        except BlockingIOError:
            await trio.lowlevel.wait_writable(sock)
            failure = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if failure:
                raise OSError(failure, os.strerror(failure)) from None
    except BaseException:
        sock.close()
        raise
    return sock


async def _secured(sock: socket.socket, tls: ssl.SSLContext, host: str) -> Connection:
    stream = trio.SSLStream(
        trio.SocketStream(trio.socket.from_stdlib_socket(sock)), tls, server_hostname=host, https_compatible=True
    )
    try:
        await stream.do_handshake()
    except BaseException:
        sock.close()
        raise
    return TlsConnection(sock, stream)
