"""`edge-runtime-update`: puts the installed version into service, and takes it back when it does not become well.

`pending.json` is there exactly while an update is under way, and says from which slot to which and what has been
decided. It is written before each step, so that a power cut at any point leaves a step that can be done again:

    trying      current → new, restart, wait for health. Well: the update is over. Not well: returning.
    returning   current → old, restart. Then the update is over, too.

At boot, before the node, `settle` counts another try and gives a new version up that has had enough of them: it may be
what brought the machine down. After the node, `resume` goes on where the update was. This program belongs to no slot.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import slots
from places import Places, read_places
from service import Service

STARTS_MAX: Final = 2
_PROBE_TIMEOUT_S: Final = 120
_HISTORY_MAX: Final = 10


def main() -> int:
    flags = _flags().parse_args()
    places = read_places()
    service = Service(places.control_socket, flags.deadline, flags.steady)
    if flags.action == "status":
        return _show(places, flags.json)
    with _alone(places):
        if flags.action == "settle":
            return settle(places)
        if flags.action == "resume":
            return resume(places, service)
        if flags.action == "return":
            return give_back(places, service)
        return activate(places, service, again=flags.again)


def _flags() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(prog="edge-runtime-update", description="Slots of the edge-runtime package.")
    flags.add_argument(
        "action",
        choices=("activate", "return", "status", "resume", "settle"),
        help="activate: put the installed version into service. return: go back to the other slot. status: show both."
        " settle, resume: for the units that go on with an update after a power cut.",
    )
    flags.add_argument("--deadline", type=float, default=180.0, help="seconds that a version has to become well")
    flags.add_argument("--steady", type=float, default=10.0, help="seconds that it has to stay so")
    flags.add_argument("--again", action="store_true", help="activate: also a version that was given up before")
    flags.add_argument("--json", action="store_true", help="status: as JSON")
    return flags


@contextmanager
def _alone(places: Places) -> Iterator[None]:
    places.state.mkdir(parents=True, exist_ok=True)
    with places.lock.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def activate(places: Places, service: Service, *, again: bool) -> int:
    """The installed version becomes the one that runs. Not 0: it was given up, and the old one runs."""
    new, old = slots.make_slot(places), slots.current(places)
    if slots.read_json(places.pending).get("new") not in (None, new):
        resume(places, service)  # an older update that was cut off
        old = slots.current(places)
    status = slots.read_json(places.status)
    if status.get("outcome") == "returned" and status.get("new") == new and not again:
        _say(
            f"{new} was given up before ({status.get('reason')}); {old} stays."
            " To try once more: edge-runtime-update activate --again"
        )
        return 0
    if why := _probe(places, new):
        return _end(places, {"old": old, "new": new}, "returned" if old else "failed", f"it does not start: {why}")
    if not service.manager_runs():
        slots.switch(places, new)
        return _end(places, {"old": old, "new": new}, "switched", "no service manager runs; nothing was restarted")
    if old in ("", new) and not slots.read_json(places.pending):
        return _first(places, service, old, new)
    slots.write_json(places.pending, {"phase": "trying", "old": old, "new": new, "starts": 0})
    return resume(places, service)


def _first(places: Places, service: Service, old: str, new: str) -> int:
    """The first version, or the same again: there is nothing to go back to."""
    slots.switch(places, new)
    if not service.wanted():
        return _end(places, {"old": old, "new": new}, "switched", "the service is disabled; nothing was restarted")
    before = service.process()
    service.restart()
    why = service.trouble(before)
    if why:
        _say(f"{new} is in service and not well: {why}. See journalctl -u edge-runtime")
    return _end(places, {"old": old, "new": new}, "unwell" if why else "well", why)


def _probe(places: Places, new: str) -> str:
    """The new version's own programs run here at all: tried while the old one still serves."""
    command = [str(places.slots / new / "bin" / "edge-runtime"), "version"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PROBE_TIMEOUT_S)
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["it says nothing"])[-1]


def settle(places: Places) -> int:
    """Before the node starts: which slot it starts from. A machine that comes up again may have been brought down."""
    pending = slots.read_json(places.pending)
    if pending.get("phase") == "trying":
        pending["starts"] = int(pending.get("starts", 0)) + 1
        if pending["starts"] > STARTS_MAX:
            pending |= {"phase": "returning", "reason": f"the machine went down {STARTS_MAX} times while it was tried"}
        slots.write_json(places.pending, pending)
    if pending:
        slots.switch(places, pending["new"] if pending["phase"] == "trying" else pending["old"])
    return 0


def resume(places: Places, service: Service) -> int:
    """Go on with the update that is under way. Each step may be done again."""
    pending = slots.read_json(places.pending)
    if not pending:
        return 0
    if not service.manager_runs():
        return 0  # at the next boot
    if pending["phase"] == "trying":
        why = _try(places, service, pending["new"])
        if not why:
            slots.prune(places, pending["old"], pending["new"])
            return _end(places, pending, "well", "")
        _say(f"{pending['new']} is not well ({why}); going back to {pending['old']}")
        pending |= {"phase": "returning", "reason": why}
        slots.write_json(places.pending, pending)
    after = _try(places, service, pending["old"])
    reason = pending["reason"] + (f"; the old version is not well either: {after}" if after else "")
    return _end(places, pending, "returned", reason)


def give_back(places: Places, service: Service) -> int:
    """Back to the other slot, because somebody says so."""
    here = slots.current(places)
    others = [name for name in slots.listed(places) if name != here]
    if len(others) != 1:
        _say("there is no other slot to return to")
        return 1
    slots.write_json(
        places.pending, {"phase": "returning", "old": others[0], "new": here, "reason": "it was asked for"}
    )
    resume(places, service)
    return 0


def _try(places: Places, service: Service, name: str) -> str:
    """Run from that slot. Empty when it is well; else why not. A service that is switched off has nothing to show."""
    slots.switch(places, name)
    if not service.wanted():
        return ""
    before = service.process()
    service.restart()
    return service.trouble(before)


def _end(places: Places, update: dict[str, Any], outcome: str, reason: str) -> int:
    """Write what came of it, then forget that it was under way. Nothing else ends an update."""
    entry = {"outcome": outcome, "old": update["old"], "new": update["new"], "reason": reason, "at": int(time.time())}
    earlier = slots.read_json(places.status).get("history", [])
    slots.write_json(places.status, {**entry, "history": [entry, *earlier][:_HISTORY_MAX]})
    slots.forget(places.pending)
    failed = outcome in ("returned", "failed")
    _say(f"{entry['new']}: {outcome}{f': {reason}' if reason else ''}" + (f"; {entry['old']} runs" if failed else ""))
    return 1 if failed else 0


def _show(places: Places, as_json: bool) -> int:
    here, status = slots.current(places), slots.read_json(places.status)
    document = {
        "current": here,
        "slots": slots.listed(places),
        "pending": slots.read_json(places.pending) or None,
        "last": {key: value for key, value in status.items() if key != "history"} or None,
        "history": status.get("history", []),
    }
    if as_json:
        print(json.dumps(document, indent=2))
        return 0
    for name in document["slots"]:
        print(f"{'*' if name == here else ' '} {name}")
    if document["pending"]:
        print(f"under way: {document['pending']['phase']} {document['pending']['new']}")
    for entry in document["history"]:
        moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry["at"]))
        print(f"{moment}  {entry['new']}: {entry['outcome']}{': ' + entry['reason'] if entry['reason'] else ''}")
    return 0


def _say(text: str) -> None:
    """To whoever installs, and by the unit or syslog to the journal."""
    print(f"edge-runtime-update: {text}", file=sys.stderr, flush=True)
    try:
        subprocess.run(["logger", "-t", "edge-runtime-update", text], stderr=subprocess.DEVNULL, timeout=5)
    except (OSError, subprocess.SubprocessError):
        pass


if __name__ == "__main__":
    sys.exit(main())
