"""The log's own clock: it counts the time that the machine is up, and takes no notice of the wall clock.

A board without a clock battery boots in 1970 and jumps to today when it finds a time server; by wall time everything
published before the jump would be decades old, and forgotten unread. Within one boot of the machine the log's time
advances with the kernel's time since boot, the same in every process; at the next boot it goes on from the latest time
that was written. Time spent switched off does not count.
"""

from __future__ import annotations

import os
import time
from typing import Any

from edge_runtime.store.log_tables import PLACE_BITS, TAIL


def up_ms() -> int:
    """Milliseconds that the machine has been up, sleep included."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def boot_id() -> str:
    """What tells this boot of the machine from every other; a fresh text where the system has none."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return os.urandom(16).hex()


def carry_on(conn: Any, boot: str, clock_ms: int) -> None:
    """After a reboot, let the clock go on from where it was. Runs in the writer's transaction."""
    row = conn.execute("SELECT boot FROM log_clock").fetchone()
    if row is not None and row[0] == boot:
        return
    latest = conn.execute("SELECT max(seen_at) FROM log_group").fetchone()[0] or 0
    for (topic_id,) in conn.execute("SELECT id FROM log_topic").fetchall():
        tail = conn.execute(TAIL, (topic_id << PLACE_BITS, (topic_id + 1) << PLACE_BITS)).fetchone()
        latest = max(latest, tail[2])
    conn.execute("INSERT OR REPLACE INTO log_clock VALUES (1, ?, ?)", (boot, latest - clock_ms))
