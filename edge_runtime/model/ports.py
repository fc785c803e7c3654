"""What a block asks of a driver, of the app's channel and of a policy. Blocks know no more than this."""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

from edge_runtime.model.http import Request, Response

T = TypeVar("T")

# --- state -----------------------------------------------------------------------------------------------------------


class Item(NamedTuple):
    """A stored value. `expires_at` is unix time in seconds, None for never."""

    value: bytes
    etag: str
    expires_at: float | None = None


class SetRequest(NamedTuple):
    """One write. `key` is the stored key, prefix included; `value` is what a later get returns, byte for byte.

    `etag` None means none was given; with one it must match. `first_write` without an etag succeeds only when there is
    no such key. `ttl_s` None means no expiry, and clears an earlier one.
    """

    key: str
    value: bytes
    etag: str | None = None
    first_write: bool = False
    ttl_s: int | None = None
    metadata: Mapping[str, str] = {}


class DeleteRequest(NamedTuple):
    """One removal; a key that is not there is a success unless an etag was given."""

    key: str
    etag: str | None = None
    metadata: Mapping[str, str] = {}


class Compare(NamedTuple):
    """`path` (dotted into the JSON value) against one value, or against several for IN."""

    operator: Literal["EQ", "NEQ", "GT", "GTE", "LT", "LTE", "IN"]
    path: str
    value: Any


class Combine(NamedTuple):
    """All (AND) or any (OR) of the parts."""

    operator: Literal["AND", "OR"]
    parts: Sequence[Compare | Combine]


Filter = Compare | Combine


class Query(NamedTuple):
    """A parsed query. `limit` None means all; `token` is what an earlier result gave, empty for the first page."""

    filter: Filter | None = None
    sort: Sequence[tuple[str, Literal["ASC", "DESC"]]] = ()
    limit: int | None = None
    token: str = ""


class QueryResult(NamedTuple):
    """Hits as (stored key, item); `token` is empty when there is no next page."""

    results: Sequence[tuple[str, Item]]
    token: str = ""


class StateStore(Protocol):
    """A key-value store. Keys come with their prefix; every write is durable when the call returns.

    Raises `EtagMismatch`, `EtagInvalid`, `StoreUnavailable` or another `DriverError`.
    """

    features: frozenset[str]
    transaction_max: int | None

    async def get(self, key: str) -> Item | None: ...
    async def bulk_get(self, keys: Sequence[str]) -> Sequence[tuple[str, Item | None]]:
        """Found rows and missing keys, in any order, each key once for each time it was asked."""

    async def set(self, request: SetRequest) -> None: ...
    async def delete(self, request: DeleteRequest) -> None: ...
    async def bulk_set(self, requests: Sequence[SetRequest]) -> Sequence[DriverFailure | None]:
        """Each write on its own; the failures at their places."""

    async def bulk_delete(self, requests: Sequence[DeleteRequest]) -> Sequence[DriverFailure | None]: ...
    async def transact(self, operations: Sequence[SetRequest | DeleteRequest]) -> None:
        """All or none, in order."""

    async def query(self, query: Query) -> QueryResult:
        """Raises `NotSupported` when features lack QUERY_API."""

    async def keys(self, prefix: str, after: str, limit: int) -> Sequence[str]:
        """Up to `limit` live stored keys that start with `prefix` and sort after `after`, sorted."""


DriverFailure = Exception

# --- publish and subscribe --------------------------------------------------------------------------------------------


class Message(NamedTuple):
    """One message as the broker has it. `metadata` holds what travels beside the bytes; `attempt` counts from 1."""

    topic: str
    data: bytes
    metadata: Mapping[str, str] = {}
    attempt: int = 1


class BulkEntry(NamedTuple):
    """One message of a bulk publish; `entry_id` names it in the failures."""

    entry_id: str
    data: bytes
    metadata: Mapping[str, str] = {}


class Outcome(enum.Enum):
    """What became of a delivered message: done with (ACK), or to be delivered again by the broker's rules (NACK)."""

    ACK = 1
    NACK = 2


# Takes one message and says what became of it. Cancelled (not NACKed) when the subscription is stopped.
Handler = Callable[[Message], Awaitable[Outcome]]


class PubSub(Protocol):
    """A broker. `publish` returns when the message is as safe as this broker makes it."""

    features: frozenset[str]

    async def publish(self, topic: str, data: bytes, metadata: Mapping[str, str]) -> None: ...
    async def bulk_publish(
        self, topic: str, entries: Sequence[BulkEntry], metadata: Mapping[str, str]
    ) -> Sequence[DriverFailure | None]:
        """The failures at their places; an atomic driver fails all or none."""

    async def subscribe(
        self, topic: str, group: str, metadata: Mapping[str, str], handler: Handler, *, task_status: Any
    ) -> None:
        """Deliver until cancelled. `task_status.started()` is said once messages can arrive.

        `group` is the consumer group (the app-id, or the component's consumerID): each group gets each message once in
        effect, several subscribers of one group share them.
        """


# --- secrets ----------------------------------------------------------------------------------------------------------


class SecretStore(Protocol):
    """A source of secrets. A missing secret is a `DriverError`, unless the store says otherwise."""

    features: frozenset[str]

    async def get(self, name: str, metadata: Mapping[str, str]) -> Mapping[str, str]: ...
    async def bulk_get(self, metadata: Mapping[str, str]) -> Mapping[str, Mapping[str, str]]: ...


# --- bindings ---------------------------------------------------------------------------------------------------------


class BindingResponse(NamedTuple):
    """What an output binding answers. `data` None means that there is nothing to show, which is not empty data."""

    data: bytes | None = None
    metadata: Mapping[str, str] = {}


class OutputBinding(Protocol):
    """Something outside that can be told to do things. A driver may be an input binding as well."""

    operations: tuple[str, ...]

    async def invoke(self, operation: str, data: bytes, metadata: Mapping[str, str]) -> BindingResponse:
        """Do one of `operations`. Raises `BindingFailed` when there is something to show beside the failure, or another
        `DriverError`."""


# Gives one event to the app; what the app answered, None for nothing. Raises `DriverError` when it did not take it.
BindingHandler = Callable[[bytes, Mapping[str, str]], Awaitable[bytes | None]]


class InputBinding(Protocol):
    """Something outside that makes events."""

    async def read(self, handler: BindingHandler, *, task_status: Any) -> None:
        """Deliver until cancelled. `task_status.started()` is said once events can arrive.

        An event whose handler was cancelled was not taken.
        """


# --- configuration ----------------------------------------------------------------------------------------------------


class ConfigurationItem(NamedTuple):
    """One value. An item that was deleted is told as one with an empty value."""

    value: str
    version: str = ""
    metadata: Mapping[str, str] = {}


# Takes the items that changed together, by key.
ConfigurationHandler = Callable[[Mapping[str, ConfigurationItem]], Awaitable[None]]


class ConfigurationStore(Protocol):
    """A source of settings that apps read and follow."""

    features: frozenset[str]

    async def get(self, keys: Sequence[str], metadata: Mapping[str, str]) -> Mapping[str, ConfigurationItem]:
        """The items of these keys that are there; of all keys when none is named."""

    async def subscribe(
        self, keys: Sequence[str], metadata: Mapping[str, str], handler: ConfigurationHandler, *, task_status: Any
    ) -> None:
        """Tell what changes from `task_status.started()` on, until cancelled; no keys means all of them."""


# --- what waits for the other end -------------------------------------------------------------------------------------


class EntryId(NamedTuple):
    """What tells an entry from every other, however often it is sent: receivers drop repeats by it.

    `epoch` is another one after the node's database was made anew or restored, so that no id is ever given twice.
    """

    node: str
    epoch: int
    sequence: int


class Entry(NamedTuple):
    """One operation that waits. `enqueued_at` is when it came, by what the wall clock says now: its age takes no notice
    of a clock that was set meanwhile. `attempts` failed before this one."""

    id: EntryId
    route: str
    key: str
    payload: Mapping[str, Any] | bytes
    enqueued_hlc: str
    enqueued_at: float
    attempts: int


class Backoff(NamedTuple):
    """The pause after a failure: `first_s`, doubled up to `most_s`, give or take the fraction `jitter`."""

    first_s: float = 1.0
    most_s: float = 300.0
    jitter: float = 0.2


class FateLimits(NamedTuple):
    """How much is kept of what became of a route's entries, and for how long."""

    bytes_max: int
    age_max_s: float


class RouteSettings(NamedTuple):
    """Where entries go and how much may wait for it. Routes of one name are one route, whoever opens it.

    `priority` (0 to 9) counts between routes, and between entries where `when_full` looks at it. `attempts_max` None
    tries for ever. `limit_name` is how the user knows `bytes_max`: a refusal names it. With `fates` what the sender
    returns is kept, and why an entry was dropped.
    """

    name: str
    bytes_max: int = 64 * 2**20
    age_max_s: float = 7 * 86400.0
    priority: int = 4
    when_full: Literal["refuse", "drop-oldest", "drop-lowest-priority"] = "refuse"
    retry: Backoff = Backoff()
    in_flight_max: int = 16
    attempts_max: int | None = None
    dead_bytes_max: int = 16 * 2**20
    limit_name: str = "bytes_max"
    fates: FateLimits | None = None


class LocalCalls:
    """How many calls of the node's apps have begun: what can wait looks here, and lets them go first."""

    __slots__ = ("begun",)

    def __init__(self) -> None:
        self.begun = 0


class Route(Protocol):
    """One driver's way into a route."""

    @property
    def backlog(self) -> bool:
        """True while entries wait: what is new has to queue behind them, to keep the order."""

    async def append(
        self,
        key: str,
        payload: Mapping[str, Any] | bytes,
        *,
        priority: int | None = None,
        size_bytes: int | None = None,
    ) -> EntryId:
        """Durable when it returns. Entries of one `key` are sent in order.

        Raises `Overloaded` when the route is full, `StoreUnavailable` when the disk does not take it.
        """

    def up(self) -> None:
        """The other end can be reached: begin to send. A route begins down."""

    def down(self, reason: str) -> None:
        """It cannot; nothing is sent until `up`."""

    def hurry(self) -> None:
        """Try again now what waits for its next try."""

    def report(self) -> dict[str, Any]:
        """What waits, was given up and was dropped, in the words of the HTTP API."""


# Sends one entry. Returning means delivered, and what is returned may be kept (`fates`). `Unreachable` stops the route
# until it is up again; a `permanent` `DriverError` makes a dead letter of the entry; any other lets its key wait and be
# tried again, while others go on.
Send = Callable[[Entry], Awaitable[Mapping[str, Any] | None]]


class Outbox(Protocol):
    """Keeps what cannot be sent now on disk, and sends it in order when it can."""

    def open_route(self, settings: RouteSettings, send: Send) -> AbstractAsyncContextManager[Route]:
        """The route, sending through `send` until the block is left. What waits then stays on disk."""


# --- the user's app ---------------------------------------------------------------------------------------------------


class AppChannel(Protocol):
    """How an app is called. The response's body must be closed; until then it may hold a slot and a connection."""

    async def send(self, request: Request) -> Response:
        """Raises `DriverError` when the app cannot be reached or is not healthy."""


# --- resiliency -------------------------------------------------------------------------------------------------------


class Policy(Protocol):
    """Timeout, retry and circuit breaker for one target, already composed."""

    active: bool  # False: calling `run` would do nothing but await the operation
    retries: bool  # True: the operation may be run more than once, so its input must be repeatable

    async def run(self, operation: Callable[[], Awaitable[T]]) -> T:
        """The operation's result. Its exceptions that are `permanent` or `unrepeatable` are not tried again; `code` is
        matched."""
