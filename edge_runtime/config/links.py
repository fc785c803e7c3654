"""The resource kind CloudLink: another Dapr sidecar, far away, and what crosses the way to it.

Loaded with the first such document. A mistake is a `FieldError`, which names file, line, field, what was found and what
was expected, and costs the link; an unknown field only a warning.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, Literal, NamedTuple, cast
from urllib.parse import urlsplit

from edge_runtime.config import yaml
from edge_runtime.config.documents import read_head
from edge_runtime.config.fields import FieldError, Fields
from edge_runtime.config.kinds import MetadataItem
from edge_runtime.config.values import quantity_bytes
from edge_runtime.config.yaml import Scalar, Table

WhenFull = Literal["refuse", "drop-oldest", "drop-lowest-priority"]
Direction = Literal["up", "down", "both"]
Conflict = Literal["remote-wins", "local-wins", "last-writer", "merge", "app", "keep-both"]

DAY_NAMES: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
ALL_DAYS: Final = frozenset(range(7))
DAY_MINUTES: Final = 24 * 60

_WHEN_FULL: Final = ("refuse", "drop-oldest", "drop-lowest-priority")
_ATTEMPTS_MOST: Final = 1_000_000
_DIRECTIONS: Final = ("up", "down", "both")
_CONFLICTS: Final = ("remote-wins", "local-wins", "last-writer", "merge", "app", "keep-both")
_SPEC: Final = ("endpoint", "token", "tls", "proxy", "budget", "metered", "windows", "probe", "routes")
_ROUTES: Final = ("topicsUp", "topicsDown", "state", "configuration", "secrets", "invocation", "bindings")
_ITEM: Final = ("value", "secretKeyRef")
_URL: Final = "a URL such as https://sidecar.example.com:3500, without user name, query and fragment"
_GRPC_URL: Final = "a URL such as https://sidecar.example.com:50001, without user name, path and query"
_PROXY_URL: Final = "the URL of an HTTP proxy such as http://proxy.example.com:3128"
_SIZE: Final = "a size such as 4Mi, 500k or 1048576, not negative"
_TIME: Final = 'a time of day such as "01:30", in quotes, from "00:00" to "24:00"'
_DAYS: Final = 'days such as "mon-fri", "sat,sun" or "daily"'


class QueueLimits(NamedTuple):
    """What may wait on a route, what goes first, and what happens when that is too much; how often one is tried."""

    priority: int = 4
    bytes_max: int = 64 * 2**20
    age_max_s: float = 7 * 86400.0
    when_full: WhenFull = "refuse"
    attempts_max: int | None = None


class AnswerLimits(NamedTuple):
    """What is kept of the answers to a route's queued calls, and for how long; of one answer `body_bytes_max`."""

    bytes_max: int = 16 * 2**20
    age_max_s: float = 7 * 86400.0
    body_bytes_max: int = 64 * 2**10


class TopicUp(NamedTuple):
    """What local apps publish to `topic` goes to the far sidecar as well."""

    pubsub: str
    topic: str
    remote_pubsub: str
    remote_topic: str
    priority: int = 4
    bytes_max: int = 64 * 2**20
    age_max_s: float = 7 * 86400.0
    when_full: WhenFull = "refuse"
    attempts_max: int | None = None


class TopicDown(NamedTuple):
    """What the far sidecar has for `remote_topic` is published to the local `topic`."""

    remote_pubsub: str
    remote_topic: str
    pubsub: str
    topic: str
    metadata: tuple[tuple[str, str], ...] = ()


class StateRoute(NamedTuple):
    """`keys` is one key, or a prefix with `*` at its end; `remote_keys` stands in its place on the other side."""

    store: str
    keys: str
    remote_store: str
    remote_keys: str
    direction: Direction = "both"
    conflict: Conflict = "remote-wins"
    poll_s: float = 30.0
    change_pubsub: str = ""
    change_topic: str = ""


class ConfigurationRoute(NamedTuple):
    store: str
    keys: tuple[str, ...]
    remote_store: str


class SecretsRoute(NamedTuple):
    remote_store: str
    age_max_s: float


class InvocationRoute(NamedTuple):
    """The app of this id, or of `<id>.<namespace>`, is called on the other side. `queued`: calls may ask to wait."""

    app_id: str
    queued: bool = False
    queue: QueueLimits = QueueLimits()
    answers: AnswerLimits = AnswerLimits()


class BindingRoute(NamedTuple):
    """The output binding `name` is `remote_name` of the other side. `queued`: all its calls wait for their turn."""

    name: str
    remote_name: str
    queued: bool = False
    queue: QueueLimits = QueueLimits()
    answers: AnswerLimits = AnswerLimits()


class Window(NamedTuple):
    """Open from `begin_min` on each of `days` (Monday is 0) to the next `end_min`, in local time. An end that is not
    after the beginning is one of the next day."""

    days: frozenset[int]
    begin_min: int
    end_min: int


class CloudLink(NamedTuple):
    """A CloudLink resource. Its items are named token, ca, clientCert, clientKey and proxy and not yet resolved."""

    name: str
    http: str
    grpc: str = ""
    items: tuple[MetadataItem, ...] = ()
    bytes_per_second: int = 0
    bytes_per_day: int = 0
    metered: bool = False
    windows: tuple[Window, ...] = ()
    probe_s: float = 30.0
    topics_up: tuple[TopicUp, ...] = ()
    topics_down: tuple[TopicDown, ...] = ()
    state: tuple[StateRoute, ...] = ()
    configuration: tuple[ConfigurationRoute, ...] = ()
    secrets: tuple[SecretsRoute, ...] = ()
    invocation: tuple[InvocationRoute, ...] = ()
    bindings: tuple[BindingRoute, ...] = ()
    secret_store: str = ""
    namespace: str = ""
    scopes: tuple[str, ...] = ()
    source: str = ""


def read_cloud_link(root: Table, notes: list[str]) -> CloudLink:
    """A CloudLink document. Raises FieldError."""
    head = read_head(root, notes)
    if not head.name:
        raise head.top.fields("metadata", ()).wrong("name", "a name for the link")
    spec = head.top.fields("spec", _SPEC)
    endpoint = spec.fields("endpoint", ("http", "grpc"))
    budget = spec.fields("budget", ("bytesPerSecond", "bytesPerDay"))
    routes = spec.fields("routes", _ROUTES)
    link = CloudLink(
        head.name,
        _url(endpoint, "http", ("http", "https"), _URL),
        _url(endpoint, "grpc", ("http", "https"), _GRPC_URL, path=False) if "grpc" in endpoint else "",
        tuple(_items(spec)),
        _size(budget, "bytesPerSecond", 0),
        _size(budget, "bytesPerDay", 0),
        spec.flag("metered", False),
        tuple(_window(fields) for fields in spec.each("windows", ("days", "from", "to"))),
        _positive_s(spec.fields("probe", ("interval",)), "interval", 30.0),
        tuple(_topics_up(routes)),
        tuple(_topics_down(routes)),
        tuple(_state(routes)),
        tuple(
            ConfigurationRoute(_name(one, "store"), _texts_or_one(one, "keys"), _name(one, "remoteStore"))
            for one in routes.each("configuration", ("store", "keys", "remoteStore"))
        ),
        tuple(
            SecretsRoute(_name(one, "remoteStore"), _positive_s(one, "maxAge", 86400.0))
            for one in routes.each("secrets", ("remoteStore", "maxAge"))
        ),
        tuple(_invocation(routes)),
        tuple(_bindings(routes)),
        head.secret_store,
        head.namespace,
        head.scopes,
        head.source,
    )
    if link.topics_down and not link.grpc:
        raise endpoint.wrong("grpc", f"{_GRPC_URL}: routes.topicsDown subscribe over gRPC; add it")
    if link.configuration and not link.grpc:
        raise endpoint.wrong("grpc", f"{_GRPC_URL}: routes.configuration subscribe over gRPC; add it")
    changes = {(route.change_pubsub, route.change_topic) for route in link.state if route.change_topic}
    if changes and not link.grpc:
        raise endpoint.wrong("grpc", f"{_GRPC_URL}: changeTopic of routes.state subscribes over gRPC; add it")
    if changes & {(down.remote_pubsub, down.remote_topic) for down in link.topics_down}:
        raise routes.wrong("state", "a changeTopic that is no topic of topicsDown: each would get only some events")
    return link


# --- single fields ----------------------------------------------------------------------------------------------------


def _name(fields: Fields, name: str) -> str:
    text = fields.text(name)
    if not text:
        raise fields.wrong(name, "a name")
    return text


def _choice(fields: Fields, name: str, choices: tuple[str, ...], default: str) -> str:
    text = fields.text(name) or default
    if text not in choices:
        raise fields.wrong(name, f"one of {', '.join(choices)}")
    return text


def _size(fields: Fields, name: str, default: int) -> int:
    size = fields.parsed(name, quantity_bytes, _SIZE, default)
    if size < 0:
        raise fields.wrong(name, _SIZE)
    return size


def _positive_s(fields: Fields, name: str, default: float) -> float:
    seconds = fields.duration_s(name, default)
    if seconds <= 0:
        raise fields.wrong(name, "a duration above zero such as 30s or 1h30m")
    return seconds


def _texts_or_one(fields: Fields, name: str) -> tuple[str, ...]:
    node = fields.get(name)
    return (fields.text(name),) if isinstance(node, Scalar) else fields.texts(name)


def is_url(text: str, schemes: tuple[str, ...], *, path: bool = True, user: bool = False) -> bool:
    """Whether the text is an absolute URL of one of the schemes, with nothing behind its path."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return False
    blank = any(letter.isspace() for letter in text)
    return (
        parts.scheme in schemes
        and bool(parts.hostname)
        and port != 0
        and not (parts.query or parts.fragment or blank)
        and (path or parts.path in ("", "/"))
        and (user or (parts.username is None and parts.password is None))
    )


def _url(fields: Fields, name: str, schemes: tuple[str, ...], expected: str, *, path: bool = True) -> str:
    text = fields.text(name)
    if not is_url(text, schemes, path=path):
        raise (fields.wrong_unseen if "@" in text else fields.wrong)(name, expected)
    return text


def _items(spec: Fields) -> Iterator[MetadataItem]:
    """What may be a secret: token, TLS texts, proxy."""
    if "token" in spec:
        yield _item(spec, "token")
    tls = spec.fields("tls", ("ca", "clientCert", "clientKey"))
    for name in ("ca", "clientCert", "clientKey"):
        if name in tls:
            yield _item(tls, name)
    if ("clientCert" in tls) != ("clientKey" in tls):
        missing = "clientKey" if "clientCert" in tls else "clientCert"
        raise tls.wrong(missing, "the other half of the client's certificate and key; give both or none")
    node = spec.get("proxy")
    if isinstance(node, Scalar):
        text = spec.text("proxy")
        if not is_url(text, ("http",), path=False, user=True):
            raise (spec.wrong_unseen if "@" in text else spec.wrong)("proxy", _PROXY_URL)
        yield MetadataItem("proxy", text)
    elif node is not None:
        yield _item(spec, "proxy")


def _item(parent: Fields, name: str) -> MetadataItem:
    if not isinstance(parent.get(name), Table):
        raise parent.wrong(name, "a mapping with value or secretKeyRef")
    fields = parent.fields(name, _ITEM)
    node = fields.get("value")
    secret = fields.fields("secretKeyRef", ("name", "key"))
    if node is None and not secret.text("name"):
        raise parent.wrong(name, "a mapping with value, or with secretKeyRef and a name in it")
    return MetadataItem(name, None if node is None else yaml.value_text(node), secret.text("name"), secret.text("key"))


# --- windows ----------------------------------------------------------------------------------------------------------


def _window(fields: Fields) -> Window:
    days = fields.parsed("days", parse_days, _DAYS, ALL_DAYS)
    begin, end = _minute(fields, "from"), _minute(fields, "to")
    if begin == DAY_MINUTES:
        raise fields.wrong("from", 'a time before "24:00"')
    if begin == end:
        raise fields.wrong("to", 'another time than from; a whole day is from "00:00" to "24:00"')
    return Window(days, begin, end)


def _minute(fields: Fields, name: str) -> int:
    node = fields.get(name)
    if not isinstance(node, Scalar):
        raise fields.wrong(name, _TIME)
    try:
        return parse_minute(node.text)
    except ValueError:
        raise fields.wrong(name, _TIME) from None


def parse_minute(text: str) -> int:
    """The minutes since midnight of "01:30"; "24:00" is the end of a day. Raises ValueError."""
    hours, colon, minutes = text.strip().partition(":")
    if not (colon and hours.isdecimal() and minutes.isdecimal() and len(minutes) == 2 and 0 < len(hours) <= 2):
        raise ValueError(text)
    value = int(hours) * 60 + int(minutes)
    if int(minutes) > 59 or value > DAY_MINUTES:
        raise ValueError(text)
    return value


def parse_days(text: str) -> frozenset[int]:
    """The days of "mon-fri", "sat,sun", "fri-mon" or "daily". Raises ValueError."""
    found: set[int] = set()
    for part in text.lower().replace(" ", "").split(","):
        if part == "daily":
            return ALL_DAYS
        first, dash, last = part.partition("-")
        begin = DAY_NAMES.index(first)
        end = DAY_NAMES.index(last) if dash else begin
        found.update((begin + step) % 7 for step in range((end - begin) % 7 + 1))
    return frozenset(found)


# --- routes -----------------------------------------------------------------------------------------------------------


def _topics_up(routes: Fields) -> Iterator[TopicUp]:
    seen: set[tuple[str, str]] = set()
    for one in routes.each("topicsUp", ("pubsub", "topic", "remotePubsub", "remoteTopic", "priority", "limits")):
        pubsub, topic = _name(one, "pubsub"), _name(one, "topic")
        if (pubsub, topic) in seen:
            raise one.wrong("topic", f"a topic of {pubsub} that no earlier entry of topicsUp has; remove one of them")
        seen.add((pubsub, topic))
        remote_pubsub, remote_topic = one.text("remotePubsub") or pubsub, one.text("remoteTopic") or topic
        limits = _queue_limits(one)
        yield TopicUp(
            pubsub,
            topic,
            remote_pubsub,
            remote_topic,
            limits.priority,
            limits.bytes_max,
            limits.age_max_s,
            limits.when_full,
            limits.attempts_max,
        )


def _queue_limits(one: Fields) -> QueueLimits:
    """`priority` and `limits` of a route whose entries wait."""
    limits = one.fields("limits", ("size", "age", "whenFull", "attempts"))
    priority = one.integer("priority", 4)
    if not 0 <= priority <= 9:
        raise one.wrong("priority", "a whole number from 0 to 9")
    attempts = limits.integer("attempts", 0)
    if not 0 <= attempts <= _ATTEMPTS_MOST:
        raise limits.wrong("attempts", f"a whole number from 0 (no end) to {_ATTEMPTS_MOST}")
    return QueueLimits(
        priority,
        _positive_size(limits, "size", 64 * 2**20, "64Mi"),
        _positive_s(limits, "age", 7 * 86400.0),
        cast(WhenFull, _choice(limits, "whenFull", _WHEN_FULL, "refuse")),
        attempts or None,
    )


def _positive_size(fields: Fields, name: str, default: int, example: str) -> int:
    size = _size(fields, name, default)
    if not size:
        raise fields.wrong(name, f"a size above zero such as {example}")
    return size


def _answer_limits(one: Fields) -> AnswerLimits:
    answers = one.fields("answers", ("size", "age", "body"))
    return AnswerLimits(
        _positive_size(answers, "size", 16 * 2**20, "16Mi"),
        _positive_s(answers, "age", 7 * 86400.0),
        _size(answers, "body", 64 * 2**10),
    )


def _queued(one: Fields) -> bool:
    """Whether calls of the route may wait. Limits without that would promise what does not happen."""
    queued = one.flag("queued", False)
    for name in ("priority", "limits", "answers"):
        if name in one and not queued:
            raise one.wrong(name, f"queued: true beside it: {name} is for calls that wait")
    return queued


def _invocation(routes: Fields) -> Iterator[InvocationRoute]:
    seen: set[str] = set()
    for one in routes.each("invocation", ("appID", "queued", "priority", "limits", "answers")):
        app_id = _name(one, "appID")
        name, dot, namespace = app_id.partition(".")
        if not name or "/" in app_id or "." in namespace or (dot and not namespace):
            raise one.wrong("appID", "an app id such as billing, or billing.production with its namespace")
        if app_id in seen:
            raise one.wrong("appID", "an app id that no earlier entry of invocation has; remove one of them")
        seen.add(app_id)
        yield InvocationRoute(app_id, _queued(one), _queue_limits(one), _answer_limits(one))


def _bindings(routes: Fields) -> Iterator[BindingRoute]:
    seen: set[str] = set()
    for one in routes.each("bindings", ("name", "remoteName", "queued", "priority", "limits", "answers")):
        name = _name(one, "name")
        if name in seen:
            raise one.wrong("name", "a name that no earlier entry of bindings has; remove one of them")
        seen.add(name)
        yield BindingRoute(name, one.text("remoteName") or name, _queued(one), _queue_limits(one), _answer_limits(one))


def _topics_down(routes: Fields) -> Iterator[TopicDown]:
    seen: set[tuple[str, str]] = set()
    for one in routes.each("topicsDown", ("remotePubsub", "remoteTopic", "pubsub", "topic", "metadata")):
        remote_pubsub, remote_topic = _name(one, "remotePubsub"), _name(one, "remoteTopic")
        if (remote_pubsub, remote_topic) in seen:
            expected = f"a topic of {remote_pubsub} that no earlier entry of topicsDown has; remove one of them"
            raise one.wrong("remoteTopic", expected)
        seen.add((remote_pubsub, remote_topic))
        yield TopicDown(
            remote_pubsub,
            remote_topic,
            one.text("pubsub") or remote_pubsub,
            one.text("topic") or remote_topic,
            tuple(sorted(_metadata(one).items())),
        )


def _metadata(fields: Fields) -> Mapping[str, str]:
    return fields.text_map("metadata")


def _state(routes: Fields) -> Iterator[StateRoute]:
    names = ("store", "keys", "remoteStore", "remoteKeys", "direction", "conflict", "poll", "changeTopic")
    for one in routes.each("state", names):
        store, keys = _name(one, "store"), _keys(one, "keys", "")
        remote_keys = _keys(one, "remoteKeys", keys)
        if keys.endswith("*") != remote_keys.endswith("*"):
            raise one.wrong("remoteKeys", "a prefix with * at its end where keys has one, and one key where not")
        change = one.fields("changeTopic", ("pubsub", "topic"))
        if "changeTopic" in one and one.text("direction") == "up":
            raise one.wrong("changeTopic", "a direction down or both: nothing comes down on this route; take it out")
        yield StateRoute(
            store,
            keys,
            one.text("remoteStore") or store,
            remote_keys,
            cast(Direction, _choice(one, "direction", _DIRECTIONS, "both")),
            cast(Conflict, _choice(one, "conflict", _CONFLICTS, "remote-wins")),
            _positive_s(one, "poll", 30.0),
            _name(change, "pubsub") if "changeTopic" in one else "",
            _name(change, "topic") if "changeTopic" in one else "",
        )


def _keys(fields: Fields, name: str, default: str) -> str:
    text = fields.text(name) or default
    if not text or "*" in text[:-1] or "||" in text:
        raise fields.wrong(name, 'one key such as "settings", or a prefix with * at its end such as "orders/*"')
    return text


__all__ = [
    "ALL_DAYS",
    "AnswerLimits",
    "BindingRoute",
    "CloudLink",
    "ConfigurationRoute",
    "FieldError",
    "InvocationRoute",
    "QueueLimits",
    "SecretsRoute",
    "StateRoute",
    "TopicDown",
    "TopicUp",
    "Window",
    "is_url",
    "parse_days",
    "parse_minute",
    "read_cloud_link",
]
