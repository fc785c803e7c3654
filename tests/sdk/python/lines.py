"""How the drivers talk to the tests: a JSON object a line."""

from __future__ import annotations

import json
import sys
from typing import Any


def say(name: str, value: Any = None) -> None:
    sys.stdout.write(json.dumps({"name": name, "value": value}, separators=(",", ":")) + "\n")
    sys.stdout.flush()
