"""The two programs: `edge-runtime`, and `daprd` for what starts a sidecar by its old name."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from edge_runtime.lean import defer_all


def main(argv: Sequence[str] | None = None) -> int:
    """`edge-runtime`: one command with its flags. The value is the exit code."""
    from edge_runtime.cli.main import dispatch

    defer_all()

    return dispatch(sys.argv[1:] if argv is None else argv)


def daprd(argv: Sequence[str] | None = None) -> int:
    """`daprd`: the bare sidecar, with the flags of Dapr's own."""
    from edge_runtime.cli import daprd as program

    defer_all()

    return program.main(sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
