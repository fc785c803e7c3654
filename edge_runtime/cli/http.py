"""One HTTP request at a time, waiting for the answer: for the commands that ask something and end."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

from edge_runtime.wire.http1 import (
    END,
    NEED_DATA,
    Header,
    ProtocolError,
    ResponseHead,
    encode_request,
    new_response_reader,
)

TIMEOUT_S: Final = 60.0
BODY_BYTES_MAX: Final = 64 * 2**20


class Unreachable(Exception):
    """Nobody answered there; the text says why."""


class Address(NamedTuple):
    """A port on this machine, or a unix socket when `path` is set."""

    port: int = 0
    path: str = ""

    def connect(self, timeout_s: float) -> socket.socket:
        if not self.path:
            return socket.create_connection(("127.0.0.1", self.port), timeout_s)
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(timeout_s)
        try:
            connection.connect(self.path)
        except OSError:
            connection.close()
            raise
        return connection

    def __str__(self) -> str:
        return self.path or f"127.0.0.1:{self.port}"


class Answer(NamedTuple):
    status: int
    reason: str
    body: bytes

    @property
    def line(self) -> str:
        """The status as Dapr's messages show it: `404 Not Found`."""
        return f"{self.status} {self.reason}".rstrip()


class Refused(Exception):
    """The answer is not the one that was asked for."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.line)
        self.answer = answer


def request(
    method: str,
    address: Address,
    target: str,
    body: bytes = b"",
    headers: tuple[Header, ...] = (),
    timeout_s: float = TIMEOUT_S,
) -> Answer:
    """Send a request and read the whole answer. Raises Unreachable."""
    message = _message(method, address, target, body, headers)
    with _told(address), address.connect(timeout_s) as connection:
        connection.sendall(message)
        return _read(_events(connection, method))


def download(
    address: Address, target: str, headers: tuple[Header, ...] = (), timeout_s: float = TIMEOUT_S
) -> Iterator[bytes]:
    """The body of what a GET answers with 200, as it comes and however long it is. Raises Unreachable, or Refused."""
    message = _message("GET", address, target, b"", headers)
    with _told(address), address.connect(timeout_s) as connection:
        connection.sendall(message)
        events = _events(connection, "GET")
        head = next(events, None)
        if not isinstance(head, ResponseHead) or head.status != 200:
            raise Refused(_read(events, head))
        while (piece := next(events, None)) is not None:
            assert isinstance(piece, bytes)
            yield piece


def _message(method: str, address: Address, target: str, body: bytes, headers: tuple[Header, ...]) -> bytes:
    host = b"localhost" if address.path else str(address).encode()
    try:
        return encode_request(method, target.encode(), ((b"host", host), *headers), body, keep_alive=False)
    except ValueError as error:
        raise Unreachable(f"{method} {target} cannot be asked for: {error}") from None


@contextmanager
def _told(address: Address) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unreachable(f"{address}: {error.strerror or error}") from None
    except ProtocolError as error:
        raise Unreachable(f"{address}: the answer is no HTTP: {error}") from None


def _events(connection: socket.socket, method: str) -> Iterator[ResponseHead | bytes]:
    reader = new_response_reader()
    reader.expect(method)
    while (event := reader.next_event()) is not END:
        if event is NEED_DATA:
            reader.feed(connection.recv(65536))
        elif isinstance(event, ResponseHead | bytes):
            yield event
        else:
            raise ProtocolError(502, "the connection was closed before it came")


def _read(events: Iterator[ResponseHead | bytes], head: ResponseHead | bytes | None = None) -> Answer:
    pieces: list[bytes] = []
    size = 0
    for event in events:
        if isinstance(event, ResponseHead):
            head = event
            continue
        pieces.append(event)
        size += len(event)
        if size > BODY_BYTES_MAX:
            raise ProtocolError(502, f"it is larger than {BODY_BYTES_MAX} bytes")
    if not isinstance(head, ResponseHead):
        raise ProtocolError(502, "there was none")
    return Answer(head.status, head.reason.decode("latin-1"), b"".join(pieces))
