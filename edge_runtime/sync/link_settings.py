"""What a link is given, and what that comes to: settings, limits, clocks, counts, and where its calls go."""

from __future__ import annotations

import random
import ssl
import time
from collections.abc import Callable
from typing import Final, Literal, NamedTuple, Protocol

from edge_runtime.config.links import CloudLink
from edge_runtime.model.http import Header
from edge_runtime.net.client_tls import client_tls
from edge_runtime.net.connections import Origin
from edge_runtime.net.tunnels import Proxy, parse_proxy
from edge_runtime.net.urls import Url, parse_url
from edge_runtime.observability.metrics import Metrics

# A call has as much more time as its body needs on a line that is slower than any: 8 kbit/s.
SLOWEST_BYTES_PER_S: Final = 1000.0

StateName = Literal["up", "down", "waiting", "out-of-budget", "paused"]


class LinkState(NamedTuple):
    """`reason` is empty when the link is up."""

    name: StateName
    reason: str = ""

    @property
    def up(self) -> bool:
        return self.name == "up"


class LinkLimits(NamedTuple):
    """For how long things are waited for, how large an answer may be, and how many calls go on at once.

    `probe_least_s`: a change of the network breaks no probe off that is younger. `news_pause_s`: between two changes of
    the network that are acted on; with `reach_timeout_s` it is less than the second within which a lost way is noticed.
    `outside_window_s`: so long a link may be used outside its windows when somebody asks for it.
    `short_answer_bytes_max`: of a call that is answered without a body, or with why it was not done.
    `passed_on_max` are those of apps, which have connections of their own: a slow app must not hold up what waits.
    """

    connect_timeout_s: float = 10.0
    call_timeout_s: float = 15.0
    probe_timeout_s: float = 5.0
    reach_timeout_s: float = 0.5
    first_backoff_s: float = 0.25
    pause_most_s: float = 60.0
    probe_least_s: float = 0.5
    news_pause_s: float = 0.2
    outside_window_s: float = 600.0
    answer_bytes_max: int = 16 * 2**20
    short_answer_bytes_max: int = 64 * 2**10
    probe_answer_bytes_max: int = 2**20
    connections_max: int = 16
    passed_on_max: int = 256
    passed_on_idle_max: int = 8
    keepalive_idle_s: float = 30.0
    keepalive_timeout_s: float = 10.0


class LinkSettings(NamedTuple):
    """A CloudLink with its references resolved. `values` are those of its items; `fault` is why it cannot be used."""

    resource: CloudLink
    values: tuple[tuple[str, str], ...] = ()
    fault: str = ""
    limits: LinkLimits = LinkLimits()

    def value(self, name: str) -> str:
        return dict(self.values).get(name, "")


class Clocks(NamedTuple):
    """The wall clock and its local time; tests have their own."""

    wall: Callable[[], float] = time.time
    local: Callable[[float], time.struct_time] = time.localtime
    chance: Callable[[], float] = random.random


class Ledger(Protocol):
    """Remembers what was spent of a day's budget while the process is away."""

    def load(self) -> tuple[int, float]:
        """(bytes, age of the day in seconds)."""

    def save(self, spent: int, day_age_s: float) -> None: ...


class LinkMetrics:
    """The counts of all links of a node."""

    def __init__(self, metrics: Metrics) -> None:
        self.up = metrics.gauge("edge_link_up", "link")
        self.state = metrics.gauge("edge_link_state", "link", "state")
        self.changes = metrics.counter("edge_link_changes_total", "link", "state")
        self.bytes = metrics.counter("edge_link_bytes_total", "link", "class", "direction")
        self.calls = metrics.counter("edge_link_calls_total", "link", "class", "outcome")
        self.day_left = metrics.gauge("edge_link_budget_left_bytes", "link")

    def show(self, link: str, last: LinkState, state: LinkState) -> None:
        """Its state has changed."""
        if state.name != last.name:
            self.state.values.pop((link, last.name), None)
        self.state.set(1, (link, state.name))
        self.up.set(int(state.up), (link,))

    def hide(self, link: str) -> None:
        """Nobody has it open any more."""
        for gauge in (self.up, self.state, self.day_left):
            for labels in [labels for labels in gauge.values if labels[0] == link]:
                del gauge.values[labels]


class Ends:
    """Where calls go, and what they all carry. With a `fault` the link is down, and keeps what it is given."""

    def __init__(self, settings: LinkSettings) -> None:
        resource = settings.resource
        self.fault = ""
        self.http: Url = parse_url(resource.http.rstrip("/"))
        self.grpc: Origin | None = parse_url(resource.grpc).origin if resource.grpc else None
        token = settings.value("token")
        self.headers: tuple[Header, ...] = ((b"dapr-api-token", token.encode()),) if token else ()
        self.metadata: tuple[tuple[str, str | bytes], ...] = (("dapr-api-token", token),) if token else ()
        self.proxy: Proxy | None = None
        self._make_tls: Callable[[], ssl.SSLContext] | None = None
        if not (token.isascii() and token.isprintable()):
            self.fault = "spec.token has letters that no header takes; correct the secret"
        proxy = settings.value("proxy")
        try:
            self.proxy = parse_proxy(proxy) if proxy else None
        except ValueError as error:
            self.fault = f"spec.proxy cannot be used: {error}"
        self._texts = (settings.value("ca"), settings.value("clientCert"), settings.value("clientKey"))
        try:
            self._make_tls = client_tls(*self._texts)
        except ValueError as error:
            self.fault = f"spec.tls cannot be used: {error}"

    def tls(self) -> ssl.SSLContext:
        assert self._make_tls is not None
        return self._make_tls()

    def grpc_tls(self) -> ssl.SSLContext:
        """Settings of their own: these ask for HTTP/2."""
        context = client_tls(*self._texts)()
        context.set_alpn_protocols(["h2"])
        return context
