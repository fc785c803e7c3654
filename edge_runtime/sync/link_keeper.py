"""Keeps the state of a cloud link: is the other sidecar there, and may it be called?

    nobody has paused it, window and budget allow it? ── no ──► paused, waiting, out-of-budget
       └─ probe ── fails ──► down ── back-off, or the kernel tells of a change ──► probe
            └─ answers ──► up ── a call finds trouble, a change, nothing heard for an interval ──► probe

Each time that the link is up has clients and connections of its own: nothing that hung survives. A call that fails is
no proof: the probe decides whether the link is down (`Unreachable`) or only this call failed (`DriverError`).

The pause before the next try is an eighth of the time that the link has been down: a short outage is over soon after
it is over, a long one costs little. After a refused token a probe that says nothing about it makes the link no more
than usable: it stays down, for those who look, until a call was taken.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Final, NoReturn

import trio

from edge_runtime.model.errors import BodyTooLarge, DriverError, Unreachable
from edge_runtime.model.http import Request
from edge_runtime.net.clock_jump import until_clock_is_set
from edge_runtime.net.connections import Origin
from edge_runtime.net.http_client import ClientLimits, HttpClient, open_http_client
from edge_runtime.net.route_changes import RouteChanges, open_route_changes
from edge_runtime.net.tunnels import Dialer
from edge_runtime.sync.budget import Budget
from edge_runtime.sync.link_answers import (
    Answer,
    excerpt,
    is_page,
)
from edge_runtime.sync.link_settings import (
    Clocks,
    Ends,
    Ledger,
    LinkMetrics,
    LinkSettings,
    LinkState,
)
from edge_runtime.sync.meter import Meter, current_class
from edge_runtime.sync.supervise import supervised
from edge_runtime.sync.windows import Now, look

if TYPE_CHECKING:
    from edge_runtime.net.grpc.client import GrpcClient

logger: Final = logging.getLogger("dapr.runtime.link")

PROBE_PATH: Final = b"/v1.0/healthz/outbound"
# Needs the token, which the one above does not.
TOKEN_PROBE_PATH: Final = b"/v1.0/metadata"
TOKEN_REFUSED: Final = "the sidecar refuses the token (401); correct spec.token and reload"
_METERED: Final = 10  # so much seldomer is asked over a link that costs by the byte
_LOOK_S: Final = 15.0  # how often the clock on the wall is looked at, which may jump
_OTHER_TIME: Final = re.compile(r"certificate (is not yet valid|has expired)")


class Session:
    """The clients of one time of being up, and the calls that go on."""

    def __init__(
        self, http: HttpClient, grpc: GrpcClient | None, state: GrpcClient | None, passing: HttpClient
    ) -> None:
        self.http = http
        self.grpc = grpc  # for subscriptions
        self.state = state
        self.on_trial = False  # whether the token is good will be seen
        self.passing = passing  # for calls of apps, as is the next: made when the first comes
        self.rpcs: GrpcClient | None = None
        self.opening_rpcs = trio.Lock()
        self.tasks: trio.Nursery | None = None
        self.calls: set[trio.CancelScope] = set()
        self.over = trio.Event()
        self.probing = trio.Lock()
        self.heard_at = trio.current_time()

    def end(self) -> None:
        self.over.set()
        for scope in self.calls:
            scope.cancel()


@contextmanager
def session_scope(session: Session) -> Iterator[trio.CancelScope]:
    """A scope that the end of the session cancels."""
    with trio.CancelScope() as scope:
        session.calls.add(scope)
        if session.over.is_set():
            scope.cancel()
        try:
            yield scope
        finally:
            session.calls.discard(scope)


class KeptLink:
    """One link, without its calls. `run` keeps its state; the rest may be called at any time."""

    def __init__(
        self,
        settings: LinkSettings,
        metrics: LinkMetrics,
        ledger: Ledger | None = None,
        clocks: Clocks = Clocks(),  # noqa: B008
    ) -> None:
        resource = settings.resource
        self.name = resource.name
        self.settings = settings
        self.state = LinkState("down", "not tried yet")
        self.since = (clocks.wall(), time.monotonic())  # of the state
        self.heard_at: tuple[float, float] | None = None  # the last answer, in this life of the process
        self.paused = False
        self.listeners: list[Callable[[LinkState], None]] = []
        self._limits = settings.limits
        self._metrics = metrics
        self._clocks = clocks
        self._fault = settings.fault
        self._changed = trio.Event()
        self._session: Session | None = None
        self._token_refused = False
        self._down_at: float | None = None
        self._hurried = trio.Event()
        self._tried = trio.Event()
        self._probing: tuple[float, trio.CancelScope] | None = None
        self._outside_until = 0.0
        self._broke_off_at = float("-inf")
        self._ends = Ends(settings)
        self._fault = self._fault or self._ends.fault
        self._meter = Meter(resource, metrics, ledger, self._closed)
        self._dialer = Dialer(self._ends.proxy, self._meter.count)
        # An HTTP/2 connection writes for all its streams at once; those of a link are subscriptions.
        streams = "topics-down" if resource.topics_down or not resource.configuration else "configuration"
        self._grpc_dialer = Dialer(self._ends.proxy, lambda sent, got: self._meter.count(sent, got, streams))
        # So state has a connection of its own, whose large answers are in no stream's way.
        self._state_dialer = Dialer(self._ends.proxy, lambda sent, got: self._meter.count(sent, got, "state"))
        self._passing_dialer = Dialer(self._ends.proxy, lambda sent, got: self._meter.count(sent, got, "invocation"))
        self._places_taken = 0
        metrics.show(self.name, self.state, self.state)

    @property
    def metered(self) -> bool:
        return self.settings.resource.metered

    # --- state ------------------------------------------------------------------------------------------------------

    def changes(self) -> AsyncIterator[LinkState]:
        """The state now, and each one that follows; who is slow hears the latest only."""
        return _Changes(self)

    async def changed(self) -> None:
        """Wait for the next change."""
        await self._changed.wait()

    @property
    def usable(self) -> bool:
        """Calls go out: it is up, or a call is to show whether it is."""
        return self.state.up or (self._session is not None and self._session.on_trial)

    async def until_up(self) -> None:
        """Wait until calls go out."""
        while not self.usable:
            await self._changed.wait()

    def _set(self, state: LinkState) -> None:
        if state == self.state:
            return
        last, self.state = self.state, state
        if state.name != last.name:
            self.since = (self._clocks.wall(), time.monotonic())
        if state.name != last.name or last.reason == "not tried yet":
            self._metrics.changes.add((self.name, state.name))
            text = f": {state.reason}" if state.reason else ""
            logger.info("cloud link %s is %s%s", self.name, state.name, text)
        self._metrics.show(self.name, last, state)
        if not state.up and self._session is not None:
            self._session.end()
        self._tell(state)

    def _tell(self, state: LinkState) -> None:
        for listener in list(self.listeners):
            try:
                listener(state)
            except Exception:  # a route's mistake must not stop the link and the other routes
                logger.exception("cloud link %s: a route cannot follow its state", self.name)
        self._changed.set()
        self._changed = trio.Event()

    # --- steered ----------------------------------------------------------------------------------------------------

    def pause(self) -> None:
        """Nothing goes out until `resume`; calls in hand are broken off."""
        self.paused = True
        self._closed()
        self._hurry()

    def resume(self) -> None:
        self.paused = False
        self._hurry()

    async def now(self, *, outside_window: bool = False) -> None:
        """Ask the sidecar at once whether it is there; returns when that is known, or nothing may be asked.

        With `outside_window` its windows count as open for a while.
        """
        if outside_window:
            self._outside_until = trio.current_time() + self._limits.outside_window_s
        tried, session = self._tried, self._session
        with trio.move_on_after(self._limits.connect_timeout_s + self._limits.probe_timeout_s):
            if session is not None and self.state.up:
                await self._doubt(session, trio.current_time())
                return
            self._hurry()
            await tried.wait()

    def _hurry(self) -> None:
        """Nobody waits for the end of a pause; a probe that hangs is given up."""
        self._down_at = None
        self._hurried.set()
        now = trio.current_time()
        # A look-up of a name that hangs keeps its thread for a while: a network that comes and goes must not take all.
        if self._probing is not None and now >= self._broke_off_at + self._limits.probe_timeout_s:
            self._broke_off_at = now
            began, scope = self._probing
            scope.deadline = min(scope.deadline, max(now, began + self._limits.probe_least_s))

    # --- kept -------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep the state until cancelled."""
        try:
            await supervised(self._serve, f"cloud link {self.name}", self._rest_after)
        finally:
            self._set(LinkState("down", "the link is closed"))
            self._meter.save(force=True)

    def _rest_after(self, reason: str) -> None:
        if reason:
            self._set(LinkState("down", reason))

    async def _serve(self) -> None:
        async with open_route_changes() as changes, trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_network, changes)
            while True:
                self._hurried = trio.Event()
                pause_s = self._closed()
                if pause_s is None:
                    pause_s = await self._session_or_pause()
                self._note_try()
                if pause_s:
                    with trio.move_on_after(pause_s):
                        await self._until_hurried()

    async def _until_hurried(self) -> None:
        """A certificate of another time may be one of today as soon as the clock is set."""
        async with trio.open_nursery() as nursery:
            if _OTHER_TIME.search(self.state.reason):
                nursery.start_soon(self._hurry_when_clock_is_set)
            await self._hurried.wait()
            nursery.cancel_scope.cancel()

    async def _hurry_when_clock_is_set(self) -> None:
        await until_clock_is_set(self._clocks.wall)
        self._hurry()

    def _note_try(self) -> None:
        self._tried.set()
        self._tried = trio.Event()

    async def _watch_network(self, changes: RouteChanges) -> None:
        """The kernel tells of links, addresses and routes that come and go: is there still a way, or again?"""
        while True:
            await changes.wait()
            session = self._session
            if session is None:
                if self.state.name == "down" and not self._fault:
                    self._hurry()
            elif not await self._dialer.can_reach(self._ends.http.origin, self._limits.reach_timeout_s):
                self._fall(session, "the network has changed, and there is no way to the sidecar")
            await trio.sleep(self._limits.news_pause_s)

    def _closed(self) -> float | None:
        """How long the link may not be used, with its state set to why; None when it may."""
        if self._fault:
            self._set(LinkState("down", self._fault))
            return float("inf")
        if self.paused:
            self._set(LinkState("paused", "somebody has paused it; edge-runtime sync resume lets it go on"))
            return float("inf")
        wall = self._clocks.wall()
        window = self.window()
        if not window.open:
            until = "" if window.changes_at is None else f", which opens at {self._hour(window.changes_at)}"
            self._set(LinkState("waiting", f"waits for its window{until}"))
            return _LOOK_S if window.changes_at is None else min(max(window.changes_at - wall, 0.01), _LOOK_S)
        now = trio.current_time()
        if self._meter.budget.day_left(now) == 0:
            resets_s = self._meter.budget.resets_in_s(now)
            self._set(LinkState("out-of-budget", f"the day's bytes are spent until {self._hour(wall + resets_s)}"))
            return min(resets_s + 0.001, 3600.0)
        return None

    def window(self) -> Now:
        """Whether its windows let it be used now, and when that changes."""
        wall = self._clocks.wall()
        window = look(self.settings.resource.windows, wall, self._clocks.local)
        left_s = self._outside_until - trio.current_time()
        return window if window.open or left_s <= 0 else Now(True, wall + left_s)

    @property
    def budget(self) -> Budget:
        return self._meter.budget

    def bytes_by_class(self) -> dict[str, dict[str, int]]:
        """What has crossed in this life of the process."""
        found: dict[str, dict[str, int]] = {}
        for (name, kind, direction), count in self._metrics.bytes.values.items():
            if name == self.name:
                found.setdefault(kind, {"sent": 0, "received": 0})[direction] = int(count)
        return found

    def _hour(self, at: float) -> str:
        return time.strftime("%Y-%m-%d %H:%M", self._clocks.local(at))

    async def _session_or_pause(self) -> float:
        """One time of being up; how long to wait before the next is tried."""
        async with AsyncExitStack() as stack:
            session = await self._open_session(stack)
            reason = await self._probe(session)
            if self._closed() is not None:
                return 0.0
            if reason:
                self._set(LinkState("down", reason))
                return self._pause_s()
            self._session = session
            try:
                self._begin(session)
                await self._watch(session)
            finally:
                session.end()
                self._session = None
        return 0.0 if self._closed() is not None else self._pause_s()

    def _begin(self, session: Session) -> None:
        if self._token_refused:
            session.on_trial = True
            self._tell(LinkState("up"))
        else:
            self._down_at = None
            self._set(LinkState("up"))
        self._note_try()

    def _pause_s(self) -> float:
        """An eighth of the time that it has been down, within limits."""
        if self._hurried.is_set():
            return 0.0
        now = trio.current_time()
        if self._down_at is None:
            self._down_at = now
        most_s = min(self.settings.resource.probe_s, self._limits.pause_most_s) * (_METERED if self.metered else 1)
        pause_s = min(max((now - self._down_at) / 8, self._limits.first_backoff_s), most_s)
        return pause_s * (0.75 + 0.5 * self._clocks.chance())

    async def _open_session(self, stack: AsyncExitStack) -> Session:
        limits = self._limits
        client_limits = ClientLimits(
            connections_max=limits.connections_max,
            idle_max=limits.connections_max,
            head_bytes_max=65536,
            connect_timeout_s=limits.connect_timeout_s,
        )
        http = await stack.enter_async_context(open_http_client(client_limits, self._ends.tls, self._dialer.dial))
        grpc = state = None
        if self._ends.grpc is not None:  # each connects with its first call
            grpc = await stack.enter_async_context(self._open_grpc(self._ends.grpc, self._grpc_dialer))
            state = await stack.enter_async_context(self._open_grpc(self._ends.grpc, self._state_dialer))
        client_limits = client_limits._replace(connections_max=limits.passed_on_max, idle_max=limits.passed_on_idle_max)
        passing = open_http_client(client_limits, self._ends.tls, self._passing_dialer.dial)
        return Session(http, grpc, state, await stack.enter_async_context(passing))

    @asynccontextmanager
    async def _open_grpc(self, origin: Origin, dialer: Dialer) -> AsyncIterator[GrpcClient]:
        from edge_runtime.net.grpc.client import CLIENT_HTTP2_LIMITS, open_grpc_client
        from edge_runtime.net.grpc.limits import GrpcLimits

        tls = self._ends.grpc_tls() if origin.scheme == "https" else None
        limits = CLIENT_HTTP2_LIMITS._replace(
            keepalive_idle_s=self._limits.keepalive_idle_s * (_METERED if self.metered else 1),
            keepalive_timeout_s=self._limits.keepalive_timeout_s,
        )
        async with open_grpc_client(
            origin,
            tls,
            GrpcLimits(message_bytes_max=self._limits.answer_bytes_max),
            limits,
            connect_timeout_s=self._limits.connect_timeout_s,
            dial=dialer.dial,
        ) as client:
            yield client

    async def _watch(self, session: Session) -> None:
        """Until the session is over."""
        async with trio.open_nursery() as nursery:
            session.tasks = nursery
            nursery.start_soon(self._watch_clock, session)
            if not self.metered:
                nursery.start_soon(self._watch_silence, session)
            await session.over.wait()
            nursery.cancel_scope.cancel()

    async def _watch_clock(self, session: Session) -> None:
        """A window that closes, and a day's budget that is spent, end the session."""
        resource = self.settings.resource
        while resource.windows or resource.bytes_per_day:
            wall = self._clocks.wall()
            window = self.window()
            pause_s = _LOOK_S if window.changes_at is None else min(max(window.changes_at - wall, 0.01), _LOOK_S)
            if not window.open or self._meter.budget.day_left(trio.current_time()) == 0:
                self._closed()
                return
            await trio.sleep(pause_s)
        await trio.sleep_forever()

    async def _watch_silence(self, session: Session) -> None:
        """Ask when nothing was heard for an interval."""
        interval_s = self.settings.resource.probe_s
        while True:
            quiet_s = trio.current_time() - session.heard_at
            if quiet_s < interval_s:
                await trio.sleep(interval_s - quiet_s)
            else:
                await self._doubt(session, trio.current_time())

    def _fall(self, session: Session, reason: str) -> None:
        if session is self._session and not session.over.is_set():
            if session.on_trial:
                session.on_trial = False
                self._tell(LinkState("down", reason))
            self._set(LinkState("down", reason))
        session.end()

    def _hear(self, session: Session) -> None:
        """Something came from the other end."""
        session.heard_at = trio.current_time()
        self.heard_at = (self._clocks.wall(), time.monotonic())

    def _trust(self, session: Session) -> None:
        """A call was taken: so the token was."""
        self._hear(session)
        if session.on_trial and session is self._session:
            session.on_trial = self._token_refused = False
            self._down_at = None
            self._set(LinkState("up"))

    async def _doubt(self, session: Session, since: float) -> str:
        """Ask the sidecar whether it is there, once for all who doubt at the same time; why it is not."""
        async with session.probing:
            if session.over.is_set():
                return self.state.reason or "the link was down meanwhile"
            if session.heard_at > since:
                return ""
            reason = await self._probe(session)
            if reason:
                self._fall(session, reason)
            return reason

    async def _probe(self, session: Session) -> str:
        """Ask for its health; empty, or why the link is down."""
        path = TOKEN_PROBE_PATH if self._token_refused else PROBE_PATH
        token = current_class.set("probe")
        began, limit_s = trio.current_time(), self._limits.probe_timeout_s
        try:
            with trio.move_on_at(began + limit_s) as scope:
                self._probing = (began, scope)
                request = Request("GET", self._ends.http.path + path, self._ends.headers)
                answer = await self._exchange(session, request, self._limits.probe_answer_bytes_max)
                return self._judge_probe(session, answer)
            return f"no answer within {round(min(scope.deadline - began, limit_s), 1):g} s"
        except DriverError as error:
            return self._dated(str(error))
        finally:
            self._probing = None
            current_class.reset(token)

    def _dated(self, reason: str) -> str:
        """A certificate of another time is a sign that this node does not know what time it is."""
        if not _OTHER_TIME.search(reason):
            return reason
        today = time.strftime("%Y-%m-%d", self._clocks.local(self._clocks.wall()))
        return (
            f"{reason}; this node's clock says {today}: when that is wrong, set it or let a time server set it, and the"
            " link is tried again at once; else the certificate is to be renewed"
        )

    def _judge_probe(self, session: Session, answer: Answer) -> str:
        if self._token_refused and answer.status == 401:
            return TOKEN_REFUSED
        # The first needs no token; the second an operator may have taken out of the API, as allow lists can: then it
        # says nothing about the token.
        known = (403, 404) if self._token_refused else (401, 403)
        if is_page(answer) or not (200 <= answer.status < 300 or answer.status in known):
            return f"the health check was answered {answer.status}{excerpt(answer)}"
        if answer.status < 300:
            self._token_refused = False
        self._hear(session)
        return ""

    async def _probe_token(self, session: Session) -> None:
        """Ask whether the sidecar knows the token. Raises `Unreachable` when it does not, and the link is down."""
        request = Request("GET", self._ends.http.path + TOKEN_PROBE_PATH, self._ends.headers)
        since = trio.current_time()
        token = current_class.set("probe")
        try:
            with trio.fail_after(self._limits.probe_timeout_s):
                answer = await self._exchange(session, request, self._limits.probe_answer_bytes_max)
        except (DriverError, trio.TooSlowError) as error:
            await self._suspect(session, since, "it does not say whether it knows the token", error)
        finally:
            current_class.reset(token)
        if answer.status == 401:
            self._refuse_token(session)

    def _refuse_token(self, session: Session) -> NoReturn:
        self._token_refused = True
        self._fall(session, TOKEN_REFUSED)
        raise Unreachable(f"link {self.name}: {TOKEN_REFUSED}", code=401)

    async def admit(self, size: int) -> None:
        """Wait until the budget has room; `size` is reserved then. Raises `Unreachable` when the day's is spent."""
        await self._meter.admit(size)

    async def _suspect(self, session: Session, since: float, what: str, error: Exception) -> NoReturn:
        """Raises in any case: which error, the probe says."""
        reason = await self._doubt(session, since)
        if reason:
            raise Unreachable(f"link {self.name}: {reason}") from error
        raise DriverError(f"link {self.name}: {what}", code=getattr(error, "code", None)) from error

    async def _exchange(self, session: Session, request: Request, bytes_max: int) -> Answer:
        response = await session.http.send(self._ends.http.origin, request)
        try:
            body = await response.body.read(bytes_max)
        except BodyTooLarge:
            raise DriverError(f"the answer is longer than {bytes_max} bytes") from None
        finally:
            await response.body.aclose()
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}
        return Answer(response.status, headers, body)


class _Changes(AsyncIterator[LinkState]):
    """An iterator that needs no closing."""

    def __init__(self, link: KeptLink) -> None:
        self._link = link
        self._last: LinkState | None = None

    async def __anext__(self) -> LinkState:
        while self._link.state == self._last:
            await self._link.changed()
        self._last = self._link.state
        return self._last
