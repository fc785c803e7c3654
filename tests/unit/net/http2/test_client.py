from __future__ import annotations

import ipaddress
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from trio.testing import MockClock, wait_all_tasks_blocked

from edge_runtime.net.connections import ConnectFailed, Origin
from edge_runtime.net.http2 import ConnectionLost, Http2Client, Http2Limits, StreamReset, http2_tls, open_http2_client
from edge_runtime.wire.http2 import codes as c
from edge_runtime.wire.http2 import engine
from tests.unit.net.http2.serving import CLIENT_LIMITS, OK, REQUEST, RawClient, ask, echo, serving
from tests.unit.wire.http2.wires import frame, settings, word

Converse = Callable[[RawClient], Awaitable[None]]


@asynccontextmanager
async def talking_to(converse: Converse, limits: Http2Limits = CLIENT_LIMITS) -> AsyncIterator[Http2Client]:
    """A client whose server does as it is told, frame by frame."""

    async def handle(stream: trio.SocketStream) -> None:
        async with stream:
            raw = RawClient(stream, engine("h2"))
            await stream.receive_some(len(c.PREFACE))
            await converse(raw)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, handle, 0)
        port = listeners[0].socket.getsockname()[1]
        async with open_http2_client(Origin("http", "127.0.0.1", port), None, limits) as client:
            yield client
        nursery.cancel_scope.cancel()


def answer(raw: RawClient, stream_id: int, flags: int = c.FLAG_END_HEADERS | c.FLAG_END_STREAM) -> bytes:
    return frame(c.HEADERS, flags, stream_id, raw.encoder.encode(OK))


async def test_streams_wait_for_their_turn() -> None:
    most = 0

    async def count(raw: RawClient) -> None:
        nonlocal most
        await raw.send(settings((c.SETTING_MAX_CONCURRENT_STREAMS, 2)))
        await raw.next(c.SETTINGS)
        await raw.next(c.SETTINGS)
        waiting: list[int] = []
        for _ in range(10):
            waiting.append((await raw.next(c.HEADERS)).stream_id)
            most = max(most, len(waiting))
            await wait_all_tasks_blocked()
            if len(waiting) == 2:
                await raw.send(answer(raw, waiting.pop(0)))
        await raw.send(answer(raw, waiting.pop()))
        await raw.next()

    async with talking_to(count) as client:
        while not client.wire.settled:
            await trio.lowlevel.checkpoint()

        async def call() -> None:
            stream = await client.open_stream(REQUEST, end=True)
            await stream.response()

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(call)
    assert most == 2


async def test_a_server_may_allow_no_stream_yet() -> None:
    async def later(raw: RawClient) -> None:
        await raw.send(settings((c.SETTING_MAX_CONCURRENT_STREAMS, 0)))
        await wait_all_tasks_blocked()
        await raw.send(settings((c.SETTING_MAX_CONCURRENT_STREAMS, 1)))
        stream_id = (await raw.next(c.HEADERS)).stream_id
        await raw.send(answer(raw, stream_id))
        await raw.next()

    async with talking_to(later) as client:
        while not client.wire.settled:
            await trio.lowlevel.checkpoint()
        stream = await client.open_stream(REQUEST, end=True)
        assert await stream.response() == OK
        assert await stream.receive() is None


async def test_a_goaway_names_what_was_not_processed() -> None:
    async def leave(raw: RawClient) -> None:
        await raw.send(settings())
        await raw.next(c.HEADERS)
        await raw.next(c.HEADERS)
        await raw.send(frame(c.GOAWAY, 0, 0, word(1) + word(c.NO_ERROR) + b"bye"))
        await wait_all_tasks_blocked()
        await raw.send(answer(raw, 1))
        await raw.next()

    async with talking_to(leave) as client:
        first = await client.open_stream(REQUEST, end=True)
        second = await client.open_stream(REQUEST, end=True)
        with pytest.raises(StreamReset) as caught:
            await second.response()
        assert caught.value.unprocessed
        assert not client.usable
        assert await first.response() == OK
        with pytest.raises(ConnectionLost, match="bye") as lost:
            await client.open_stream(REQUEST)
        assert lost.value.unprocessed


async def test_a_refused_stream_was_not_processed() -> None:
    async def refuse(raw: RawClient) -> None:
        await raw.send(settings())
        await raw.next(c.HEADERS)
        await raw.send(frame(c.RST_STREAM, 0, 1, word(c.REFUSED_STREAM)))
        await raw.next()

    async with talking_to(refuse) as client:
        stream = await client.open_stream(REQUEST)
        with pytest.raises(StreamReset) as caught:
            await stream.response()
        assert caught.value.unprocessed
        with pytest.raises(StreamReset):
            stream.send_headers([(b"a", b"b")], end=True)
        assert client.usable


async def test_a_lost_connection_fails_its_streams() -> None:
    async def leave(raw: RawClient) -> None:
        await raw.send(settings((c.SETTING_MAX_CONCURRENT_STREAMS, 1)))
        await raw.next(c.HEADERS)
        await go_on.wait()

    go_on = trio.Event()
    async with talking_to(leave) as client, trio.open_nursery() as nursery:
        stream = await client.open_stream(REQUEST)

        async def wait() -> None:
            with pytest.raises(ConnectionLost) as caught:
                await client.open_stream(REQUEST)
            assert caught.value.unprocessed

        while not client.wire.settled:
            await trio.lowlevel.checkpoint()
        nursery.start_soon(wait)
        go_on.set()
        with pytest.raises(ConnectionLost) as caught:
            await stream.response()
        assert not caught.value.unprocessed
        with pytest.raises(ConnectionLost):
            await stream.send_data(b"x")
        assert not client.usable


def contexts(tmp_path: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """For a server on 127.0.0.1 and a client that trusts it; both offer HTTP/2."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(1), now + timedelta(1))
    certificate = builder.add_extension(address, critical=False).sign(key, hashes.SHA256())
    pem = certificate.public_bytes(Encoding.PEM)
    path = tmp_path / "pair.pem"
    path.write_bytes(pem + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    server, client = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), http2_tls()
    server.load_cert_chain(path)
    client.load_verify_locations(cadata=pem.decode())
    return server, client


@pytest.mark.parametrize("speaks", [True, False])
async def test_tls_has_to_agree_on_http2(tmp_path: Path, speaks: bool) -> None:
    body = b"x" * 200000
    server, tls = contexts(tmp_path)
    if speaks:
        server.set_alpn_protocols(["h2"])

    async def handle(stream: trio.SSLStream[trio.SocketStream]) -> None:
        raw = RawClient(stream, engine("h2"))
        try:
            await stream.receive_some(len(c.PREFACE))
        except trio.BrokenResourceError:
            return
        windows = frame(c.WINDOW_UPDATE, 0, 0, word(2**20))
        await raw.send(settings((c.SETTING_INITIAL_WINDOW_SIZE, 2**20)), windows)
        received = 0
        while received < len(body):
            received += len((await raw.next(c.DATA)).payload)
        await raw.send(answer(raw, 1))
        await raw.next()

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_ssl_over_tcp_listeners(0, server, host="127.0.0.1", https_compatible=True)
        origin = Origin("https", "127.0.0.1", listeners[0].transport_listener.socket.getsockname()[1])
        nursery.start_soon(trio.serve_listeners, handle, listeners)
        if speaks:
            async with open_http2_client(origin, tls) as client:
                stream = await client.open_stream(REQUEST)
                await stream.send_data(body, end=True)
                assert await stream.response() == OK
        else:
            with pytest.raises(ConnectFailed, match="HTTP/2"):
                await open_http2_client(origin, tls).__aenter__()
        nursery.cancel_scope.cancel()


async def test_nobody_listens() -> None:
    with pytest.raises(ConnectFailed):
        async with open_http2_client(Origin("http", "127.0.0.1", 1)):
            raise AssertionError


async def test_errors_of_the_body_come_as_they_are() -> None:
    async with serving(echo) as served:

        async def fail() -> None:
            async with served.client() as client:
                await ask(client)
                raise KeyError

        async def hang() -> None:
            async with served.client():
                await trio.sleep_forever()

        with pytest.raises(KeyError):
            await fail()
        with trio.move_on_after(0.01) as scope:
            await hang()
        assert scope.cancelled_caught


async def test_errors_of_ours_stay_inside(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(echo) as served, served.client() as client:
        await ask(client)

        def fail(*_: object) -> None:
            raise KeyError("oops")

        monkeypatch.setattr(client.__class__, "data_received", fail)
        with pytest.raises(ConnectionLost):
            await ask(client)
        assert not client.usable
    assert "oops" in caplog.text


async def test_keepalive_notices_a_dead_server(autojump_clock: MockClock) -> None:
    async def silent(raw: RawClient) -> None:
        await raw.send(settings())
        await trio.sleep_forever()

    async with talking_to(silent, CLIENT_LIMITS._replace(keepalive_idle_s=20.0)) as client:
        stream = await client.open_stream(REQUEST)
        begun = trio.current_time()
        with pytest.raises(ConnectionLost, match="does not answer"):
            await stream.response()
        assert trio.current_time() - begun == pytest.approx(25, abs=1)


async def test_without_keepalive_nobody_pings(autojump_clock: MockClock) -> None:
    async def silent(raw: RawClient) -> None:
        await raw.send(settings())
        await raw.next(c.PING)

    async with talking_to(silent) as client:
        await trio.sleep(10000)
        assert client.usable


async def test_slots_are_free_after_a_cancel() -> None:
    async def first_only(raw: RawClient) -> None:
        await raw.send(settings((c.SETTING_MAX_CONCURRENT_STREAMS, 1)))
        await raw.next(c.RST_STREAM)
        stream_id = (await raw.next(c.HEADERS)).stream_id
        await raw.send(answer(raw, stream_id))
        await raw.next()

    async with talking_to(first_only) as client:
        while not client.wire.settled:
            await trio.lowlevel.checkpoint()
        stream = await client.open_stream(REQUEST)
        with trio.move_on_after(0.01):
            await client.open_stream(REQUEST)
        stream.reset(c.CANCEL)
        assert await (await client.open_stream(REQUEST, end=True)).response() == OK
