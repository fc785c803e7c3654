"""Apps that a cloud link leads to, as invocation sees them: a call goes out now, or waits for its turn when it asks to.

A call asks by headers, which stay here: `edge-queue: true`, `edge-queue-key`, `edge-queue-ttl`.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable
from typing import Final, NamedTuple, Protocol

from edge_runtime.blocks.invoke.peers import Peer
from edge_runtime.config.values import go_bool, go_duration_s
from edge_runtime.model.errors import BadMetadata
from edge_runtime.model.http import Body, Header, Headers, Request, Response
from edge_runtime.model.ports import AppChannel
from edge_runtime.observability.metrics import Metrics

QUEUE: Final = b"edge-queue"
QUEUE_KEY: Final = b"edge-queue-key"
QUEUE_TTL: Final = b"edge-queue-ttl"
TRACKING: Final = b"edge-tracking-id"
PLACE: Final = "/edge/v1/invocations"

# What of a call stays here: ours to say, or meant for this sidecar. The link has a token of its own.
STAYS: Final = frozenset(
    {
        b"dapr-app-id", b"dapr-api-token", b"dapr-caller-app-id", b"dapr-caller-namespace", b"dapr-callee-app-id",
        QUEUE, QUEUE_KEY, QUEUE_TTL,
    }
)  # fmt: skip


def addresses_sidecar(header: Header) -> bool:
    """Whether it is the form of Basic authorization that names a target: the other sidecar would heed it too."""
    name, value = header
    if name != b"authorization" or value[:6] != b"Basic ":
        return False
    try:
        user = base64.b64decode(value[6:], validate=True).partition(b":")[0]
    except binascii.Error:
        return False
    return user.lower() == b"dapr-app-id"


class Wait(NamedTuple):
    """How a call waits: behind those of its `key`, at most `ttl_s`."""

    key: str = ""
    ttl_s: float | None = None


class FarApp(AppChannel, Protocol):
    """An app on the other side. Sending raises `Unreachable` at once while the link is away."""

    async def queue(self, request: Request, key: str, ttl_s: float | None) -> str:
        """The id to ask for the outcome by, once the call is on disk; it waits behind those of its `key`.

        Raises `DriverError`.
        """


class FarPeers(Protocol):
    """Finds an app that a link leads to."""

    def find(self, app_id: str, namespace: str) -> Peer | None:
        """Its place among the apps that can be called; `namespace` is what the caller said, empty for nothing."""


def far_peer(target: str, far: FarApp) -> Peer:
    """Such an app in the place of one of this node; who may call it, the other side says."""
    peer = Peer(target, "", far, None, Metrics())
    peer.far = far
    return peer


def wait_of(headers: Headers) -> Wait | None:
    """How the call is to wait; None when it is not. Raises `BadMetadata`."""
    asked = _value(headers, QUEUE)
    try:
        if not asked or not go_bool(asked):
            return None
    except ValueError:
        raise BadMetadata(f"edge-queue is {asked!r}; expected true or false") from None
    return Wait(_value(headers, QUEUE_KEY), _ttl_s(_value(headers, QUEUE_TTL)))


def _value(headers: Headers, name: bytes) -> str:
    return next((value.decode("utf-8", "replace").strip() for key, value in headers if key == name), "")


def _ttl_s(text: str) -> float | None:
    if not text:
        return None
    try:
        ttl_s = float(int(text)) if text.isdecimal() else go_duration_s(text)
    except (ValueError, OverflowError):
        ttl_s = 0.0
    if ttl_s <= 0:
        raise BadMetadata(f"edge-queue-ttl is {text!r}; expected seconds above zero, or a duration such as 1h30m")
    return ttl_s


def accepted(call_id: str, added: Iterable[Header] = ()) -> Response:
    """The answer to a call that waits."""
    location = f"{PLACE}/{call_id}"
    document = {"id": call_id, "state": "waiting", "location": location}
    headers = [
        (b"content-type", b"application/json"),
        (TRACKING, call_id.encode()),
        (b"location", location.encode()),
        *added,
    ]
    return Response(202, headers, Body(json.dumps(document).encode()))
