"""What a link remembers in files: whole or not at all, whatever happens to them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_runtime.model.errors import StoreUnavailable
from edge_runtime.sync.link_files import DayFile, PauseMark


def test_a_day_file_outlives_what_happens_to_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    now = [1000.0]
    path = tmp_path / "links" / "cloud.json"
    day = DayFile(str(path), lambda: now[0])
    assert day.load() == (0, 0.0)
    day.save(500, 100.0)
    now[0] += 60
    assert day.load() == (500, 160.0)
    now[0] = 0.0  # a clock without a battery
    assert day.load() == (500, 0.0)
    whole = path.read_text()
    for text in ("", "{}", '{"spent": "x"}', "[]", whole.replace("500", "501")):
        path.write_text(text)
        caplog.clear()
        assert day.load() == (0, 0.0)
        assert f"{path}: is damaged, so the link's day begins anew" in caplog.text
    path.write_text('{"spent": 500, "began": 0}')  # as it was written before it had a checksum
    assert day.load() == (500, 0.0)
    path.unlink()
    path.parent.rmdir()
    path.parent.write_text("")
    day.save(1, 0.0)  # is a warning only


async def test_a_pause_is_marked_as_often_as_one_likes(tmp_path: Path) -> None:
    mark, other = (PauseMark(str(tmp_path), name) for name in ("cloud", "other"))
    assert not mark.is_set()
    for paused in (True, True, False, False):
        await mark.set(paused)
        assert mark.is_set() == paused
        assert not other.is_set()


async def test_a_pause_that_cannot_be_marked_is_none(tmp_path: Path) -> None:
    (tmp_path / "links").write_text("")
    with pytest.raises(StoreUnavailable, match=r"cloud\.paused: cannot be changed: "):
        await PauseMark(str(tmp_path), "cloud").set(True)
    assert not PauseMark(str(tmp_path), "cloud").is_set()


def test_a_day_is_flushed_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)

        def call(*args: object, name: str = name, real: Callable[..., object] = real) -> object:
            calls.append(name)
            return real(*args)

        monkeypatch.setattr(os, name, call)
    DayFile(str(tmp_path / "links" / "cloud.json"), lambda: 0.0).save(5, 0.0)
    assert calls[:2] == ["fsync", "replace"]
    assert "fsync" in calls[2:], "the name is flushed too"
