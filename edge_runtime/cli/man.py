"""`edge-runtime man`: the manual pages of all commands, made from the tables that the commands read."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from edge_runtime import __version__
from edge_runtime.cli.arguments import FLAG, HELP, TEXT, Option, UsageError, help_text, parse
from edge_runtime.cli.output import Messages
from edge_runtime.config.values import nearest

if TYPE_CHECKING:
    from edge_runtime.cli.tables import CommandTable

USAGE: Final = "edge-runtime man [--directory <directory> | page]"
OPTIONS: Final = (
    HELP,
    Option(("directory",), TEXT, "d", "Write every page into this directory, which is made when it is missing."),
    Option(("log-as-json",), FLAG, hidden=True),
    Option(("runtime-path",), hidden=True),
)
_EXIT: Final = (
    ("0", "It went well."),
    ("1", "It failed; the message says why."),
    ("255", "An unknown command or flag, or a flag that is required is missing."),
)
_DAPRD_EXIT: Final = (*_EXIT[:2], ("2", "An unknown flag or a value that cannot be read."))
_FILES: Final = (
    ("/etc/edge-runtime", "What the node of the system is configured with."),
    ("/var/lib/edge-runtime", "The state directory of root's node and of the system's service."),
    ("~/.local/state/edge-runtime", "The state directory of any other user's node."),
    ("/run/edge-runtime/control.sock", "The socket that apps join the node through."),
)
_VARIABLES: Final = (
    ("EDGE_RUNTIME_STATE_DIR", "The state directory."),
    ("EDGE_RUNTIME_RUN_DIR", "The directory of the control sockets."),
    ("EDGE_RUNTIME_CONTROL_SOCKET", "The socket of the node to join."),
)


def main(argv: Sequence[str]) -> int:
    parsed = parse(OPTIONS, argv)
    if parsed.flag("help") or not (parsed.words or parsed.given("directory")):
        print(help_text(USAGE, "Print or write the manual pages.", OPTIONS), end="")
        return 0
    if len(parsed.words) > 1 or (parsed.words and parsed.given("directory")):
        raise UsageError(f"man: expected {USAGE}")
    made = pages()
    if parsed.words:
        name = parsed.words[0].removesuffix(".1")
        found = made.get(f"{name}.1") or made.get(f"edge-runtime-{name}.1")
        if found is None:
            raise UsageError(f"man: there is no page {name!r}{nearest(name, [page[:-2] for page in made])}")
        print(found, end="")
        return 0
    return _write(parsed.text("directory"), made)


def _write(directory: str, made: dict[str, str]) -> int:
    try:
        os.makedirs(directory, exist_ok=True)
        for name, text in made.items():
            with open(os.path.join(directory, name), "w", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        Messages().failure(f"--directory {directory}: cannot be written: {error.strerror}")
        return 1
    return 0


def pages() -> dict[str, str]:
    """File name → page. The same for the same version: no date is in it."""
    from edge_runtime.cli.tables import command_tables

    tables = command_tables()
    made = {f"edge-runtime-{table.name}.1": _page(table) for table in tables if table.name != "daprd"}
    (daprd,) = (table for table in tables if table.name == "daprd")
    return {"edge-runtime.1": _overview(tables), **made, "daprd.1": _daprd_page(daprd)}


def _overview(tables: Sequence[CommandTable]) -> str:
    from edge_runtime.cli.main import ROOT_OPTIONS

    names = ["daprd" if table.name == "daprd" else f"edge-runtime-{table.name}" for table in tables]
    return "".join(
        (
            _head("edge-runtime", "a drop-in Dapr for edge devices: one process for every app"),
            _section("SYNOPSIS", _text("edge-runtime [flags] <command>")),
            _section(
                "DESCRIPTION",
                _text(
                    "One process of a node speaks Dapr's HTTP and gRPC APIs to the apps of that node. Events, state "
                    "and what waits for a broker or a cloud link are kept on disk, and go on with the network away."
                ),
            ),
            _section("COMMANDS", _rows((table.name, table.summary) for table in tables)),
            _section("OPTIONS", _options(ROOT_OPTIONS)),
            _section("EXIT STATUS", _rows(_EXIT)),
            _section("ENVIRONMENT", _rows(_VARIABLES)),
            _section("FILES", _rows(_FILES)),
            _section("SEE ALSO", _references(names)),
        )
    )


def _page(table: CommandTable) -> str:
    return "".join(
        (
            _head(f"edge-runtime-{table.name}", _as_name(table.summary)),
            _section("SYNOPSIS", _text(table.usage)),
            _section("DESCRIPTION", _text(table.summary)),
            _section("OPTIONS", _options(table.options)),
            _section("EXIT STATUS", _rows(_EXIT)),
            _section("SEE ALSO", _references(["edge-runtime"])),
        )
    )


def _daprd_page(table: CommandTable) -> str:
    return "".join(
        (
            _head("daprd", _as_name(table.summary)),
            _section("SYNOPSIS", _text("daprd [flags]")),
            _section("DESCRIPTION", _text(table.summary + " It never joins a node by itself.")),
            _section("OPTIONS", _options(table.options)),
            _section("EXIT STATUS", _rows(_DAPRD_EXIT)),
            _section("SEE ALSO", _references(["edge-runtime"])),
        )
    )


def _as_name(summary: str) -> str:
    return summary[0].lower() + summary[1:].rstrip(".")


# --- roff -------------------------------------------------------------------------------------------------------------


def _head(name: str, about: str) -> str:
    title = f'.TH "{name.upper()}" "1" "" "edge-runtime {__version__}" "edge-runtime"'
    return f"{title}\n.SH NAME\n{_roff(f'{name} - {about}')}\n"


def _section(title: str, body: str) -> str:
    return f".SH {title}\n{body}"


def _text(text: str) -> str:
    return _roff(text) + "\n"


def _rows(rows: Iterable[tuple[str, str]]) -> str:
    return "".join(f".TP\n\\fB{_roff(left)}\\fR\n{_roff(right)}\n" for left, right in rows)


def _options(options: Iterable[Option]) -> str:
    return "".join(f".TP\n{_spelling(option)}\n{_meaning(option)}\n" for option in options)


def _spelling(option: Option) -> str:
    flags = [*([f"-{option.short}"] if option.short else []), *(f"--{name}" for name in option.names)]
    value = "" if option.kind == FLAG else f" \\fI{option.kind}\\fR"
    return ", ".join(f"\\fB{_roff(flag)}\\fR" for flag in flags) + value


def _meaning(option: Option) -> str:
    default = f" Default: {option.default}." if option.default and option.kind != FLAG else ""
    return _roff(option.help + default) or "\\&"


def _references(names: Iterable[str]) -> str:
    return ",\n".join(f"\\fB{_roff(name)}\\fR(1)" for name in names) + "\n"


def _roff(text: str) -> str:
    """Text that roff takes as it is: no request at the beginning of a line, and a hyphen that can be copied."""
    plain = " ".join(text.split()).replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace('"', "\\(dq")
    return f"\\&{plain}" if plain.startswith(".") else plain
