"""What both faces say for blocks of which this node has no driver: the texts of Dapr when a thing is not configured."""

from __future__ import annotations

from typing import Final

NO_PLACEMENT: Final = "placement service is not configured"
NO_LOCK: Final = "lock store is not configured"
NO_CRYPTO: Final = "crypto providers not configured"
NO_SUBTLE: Final = "this API is currently not implemented"
NO_SCHEDULER: Final = "the scheduler is not configured on this node"


def no_expiry(store: str) -> str:
    return f"ExpiryInSeconds is not positive in lock store {store}"


def no_conversation(name: str) -> str:
    return f"failed finding conversation component {name}"
