"""The two programs: `edge-runtime`, and `daprd` for what starts a sidecar by its old name."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from edge_runtime.lean import defer_all


def main(argv: Sequence[str] | None = None) -> int:
    """`edge-runtime`: one command with its flags. The value is the exit code."""
    from edge_runtime.cli.main import dispatch

    defer_all()

    return _silenced(dispatch(sys.argv[1:] if argv is None else argv))


def daprd(argv: Sequence[str] | None = None) -> int:
    """`daprd`: the bare sidecar, with the flags of Dapr's own."""
    from edge_runtime.cli import daprd as program

    defer_all()

    return _silenced(program.main(sys.argv[1:] if argv is None else argv))


def _silenced(code: int) -> int:
    """The exit code, also when nobody reads our last words any more; the interpreter would make it 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return code


if __name__ == "__main__":
    sys.exit(main())
