"""The API token: who may call, and where it is not asked for."""

from __future__ import annotations

import hmac
from typing import Final

# Cleaned paths without query. Orchestrators probe these and have no token.
UNGUARDED_PATHS: Final = frozenset({"/v1.0/healthz", "/v1.0/healthz/outbound"})


def token_matches(expected: str, given: bytes | None) -> bool:
    """Whether the header's value is the token; takes as long for a near miss as for a far one.

    With no token configured everybody may call.
    """
    if not expected:
        return True
    return given is not None and hmac.compare_digest(expected.encode(), given)


def needs_token(method: str, path: str) -> bool:
    """False for the two health routes; `path` is cleaned."""
    return method != "GET" or path not in UNGUARDED_PATHS
