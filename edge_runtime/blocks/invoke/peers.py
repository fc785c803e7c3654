"""The apps that can be called by their ids, as invocation sees them: their channel and who may call them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import unquote_to_bytes

import trio

from edge_runtime.blocks.invoke.grpc_app import GrpcApp
from edge_runtime.model.ports import AppChannel
from edge_runtime.observability.metrics import Metrics
from edge_runtime.security.access import AccessPolicy, Caller
from edge_runtime.wire.paths import clean

if TYPE_CHECKING:
    from edge_runtime.blocks.invoke.far import FarApp

# How long a call waits for an app that reads its files again.
RETURN_MAX_S: Final = 10.0


class Peer:
    """One app of this node. `channel` is None while it has no app port; `access` None lets everybody in.

    `grpc` is the same channel when the app speaks gRPC, else None; `far` when a cloud link leads to the app.
    """

    __slots__ = ("_acl", "_received", "_sent", "access", "app_id", "channel", "far", "grpc", "namespace")

    def __init__(
        self, app_id: str, namespace: str, channel: AppChannel | None, access: AccessPolicy | None, metrics: Metrics
    ) -> None:
        self.app_id = app_id
        self.namespace = namespace or "default"
        self.channel = channel
        self.grpc = channel if isinstance(channel, GrpcApp) else None
        self.access = access
        self.far: FarApp | None = None
        self._received = metrics.counter("runtime_service_invocation_req_recv_total", "src_app_id")
        self._sent = metrics.counter("runtime_service_invocation_res_sent_total", "dst_app_id", "status")
        self._acl = metrics

    def admits(self, caller: Caller, operation: str, verb: str) -> bool:
        """Whether this app's access control lets the caller's operation through; counted."""
        self._received.add((caller.app_id,))
        if self.access is None:
            return True
        verdict = self.access.permits(caller, operation, verb)
        if verdict.allowed and "%" in operation:
            verdict = self.access.permits(caller, as_app_sees(operation), verb)
        name = "app" if verdict.by_app else "global"
        outcome = "allowed" if verdict.allowed else "blocked"
        counter = self._acl.counter(f"runtime_acl_{name}_policy_action_{outcome}_total", "trustDomain", "namespace")
        counter.add((caller.trust_domain, caller.namespace))
        return verdict.allowed

    def answered(self, caller_app_id: str, status: str) -> None:
        self._sent.add((caller_app_id, status))


def as_app_sees(operation: str) -> str:
    """The operation once the app has decoded what is still encoded in it: `/%61b` and `/x/%2e%2e/ab` are `/ab`."""
    return "/" + clean(unquote_to_bytes(operation)).decode("utf-8", "replace")


class Peers(Protocol):
    """Finds an app of this node."""

    def find(self, app_id: str, namespace: str) -> Peer | None: ...
    async def wait_for(self, app_id: str, namespace: str) -> Peer | None:
        """The same for an app that is not there now but said that it will be back; None at once for all others."""


class LocalPeers:
    """The apps that this process serves."""

    def __init__(self) -> None:
        self._peers: dict[tuple[str, str], Peer] = {}
        self._returning: dict[tuple[str, str], trio.Event] = {}

    def add(self, peer: Peer) -> None:
        self._peers[peer.app_id, peer.namespace] = peer
        self._end_wait((peer.app_id, peer.namespace))

    def remove(self, peer: Peer, *, returns: bool = False) -> None:
        """Takes the peer away, unless another one has come in its place. With `returns`, callers wait for the next."""
        key = (peer.app_id, peer.namespace)
        if self._peers.get(key) is peer:
            del self._peers[key]
            if returns:
                self._returning[key] = trio.Event()

    async def wait_for(self, app_id: str, namespace: str) -> Peer | None:
        key = (app_id, namespace)
        event = self._returning.get(key)
        if event is None:
            return None
        with trio.move_on_after(RETURN_MAX_S) as limit:
            await event.wait()
        if limit.cancelled_caught:
            self._end_wait(key)
        return self._peers.get(key)

    def _end_wait(self, key: tuple[str, str]) -> None:
        event = self._returning.pop(key, None)
        if event is not None:
            event.set()

    def find(self, app_id: str, namespace: str) -> Peer | None:
        return self._peers.get((app_id, namespace))
