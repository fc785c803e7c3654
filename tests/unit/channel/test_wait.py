"""Waiting for the app's port."""

from __future__ import annotations

import socket

import pytest
import trio

from edge_runtime.channel.wait import wait_for_app_port
from edge_runtime.net.connections import Origin
from tests.loopback import loopback_app


async def test_listening_app_is_found(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with loopback_app() as app:
        await wait_for_app_port(app.origin)
    assert f"application discovered on port {app.origin.port}" in caplog.text


async def test_late_app_is_found(autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    with socket.socket() as late:
        late.bind(("127.0.0.1", 0))
        port = late.getsockname()[1]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait_for_app_port, Origin("http", "127.0.0.1", port))
            await trio.sleep(25)
            assert "discovered" not in caplog.text
            assert caplog.text.count("still waiting for the application") == 2
            late.listen()
    assert f"application discovered on port {port}" in caplog.text


async def test_grpc_app_is_found(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with loopback_app() as app:
        await wait_for_app_port(app.origin._replace(scheme="grpc"))
    assert "application protocol: grpc. waiting on port" in caplog.text
