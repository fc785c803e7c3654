"""A pub/sub component as one app sees it: the driver with the rules that its metadata sets around it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from edge_runtime.blocks.pubsub.scopes import TopicScopes, read_scopes
from edge_runtime.model.ports import PubSub

_NAMESPACE: Final = "{namespace}"
_CONSUMER_ID: Final = "consumerID"


class PubSubBinding(NamedTuple):
    """`topic_prefix` stands before every topic on the broker; empty unless the component is namespaced."""

    name: str
    driver: PubSub
    scopes: TopicScopes = TopicScopes()
    consumer_group: str = ""
    topic_prefix: str = ""

    @property
    def namespaced(self) -> bool:
        return bool(self.topic_prefix)


def is_namespaced(raw_metadata: Mapping[str, str]) -> bool:
    """True when a value says `{namespace}`. Ask before templates are filled in; afterwards nobody can tell."""
    return any(_NAMESPACE in value for value in raw_metadata.values())


def bind_pubsub(
    name: str,
    metadata: Mapping[str, str],
    driver: PubSub,
    app_id: str,
    namespace: str = "",
    *,
    namespaced: bool | None = None,
) -> PubSubBinding:
    """The component `name` for `app_id`. `metadata` has resolved values; `namespaced` is what the raw ones said."""
    prefixed = is_namespaced(metadata) if namespaced is None else namespaced
    return PubSubBinding(
        name,
        driver,
        read_scopes(metadata, app_id),
        metadata.get(_CONSUMER_ID, "").strip() or app_id,
        namespace if prefixed else "",
    )
