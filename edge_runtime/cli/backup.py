"""`edge-runtime backup`: everything that the node keeps, in one file, while it runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any, Final

from edge_runtime.cli.arguments import FLAG, HELP, Option, Parsed, UsageError, help_text, parse
from edge_runtime.cli.control import ControlError
from edge_runtime.cli.http import Unreachable
from edge_runtime.cli.output import Messages, as_json
from edge_runtime.cli.places import CONFIG_DIR, RESOURCES, STATE_DIR, find_places
from edge_runtime.model.errors import ConfigError, DriverError

USAGE: Final = "edge-runtime backup [flags] <file | ->, or backup keygen <file>"
SEAL_KEY: Final = Option(("seal-key",), help="The file with the key that seals the backup; keygen makes one.")
OPTIONS: Final = (
    HELP,
    SEAL_KEY,
    Option(("with-config",), FLAG, help="With the configuration (--config-dir)."),
    CONFIG_DIR,
    STATE_DIR,
    RESOURCES,
    Option(("json",), FLAG, help="Print the outcome as JSON."),
    Option(("log-as-json",), FLAG, hidden=True),
    Option(("runtime-path",), hidden=True),
)


def main(argv: Sequence[str]) -> int:
    parsed = parse(OPTIONS, argv)
    if parsed.flag("help") or not parsed.words:
        print(help_text(USAGE, "Back the node up while it runs.", OPTIONS), end="")
        return 0
    action, *words = parsed.words
    if len(words) != (1 if action == "keygen" else 0):
        raise UsageError(f"backup: expected {USAGE}")
    # What goes into a pipe must stand there alone.
    messages = Messages(parsed.flag("log-as-json"), out=sys.stderr if action == "-" else None)
    try:
        outcome = _keygen(words[0]) if action == "keygen" else _back_up(action, parsed)
    except (ConfigError, ControlError, DriverError, Unreachable) as error:
        if parsed.flag("json"):
            print(as_json({"error": str(error)}), file=sys.stderr if action == "-" else sys.stdout)
        else:
            messages.failure(str(error))
        return 1
    if parsed.flag("json"):
        print(as_json(outcome), file=sys.stderr if action == "-" else sys.stdout)
    else:
        _say(outcome, messages)
    return 0


def _keygen(path: str) -> dict[str, Any]:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"backup keygen {path}: {error.strerror}; name a file that is not there yet") from None
    with open(descriptor, "w") as file:
        file.write(os.urandom(32).hex() + "\n")
        file.flush()
        os.fsync(descriptor)
    return {"key": path}


def read_seal_key(parsed: Parsed) -> bytes | None:
    """The key that --seal-key names, None without it. Raises ConfigError."""
    if not parsed.given("seal-key"):
        return None
    from edge_runtime.security.secret_box import read_key

    return read_key(parsed.text("seal-key"), "make one with `edge-runtime backup keygen <file>`")


def _back_up(target: str, parsed: Parsed) -> dict[str, Any]:
    from edge_runtime.security.secret_box import CREDENTIAL, KEY_FILE
    from edge_runtime.upkeep.backup import Source, back_up
    from edge_runtime.upkeep.files import database_of, read_for_every_app

    places = find_places(parsed)
    key = read_seal_key(parsed)
    notes = []
    elsewhere = []
    for component in read_for_every_app(places.resources).components:
        path = database_of(component)
        if path == "":
            notes.append(f"{component.source}: {component.name}: its file is no plain text, so it is not in the backup")
        elif path:
            elsewhere.append(path)
    config_dir = places.config_dir if parsed.flag("with-config") else ""
    if config_dir and not os.path.isdir(config_dir):
        raise ConfigError(f"--config-dir {config_dir}: there is no such directory; leave --with-config away")
    report = back_up(Source(places.state_dir, elsewhere, config_dir), target, key)
    if not os.path.exists(os.path.join(places.state_dir, KEY_FILE)) and os.environ.get("CREDENTIALS_DIRECTORY"):
        notes.append(f"the credential {CREDENTIAL} is not in the backup; keep a copy of it")
    return {
        "file": target,
        "bytes": report.bytes,
        "sealed": key is not None,
        "verified": report.verified,
        "stateDirectory": places.state_dir,
        "databases": [
            {"name": member.name, "path": member.path, "bytes": member.bytes, "rows": sum(member.tables.values())}
            for member in report.members
            if member.tables is not None
        ],
        "files": [member.name for member in report.members if member.tables is None],
        "notes": notes,
    }


def _say(outcome: dict[str, Any], messages: Messages) -> None:
    if "key" in outcome:
        messages.success(f"{outcome['key']} has a new key. Keep it away from the backups; without it they do not open")
        return
    for note in outcome["notes"]:
        messages.warning(note)
    what = f"{len(outcome['databases'])} databases and {len(outcome['files'])} files of {outcome['stateDirectory']}"
    sealed = ", sealed" if outcome["sealed"] else ""
    if outcome["verified"]:
        messages.success(f"{what}: {outcome['file']}, {outcome['bytes']} bytes{sealed}, read back and verified")
    else:
        messages.success(f"{what} written{sealed}; `edge-runtime restore --verify <file>` reads what has become of it")
