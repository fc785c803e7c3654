"""`edge-runtime restore`: a backup in the place of what is there, or only a look whether it is whole."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any, Final

from edge_runtime.cli.arguments import FLAG, HELP, Option, Parsed, UsageError, help_text, parse
from edge_runtime.cli.backup import SEAL_KEY, read_seal_key
from edge_runtime.cli.control import running_nodes
from edge_runtime.cli.output import Messages, as_json
from edge_runtime.cli.places import CONFIG_DIR
from edge_runtime.config.environment import state_dir
from edge_runtime.model.errors import ConfigError, DriverError

USAGE: Final = "edge-runtime restore [flags] <file>"
OPTIONS: Final = (
    HELP,
    SEAL_KEY,
    Option(("verify",), FLAG, help="Only read the backup and say whether it is whole."),
    Option(("state-dir",), help="The state directory to restore into; it may be missing."),
    Option(("with-config",), FLAG, help="Restore the configuration too (--config-dir)."),
    CONFIG_DIR,
    Option(("no-elsewhere",), FLAG, help="Leave databases alone that lay outside of the state directory."),
    Option(("force",), FLAG, help="Also when the backup was made by a newer version of the program."),
    Option(("keep-old",), FLAG, help="Keep what was there, as <directory>.before-restore."),
    Option(("json",), FLAG, help="Print the outcome as JSON."),
    Option(("log-as-json",), FLAG, hidden=True),
    Option(("runtime-path",), hidden=True),
)


def main(argv: Sequence[str]) -> int:
    parsed = parse(OPTIONS, argv)
    if parsed.flag("help") or not parsed.words:
        print(help_text(USAGE, "Restore a backup of a node that does not run.", OPTIONS), end="")
        return 0
    if len(parsed.words) > 1:
        raise UsageError(f"restore: expected {USAGE}")
    messages = Messages(parsed.flag("log-as-json"))
    try:
        outcome = _verify(parsed) if parsed.flag("verify") else _restore(parsed)
    except (ConfigError, DriverError) as error:
        if parsed.flag("json"):
            print(as_json({"error": str(error)}))
        else:
            messages.failure(str(error))
        return 1
    if parsed.flag("json"):
        print(as_json(outcome))
    elif parsed.flag("verify"):
        messages.success(f"{parsed.words[0]} is whole: {len(outcome['files'])} files of {outcome['stateDirectory']}")
    else:
        for kept in outcome["kept"]:
            messages.info(f"what was there is kept in {kept}")
        messages.success(f"{outcome['stateDirectory']} is as it was on {outcome['madeAt']}; start the node")
    return 0


def _verify(parsed: Parsed) -> dict[str, Any]:
    from edge_runtime.upkeep.archive import read_archive

    def pass_over(name: str, pieces: Any) -> None:
        for _ in pieces:
            pass

    path = parsed.words[0]
    try:
        with open(path, "rb") as file:
            head, members = read_archive(file, read_seal_key(parsed), pass_over)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except DriverError as error:
        raise DriverError(f"{path}: {error}") from None
    return {**_about(head), "stateDirectory": head.state_dir, "files": [member.name for member in members]}


def _restore(parsed: Parsed) -> dict[str, Any]:
    from edge_runtime.upkeep.restore import Wish, restore

    directory = state_dir(os.environ, parsed.text("state-dir"))
    for node in running_nodes(os.environ):
        facts = node.describe()
        if os.path.realpath(facts["stateDirectory"]) == os.path.realpath(directory):
            raise ConfigError(f"a node (process {facts['pid']}) runs on {directory}; stop it first, then restore")
    report = restore(
        Wish(
            parsed.words[0],
            read_seal_key(parsed),
            directory,
            parsed.text("config-dir") if parsed.flag("with-config") else "",
            not parsed.flag("no-elsewhere"),
            parsed.flag("force"),
            parsed.flag("keep-old"),
        )
    )
    files = [member.name for member in report.members]
    return {**_about(report.head), "stateDirectory": directory, "files": files, "kept": list(report.kept)}


def _about(head: Any) -> dict[str, Any]:
    made_at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(head.time))
    return {"madeAt": made_at, "program": head.program}
