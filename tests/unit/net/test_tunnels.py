"""Connections that are counted, and what proxies answer to CONNECT."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio

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


def test_a_proxy_is_a_url() -> None:
    assert parse_proxy("http://proxy:3128") == Proxy(Origin("http", "proxy", 3128))
    assert parse_proxy("http://m%40e:p%3Aw@[::1]") == Proxy(Origin("http", "::1", 80), "Basic bUBlOnA6dw==")


@pytest.mark.parametrize("text", ["https://proxy", "proxy:3128", "http://", "http://proxy:port", "http://[::1"])
def test_a_mistake_does_not_show_the_secret(text: str) -> None:
    check: Callable[[str], Proxy] = parse_proxy
    with pytest.raises(ValueError, match="expected one such as http://proxy") as caught:
        check(text)
    assert text not in str(caught.value) or text in ("http://",)
