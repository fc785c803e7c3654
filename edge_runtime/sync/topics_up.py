"""Events of local apps on their way up: into the outbox, and from there to the other sidecar's publish.

The envelope stays as the app's publish made it, its id too. With the entry's identity as attributes it can be sent any
number of times: receivers know a repeat (`edge_runtime.receiver`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from edge_runtime.config.links import TopicUp
from edge_runtime.config.values import go_bool, go_duration_s
from edge_runtime.model.ports import Entry, EntryId, RouteSettings
from edge_runtime.sync.outbox_route import LIMIT_NAME, OutboxRoute, time_left_s
from edge_runtime.sync.remote import RemoteSidecar
from edge_runtime.wire import cloudevents

_RAW_TYPE: Final = "application/octet-stream"
_TTLS: Final = ("ttl", "ttlinseconds")
_SIZE_OF_MORE: Final = 64  # what an entry takes beside its bytes


def route_settings(link: str, topic: TopicUp) -> RouteSettings:
    """The outbox's route of a topic. Its name does not say where it leads: what waits goes where the file says."""
    return RouteSettings(
        f"link/{link}/{topic.pubsub}/{topic.topic}",
        topic.bytes_max,
        topic.age_max_s,
        topic.priority,
        topic.when_full,
        attempts_max=topic.attempts_max,
        limit_name=LIMIT_NAME,
    )


class TopicUpRoute(OutboxRoute):
    """One topic's way up."""

    kind = "topicsUp"

    def __init__(self, topic: TopicUp, remote: RemoteSidecar, now: Callable[[], float] = time.time) -> None:
        super().__init__(f"{topic.pubsub}/{topic.topic}", f"{topic.remote_pubsub}/{topic.remote_topic}")
        self.topic = topic
        self._remote = remote
        self._now = now

    async def take(self, data: bytes, metadata: Mapping[str, str]) -> None:
        """Durable when it returns. Raises `DriverError`."""
        route = self.opened("event")
        key = next((value for name, value in metadata.items() if name.lower() == "partitionkey"), "")
        payload: dict[str, Any] = {"data": data}
        if metadata:
            payload["metadata"] = dict(metadata)
        size = len(data) + _SIZE_OF_MORE + sum(len(name) + len(value) for name, value in metadata.items())
        await route.append(key or self.topic.topic, payload, size_bytes=size)

    async def send(self, entry: Entry) -> None:
        """The outbox's sender: raises `Unreachable`, a `permanent` error, or another for another try."""
        payload = entry.payload
        assert isinstance(payload, Mapping)
        data: bytes = payload["data"]
        metadata = self._metadata(payload.get("metadata") or {}, entry)
        marks = identity_attributes(entry.id)
        content_type = cloudevents.CLOUD_EVENT
        if _is_raw(metadata):
            content_type = _RAW_TYPE
        else:
            try:
                data = cloudevents.with_attributes(data, marks)
            except ValueError:  # a dead letter of a raw topic, say
                metadata["rawPayload"] = "true"
                content_type = _RAW_TYPE
        topic = self.topic
        await self._remote.publish(topic.remote_pubsub, topic.remote_topic, data, content_type, {**metadata, **marks})

    def _metadata(self, metadata: Mapping[str, str], entry: Entry) -> dict[str, str]:
        """What came with the publish, without what its envelope has already, and with what is left of its time."""
        kept: dict[str, str] = {}
        for name, value in metadata.items():
            lower = name.lower()
            if lower in _TTLS:
                ttl_s = _ttl_s(value)
                if ttl_s is None:
                    continue
                left_s = time_left_s(ttl_s, value, entry, self._now())
                kept["ttlInSeconds"] = str(max(int(left_s), 1))
            elif not lower.startswith("cloudevent."):
                kept[name] = value
        return kept


def identity_attributes(entry: EntryId) -> dict[str, str]:
    """As CloudEvents takes them: lower-case names, and texts, since its integers end at 2^31."""
    return {"edgenode": entry.node, "edgeepoch": str(entry.epoch), "edgesequence": str(entry.sequence)}


def _ttl_s(text: str) -> float | None:
    """What is no time to live counts not, as for a local publish."""
    try:
        ttl_s = float(int(text)) if text.lstrip("+-").isdecimal() else go_duration_s(text)
    except (ValueError, OverflowError):
        return None
    return ttl_s if ttl_s > 0 else None


def _is_raw(metadata: Mapping[str, str]) -> bool:
    for name, value in metadata.items():
        if name.lower() == "rawpayload" and value:
            try:
                return go_bool(value)
            except ValueError:
                return False
    return False
