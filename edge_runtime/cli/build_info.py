"""`edge-runtime build-info`: from what the program was made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from edge_runtime import RUNTIME_VERSION, __version__
from edge_runtime.cli.arguments import HELP, Option, help_text, parse

OPTIONS: Final = (
    HELP,
    Option(("log-as-json",), "flag", hidden=True),
    Option(("runtime-path",), "text", hidden=True),
)


def lines(version: str) -> str:
    """The three lines of `daprd --build-info`. There is no build from a commit, so the version stands for it."""
    return f"Version: {version}\nGit Commit: v{__version__}\nGit Version: v{__version__}"


def main(argv: Sequence[str]) -> int:
    parsed = parse(OPTIONS, argv)
    if parsed.flag("help"):
        print(help_text("edge-runtime build-info", "Print how the program was built.", OPTIONS), end="")
        return 0
    for title, version in (("CLI", __version__), ("Runtime", RUNTIME_VERSION)):
        print(f"{title}:")
        for line in lines(version).split("\n"):
            print(f"\t{line}")
    return 0
