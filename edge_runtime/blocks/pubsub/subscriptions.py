"""What an app subscribes to: read from its `/dapr/subscribe` answer or from resources, merged by precedence."""

from __future__ import annotations

import enum
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from edge_runtime.blocks.pubsub.rules import Routes, Rule, RuleError
from edge_runtime.config.kinds import Subscription
from edge_runtime.model.errors import ConfigError
from edge_runtime.wire.cloudevents import compact_json, parse_json

logger: Final = logging.getLogger("dapr.runtime.processor.subscription")

BULK_COUNT_MAX: Final = 100
BULK_AWAIT_MS: Final = 1000


class SubscriptionKind(enum.Enum):
    """Where a subscription comes from; the value is what the metadata API says."""

    DECLARATIVE = "DECLARATIVE"
    PROGRAMMATIC = "PROGRAMMATIC"
    STREAMING = "STREAMING"


class BulkSettings(NamedTuple):
    """Whether events are delivered in batches, and when a batch is full."""

    enabled: bool = False
    count_max: int = BULK_COUNT_MAX
    await_max_ms: int = BULK_AWAIT_MS


class SubscriptionSpec(NamedTuple):
    """One subscription. The default route is the last rule, with an empty match."""

    pubsub: str
    topic: str
    rules: tuple[Rule, ...] = ()
    metadata: Mapping[str, str] = {}
    dead_letter_topic: str = ""
    bulk: BulkSettings = BulkSettings()
    kind: SubscriptionKind = SubscriptionKind.DECLARATIVE
    name: str = ""
    scopes: tuple[str, ...] = ()


class DiscoveryError(Exception):
    """The app's list of subscriptions cannot be used."""


def from_declared(declared: Subscription) -> SubscriptionSpec:
    """A Subscription resource of either version. Raises ConfigError for an expression that is no CEL."""
    rules = [Rule(rule.match, rule.path) for rule in declared.rules]
    if declared.default_route:
        rules.append(Rule("", declared.default_route))
    try:
        Routes(rules)
    except RuleError as error:
        where = f"{declared.source}: " if declared.source else ""
        raise ConfigError(f"{where}Subscription {declared.name!r}, spec.routes.rules: {error}") from None
    bulk = BulkSettings(declared.bulk.enabled, declared.bulk.messages_max, declared.bulk.await_max_ms)
    return SubscriptionSpec(
        declared.pubsub,
        declared.topic,
        tuple(rules),
        declared.metadata,
        declared.dead_letter_topic,
        with_defaults(bulk),
        SubscriptionKind.DECLARATIVE,
        declared.name,
        declared.scopes,
    )


def merge(
    declarative: Iterable[SubscriptionSpec], programmatic: Iterable[SubscriptionSpec], app_id: str
) -> list[SubscriptionSpec]:
    """One for each component and topic: the first declared, or the last that the app itself asked for."""
    chosen: dict[tuple[str, str], SubscriptionSpec] = {}
    for spec in declarative:
        if not spec.scopes or app_id in spec.scopes:
            chosen.setdefault((spec.pubsub, spec.topic), spec)
    for spec in programmatic:
        chosen[spec.pubsub, spec.topic] = spec
    return list(chosen.values())


# --- the answer of GET /dapr/subscribe --------------------------------------------------------------------------------


def read_programmatic(body: bytes) -> list[SubscriptionSpec]:
    """The app's array, v1 and v2 items alike, names in any case. Raises `DiscoveryError`."""
    if not body.strip():
        return []
    try:
        items = parse_json(compact_json(body))
        specs = [_read_item(item) for item in _list_of(items, "the answer")]
        for spec in specs:
            Routes(spec.rules)
    except ValueError as error:
        raise DiscoveryError(f"the app's answer to GET /dapr/subscribe cannot be read: {error}") from None
    except RuleError as error:
        raise DiscoveryError(f"the app's answer to GET /dapr/subscribe has a bad rule: {error}") from None
    for spec in specs:
        if not spec.rules:
            logger.warning(
                "the app subscribes to topic %s on pubsub %s without a route; dropped. Give it `route` or `routes`",
                spec.topic,
                spec.pubsub,
            )
    return [spec for spec in specs if spec.rules]


def _read_item(value: Any) -> SubscriptionSpec:
    item = _Item(value, "a subscription")
    routes = item.item("routes")
    rules = [_read_rule(rule) for rule in routes.list("rules")]
    rules = [rule for rule in rules if rule.path or rule.match.strip()]
    default = routes.text("default") or item.text("route")
    if default:
        rules.append(Rule("", default))
    bulk = item.item("bulkSubscribe")
    return SubscriptionSpec(
        item.text("pubsubname"),
        item.text("topic"),
        tuple(rules),
        item.texts("metadata"),
        item.text("deadLetterTopic"),
        with_defaults(
            BulkSettings(bulk.flag("enabled"), bulk.integer("maxMessagesCount"), bulk.integer("maxAwaitDurationMs"))
        ),
        SubscriptionKind.PROGRAMMATIC,
    )


def _read_rule(value: Any) -> Rule:
    item = _Item(value, "a rule")
    return Rule(item.text("match"), item.text("path"))


def with_defaults(bulk: BulkSettings) -> BulkSettings:
    """The settings with the defaults for what was not given."""
    return BulkSettings(
        bulk.enabled,
        bulk.count_max if bulk.count_max > 0 else BULK_COUNT_MAX,
        bulk.await_max_ms if bulk.await_max_ms > 0 else BULK_AWAIT_MS,
    )


class _Item:
    """A JSON object with names in any case; a null is as good as absent, a wrong type is a ValueError."""

    def __init__(self, value: Any, what: str) -> None:
        if value is not None and not isinstance(value, dict):
            raise ValueError(f"{what} is no object: {value!r}")
        self._members = {name.lower(): member for name, member in (value or {}).items()}

    def _get(self, name: str, kind: type, expected: str) -> Any:
        value = self._members.get(name.lower())
        if value is not None and type(value) is not kind:
            raise ValueError(f"{name} is {value!r}; expected {expected}")
        return value

    def text(self, name: str) -> str:
        return self._get(name, str, "a text") or ""

    def flag(self, name: str) -> bool:
        return bool(self._get(name, bool, "true or false"))

    def integer(self, name: str) -> int:
        return self._get(name, int, "a whole number") or 0

    def list(self, name: str) -> Sequence[Any]:
        return _list_of(self._members.get(name.lower()), name)

    def item(self, name: str) -> _Item:
        return _Item(self._members.get(name.lower()), name)

    def texts(self, name: str) -> Mapping[str, str]:
        value = self._members.get(name.lower())
        if value is None:
            return {}
        if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
            raise ValueError(f"{name} is {value!r}; expected a map of texts")
        return value


def _list_of(value: Any, what: str) -> Sequence[Any]:
    if value is not None and not isinstance(value, list):
        raise ValueError(f"{what} is no list: {value!r}")
    return value or []
