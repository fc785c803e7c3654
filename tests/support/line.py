"""A line between a node and the other end of its cloud link: it can be cut in every way, and notes what crosses.

Each connection has two threads of its own, so that tests can stay plain functions beside real processes.
"""

from __future__ import annotations

import enum
import re
import socket
import ssl
import threading
from collections.abc import Iterable
from types import TracebackType

import hpack


class Mode(enum.Enum):
    """What happens to bytes, and to whoever connects."""

    PASS = enum.auto()
    REFUSE = enum.auto()  # every connection is ended as soon as it is there
    HOLE = enum.auto()  # connections come about and stay, and nothing ever arrives: half-open


class Line:
    """Forwards a port of its own to `target`; with `tls` it speaks TLS to whoever connects."""

    def __init__(self, target: int, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        self.mode = Mode.PASS
        self.target = target
        self.sent: list[bytearray] = []  # from the node, a piece a connection
        self.bytes_up = 0
        self.bytes_down = 0
        self._tls = tls
        self._sockets: list[socket.socket] = []
        self._whole = threading.Event()
        self._whole.set()
        self._listener = socket.create_server((host, 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, mode: Mode) -> None:
        """From now on; what a hole has swallowed is lost with its connection."""
        self.mode = mode
        if mode is Mode.HOLE:
            self._whole.clear()
        else:
            self._end_all()

    def mend(self) -> None:
        """New connections get through; those that hung are gone."""
        self.mode = Mode.PASS
        self._end_all()
        self._whole.set()

    def requests(self) -> list[str]:
        """Method and path of every HTTP/1.1 request that crossed."""
        return [
            f"{found[1].decode()} {found[2].decode()}"
            for one in self.sent
            for found in re.finditer(rb"([A-Z]+) (/\S*) HTTP/1\.1\r\n", bytes(one))
        ]

    def rpcs(self) -> list[str]:
        """The path of every gRPC call that crossed."""
        return [path for one in self.sent for path in _paths(bytes(one))]

    def new_log(self) -> bytearray:
        """What is extended by everything that a new connection sends."""
        return bytearray()

    def _accept(self) -> None:
        while True:
            try:
                client = self._listener.accept()[0]
            except OSError:
                return
            if self.mode is Mode.REFUSE:
                client.close()
            else:
                threading.Thread(target=self.carry, args=(client, self.target), daemon=True).start()

    def carry(self, client: socket.socket, target: int) -> None:
        """What one connection says, until it ends."""
        try:
            if self._tls is not None:
                client = self._tls.wrap_socket(client, server_side=True)
            server = socket.create_connection(("127.0.0.1", target))
        except OSError:
            client.close()
            return
        self._sockets += [client, server]
        if self.mode is Mode.REFUSE:  # cut while this was being connected
            end((client, server))
        log = self.new_log()
        self.sent.append(log)
        threading.Thread(target=self._forward, args=(server, client, None), daemon=True).start()
        self._forward(client, server, log)

    def _forward(self, source: socket.socket, target: socket.socket, log: bytearray | None) -> None:
        try:
            while data := source.recv(65536):
                self._whole.wait()
                if log is None:
                    self.bytes_down += len(data)
                else:
                    self.bytes_up += len(data)
                    log.extend(data)
                target.sendall(data)
        except OSError:
            pass
        end((source, target))

    def _end_all(self) -> None:
        sockets, self._sockets = self._sockets, []
        end(sockets)

    def __enter__(self) -> Line:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._whole.set()
        end((self._listener,))  # which wakes who accepts
        self._end_all()


def _paths(sent: bytes) -> list[str]:
    """What the HEADERS frames of an HTTP/2 client ask for."""
    decoder, at, paths = hpack.Decoder(), len(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), []
    while at + 9 <= len(sent):
        length, kind, flags = int.from_bytes(sent[at : at + 3]), sent[at + 3], sent[at + 4]
        block = sent[at + 9 : at + 9 + length]
        if kind == 1 and len(block) == length:
            fields = decoder.decode(block[5:] if flags & 0x20 else block)
            paths += [value for name, value in fields if name == ":path"]
        at += 9 + length
    return paths


def end(sockets: Iterable[socket.socket]) -> None:
    for one in sockets:
        try:
            one.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        one.close()
