"""Calls of an app that wait for the link: kept whole, sent in the order of their key, and their answers kept.

An answer that the app gave is the outcome, a refusal too (2xx, 3xx, 4xx). Tried again is what may go better another
time: 408, 425, 429, 5xx, no answer, and what the other sidecar says for itself. A call may arrive more than once,
after a crash or a cut in the middle: the headers `edge-node`, `edge-epoch` and `edge-sequence` tell a repeat.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any, Final

import trio

from edge_runtime.model.errors import DriverError
from edge_runtime.model.http import Body, Header, Request, Response
from edge_runtime.model.ports import Entry, EntryId
from edge_runtime.sync.far_app import far_request
from edge_runtime.sync.link import Link
from edge_runtime.sync.link_settings import SLOWEST_BYTES_PER_S
from edge_runtime.sync.outbox_route import OutboxRoute, time_left_s

# So long an app may take for a call that waited; then it is tried again.
ANSWER_LIMIT_S: Final = 60.0
BODY_BYTES_MAX: Final = 16 * 2**20
MESSAGE_BYTES: Final = 4096  # of an answer, which are looked into however little is kept of it
_LATER: Final = (408, 425, 429)
_SUSPICIOUS: Final = (407, 502, 503, 504)
_SIDECAR: Final = "ERR_DIRECT_INVOKE"
_SIZE_OF_MORE: Final = 128


class Denied(DriverError):
    """The other side's access control refuses the call."""

    permanent = True


class QueuedCalls(OutboxRoute):
    """The calls of one app of `routes.invocation`, from all apps of this node."""

    kind = "invocation"

    def __init__(self, link: Link, app_id: str, answer_bytes_max: int, now: Callable[[], float]) -> None:
        super().__init__(app_id, app_id)
        self._link = link
        self._answer_bytes_max = answer_bytes_max
        self._now = now

    async def take(self, caller: str, target: str, request: Request, key: str, ttl_s: float | None) -> str:
        """The call's id, once it is on disk. Raises `DriverError`, or `BodyTooLarge`."""
        route = self.opened("call")
        body = await request.body.read(BODY_BYTES_MAX)
        headers = [[name, value] for name, value in request.headers]
        payload: dict[str, Any] = {
            "caller": caller,
            "app": target,
            "method": request.method,
            "path": request.target,
            "headers": headers,
            "body": body,
        }
        if ttl_s is not None:
            payload["ttl"] = ttl_s
        size = len(body) + len(request.target) + _SIZE_OF_MORE + sum(len(name) + len(text) for name, text in headers)
        return call_id(await route.append(key or self.name, payload, size_bytes=size))

    async def send(self, entry: Entry) -> Mapping[str, Any]:
        """The app's answer. Raises `Unreachable`, a `permanent` error, or another for another try."""
        payload = entry.payload
        assert isinstance(payload, Mapping)
        if "ttl" in payload:
            time_left_s(payload["ttl"], f"{payload['ttl']:g} s", entry, self._now())
        headers = [(bytes(name), bytes(value)) for name, value in payload["headers"]]
        request = Request(payload["method"], payload["path"], [*headers, *identity(entry.id)], Body(payload["body"]))
        limit_s = answer_limit_s(len(payload["body"]))
        response = await self._link.pass_on(far_request(payload["app"], request), limit_s)
        body, whole = await beginning_in_time(
            self._link.name, response.body, max(self._answer_bytes_max, MESSAGE_BYTES)
        )
        await self._judge(response, body)
        answer = kept_answer(response, body, whole, self._answer_bytes_max)
        said = {name: payload[name] for name in ("caller", "app", "method", "path")}
        return {**said, "enqueued": entry.enqueued_at, "answer": answer}

    async def _judge(self, response: Response, body: bytes) -> None:
        """Raises unless it is the call's outcome."""
        status = response.status
        text = f"link {self._link.name}: answered {status}{excerpt(body)}"
        if status in _SUSPICIOUS or 300 <= status < 400 or is_page(response):
            await self._link.confirm()
        if says(body) == _SIDECAR:
            raise (Denied if status == 403 else DriverError)(text, code=status)
        if status >= 500 or status in _LATER or status == 407:
            raise DriverError(text, code=status)


def answer_limit_s(body_bytes: int) -> float:
    """How long an answer may take to begin, with the time that a slow line needs for the call itself."""
    return ANSWER_LIMIT_S + body_bytes / SLOWEST_BYTES_PER_S


def call_id(entry: EntryId) -> str:
    """How a call is asked for: as the outbox names its entries."""
    return f"{entry.node}-{entry.epoch}-{entry.sequence}"


def identity(entry: EntryId) -> tuple[Header, ...]:
    """What tells a call from every other, however often it comes."""
    return (
        (b"edge-node", entry.node.encode()),
        (b"edge-epoch", b"%d" % entry.epoch),
        (b"edge-sequence", b"%d" % entry.sequence),
    )


def kept_answer(response: Response, body: bytes, whole: bool, bytes_max: int) -> dict[str, Any]:
    """Status, headers and the beginning of the body."""
    answer: dict[str, Any] = {
        "status": response.status,
        "headers": [[name, value] for name, value in response.headers],
        "body": body[:bytes_max],
    }
    if not whole or len(body) > bytes_max:
        answer["truncated"] = True
    return answer


async def beginning_in_time(link: str, body: Body, bytes_max: int) -> tuple[bytes, bool]:
    """The beginning of an answer's body, and whether that is all; the rest is not waited for. Raises `DriverError`."""
    with trio.move_on_after(ANSWER_LIMIT_S):
        return await _beginning(body, bytes_max)
    raise DriverError(f"link {link}: the answer did not come to its end within {ANSWER_LIMIT_S:g} s")


async def _beginning(body: Body, bytes_max: int) -> tuple[bytes, bool]:
    if body.buffered:
        return body.data[:bytes_max], len(body.data) <= bytes_max
    pieces: list[bytes] = []
    size = 0
    source = body.chunks()
    try:
        async for piece in source:
            pieces.append(piece)
            size += len(piece)
            if size > bytes_max:
                break
    finally:
        if isinstance(source, AsyncGenerator):
            await source.aclose()
        await body.aclose()
    return b"".join(pieces)[:bytes_max], size <= bytes_max


def says(body: bytes) -> str:
    """The error code of an answer in a sidecar's words; empty when it is in others."""
    try:
        code = json.loads(body)["errorCode"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return code if isinstance(code, str) else ""


def is_page(response: Response) -> bool:
    """A web page, as a captive portal or a proxy may speak for itself."""
    return (response.header(b"content-type") or b"").lower().startswith(b"text/html")


def excerpt(body: bytes) -> str:
    text = " ".join(body[:300].decode("utf-8", "replace").split())
    return f": {text}" if text else ""
