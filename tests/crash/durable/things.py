"""The registry of what a node keeps on its disk: how each is put under load, and what must hold after any crash.

A new durable thing is a new entry here. `modules` are those that make its tables, `tables` and `files` what it has on
the disk, as patterns; a test holds that nothing on the disk and no table of the product is without an entry.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from importlib import import_module
from typing import Final, NamedTuple, Protocol

from edge_runtime.store.database import Databases
from edge_runtime.sync.forward import Outbox
from tests.crash.durable.ledger import Book, Ledger, Say


class Node(NamedTuple):
    """The files that things share, opened as the product opens them. `pragmas` is for controls alone."""

    folder: str
    databases: Databases
    outbox: Outbox
    pragmas: str = ""

    @property
    def node_file(self) -> str:
        return f"{self.folder}/node.db"

    @property
    def state_file(self) -> str:
        return f"{self.folder}/state.db"


class Turns(NamedTuple):
    """The numbers that writers count through in one life."""

    first: int
    most: int = 1_000_000

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.first, self.first + self.most))


class Thing(Protocol):
    """`load` writes until its turns are over, `check` looks without a load. Each opens what it needs itself."""

    modules: Sequence[str]
    tables: Sequence[str]
    files: Sequence[str]

    async def load(self, node: Node, book: Book, turns: Turns) -> None: ...
    async def check(self, node: Node, book: Book) -> None: ...


THINGS: Final[Mapping[str, str]] = {
    "state": "tests.crash.durable.state:State",
    "routed": "tests.crash.durable.routed:Routed",
    "configuration": "tests.crash.durable.configuration:Configuration",
    "mirror": "tests.crash.durable.configuration:Mirror",
    "topics": "tests.crash.durable.topics:Topics",
    "outbox": "tests.crash.durable.queues:Queue",
    "calls": "tests.crash.durable.queues:Calls",
    "secrets": "tests.crash.durable.secrets:Secrets",
    "pauses": "tests.crash.durable.links:Pauses",
    "days": "tests.crash.durable.links:Days",
    "identity": "tests.crash.durable.links:Identity",
}
# The product's own machinery: the record of migrations, what SQLite makes, and the bells of followers, which are empty.
SHARED_TABLES: Final = ("edge_migrations", "sqlite_sequence", "sqlite_stat.*")
SHARED_MODULES: Final = ("store/migrations.py",)
SHARED_FILES: Final = (r"(node|state)\.db(-wal|-shm|-journal)?", r".*-(log|outbox|configuration)(/.*)?", "links")


def things() -> dict[str, Thing]:
    """An instance of each."""
    found = {}
    for name, where in THINGS.items():
        module, _, kind = where.partition(":")
        found[name] = getattr(import_module(module), kind)()
    return found


def books(ledger: Ledger, say: Say | None) -> dict[str, Book]:
    return {name: Book(name, ledger, say) for name in THINGS}


def claims(patterns: Sequence[str], name: str) -> bool:
    return any(map(partial(_matches, name), patterns))


def _matches(name: str, pattern: str) -> bool:
    return re.fullmatch(pattern, name) is not None
