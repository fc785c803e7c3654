"""`edge-runtime conflicts`: from the store's file, and through the sidecar, which is a list of answers here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from edge_runtime.__main__ import main
from edge_runtime.cli import asking, config
from edge_runtime.cli.http import Address, Answer
from edge_runtime.cli.instances import Instance
from edge_runtime.model.hlc import Clock
from edge_runtime.model.ports import SetRequest
from edge_runtime.model.sync import Dispute, Keys, Settlement
from edge_runtime.store.connection import location
from edge_runtime.store.database import open_database
from edge_runtime.store.journal import open_journal
from edge_runtime.store.state import StateTable
from edge_runtime.sync.state import Stamps

NOW_S = 1_700_000_000.0


async def write_file(path: Path) -> None:
    """A conflict that nobody has looked at, one that somebody has, and a refused key."""
    async with open_database(location(str(path))) as database:
        table = StateTable(database, now=lambda: NOW_S)
        await table.prepare(cleaned=False)
        stamps = Stamps(Clock("n"), lambda: int(NOW_S * 1000))
        journal = await open_journal(database, table, stamps, lambda: NOW_S)
        journal.add_route("r", Keys(""))
        for key in ("shop||k", "other||k"):
            await table.set(SetRequest(key, b"1"))
            (seen,) = await journal.look("r", [key])
            dispute = Dispute("merge", "merged", None, b'{"a":1}', None, ("local",), ("/a", ""), str(stamps()), None)
            await journal.settle("r", [Settlement(seen, refused="not allowed", dispute=dispute)])
        await journal.inbox.resolve([2])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state directory of a node that does not run."""
    monkeypatch.setenv("EDGE_RUNTIME_STATE_DIR", str(tmp_path))
    monkeypatch.setattr(config, "running_nodes", lambda environment: iter(()))
    monkeypatch.setattr(asking, "find_instance", lambda app_id, environment: None)
    trio.run(write_file, tmp_path / "statestore.db")
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    assert main(["conflicts", *words]) == code
    captured = capsys.readouterr()
    return captured.out + captured.err


def test_the_file_shows_what_is_open(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = json.loads(run(capsys, "list", "--json"))["conflicts"]
    assert (row["id"], row["key"], row["resolved"]) == (1, "shop||k", False)
    assert "shop||k" not in run(capsys, "list", "-a", "shop")
    both = run(capsys, "list", "--resolved")
    assert "shop||k" in both
    assert "other||k" in both
    assert "No conflicts" in run(capsys, "list", "-a", "nobody")
    assert "There is more: --after 1" in run(capsys, "list", "--resolved", "--limit", "1")


def test_one_conflict_is_a_page(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = run(capsys, "show", "1", "-a", "shop")
    for line in (
        "key:      k\n",
        "paths:    /a, the whole value\n",
        'local:    {"a": 1}  (2023-11-14T22:13:20.000+00:00)\n',
        "remote:   removed\n",
        "base:     not known\n",
    ):
        assert line in page
    assert "conflict 2 of 'statestore' is not found" in run(capsys, "show", "2", "-a", "shop", code=1)


def test_refused_keys_are_listed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "not allowed" in run(capsys, "list", "--refused")
    (row,) = json.loads(run(capsys, "list", "--refused", "-a", "shop", "--json"))["refused"]
    assert (row["key"], row["reason"], row["at"]) == ("k", "not allowed", "2023-11-14T22:13:20.000+00:00")


def test_without_a_file_and_an_app_there_is_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "there is no file" in run(capsys, "list", "--store", "redis", code=1)
    assert "start it first" in run(capsys, "resolve", "-a", "shop", "--all", code=1)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("lst",), 'unknown command "lst"'),
        (("list", "x"), "conflicts list: expected"),
        (("show",), "conflicts show: expected"),
        (("show", "x"), "'x' is no conflict"),
        (("list", "--limit", "0"), "--limit 0: expected"),
        (("resolve", "1"), "app-id"),
        (("resolve", "-a", "shop"), "expected conflicts, or --all"),
        (("retry", "-a", "shop", "--all", "k"), "expected keys, or --all"),
        (("resolve", "-a", "shop", "1", "--use", "mine"), "--use: expected one of local, remote, base"),
        (("list", "--use", "local"), "--use: expected one of"),
    ],
)
def test_mistakes_are_told(folder: Path, capsys: pytest.CaptureFixture[str], words: Sequence[str], told: str) -> None:
    assert told in run(capsys, *words, code=255)


class Sidecar:
    """Answers in turn, and keeps what was asked."""

    def __init__(self, *answers: Answer) -> None:
        self.asked: list[tuple[str, str, Any]] = []
        self._answers = list(answers)

    def request(self, method: str, address: Address, target: str, body: bytes, headers: Any) -> Answer:
        self.asked.append((method, target, json.loads(body) if body else None))
        return self._answers.pop(0)


def sidecar(monkeypatch: pytest.MonkeyPatch, *answers: Answer) -> Sidecar:
    fake = Sidecar(*answers)
    instance = Instance("shop", 3500, 50001, 80, True, 0.0, 10, {})
    monkeypatch.setattr(asking, "find_instance", lambda app_id, environment: instance)
    monkeypatch.setattr(asking, "request", fake.request)
    return fake


def ok(document: Any) -> Answer:
    return Answer(200, "OK", json.dumps(document).encode())


def test_the_sidecar_is_asked_when_the_app_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = {"store": "my store", "conflicts": [], "next": None}
    gone = Answer(404, "Not Found", b'{"message": "conflict 7 is not found"}')
    fake = sidecar(monkeypatch, ok(page), ok({"refused": [], "next": None}), gone)
    assert "No conflicts" in run(capsys, "list", "-a", "shop", "-s", "my store", "--after", "3", "--limit", "5")
    assert "Nothing is refused" in run(capsys, "list", "-a", "shop", "--refused", "--after", "a b")
    assert "conflict 7 is not found" in run(capsys, "show", "-a", "shop", "7", code=1)
    assert fake.asked == [
        ("GET", "/edge/v1/conflicts/my%20store?after=3&limit=5&resolved=false", None),
        ("GET", "/edge/v1/conflicts/statestore/refused?after=a+b&limit=100", None),
        ("GET", "/edge/v1/conflicts/statestore/entries/7", None),
    ]


def test_changes_are_made_by_the_sidecar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    fake = sidecar(monkeypatch, ok({"resolved": 2}), ok({"resolved": 0}), ok({"retried": 0}))
    assert "2 conflicts resolved" in run(capsys, "resolve", "-a", "shop", "1", "2", "--use", "remote")
    assert "0 conflicts resolved" in run(capsys, "resolve", "-a", "shop", "--all")
    assert "nothing of that is there to retry" in run(capsys, "retry", "-a", "shop", "orders/1", code=1)
    assert fake.asked == [
        ("POST", "/edge/v1/conflicts/statestore/resolve", {"ids": [1, 2], "use": "remote"}),
        ("POST", "/edge/v1/conflicts/statestore/resolve", {"all": True}),
        ("POST", "/edge/v1/conflicts/statestore/retry", {"keys": ["orders/1"]}),
    ]
