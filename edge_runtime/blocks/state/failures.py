"""Driver errors as the state API's errors: which kind, and the words around the driver's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from edge_runtime.model.errors import DriverError, EdgeError, EtagInvalid, EtagMismatch, Kind

MISMATCH: Final = "possible etag mismatch. error from state store"
INVALID: Final = "invalid etag value"


def not_found(store: str, known: Mapping[str, object], metadata: Mapping[str, str] | None) -> EdgeError:
    """No such store; another kind of error when there is none at all."""
    if not known:
        return EdgeError(Kind.STATE_STORE_NOT_CONFIGURED, f"state store {store} is not configured", metadata=metadata)
    return EdgeError(Kind.STATE_STORE_NOT_FOUND, f"state store {store} is not found", metadata=metadata)


def illegal_key(store: str, key: str, field: str) -> EdgeError:
    message = f"api error: code = InvalidArgument desc = input key/keyPrefix '{key}' can't contain '||'"
    return EdgeError(Kind.STATE_ILLEGAL_KEY, message, resource=("state", store), violations=((field, message),))


def get_failed(store: str, key: str, error: Exception) -> EdgeError:
    return EdgeError(Kind.STATE_GET, f"fail to get {key} from state store {store}: {error}")


def save_failed(store: str, error: Exception) -> EdgeError:
    kind, text = _classified(error, Kind.STATE_SAVE, Kind.STATE_SAVE_ETAG_INVALID, Kind.STATE_SAVE_ETAG_MISMATCH)
    return EdgeError(kind, f"failed saving state in state store {store}: {text}")


def delete_failed(key: str, error: Exception) -> EdgeError:
    kind, text = _classified(error, Kind.STATE_DELETE, Kind.STATE_DELETE_ETAG_INVALID, Kind.STATE_DELETE_ETAG_MISMATCH)
    return EdgeError(kind, f"failed deleting state with key {key}: {text}")


def bulk_delete_failed(store: str, error: Exception) -> EdgeError:
    kind, text = _classified(
        error, Kind.STATE_BULK_DELETE, Kind.STATE_BULK_DELETE_ETAG_INVALID, Kind.STATE_BULK_DELETE_ETAG_MISMATCH
    )
    return EdgeError(kind, f"failed deleting state in state store {store}: {text}")


def transaction_failed(error: Exception) -> EdgeError:
    _, text = _classified(error, Kind.STATE_TRANSACTION, Kind.STATE_TRANSACTION, Kind.STATE_TRANSACTION)
    return EdgeError(Kind.STATE_TRANSACTION, f"error while executing state transaction: {text}")


def query_failed(store: str, text: str) -> EdgeError:
    return EdgeError(Kind.STATE_QUERY_FAILED, f"state store {store} query failed: {text}", resource=("state", store))


def query_not_supported(store: str) -> EdgeError:
    return EdgeError(Kind.STATE_QUERY_NOT_SUPPORTED, "state store does not support querying", resource=("state", store))


def transactions_not_supported(store: str) -> EdgeError:
    message = f"state store {store} doesn't support transactions"
    return EdgeError(Kind.STATE_TRANSACTIONS_NOT_SUPPORTED, message, resource=("state", store))


def too_many_operations(store: str, count: int, limit: int) -> EdgeError:
    return EdgeError(
        Kind.STATE_TOO_MANY_TRANSACTIONS,
        f"the transaction contains {count} operations, which is more than what the state store supports: {limit}",
        metadata={"currentOpsTransaction": str(count), "maxOpsPerTransaction": str(limit)},
        resource=("state", store),
    )


def deciding(keys: Sequence[str], failures: Sequence[Exception | None]) -> DriverError | None:
    """The failure that stands for a whole bulk: the first about an etag, else the first; its text names the key."""
    found = [(key, failure) for key, failure in zip(keys, failures, strict=True) if failure is not None]
    if not found:
        return None
    about_etags = [pair for pair in found if isinstance(pair[1], (EtagMismatch, EtagInvalid))]
    key, failure = (about_etags or found)[0]
    named = type(failure)(f"{key}: {failure}") if isinstance(failure, (EtagMismatch, EtagInvalid)) else None
    return named or DriverError(f"{key}: {failure}", code=getattr(failure, "code", None))


def _classified(error: Exception, other: Kind, invalid: Kind, mismatch: Kind) -> tuple[Kind, str]:
    if isinstance(error, EtagMismatch):
        return mismatch, _prefixed(MISMATCH, error)
    if isinstance(error, EtagInvalid):
        return invalid, _prefixed(INVALID, error)
    return other, str(error)


def _prefixed(prefix: str, error: Exception) -> str:
    text = str(error)
    if not text or text.startswith(prefix):
        return text or prefix
    return f"{prefix}: {text}"
