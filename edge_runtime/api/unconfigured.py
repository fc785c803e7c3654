"""What both faces say for blocks of which this node has no driver: the texts of Dapr when a thing is not configured."""

from __future__ import annotations

from typing import Final

NO_PLACEMENT: Final = "placement service is not configured"
NO_CONFIGURATION: Final = "configuration stores not configured"
NO_LOCK: Final = "lock store is not configured"
NO_CRYPTO: Final = "crypto providers not configured"
NO_SUBTLE: Final = "this API is currently not implemented"
NO_SCHEDULER: Final = "the scheduler is not configured on this node"
NO_OPERATION: Final = "operation field is missing from request"


def binding_failed(name: str, operation: str | None) -> str:
    """The text for a binding that is not there; Dapr misses the operation first."""
    reason = f"couldn't find output binding {name}" if operation else NO_OPERATION
    return f"error invoking output binding {name}: {reason}"


def no_expiry(store: str) -> str:
    return f"ExpiryInSeconds is not positive in lock store {store}"


def no_conversation(name: str) -> str:
    return f"failed finding conversation component {name}"
