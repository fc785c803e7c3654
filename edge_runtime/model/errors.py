"""What can go wrong, as kinds; the numbers that a transport gives them are in `api/errors.py`.

A driver raises the small `DriverError` family, a block turns it into an `EdgeError` with the kind that its API
documents, and a face looks the kind up in its table. Nothing below a face knows a status number.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence


class Kind(enum.Enum):
    """Every way in which an API call can fail. Each has its row in `api/errors.py`."""

    # Health and the process
    HEALTH_NOT_READY = enum.auto()
    HEALTH_APPID_NOT_MATCH = enum.auto()
    OUTBOUND_HEALTH_NOT_READY = enum.auto()
    API_UNIMPLEMENTED = enum.auto()
    # Requests in general
    MALFORMED_REQUEST = enum.auto()
    MALFORMED_REQUEST_DATA = enum.auto()
    MALFORMED_RESPONSE = enum.auto()
    BODY_READ = enum.auto()
    BAD_REQUEST = enum.auto()
    INTERNAL = enum.auto()
    UNCLASSIFIED = enum.auto()
    # State
    STATE_STORE_NOT_FOUND = enum.auto()
    STATE_STORE_NOT_CONFIGURED = enum.auto()
    STATE_ILLEGAL_KEY = enum.auto()
    STATE_GET = enum.auto()
    STATE_SAVE = enum.auto()
    STATE_SAVE_KEY_EMPTY = enum.auto()
    STATE_SAVE_VALUE = enum.auto()
    STATE_SAVE_ETAG_INVALID = enum.auto()
    STATE_SAVE_ETAG_MISMATCH = enum.auto()
    STATE_DELETE = enum.auto()
    STATE_DELETE_ETAG_INVALID = enum.auto()
    STATE_DELETE_ETAG_MISMATCH = enum.auto()
    STATE_BULK_DELETE = enum.auto()
    STATE_BULK_DELETE_ETAG_INVALID = enum.auto()
    STATE_BULK_DELETE_ETAG_MISMATCH = enum.auto()
    STATE_BULK_GET = enum.auto()
    STATE_TRANSACTION = enum.auto()
    STATE_OPERATION_NOT_SUPPORTED = enum.auto()
    STATE_TRANSACTIONS_NOT_SUPPORTED = enum.auto()
    STATE_TOO_MANY_TRANSACTIONS = enum.auto()
    STATE_QUERY_NOT_SUPPORTED = enum.auto()
    STATE_QUERY_FAILED = enum.auto()
    OUTBOX_PUBLISH = enum.auto()
    # Publish and subscribe
    PUBSUB_NOT_CONFIGURED = enum.auto()
    PUBSUB_NAME_EMPTY = enum.auto()
    PUBSUB_TOPIC_EMPTY = enum.auto()
    PUBSUB_NOT_FOUND = enum.auto()
    PUBSUB_FORBIDDEN = enum.auto()
    PUBSUB_PUBLISH = enum.auto()
    PUBSUB_METADATA = enum.auto()
    PUBSUB_CLOUD_EVENT = enum.auto()
    PUBSUB_MARSHAL_ENVELOPE = enum.auto()
    PUBSUB_MARSHAL_EVENTS = enum.auto()
    PUBSUB_UNMARSHAL_EVENTS = enum.auto()
    # Service invocation
    INVOKE_NO_APP_ID = enum.auto()
    INVOKE_DENIED = enum.auto()
    INVOKE_FAILED = enum.auto()
    INVOKE_NOT_QUEUED = enum.auto()
    # Secrets
    SECRET_STORES_NOT_CONFIGURED = enum.auto()
    SECRET_STORE_NOT_FOUND = enum.auto()
    SECRET_DENIED = enum.auto()
    SECRET_GET = enum.auto()
    # Bindings
    BINDING_INVOKE = enum.auto()
    # Configuration
    CONFIGURATION_STORE_NOT_CONFIGURED = enum.auto()
    CONFIGURATION_STORE_NOT_FOUND = enum.auto()
    CONFIGURATION_GET = enum.auto()
    CONFIGURATION_SUBSCRIBE = enum.auto()
    CONFIGURATION_NO_APP = enum.auto()
    # What waits to be sent
    EDGE_OUTBOX_ROUTE_NOT_FOUND = enum.auto()
    EDGE_OUTBOX = enum.auto()
    EDGE_INVOCATION_NOT_FOUND = enum.auto()
    EDGE_LINK_NOT_FOUND = enum.auto()
    EDGE_LINK_PAUSED = enum.auto()
    EDGE_SYNC = enum.auto()
    EDGE_CONFLICTS = enum.auto()
    EDGE_CONFLICT_NOT_FOUND = enum.auto()
    # Blocks that answer "not configured" until their driver exists
    LOCK_STORE_NOT_CONFIGURED = enum.auto()
    LOCK_STORE_NOT_FOUND = enum.auto()
    ACTOR_NO_PLACEMENT = enum.auto()
    ACTOR_STREAM_NEEDS_GRPC = enum.auto()
    ACTOR_STREAM_FIRST_MESSAGE = enum.auto()
    CRYPTO_PROVIDERS_NOT_CONFIGURED = enum.auto()
    CRYPTO_OPERATION = enum.auto()
    CONVERSATION_NOT_FOUND = enum.auto()
    JOB_EMPTY = enum.auto()
    JOB_NAME_EMPTY = enum.auto()
    JOB_SCHEDULE_EMPTY = enum.auto()
    JOB_SCHEDULE = enum.auto()
    JOB_GET = enum.auto()
    JOB_DELETE = enum.auto()
    JOB_LIST = enum.auto()


class EdgeError(Exception):
    """A failed API call: its kind, the text for the caller, and what a rich error shows beside them.

    `metadata` is ErrorInfo's map (None is shown as null), `resource` is (type, name) of ResourceInfo, `description` its
    description, `violations` are BadRequest's (field, description) pairs.
    """

    def __init__(
        self,
        kind: Kind,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        resource: tuple[str, str] | None = None,
        description: str = "",
        violations: Sequence[tuple[str, str]] = (),
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.metadata = metadata
        self.resource = resource
        self.description = description
        self.violations = violations


class BodyTooLarge(Exception):
    """The request's body passed the limit; the text is what Dapr's body reader says."""

    def __init__(self) -> None:
        super().__init__("stream too large")


class DriverError(Exception):
    """A component could not do what was asked. Resiliency may try again unless `permanent` or `unrepeatable`.

    `permanent` is the target's considered answer, and a sign of life; `unrepeatable` is a failure of the target that
    only this call cannot try again, because what it sends is gone. `code` is an HTTP status (100 to 599) or a gRPC code
    (0 to 16) when the failure came with one; retry matching looks at it.
    """

    permanent: bool = False
    unrepeatable: bool = False

    def __init__(self, message: str, *, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


class NotSupported(DriverError):
    """The driver has no such operation."""

    permanent = True


class BadMetadata(DriverError):
    """A request's or a component's metadata names something that the driver cannot use."""

    permanent = True


class EtagMismatch(DriverError):
    """The stored etag is another one, or first-write found the key taken."""

    permanent = True


class EtagInvalid(DriverError):
    """The text is no etag of this store."""

    permanent = True


class StoreUnavailable(DriverError):
    """The store cannot take a write now: the disk is full or read-only, or a flush to it failed. Reads may go on."""


class Overloaded(DriverError):
    """A queue with a limit is full; the message names the setting that raises it."""


class Unreachable(DriverError):
    """The other end, or the way to it, is away: nothing was tried, and nothing else need be until it is back."""


class BindingFailed(DriverError):
    """An output binding failed and has something to show all the same; `metadata` becomes headers of the answer."""

    def __init__(self, message: str, *, code: int | None = None, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message, code=code)
        self.metadata = metadata or {}


class PolicyError(DriverError):
    """A resiliency policy ended the call: a timeout, or an open circuit breaker."""


class CallTimeout(PolicyError):
    """The policy's timeout passed. Another attempt may follow."""


class CircuitOpen(PolicyError):
    """The breaker is open, or half-open and busy. Never tried again by the policy itself."""

    permanent = True


class ConfigError(Exception):
    """A file, flag or field that cannot be used; the text names it, what was expected and the mend."""


def leaves(error: BaseException) -> list[BaseException]:
    """The errors of a group, however deep, or the error itself."""
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for part in error.exceptions for leaf in leaves(part)]
