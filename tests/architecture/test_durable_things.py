"""Whatever the node keeps on its disk is in the registry of what the crash tests put under load."""

from __future__ import annotations

import re
from pathlib import Path

from tests.crash.durable.kills import void
from tests.crash.durable.ledger import Ledger
from tests.crash.durable.links import tables_of
from tests.crash.durable.node import DATABASES, load
from tests.crash.durable.things import (
    SHARED_FILES,
    SHARED_MODULES,
    SHARED_TABLES,
    Turns,
    claims,
    things,
)

PRODUCT = Path(__file__).parents[2] / "edge_runtime"


def test_every_module_that_makes_tables_is_under_load() -> None:
    makers = {
        str(path.relative_to(PRODUCT)) for path in PRODUCT.rglob("*.py") if re.search(r"CREATE TABLE", path.read_text())
    }
    covered = {module for thing in things().values() for module in thing.modules} | set(SHARED_MODULES)
    assert makers == covered & makers, "give it an entry in tests/crash/durable/things.py"


def names_in(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in folder.rglob("*")]


async def test_every_table_and_file_is_under_load(tmp_path: Path) -> None:
    await load(str(tmp_path), Ledger(), void, Turns(1, 2))
    tables = [pattern for thing in things().values() for pattern in thing.tables] + list(SHARED_TABLES)
    files = [pattern for thing in things().values() for pattern in thing.files] + list(SHARED_FILES)
    assert [name for file in DATABASES for name in tables_of(str(tmp_path / file)) if not claims(tables, name)] == []
    assert [name for name in names_in(tmp_path) if not claims(files, name)] == []
