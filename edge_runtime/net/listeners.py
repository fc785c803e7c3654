"""Listening sockets: on addresses and a port, or on a path.

They are plain non-blocking sockets, because the server accepts from them without trio's socket layer.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import stat
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import trio

_logger = logging.getLogger("dapr.runtime.http")
_BACKLOG: Final = 1024  # the kernel cuts it to net.core.somaxconn
_PATH_BYTES_MAX: Final = 107  # sockaddr_un has 108 with the closing zero
_UNIX_MODE: Final = 0o700

_Address = tuple[int, tuple[str | int, ...]]  # family, what bind takes


class ListenError(Exception):
    """Nothing could be bound; the text says what was tried, why not, and the mend."""


class Listener:
    """One listening socket. `port` is the real one, also when 0 was asked for; 0 for a path."""

    __slots__ = ("name", "path", "port", "socket")

    def __init__(self, sock: socket.socket, name: str, *, port: int = 0, path: str = "") -> None:
        self.socket = sock
        self.name = name
        self.port = port
        self.path = path

    def close(self) -> None:
        """Stop listening. Safe to call more than once."""
        if self.socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self.socket)
            self.socket.close()


@asynccontextmanager
async def open_listeners(addresses: Sequence[str], port: int) -> AsyncIterator[list[Listener]]:
    """TCP listeners on every address that can be bound; none given: one for all addresses of both families.

    With port 0 the first socket's port is used for all. Raises `ListenError` when none can be bound.
    """
    listeners = await _bind_all(addresses or ("",), port)
    try:
        yield listeners
    finally:
        for listener in listeners:
            listener.close()


@asynccontextmanager
async def open_unix_listener(path: str) -> AsyncIterator[list[Listener]]:
    """A listener on a socket file, which is removed at the end.

    The file of a process that is gone is replaced; one that somebody listens on is an error. Raises `ListenError`.
    """
    listener = _bind_path(path)
    identity = _identity(path)
    try:
        yield [listener]
    finally:
        listener.close()
        if identity is not None and _identity(path) == identity:
            os.unlink(path)


@asynccontextmanager
async def open_passed_listeners(sockets: Sequence[socket.socket]) -> AsyncIterator[list[Listener]]:
    """Listeners on sockets that listen already; closed at the end, while whoever passed them on may keep theirs."""
    listeners = [_adopted(passed) for passed in sockets]
    try:
        yield listeners
    finally:
        for listener in listeners:
            listener.close()


def _adopted(passed: socket.socket) -> Listener:
    passed.setblocking(False)
    where = passed.getsockname()
    if passed.family == socket.AF_UNIX:
        return Listener(passed, str(where), path=str(where))
    return Listener(passed, _shown(where[0], where[1]), port=where[1])


def unix_socket_path(directory: str, app_id: str, protocol: str) -> str:
    """Where an app with `--unix-domain-socket` looks for its sidecar; `protocol` is http or grpc."""
    return os.path.join(directory, f"dapr-{app_id}-{protocol}.socket")


async def _bind_all(addresses: Sequence[str], port: int) -> list[Listener]:
    listeners: list[Listener] = []
    failures: list[str] = []
    for address in addresses:
        try:
            for family, where in await _resolve(address.strip()):
                try:
                    bound = _bind(family, where, listeners[0].port if listeners else port)
                except OSError as error:
                    failures.append(f"{_shown(where[0], port)}: {_reason(error)}")
                else:
                    listeners.append(bound)
        except OSError as error:
            failures.append(f"{address}: {_reason(error)}")
    if not listeners:
        raise ListenError(f"cannot listen on port {port}: {'; '.join(failures)}")
    for failure in failures:
        _logger.warning("not listening on %s", failure)
    return listeners


async def _resolve(address: str) -> list[_Address]:
    if address in ("", "*"):
        # One socket takes both families where the kernel has IPv6.
        return [(socket.AF_INET6, ("::",)) if socket.has_dualstack_ipv6() else (socket.AF_INET, ("0.0.0.0",))]
    host = address[1:-1] if address.startswith("[") and address.endswith("]") else address
    found = await trio.socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys((family, _bindable(where)) for family, _, _, _, where in found))


def _bindable(where: tuple[str | int | bytes, ...]) -> tuple[str | int, ...]:
    """The host, and for IPv6 the scope that a link-local address needs."""
    host = str(where[0])
    return (host, where[3]) if len(where) == 4 and isinstance(where[3], int) and where[3] else (host,)


def _bind(family: int, where: tuple[str | int, ...], port: int) -> Listener:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if where[0] == "::" else 1)
        scope = (0, where[1]) if len(where) == 2 else ()
        sock.bind((where[0], port, *scope))
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    real_port: int = sock.getsockname()[1]
    return Listener(sock, _shown(where[0], real_port), port=real_port)


def _shown(host: object, port: int) -> str:
    return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"


def _reason(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "the port is in use; stop the process that has it or choose another port"
    if error.errno == errno.EACCES:
        return "permission denied; ports below 1024 need privileges"
    if error.errno == errno.EADDRNOTAVAIL:
        return "no interface of this machine has this address"
    return error.strerror or str(error)


def _bind_path(path: str) -> Listener:
    size = len(os.fsencode(path))
    if size > _PATH_BYTES_MAX:
        raise ListenError(f"{path}: {size} bytes, but a socket's path has at most {_PATH_BYTES_MAX}; use a shorter one")
    _make_room(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(path)
        os.chmod(path, _UNIX_MODE)  # before listen, so that nobody else gets in meanwhile
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        hint = "; make its folder first" if error.errno == errno.ENOENT else ""
        raise ListenError(f"cannot listen on {path}: {error.strerror}{hint}") from None
    return Listener(sock, path, path=path)


def _make_room(path: str) -> None:
    """Remove a socket file that nobody listens on."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise ListenError(f"cannot listen on {path}: {error.strerror}") from None
    if not stat.S_ISSOCK(mode):
        raise ListenError(f"cannot listen on {path}: a file that is no socket is in the way; remove it")
    if _is_answered(path):
        raise ListenError(f"cannot listen on {path}: another process listens there; stop it first")
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise ListenError(f"cannot replace the abandoned socket {path}: {error.strerror}") from None


def _is_answered(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True  # EAGAIN: its backlog is full; EACCES: not ours to judge
        return True


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
