"""Runs in a child process, with whatever clock it is given: a life that ends well, and a look at what it has left."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import trio

from tests.crash.durable.ledger import Ledger
from tests.crash.durable.node import check, load
from tests.crash.durable.things import Turns


def main(folder: str, lines: Path, first: int) -> None:
    ledger = Ledger(lines.read_text().splitlines() if lines.exists() else ())
    with lines.open("a") as out:

        def say(line: str) -> None:
            out.write(f"{line}\n")

        trio.run(check, folder, ledger, say)
        trio.run(load, folder, ledger, say, Turns(first, 8))
        trio.run(check, folder, ledger, say)


if __name__ == "__main__":
    logging.disable()
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
