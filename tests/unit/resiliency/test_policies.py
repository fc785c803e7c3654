"""Who is guarded by what: targets, defaults, built-ins and merged resources."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from edge_runtime.model.errors import CircuitOpen, DriverError
from edge_runtime.observability.metrics import Metrics
from edge_runtime.resiliency import NO_POLICY, Policies

BREAKER = {"cb": {"trip": "consecutiveFailures >= 1"}}


def policies(*specs: dict[str, Any]) -> Policies:
    return Policies([(f"r{n}", spec) for n, spec in enumerate(specs)], Metrics(), "me", "ns")


def failing(times: int) -> Callable[[], Awaitable[None]]:
    left = [DriverError("no")] * times

    async def operation() -> None:
        if left:
            raise left.pop()

    return operation


def test_guarded_targets_stay_bounded() -> None:
    guarding = policies({"policies": {"retries": {"DefaultAppRetryPolicy": {"maxRetries": 1}}}})
    first = guarding.for_app("http://host0")
    for number in range(1100):
        guarding.for_app(f"http://host{number}")
        assert guarding.for_app("http://host0") is first
    assert len(guarding._app_policies) == 1024


def test_no_resource_means_no_policy() -> None:
    empty = policies()
    assert empty.for_app("a") is NO_POLICY
    assert empty.for_component("s", "Statestore", "Outbound") is NO_POLICY
    assert list(empty.describe()) == []


def test_targets_find_their_policies() -> None:
    found = policies(
        {
            "policies": {"timeouts": {"t": "1s"}, "retries": {"r": {}}},
            "targets": {"apps": {"a": {"retry": "r"}}, "components": {"s": {"outbound": {"timeout": "t"}}}},
        }
    )
    assert found.for_app("a").retries
    assert found.targets_app("a")
    assert not found.targets_app("b")
    assert found.for_app("b") is NO_POLICY
    outbound = found.for_component("s", "Statestore", "Outbound")
    assert outbound.active
    assert not outbound.retries
    assert found.for_component("s", "Statestore", "Inbound") is NO_POLICY


@pytest.mark.parametrize(
    ("name", "guarded"),
    [
        ("DefaultRetryPolicy", {"app", "state out", "pubsub in"}),
        ("DefaultAppRetryPolicy", {"app"}),
        ("DefaultComponentRetryPolicy", {"state out", "pubsub in"}),
        ("DefaultComponentInboundRetryPolicy", {"pubsub in"}),
        ("DefaultStatestoreComponentOutboundRetryPolicy", {"state out"}),
    ],
)
def test_default_names_apply(name: str, guarded: set[str]) -> None:
    found = policies({"policies": {"retries": {name: {}}}})
    targets = {
        "app": found.for_app("a"),
        "state out": found.for_component("s", "Statestore", "Outbound"),
        "pubsub in": found.for_component("p", "Pubsub", "Inbound"),
    }
    assert {target for target, policy in targets.items() if policy.active} == guarded


def test_an_entry_shuts_out_defaults() -> None:
    found = policies({"policies": {"retries": {"DefaultRetryPolicy": {}}}, "targets": {"apps": {"a": {}}}})
    assert found.for_app("a") is NO_POLICY


def test_later_resources_win() -> None:
    found = policies(
        {"policies": {"retries": {"r": {"maxRetries": 0}}}, "targets": {"apps": {"a": {"retry": "r"}}}},
        {"policies": {"retries": {"r": {"maxRetries": 2}}}},
    )
    assert found.for_app("a").retries
    assert list(found.describe()) == ["r0", "r1"]


def test_broken_resource_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    found = policies({"policies": {"timeouts": {"t": "soon"}}}, {})
    assert list(found.describe()) == ["r1"]
    assert 'Resiliency "r0": spec.policies.timeouts.t: "soon" is no duration' in caplog.text


def test_mistakes_name_their_file(caplog: pytest.LogCaptureFixture) -> None:
    specs: list[tuple[str, dict[str, Any]]] = [("a", {"policies": {"timeouts": {"t": "soon"}}}), ("b", {"target": {}})]
    Policies(specs, Metrics(), "me", sources=["/r/a.yaml:1", "/r/b.yaml:9"])
    assert '/r/a.yaml:1: Resiliency resource left out for app me: Resiliency "a"' in caplog.text
    assert '/r/b.yaml:9: Resiliency "b": spec.target is not read by anything' in caplog.text


def test_unread_fields_are_told(caplog: pytest.LogCaptureFixture) -> None:
    policies({"target": {}})
    assert 'Resiliency "r0": spec.target is not read by anything (did you mean "targets"?)' in caplog.text


def test_a_component_keeps_its_policy() -> None:
    found = policies({"policies": {"retries": {"DefaultRetryPolicy": {}}}})
    policy = found.for_component("s", "Statestore", "Outbound")
    assert found.for_component("s", "Statestore", "Outbound") is policy


def test_unknown_policy_names_are_told(caplog: pytest.LogCaptureFixture) -> None:
    found = policies(
        {
            "policies": {"retries": {"patient": {}}},
            "targets": {"apps": {"a": {"retry": "patent"}}, "components": {"s": {"inbound": {"circuitBreaker": "x"}}}},
        }
    )
    assert found.for_app("a") is NO_POLICY
    assert "targets.apps.a.retry names no policy: 'patent' (did you mean \"patient\"?)" in caplog.text
    assert "targets.components.s.inbound.circuitBreaker names no policy: 'x'" in caplog.text


async def test_builtin_retries_three_times(autojump_clock: MockClock) -> None:
    policy = policies().builtin("DaprBuiltInServiceRetries")
    await policy.run(failing(3))
    assert trio.current_time() == 3.0
    with pytest.raises(DriverError):
        await policy.run(failing(4))


def test_reminder_retries_are_none() -> None:
    assert not policies().builtin("DaprBuiltInActorReminderRetries").retries


async def test_builtin_override_keeps_three(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    found = policies({"policies": {"retries": {"DaprBuiltInServiceRetries": {"duration": "2s", "maxRetries": -1}}}})
    assert "Attempted override of DaprBuiltInServiceRetries did not meet minimum retry count" in caplog.text
    with pytest.raises(DriverError):
        await found.builtin("DaprBuiltInServiceRetries").run(failing(4))
    assert trio.current_time() == 6.0


async def test_protected_builtin_stays(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    found = policies({"policies": {"retries": {"DaprBuiltInActorNotFoundRetries": {"maxRetries": 9}}}})
    assert "protected policy DaprBuiltInActorNotFoundRetries" in caplog.text
    with pytest.raises(DriverError):
        await found.builtin("DaprBuiltInActorNotFoundRetries").run(failing(6))


async def test_endpoints_have_own_breakers(autojump_clock: MockClock) -> None:
    found = policies({"policies": {"circuitBreakers": BREAKER}, "targets": {"apps": {"a": {"circuitBreaker": "cb"}}}})
    with pytest.raises(DriverError):
        await found.for_app("a", "h:1").run(failing(1))
    with pytest.raises(CircuitOpen):
        await found.for_app("a", "h:1").run(failing(0))
    await found.for_app("a", "h:2").run(failing(0))


async def test_breakers_of_endpoints_are_limited(autojump_clock: MockClock) -> None:
    found = policies(
        {
            "policies": {"circuitBreakers": BREAKER},
            "targets": {"apps": {"a": {"circuitBreaker": "cb", "circuitBreakerCacheSize": 2}}},
        }
    )
    first = found.for_app("a", "h:1")
    second = found.for_app("a", "h:2")
    assert found.for_app("a", "h:1") is first
    found.for_app("a", "h:3")
    assert found.for_app("a", "h:1") is first
    assert found.for_app("a", "h:2") is not second


async def test_directions_share_a_breaker(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    both = {"inbound": {"circuitBreaker": "cb"}, "outbound": {"circuitBreaker": "cb"}}
    found = policies({"policies": {"circuitBreakers": BREAKER}, "targets": {"components": {"p": both}}})
    with pytest.raises(DriverError):
        await found.for_component("p", "Pubsub", "Inbound").run(failing(1))
    with pytest.raises(CircuitOpen):
        await found.for_component("p", "Pubsub", "Outbound").run(failing(0))
    assert "Circuit breaker cb of Pubsub_p is now open" in caplog.text
