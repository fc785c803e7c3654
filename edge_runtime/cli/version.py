"""`edge-runtime version`: which program this is and which Dapr it stands for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from edge_runtime import RUNTIME_VERSION, __version__
from edge_runtime.cli.arguments import HELP, Option, UsageError, help_text, parse

OPTIONS: Final = (
    HELP,
    Option(("output",), "text", "o", "json prints JSON."),
    Option(("json",), "flag", "", "The same as --output json."),
    Option(("log-as-json",), "flag", hidden=True),
    Option(("runtime-path",), "text", hidden=True),
)


def text() -> str:
    return f"CLI version: {__version__} \nRuntime version: {RUNTIME_VERSION}"


def main(argv: Sequence[str]) -> int:
    parsed = parse(OPTIONS, argv)
    if parsed.flag("help"):
        print(help_text("edge-runtime version [flags]", "Print the versions.", OPTIONS), end="")
        return 0
    output = "json" if parsed.flag("json") else parsed.text("output")
    if output not in ("", "json"):
        raise UsageError(f"invalid value {output!r} for --output: expected json")
    if output == "json":
        print(f'{{"Cli version":"{__version__}","Runtime version":"{RUNTIME_VERSION}"}}')
    else:
        print(text())
    return 0
