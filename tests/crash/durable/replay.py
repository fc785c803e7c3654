"""Power cuts, replayed: what a disk may hold when the current goes, at every flush, opened and held against the ledger.

    python -m tests.crash.durable.replay 20000 [seed]

A process with every durable thing under load writes down what it does to its files, and what it was told is kept, in
one record. The replay walks along it. At a cut everything that was flushed is there. Of what was written since, a part
may be: any subset of the writes and truncations of a file in their order, the last one torn at a sector's boundary; of
what was done to names (files made, renamed, removed), any beginning. A folder is what keeps names: a new file that was
flushed, in a folder that was not, may have no name.

`examine` takes a folder and a ledger, whoever made them: an image of a whole disk can be examined the same way.
"""

from __future__ import annotations

import logging
import os
import random
import shutil
import struct
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import trio

from tests.crash.durable.kills import scratch
from tests.crash.durable.ledger import Ledger
from tests.crash.durable.node import check

HERE: Final = Path(__file__).parent
SECTORS: Final = (512, 4096)
STATES_A_RECORD: Final = 400
TURNS: Final = 12
_HEAD: Final = struct.Struct("=IIQQ")
_IS_FOLDER: Final = 0x80000000


class Entry(NamedTuple):
    """One line of the record; `place` is where it stands."""

    place: int
    kind: str
    file: int
    offset: int
    data: bytes


def compile_recorder(place: Path) -> Path:
    library = place / "recorder.so"
    command = ["gcc", "-shared", "-fPIC", "-O1", "-o", str(library), str(HERE / "recorder.c"), "-ldl"]
    subprocess.run(command, check=True)
    return library


def record(library: Path, place: Path, seed: int, pragmas: str = "") -> list[Entry]:
    """A load from an empty folder to its end, in a process of its own."""
    folder, record_file = place / "recorded", place / "record"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    arguments = [str(folder), str(record_file), str(seed), pragmas]
    environment = {**os.environ, "LD_PRELOAD": str(library)}
    command = [sys.executable, "-m", "tests.crash.durable.recorded", *arguments]
    done = subprocess.run(command, cwd=HERE.parents[2], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(f"the load failed:\n{done.stderr[-4000:]}")
    return list(read_record(record_file.read_bytes()))


def read_record(record: bytes) -> Iterator[Entry]:
    at = 0
    while at < len(record):
        kind, file, offset, length = _HEAD.unpack_from(record, at)
        start = at + _HEAD.size
        yield Entry(at, chr(kind), file, offset, record[start : start + length])
        at = start + length


Names = dict[str, int]


class Disk:
    """What is on the disk for certain, and what may be."""

    def __init__(self, *, lies: bool = False) -> None:
        self.contents: defaultdict[int, bytearray] = defaultdict(bytearray)
        self.names: Names = {}
        self.pending: defaultdict[int, list[Entry]] = defaultdict(list)
        self.pending_names: list[Entry] = []
        self.ledger = Ledger()
        self._folders: dict[int, str] = {}
        self._lies = lies

    def take(self, entry: Entry) -> None:
        if entry.kind == "s":
            self.ledger.take(entry.data.decode())
        elif entry.kind in "wt":
            self.pending[entry.file].append(entry)
        elif entry.kind == "d" and entry.file & _IS_FOLDER:
            self._folders[entry.file] = entry.data.decode()
        elif entry.kind == "f":
            if not self._lies:
                self._flush(entry)
        else:
            self.pending_names.append(entry)

    def _flush(self, entry: Entry) -> None:
        """What was done before it began."""
        if entry.file & _IS_FOLDER:
            folder = self._folders[entry.file]
            rest = []
            for change in self.pending_names:
                if change.place < entry.offset and os.path.dirname(change.data.decode().split("\n")[-1]) == folder:
                    apply_name(self.names, change)
                else:
                    rest.append(change)
            self.pending_names = rest
            return
        pending = self.pending[entry.file]
        for write in pending:
            if write.place < entry.offset:
                apply(self.contents[entry.file], write)
        self.pending[entry.file] = [write for write in pending if write.place >= entry.offset]

    def leave(self, folder: Path, choose: Choice) -> None:
        """Write down what a cut now may leave."""
        names = dict(self.names)
        for change in choose.beginning(self.pending_names):
            apply_name(names, change)
        for name, file in sorted(names.items()):
            parent = os.path.dirname(name)
            if file == 0:
                (folder / name).mkdir(exist_ok=True)
            elif (not parent or names.get(parent) == 0) and not name.endswith("-shm"):
                content = self.contents[file]
                if writes := choose.some(self.pending[file]):
                    content = content[:]
                    for write in writes:
                        apply(content, write)
                (folder / name).write_bytes(content)
                (folder / name).chmod(0o600)


def apply(content: bytearray, write: Entry) -> None:
    size = write.offset if write.kind == "t" else write.offset + len(write.data)
    if len(content) < size:
        content.extend(bytes(size - len(content)))
    if write.kind == "t":
        del content[size:]
    else:
        content[write.offset : size] = write.data


def apply_name(names: Names, change: Entry) -> None:
    """A folder has the number 0."""
    first, _, second = change.data.decode().partition("\n")
    if change.kind in "nd":
        names[first] = change.file
    elif change.kind == "u":
        names.pop(first, None)
    elif first in names:
        names[second] = names[first] if change.kind == "l" else names.pop(first)


class Choice:
    """Which part of what was not flushed is there. The first three are plain: nothing, all, all but a piece."""

    def __init__(self, which: int, chance: random.Random) -> None:
        self._which = which
        self._chance = chance
        self._share = chance.choice((0.2, 0.5, 0.8, 0.95))

    def beginning(self, changes: Sequence[Entry]) -> Sequence[Entry]:
        if self._which == 0:
            return ()
        return changes if self._which < 3 else changes[: self._chance.randrange(len(changes) + 1)]

    def some(self, writes: Sequence[Entry]) -> list[Entry]:
        if self._which == 0:
            return []
        kept = list(writes)
        if self._which > 2:
            kept = [write for write in writes if self._chance.random() < self._share]
        if kept and self._which > 1 and kept[-1].kind == "w":
            kept[-1] = self._torn(kept[-1])
        return kept

    def _torn(self, write: Entry) -> Entry:
        """A piece from its beginning, up to where a sector of the disk ends."""
        sector = self._chance.choice(SECTORS)
        ends = range(write.offset // sector * sector + sector, write.offset + len(write.data), sector)
        keep = self._chance.choice(ends) - write.offset if ends else len(write.data)
        return write._replace(data=write.data[:keep])


def examine(folder: Path, ledger: Ledger) -> None:
    """Open what is there with the product's own code. Raises when something is wrong."""
    trio.run(check, str(folder), ledger)


class Cut(NamedTuple):
    """Before the entry of this number, with this choice."""

    entry: int
    which: int


def plan_cuts(entries: Sequence[Entry], states: int, chance: random.Random) -> list[Cut]:
    """Each flush in turn: just before it has returned, just after, and anywhere before the next, until it is enough."""
    flushes = [number for number, entry in enumerate(entries) if entry.kind == "f"]
    cuts: list[Cut] = []
    which = 0
    while len(cuts) < states:
        for before, flush in zip([0, *flushes], [*flushes, len(entries)], strict=True):
            at = (flush, flush, before + 1)[which] if which < 3 else chance.randrange(before, flush + 1)
            cuts.append(Cut(min(at, len(entries)), min(which, 3)))
        which += 1
    return sorted(chance.sample(cuts, states))


def replay(
    entries: Sequence[Entry], place: Path, states: int, seed: int, *, lies: bool = False
) -> list[tuple[Cut, BaseException]]:
    """The cuts after which something was wrong."""
    chance = random.Random(seed)
    disk, at = Disk(lies=lies), 0
    wrong: list[tuple[Cut, BaseException]] = []
    folder = place / "left"
    for cut in plan_cuts(entries, states, chance):
        while at < cut.entry:
            disk.take(entries[at])
            at += 1
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        disk.leave(folder, Choice(cut.which, chance))
        try:
            examine(folder, disk.ledger)
        except Exception as error:
            wrong.append((cut, error))
    return wrong


def play(states: int, seed: int, place: Path, said: Callable[[str], None] = print) -> int:
    """Records and replays; the number of flushes that were cut at."""
    library = compile_recorder(place)
    flushes = done = 0
    said_at = time.monotonic()
    while done < states:
        entries = record(library, place, seed)
        some = min(STATES_A_RECORD, states - done)
        flushes += sum(entry.kind == "f" for entry in entries)
        if wrong := replay(entries, place, some, seed):
            cut, error = wrong[0]
            raise AssertionError(f"seed {seed}, {cut}: {len(wrong)} of {some} states are wrong") from error
        done, seed = done + some, seed + 1
        if time.monotonic() - said_at > 30.0:
            said_at = time.monotonic()
            said(f"{done} states")
    return flushes


def main(arguments: list[str]) -> None:
    logging.disable()  # that the files are not those of the last run is expected
    states = int(arguments[0])
    seed = int(arguments[1]) if len(arguments) > 1 else random.randrange(2**32)
    place, began = scratch("replay-"), time.monotonic()
    print(f"seed {seed}, {states} states", flush=True)
    flushes = play(states, seed, place)
    shutil.rmtree(place)
    print(f"{states} states at {flushes} flushes, {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main(sys.argv[1:])
