"""Slots: whole copies of the program, one of which `current` points to. Every change here is one rename."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from places import Places


def make_slot(places: Places) -> str:
    """Make the slot of the installed package's payload, or mend it; its name is the value."""
    name = (places.payload / "VERSION").read_text().strip()
    slot = places.slots / name
    places.slots.mkdir(parents=True, exist_ok=True)
    for left_behind in places.slots.glob(".*.part"):
        shutil.rmtree(left_behind)
    if slot.exists():
        _mend(places.payload, slot)
    else:
        part = places.slots / f".{name}.part"
        shutil.copytree(places.payload, part, symlinks=True, copy_function=_link)
        _flush_all(part)  # what `current` will point to is on disk before it does
        part.rename(slot)
    _flush(places.slots)
    return name


def _mend(payload: Path, slot: Path) -> None:
    """The same version again, perhaps running: each file takes the place of the old one by a rename."""
    for source in sorted(payload.rglob("*")):
        place = slot / source.relative_to(payload)
        if source.is_dir() and not source.is_symlink():
            place.mkdir(exist_ok=True)
        elif source.is_symlink() or not place.exists() or not os.path.samefile(source, place):
            fresh = place.with_name(place.name + ".new")
            fresh.unlink(missing_ok=True)
            _link(str(source), str(fresh))
            fresh.replace(place)
    _flush_all(slot)


def _link(source: str, place: str) -> None:
    try:
        os.link(source, place, follow_symlinks=False)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, place, follow_symlinks=False)
        if not os.path.islink(place):
            with open(place, "rb") as file:
                os.fsync(file.fileno())


def _flush_all(slot: Path) -> None:
    """Its directories. What the files hold was flushed by dpkg, or when it was copied."""
    for folder, _, _ in os.walk(slot):
        _flush(Path(folder))


def current(places: Places) -> str:
    """The slot that starts; empty for none."""
    try:
        name = Path(os.readlink(places.current)).name
    except OSError:
        return ""
    return name if (places.slots / name / "VERSION").exists() else ""


def switch(places: Places, name: str) -> None:
    """Let `current` point to another slot: before a power cut or after it, never in between."""
    fresh = places.base / ".current.new"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(Path("slots") / name)
    fresh.replace(places.current)
    _flush(places.base)


def prune(places: Places, *kept: str) -> None:
    """Remove all slots but these."""
    for slot in places.slots.iterdir():
        if slot.name not in kept:
            shutil.rmtree(slot)


def listed(places: Places) -> list[str]:
    if not places.slots.is_dir():
        return []
    return sorted(slot.name for slot in places.slots.iterdir() if not slot.name.startswith("."))


def read_json(path: Path) -> dict[str, Any]:
    """What was written last, or nothing. A file that cannot be read as JSON was not written by us: it says nothing."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """On disk whole, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    with fresh.open("w") as file:
        json.dump(value, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    _flush(path.parent)


def forget(path: Path) -> None:
    path.unlink(missing_ok=True)
    _flush(path.parent)


def _flush(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
