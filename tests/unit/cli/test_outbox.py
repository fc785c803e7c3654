"""`edge-runtime outbox`: from the node's file, and through the sidecar, which is a list of answers here."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from edge_runtime.__main__ import main
from edge_runtime.cli import asking, config
from edge_runtime.cli.http import Address, Answer, Refused, Unreachable, download
from edge_runtime.cli.instances import Instance
from edge_runtime.model.errors import BadMetadata
from tests.brokers import until
from tests.outboxes import OtherEnd, open_world

NAME = "pubsub.mqtt3/shop/broker"


async def write_file(folder: Path) -> None:
    """A route of each kind; of the first, one entry is dead and one was dropped."""
    end = OtherEnd()
    end.failures = {b"0": [BadMetadata("no such topic")]}
    async with open_world(folder) as world:
        for name in ("link/cloud/pubsub/a", "pubsub.mqtt3/other/broker"):
            async with world.route(OtherEnd(), name) as route:
                await route.append("k", b"far")
        async with world.route(end, NAME) as route:
            await route.append("a", b"0")
            route.up()
            await until(lambda: world.outbox.dead_letters(NAME))
            route.down("gone")
            for payload in (b"1", b"2", b"3"):
                await route.append("b", payload)
            await world.outbox.drop(NAME, [world.outbox.entries(NAME)[1].id])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state directory of a node that does not run, with an outbox."""
    monkeypatch.setenv("EDGE_RUNTIME_STATE_DIR", str(tmp_path))
    monkeypatch.setattr(config, "running_nodes", lambda environment: iter(()))
    monkeypatch.setattr(asking, "find_instance", lambda app_id, environment: None)
    trio.run(write_file, tmp_path)
    return tmp_path


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert main(["outbox", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


# --- the file ---------------------------------------------------------------------------------------------------------


def test_the_file_tells_when_nothing_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (folder / "node.db-run").read_bytes()
    routes = {route["route"]: route for route in shown(capsys, "list")}
    assert list(routes) == ["link/cloud/pubsub/a", "pubsub.mqtt3/other/broker", NAME]
    route = routes[NAME]
    assert (route["link"], route["entries"], route["deadLetters"]) == ("unknown", 2, 1)
    assert route["dropped"]["discarded"]["entries"] == 1
    assert [one["route"] for one in shown(capsys, "list", "-a", "shop")] == ["link/cloud/pubsub/a", NAME]
    assert (folder / "node.db-run").read_bytes() == before


def test_entries_are_shown_in_a_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["outbox", "show", NAME, "--limit", "1"]) == 0
    head, row, more = capsys.readouterr().out.splitlines()
    assert head.split() == ["ENTRY", "KEY", "SIZE", "AGE", "ATTEMPTS"]
    assert row.split()[1] == "b"
    assert more.endswith(f"There is more: --after {row.split()[0]}")
    assert main(["outbox", "show", NAME, "--dead"]) == 0
    assert "no such topic" in capsys.readouterr().out
    assert main(["outbox", "show", NAME, "--dropped"]) == 0
    assert "discarded" in capsys.readouterr().out
    assert main(["outbox", "show", NAME, "--payload"]) == 0
    assert [json.loads(line)["payload"] for line in capsys.readouterr().out.splitlines()] == ["1", "3"]
    assert main(["outbox", "list"]) == 0
    assert "discarded: 1" in capsys.readouterr().out


def test_nothing_is_said_in_words(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = "pubsub.mqtt3/other/broker"
    last = shown(capsys, "show", other)["entries"][0]["sequence"]
    for words, text in (
        (("show", other, "--after", str(last)), "Nothing waits.\n"),
        (("show", other, "--dead"), "No dead letters.\n"),
        (("show", other, "--dropped"), "Nothing was dropped.\n"),
    ):
        assert main(["outbox", *words]) == 0
        assert capsys.readouterr().out == text


@pytest.mark.parametrize(("flags", "expected"), [((), ["1", "3"]), (("--dead",), ["0"])])
def test_the_file_is_exported(
    folder: Path, capsysbinary: pytest.CaptureFixture[bytes], flags: Sequence[str], expected: Sequence[str]
) -> None:
    assert main(["outbox", "export", NAME, *flags]) == 0
    lines = [json.loads(line) for line in capsysbinary.readouterr().out.splitlines()]
    assert [(line["route"], line["payload"]) for line in lines] == [(NAME, payload) for payload in expected]


def test_what_is_missing_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, text in (
        (("show", "no/such/route"), "outbox route 'no/such/route' is not found; there is link/"),
        (("export", "pubsub.mqtt3/other/broker", "-a", "shop"), "is not found"),
        (("list", "--state-dir", str(folder / "none")), "there is no file"),
        (("drop", NAME, "1", "-a", "shop"), "app ID shop not found; start it first"),
    ):
        assert main(["outbox", *words]) == 1
        assert text in capsys.readouterr().err


WRONG = [
    (("lst",), 'unknown command "lst" for "edge-runtime outbox"'),
    (("show",), "outbox show: expected"),
    (("drop", NAME, "1"), 'required flag(s) "app-id" not set'),
    (("drop", NAME, "-a", "shop"), "outbox drop: expected entries of the route, or --all"),
    (("retry", NAME, "1", "--all", "-a", "shop"), "outbox retry: expected entries of the route, or --all"),
    (("drop", NAME, "x", "-a", "shop"), "'x' is no entry"),
    (("show", NAME, "--limit", "0"), "--limit 0: expected a number from 1 to 1000"),
    (("show", NAME, "--dead", "--dropped"), "expected one of the two"),
]


@pytest.mark.parametrize(("words", "text"), WRONG, ids=[" ".join(row[0])[:30] for row in WRONG])
def test_unclear_commands_are_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: Sequence[str], text: str
) -> None:
    monkeypatch.setattr(asking, "find_instance", lambda app_id, environment: INSTANCE)
    assert main(["outbox", *words]) == 255
    assert text in capsys.readouterr().err


# --- the sidecar ------------------------------------------------------------------------------------------------------

INSTANCE = Instance("shop", 3500, 50001, 80, True, 0.0, 10, {})


class Sidecar:
    """Answers everything alike, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, bytes]] = []
        self.answer = Answer(200, "OK", b"{}")

    def request(self, method: str, address: Address, target: str, body: bytes = b"", headers: Any = ()) -> Answer:
        self.asked.append((method, target, body))
        return self.answer


@pytest.fixture
def sidecar(monkeypatch: pytest.MonkeyPatch) -> Sidecar:
    found = Sidecar()
    monkeypatch.setattr(asking, "find_instance", lambda app_id, environment: INSTANCE)
    monkeypatch.setattr(asking, "request", found.request)
    return found


def test_changes_go_to_the_sidecar(sidecar: Sidecar, capsys: pytest.CaptureFixture[str]) -> None:
    sidecar.answer = Answer(200, "OK", b'{"dropped":2}')
    assert main(["outbox", "drop", NAME, "node-5-77", "78", "-a", "shop"]) == 0
    assert "2 entries dropped" in capsys.readouterr().out
    sidecar.answer = Answer(200, "OK", b'{"retried":1}')
    assert main(["outbox", "retry", NAME, "--all", "-a", "shop"]) == 0
    assert "1 entry retried" in capsys.readouterr().out
    place = "/edge/v1/outbox/pubsub.mqtt3%2Fshop%2Fbroker"
    assert [(method, target, json.loads(body)) for method, target, body in sidecar.asked] == [
        ("POST", f"{place}/drop", {"sequences": [77, 78]}),
        ("POST", f"{place}/retry", {"all": True}),
    ]


def test_nothing_changed_is_a_failure(sidecar: Sidecar, capsys: pytest.CaptureFixture[str]) -> None:
    sidecar.answer = Answer(200, "OK", b'{"retried":0}')
    assert main(["outbox", "retry", NAME, "77", "-a", "shop"]) == 1
    assert "nothing of that can be retried" in capsys.readouterr().err
    assert main(["outbox", "retry", NAME, "--all", "-a", "shop"]) == 0
    assert "0 entries retried" in capsys.readouterr().out


def test_refusals_are_passed_on(sidecar: Sidecar, capsys: pytest.CaptureFixture[str]) -> None:
    for answer, text in (
        (Answer(404, "Not Found", b'{"errorCode":"ERR","message":"is not found"}'), "is not found"),
        (Answer(401, "Unauthorized", b"invalid api token\n"), "401 Unauthorized (set DAPR_API_TOKEN"),
    ):
        sidecar.answer = answer
        assert main(["outbox", "show", NAME, "-a", "shop", "--json"]) == 1
        assert json.loads(capsys.readouterr().out)["error"].startswith(text)
    assert sidecar.asked[0][1].endswith("/entries?after=0&limit=100&payload=false")


# --- a long answer ----------------------------------------------------------------------------------------------------


def serve(answer: bytes) -> Address:
    """One answer to one request, then the end of the connection."""
    listener = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        with listener, listener.accept()[0] as connection:
            connection.recv(65536)
            connection.sendall(answer)

    threading.Thread(target=run, daemon=True).start()
    return Address(listener.getsockname()[1])


CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n"


def test_a_long_answer_comes_in_pieces() -> None:
    address = serve(CHUNKED + b"3\r\ntwo\r\n0\r\n\r\n")
    assert b"".join(download(address, "/")) == b"onetwo"


def test_a_broken_off_answer_is_told() -> None:
    pieces = download(serve(CHUNKED), "/")
    assert next(pieces) == b"one"
    with pytest.raises(Unreachable, match="no HTTP"):
        next(pieces)


def test_another_answer_is_refused() -> None:
    with pytest.raises(Refused) as refused:
        list(download(serve(b"HTTP/1.1 404 Not Found\r\ncontent-length: 4\r\n\r\ngone"), "/"))
    assert refused.value.answer == Answer(404, "Not Found", b"gone")
