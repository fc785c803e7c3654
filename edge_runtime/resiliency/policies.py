"""All policies of one app: the resources merged, the built-ins, the default names, and who is guarded by what."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

from edge_runtime.config.values import nearest
from edge_runtime.model.errors import ConfigError
from edge_runtime.model.ports import Policy
from edge_runtime.observability.metrics import Metrics
from edge_runtime.resiliency.breaker import Breaker, BreakerSettings
from edge_runtime.resiliency.resource import ComponentTarget, Resource, Target
from edge_runtime.resiliency.retry import EXPONENTIAL_ELAPSED_MAX_S, Retry
from edge_runtime.resiliency.runner import NO_POLICY, Runner, Tally

logger = logging.getLogger("dapr.runtime")

Kind = Literal["Statestore", "Pubsub", "Binding", "Secretstore", "Configuration", "Lock", "Crypto", "Conversation"]
Direction = Literal["Inbound", "Outbound"]

BUILT_IN: Final[Mapping[str, Retry]] = {
    "DaprBuiltInServiceRetries": Retry(duration_s=1.0, retries_max=3),
    "DaprBuiltInActorRetries": Retry(duration_s=1.0, retries_max=3),
    "DaprBuiltInActorReminderRetries": Retry("exponential", elapsed_max_s=EXPONENTIAL_ELAPSED_MAX_S, retries_max=0),
    "DaprBuiltInInitializationRetries": Retry("exponential", interval_max_s=1.0, elapsed_max_s=10.0, retries_max=3),
    "DaprBuiltInActorNotFoundRetries": Retry(duration_s=1.0, retries_max=5),
}
_PROTECTED: Final = frozenset({"DaprBuiltInActorNotFoundRetries"})
_BUILT_IN_RETRIES_MIN: Final = 3
_APP_BREAKERS_MAX: Final = 100
# Callers choose the targets when default policies guard them all; the target longest not called is forgotten.
_APPS_MAX: Final = 1024


class _Rules(NamedTuple):
    """Every resource laid over the built-ins, later ones on top."""

    timeouts: dict[str, float]
    retries: dict[str, Retry]
    breakers: dict[str, BreakerSettings]
    apps: dict[str, Target]
    components: dict[str, ComponentTarget]


class Policies:
    """The policies of one app. `resources` are (name, spec) of its Resiliency documents in load order, `sources` where
    each was found.

    A document with an error is logged and left out whole; the others still count.
    """

    def __init__(
        self,
        resources: Iterable[tuple[str, Mapping[str, Any]]],
        metrics: Metrics,
        app_id: str,
        namespace: str = "",
        sources: Iterable[str] = (),
    ) -> None:
        parsed = _parse_all(resources, app_id, sources)
        self._names = [resource.name for resource in parsed]
        self._rules = _merge(parsed)
        self._metrics = metrics
        self._label = self._names[-1] if parsed else ""
        self._namespace = namespace
        self._app_policies: OrderedDict[str, OrderedDict[str, Policy]] = OrderedDict()
        self._built_in = {name: Runner(name, None, self._rules.retries[name], None, None) for name in BUILT_IN}
        self._component_policies: dict[tuple[str, str, str], Policy] = {}
        self._component_breakers: dict[tuple[str, str], Breaker] = {}
        self._warn_of_unknown_names()
        for resource in parsed:
            metrics.counter("resiliency_loaded", "name", "namespace").add((resource.name, namespace))

    def describe(self) -> Sequence[str]:
        """The names of the loaded resources, as the metadata API lists them."""
        return self._names

    def targets_app(self, app_id: str) -> bool:
        """Whether a resource has an entry for the app; the built-in service retries then do not apply."""
        return app_id in self._rules.apps

    def for_app(self, app_id: str, endpoint: str = "") -> Policy:
        """The policy of calls to an app; `endpoint` (host:port) has a breaker of its own."""
        cached = self._app_policies.get(app_id)
        if cached is not None and endpoint in cached:
            self._app_policies.move_to_end(app_id)
            cached.move_to_end(endpoint)
            return cached[endpoint]
        target = self._rules.apps.get(app_id)
        target = self._defaults(("App", "")) if target is None else target
        policy = self._app_policy(app_id, target)
        if policy is not NO_POLICY:
            policies = self._app_policies.setdefault(app_id, OrderedDict())
            policies[endpoint] = policy
            if len(policies) > (target.breakers_max or _APP_BREAKERS_MAX):
                policies.popitem(last=False)
            if len(self._app_policies) > _APPS_MAX:
                self._app_policies.popitem(last=False)
        return policy

    def for_component(self, name: str, kind: Kind, direction: Direction) -> Policy:
        """The policy of calls to a component (Outbound), or of what it brings to the app (Inbound)."""
        key = (name, kind, direction)
        policy = self._component_policies.get(key)
        if policy is None:
            policy = self._component_policies[key] = self._component_policy(name, kind, direction)
        return policy

    def builtin(self, name: str) -> Policy:
        """A built-in retry policy, perhaps as a resource overrides it."""
        return self._built_in[name]

    def _app_policy(self, app_id: str, target: Target) -> Policy:
        settings = self._rules.breakers.get(target.breaker)
        breaker = Breaker(target.breaker, settings) if settings else None
        return self._policy(f"app_{app_id}", "outbound", target, breaker)

    def _component_policy(self, name: str, kind: Kind, direction: Direction) -> Policy:
        entry = self._rules.components.get(name)
        if entry is None:
            target = self._defaults((f"{kind}Component{direction}", f"Component{direction}", "Component", ""))
        else:
            target = entry.inbound if direction == "Inbound" else entry.outbound
        breaker = self._component_breaker(name, target.breaker)
        return self._policy(f"{kind}_{name}", direction.lower(), target, breaker)

    def _component_breaker(self, component: str, name: str) -> Breaker | None:
        settings = self._rules.breakers.get(name)
        if settings is None:
            return None
        shared = self._component_breakers.get((component, name))
        if shared is None:
            shared = self._component_breakers[component, name] = Breaker(name, settings)
        return shared

    def _defaults(self, words: Sequence[str]) -> Target:
        rules = self._rules
        return Target(
            _first_default(words, "TimeoutPolicy", rules.timeouts),
            _first_default(words, "RetryPolicy", rules.retries),
            _first_default(words, "CircuitBreakerPolicy", rules.breakers),
        )

    def _policy(self, name: str, direction: str, target: Target, breaker: Breaker | None) -> Policy:
        timeout_s = self._rules.timeouts.get(target.timeout) or None
        retry = self._rules.retries.get(target.retry)
        if timeout_s is None and retry is None and breaker is None:
            return NO_POLICY
        tally = Tally(self._metrics, self._label, self._namespace, direction, name)
        return Runner(name, timeout_s, retry, breaker, tally)

    def _warn_of_unknown_names(self) -> None:
        for app_id, target in self._rules.apps.items():
            self._check_names(f"targets.apps.{app_id}", target)
        for name, entry in self._rules.components.items():
            self._check_names(f"targets.components.{name}.inbound", entry.inbound)
            self._check_names(f"targets.components.{name}.outbound", entry.outbound)

    def _check_names(self, path: str, target: Target) -> None:
        rules = self._rules
        for field, name, known in (
            ("timeout", target.timeout, rules.timeouts),
            ("retry", target.retry, rules.retries),
            ("circuitBreaker", target.breaker, rules.breakers),
        ):
            if name and name not in known:
                logger.warning("Resiliency: %s.%s names no policy: %r%s", path, field, name, nearest(name, known))


def _parse_all(
    resources: Iterable[tuple[str, Mapping[str, Any]]], app_id: str, sources: Iterable[str]
) -> list[Resource]:
    parsed: list[Resource] = []
    places = iter(sources)
    for name, spec in resources:
        source = next(places, "")
        where = f"{source}: " if source else ""
        from edge_runtime.resiliency.parse import parse_resource

        try:
            resource = parse_resource(name, spec)
        except ConfigError as error:
            logger.error("%sResiliency resource left out for app %s: %s", where, app_id, error)
            continue
        for warning in resource.warnings:
            logger.warning("%s%s", where, warning)
        parsed.append(resource)
    return parsed


def _merge(resources: Iterable[Resource]) -> _Rules:
    rules = _Rules({}, dict(BUILT_IN), {}, {}, {})
    for resource in resources:
        rules.timeouts.update(resource.timeouts)
        rules.breakers.update(resource.breakers)
        rules.apps.update(resource.apps)
        rules.components.update(resource.components)
        for name, retry in resource.retries.items():
            rules.retries[name] = _overriding(name, retry)
    return rules


def _overriding(name: str, retry: Retry) -> Retry:
    """What a resource's retry policy becomes when it has the name of a built-in one."""
    if name in _PROTECTED:
        logger.warning(
            "Attempted to override protected policy %s which is not allowed. Ignoring provided policy and using "
            "default.",
            name,
        )
        return BUILT_IN[name]
    if name in BUILT_IN and retry.retries_max < _BUILT_IN_RETRIES_MIN:
        logger.warning(
            "Attempted override of %s did not meet minimum retry count, resetting to %d.", name, _BUILT_IN_RETRIES_MIN
        )
        return retry._replace(retries_max=_BUILT_IN_RETRIES_MIN)
    return retry


def _first_default(words: Sequence[str], ending: str, known: Mapping[str, object]) -> str:
    for word in words:
        name = f"Default{word}{ending}"
        if name in known:
            return name
    return ""
