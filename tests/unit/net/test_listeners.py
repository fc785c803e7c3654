from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest
import trio

from edge_runtime.net.listeners import ListenError, open_listeners, open_unix_listener, unix_socket_path


def connects(family: int, address: object) -> bool:
    with socket.socket(family, socket.SOCK_STREAM) as client:
        client.settimeout(1)
        try:
            client.connect(address)  # type: ignore[arg-type]
        except OSError:
            return False
        return True


async def test_port_0_becomes_a_real_one() -> None:
    async with open_listeners(["127.0.0.1"], 0) as (listener,):
        assert listener.port > 0
        assert listener.name == f"127.0.0.1:{listener.port}"
        assert connects(socket.AF_INET, ("127.0.0.1", listener.port))
    assert not connects(socket.AF_INET, ("127.0.0.1", listener.port))


async def test_no_address_means_all() -> None:
    async with open_listeners([], 0) as (listener,):
        assert connects(socket.AF_INET, ("127.0.0.1", listener.port))
        if socket.has_dualstack_ipv6():
            assert connects(socket.AF_INET6, ("::1", listener.port))


async def test_several_addresses_share_the_port() -> None:
    async with open_listeners(["127.0.0.1", "127.0.0.2"], 0) as listeners:
        assert len({listener.port for listener in listeners}) == 1
        assert connects(socket.AF_INET, ("127.0.0.2", listeners[0].port))


@pytest.mark.parametrize("address", ["::1", "[::1]"])
async def test_ipv6_may_have_brackets(address: str) -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    async with open_listeners([address], 0) as (listener,):
        assert listener.name == f"[::1]:{listener.port}"
        assert connects(socket.AF_INET6, ("::1", listener.port))
        assert not connects(socket.AF_INET, ("127.0.0.1", listener.port))


async def test_names_are_resolved() -> None:
    async with open_listeners(["localhost"], 0) as listeners:
        assert connects(socket.AF_INET, ("127.0.0.1", listeners[0].port)) or connects(
            socket.AF_INET6, ("::1", listeners[0].port)
        )


async def test_one_good_address_is_enough(caplog: pytest.LogCaptureFixture) -> None:
    async with open_listeners(["192.0.2.1", "127.0.0.1"], 0) as listeners:
        assert [listener.name.split(":")[0] for listener in listeners] == ["127.0.0.1"]
    assert "192.0.2.1" in caplog.text


async def test_a_taken_port_is_named() -> None:
    async with open_listeners(["127.0.0.1"], 0) as (taken,):
        with pytest.raises(ListenError, match=f"port {taken.port}: 127.0.0.1:{taken.port}: the port is in use; stop"):
            async with open_listeners(["127.0.0.1"], taken.port):
                pass


async def test_a_foreign_address_is_named() -> None:
    with pytest.raises(ListenError, match="no interface of this machine has this address"):
        async with open_listeners(["192.0.2.1"], 0):
            pass


async def test_an_unknown_name_is_named() -> None:
    with pytest.raises(ListenError, match=r"nowhere\.invalid"):
        async with open_listeners(["nowhere.invalid"], 0):
            pass


async def test_a_path_can_be_listened_on(tmp_path: Path) -> None:
    path = unix_socket_path(str(tmp_path), "app", "http")
    assert path.endswith("/dapr-app-http.socket")
    async with open_unix_listener(path) as (listener,):
        assert (listener.path, listener.name, listener.port) == (path, path, 0)
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o700
        assert connects(socket.AF_UNIX, path)
    assert os.listdir(tmp_path) == []


async def test_an_abandoned_socket_is_replaced(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    async with open_unix_listener(path):
        assert connects(socket.AF_UNIX, path)


async def test_a_living_socket_is_left_alone(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    async with open_unix_listener(path):
        with pytest.raises(ListenError, match=f"{path}: another process listens there"):
            async with open_unix_listener(path):
                pass
        assert connects(socket.AF_UNIX, path)


async def test_a_file_in_the_way_stays(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(ListenError, match="no socket is in the way"):
        async with open_unix_listener(str(path)):
            pass
    assert path.read_text() == "precious"


async def test_a_successor_keeps_its_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    async with open_unix_listener(path):
        os.unlink(path)
        with socket.socket(socket.AF_UNIX) as successor:
            successor.bind(path)
    assert os.listdir(tmp_path) == ["s"]


async def test_long_paths_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ListenError, match=r"at most 107; use a shorter one"):
        async with open_unix_listener(str(tmp_path / ("x" * 108))):
            pass


async def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ListenError, match="No such file or directory; make its folder first"):
        async with open_unix_listener(str(tmp_path / "missing" / "s")):
            pass


async def test_a_listener_closes_while_awaited() -> None:
    async with open_listeners(["127.0.0.1"], 0) as (listener,), trio.open_nursery() as nursery:

        async def wait() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await trio.lowlevel.wait_readable(listener.socket)

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        listener.close()
