"""A Resiliency resource as values: named policies, and which target uses which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from edge_runtime.resiliency.breaker import BreakerSettings
from edge_runtime.resiliency.retry import Retry


class Target(NamedTuple):
    """Names of policies; an empty one is none."""

    timeout: str = ""
    retry: str = ""
    breaker: str = ""
    breakers_max: int = 0


class ComponentTarget(NamedTuple):
    inbound: Target = Target()
    outbound: Target = Target()


class Resource(NamedTuple):
    """One Resiliency document. `warnings` are texts about fields that nobody reads."""

    name: str
    timeouts: Mapping[str, float]
    retries: Mapping[str, Retry]
    breakers: Mapping[str, BreakerSettings]
    apps: Mapping[str, Target]
    actors: Mapping[str, Target]
    components: Mapping[str, ComponentTarget]
    warnings: Sequence[str] = ()
