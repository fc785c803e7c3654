"""What a load says of itself, a line at a time, and what may therefore be found afterwards.

A line is `<thing> <key> <verb> <number>`. Each key has one writer, which counts up: `try` before it writes, then `ok`
when it was acknowledged or `no` when it was refused. `gone` says that an entry may have left, `found` is what a check
has seen, from which a register goes on. Other verbs are the thing's own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import Final, NamedTuple

import trio

from edge_runtime.model.errors import DriverError

Say = Callable[[str], None]
NOTHING: Final = 0  # the number of what was never written


class Lost(AssertionError):
    """Something acknowledged is not there, or something is there that nobody wrote."""


class Account:
    """The lines of one key."""

    __slots__ = ("kept", "last", "open", "refused", "said")

    def __init__(self) -> None:
        self.last = NOTHING
        self.kept: set[int] = set()
        self.open: set[int] = set()
        self.refused: set[int] = set()
        self.said: defaultdict[str, set[int]] = defaultdict(set)

    def take(self, verb: str, number: int) -> None:
        if verb == "try":
            self.open.add(number)
        elif verb == "ok":
            self.open.discard(number)
            self.kept.add(number)
            self.last = number
        elif verb == "no":
            self.open.discard(number)
            self.refused.add(number)
        elif verb == "found":
            self.open.clear()
            self.last = number
        else:
            self.said[verb].add(number)

    @property
    def possible(self) -> set[int]:
        """What a register may hold."""
        return {self.last} | self.open


class Ledger:
    """All lines so far."""

    def __init__(self, lines: Iterable[str] = ()) -> None:
        self.accounts: defaultdict[tuple[str, str], Account] = defaultdict(Account)
        for line in lines:
            self.take(line)

    def take(self, line: str) -> None:
        thing, key, verb, number = line.split()
        self.accounts[thing, key].take(verb, int(number))

    def of(self, thing: str, key: str) -> Account:
        return self.accounts[thing, key]

    def keys(self, thing: str) -> list[str]:
        return sorted(key for of, key in self.accounts if of == thing)

    @property
    def acknowledged(self) -> int:
        return sum(len(account.kept) for account in self.accounts.values())


class Book(NamedTuple):
    """One thing's lines: how it says them, and how it checks what it finds. Without `say` it only looks."""

    thing: str
    ledger: Ledger
    say: Say | None

    def note(self, key: str, verb: str, number: int) -> None:
        if self.say is None:
            return
        line = f"{self.thing} {key} {verb} {number}"
        self.ledger.take(line)
        self.say(line)

    async def attempt(self, key: str, number: int, write: Callable[[], Awaitable[object]]) -> bool:
        """Whether it was acknowledged."""
        self.note(key, "try", number)
        try:
            await write()
        except DriverError as error:
            if "not known" not in str(error):
                self.note(key, "no", number)
            await trio.sleep(0.001)
            return False
        self.note(key, "ok", number)
        return True

    def check_register(self, key: str, found: int) -> None:
        account = self.ledger.of(self.thing, key)
        if found not in account.possible:
            raise Lost(f"{self.thing} {key} holds {found}, expected one of {sorted(account.possible)}")
        self.note(key, "found", found)

    def check_entries(self, key: str, found: Collection[int]) -> None:
        """Those that are there, in their order."""
        account = self.ledger.of(self.thing, key)
        there = set(found)
        if lost := account.kept - account.said["gone"] - there:
            raise Lost(f"{self.thing} {key} lost {sorted(lost)[:5]}, {len(lost)} in all; found {sorted(there)[-5:]}")
        if invented := there - account.kept - account.open:
            raise Lost(f"{self.thing} {key} has {sorted(invented)[:5]}, which nobody was told is kept")
        if list(found) != sorted(there):
            raise Lost(f"{self.thing} {key} is out of order or holds repeats")
