"""An output binding of the other sidecar: called now, or given to the outbox and called when its turn comes.

Over HTTP, whose answers say most; over gRPC when the data are no JSON, which HTTP cannot carry.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from edge_runtime.model.errors import BadMetadata, BindingFailed, BodyTooLarge, DriverError
from edge_runtime.model.http import Body, Request, Response
from edge_runtime.model.ports import BindingResponse, Entry
from edge_runtime.sync.link import Link
from edge_runtime.sync.link_answers import Refused, segment
from edge_runtime.sync.outbox_route import OutboxRoute, time_left_s
from edge_runtime.sync.queued_calls import MESSAGE_BYTES, answer_limit_s, beginning_in_time, call_id, excerpt, is_page
from edge_runtime.sync.topics_up import identity_attributes
from edge_runtime.wire.exact_json import NotJson, compact, is_utf8

TRACKING: Final = "edge-tracking-id"
_RPC: Final = "/dapr.proto.runtime.v1.Dapr/InvokeBinding"
_JSON: Final = ((b"content-type", b"application/json"),)
_SHOWN: Final = b"metadata."
_ANSWER_BYTES_MAX: Final = 16 * 2**20
_TOKEN: Final = "dapr-api-token"
_KEY: Final = "partitionkey"
_TTLS: Final = ("ttl", "ttlinseconds")
_SIZE_OF_MORE: Final = 128


class FarBinding:
    """One binding of the other side. Which operations it has, that side knows."""

    operations: tuple[str, ...] = ()

    def __init__(self, link: Link, remote_name: str) -> None:
        self._link = link
        self._remote_name = remote_name

    async def invoke(self, operation: str, data: bytes, metadata: Mapping[str, str]) -> BindingResponse:
        """What the binding answers. Raises `Unreachable` at once while the link is away."""
        if not is_exact_json(data):
            return await self._over_grpc(operation, data, metadata)
        response = await self._over_http(operation, data, metadata)
        try:
            content = await response.body.read(_ANSWER_BYTES_MAX)
        except BodyTooLarge:
            raise DriverError(f"link {self._link.name}: the answer is larger than {_ANSWER_BYTES_MAX} bytes") from None
        finally:
            await response.body.aclose()
        return self._read(response, content)

    async def begin_of(
        self, operation: str, data: bytes, metadata: Mapping[str, str], bytes_max: int
    ) -> tuple[BindingResponse, bool]:
        """The same within the time that a call has which waited: the beginning of the answer, and whether that is all.

        One that is long has been answered all the same, and must not be made again.
        """
        limit_s = answer_limit_s(len(data))
        if not is_exact_json(data):
            return _begin(await self._over_grpc(operation, data, metadata, limit_s), bytes_max)
        response = await self._over_http(operation, data, metadata, limit_s)
        body, whole = await beginning_in_time(self._link.name, response.body, max(bytes_max, MESSAGE_BYTES))
        return _begin(self._read(response, body), bytes_max, whole)

    async def _over_http(
        self, operation: str, data: bytes, metadata: Mapping[str, str], limit_s: float = math.inf
    ) -> Response:
        place = b"/v1.0/bindings/" + segment(self._remote_name).encode()
        request = Request("POST", place, _JSON, Body(document(operation, data, crossing(metadata))))
        return await self._link.pass_on(request, limit_s)

    def _read(self, response: Response, content: bytes) -> BindingResponse:
        shown = {
            name[len(_SHOWN) :].decode("latin-1"): value.decode("utf-8", "replace")
            for name, value in response.headers
            if name.startswith(_SHOWN)
        }
        if response.status == 204:
            return BindingResponse(None, shown)
        if response.status != 200 or is_page(response):
            text = f"link {self._link.name}: answered {response.status}: {message(content)}"
            raise BindingFailed(text, code=response.status, metadata=shown)
        return BindingResponse(content, shown)

    async def _over_grpc(
        self, operation: str, data: bytes, metadata: Mapping[str, str], limit_s: float | None = None
    ) -> BindingResponse:
        from edge_runtime.net.grpc.client import RpcError
        from edge_runtime.proto.dapr.proto.runtime.v1.binding_pb2 import InvokeBindingRequest, InvokeBindingResponse

        self.check_grpc()
        request = InvokeBindingRequest(
            name=self._remote_name, data=data, metadata=crossing(metadata), operation=operation
        )
        try:
            reply = await self._link.rpc(_RPC, request, InvokeBindingResponse, (), limit_s)
        except RpcError as error:
            raise DriverError(f"link {self._link.name}: {error.message}", code=error.code) from error
        return BindingResponse(reply.message.data or None, dict(reply.message.metadata))

    def check_grpc(self) -> None:
        """Raises `BadMetadata` without a gRPC endpoint."""
        if not self._link.settings.resource.grpc:
            raise BadMetadata(f"the data are no JSON; link {self._link.name} needs spec.endpoint.grpc for others")


class QueuedBinding(OutboxRoute):
    """A binding whose calls all wait for their turn; those of one `partitionKey` go one after the other."""

    kind = "bindings"
    operations: tuple[str, ...] = ()

    def __init__(
        self, link: Link, name: str, remote_name: str, answer_bytes_max: int, now: Callable[[], float]
    ) -> None:
        super().__init__(name, remote_name)
        self._far = FarBinding(link, remote_name)
        self._link = link
        self._answer_bytes_max = answer_bytes_max
        self._now = now

    async def invoke(self, operation: str, data: bytes, metadata: Mapping[str, str]) -> BindingResponse:
        """Says how to ask for the outcome, once the call is on disk. Raises `DriverError`."""
        route = self.opened("call")
        if not is_exact_json(data):
            self._far.check_grpc()
        key = _first(metadata, (_KEY,))
        payload = {"operation": operation, "data": data, "metadata": crossing(metadata)}
        size = len(data) + _SIZE_OF_MORE + sum(len(name) + len(value) for name, value in metadata.items())
        entry = await route.append(key or self.name, payload, size_bytes=size)
        return BindingResponse(None, {TRACKING: call_id(entry)})

    async def send(self, entry: Entry) -> Mapping[str, Any]:
        """What the binding answered. Raises `Unreachable`, a `permanent` error, or another for another try."""
        payload = entry.payload
        assert isinstance(payload, Mapping)
        metadata = payload["metadata"]
        metadata = {**self._in_time(metadata, entry), **identity_attributes(entry.id)}
        answer = await self._call(payload["operation"], payload["data"], metadata)
        return {"operation": payload["operation"], "enqueued": entry.enqueued_at, "answer": answer}

    def _in_time(self, metadata: Mapping[str, str], entry: Entry) -> dict[str, str]:
        """The metadata with what is left of a time to live."""
        kept = dict(metadata)
        for name, value in metadata.items():
            ttl_s = _seconds(value) if name.lower() in _TTLS else None
            if ttl_s is not None:
                kept[name] = str(max(int(time_left_s(ttl_s, value, entry, self._now())), 1))
        return kept

    async def _call(self, operation: str, data: bytes, metadata: Mapping[str, str]) -> dict[str, Any]:
        try:
            response, whole = await self._far.begin_of(operation, data, metadata, self._answer_bytes_max)
        except BindingFailed as error:
            await self._link.confirm()
            if error.code is not None and 400 <= error.code < 500 and error.code not in (401, 407, 408, 425, 429):
                raise Refused(str(error), None, error.code) from error
            raise
        answer: dict[str, Any] = {
            "status": 204 if response.data is None else 200,
            "metadata": dict(response.metadata),
            "body": response.data or b"",
        }
        if not whole:
            answer["truncated"] = True
        return answer


def _begin(answer: BindingResponse, bytes_max: int, whole: bool = True) -> tuple[BindingResponse, bool]:
    data = answer.data
    if data is None or len(data) <= bytes_max:
        return answer, whole
    return answer._replace(data=data[:bytes_max]), False


def crossing(metadata: Mapping[str, str]) -> dict[str, str]:
    """A gRPC caller's own metadata are among them: a token for this sidecar stays here."""
    return {name: value for name, value in metadata.items() if name.lower() != _TOKEN}


def document(operation: str, data: bytes, metadata: Mapping[str, str]) -> bytes:
    """A call as the HTTP API takes it; the data stay as they are written."""
    return msgspec.json.encode({"operation": operation, "data": msgspec.Raw(data), "metadata": dict(metadata)})


def is_exact_json(data: bytes) -> bool:
    """Whether the other side gets these very bytes when they travel as JSON."""
    try:
        return is_utf8(data) and compact(data) == data
    except NotJson:
        return False


def message(content: bytes) -> str:
    """What the other sidecar says that went wrong."""
    try:
        return str(json.loads(content)["message"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return excerpt(content).removeprefix(": ")


def _first(metadata: Mapping[str, str], names: tuple[str, ...]) -> str:
    return next((value for name, value in metadata.items() if name.lower() in names), "")


def _seconds(text: str) -> float | None:
    return float(int(text)) if text.isdecimal() and len(text) < 12 and int(text) else None
