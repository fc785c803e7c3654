import json
import os
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from edge_runtime.api import control, control_socket
from edge_runtime.api.control import serve_control
from edge_runtime.api.control_socket import Peer, check_owner, default_path, group_id, may_speak, run_directory
from edge_runtime.config.flags import parse_flags
from edge_runtime.model.errors import ConfigError
from edge_runtime.net.systemd import PassedSockets
from edge_runtime.runtime.settings import NodeSettings
from edge_runtime.wire.http1 import (
    END,
    NEED_DATA,
    ResponseHead,
    encode_request,
    new_response_reader,
)


class FakeLogs:
    def __init__(self) -> None:
        self.taps: list[Callable[[str, str], None]] = []

    def line(self, app_id: str, text: str) -> None:
        for tap in self.taps:
            tap(app_id, text)


class FakeStore:
    async def keys(self, prefix: str, after: str, limit: int) -> list[str]:
        every = [f"a||{letter}" for letter in "abcdef"]
        return [key for key in every if key.startswith(prefix) and key > after][:limit]


class FakeState:
    prefix = "a||"
    store = FakeStore()

    def require(self, name: str) -> "FakeState":
        return self

    def plain_key(self, key: str) -> str:
        return key.removeprefix(self.prefix)


class FakeBlocks:
    state = FakeState()


class FakeGeneration:
    blocks = FakeBlocks()


class FakeApp:
    def __init__(self, settings: Any) -> None:
        self.settings = settings
        self.app_id = settings.flags.app_id
        self.http_port = settings.flags.dapr_http_port
        self.grpc_port = settings.flags.dapr_grpc_port
        self.started_at = 100.0
        self.listening = True
        self.generation: Any = FakeGeneration()
        self.extended: dict[str, str] = {}
        self.gone = trio.Event()

    def set_metadata(self, key: str, value: str) -> None:
        self.extended[key] = value

    def shut_down(self) -> None:
        self.gone.set()


class FakeNode:
    def __init__(self, directory: Path, attach: str = "same-user") -> None:
        self.settings = NodeSettings(str(directory), attach)
        self.logs = FakeLogs()
        self.databases: Any = None
        self.sockets = PassedSockets()
        self.apps: dict[str, FakeApp] = {}
        self.attached: list[Any] = []
        self.attaching: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint

    async def attach(self, settings: Any) -> FakeApp:
        self.logs.line(settings.flags.app_id, "starting up")
        await self.attaching()
        self.attached.append(settings)
        app = self.apps[settings.flags.app_id] = FakeApp(settings)
        return app


class Conversation:
    """One connection to the socket."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.reader = new_response_reader()
        self.held = b""

    async def send(self, method: str, target: str, body: bytes = b"") -> None:
        self.reader.expect(method)
        await self.stream.send_all(encode_request(method, target.encode(), [(b"host", b"n")], body))

    async def event(self) -> Any:
        while (event := self.reader.next_event()) is NEED_DATA:
            self.reader.feed(await self.stream.receive_some(65536))
        return event

    async def ask(self, method: str, target: str, body: bytes = b"") -> tuple[int, Any]:
        await self.send(method, target, body)
        head = await self.event()
        assert isinstance(head, ResponseHead)
        data = b""
        while (piece := await self.event()) is not END:
            data += piece
        return head.status, json.loads(data)

    async def line(self) -> dict[str, Any] | None:
        """The next event of an attachment, None at its end."""
        while b"\n" not in self.held:
            piece = await self.event()
            if piece is END:
                return None
            if isinstance(piece, bytes):
                self.held += piece
        line, _, self.held = self.held.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        return found

    async def until_ready(self) -> dict[str, Any]:
        while (line := await self.line()) is not None:
            if line["event"] == "ready":
                return line
        raise AssertionError("it never was")

    async def rest(self) -> list[dict[str, Any]]:
        found = []
        while (line := await self.line()) is not None:
            found.append(line)
        return found


@asynccontextmanager
async def serving(node: FakeNode, path: str) -> AsyncIterator[str]:
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_control, node, path)
        yield path
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def talking(path: str) -> AsyncIterator[Conversation]:
    async with await trio.open_unix_socket(path) as stream:
        yield Conversation(stream)


def attachment_settings(*words: str) -> control.Attachment:
    return control.Attachment(parse_flags(words), {}, "")


def attachment(*words: str) -> bytes:
    argv = ["--app-id=a", "--dapr-http-port=1", "--dapr-grpc-port=2", *words]
    return json.dumps({"argv": argv, "environment": {"NAMESPACE": "n"}, "directory": "/d"}).encode()


@pytest.fixture
def place(tmp_path: Path) -> str:
    return str(tmp_path / "run" / "control.sock")


@pytest.fixture
def node(tmp_path: Path) -> FakeNode:
    return FakeNode(tmp_path)


async def test_node_describes_itself(node: FakeNode, place: str) -> None:
    async with serving(node, place), talking(place) as client:
        status, value = await client.ask("GET", "/edge/v1/node")
        assert status == 200
        assert value["pid"] == os.getpid()
        assert value["attach"] == "same-user"
        assert (await client.ask("GET", "/edge/v1/apps")) == (200, [])  # the connection is kept


async def test_socket_is_ours_alone(node: FakeNode, place: str) -> None:
    async with serving(node, place):
        assert stat.S_IMODE(os.stat(place).st_mode) == 0o600
        assert stat.S_IMODE(os.stat(os.path.dirname(place)).st_mode) == 0o700
    assert not os.path.exists(place)  # noqa: ASYNC240


async def test_attached_app_lives_with_its_connection(node: FakeNode, place: str) -> None:
    async with serving(node, place):
        async with talking(place) as client:
            await client.send("POST", "/edge/v1/apps", attachment())
            assert await client.line() == {"event": "starting", "appId": "a"}
            assert await client.line() == {"event": "log", "line": "starting up"}
            ready = await client.until_ready()
            assert (ready["httpPort"], ready["grpcPort"]) == (1, 2)
            node.logs.line("other", "not for us")
            node.logs.line("a", "said")
            assert await client.line() == {"event": "log", "line": "said"}
            settings = node.attached[0]
            assert (settings.environment, settings.directory) == ({"NAMESPACE": "n"}, "/d")
            app = node.apps["a"]
            assert app.extended == {"cliPID": str(os.getpid())}
            assert not app.gone.is_set()
        await app.gone.wait()
    assert node.logs.taps == []


async def test_goodbye_is_heard_to_the_end(node: FakeNode, place: str) -> None:
    async with serving(node, place), talking(place) as client:
        await client.send("POST", "/edge/v1/apps", attachment())
        await client.until_ready()
        await client.stream.send_eof()
        assert await client.rest() == [{"event": "stopped"}]
        assert node.apps["a"].gone.is_set()


async def test_deleted_app_ends_its_connection(node: FakeNode, place: str) -> None:
    async with serving(node, place), talking(place) as client, talking(place) as other:
        await client.send("POST", "/edge/v1/apps", attachment())
        await client.until_ready()
        assert await other.ask("DELETE", "/edge/v1/apps/a") == (200, {"appId": "a"})
        assert await client.rest() == [{"event": "stopped"}]


async def test_client_that_leaves_early_stops_the_start(node: FakeNode, place: str) -> None:
    begun, cancelled = trio.Event(), trio.Event()

    async def never() -> None:
        begun.set()
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    node.attaching = never
    async with serving(node, place):
        async with talking(place) as client:
            await client.send("POST", "/edge/v1/apps", attachment())
            await begun.wait()
        await cancelled.wait()


async def test_failed_start_is_told(node: FakeNode, place: str) -> None:
    async def fail() -> None:
        raise ConfigError("port 1 is taken")

    node.attaching = fail
    async with serving(node, place), talking(place) as client:
        await client.send("POST", "/edge/v1/apps", attachment())
        events = await client.rest()
    assert events[-1] == {"event": "error", "message": "port 1 is taken"}


async def test_unread_log_lines_are_counted(node: FakeNode, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "EVENTS_WAITING_MAX", 2)
    async with serving(node, place), talking(place) as client:
        await client.send("POST", "/edge/v1/apps", attachment())
        await client.until_ready()
        await trio.testing.wait_all_tasks_blocked()
        for index in range(6):  # all of them before anything can be sent
            node.logs.line("a", str(index))
        # One goes straight to the task that waits for it, two are kept.
        assert [await client.line() for _ in range(3)] == [{"event": "log", "line": text} for text in "012"]
        node.logs.line("a", "later")
        assert await client.line() == {"event": "log", "line": "later", "lost": 3}


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        (b"[]", 400, "expected a JSON object with argv"),
        (b"{", 400, "expected a JSON object with argv"),
        (b'{"argv": ["--app-di=x"], "environment": {}, "directory": ""}', 400, "unknown flag: --app-di"),
        (b'{"argv": [], "environment": {}, "directory": ""}', 400, "app-id parameter cannot be empty"),
    ],
)
async def test_bad_attachment_is_refused(node: FakeNode, place: str, body: bytes, status: int, text: str) -> None:
    async with serving(node, place), talking(place) as client:
        found, value = await client.ask("POST", "/edge/v1/apps", body)
    assert found == status
    assert text in value["error"]


async def test_name_is_given_once(node: FakeNode, place: str) -> None:
    node.apps["a"] = FakeApp(attachment_settings("--app-id=a"))
    async with serving(node, place), talking(place) as client:
        status, value = await client.ask("POST", "/edge/v1/apps", attachment())
    assert (status, value["error"]) == (409, "an app with the id 'a' runs on this node already")


async def test_closed_node_takes_no_apps(tmp_path: Path, place: str) -> None:
    async with serving(FakeNode(tmp_path, "none"), place), talking(place) as client:
        status, value = await client.ask("POST", "/edge/v1/apps", attachment())
    assert status == 403
    assert "--attach=none" in value["error"]


async def test_single_questions_are_answered(node: FakeNode, place: str) -> None:
    app = node.apps["a/b"] = FakeApp(attachment_settings("--app-id=a", "--app-port=5"))
    async with serving(node, place), talking(place) as client:
        assert await client.ask("PUT", "/edge/v1/apps/a%2Fb/metadata/key?value=a%20b") == (200, {})
        assert app.extended == {"key": "a b"}
        status, (row,) = await client.ask("GET", "/edge/v1/apps")
        assert (status, row["appPort"], row["startedAt"], row["extended"]) == (200, 5, 100.0, {"key": "a b"})
        keys = "/edge/v1/apps/a%2Fb/state/s/keys"
        assert await client.ask("GET", f"{keys}?limit=2") == (200, {"keys": ["a", "b"]})
        assert await client.ask("GET", f"{keys}?after=b&limit=2") == (200, {"keys": ["c", "d"]})
        assert await client.ask("GET", f"{keys}?prefix=f") == (200, {"keys": ["f"]})
        assert (await client.ask("GET", f"{keys}?limit=0"))[0] == 400
        assert (await client.ask("GET", "/edge/v1/topics"))[1]["topics"] == []
        assert (await client.ask("DELETE", "/edge/v1/apps/nobody"))[0] == 404
        assert (await client.ask("GET", "/edge/v1/nothing"))[0] == 404
        app.generation = None
        assert (await client.ask("GET", keys))[0] == 503


async def test_no_http_is_refused(node: FakeNode, place: str) -> None:
    async with serving(node, place), talking(place) as client:
        await client.stream.send_all(b"hello there\r\n\r\n")
        assert (await client.stream.receive_some(65536)).startswith(b"HTTP/1.1 400")


async def test_large_request_is_refused(node: FakeNode, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "BODY_BYTES_MAX", 10)
    async with serving(node, place), talking(place) as client:
        assert (await client.ask("POST", "/edge/v1/apps", b"x" * 11))[0] == 413


async def test_stranger_is_refused(node: FakeNode, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "may_speak", lambda peer, groups, group: False)
    async with serving(node, place), talking(place) as client:
        client.reader.expect("GET")
        head = await client.event()
    assert isinstance(head, ResponseHead)
    assert head.status == 403


async def test_clients_have_a_limit(node: FakeNode, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "CONNECTIONS_MAX", 1)
    async with serving(node, place), talking(place) as first:
        await first.ask("GET", "/edge/v1/node")
        async with talking(place) as second:
            second.reader.expect("GET")
            head = await second.event()
    assert isinstance(head, ResponseHead)
    assert head.status == 503


async def test_socket_of_a_killed_node_is_replaced(node: FakeNode, place: str) -> None:
    import socket

    os.mkdir(os.path.dirname(place))
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(place)
    async with serving(node, place), talking(place) as client:
        assert (await client.ask("GET", "/edge/v1/node"))[0] == 200


async def test_socket_of_a_living_node_is_kept(node: FakeNode, place: str) -> None:
    async with serving(node, place):
        with pytest.raises(ConfigError, match="another node listens there"):
            control_socket.open_control_socket(place)


def test_file_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    with pytest.raises(ConfigError, match="it is no socket"):
        control_socket.open_control_socket(str(tmp_path / "f"))


def test_long_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="longer than 107 bytes"):
        control_socket.open_control_socket(str(tmp_path / ("x" * 100)))


def test_unusable_directory_is_named() -> None:
    with pytest.raises(ConfigError, match="/no/such cannot be made"):
        control_socket.open_control_socket("/no/such/s")


def test_place_that_all_may_write_is_not_trusted(tmp_path: Path) -> None:
    path = tmp_path / "open" / "s"
    path.parent.mkdir()
    path.touch()
    check_owner(str(path))
    path.parent.chmod(0o777)
    with pytest.raises(ConfigError, match="everybody may write"):
        check_owner(str(path))
    path.parent.chmod(0o1777)
    check_owner(str(path))


def test_place_of_another_user_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "s").touch()
    os_lstat = os.lstat

    def owned_by_another(path: str) -> os.stat_result:
        facts = list(os_lstat(path))
        facts[4] = 4321
        return os.stat_result(facts)

    monkeypatch.setattr(os, "lstat", owned_by_another)
    with pytest.raises(ConfigError, match="belongs to user 4321"):
        check_owner(str(tmp_path / "s"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_user_whom_root_gave_the_place_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run" / "s"
    path.parent.mkdir()
    path.touch()
    for place in (path.parent, path):
        os.chown(place, 4321, 4321)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    tmp_path.chmod(0o755)
    check_owner(str(path))
    tmp_path.chmod(0o775)  # now its group could have made the directory
    with pytest.raises(ConfigError, match="belongs to user 4321"):
        check_owner(str(path))
    tmp_path.chmod(0o755)
    os.chown(path, 5678, 5678)
    with pytest.raises(ConfigError, match="belongs to user 5678"):
        check_owner(str(path))


def test_who_may_speak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert may_speak(Peer(9, 1000, 1), (), None)
    assert may_speak(Peer(9, 0, 0), (), None)
    assert not may_speak(Peer(9, 1001, 60), (60,), None)
    assert may_speak(Peer(9, 1001, 60), (), 60)
    assert may_speak(Peer(1, 1001, 60), (70,), 70)
    assert not may_speak(Peer(2, 1001, 60), (), 70)


def test_kernel_tells_the_groups_of_the_other_end() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        assert set(control_socket.groups_of(ours)) == set(os.getgroups())


async def test_passed_socket_is_answered_and_left_in_place(node: FakeNode, tmp_path: Path) -> None:
    path = str(tmp_path / "passed.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as passed:
        passed.bind(path)
        passed.listen()
        node.sockets = PassedSockets([("control", passed)])
        async with serving(node, str(tmp_path / "unused.sock")), talking(path) as client:
            assert (await client.ask("GET", "/edge/v1/node"))[0] == 200
            assert not (tmp_path / "unused.sock").exists()
        assert os.path.exists(path)  # noqa: ASYNC240


def test_attach_setting_names_a_group() -> None:
    assert group_id("none") is None
    assert group_id("same-user") is None
    assert group_id("group:0") == 0
    with pytest.raises(ConfigError, match="expected none, same-user or group:<name>"):
        group_id("everybody")
    with pytest.raises(ConfigError, match="there is no group 'no-such-group'"):
        group_id("group:no-such-group")


def test_usual_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_path({"XDG_RUNTIME_DIR": "/x"}) == "/run/edge-runtime/control.sock"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert default_path({"XDG_RUNTIME_DIR": "/x"}) == "/x/edge-runtime/control.sock"
    assert default_path({}) == "/tmp/edge-runtime-1000/control.sock"
    assert default_path({"EDGE_RUNTIME_CONTROL_SOCKET": "/s"}) == "/s"
    assert run_directory({"EDGE_RUNTIME_RUN_DIR": "/r"}) == "/r"
