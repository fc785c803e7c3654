"""One resource document each: from a YAML mapping to the value of its kind. Mistakes are `FieldError`s."""

from __future__ import annotations

from typing import Final, NamedTuple

from edge_runtime.config import yaml
from edge_runtime.config.fields import Fields
from edge_runtime.config.kinds import (
    INIT_TIMEOUT_S,
    V2,
    BulkSubscribe,
    Component,
    HttpEndpoint,
    MetadataItem,
    Resiliency,
    RouteRule,
    Subscription,
)
from edge_runtime.config.values import go_duration_s
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


def read_resiliency(root: Table, notes: list[str]) -> Resiliency:
    """A Resiliency document; its policies and targets are read by `resiliency/`. Raises FieldError."""
    head = read_head(root, notes, check_name=False)
    spec = head.top.plain("spec")
    if spec is not None and not isinstance(spec, dict):
        raise head.top.wrong("spec", "a mapping")
    return Resiliency(head.name, spec or {}, head.namespace, head.scopes, head.source)
