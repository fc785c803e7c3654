"""What an app says about itself at `GET /dapr/config`: the actor types it hosts and how they are to be treated."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from edge_runtime.config.values import go_duration_s
from edge_runtime.model.errors import BodyTooLarge, DriverError
from edge_runtime.model.http import Request
from edge_runtime.model.ports import AppChannel

logger: Final = logging.getLogger("dapr.runtime")

IDLE_TIMEOUT_S: Final = 3600.0
DRAIN_TIMEOUT_S: Final = 2.0
STACK_DEPTH_MAX: Final = 32
_DISSEMINATION_S: Final = 30.0
_DRAIN_SHARE: Final = 0.8
_ANSWER_BYTES_MAX: Final = 2**20


class ActorSettings(NamedTuple):
    """How one actor type is treated."""

    idle_timeout_s: float = IDLE_TIMEOUT_S
    drain_timeout_s: float = DRAIN_TIMEOUT_S
    reentrant: bool = False
    stack_depth_max: int = STACK_DEPTH_MAX


class AppConfig(NamedTuple):
    """Hosted actor types with their settings; `drain_rebalanced` false cancels running calls at once."""

    actors: Mapping[str, ActorSettings] = {}
    drain_rebalanced: bool = True


NO_APP_CONFIG: Final = AppConfig()


async def discover_app_config(channel: AppChannel, app_id: str) -> AppConfig:
    """Asks the app once. No answer, another status than 200 or unreadable JSON means that it hosts nothing."""
    headers = [(b"content-type", b"application/json"), (b"dapr-app-id", app_id.encode())]
    try:
        response = await channel.send(Request("GET", b"/dapr/config", headers))
        body = await response.body.read(_ANSWER_BYTES_MAX)
    except (DriverError, BodyTooLarge) as error:
        logger.warning("the app's /dapr/config could not be read: %s", error)
        return NO_APP_CONFIG
    if response.status != 200:
        return NO_APP_CONFIG
    try:
        config = parse_app_config(body)
    except (ValueError, RecursionError) as error:
        logger.warning("the app's /dapr/config could not be used, no actors are hosted: %s", error)
        return NO_APP_CONFIG
    if config.actors:
        logger.info("app hosts the actor types %s; actors come in a later part", ", ".join(config.actors))
    return config


def parse_app_config(body: bytes) -> AppConfig:
    """Raises ValueError for what is no JSON object or has a wrong type or duration in a global field."""
    fields = _object(json.loads(body) if body.strip() else {}, "the answer")
    names = _list(fields, "entities")
    if not all(isinstance(name, str) for name in names):
        raise ValueError("entities is no list of names")
    common = _settings(fields)
    drain = fields.get("drainrebalancedactors")
    actors = dict.fromkeys(names, common)
    for item in _list(fields, "entitiesconfig"):
        own = _object(item, "an item of entitiesConfig")
        settings = _own_settings(own, common)
        actors.update((name, settings) for name in _list(own, "entities") if isinstance(name, str) and name in actors)
    return AppConfig(actors, drain if isinstance(drain, bool) else True)


def _settings(fields: Mapping[str, Any]) -> ActorSettings:
    reentrancy = _object(fields.get("reentrancy") or {}, "reentrancy")
    depth = reentrancy.get("maxstackdepth")
    return ActorSettings(
        _duration_s(fields, "actoridletimeout", IDLE_TIMEOUT_S),
        _drain_s(_duration_s(fields, "drainongoingcalltimeout", DRAIN_TIMEOUT_S)),
        reentrancy.get("enabled") is True,
        depth if isinstance(depth, int) and depth > 0 else STACK_DEPTH_MAX,
    )


def _own_settings(fields: Mapping[str, Any], common: ActorSettings) -> ActorSettings:
    """An entry replaces the global settings whole; what it leaves out has the built-in default."""
    try:
        own = _settings(fields)
    except ValueError as error:
        logger.warning("an item of entitiesConfig in /dapr/config: %s; the defaults are used", error)
        return ActorSettings(drain_timeout_s=common.drain_timeout_s)
    return own if "drainongoingcalltimeout" in fields else own._replace(drain_timeout_s=common.drain_timeout_s)


def _drain_s(seconds: float) -> float:
    """Draining must end well before the others stop waiting for this host."""
    return seconds if seconds < _DISSEMINATION_S else max(DRAIN_TIMEOUT_S, _DISSEMINATION_S * _DRAIN_SHARE)


def _duration_s(fields: Mapping[str, Any], name: str, default: float) -> float:
    text = fields.get(name)
    if text is None or text == "":
        return default
    if not isinstance(text, str):
        raise ValueError(f"{name} is {text!r}; expected a duration such as 60m")
    return go_duration_s(text)


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} is no JSON object")
    return {key.lower(): field for key, field in value.items()}


def _list(fields: Mapping[str, Any], name: str) -> Sequence[Any]:
    value = fields.get(name)
    if value is None:
        return ()
    if not isinstance(value, list):
        raise ValueError(f"{name} is no list")
    return value
