"""The transparent proxy: calls of services that are not ours go to the app that their metadata names.

A resiliency policy covers the whole call, or only its beginning with the metadata `dapr-stream: true`.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Final

import trio
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from edge_runtime.api.grpc.relay import Failed, Relay
from edge_runtime.channel.http import AppUnhealthy
from edge_runtime.model.errors import CallTimeout, DriverError
from edge_runtime.model.http import Header, Headers
from edge_runtime.net.http2 import Http2Error
from edge_runtime.observability.trace import binary_of
from edge_runtime.wire.grpc import status as codes
from edge_runtime.wire.grpc.metadata import encode_binary
from edge_runtime.wire.paths import clean, encode

if TYPE_CHECKING:
    from edge_runtime.blocks.invoke import Callee, GrpcApp, Invoker
    from edge_runtime.model.trace import Trace
    from edge_runtime.net.grpc.server import ServerCall

NO_TARGET: Final = "failed to proxy request: required metadata dapr-callee-app-id or dapr-app-id not found"
NOT_QUEUED: Final = "calls of gRPC services cannot be queued; use InvokeService, or invocation over HTTP"

# Ours to say on the way to the app, whoever said it before.
_OWN: Final = frozenset(
    (
        b"dapr-app-id", b"dapr-callee-app-id", b"dapr-caller-app-id", b"dapr-caller-namespace", b"dapr-api-token",
        b"grpc-timeout", b"content-length", b"host",
    )
)  # fmt: skip
_TRACE: Final = frozenset((b"traceparent", b"tracestate", b"grpc-trace-bin"))
_OWN_AND_TRACE: Final = _OWN | _TRACE


class Proxy:
    """`handle` takes every call that no service of ours does."""

    def __init__(self, invoker: Invoker) -> None:
        self._invoker = invoker

    async def handle(self, call: ServerCall, trace: Trace) -> int:
        """Pass the call on and its answer back; the code that it ended with. Raises `GRPCError` when there is none."""
        callee, app = await self._find(call)
        policy = self._invoker.policy(callee.target)
        headers = self._headers(call, callee, trace)
        started = time.monotonic()
        if policy is not None and call.get("dapr-stream") == "true":
            relay = Relay(call, app, headers, None)
            begin: Callable[[], Awaitable[None]] = partial(policy.run, relay.open)
        else:
            relay = Relay(call, app, headers, policy)
            begin = partial(self._invoker.connecting, callee, relay.open)
        code = codes.UNKNOWN
        try:
            code = await self._pass(relay, begin)
        except GRPCError as error:
            code = error.status.value
            raise
        except trio.Cancelled:
            code = codes.CANCELLED
            raise
        finally:
            relay.close(code)
            if not callee.own:
                self._invoker.answered(callee.peer, str(code), "streaming", started)
        return code

    async def _pass(self, relay: Relay, begin: Callable[[], Awaitable[None]]) -> int:
        """One call to its end. What happened at the app's side and was not said yet is told to the caller here."""
        try:
            if relay.policy is not None:
                return await relay.policy.run(relay.attempt)
            await begin()
            return await relay.run()
        except Failed as failed:
            return relay.tell(failed)
        except Http2Error:
            raise  # the caller is gone
        except CallTimeout as error:
            raise GRPCError(Status.DEADLINE_EXCEEDED, str(error)) from error
        except AppUnhealthy as error:
            raise GRPCError(Status.INTERNAL, str(error)) from error
        except DriverError as error:
            raise GRPCError(Status.UNAVAILABLE, str(error)) from error

    async def _find(self, call: ServerCall) -> tuple[Callee, GrpcApp]:
        target = target_of(call.raw_headers)
        if not target:
            raise GRPCError(Status.UNKNOWN, NO_TARGET)
        try:
            callee = await self._invoker.find(target)
        except DriverError as error:
            raise GRPCError(Status.UNKNOWN, f"failed to proxy request: {error}") from error
        if not callee.own:
            started = time.monotonic()
            detail = self._invoker.refusal(callee.peer, normalised(call.path), "NONE", "streaming")
            if detail:
                self._invoker.answered(callee.peer, str(codes.PERMISSION_DENIED), "streaming", started)
                raise GRPCError(Status.PERMISSION_DENIED, detail)
        app = callee.peer.grpc
        if app is None:
            reason = "was started without --app-port" if callee.peer.channel is None else "does not speak gRPC"
            if callee.peer.far is not None:
                reason = "is behind a cloud link without spec.endpoint.grpc"
            raise GRPCError(Status.FAILED_PRECONDITION, f"app channel is not configured: app {target} {reason}")
        if callee.peer.far is not None and any(name == b"edge-queue" for name, _ in call.raw_headers):
            raise GRPCError(Status.FAILED_PRECONDITION, NOT_QUEUED)
        return callee, app

    def _headers(self, call: ServerCall, callee: Callee, trace: Trace) -> list[Header]:
        """What the app is told: the caller's metadata as it came, and beside it what is ours to say."""
        dropped = _OWN_AND_TRACE if trace.traceparent else _OWN
        headers = [field for field in call.raw_headers if field[0] not in dropped and field[0][:1] != b":"]
        if callee.peer.far is None:  # else the other sidecar says who calls
            headers += self._invoker.introduction(callee, forwarded=False)
        if trace.traceparent:
            headers += trace_headers(trace)
        return headers


def target_of(headers: Headers) -> str:
    """The app that the call is for; empty when nothing names one."""
    target = b""
    for name, value in headers:
        if name == b"dapr-callee-app-id" and value:
            return value.decode("utf-8", "replace")
        if name == b"dapr-app-id" and not target:
            target = value
    return target.decode("utf-8", "replace")


def normalised(path: str) -> str:
    """The method as access control knows it. Raises `GRPCError` for what no method is called."""
    method = clean(path.encode("utf-8", "surrogateescape"))
    try:
        encode(method)
    except ValueError as error:
        raise GRPCError(Status.INVALID_ARGUMENT, f"invalid method {path!r}: {error}") from None
    return "/" + method.decode("utf-8", "replace")


def trace_headers(trace: Trace) -> list[Header]:
    """The trace in all the forms that apps read."""
    headers = [(b"traceparent", trace.traceparent.encode("latin-1"))]
    if trace.tracestate:
        headers.append((b"tracestate", trace.tracestate.encode("latin-1")))
    headers.append((b"grpc-trace-bin", encode_binary(binary_of(trace.traceparent))))
    return headers
