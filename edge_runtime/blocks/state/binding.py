"""A state store as its component configures it: key prefix, encryption, outbox. These settings are the runtime's own.

The store itself never sees them, which is why they are read here and not by the driver.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

from edge_runtime.config.values import truthy
from edge_runtime.model.errors import ConfigError
from edge_runtime.model.ports import StateStore

if TYPE_CHECKING:
    from edge_runtime.security.seal import Seal

logger = logging.getLogger("dapr.runtime.processor")

SEPARATOR: Final = "||"
_PRIMARY: Final = "primaryEncryptionKey"
_SECONDARY: Final = "secondaryEncryptionKey"
_EXACT: Final = (
    _PRIMARY,
    _SECONDARY,
    "outboxPublishPubsub",
    "outboxPublishTopic",
    "outboxPubsub",
    "outboxDiscardWhenMissingState",
)


_OWN_FIELDS: Final = frozenset({"keyprefix", *(field.lower() for field in _EXACT)})


class OutboxSettings(NamedTuple):
    """`pubsub` carries the internal topic. `discard`: an event whose transaction never came is dropped, not retried."""

    publish_pubsub: str
    publish_topic: str
    pubsub: str
    discard: bool = False


class BoundStore(NamedTuple):
    """`key_prefix` is the strategy as configured: `appid`, `name`, `namespace`, `none` or a text of its own."""

    name: str
    store: StateStore
    key_prefix: str = "appid"
    seal: Seal | None = None
    outbox: OutboxSettings | None = None


def driver_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """What is left for the driver: it would warn of fields that are not its own."""
    return {field: value for field, value in metadata.items() if field.lower() not in _OWN_FIELDS}


def bind_store(
    name: str,
    metadata: Mapping[str, str],
    store: StateStore,
    *,
    secret_store: str = "",
    key_names: Mapping[str, str] | None = None,
) -> BoundStore:
    """The store with the settings of its component's (resolved) metadata. Raises ConfigError.

    `secret_store` is the component's `auth.secretStore` when that store is loaded, else empty; `key_names` has the
    `secretKeyRef.name` of each field that came from it.
    """
    _warn_of_spelling(name, metadata)
    return BoundStore(
        name,
        store,
        _key_prefix(name, metadata),
        _seal(name, metadata, secret_store, key_names or {}),
        _outbox(name, metadata),
    )


def stored_prefix(bound: BoundStore, app_id: str, namespace: str) -> str:
    """What stands before every key in the store, separator included."""
    match bound.key_prefix:
        case "none":
            return ""
        case "appid":
            word = app_id
        case "name":
            word = bound.name
        case "namespace":
            word = f"{namespace}.{app_id}" if namespace else app_id
        case word:
            pass
    return word + SEPARATOR


def _key_prefix(name: str, metadata: Mapping[str, str]) -> str:
    prefix = next((value for field, value in metadata.items() if field.lower() == "keyprefix"), "").lower()
    if SEPARATOR in prefix:
        raise ConfigError(
            f"state store \"{name}\", keyPrefix: input key/keyPrefix '{prefix}' can't contain '||'; expected appid,"
            " name, namespace, none or a text without ||"
        )
    return prefix or "appid"


def _seal(name: str, metadata: Mapping[str, str], secret_store: str, key_names: Mapping[str, str]) -> Seal | None:
    fields = [field for field in (_PRIMARY, _SECONDARY) if metadata.get(field)]
    if not fields:
        return None
    if not secret_store:
        logger.warning(
            'State store "%s": %s is set, but the component has no loaded secret store, so the values ARE STORED IN '
            "CLEAR TEXT. Put the key into a secret store, name the store under auth.secretStore and the key under "
            "secretKeyRef.",
            name,
            " and ".join(fields),
        )
        return None
    if _PRIMARY not in fields:
        raise ConfigError(f'state store "{name}": {_SECONDARY} is set without {_PRIMARY}, which is what encrypts')
    from edge_runtime.security.seal import Seal, key_from_hex

    keys = [
        key_from_hex(f'state store "{name}", {field}', key_names.get(field, ""), metadata[field]) for field in fields
    ]
    return Seal(*keys)


def _outbox(name: str, metadata: Mapping[str, str]) -> OutboxSettings | None:
    pubsub = metadata.get("outboxPublishPubsub", "")
    topic = metadata.get("outboxPublishTopic", "")
    if pubsub and topic:
        return OutboxSettings(
            pubsub,
            topic,
            metadata.get("outboxPubsub", "") or pubsub,
            truthy(metadata.get("outboxDiscardWhenMissingState", "")),
        )
    if pubsub or topic:
        missing = "outboxPublishTopic" if pubsub else "outboxPublishPubsub"
        logger.warning('State store "%s" has no outbox: %s is missing, and an outbox needs it.', name, missing)
    return None


def _warn_of_spelling(name: str, metadata: Mapping[str, str]) -> None:
    spelled = {field.lower(): field for field in _EXACT}
    for field in metadata:
        right = spelled.get(field.lower())
        if right is not None and right != field:
            logger.warning('State store "%s": %s is not read; its name must be written %s.', name, field, right)
