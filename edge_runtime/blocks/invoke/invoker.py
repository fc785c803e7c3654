"""The invoker of one app: finds the target, sets the headers, keeps the retry rules, hands the answer back.

An app of this node is called straight through its channel; there is no socket between two sidecars of one process.
Everything else is as between two of them: the callee's access control, caller and forwarding headers, and three retries
a second apart when the callee cannot be reached. Those retry only when no connection came about, so nothing is ever
sent twice; and because the body is then untouched, it need not be kept.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, TypeVar

from edge_runtime.blocks.invoke.peers import Peer, Peers
from edge_runtime.model.errors import BodyTooLarge, CallTimeout, DriverError, EdgeError, Kind
from edge_runtime.model.http import Body, Header, Request, Response, StatusResponse
from edge_runtime.model.ports import Policy
from edge_runtime.model.trace import NO_TRACE, Trace
from edge_runtime.net.connections import ConnectFailed, Origin
from edge_runtime.net.urls import Url, parse_url
from edge_runtime.observability.metrics import Metrics
from edge_runtime.security.access import Caller, denial
from edge_runtime.wire.headers import request_headers
from edge_runtime.wire.paths import encode

if TYPE_CHECKING:
    from edge_runtime.blocks.invoke.far import FarApp, FarPeers

# A declared body up to this size is kept when a policy may send it again; a larger one is sent once. So much is kept of
# an answer too that a policy takes for a failure; a larger one fails the call.
REPEATABLE_BYTES_MAX: Final = 4 * 2**20
_POLICY_CACHE_MAX: Final = 1024
_URLS_MAX: Final = 256
_BUILT_IN_RETRIES: Final = "DaprBuiltInServiceRetries"
_VERBS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE"})
_JSON: Final[Header] = (b"content-type", b"application/json")
_EVENT_STREAM: Final = b"text/event-stream"
_EVENT_HEADERS: Final[tuple[Header, ...]] = (
    (b"content-type", _EVENT_STREAM),
    (b"cache-control", b"no-cache"),
    (b"connection", b"keep-alive"),
)
_EVENT_NAMES: Final = frozenset({b"content-type", b"cache-control", b"connection"})

# Every header form of the target is the sidecar's own matter.
_DROPPED: Final = frozenset({b"dapr-app-id"})
_IDENTITY: Final = frozenset({b"dapr-caller-app-id", b"dapr-caller-namespace", b"dapr-callee-app-id"})
_TRACE: Final = frozenset({b"traceparent", b"tracestate"})
_QUEUE: Final = b"edge-queue"

NO_OWN_CHANNEL: Final = "cannot invoke local endpoint: app channel not initialized"
NO_PEER_CHANNEL: Final = "app channel is not initialized"

T = TypeVar("T")
Send = Callable[[Request], Awaitable[Response]]


class Callee(NamedTuple):
    """An app as the target of a call; `own` is the calling app itself."""

    target: str
    peer: Peer
    own: bool


class AppPolicies(Protocol):
    """What of `resiliency.Policies` invocation asks."""

    def targets_app(self, app_id: str) -> bool: ...
    def for_app(self, app_id: str) -> Policy: ...
    def builtin(self, name: str) -> Policy: ...


class OutsideChannel(Protocol):
    """How a place that is no app of this node is called."""

    async def send_to(self, origin: Origin, request: Request) -> Response: ...


class OutsideEndpoint(OutsideChannel, Protocol):
    """A loaded HTTPEndpoint."""

    @property
    def base(self) -> Url: ...
    @property
    def headers(self) -> Sequence[Header]: ...


class _Answered(DriverError):
    """An answer outside 200 to 399, as the failure that a policy takes it for; a gRPC app's by its own code."""

    def __init__(self, response: Response) -> None:
        code = response.code if isinstance(response, StatusResponse) else response.status
        super().__init__(f"the app answered {response.status}", code=code)
        self.response = response


class Invoker:
    """Service invocation for one app. `own` is that app as others see it, `outside` takes direct URLs."""

    def __init__(
        self,
        own: Peer,
        peers: Peers,
        *,
        policies: AppPolicies,
        metrics: Metrics,
        outside: OutsideChannel,
        endpoints: Mapping[str, OutsideEndpoint] | None = None,
        trust_domain: str = "public",
        host_address: str = "",
        host_name: str = "",
    ) -> None:
        self.own = own
        self.far: FarPeers | None = None  # the apps that cloud links lead to
        self._app_id = own.app_id
        self._namespace = own.namespace
        self._peers = peers
        self._policies = policies
        self._outside = outside
        self._endpoints = endpoints or {}
        self._caller = Caller(own.app_id, self._namespace, trust_domain)
        self._forwarding = forwarding_headers(host_address, host_name)
        self._identities: dict[str, tuple[Header, ...]] = {}
        self._unguarded: set[str] = set()
        self._urls: dict[str, Url] = {}
        self._requests = metrics.counter("runtime_service_invocation_req_sent_total", "dst_app_id", "type")
        self._answers = metrics.counter("runtime_service_invocation_res_recv_total", "src_app_id", "status", "type")
        self._latency = metrics.histogram("runtime_service_invocation_res_recv_latency_ms", "src_app_id", "status")

    async def invoke(self, target: str, method: bytes, query: bytes, request: Request, trace: Trace) -> Response:
        """The target's answer, whatever its status. `method` is a cleaned, decoded path; `query` has its `?`.

        The answer's body must be read or closed. Raises `EdgeError`: INVOKE_FAILED, _DENIED or _NOT_QUEUED.
        """
        try:
            if request.method == "CONNECT":
                raise DriverError("the verb CONNECT cannot be forwarded")
            sent = Request(
                request.method if request.method in _VERBS else "POST", b"/" + encode(method) + query, (), request.body
            )
            response = await self._route(target, method, request, sent, trace)
        except (DriverError, BodyTooLarge, ValueError) as error:
            raise EdgeError(Kind.INVOKE_FAILED, f"failed to invoke, id: {target}, err: {error}") from error
        if not 200 <= response.status < 400 and response.header(b"content-type") is None:
            response.headers = [*response.headers, _JSON]
        return response

    async def _route(self, target: str, method: bytes, request: Request, sent: Request, trace: Trace) -> Response:
        """Finds what the target is and sends there. Everything that is raised here becomes INVOKE_FAILED."""
        if request.header(_QUEUE) is not None and self._asks_to_wait(request):
            return await self._queue(target, request, sent, trace)
        if self._endpoints and target in self._endpoints:
            return await self._call_endpoint(target, request, sent, trace)
        if target[:7].lower() == "http://" or target[:8].lower() == "https://":
            return await self._call_url(target, request, sent, trace)
        callee = await self.find(target)
        if callee.own:
            channel = self.own.channel
            if channel is None:
                raise DriverError(NO_OWN_CHANNEL)
            sent.headers = self._headers(request, trace, _OWN_DROPPED, self._identity(self._app_id))
            response = await self._guarded(target, sent, channel.send)
            return _as_events(request, response, own=True)
        if callee.peer.far is not None:
            return await self._call_far(callee, callee.peer.far, request, sent, trace)
        return await self._call_peer(callee, method, request, sent, trace)

    async def find(self, target: str) -> Callee:
        """The app that the target names: of this node, else one that a link leads to. Raises `DriverError`."""
        app_id, namespace = self._split(target)
        if app_id == self._app_id and namespace == self._namespace:
            return Callee(target, self.own, True)
        peer = self._peers.find(app_id, namespace) or await self._peers.wait_for(app_id, namespace)
        if peer is None and self.far is not None:
            peer = self.far.find(app_id, target.partition(".")[2])
        if peer is None:
            raise DriverError(f"couldn't find service: {app_id}")
        return Callee(target, peer, False)

    def names_app(self, target: str) -> bool:
        """Whether the target is an app's id, rather than a URL or an HTTPEndpoint."""
        return target not in self._endpoints and not target[:8].lower().startswith(("http://", "https://"))

    def _split(self, target: str) -> tuple[str, str]:
        app_id, dot, namespace = target.partition(".")
        if "." in namespace or not app_id or (dot and not namespace):
            raise DriverError(f"invalid app id {target}")
        return app_id, namespace or self._namespace

    # --- another app of this node ---

    async def _call_peer(
        self, callee: Callee, method: bytes, request: Request, sent: Request, trace: Trace
    ) -> Response:
        target, peer, _ = callee
        started = time.monotonic()
        detail = self.refusal(peer, "/" + method.decode("utf-8", "replace"), sent.method, "streaming")
        if detail:
            self.answered(peer, "403", "streaming", started)
            raise EdgeError(Kind.INVOKE_DENIED, f"failed to invoke, id: {target}, err: {detail}")
        channel = peer.channel
        if channel is None:
            raise DriverError(NO_PEER_CHANNEL)
        sent.headers = self._headers(request, trace, _PEER_DROPPED, self._identity(peer.app_id) + self._forwarding)
        if target in self._unguarded or not self._policies.targets_app(target):
            response = await self._guarded(target, sent, channel.send, built_in=True)
        else:
            response = await self._guarded(target, sent, channel.send)
        self.answered(peer, str(response.status), "streaming", started)
        return _as_events(request, response, own=False)

    def refusal(self, peer: Peer, operation: str, verb: str, kind: str) -> str:
        """Why the other app's access control lets the call not through; empty when it does. The call is counted."""
        self._requests.add((peer.app_id, kind))
        return "" if peer.admits(self._caller, operation, verb) else denial(self._app_id, operation, verb)

    def answered(self, peer: Peer, status: str, kind: str, started: float) -> None:
        """Count the answer of another app; `kind` is "unary" or "streaming"."""
        peer.answered(self._app_id, status)
        self._answers.add((peer.app_id, status, kind))
        self._latency.observe(int((time.monotonic() - started) * 1000), (peer.app_id, status))

    # --- an app behind a cloud link ---

    async def _call_far(self, callee: Callee, far: FarApp, request: Request, sent: Request, trace: Trace) -> Response:
        started = time.monotonic()
        self._requests.add((callee.peer.app_id, "streaming"))
        sent.headers = self._far_headers(request, trace)
        response = await self._guarded(callee.target, sent, far.send)
        self.answered(callee.peer, str(response.status), "streaming", started)
        return _as_events(request, response, own=False)

    async def _queue(self, target: str, request: Request, sent: Request, trace: Trace) -> Response:
        """Keep the call until its turn comes; the answer says how to ask what became of it."""
        from edge_runtime.blocks.invoke.far import accepted, wait_of

        wait = wait_of(request.headers)
        callee = await self.find(target) if self.names_app(target) else None
        far = None if callee is None else callee.peer.far
        if far is None or wait is None:
            text = f"failed to invoke, id: {target}, err: only calls of an app that a cloud link leads to can be queued"
            raise EdgeError(Kind.INVOKE_NOT_QUEUED, text)
        sent.headers = self._far_headers(request, trace)
        return accepted(await far.queue(sent, wait.key, wait.ttl_s))

    def _asks_to_wait(self, request: Request) -> bool:
        from edge_runtime.blocks.invoke.far import wait_of

        return wait_of(request.headers) is not None

    def _far_headers(self, request: Request, trace: Trace) -> list[Header]:
        from edge_runtime.blocks.invoke.far import STAYS, addresses_sidecar

        headers = self._headers(request, trace, STAYS, ())
        return [header for header in headers if not addresses_sidecar(header)]

    # --- places outside ---

    async def _call_url(self, target: str, request: Request, sent: Request, trace: Trace) -> Response:
        url = self._urls.get(target)
        if url is None:
            url = parse_url(target)
            if len(self._urls) < _URLS_MAX:
                self._urls[target] = url
        sent.target = _joined(url, sent.target)
        sent.headers = self._headers(request, trace, _PEER_DROPPED, ())
        outside = self._outside
        return await self._guarded(target, sent, lambda attempt: outside.send_to(url.origin, attempt))

    async def _call_endpoint(self, target: str, request: Request, sent: Request, trace: Trace) -> Response:
        endpoint = self._endpoints[target]
        sent.target = _joined(endpoint.base, sent.target)
        replaced = _PEER_DROPPED.union(name for name, _ in endpoint.headers)
        sent.headers = self._headers(request, trace, replaced, tuple(endpoint.headers))
        return await self._guarded(target, sent, lambda attempt: endpoint.send_to(endpoint.base.origin, attempt))

    # --- headers ---

    def _headers(
        self, request: Request, trace: Trace, dropped: frozenset[bytes], added: tuple[Header, ...]
    ) -> list[Header]:
        if trace is NO_TRACE or not trace.traceparent:
            headers = request_headers(request.headers, dropped)
        else:
            headers = request_headers(request.headers, dropped | _TRACE)
            headers.append((b"traceparent", trace.traceparent.encode("latin-1")))
            if trace.tracestate:
                headers.append((b"tracestate", trace.tracestate.encode("latin-1")))
        headers.extend(added)
        return headers

    def introduction(self, callee: Callee, *, forwarded: bool = True) -> tuple[Header, ...]:
        """What a gRPC app is told beside the trace: who calls whom and, `forwarded`, from where another app does."""
        identity = self._identity(callee.peer.app_id)
        return identity + self._forwarding if forwarded and not callee.own else identity

    def _identity(self, callee: str) -> tuple[Header, ...]:
        known = self._identities.get(callee)
        if known is None:
            known = (
                (b"dapr-caller-app-id", self._app_id.encode()),
                (b"dapr-caller-namespace", self._namespace.encode()),
                (b"dapr-callee-app-id", callee.encode()),
            )
            # Only apps that exist on this node come here, so the table is as small as the node.
            self._identities[callee] = known
        return known

    # --- retries ---

    def policy(self, target: str) -> Policy | None:
        """The resiliency policy of the target; None when there is none."""
        if target in self._unguarded:
            return None
        policy = self._policies.for_app(target)
        if policy.active:
            return policy
        if len(self._unguarded) < _POLICY_CACHE_MAX:
            self._unguarded.add(target)
        return None

    async def run(self, callee: Callee, attempt: Callable[[], Awaitable[T]]) -> T:
        """A call that can be made again, under the callee's policy; without one, as often as no connection comes."""
        policy = self.policy(callee.target)
        if policy is not None:
            return await policy.run(attempt)
        return await self.connecting(callee, attempt)

    async def connecting(self, callee: Callee, attempt: Callable[[], Awaitable[T]]) -> T:
        """The same without the policy: the built-in retries alone, which another app gets that no policy targets."""
        try:
            return await attempt()
        except ConnectFailed as error:
            if callee.own or self._policies.targets_app(callee.target):
                raise
            failure = error
        return await self._try_again(attempt, failure)

    async def _guarded(self, target: str, sent: Request, send: Send, *, built_in: bool = False) -> Response:
        policy = None if target in self._unguarded else self.policy(target)
        if policy is not None:
            return await self._with_policy(policy, sent, send)
        if not built_in:
            return await send(sent)
        try:
            return await send(sent)
        except ConnectFailed as error:
            return await self._try_again(lambda: send(sent), error)

    async def _try_again(self, send: Callable[[], Awaitable[T]], error: ConnectFailed) -> T:
        """The built-in retries, counted from a first attempt that has failed already."""
        failed: list[ConnectFailed] = [error]

        async def attempt() -> T:
            if failed:
                raise failed.pop()
            try:
                return await send()
            except ConnectFailed:
                raise
            except DriverError as other:
                other.unrepeatable = True
                raise

        return await self._policies.builtin(_BUILT_IN_RETRIES).run(attempt)

    async def _with_policy(self, policy: Policy, sent: Request, send: Send) -> Response:
        """An answer outside 200 to 399 is a failure for the policy; the last one is the caller's answer."""
        repeatable = await _make_repeatable(sent, policy)
        last: _Answered | None = None
        spent = False

        async def attempt() -> Response:
            nonlocal last, spent
            if spent:  # the policy's timeout ended an attempt that had begun to send the body
                late = CallTimeout("context deadline exceeded")
                late.unrepeatable = True
                raise late
            spent = not repeatable
            if last is not None:
                await last.response.body.aclose()
                last = None
            try:
                response = await send(sent)
            except ConnectFailed:
                spent = False
                raise
            except DriverError as error:
                error.unrepeatable = not repeatable
                raise
            if 200 <= response.status < 400 or not repeatable:
                return response
            if not response.body.buffered:  # a stream would hold its place at the app until the next attempt
                response.body = Body(await response.body.read(REPEATABLE_BYTES_MAX))
            last = _Answered(response)
            raise last

        try:
            return await policy.run(attempt)
        except _Answered as error:
            return error.response
        except BaseException:
            if last is not None:
                await last.response.body.aclose()
            raise


async def _make_repeatable(sent: Request, policy: Policy) -> bool:
    """Whether the body can be sent again. One of declared and moderate size is read for that; chunks never are."""
    body = sent.body
    if body.buffered:
        return True
    if not policy.retries or body.length is None or body.length > REPEATABLE_BYTES_MAX:
        return False
    sent.body = Body(await body.read(REPEATABLE_BYTES_MAX))
    return True


_OWN_DROPPED: Final = _DROPPED | _IDENTITY
_PEER_DROPPED: Final = _DROPPED


def _joined(url: Url, target: bytes) -> bytes:
    """The base path before the method; an empty method leaves the base as it was written."""
    if target[1:2] in (b"", b"?") and url.path:
        return url.path + target[1:]
    return url.path.rstrip(b"/") + target


def _as_events(request: Request, response: Response, *, own: bool) -> Response:
    """The relay of an event stream, when the caller asked for exactly that and the app agreed."""
    if request.header(b"accept") != _EVENT_STREAM or not 200 <= response.status < 300:
        return response
    kept = [header for header in response.headers if header[0] not in _EVENT_NAMES] if own else []
    body = response.body
    return Response(200, [*kept, *_EVENT_HEADERS], _Unmeasured(body.data) if body.buffered else body)


class _Unmeasured(Body):
    """Bytes in memory that are written as a stream: an event stream says no length, even when it is here already."""

    __slots__ = ()

    @property
    def length(self) -> int | None:
        return None

    @property
    def buffered(self) -> bool:
        return False


def forwarding_headers(address: str, name: str) -> tuple[Header, ...]:
    """`X-Forwarded-For`, `X-Forwarded-Host` and `Forwarded` as a remote call adds them; empty parts are left out."""
    headers: list[Header] = []
    parts: list[str] = []
    if address:
        node = f'"[{address}]"' if ":" in address else address
        headers.append((b"x-forwarded-for", address.encode()))
        parts.append(f"for={node};by={node}")
    if name:
        headers.append((b"x-forwarded-host", name.encode()))
        parts.append(f"host={name}")
    if parts:
        headers.append((b"forwarded", ";".join(parts).encode()))
    return tuple(headers)
