"""The rooms of the house: each has its place among the layers, and nobody leaves work undone in them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "edge_runtime"
# What tools/protos writes opens as its compiler has it.
GENERATED = ("_pb2.py", "_grpc.py")
SOURCES = sorted(
    path for path in PACKAGE.rglob("*.py") if not (PACKAGE / "proto" in path.parents and path.name.endswith(GENERATED))
)


def layers() -> set[str]:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (rows,) = [contract["layers"] for contract in contracts if contract["id"] == "layers"]
    return {room.strip(" ()") for row in rows for room in row.split("|")}


def test_every_room_has_its_place() -> None:
    rooms = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert rooms - {"__init__"} == layers()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_module_says_what_it_is(path: Path) -> None:
    text = path.read_text()
    assert not text.strip() or text.startswith('"""'), "a module opens with one sentence of what it is"
    assert not re.search(r"\b(TODO|FIXME|XXX)\b", text)
    assert "import asyncio" not in text


def test_sqlite_lives_in_store() -> None:
    users = {
        path.relative_to(PACKAGE).parts[0] for path in SOURCES if re.search(r"^import sqlite3", path.read_text(), re.M)
    }
    assert users == {"store"}
