"""The values of Dapr's resource kinds, as the files have them. `documents.py` reads them, `resources.py` finds them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

INIT_TIMEOUT_S: Final = 5.0
V1: Final = "dapr.io/v1alpha1"
V2: Final = "dapr.io/v2alpha1"
EDGE_V1: Final = "edge-runtime.io/v1alpha1"


class MetadataItem(NamedTuple):
    """A `name` with its `value`, `secretKeyRef` or `envRef`, not yet resolved. `value` is None when none is written."""

    name: str
    value: str | None = None
    secret_name: str = ""
    secret_key: str = ""
    env_ref: str = ""


class Component(NamedTuple):
    """A Component resource. `source` is file:line; `secret_store` is `auth.secretStore`; no `scopes` means all apps."""

    name: str
    type: str
    version: str = ""
    metadata: tuple[MetadataItem, ...] = ()
    namespace: str = ""
    ignore_errors: bool = False
    init_timeout_s: float = INIT_TIMEOUT_S
    secret_store: str = ""
    scopes: tuple[str, ...] = ()
    source: str = ""

    @property
    def category(self) -> str:
        """The first segment of the type: state, pubsub, secretstores, …"""
        return self.type.partition(".")[0].lower()

    @property
    def log_name(self) -> str:
        """`name (type/version)`, as Dapr's log lines have it."""
        return f"{self.name} ({self.type}/{self.version})" if self.version else f"{self.name} ({self.type})"


class RouteRule(NamedTuple):
    """Deliver to `path` where the CEL expression `match` holds; an empty one always does."""

    match: str
    path: str


class BulkSubscribe(NamedTuple):
    enabled: bool = False
    messages_max: int = 100
    await_max_ms: int = 1000


class Subscription(NamedTuple):
    """A declarative subscription; v1alpha1's `route` is `default_route` here."""

    name: str
    pubsub: str
    topic: str
    rules: tuple[RouteRule, ...] = ()
    default_route: str = ""
    metadata: Mapping[str, str] = {}
    dead_letter_topic: str = ""
    bulk: BulkSubscribe = BulkSubscribe()
    namespace: str = ""
    scopes: tuple[str, ...] = ()
    source: str = ""


class HttpEndpoint(NamedTuple):
    """An HTTPEndpoint. The TLS items are named rootCA, certificate and privateKey and are None when not written."""

    name: str
    base_url: str
    headers: tuple[MetadataItem, ...] = ()
    root_ca: MetadataItem | None = None
    certificate: MetadataItem | None = None
    private_key: MetadataItem | None = None
    renegotiation: str = "Never"
    secret_store: str = ""
    namespace: str = ""
    scopes: tuple[str, ...] = ()
    source: str = ""


class Resiliency(NamedTuple):
    """A Resiliency resource. `spec` is what is written, as dictionaries; `resiliency/` gives it its meaning."""

    name: str
    spec: Mapping[str, Any]
    namespace: str = ""
    scopes: tuple[str, ...] = ()
    source: str = ""
