"""The gRPC app at the other end: answers OnInvoke at once; echoes, swallows and makes messages for the proxy.

Run as its own process: `python -m tools.benchmark.grpc_app PORT`. Its paths for the proxy are `/bench.Bench/Echo`,
`/Swallow` and `/Bytes` (which takes a number of bytes as text and sends as many).
"""

from __future__ import annotations

import selectors
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Final

from tools.benchmark.grpc_load import prefixed
from tools.benchmark.http2 import Event, Peer

_HEADERS: Final = ((b":status", b"200"), (b"content-type", b"application/grpc"))
_OK: Final = ((b"grpc-status", b"0"),)
_UNIMPLEMENTED: Final = (*_HEADERS, (b"grpc-status", b"12"))
_BLOCK: Final = b"x" * 65_536
_AHEAD: Final = 1 << 20
# InvokeResponse with the content type text/plain and `ok` as data.
_INVOKED: Final = b"\n\x04\x12\x02ok\x12\ntext/plain"


class _App:
    """One connection of the sidecar's."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self._calls: dict[int, Callable[[Event], None]] = {}
        self._asked: dict[int, bytes] = {}
        self._making: dict[int, Iterator[None]] = {}

    def take(self) -> bool:
        """Read and answer; False when the connection has ended."""
        events = self.peer.read()
        if events is None:
            return False
        for event in events:
            if event.code is not None:
                self._forget(event.stream)
            elif event.fields is not None and event.stream not in self._calls:
                self._begin(event)
            else:
                call = self._calls.get(event.stream)
                if call is not None:
                    call(event)
            if event.ended:
                self._calls.pop(event.stream, None)
        return True

    def make(self) -> bool:
        """More of what was asked for, as far as the sidecar takes it; False when there is no more to do."""
        made = False
        for stream, making in tuple(self._making.items()):
            while self.peer.unsent(stream) < _AHEAD:
                made = True
                if next(making, self) is self:
                    self._making.pop(stream, None)
                    break
        return made

    def _forget(self, stream: int) -> None:
        self._making.pop(stream, None)
        self._asked.pop(stream, None)

    def _begin(self, event: Event) -> None:
        stream = event.stream
        path = dict(event.fields or ())[b":path"]
        self.peer.begin(stream)
        answer = self._answers.get(path)
        if answer is None:
            self.peer.end(stream, _UNIMPLEMENTED)
            self._calls[stream] = lambda _: None
            return
        self.peer.headers(stream, _HEADERS)
        self._calls[stream] = lambda event: answer(self, event)

    def _invoke(self, event: Event) -> None:
        if event.ended:
            self._reply(event.stream, _INVOKED)

    def _nothing(self, event: Event) -> None:
        if event.ended:
            self._reply(event.stream, b"")

    def _reply(self, stream: int, message: bytes) -> None:
        self.peer.send(stream, prefixed(message))
        self.peer.end(stream, _OK)

    def _echo(self, event: Event) -> None:
        if event.data:
            self.peer.send(event.stream, event.data)
        if event.ended:
            self.peer.end(event.stream, _OK)

    def _bytes(self, event: Event) -> None:
        asked = self._asked[event.stream] = self._asked.get(event.stream, b"") + event.data
        if event.ended:
            self._making[event.stream] = self._made(event.stream, int(asked[5:]))
            self._asked.pop(event.stream)

    def _made(self, stream: int, size: int) -> Iterator[None]:
        while size > 0:
            self.peer.send(stream, prefixed(_BLOCK[:size]))
            size -= len(_BLOCK)
            yield
        self.peer.end(stream, _OK)

    _answers: Final = {
        b"/dapr.proto.runtime.v1.AppCallback/OnInvoke": _invoke,
        b"/dapr.proto.runtime.v1.AppCallback/ListTopicSubscriptions": _nothing,
        b"/dapr.proto.runtime.v1.AppCallback/ListInputBindings": _nothing,
        b"/dapr.proto.runtime.v1.AppCallbackHealthCheck/HealthCheck": _nothing,
        b"/bench.Bench/Echo": _echo,
        b"/bench.Bench/Swallow": _nothing,
        b"/bench.Bench/Bytes": _bytes,
    }


def serve(port: int) -> None:
    with selectors.DefaultSelector() as selector, socket.create_server(("127.0.0.1", port), backlog=512) as listener:
        selector.register(listener, selectors.EVENT_READ, None)
        while True:
            for key, _ in selector.select():
                if key.data is None:
                    peer = Peer(listener.accept()[0], client=False)
                    peer.flush()
                    selector.register(peer.socket, selectors.EVENT_READ, _App(peer))
                elif not _attend(key.data, selector):
                    selector.unregister(key.fileobj)
                    key.data.peer.socket.close()


def _attend(app: _App, selector: selectors.BaseSelector) -> bool:
    try:
        if not app.take():
            return False
        all_gone = app.peer.flush()
        while all_gone and app.make():
            all_gone = app.peer.flush()
        wanted = selectors.EVENT_READ | (0 if all_gone else selectors.EVENT_WRITE)
    except OSError:
        return False
    if selector.get_key(app.peer.socket).events != wanted:
        selector.modify(app.peer.socket, wanted, app)
    return True


if __name__ == "__main__":
    serve(int(sys.argv[1]))
