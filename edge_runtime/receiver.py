"""Drops events and calls that come a second time from an edge node: for the apps that receive them, wherever they run.

This file needs nothing but Python and may be copied. Every event that an edge node forwards has the CloudEvents
attributes `edgenode`, `edgeepoch` and `edgesequence`: together they are the identity of one publish, however often the
network made it be sent. A call that waited for the network has them as headers, `edge-node`, `edge-epoch` and
`edge-sequence`. A node's sequences are shared by all its topics, so a receiver of one topic sees some of them
only, and an older one may come late. What was seen is therefore kept as runs of sequences: a high-water mark, and the
gaps below it. At most `runs_max` runs are kept for a node's epoch; what lies below the lowest of them counts as new,
because an event that comes twice does less harm than one that is lost.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping, Sequence
from typing import Any, NamedTuple, Protocol

RUNS_MAX = 8192
NODES_MAX = 10_000
EPOCHS_MAX = 4
BODY_BYTES_MAX = 4 * 1024 * 1024
_DIGITS_MAX = 18
_ATTRIBUTES = ("edgenode", "edgeepoch", "edgesequence")
_HEADERS = ("edge-node", "edge-epoch", "edge-sequence")
# A call that was answered so comes again; every other answer is its outcome.
_LATER = (408, 425, 429)


class Identity(NamedTuple):
    """What tells an event of an edge node from every other."""

    node: str
    epoch: int
    sequence: int


def identity_of(event: Mapping[str, Any]) -> Identity | None:
    """The identity that a CloudEvent carries; None when it comes from no edge node."""
    node, epoch, sequence = event.get("edgenode"), event.get("edgeepoch"), event.get("edgesequence")
    if not isinstance(node, str) or not node:
        return None
    try:
        return Identity(node, _whole(epoch), _whole(sequence))
    except ValueError:
        return None


def identity_of_headers(
    headers: Iterable[tuple[str, str]] | Mapping[str, str], names: Sequence[str] = (*_ATTRIBUTES, *_HEADERS)
) -> Identity | None:
    """The identity that a raw event, or a call that waited, carries in its headers; None when it has none.

    Headers of events are called as the attributes are, and are there when the broker passes metadata on.
    """
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    return identity_of({name.lower().replace("-", ""): value for name, value in pairs if name.lower() in names})


def _whole(value: Any) -> int:
    """A number of nodes is a text; one that passed through other hands may have become a number."""
    if isinstance(value, str):
        if not (0 < len(value) <= _DIGITS_MAX and value.isascii() and value.isdigit()):
            raise ValueError(value)
    elif isinstance(value, float):
        if not value.is_integer():
            raise ValueError(value)
    elif not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(value)
    number = int(value)
    if number < 0:
        raise ValueError(value)
    return number


class Runs:
    """Numbers that were seen, as runs without a gap: `begins[i]` to `ends[i]`, both seen."""

    __slots__ = ("begins", "ends", "runs_max")

    def __init__(self, runs_max: int = RUNS_MAX) -> None:
        self.begins: list[int] = []
        self.ends: list[int] = []
        self.runs_max = runs_max

    def __contains__(self, number: int) -> bool:
        place = bisect_right(self.begins, number) - 1
        return place >= 0 and number <= self.ends[place]

    def add(self, number: int) -> None:
        """See a number. The lowest run is forgotten when there are too many."""
        begins, ends = self.begins, self.ends
        place = bisect_right(begins, number) - 1
        if place >= 0 and number <= ends[place]:
            return
        follows = place >= 0 and ends[place] == number - 1
        precedes = place + 1 < len(begins) and begins[place + 1] == number + 1
        if follows and precedes:
            ends[place] = ends[place + 1]
            del begins[place + 1], ends[place + 1]
        elif follows:
            ends[place] = number
        elif precedes:
            begins[place + 1] = number
        else:
            begins.insert(place + 1, number)
            ends.insert(place + 1, number)
            if len(begins) > self.runs_max:
                del begins[0], ends[0]

    def to_json(self) -> list[int]:
        """Begin and end of each run in turn."""
        return [number for run in zip(self.begins, self.ends, strict=True) for number in run]

    @classmethod
    def from_json(cls, numbers: list[int], runs_max: int = RUNS_MAX) -> Runs:
        runs = cls(runs_max)
        runs.begins, runs.ends = numbers[-2 * runs_max :: 2], numbers[1::2][-runs_max:]
        return runs


class Storage(Protocol):
    """Where what was seen outlives the process. Save within the transaction of your own work, when you can."""

    def load(self, node: str) -> str | None:
        """What was saved last for this node."""

    def save(self, node: str, text: str) -> None: ...


class Receiver:
    """Tells new events from repeats. One for all topics of an app; not for several threads at once."""

    def __init__(self, storage: Storage | None = None, *, runs_max: int = RUNS_MAX, nodes_max: int = NODES_MAX) -> None:
        self._storage = storage
        self._runs_max = runs_max
        self._nodes_max = nodes_max
        self._nodes: OrderedDict[str, dict[int, Runs]] = OrderedDict()
        self.in_hand: set[Identity] = set()

    def seen(self, identity: Identity | None) -> bool:
        """Whether the event was handled before. Events of no edge node never were."""
        if identity is None:
            return False
        runs = self._epochs(identity.node).get(identity.epoch)
        return runs is not None and identity.sequence in runs

    def mark(self, identity: Identity | None) -> None:
        """The event is handled: every further one of this identity is a repeat."""
        if identity is None:
            return
        epochs = self._epochs(identity.node)
        runs = epochs.get(identity.epoch)
        if runs is None:
            runs = epochs[identity.epoch] = Runs(self._runs_max)
            if len(epochs) > EPOCHS_MAX:
                del epochs[next(iter(epochs))]  # the one that was met first
        runs.add(identity.sequence)
        if self._storage is not None:
            text = json.dumps({str(epoch): kept.to_json() for epoch, kept in epochs.items()}, separators=(",", ":"))
            self._storage.save(identity.node, text)

    def _epochs(self, node: str) -> dict[int, Runs]:
        epochs = self._nodes.get(node)
        if epochs is None:
            text = None if self._storage is None else self._storage.load(node)
            saved = json.loads(text) if text else {}
            epochs = {int(epoch): Runs.from_json(numbers, self._runs_max) for epoch, numbers in saved.items()}
            self._nodes[node] = epochs
            if len(self._nodes) > self._nodes_max:
                self._nodes.popitem(last=False)
        self._nodes.move_to_end(node)
        return epochs


Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class DropRepeats:
    """ASGI middleware: an event that the app has handled is answered SUCCESS and not given to it again.

    It is handled when the app's answer is one of the 200s that does not say RETRY. One that is being handled at this
    moment is answered RETRY. Its identity is in the event, or in the headers when the event is raw and the broker
    passes metadata on. Requests that are no single CloudEvents, or larger than `body_bytes_max`, pass unseen.

    A call that waited on an edge node is known by its headers, whatever its verb and body. It is handled when the
    answer is none that makes it come again (408, 425, 429, 5xx). A repeat is answered 208 and not given to the app,
    one that is being handled 425.
    """

    def __init__(self, app: App, receiver: Receiver | None = None, *, body_bytes_max: int = BODY_BYTES_MAX) -> None:
        self._app = app
        self.receiver = Receiver() if receiver is None else receiver
        self._body_bytes_max = body_bytes_max

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        called = _identity_beside(scope, _HEADERS)
        if called is not None:
            await self._call(called, scope, receive, send)
            return
        if scope["type"] != "http" or scope["method"] != "POST" or not _is_event(scope):
            await self._app(scope, receive, send)
            return
        messages, body = await self._read(receive)
        identity = (None if body is None else _identity_in(body)) or _identity_beside(scope, _ATTRIBUTES)
        replay = _replay(messages, receive)
        if identity is None:
            await self._app(scope, replay, send)
        elif self.receiver.seen(identity):
            await _answer(send, b'{"status":"SUCCESS"}')
        elif identity in self.receiver.in_hand:
            await _answer(send, b'{"status":"RETRY"}')
        else:
            await self._handle(identity, scope, replay, send)

    async def _call(self, identity: Identity, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the app answer a call, and mark it with the head of the answer."""
        receiver = self.receiver
        if receiver.seen(identity):
            await _answer(send, b'{"status":"REPEAT"}', 208)
            return
        if identity in receiver.in_hand:
            await _answer(send, b'{"status":"RETRY"}', 425)
            return

        async def mark(message: Message) -> None:
            if message["type"] == "http.response.start" and not _comes_again(message["status"]):
                receiver.mark(identity)
            await send(message)

        receiver.in_hand.add(identity)
        try:
            await self._app(scope, receive, mark)
        finally:
            receiver.in_hand.discard(identity)

    async def _handle(self, identity: Identity, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the app handle it, and mark it before the answer leaves."""
        receiver = self.receiver
        answer: list[Message] = []

        async def keep(message: Message) -> None:
            answer.append(message)

        receiver.in_hand.add(identity)
        try:
            await self._app(scope, receive, keep)
            if _took(answer):
                receiver.mark(identity)
        finally:
            receiver.in_hand.discard(identity)
        for message in answer:
            await send(message)

    async def _read(self, receive: Receive) -> tuple[list[Message], bytes | None]:
        """The messages of the body, and the body unless it is too large or broken off."""
        messages: list[Message] = []
        size = 0
        while True:
            message = await receive()
            messages.append(message)
            size += len(message.get("body", b""))
            if message["type"] != "http.request" or size > self._body_bytes_max:
                return messages, None
            if not message.get("more_body"):
                return messages, b"".join(one.get("body", b"") for one in messages)


def _identity_beside(scope: Scope, names: Sequence[str]) -> Identity | None:
    """What the headers of these names say: a call that waited on an edge node has other names than a raw event."""
    if scope["type"] != "http":
        return None
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
    return identity_of_headers(headers, names)


def _comes_again(status: int) -> bool:
    return status >= 500 or status in _LATER


def _is_event(scope: Scope) -> bool:
    for name, value in scope["headers"]:
        if name.lower() == b"content-type":
            kind = value.partition(b";")[0].strip().lower()
            return bool(kind == b"application/cloudevents+json")
    return False


def _identity_in(body: bytes) -> Identity | None:
    try:
        event = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return identity_of(event) if isinstance(event, dict) else None


def _replay(messages: list[Message], receive: Receive) -> Receive:
    waiting = iter(messages)

    async def again() -> Message:
        for message in waiting:
            return message
        return await receive()

    return again


def _took(answer: list[Message]) -> bool:
    """Whether the app's answer means, to Dapr, that the event is done with."""
    status = next((message["status"] for message in answer if message["type"] == "http.response.start"), 500)
    if not 200 <= status < 300:
        return False
    body = b"".join(message.get("body", b"") for message in answer if message["type"] == "http.response.body")
    try:
        said = json.loads(body) if body else None
    except (ValueError, RecursionError):
        return True
    verdict = said.get("status") if isinstance(said, dict) else None
    return not isinstance(verdict, str) or verdict in ("SUCCESS", "DROP")


async def _answer(send: Send, body: bytes, status: int = 200) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
