"""What every command takes, as a table: from it completions and manual pages are made."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any, Final, NamedTuple

from edge_runtime.cli.arguments import FLAG, TEXT, Option
from edge_runtime.cli.main import COMMANDS
from edge_runtime.cli.run_options import run_options

# What stands behind a flag of such a name is a path.
_PATHS: Final = ("-path", "-dir", "-file", "-socket", "-key", "config", "directory", "file")


class CommandTable(NamedTuple):
    """One command: `actions` are the words of which one follows it."""

    name: str
    summary: str
    usage: str
    options: tuple[Option, ...]
    actions: tuple[str, ...]


def command_tables() -> list[CommandTable]:
    """Every command, with the flags that its help shows."""
    return [_table(name) for name in COMMANDS]


def takes_path(option: Option) -> bool:
    return option.kind != FLAG and option.name.endswith(_PATHS)


def _table(name: str) -> CommandTable:
    module = import_module(f"edge_runtime.cli.{COMMANDS[name].module}")
    usage = getattr(module, "USAGE", f"edge-runtime {name} [flags]")
    actions = tuple(getattr(module, "ACTIONS", ()))
    return CommandTable(name, COMMANDS[name].summary, usage, _shown(_options(name, module)), actions)


def _options(name: str, module: Any) -> Sequence[Option]:
    if name == "daprd":
        return _daprd_options()
    options: Sequence[Option] = run_options() if name == "run" else module.OPTIONS
    return options


def _shown(options: Sequence[Option]) -> tuple[Option, ...]:
    return tuple(option for option in options if not option.hidden)


def _daprd_options() -> list[Option]:
    from edge_runtime.config.flag_table import FLAGS

    return [
        Option((flag.name,), FLAG if flag.boolean else TEXT, "", flag.help, flag.default, flag.hidden)
        for flag in FLAGS
        if not flag.deprecated
    ]
