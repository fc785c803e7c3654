"""`edge-runtime sync`: from the node's files, and through the sidecar, which is a list of answers here."""

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
from edge_runtime.sync.link_files import DayFile, PauseMark
from tests.outboxes import OtherEnd, open_world

INSTANCE = Instance("shop", 3500, 50001, 80, True, 0.0, 10, {})
LINK: dict[str, Any] = {
    "link": "cloud",
    "state": "down",
    "reason": "no way",
    "sinceSeconds": 90.0,
    "lastContactSeconds": 3600.0,
    "budget": {"dayLeftBytes": 77},
    "routes": [
        {
            "route": "topicsUp",
            "name": "pubsub/orders",
            "to": "kafka/orders",
            "entries": 3,
            "bytes": 99,
            "oldestAgeSeconds": 60,
            "deadLetters": 1,
            "dropped": {"full": {"entries": 5, "bytes": 50}},
            "lastError": "",
        },
        {"route": "state", "name": "orders/*", "pending": 4, "refused": 0, "ageSeconds": 2.125, "lastError": "busy"},
    ],
}


async def write_files(folder: Path) -> None:
    async with open_world(folder) as world, world.route(OtherEnd(), "link/cloud/pubsub/orders") as route:
        await route.append("k", b"1")
    DayFile(str(folder / "links" / "cloud.json"), lambda: 1000.0).save(5, 0.0)
    await PauseMark(str(folder), "other").set(True)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state directory of a node that does not run."""
    monkeypatch.setenv("EDGE_RUNTIME_STATE_DIR", str(tmp_path))
    monkeypatch.setattr(config, "running_nodes", lambda environment: iter(()))
    monkeypatch.setattr(asking, "find_instance", lambda app_id, environment: None)
    trio.run(write_files, tmp_path)
    return tmp_path


def test_files_tell_when_nothing_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sync", "status", "--json"]) == 0
    cloud, other = json.loads(capsys.readouterr().out)
    assert (cloud["link"], cloud["state"], cloud["routes"][0]["entries"]) == ("cloud", "unknown", 1)
    assert cloud["budget"]["daySpentBytes"] == 5
    assert (other["link"], other["state"], other["routes"]) == ("other", "paused", [])
    assert main(["sync", "status", "cloud", "-a", "shop"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[1].split()[:2] == ["cloud", "unknown"]
    assert shown[4].split()[:4] == ["cloud", "outbox", "pubsub/orders", "1"]
    assert main(["sync", "dry-run"]) == 0
    assert "cloud is unknown" in capsys.readouterr().out


def test_what_is_missing_is_told(
    folder: Path, capsys: pytest.CaptureFixture[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    for words, text in (
        (("status", "cluod"), "cloud link 'cluod' has left nothing in"),
        (("status", "--state-dir", str(folder / "none")), "there is no such directory"),
        (("pause", "cloud", "-a", "shop"), "app ID shop not found; start it first"),
    ):
        assert main(["sync", *words]) == 1
        assert text in capsys.readouterr().err
    assert main(["sync", "status", "--state-dir", str(tmp_path_factory.mktemp("empty"))]) == 0
    assert capsys.readouterr().out.startswith("No cloud links found. A file with a mistake is left out")


WRONG = [
    (("statsu",), 'unknown command "statsu" for "edge-runtime sync"'),
    (("status", "a", "b"), "sync status: expected"),
    (("pause", "cloud"), 'required flag(s) "app-id" not set'),
    (("now", "-a", "shop"), "sync now: expected a link, or --all"),
    (("now", "x", "--all", "-a", "shop"), "sync now: expected a link, or --all"),
    (("pause", "x", "-a", "shop", "--outside-window"), "--outside-window: expected with `now` only"),
]


@pytest.mark.parametrize(("words", "text"), WRONG, ids=[" ".join(row[0])[:30] for row in WRONG])
def test_unclear_commands_are_told(capsys: pytest.CaptureFixture[str], words: Sequence[str], text: str) -> None:
    assert main(["sync", *words]) == 255
    assert text in capsys.readouterr().err


class Sidecar:
    """Answers by target, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.answers: dict[str, Answer] = {}

    def request(self, method: str, address: Address, target: str, body: bytes = b"", headers: Any = ()) -> Answer:
        self.asked.append((method, target))
        return self.answers.get(target, Answer(200, "OK", json.dumps(LINK).encode()))


@pytest.fixture
def sidecar(monkeypatch: pytest.MonkeyPatch) -> Sidecar:
    found = Sidecar()
    found.answers["/edge/v1/sync"] = Answer(200, "OK", json.dumps({"links": [LINK]}).encode())
    monkeypatch.setattr(asking, "find_instance", lambda app_id, environment: INSTANCE)
    monkeypatch.setattr(asking, "request", found.request)
    return found


def test_links_and_routes_are_tables(sidecar: Sidecar, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sync", "status", "-a", "shop"]) == 0
    links, row, _, _, up, state = capsys.readouterr().out.splitlines()
    heads = ["LINK", "STATE", "SINCE", "LAST", "CONTACT", "WAITS", "BYTES", "KEYS", "DEAD", "LEFT", "TODAY", "REASON"]
    assert links.split() == heads
    assert row.split()[:2] == ["cloud", "down"]
    assert row.split()[-7:] == ["3", "99", "4", "1", "77", "no", "way"]
    assert "full: 5" in up
    assert up.endswith("to=kafka/orders")
    assert state.split()[-3:] == ["pending=4", "ageSeconds=2", "busy"]
    assert sidecar.asked == [("GET", "/edge/v1/sync")]


def test_a_dry_run_names_steps(sidecar: Sidecar, capsys: pytest.CaptureFixture[str]) -> None:
    state = {
        "route": "state",
        "name": "orders/*",
        "pending": 1,
        "steps": [{"key": "orders/1", "action": "save", "outcome": ""}],
    }
    found = {"entries": 3, "bytesEstimated": 999, "secondsEstimated": 90.0, "daysEstimated": 2, "routes": [state]}
    sidecar.answers["/edge/v1/sync/cloud/dry-run"] = Answer(200, "OK", json.dumps(LINK | found).encode())
    assert main(["sync", "dry-run", "-a", "shop"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith("cloud is down; 3 entries, about 999 bytes; 1 keys of state; ")
    assert shown[0].endswith("at the budget's rate; 2 more days of budget")
    assert shown[-1] == "cloud  orders/*  orders/1 save"


def test_links_are_steered(sidecar: Sidecar, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sync", "pause", "a/b", "-a", "shop"]) == 0
    assert "cloud link cloud is down: no way" in capsys.readouterr().out
    assert main(["sync", "resume", "--all", "-a", "shop", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [LINK]
    assert main(["sync", "now", "cloud", "--outside-window", "-a", "shop"]) == 0
    assert sidecar.asked == [
        ("POST", "/edge/v1/sync/a%2Fb/pause"),
        ("GET", "/edge/v1/sync"),
        ("POST", "/edge/v1/sync/cloud/resume"),
        ("POST", "/edge/v1/sync/cloud/now?outsideWindow=true"),
    ]


def test_refusals_are_passed_on(sidecar: Sidecar, capsys: pytest.CaptureFixture[str]) -> None:
    sidecar.answers["/edge/v1/sync/x"] = Answer(404, "Not Found", b'{"errorCode":"E","message":"it is not found"}')
    assert main(["sync", "status", "x", "-a", "shop", "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == {"error": "it is not found"}
