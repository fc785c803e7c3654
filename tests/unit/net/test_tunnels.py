"""Connections that are counted, and what proxies answer to CONNECT."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from edge_runtime.net.connections import ConnectFailed, Origin
from edge_runtime.net.tunnels import Dialer, Proxy, parse_proxy

FAR = Origin("http", "far.example", 3500)


class Counted:
    def __init__(self) -> None:
        self.sent = 0
        self.received = 0

    def __call__(self, sent: int, received: int) -> None:
        self.sent += sent
        self.received += received


@asynccontextmanager
async def server(*answers: bytes) -> AsyncIterator[tuple[Origin, list[bytes]]]:
    """Takes a head, gives an answer, and so on; then it closes."""
    heads: list[bytes] = []

    async def handle(stream: trio.SocketStream) -> None:
        async with stream:
            for answer in answers:
                head = b""
                while not head.endswith(b"\r\n\r\n"):
                    data = await stream.receive_some(65536)
                    if not data:
                        return
                    head += data
                heads.append(head)
                await stream.send_all(answer)

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, handle, listeners)
        yield Origin("http", "127.0.0.1", listeners[0].socket.getsockname()[1]), heads
        nursery.cancel_scope.cancel()


async def exchange(dialer: Dialer, origin: Origin) -> bytes:
    connection = await dialer.dial(origin, None, 5)
    try:
        first = connection.try_send(b"hel")
        await connection.send_all(b"hello"[first:] + b"\r\n\r\n")
        data = await connection.receive()
        return data + await connection.receive_more()
    finally:
        connection.close()


async def test_every_byte_is_counted() -> None:
    counted = Counted()
    async with server(b"good day") as (origin, _):
        assert await exchange(Dialer(None, counted), origin) == b"good day"
        assert (counted.sent, counted.received) == (9, 8)


async def test_a_proxy_connects() -> None:
    counted = Counted()
    async with server(b"HTTP/1.1 200 Connection established\r\nX: y\r\n\r\n", b"far") as (origin, heads):
        assert await exchange(Dialer(Proxy(origin, "Basic eDp5"), counted), FAR) == b"far"
        assert heads == [
            b"CONNECT far.example:3500 HTTP/1.1\r\nHost: far.example:3500\r\nProxy-Authorization: Basic eDp5\r\n\r\n",
            b"hello\r\n\r\n",
        ]
        assert counted.sent == sum(map(len, heads))


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "refused CONNECT far.example:3500: HTTP/1.1 407 Proxy"),
        (b"", "no answer to CONNECT"),
        (b"x" * 9000, "no answer to CONNECT"),
        (b"HTTP/1.1 200 OK\r\n\r\nearly", "bytes behind the answer to CONNECT"),
    ],
)
async def test_what_is_no_tunnel_is_no_connection(answer: bytes, reason: str) -> None:
    async with server(answer) as (origin, _):
        with pytest.raises(ConnectFailed, match=reason):
            await Dialer(Proxy(origin), Counted()).dial(FAR, None, 5)


async def test_a_silent_proxy_is_not_waited_for() -> None:
    async with server() as (origin, _):
        listener = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listener[0].socket.getsockname()[1]
        with pytest.raises(ConnectFailed, match=r"dial tcp far\.example:3500: i/o timeout"):
            await Dialer(Proxy(Origin("http", "127.0.0.1", port)), Counted()).dial(FAR, None, 0.05)
        await listener[0].aclose()
        assert await Dialer(None, Counted()).can_reach(origin, 5)
        assert not await Dialer(Proxy(Origin("http", "127.0.0.1", port)), Counted()).can_reach(FAR, 5)


class Way:
    """Each connection takes as long as the next number says; a negative one is refused then."""

    def __init__(self, *takes_s: float) -> None:
        self.takes_s = list(takes_s)
        self.closed = 0

    async def open(self, origin: Origin, tls: None, timeout_s: float) -> Way:
        takes_s = self.takes_s.pop(0)
        with trio.move_on_after(timeout_s):
            await trio.sleep(abs(takes_s))
            if takes_s >= 0:
                return self
        raise ConnectFailed("refused, or too late")

    def detach(self) -> socket.socket:
        return socket.socket()

    def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize(
    ("takes_s", "reached", "after_s"),
    [
        ([0.1], True, 0.1),
        ([60, 0.1], True, 0.35),  # the first packet was lost
        ([60, 60], False, 0.5),
        ([-0.1], False, 0.1),
        ([60, -0.1], False, 0.35),
    ],
)
async def test_a_way_is_tried_twice(
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    takes_s: tuple[float, ...],
    reached: bool,
    after_s: float,
) -> None:
    way = Way(*takes_s)
    monkeypatch.setattr("edge_runtime.net.tunnels.open_connection", way.open)
    began = trio.current_time()
    assert await Dialer(None, Counted()).can_reach(FAR, 0.5) == reached
    assert trio.current_time() - began == pytest.approx(after_s)
    assert (way.takes_s, way.closed) == ([], int(reached))


async def test_a_slow_way_is_given_more_time(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    way = Way(0.7, 3, 0.9, 60, 60, 60)
    monkeypatch.setattr("edge_runtime.net.tunnels.open_connection", way.open)
    dialer = Dialer(None, Counted())
    (await dialer.dial(FAR, None, 5)).close()
    (await dialer.dial(FAR, None, 5)).close()
    assert await dialer.can_reach(FAR, 0.5)
    began = trio.current_time()
    assert not await dialer.can_reach(FAR, 0.5)
    assert trio.current_time() - began == pytest.approx(4 * 0.7)


def test_a_proxy_is_a_url() -> None:
    assert parse_proxy("http://proxy:3128") == Proxy(Origin("http", "proxy", 3128))
    assert parse_proxy("http://m%40e:p%3Aw@[::1]") == Proxy(Origin("http", "::1", 80), "Basic bUBlOnA6dw==")


@pytest.mark.parametrize("text", ["https://proxy", "proxy:3128", "http://", "http://proxy:port", "http://[::1"])
def test_a_mistake_does_not_show_the_secret(text: str) -> None:
    check: Callable[[str], Proxy] = parse_proxy
    with pytest.raises(ValueError, match="expected one such as http://proxy") as caught:
        check(text)
    assert text not in str(caught.value) or text in ("http://",)


async def test_plaintext_for_tls_is_told() -> None:
    """A server that does not speak TLS: what OpenSSL says of it leads nobody to the scheme of the URL."""

    async def answer(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            await stream.receive_some()

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, answer, listeners)
        origin = Origin("https", "127.0.0.1", listeners[0].socket.getsockname()[1])
        with pytest.raises(ConnectFailed, match=r"does it speak TLS\? If not, its URL begins with http://"):
            await Dialer(None, Counted()).dial(origin, ssl.create_default_context(), 5)
        nursery.cancel_scope.cancel()
