"""The `spec` of a Resiliency document as values, or an error that names the field. Loaded with the first document."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, TypeVar

from edge_runtime.config.values import duration_s, nearest
from edge_runtime.model.errors import ConfigError
from edge_runtime.resiliency.breaker import BreakerSettings
from edge_runtime.resiliency.resource import ComponentTarget, Resource, Target
from edge_runtime.resiliency.retry import EXPONENTIAL_ELAPSED_MAX_S, CodeRanges, Retry
from edge_runtime.resiliency.trip import compile_trip, default_trip

V = TypeVar("V")

_CODES: Final = re.compile(r"(\d{1,3})(?:-(\d{1,3}))?")


def parse_resource(name: str, spec: Mapping[str, Any] | None) -> Resource:
    """The document's values. Raises ConfigError with the field, what was expected and the nearest known name."""
    warnings: list[str] = []
    root = _Fields(f'Resiliency "{name}": spec', spec, ("policies", "targets"), warnings)
    policies = root.section("policies", ("timeouts", "retries", "circuitBreakers"))
    targets = root.section("targets", ("apps", "actors", "components"))
    return Resource(
        name,
        timeouts=policies.each("timeouts", _timeout_s),
        retries=policies.each("retries", _retry),
        breakers=policies.each("circuitBreakers", _breaker),
        apps=targets.each("apps", _app_target),
        actors=targets.each("actors", _actor_target),
        components=targets.each("components", _component_target),
        warnings=warnings,
    )


class _Fields:
    """One mapping of the document; names are matched whatever their case, as JSON decoding in Go does."""

    def __init__(self, path: str, raw: Any, known: Sequence[str], warnings: list[str]) -> None:
        if raw is None:
            raw = {}
        if not isinstance(raw, Mapping):
            raise ConfigError(f"{path}: expected a mapping, got {_shown(raw)}")
        self.path = path
        self._raw = {str(key).lower(): value for key, value in raw.items()}
        self._warnings = warnings
        expected = {word.lower() for word in known}
        for key in raw:
            if str(key).lower() not in expected:
                warnings.append(f"{path}.{key} is not read by anything{nearest(str(key), known)}")

    def section(self, name: str, known: Sequence[str]) -> _Fields:
        return _Fields(f"{self.path}.{name}", self._raw.get(name.lower()), known, self._warnings)

    def each(self, name: str, parse: Callable[[str, Any, list[str]], V]) -> dict[str, V]:
        """A mapping of names that the user chose, its values parsed."""
        path = f"{self.path}.{name}"
        raw = self._raw.get(name.lower())
        if raw is None:
            return {}
        if not isinstance(raw, Mapping):
            raise ConfigError(f"{path}: expected a mapping of names, got {_shown(raw)}")
        return {str(key): parse(f"{path}.{key}", value, self._warnings) for key, value in raw.items()}

    def text(self, name: str, default: str = "") -> str:
        value = self._raw.get(name.lower())
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            raise ConfigError(f"{self.path}.{name}: expected a text, got {_shown(value)}")
        return str(value)

    def integer(self, name: str, default: int) -> int:
        value = self._raw.get(name.lower())
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int):
            raise ConfigError(f"{self.path}.{name}: expected a whole number, got {_shown(value)}")
        return value

    def duration_s(self, name: str, default_s: float) -> float:
        text = self.text(name)
        return _duration_s(f"{self.path}.{name}", text) if text else default_s


def _shown(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _duration_s(path: str, text: str) -> float:
    try:
        return max(0.0, duration_s(text, plain_unit_s=0.001))
    except ValueError:
        raise ConfigError(
            f'{path}: "{text}" is no duration; expected one such as 500ms, 5s or 1h30m, or a number of milliseconds'
        ) from None


def _timeout_s(path: str, raw: Any, _warnings: list[str]) -> float:
    if isinstance(raw, bool) or not isinstance(raw, (str, int)):
        raise ConfigError(f"{path}: expected a duration such as 5s, got {_shown(raw)}")
    return _duration_s(path, str(raw))


def _retry(path: str, raw: Any, warnings: list[str]) -> Retry:
    fields = _Fields(path, raw, ("policy", "duration", "maxInterval", "maxRetries", "matching"), warnings)
    policy = _retry_policy(path, fields.text("policy", "constant"))
    matching = fields.section("matching", ("httpStatusCodes", "gRPCStatusCodes"))
    return Retry(
        policy,
        duration_s=fields.duration_s("duration", 5.0),
        interval_max_s=fields.duration_s("maxInterval", 60.0),
        elapsed_max_s=EXPONENTIAL_ELAPSED_MAX_S if policy == "exponential" else None,
        retries_max=fields.integer("maxRetries", -1),
        http_codes=_codes(f"{matching.path}.httpStatusCodes", matching.text("httpStatusCodes"), 100, 599),
        grpc_codes=_codes(f"{matching.path}.gRPCStatusCodes", matching.text("gRPCStatusCodes"), 0, 16),
    )


def _retry_policy(path: str, text: str) -> Literal["constant", "exponential"]:
    match text.lower():
        case "constant" | "":
            return "constant"
        case "exponential":
            return "exponential"
    hint = nearest(text, ("constant", "exponential"))
    raise ConfigError(f'{path}.policy: "{text}" is no retry policy; expected constant or exponential{hint}')


def _codes(path: str, text: str, lowest: int, highest: int) -> CodeRanges:
    ranges: list[tuple[int, int]] = []
    for part in text.split(",") if text else ():
        match = _CODES.fullmatch(part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not lowest <= first <= last <= highest:
            raise ConfigError(
                f'{path}: "{part}" in "{text}" is no status code; expected codes and ranges from {lowest} to {highest}'
                f' without spaces, such as "{"429,500-599" if lowest else "4,8-14"}"'
            )
        ranges.append((first, last))
    return tuple(ranges)


def _breaker(path: str, raw: Any, warnings: list[str]) -> BreakerSettings:
    fields = _Fields(path, raw, ("maxRequests", "interval", "timeout", "trip"), warnings)
    trip = fields.text("trip")
    try:
        compiled = compile_trip(trip) if trip.strip() else default_trip
    except ConfigError as error:
        raise ConfigError(f"{path}.trip: {error}") from None
    probes_max = fields.integer("maxRequests", 1)
    if probes_max < 0:
        raise ConfigError(f"{path}.maxRequests: expected a number above 0, got {probes_max}")
    return BreakerSettings(
        probes_max=probes_max or 1,
        interval_s=fields.duration_s("interval", 0.0),
        open_s=fields.duration_s("timeout", 60.0) or 60.0,
        trip=compiled,
    )


_TARGET_FIELDS: Final = ("timeout", "retry", "circuitBreaker")
_APP_FIELDS: Final = (*_TARGET_FIELDS, "circuitBreakerCacheSize")


def _target(fields: _Fields, breakers_max: int) -> Target:
    size = fields.integer("circuitBreakerCacheSize", breakers_max)
    if size < 0:
        raise ConfigError(f"{fields.path}.circuitBreakerCacheSize: expected a number above 0, got {size}")
    return Target(fields.text("timeout"), fields.text("retry"), fields.text("circuitBreaker"), size or breakers_max)


def _app_target(path: str, raw: Any, warnings: list[str]) -> Target:
    return _target(_Fields(path, raw, _APP_FIELDS, warnings), 100)


def _actor_target(path: str, raw: Any, warnings: list[str]) -> Target:
    fields = _Fields(path, raw, (*_APP_FIELDS, "circuitBreakerScope"), warnings)
    target = _target(fields, 5000)
    scope = fields.text("circuitBreakerScope")
    if target.breaker and scope not in ("type", "id", "both"):
        hint = nearest(scope, ("type", "id", "both"))
        raise ConfigError(f'{path}.circuitBreakerScope: "{scope}" is no scope; expected type, id or both{hint}')
    return target


def _component_target(path: str, raw: Any, warnings: list[str]) -> ComponentTarget:
    fields = _Fields(path, raw, ("inbound", "outbound"), warnings)
    return ComponentTarget(
        _target(fields.section("inbound", _TARGET_FIELDS), 0), _target(fields.section("outbound", _TARGET_FIELDS), 0)
    )
