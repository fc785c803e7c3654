"""Secrets of remote stores, sealed with the node's key, which is made at first use."""

from __future__ import annotations

from functools import partial

from edge_runtime.security.secret_box import open_secret_box
from edge_runtime.store.sealed_secrets import SealedSecrets, Secret, open_sealed_secrets
from tests.crash.durable.ledger import NOTHING, Book, Lost
from tests.crash.durable.things import Node, Turns


async def open_secrets(node: Node) -> SealedSecrets:
    database = await node.databases.get(node.node_file)
    return await open_sealed_secrets(database, open_secret_box(node.folder, {}))


class Secrets:
    """One secret that changes."""

    modules = ("store/sealed_secrets.py",)
    tables = ("sealed_secret", "sealed_secret_clock")
    files = (r"seal\.key(\.\d+)?",)

    async def load(self, node: Node, book: Book, turns: Turns) -> None:
        secrets = await open_secrets(node)
        for number in turns:
            await book.attempt("login", number, partial(secrets.put, "cloud", {"login": {"n": str(number)}}, {}))
            if number % 5 == 0:
                await secrets.note({"cloud": 1e9})

    async def check(self, node: Node, book: Book) -> None:
        secrets = await open_secrets(node)
        kept, damaged = await secrets.read_all("cloud")
        if damaged:
            raise Lost(f"secrets: {damaged} cannot be opened")
        one = await secrets.read("cloud", Secret("login", {}))
        if len(kept) > 1 or (one is None) != (not kept):
            raise Lost(f"secrets: {len(kept)} are kept, and one asked for by name is {one}")
        book.check_register("login", NOTHING if one is None else int(one.values["n"]))
