"""gRPC load: calls in a closed loop, and one long call through which messages flow; on one thread, on plain sockets."""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from tools.benchmark.http2 import Peer
from tools.benchmark.load import Result

Metadata = Sequence[tuple[str, str]]


class Call(NamedTuple):
    """A unary call: its path, and the bytes of its n-th message."""

    path: str
    message: Callable[[int], bytes]
    metadata: Metadata = ()


class Flow(NamedTuple):
    """What came through one call. `payload` counts messages without their prefix."""

    messages: int
    payload: int
    wall_s: float


class CallFailed(Exception):
    """A call that should go on has ended, with this status."""


def prefixed(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message


def request_fields(path: str, metadata: Metadata) -> tuple[tuple[bytes, bytes], ...]:
    fields = [
        (":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "127.0.0.1"), ("te", "trailers"),
        ("content-type", "application/grpc"), ("user-agent", "bench"), *metadata,
    ]  # fmt: skip
    return tuple((name.encode(), value.encode()) for name, value in fields)


def run(address: tuple[str, int], connections: int, streams: int, requests: int, call: Call) -> Result:
    """Make `requests` calls, `streams` at a time on each connection; statuses are gRPC's."""
    fields = request_fields(call.path, call.metadata)
    statuses: dict[int, int] = {}
    done = sent = 0
    with selectors.DefaultSelector() as selector:
        peers = [_connect(address, selector) for _ in range(connections)]
        started = time.perf_counter()
        for _ in range(streams):
            for peer in peers:
                if sent < requests:
                    _begin(peer, fields, call.message(sent))
                    sent += 1
        for peer in peers:
            _flush(peer, selector)
        while done < requests:
            for peer in _ready(selector, done):
                for status in _finished(peer):
                    done += 1
                    statuses[status] = statuses.get(status, 0) + 1
                    if sent < requests:
                        _begin(peer, fields, call.message(sent))
                        sent += 1
                _flush(peer, selector)
        wall_s = time.perf_counter() - started
        for peer in peers:
            peer.socket.close()
    return Result(done, wall_s, statuses)


def _connect(address: tuple[str, int], selector: selectors.BaseSelector) -> Peer:
    peer = Peer(socket.create_connection(address, timeout=10), client=True)
    selector.register(peer.socket, selectors.EVENT_READ, peer)
    return peer


def _begin(peer: Peer, fields: tuple[tuple[bytes, bytes], ...], message: bytes) -> None:
    stream = peer.open(fields)
    peer.send(stream, prefixed(message))
    peer.end(stream)


def _flush(peer: Peer, selector: selectors.BaseSelector) -> None:
    wanted = selectors.EVENT_READ | (0 if peer.flush() else selectors.EVENT_WRITE)
    if selector.get_key(peer.socket).events != wanted:
        selector.modify(peer.socket, wanted, peer)


def _ready(selector: selectors.BaseSelector, done: int) -> list[Peer]:
    ready = selector.select(60)
    if not ready:
        raise TimeoutError(f"nothing came for 60 s, after {done} answers")
    return [key.data for key, _ in ready]


def _finished(peer: Peer) -> Iterator[int]:
    """The status of each call that has ended."""
    events = peer.read()
    if events is None:
        raise ConnectionError("the server closed a connection under load")
    for event in events:
        if event.ended:
            yield -1 if event.fields is None else int(dict(event.fields).get(b"grpc-status", b"-1"))


class Stream:
    """One call that stays open: messages out and in, waiting on a selector of its own."""

    def __init__(self, address: tuple[str, int], path: str, metadata: Metadata = ()) -> None:
        self._selector = selectors.DefaultSelector()
        self._peer = _connect(address, self._selector)
        self._stream = self._peer.open(request_fields(path, metadata))
        self._buffer = bytearray()
        self.status: int | None = None
        self.messages_in = 0
        self.bytes_in = 0
        self.flush()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self._selector.close()
        self._peer.socket.close()

    def send(self, message: bytes) -> None:
        self._peer.send(self._stream, prefixed(message))

    def end(self) -> None:
        self._peer.end(self._stream)
        self.flush()

    def flush(self) -> None:
        _flush(self._peer, self._selector)

    @property
    def unsent(self) -> int:
        return self._peer.unsent(self._stream)

    def receive(self) -> list[bytes]:
        """Wait for something to happen; the messages that came with it. None come after `status` is there."""
        _ready(self._selector, self.messages_in)
        events = self._peer.read()
        if events is None:
            raise ConnectionError("the server closed the connection of a call")
        for event in events:
            self._buffer += event.data
            if event.ended:
                fields = dict(event.fields or ())
                self.status = int(fields.get(b"grpc-status", b"-1"))
                self.message = fields.get(b"grpc-message", b"")
        self.flush()
        return self._messages()

    def _messages(self) -> list[bytes]:
        found: list[bytes] = []
        buffer, at = self._buffer, 0
        while len(buffer) - at >= 5:
            end = at + 5 + int.from_bytes(buffer[at + 1 : at + 5], "big")
            if end > len(buffer):
                break
            found.append(bytes(buffer[at + 5 : end]))
            at = end
        del buffer[:at]
        self.messages_in += len(found)
        self.bytes_in += sum(map(len, found))
        return found


def echo(address: tuple[str, int], path: str, message: bytes, count: int, ahead: int, metadata: Metadata) -> Flow:
    """`count` messages to an echo and back, at most `ahead` of them on their way."""
    with Stream(address, path, metadata) as stream:
        started = time.perf_counter()
        sent = 0
        while stream.messages_in < count:
            if stream.status is not None:
                raise CallFailed(f"status {stream.status} after {stream.messages_in} messages: {stream.message!r}")
            while sent < count and sent - stream.messages_in < ahead:
                stream.send(message)
                sent += 1
            stream.flush()
            stream.receive()
        wall_s = time.perf_counter() - started
        stream.end()
        while stream.status is None:
            stream.receive()
        return Flow(stream.messages_in, stream.bytes_in, wall_s)


def pour(address: tuple[str, int], path: str, size: int, metadata: Metadata) -> Iterator[None]:
    """`size` bytes in messages of 64 KiB to a call that swallows them; yields while they flow."""
    message = b"x" * 65_536
    with Stream(address, path, metadata) as stream:
        left = size
        while left > 0 or stream.unsent:
            while left > 0 and stream.unsent < 1 << 20:
                stream.send(message)
                left -= len(message)
            stream.flush()
            if stream.unsent:
                stream.receive()
            yield
        stream.end()
        while stream.status is None:
            stream.receive()
        if stream.status:
            raise CallFailed(f"status {stream.status}: {stream.message!r}")


def drink(address: tuple[str, int], path: str, size: int, metadata: Metadata) -> Iterator[None]:
    """Ask a call for `size` bytes and take them; yields while they flow."""
    with Stream(address, path, metadata) as stream:
        stream.send(str(size).encode())
        stream.end()
        while stream.status is None:
            stream.receive()
            yield
        if stream.status or stream.bytes_in < size:
            raise CallFailed(f"status {stream.status} after {stream.bytes_in} of {size} bytes: {stream.message!r}")
