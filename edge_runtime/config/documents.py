"""One resource document each: from a YAML mapping to the value of its kind. Mistakes are `FieldError`s."""

from __future__ import annotations

from typing import Final, NamedTuple

from edge_runtime.config import yaml
from edge_runtime.config.fields import Fields
from edge_runtime.config.kinds import (
    INIT_TIMEOUT_S,
    V2,
    Breaker,
    BulkSubscribe,
    Component,
    ComponentTarget,
    HttpEndpoint,
    MetadataItem,
    Resiliency,
    Retry,
    RouteRule,
    Subscription,
    Target,
)
from edge_runtime.config.values import duration_s, go_duration_s
from edge_runtime.config.yaml import Table

_TOP: Final = ("apiVersion", "kind", "metadata", "spec", "scopes", "auth", "status")
_META: Final = ("name", "namespace", "labels", "annotations", "generation", "uid", "resourceVersion",
                "creationTimestamp", "managedFields", "generateName", "selfLink")  # fmt: skip
_ITEM: Final = ("name", "value", "secretKeyRef", "envRef")


class Head(NamedTuple):
    """What every kind has, and the document's other fields under `top`."""

    top: Fields
    name: str
    namespace: str
    scopes: tuple[str, ...]
    secret_store: str
    source: str


def read_head(root: Table, notes: list[str], *, check_name: bool = True) -> Head:
    """What all kinds share. A mistake in the name costs the document."""
    top = Fields(root, "", _TOP, notes)
    meta = top.fields("metadata", _META)
    name = meta.text("name")
    if check_name and (name in (".", "..") or "/" in name or "%" in name):
        raise meta.wrong("name", "a name without '/' and '%' that is not '.' or '..'")
    auth = top.fields("auth", ("secretStore",))
    return Head(
        top, name, meta.text("namespace"), top.texts("scopes"), auth.text("secretStore"), f"{root.file}:{root.line}"
    )


def read_component(root: Table, notes: list[str]) -> Component:
    """A Component document. Raises FieldError."""
    head = read_head(root, notes)
    spec = head.top.fields("spec", ("type", "version", "metadata", "ignoreErrors", "initTimeout"))
    return Component(
        head.name,
        spec.text("type"),
        spec.text("version"),
        tuple(_item(fields) for fields in spec.each("metadata", _ITEM)),
        head.namespace,
        spec.flag("ignoreErrors", False),
        _init_timeout_s(spec),
        head.secret_store,
        head.scopes,
        head.source,
    )


def _init_timeout_s(spec: Fields) -> float:
    """Anything that is no positive duration counts as the default; here it is said."""
    text = spec.text("initTimeout")
    try:
        seconds = go_duration_s(text) if text else INIT_TIMEOUT_S
    except ValueError:
        seconds = 0.0
    if seconds > 0:
        return seconds
    spec.note("initTimeout", f"{text!r} is no positive duration such as 5s or 1m; 5s is used")
    return INIT_TIMEOUT_S


def _item(fields: Fields) -> MetadataItem:
    node = fields.get("value")
    secret = fields.fields("secretKeyRef", ("name", "key"))
    return MetadataItem(
        fields.text("name"),
        None if node is None else yaml.value_text(node),
        secret.text("name"),
        secret.text("key"),
        fields.text("envRef"),
    )


def read_subscription(root: Table, notes: list[str]) -> Subscription:
    """A Subscription document of either version. Raises FieldError."""
    head = read_head(root, notes)
    newer = head.top.text("apiVersion") == V2
    known = ("pubsubname", "topic", "routes" if newer else "route", "metadata", "deadLetterTopic", "bulkSubscribe")
    spec = head.top.fields("spec", known)
    routes = spec.fields("routes", ("rules", "default")) if newer else None
    rules = () if routes is None else tuple(_rule(fields) for fields in routes.each("rules", ("match", "path")))
    for name in ("pubsubname", "topic"):
        if not spec.text(name):
            raise spec.wrong(name, "a name")
    return Subscription(
        head.name,
        spec.text("pubsubname"),
        spec.text("topic"),
        rules,
        spec.text("route") if routes is None else routes.text("default"),
        spec.text_map("metadata"),
        spec.text("deadLetterTopic"),
        _bulk(spec),
        head.namespace,
        head.scopes,
        head.source,
    )


def _rule(fields: Fields) -> RouteRule:
    return RouteRule(fields.text("match").strip(), fields.text("path"))


def _bulk(spec: Fields) -> BulkSubscribe:
    bulk = spec.fields("bulkSubscribe", ("enabled", "maxMessagesCount", "maxAwaitDurationMs"))
    return BulkSubscribe(
        bulk.flag("enabled", False),
        bulk.integer("maxMessagesCount", 0) or 100,
        bulk.integer("maxAwaitDurationMs", 0) or 1000,
    )


_RENEGOTIATION: Final = ("Never", "OnceAsClient", "FreelyAsClient")


def read_http_endpoint(root: Table, notes: list[str]) -> HttpEndpoint:
    """An HTTPEndpoint document. Raises FieldError."""
    head = read_head(root, notes)
    spec = head.top.fields("spec", ("baseUrl", "headers", "clientTLS"))
    if not spec.text("baseUrl").lower().startswith(("http://", "https://")):
        raise spec.wrong("baseUrl", "a URL that begins with http:// or https://")
    tls = spec.fields("clientTLS", ("rootCA", "certificate", "privateKey", "renegotiation"))
    renegotiation = tls.text("renegotiation") or "Never"
    if renegotiation not in _RENEGOTIATION:
        raise tls.wrong("renegotiation", " or ".join(_RENEGOTIATION))
    return HttpEndpoint(
        head.name,
        spec.text("baseUrl"),
        tuple(_item(fields) for fields in spec.each("headers", _ITEM)),
        _tls_item(tls, "rootCA"),
        _tls_item(tls, "certificate"),
        _tls_item(tls, "privateKey"),
        renegotiation,
        head.secret_store,
        head.namespace,
        head.scopes,
        head.source,
    )


def _tls_item(tls: Fields, name: str) -> MetadataItem | None:
    if name not in tls:
        return None
    return _item(tls.fields(name, _ITEM[1:]))._replace(name=name)


_TARGET: Final = ("timeout", "retry", "circuitBreaker")


def read_resiliency(root: Table, notes: list[str]) -> Resiliency:
    """A Resiliency document. Raises FieldError: one bad policy costs the whole resource, as in Dapr."""
    head = read_head(root, notes, check_name=False)
    spec = head.top.fields("spec", ("policies", "targets"))
    policies = spec.fields("policies", ("timeouts", "retries", "circuitBreakers"))
    targets = spec.fields("targets", ("apps", "actors", "components"))
    app_fields = (*_TARGET, "circuitBreakerCacheSize")
    return Resiliency(
        head.name,
        _timeouts_s(policies),
        {name: _retry(fields) for name, fields in policies.named("retries", _RETRY)},
        {name: _breaker(fields) for name, fields in policies.named("circuitBreakers", _BREAKER)},
        {name: _target(fields, 100) for name, fields in targets.named("apps", app_fields)},
        {name: _actor(fields) for name, fields in targets.named("actors", (*app_fields, "circuitBreakerScope"))},
        {name: _component_target(fields) for name, fields in targets.named("components", ("inbound", "outbound"))},
        head.namespace,
        head.scopes,
        head.source,
    )


_RETRY: Final = ("policy", "duration", "maxInterval", "maxRetries", "matching")
_BREAKER: Final = ("maxRequests", "interval", "timeout", "trip")
_DURATION: Final = "a duration such as 300ms, 5s or 1h30m, or whole milliseconds"


def _resiliency_duration_s(text: str) -> float:
    return duration_s(text, plain_unit_s=0.001)


def _timeouts_s(policies: Fields) -> dict[str, float]:
    inner = policies.fields("timeouts", ())
    return {name: inner.parsed(name, _resiliency_duration_s, _DURATION, 0.0) for name in inner.names()}


def _retry(fields: Fields) -> Retry:
    policy = fields.text("policy").lower() or "constant"
    if policy not in ("constant", "exponential"):
        raise fields.wrong("policy", "constant or exponential")
    matching = fields.fields("matching", ("httpStatusCodes", "gRPCStatusCodes"))
    for name, low, high in (("httpStatusCodes", 100, 599), ("gRPCStatusCodes", 0, 16)):
        if not _codes_ok(matching.text(name), low, high):
            raise matching.wrong(
                name, f"codes from {low} to {high} such as '{high}' or '{low}-{high}', parted by commas"
            )
    return Retry(
        policy,
        fields.parsed("duration", _resiliency_duration_s, _DURATION, 5.0),
        fields.parsed("maxInterval", _resiliency_duration_s, _DURATION, 60.0),
        fields.integer("maxRetries", -1),
        matching.text("httpStatusCodes"),
        matching.text("gRPCStatusCodes"),
    )


def _codes_ok(text: str, low: int, high: int) -> bool:
    if not text:
        return True
    for part in text.split(","):
        first, dash, last = part.partition("-")
        numbers = (first, last) if dash else (first,)
        if not all(number.isdecimal() and number.isascii() and low <= int(number) <= high for number in numbers):
            return False
        if dash and int(first) > int(last):
            return False
    return True


def _breaker(fields: Fields) -> Breaker:
    return Breaker(
        fields.integer("maxRequests", 1) or 1,
        fields.parsed("interval", _resiliency_duration_s, _DURATION, 0.0),
        fields.parsed("timeout", _resiliency_duration_s, _DURATION, 60.0),
        fields.text("trip"),
    )


def _target(fields: Fields, cache_size: int) -> Target:
    return Target(
        fields.text("timeout"),
        fields.text("retry"),
        fields.text("circuitBreaker"),
        fields.integer("circuitBreakerCacheSize", 0) or cache_size,
    )


def _actor(fields: Fields) -> Target:
    target = _target(fields, 5000)
    scope = fields.text("circuitBreakerScope").lower()
    if target.circuit_breaker and scope not in ("type", "id", "both"):
        raise fields.wrong("circuitBreakerScope", "type, id or both, because a circuitBreaker is named")
    return target._replace(scope=scope)


def _component_target(fields: Fields) -> ComponentTarget:
    return ComponentTarget(_direction(fields, "inbound"), _direction(fields, "outbound"))


def _direction(fields: Fields, name: str) -> Target | None:
    return _target(fields.fields(name, _TARGET), 0) if name in fields else None
