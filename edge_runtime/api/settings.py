"""What a configuration says to the faces of one app."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class FaceSettings(NamedTuple):
    """`api_log` None is off, else (obfuscate URLs, omit health checks). `body_limit_bytes` None is no limit.

    `traced` False (a sampling rate of 0) takes trace headers neither in nor out.
    """

    body_limit_bytes: int | None = 4 * 2**20
    token: str = ""
    allowed_origins: Sequence[str] = ()
    api_log: tuple[bool, bool] | None = None
    traced: bool = True
