"""Closed-loop HTTP load: N keep-alive connections, each with one request in flight, on one thread."""

from __future__ import annotations

import itertools
import selectors
import socket
import time
from collections.abc import Callable
from typing import NamedTuple

Make = Callable[[int], bytes]


class Result(NamedTuple):
    """`wall_s` includes everything; statuses counts answers by their first line."""

    requests: int
    wall_s: float
    statuses: dict[int, int]


def request(
    method: str, path: str, body: bytes = b"", content_type: str = "application/json", token: str = ""
) -> bytes:
    """One HTTP/1.1 request as bytes."""
    head = f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nuser-agent: bench\r\naccept: */*\r\n"
    if token:
        head += f"dapr-api-token: {token}\r\n"
    if body or method in ("POST", "PUT"):
        head += f"content-type: {content_type}\r\ncontent-length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


class _Connection:
    __slots__ = ("buffer", "socket")

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""

    def answered(self) -> int:
        """Read what is there; the status when a whole response has come, else 0."""
        data = self.socket.recv(262_144)
        if not data:
            raise ConnectionError("the server closed a connection under load")
        self.buffer = data = self.buffer + data if self.buffer else data
        end = data.find(b"\r\n\r\n")
        if end < 0:
            return 0
        head = data[:end].lower()
        at = head.find(b"content-length:")
        if at >= 0:
            length = int(head[at + 15 :].split(b"\r\n", 1)[0])
        elif b"transfer-encoding: chunked" in head:
            if not data.endswith(b"0\r\n\r\n"):
                return 0
            length = len(data) - end - 4
        else:
            length = 0
        if len(data) < end + 4 + length:
            return 0
        self.buffer = b""
        return int(data[9:12])


def run(address: tuple[str, int], connections: int, requests: int, make: Make) -> Result:
    """Send `make(0)`, `make(1)`, … over `connections` until `requests` answers have come."""
    numbers = itertools.count()
    statuses: dict[int, int] = {}
    done = 0
    with selectors.DefaultSelector() as selector:
        pool = [_Connection(address) for _ in range(connections)]
        for connection in pool:
            selector.register(connection.socket, selectors.EVENT_READ, connection)
        started = time.perf_counter()
        sent = min(connections, requests)
        for connection in pool[:sent]:
            connection.socket.sendall(make(next(numbers)))
        while done < requests:
            ready = selector.select(30)
            if not ready:
                raise TimeoutError(f"no answer for 30 s after {done} of {requests} requests")
            for key, _ in ready:
                status = key.data.answered()
                if not status:
                    continue
                done += 1
                statuses[status] = statuses.get(status, 0) + 1
                if sent < requests:
                    sent += 1
                    key.data.socket.sendall(make(next(numbers)))
        wall_s = time.perf_counter() - started
        for connection in pool:
            connection.socket.close()
    return Result(done, wall_s, statuses)
