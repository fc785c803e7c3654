"""How events reach an app: a narrow port, and its HTTP side.

A delivery either has a verdict or raises a `DriverError`, which a resiliency policy may try again: the app could not be
reached, answered with an error status (then `code` has it) or asked for another attempt.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import quote

import msgspec

from edge_runtime.model.errors import BodyTooLarge, DriverError
from edge_runtime.model.http import Body, Header, Request, Response
from edge_runtime.model.ports import AppChannel
from edge_runtime.model.trace import Trace
from edge_runtime.observability.trace import Tracer, valid_traceparent
from edge_runtime.wire.cloudevents import CLOUD_EVENT, parse_json
from edge_runtime.wire.headers import metadata_headers

logger: Final = logging.getLogger("dapr.runtime.processor.subscription")

ANSWER_BYTES_MAX: Final = 4 * 2**20
_BULK_TYPE: Final = "com.dapr.event.sent.bulk"
_SINGLE: Final[tuple[Header, ...]] = ((b"content-type", CLOUD_EVENT.encode()),)
_PUBSUB_NAME: Final = b"pubsubname"
_BULK: Final[tuple[Header, ...]] = ((b"content-type", b"application/json"),)


class Verdict(enum.Enum):
    """What the app made of an event: done, not wanted, it has no such route, or it has no deliveries at all (then the
    event is done with, without a copy to the dead letters). Everything else is an error."""

    SUCCESS = "success"
    DROP = "drop"
    MISSING = "missing"
    IGNORED = "ignored"


class Event(NamedTuple):
    """One event on its way to the app. `data` is the envelope (for a binary one the bytes alone)."""

    pubsub: str
    topic: str
    data: bytes
    metadata: Mapping[str, str] = {}
    traceparent: str = ""
    tracestate: str = ""
    raw: bool = False


class BulkEvent(NamedTuple):
    """One entry of a batch. `event` is a JSON value: the envelope, or a base64 text of a raw payload."""

    entry_id: str
    event: bytes
    content_type: str
    metadata: Mapping[str, str] = {}


class Batch(NamedTuple):
    """Entries of one subscription that go to one path."""

    batch_id: str
    pubsub: str
    topic: str
    entries: Sequence[BulkEvent]


class DeliveryFailed(DriverError):
    """The app did not take the event; `code` is its HTTP status when that says so."""


class AppDelivery(Protocol):
    """A kind of subscriber: an HTTP app, a gRPC app or an open stream."""

    async def deliver(self, event: Event, path: str) -> Verdict:
        """Raises `DriverError` when the event has to be delivered again."""

    async def deliver_bulk(self, batch: Batch, path: str) -> Mapping[str, Verdict]:
        """The entries that are done with; one that is not there failed. Raises `DriverError` when all failed."""


class HttpAppDelivery:
    """Events as POST requests to the app's routes."""

    def __init__(self, channel: AppChannel, tracer: Tracer | None = None) -> None:
        """With a `tracer` that mints, each delivery is a span of its own under the event's trace."""
        self._channel = channel
        self._tracer = tracer if tracer is not None and tracer.minting else None
        self._headers: dict[str, tuple[Header, ...]] = {}

    async def deliver(self, event: Event, path: str) -> Verdict:
        headers = self._with_metadata(event) if event.metadata else None
        if event.traceparent and valid_traceparent(event.traceparent):
            headers = [header for header in headers or self._base(event.pubsub) if header[0] not in _TRACE_HEADERS]
            headers.append((b"traceparent", self._continued(event.traceparent).encode()))
            if event.tracestate:
                headers.append((b"tracestate", event.tracestate.encode("ascii", "replace")))
        request = Request("POST", target_of(path), headers or self._base(event.pubsub), Body(event.data))
        response = await self._channel.send(request)
        body = await _read(response)
        return single_verdict(response.status, body, event.topic)

    async def deliver_bulk(self, batch: Batch, path: str) -> Mapping[str, Verdict]:
        request = Request("POST", target_of(path), (*_BULK, *self._base(batch.pubsub)[1:]), Body(bulk_body(batch)))
        response = await self._channel.send(request)
        body = await _read(response)
        return bulk_verdicts(response.status, body, batch)

    def _continued(self, traceparent: str) -> str:
        return traceparent if self._tracer is None else self._tracer.child(Trace(traceparent)).traceparent

    def _with_metadata(self, event: Event) -> list[Header]:
        named = metadata_headers(event.metadata)
        return [*self._base(event.pubsub), *(header for header in named if header[0] != _PUBSUB_NAME)]

    def _base(self, pubsub: str) -> tuple[Header, ...]:
        headers = self._headers.get(pubsub)
        if headers is None:
            headers = self._headers[pubsub] = (*_SINGLE, *metadata_headers({"pubsubName": pubsub}))
        return headers


async def _read(response: Response) -> bytes:
    body = response.body
    try:
        return body.data if body.buffered else await body.read(ANSWER_BYTES_MAX)
    except BodyTooLarge:
        return b""  # no status can be read from it
    finally:
        await body.aclose()


# --- the request ------------------------------------------------------------------------------------------------------

_TRACE_HEADERS: Final = (b"traceparent", b"tracestate")


@lru_cache(maxsize=512)
def target_of(path: str) -> bytes:
    """A subscription's path as a request target: with its slash, and with what a target cannot hold escaped."""
    rooted = path if path.startswith("/") else "/" + path
    return quote(rooted, safe="/?&=%:@!$'()*+,;~-._").encode()


class _BulkEntryJson(msgspec.Struct):
    entryId: str
    event: msgspec.Raw
    contentType: str
    metadata: Mapping[str, str] | None


class _BatchJson(msgspec.Struct):
    id: str
    entries: list[_BulkEntryJson]
    metadata: dict[str, str]
    topic: str
    pubsubname: str
    type: str


_encode: Final = msgspec.json.Encoder().encode


def bulk_body(batch: Batch) -> bytes:
    """The JSON of a batch; events stand in it byte for byte."""
    entries = [
        _BulkEntryJson(entry.entry_id, msgspec.Raw(entry.event), entry.content_type, entry.metadata or None)
        for entry in batch.entries
    ]
    metadata = {"pubsubName": batch.pubsub}
    return _encode(_BatchJson(batch.batch_id, entries, metadata, batch.topic, batch.pubsub, _BULK_TYPE))


# --- the answer -------------------------------------------------------------------------------------------------------


def single_verdict(status: int, body: bytes, topic: str) -> Verdict:
    """What the answer to one event means. Raises `DeliveryFailed` for one that is to be delivered again."""
    if 200 <= status < 300:
        said = _status_text(body)
        if said in ("", "SUCCESS"):
            return Verdict.SUCCESS
        if said == "DROP":
            logger.warning("the app answered DROP for an event of topic %s", topic)
            return Verdict.DROP
        raise DeliveryFailed(f"the app answered the status {said!r}")
    if status == 404:
        logger.warning("the app answered 404 for an event of topic %s, which is dropped: is its route missing?", topic)
        return Verdict.MISSING
    text = ": " + body[:512].decode("utf-8", "replace") if body else ""
    raise DeliveryFailed(f"the app answered {status}{text}", code=status)


def _status_text(body: bytes) -> str:
    """`status` of a JSON answer; what cannot be read says nothing, which is success."""
    if not body:
        return ""
    try:
        document = parse_json(body)
    except ValueError:
        return ""
    value = _member(document, "status")
    return value if isinstance(value, str) else ""


def bulk_verdicts(status: int, body: bytes, batch: Batch) -> Mapping[str, Verdict]:
    """What the answer to a batch means: unlike a single answer, silence about an entry is a failure."""
    if status == 404:
        logger.warning("the app answered 404 for events of topic %s, which are dropped", batch.topic)
        return {entry.entry_id: Verdict.MISSING for entry in batch.entries}
    if not 200 <= status < 300:
        raise DeliveryFailed(f"the app answered {status} for a batch of topic {batch.topic}", code=status)
    try:
        statuses = _member(parse_json(body), "statuses")
    except ValueError as error:
        raise DeliveryFailed(f"the app's answer to a batch of topic {batch.topic} is no JSON: {error}") from None
    if not isinstance(statuses, list):
        raise DeliveryFailed(f"the app's answer to a batch of topic {batch.topic} has no list `statuses`")
    ids = {entry.entry_id for entry in batch.entries}
    verdicts = {}
    for item in statuses:
        entry_id, said = _member(item, "entryId"), _member(item, "status")
        if isinstance(said, str) and isinstance(entry_id, str) and entry_id in ids and said in _BULK_VERDICTS:
            verdicts[entry_id] = _BULK_VERDICTS[said]
    return verdicts


_BULK_VERDICTS: Final = {"SUCCESS": Verdict.SUCCESS, "DROP": Verdict.DROP}


def _member(document: Any, name: str) -> Any:
    """A member by its name, which may be in any case."""
    if not isinstance(document, dict):
        return None
    if name in document:
        return document[name]
    return next((value for key, value in document.items() if key.lower() == name.lower()), None)
