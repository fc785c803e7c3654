"""The app at the other end of an invocation: answers every request at once, swallows and makes bodies of any size.

Run as its own process: `python -m tools.benchmark.app PORT`. `GET /bytes/N` sends N bytes.
"""

from __future__ import annotations

import re
import selectors
import socket
import sys

_LENGTH = re.compile(rb"content-length:\s*(\d+)", re.IGNORECASE)
_BYTES = re.compile(rb"GET /bytes/(\d+)")
_OK = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\nok"
_NONE = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"
_BLOCK = b"x" * 262_144


class _Peer:
    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.head = b""
        self.left = 0
        self.chunked = False

    def read(self) -> bool:
        data = self.connection.recv(1 << 20)
        if not data:
            return False
        while data:
            data = self._take(data)
        return True

    def _take(self, data: bytes) -> bytes:
        if self.chunked:
            self.head = (self.head + data)[-7:]
            if self.head.endswith(b"0\r\n\r\n"):
                self.chunked, self.head = False, b""
                self.connection.sendall(_OK)
            return b""
        if self.left:
            taken = min(self.left, len(data))
            self.left -= taken
            if not self.left:
                self.connection.sendall(_OK)
            return data[taken:]
        self.head += data
        end = self.head.find(b"\r\n\r\n")
        if end < 0:
            return b""
        head, rest, self.head = self.head[:end], self.head[end + 4 :], b""
        self._begin(head)
        return rest

    def _begin(self, head: bytes) -> None:
        if head.startswith((b"GET /dapr/", b"OPTIONS ")):
            self.connection.sendall(_NONE)
            return
        wanted = _BYTES.match(head)
        if wanted:
            self._send(int(wanted[1]))
            return
        length = _LENGTH.search(head)
        self.left = int(length[1]) if length else 0
        self.chunked = b"transfer-encoding: chunked" in head.lower()
        if not self.left and not self.chunked:
            self.connection.sendall(_OK)

    def _send(self, size: int) -> None:
        self.connection.setblocking(True)
        self.connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        while size:
            size -= self.connection.send(_BLOCK[: min(size, len(_BLOCK))])


def serve(port: int) -> None:
    with selectors.DefaultSelector() as selector, socket.create_server(("127.0.0.1", port), backlog=512) as listener:
        selector.register(listener, selectors.EVENT_READ, None)
        while True:
            for key, _ in selector.select():
                if key.data is None:
                    connection, _ = listener.accept()
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    selector.register(connection, selectors.EVENT_READ, _Peer(connection))
                    continue
                try:
                    alive = key.data.read()
                except OSError:
                    alive = False
                if not alive:
                    selector.unregister(key.fileobj)
                    key.data.connection.close()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
