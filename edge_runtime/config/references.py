"""Resolves what a resource's values refer to: secrets, environment variables, and templates such as `{appID}`.

Nothing here fails: a reference that leads nowhere leaves its value empty and says so, as in Dapr, because a component
may well work without it. A secret store that is not open yet is reported, and the caller waits for it.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Final, NamedTuple

from edge_runtime.config.environment import Environment
from edge_runtime.config.kinds import Component, MetadataItem
from edge_runtime.model.errors import ConfigError, DriverError

# Takes a store's name and a secret's; None when there is no such secret.
GetSecret = Callable[[str, str], Awaitable[Mapping[str, str] | None]]


class Resolution(NamedTuple):
    """The values by name, and lines for the log. `waits_for` is a secret store that must be opened first."""

    values: Mapping[str, str]
    warnings: Sequence[str] = ()
    waits_for: str = ""


class Surroundings(NamedTuple):
    """What references are resolved against, for one app."""

    app_id: str
    environment: Environment
    variables: Mapping[str, str]
    get_secret: GetSecret
    open_stores: Collection[str]


async def resolve_items(items: Sequence[MetadataItem], secret_store: str, around: Surroundings) -> Resolution:
    """The values of an HTTPEndpoint's headers or TLS items: references, no templates."""
    missing = waits_for(items, secret_store, around.open_stores)
    if missing:
        return Resolution({}, (), missing)
    values: dict[str, str] = {}
    warnings: list[str] = []
    for item in items:
        values[item.name] = await _resolve(item, secret_store, around, warnings)
    return Resolution(values, warnings)


async def resolve_component(component: Component, around: Surroundings) -> Resolution:
    """A component's metadata: references, then templates. Raises ConfigError for `{podName}` without POD_NAME."""
    found = await resolve_items(component.metadata, component.secret_store, around)
    values = {name: _fill(value, name, component, around) for name, value in found.values.items()}
    return found._replace(values=values, warnings=[f"component {component.log_name}: {w}" for w in found.warnings])


def waits_for(items: Sequence[MetadataItem], secret_store: str, open_stores: Collection[str]) -> str:
    """The secret store that some item needs and that is not open; empty when all can be resolved.

    With no store named there is nothing to wait for: the reference is simply never found.
    """
    needed = bool(secret_store) and any(item.secret_name for item in items)
    return secret_store if needed and secret_store not in open_stores else ""


async def _resolve(item: MetadataItem, secret_store: str, around: Surroundings, warnings: list[str]) -> str:
    value = item.value or ""
    if item.secret_name:
        secret = await _secret(item, secret_store, around, warnings)
        value = value if secret is None else secret
    elif item.env_ref and not value:
        value = _variable(item, around, warnings)
    return unquote_go(value)


async def _secret(item: MetadataItem, secret_store: str, around: Surroundings, warnings: list[str]) -> str | None:
    key = item.secret_key or item.secret_name
    if not secret_store:
        warnings.append(
            f"{item.name!r} refers to the secret {item.secret_name!r}, but the resource names no store; "
            "add auth.secretStore"
        )
        return None
    try:
        secret = await around.get_secret(secret_store, item.secret_name)
    except DriverError as error:
        warnings.append(f"{item.name!r}: secret {item.secret_name!r} of store {secret_store!r}: {error}")
        return None
    if secret is None or key not in secret:
        what = "is not there" if secret is None else f"has no key {key!r}, only {', '.join(sorted(secret)) or 'none'}"
        warnings.append(f"{item.name!r}: secret {item.secret_name!r} of store {secret_store!r} {what}; left empty")
        return None
    return secret[key]


def _variable(item: MetadataItem, around: Surroundings, warnings: list[str]) -> str:
    if not may_refer(item.env_ref, around.environment.env_keys):
        warnings.append(f"{item.name!r}: envRef {item.env_ref!r} is not allowed; left empty")
        return ""
    if item.env_ref not in around.variables:
        warnings.append(f"{item.name!r}: envRef {item.env_ref!r} is not set; left empty")
    return around.variables.get(item.env_ref, "")


def may_refer(name: str, allowed: Collection[str] | None = None) -> bool:
    """Whether a resource may read this environment variable: never the tokens or what concerns the runtime itself."""
    upper = name.upper()
    if not name or " " in name or upper == "APP_API_TOKEN" or upper.startswith("DAPR_"):
        return False
    return allowed is None or name in allowed


_ESCAPE: Final = re.compile(r"\\(?:([abfnrtv\\'\"])|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{3}))")
_LITERALS: Final = (
    re.compile(r'"((?:[^"\\\n]|\\.)*)"'),
    re.compile(r"`([^`]*)`"),
    re.compile(r"'([^'\\\n]|\\.+)'"),
)
_NAMED_ESCAPES: Final = dict(zip("abfnrtv\\'\"", "\a\b\f\n\r\t\v\\'\"", strict=True))


def unquote_go(text: str) -> str:
    """A text that is written as a Go literal (`"x"`, a raw `x` in back quotes, 'c') without its quotes, once."""
    for literal in _LITERALS:
        match = literal.fullmatch(text)
        if match is None:
            continue
        inner = match[1]
        if text[0] == "`":
            return inner.replace("\r", "")
        plain = _ESCAPE.sub("", inner)
        if "\\" in plain:
            return text  # an escape that Go does not know: no literal
        value = _ESCAPE.sub(_unescape, inner)
        return value if text[0] == '"' or len(value) == 1 else text
    return text


def _unescape(match: re.Match[str]) -> str:
    if match[1]:
        return _NAMED_ESCAPES[match[1]]
    code = int(match[5], 8) if match[5] else int(match[2] or match[3] or match[4], 16)
    return chr(code) if code <= 0x10FFFF else match[0]


def names_namespace(component: Component) -> bool:
    """Whether the raw metadata says `{namespace}`: a pub/sub component then puts it before every topic."""
    return any("{namespace}" in (item.value or "") for item in component.metadata)


def _fill(value: str, name: str, component: Component, around: Surroundings) -> str:
    if "{" not in value:
        return value
    while "{uuid}" in value:
        value = value.replace("{uuid}", _new_uuid(), 1)
    if "{podName}" in value:
        if around.environment.pod_name is None:
            raise ConfigError(
                f"{component.source}: component {component.log_name}: {name!r} says {{podName}}, but the variable "
                "POD_NAME is not set; set it or remove {podName}"
            )
        value = value.replace("{podName}", around.environment.pod_name)
    namespace = f"{around.environment.namespace_or_default}.{around.app_id}"
    return value.replace("{namespace}", namespace).replace("{appID}", around.app_id)


def _new_uuid() -> str:
    import uuid

    return str(uuid.uuid4())
