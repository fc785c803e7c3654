"""Retry, timeout and circuit breaker: policies as values, one runner that composes them."""

from edge_runtime.resiliency.policies import Policies
from edge_runtime.resiliency.runner import NO_POLICY

__all__ = ["NO_POLICY", "Policies"]
