"""Keeps modules out of memory that trio imports at its start and a sidecar seldom needs: OpenSSL alone is 4 MB of RSS.

`defer("ssl")` puts a stand-in into `sys.modules`, which becomes the real module when its first attribute is asked for.
(The standard library's LazyLoader cannot serve here: the import statement itself already wakes it.)
"""

from __future__ import annotations

import importlib
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Final

# What each is for in trio: TLS streams, DTLS cookies. Both work as ever once something uses them.
DEFERRED: Final = ("ssl", "hmac")


def defer(name: str) -> None:
    """Let the module be loaded on first use. Does nothing when it is loaded already."""
    if name in sys.modules:
        return
    stand_in = ModuleType(name)
    stand_in.__spec__ = ModuleSpec(name, None)

    def become_real(attribute: str) -> Any:
        if sys.modules.get(name) is stand_in:
            del sys.modules[name]
        real = importlib.import_module(name)
        stand_in.__dict__.update(real.__dict__)
        sys.modules[name] = real
        return getattr(real, attribute)

    stand_in.__getattr__ = become_real  # type: ignore[method-assign]
    sys.modules[name] = stand_in


def defer_all() -> None:
    """To be called before trio is imported."""
    for name in DEFERRED:
        defer(name)
