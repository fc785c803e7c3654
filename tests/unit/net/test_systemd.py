from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from edge_runtime.net import systemd
from edge_runtime.net.systemd import Manager, PassedSockets, take_manager


def listening(path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.bind(str(path))
    made.listen()
    return made


@pytest.mark.parametrize("address", ["{}/notify", "@edge-runtime-test-{}"])
def test_lines_reach_the_manager(tmp_path: Path, address: str) -> None:
    address = address.format(tmp_path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address.replace("@", "\0", 1))
        Manager(address, None, PassedSockets()).tell("READY=1", "STATUS=two\nlines")
        assert manager.recv(100) == b"READY=1\nSTATUS=two lines"


def test_absent_manager_is_no_error(tmp_path: Path) -> None:
    Manager(str(tmp_path / "nobody"), None, PassedSockets()).tell("READY=1")
    Manager("", None, PassedSockets()).tell("READY=1")


def test_variables_are_read_once() -> None:
    environment = {
        "NOTIFY_SOCKET": "/run/n",
        "WATCHDOG_USEC": "60000000",
        "WATCHDOG_PID": "7",
        "LISTEN_PID": "8",
        "A": "b",
    }
    found = take_manager(environment, 7)
    assert (found.address, found.watchdog_s) == ("/run/n", 60.0)
    assert environment == {"A": "b"}


@pytest.mark.parametrize(
    "variables",
    [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "x"}, {"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "8"}],
)
def test_watchdog_is_off_unless_it_is_ours(variables: dict[str, str]) -> None:
    assert take_manager(variables, 7).watchdog_s is None


def test_address_of_an_unknown_kind_is_left_alone() -> None:
    assert take_manager({"NOTIFY_SOCKET": "vsock:2:9"}, 7).address == ""


def test_sockets_are_taken_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with listening(tmp_path / "a") as first, listening(tmp_path / "b") as second:
        fds = sorted(os.dup(one.fileno()) for one in (first, second))
        if fds[1] != fds[0] + 1:
            pytest.skip("descriptors of this process have gaps")
        monkeypatch.setattr(systemd, "FIRST_FD", fds[0])
        found = take_manager({"LISTEN_PID": "7", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "control:orders.http"}, 7).sockets
        control = found.control()
        assert control is not None
        (http,) = found.of_app("http", "orders")
        with control, http:
            assert not os.get_inheritable(control.fileno())
            assert {control.getsockname(), http.getsockname()} == {str(tmp_path / "a"), str(tmp_path / "b")}
        found.close()


def test_sockets_of_another_process_are_left_alone() -> None:
    assert take_manager({"LISTEN_PID": "8", "LISTEN_FDS": "1"}, 7).sockets.control() is None


@pytest.mark.parametrize("name", ["control", "edge-runtime.socket"])
def test_what_cannot_be_served_is_closed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    datagrams = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).detach()
    monkeypatch.setattr(systemd, "FIRST_FD", datagrams)
    found = take_manager({"LISTEN_PID": "7", "LISTEN_FDS": "1", "LISTEN_FDNAMES": name}, 7)
    assert found.sockets.control() is None
    assert "is not used" in caplog.text
    with pytest.raises(OSError):
        os.fstat(datagrams)


def names(passed: PassedSockets, app_id: str) -> list[str]:
    found = []
    for one in passed.of_app("http", app_id):
        found.append(os.path.basename(one.getsockname()))
        one.close()
    return found


def test_plain_names_are_the_first_apps(tmp_path: Path) -> None:
    with listening(tmp_path / "a") as plain, listening(tmp_path / "b") as own:
        passed = PassedSockets([("http", plain), ("billing.http", own)])
        assert names(passed, "orders") == ["a"]
        assert names(passed, "billing") == ["b"]
        assert names(passed, "other") == []
        assert names(passed, "orders") == ["a"]  # also when it comes again
