"""The command line's side of the control socket, against the real server in another thread."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from edge_runtime.api.control import serve_control
from edge_runtime.cli.control import ControlError, NodeControl, attachable, own_socket, running_nodes
from edge_runtime.cli.instances import find_instances
from edge_runtime.model.errors import ConfigError
from tests.unit.api.test_control import FakeApp, FakeNode, attachment_settings


@pytest.fixture
def served(tmp_path: Path) -> Iterator[FakeNode]:
    node = FakeNode(tmp_path)
    ready = threading.Event()
    token: list[trio.lowlevel.TrioToken] = []
    scope = trio.CancelScope()

    async def serve() -> None:
        node.apps["a"] = FakeApp(attachment_settings("--app-id=a", "--dapr-http-port=1", "--dapr-grpc-port=2"))
        token.append(trio.lowlevel.current_trio_token())
        with scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(serve_control, node, str(tmp_path / "run" / "control.sock"))
                ready.set()

    thread = threading.Thread(target=trio.run, args=(serve,))
    thread.start()
    assert ready.wait(10)
    yield node
    token[0].run_sync_soon(scope.cancel)
    thread.join(10)


def variables(place: Path) -> dict[str, str]:
    return {"EDGE_RUNTIME_RUN_DIR": str(place / "run")}


def test_running_node_is_found(served: FakeNode, tmp_path: Path) -> None:
    (tmp_path / "run" / "123.sock").touch()  # no socket at all
    (node,) = running_nodes(variables(tmp_path))
    assert [app["appId"] for app in node.apps()] == ["a"]
    assert node.keys("a", "s", "", "", 2) == ["a", "b"]
    assert node.topics() == []
    node.detach("a")
    assert served.apps["a"].gone.is_set()
    with pytest.raises(ControlError, match="app ID b not found"):
        node.detach("b")


def test_its_apps_are_instances(served: FakeNode, tmp_path: Path) -> None:
    empty = tmp_path / "proc"
    empty.mkdir()
    (app,) = find_instances(variables(tmp_path), str(empty))
    assert (app.app_id, app.http_port, app.node) == ("a", 1, str(tmp_path / "run" / "control.sock"))


def test_node_that_takes_apps_is_chosen(served: FakeNode, tmp_path: Path) -> None:
    path = str(tmp_path / "run" / "control.sock")
    assert attachable(variables(tmp_path)) == NodeControl(path)
    assert attachable({}, path) == NodeControl(path)
    served.settings = served.settings._replace(attach="none")
    assert attachable(variables(tmp_path)) is None
    with pytest.raises(ConfigError, match="takes no apps"):
        attachable({}, path)


def test_named_node_must_answer(tmp_path: Path) -> None:
    assert attachable(variables(tmp_path)) is None
    with pytest.raises(ConfigError, match="no node answers at the control socket /no/where"):
        attachable({}, "/no/where")
    with pytest.raises(ConfigError, match="no node answers"):
        attachable({"EDGE_RUNTIME_CONTROL_SOCKET": "/no/where"})


def test_left_socket_is_passed_over(tmp_path: Path) -> None:
    import socket

    (tmp_path / "run").mkdir()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "run" / "control.sock"))
    assert attachable(variables(tmp_path)) is None
    assert list(running_nodes(variables(tmp_path))) == []


def test_own_socket_needs_a_place(tmp_path: Path) -> None:
    assert own_socket(variables(tmp_path), 7) == str(tmp_path / "run" / "7.sock")
    assert own_socket({"EDGE_RUNTIME_RUN_DIR": "/proc/none"}, 7) is None


def test_sockets_of_the_dead_are_removed(tmp_path: Path) -> None:
    import os
    import socket

    (tmp_path / "run").mkdir()
    for name in ("4999999", str(os.getpid()), "control"):
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(tmp_path / "run" / f"{name}.sock"))
    own_socket(variables(tmp_path), 7)
    assert sorted(path.stem for path in (tmp_path / "run").iterdir()) == sorted([str(os.getpid()), "control"])
