"""One life of a device whose power is cut: checks what the last life acknowledged, then works until the end comes.

Every line that leaves through the port `acks` was acknowledged by the node before; the host keeps them when the machine
dies. The control is a database beside the node's that does not flush: a cut that costs it nothing has proved nothing.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import device
import node
from ledger import Ledger, Receiver, load, lost

PORT = Path("/dev/virtio-ports/acks")
CONTROL = Path("/root/control.db")
FOREVER_S = 3600
LIFE_OPERATIONS_MAX = 10_000_000


def main() -> int:
    port = os.open(PORT, os.O_WRONLY)

    def say(line: str) -> None:
        os.write(port, line.encode() + b"\n")

    ledger, life = Ledger(), Path("life").read_text().strip()
    ledger.add_all(Path("acks").read_text())
    if life == "first":
        device.run("apt-get", "install", "-y", "./current.deb")
        node.configure()
        node.restart()
        os.sync()
    device.until("the node comes up by itself", node.serves)
    problems = _problems(ledger)
    for problem in problems:
        print(problem)
    print(f"verified life={life} acknowledged={ledger.count} problems={len(problems)} {_control(Path('acks'))}")
    say("verified" if not problems else "failed")
    if life == "last" or problems:
        return 1 if problems else 0
    threading.Thread(target=_write_control, args=(say,), daemon=True).start()
    with load(say, first=(int(life) if life.isdecimal() else 0) * LIFE_OPERATIONS_MAX):
        say("working")
        time.sleep(FOREVER_S)
    return 1


def _problems(ledger: Ledger) -> list[str]:
    with Receiver() as receiver:
        problems = lost(ledger, receiver)
    for path in sorted(Path("/var/lib/edge-runtime").glob("*.db")):
        found = device.run("sqlite3", f"file:{path}?mode=ro", "pragma integrity_check")
        problems += [] if found == "ok" else [f"{path}: {found[:300]}"]
    _, failed = device.attempt("systemctl", "list-units", "--failed", "--no-legend", "--plain")
    return problems + ([f"failed units: {failed}"] if failed else [])


def _write_control(say: Callable[[str], None]) -> None:
    database = sqlite3.connect(CONTROL, isolation_level=None)
    database.execute("pragma journal_mode=wal")
    database.execute("pragma synchronous=off")
    database.execute("create table if not exists row (n integer primary key, text text)")
    first = database.execute("select coalesce(max(n), 0) + 1 from row").fetchone()[0]
    for n in range(first, sys.maxsize):
        database.execute("insert into row values (?, ?)", (n, "x" * 500))
        say(f"control {n}")
        time.sleep(0.02)


def _control(acks: Path) -> str:
    """What became of the database that does not flush."""
    promised = [int(line.split()[1]) for line in acks.read_text().splitlines() if line.startswith("control ")]
    if not promised:
        return "control=unused"
    try:
        database = sqlite3.connect(CONTROL)
        kept = database.execute("select count(*) from row where n between ? and ?", (promised[0], promised[-1]))
        missing = len(promised) - int(kept.fetchone()[0])
        database.close()
        return f"control_lost={missing}/{len(promised)}"
    except (sqlite3.Error, OSError) as error:
        return f"control_lost=all ({error})"
    finally:
        for path in CONTROL.parent.glob("control.db*"):
            path.unlink()


if __name__ == "__main__":
    sys.exit(main())
