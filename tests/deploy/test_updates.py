"""Two slots: what is not well is taken back, and a power cut at any step leaves a node that starts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.update_root import Clock, UpdateRoot, load_updater

pytestmark = pytest.mark.slow


@pytest.fixture
def system(tmp_path: Path) -> Iterator[UpdateRoot]:
    system = UpdateRoot(tmp_path)
    system.unpack("1.0")
    try:
        yield system
    finally:
        system.stop()


def test_first_version_is_put_into_service(system: UpdateRoot) -> None:
    assert system.update("activate").returncode == 0
    assert system.answering() == "1.0"
    assert system.status()["slots"] == ["1.0"]


def test_good_update_keeps_the_old_slot(system: UpdateRoot) -> None:
    system.update("activate")
    for version in ("1.1", "1.2"):
        system.unpack(version)
        assert system.update("activate").returncode == 0
    assert system.answering() == "1.2"
    status = system.status()
    assert (status["current"], status["slots"], status["pending"]) == ("1.2", ["1.1", "1.2"], None)


def activate(system: UpdateRoot, monkeypatch: pytest.MonkeyPatch, again: bool = False) -> int:
    """`edge-runtime-update activate` in this process, with a clock that does not keep us waiting."""
    for name, value in system.environment.items():
        monkeypatch.setenv(name, value)
    updater = load_updater()
    places = updater.read_places()
    monkeypatch.setattr(sys.modules["service"], "time", Clock(system))
    return int(updater.activate(places, updater.Service(places.control_socket, 1.0, 0.0), again=again))


@pytest.mark.parametrize("kind", ["unstartable", "crashing", "mute"])
def test_unwell_update_is_taken_back(
    system: UpdateRoot, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], kind: str
) -> None:
    activate(system, monkeypatch)
    system.unpack("1.1", kind)
    assert activate(system, monkeypatch) == 1
    assert "1.0 runs" in capfd.readouterr().err
    assert system.answering() == "1.0"
    status = system.status()
    assert (status["current"], status["pending"], status["last"]["outcome"]) == ("1.0", None, "returned")


def test_given_up_version_is_not_tried_unasked(
    system: UpdateRoot, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    activate(system, monkeypatch)
    system.unpack("1.1", "mute")
    assert activate(system, monkeypatch) == 1
    assert activate(system, monkeypatch) == 0
    assert "was given up before" in capfd.readouterr().err
    assert activate(system, monkeypatch, again=True) == 1


def test_return_goes_back_by_hand(system: UpdateRoot) -> None:
    system.update("activate")
    system.unpack("1.1")
    system.update("activate")
    assert system.update("return").returncode == 0
    assert system.answering() == "1.0"


def test_disabled_service_stays_down(system: UpdateRoot) -> None:
    (system.root / "disabled").touch()
    assert system.update("activate").returncode == 0
    assert system.answering() == ""
    assert system.status()["current"] == "1.0"


def test_damaged_slot_is_mended(system: UpdateRoot) -> None:
    system.update("activate")
    program = system.root / "opt/edge-runtime/slots/1.0/bin/edge-runtime"
    program.unlink()
    program.write_text("nonsense")
    assert system.update("activate").returncode == 0
    assert system.answering() == "1.0"


class PowerCut(BaseException):
    """Nothing may catch it, as nothing runs after a power cut."""


class Cutter:
    """Ends the updater before its n-th step that leaves a trace."""

    def __init__(self, at: int) -> None:
        self.left = at

    def around(self, step: Callable[..., Any]) -> Callable[..., Any]:
        def cut_or_do(*args: Any, **keywords: Any) -> Any:
            if self.left == 0:
                raise PowerCut
            self.left -= 1
            return step(*args, **keywords)

        return cut_or_do


STEPS = ("switch", "write_json", "forget", "prune")


def cut_update(system: UpdateRoot, monkeypatch: pytest.MonkeyPatch, kind: str, at: int) -> bool:
    """An update whose n-th step does not come, and the boot after it. False when there are fewer steps."""
    for name, value in system.environment.items():
        monkeypatch.setenv(name, value)
    updater = load_updater()
    places = updater.read_places()
    service = updater.Service(places.control_socket, 1.0, 0.0)
    monkeypatch.setattr(sys.modules["service"], "time", Clock(system))
    updater.activate(places, service, again=False)
    system.unpack("1.1", kind)
    cutter = Cutter(at)
    with monkeypatch.context() as patch:
        for name in STEPS:
            patch.setattr(updater.slots, name, cutter.around(getattr(updater.slots, name)))
        patch.setattr(service, "restart", cutter.around(service.restart))
        try:
            updater.activate(places, service, again=False)
            return False
        except PowerCut:
            pass
    system.stop()
    updater.settle(places)
    system.start()
    updater.resume(places, service)
    return True


@pytest.mark.parametrize(("kind", "outcomes"), [("good", {"1.0", "1.1"}), ("mute", {"1.0"})])
def test_power_cut_at_any_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, outcomes: set[str]) -> None:
    at = 0
    while True:
        (tmp_path / str(at)).mkdir()
        system = UpdateRoot(tmp_path / str(at))
        system.unpack("1.0")
        try:
            more = cut_update(system, monkeypatch, kind, at)
            status = system.status()
            assert status["pending"] is None
            assert status["current"] in outcomes, f"cut before step {at}"
            assert system.answering() == status["current"], f"cut before step {at}"
        finally:
            system.stop()
        if not more:
            assert at > 4
            return
        at += 1


def test_version_that_brings_the_machine_down_is_given_up(system: UpdateRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    system.update("activate")
    system.unpack("1.1")
    for name, value in system.environment.items():
        monkeypatch.setenv(name, value)
    updater = load_updater()
    places = updater.read_places()
    updater.slots.make_slot(places)
    updater.slots.write_json(places.pending, {"phase": "trying", "old": "1.0", "new": "1.1", "starts": 0})
    started = []
    for _ in range(3):
        updater.settle(places)
        started.append(updater.slots.current(places))
    assert started == ["1.1", "1.1", "1.0"]
    system.stop()
    system.start()
    assert updater.resume(places, updater.Service(places.control_socket, 3.0, 0.0)) == 1
    assert "went down 2 times" in system.status()["last"]["reason"]
