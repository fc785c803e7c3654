"""Runs groups of checks in the emulated machine: a line a check, `out/results.json`, and a closing line.

main.py short|long <group> …
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boots
import device
import idle
import install
import loads
import remove
import updates

Figures = dict[str, Any]
Check = Callable[[bool], Figures]

GROUPS: dict[str, tuple[Check, ...]] = {
    "install": (
        install.installs_without_a_network,
        install.runs_and_has_said_so,
        install.is_small_on_disk,
        install.leaves_nothing_failed,
        install.is_confined,
        install.serves_its_apis,
        install.journal_has_fields,
        install.doctor_finds_nothing_wrong,
        install.starts_fast,
    ),
    "idle": (idle.needs_little_memory, idle.writes_nothing),
    "load": (loads.does_not_grow,),
    "update": (updates.upgrade_loses_nothing, updates.version_that_never_serves_is_taken_back),
    "clock": (boots.comes_up_in_the_past, boots.serves_in_1970, boots.takes_the_right_time),
    "no-memory-controller": (boots.serves_without_memory_limits,),
    "remove": (remove.removal_keeps_what_the_node_kept, remove.purge_takes_everything),
}


def main(form: str, *groups: str) -> int:
    results = [_result(group, check, form == "long") for group in groups for check in GROUPS[group]]
    out = Path("out")
    out.mkdir(exist_ok=True)
    (out / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    _, journal = device.attempt("journalctl", "-b", "--no-pager", "-o", "short-monotonic")
    (out / "journal.log").write_text(journal + "\n")
    failed = sum(not result["passed"] for result in results)
    print(f"{len(results) - failed} passed, {failed} failed")
    return 1 if failed else 0


def _result(group: str, check: Check, long: bool) -> dict[str, Any]:
    begun, name, figures, why = time.monotonic(), f"{group}: {check.__name__.replace('_', ' ')}", {}, ""
    try:
        figures = check(long)
    except device.CheckError as error:
        why = str(error)
    except Exception:
        why = traceback.format_exc()
    seconds = round(time.monotonic() - begun, 1)
    shown = "  ".join(f"{key}={value}" for key, value in figures.items())
    print(f"{'FAILED' if why else 'ok    '} {name}  [{seconds} s]  {why or shown}")
    return {"check": name, "passed": not why, "seconds": seconds, "figures": figures, "why": why}


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
