"""Resiliency resources as values, and errors that name the field."""

from __future__ import annotations

from typing import Any

import pytest

from edge_runtime.model.errors import ConfigError
from edge_runtime.resiliency.parse import parse_resource
from edge_runtime.resiliency.resource import ComponentTarget, Target
from edge_runtime.resiliency.retry import Retry


def test_everything_is_read() -> None:
    resource = parse_resource(
        "r",
        {
            "policies": {
                "timeouts": {"general": "5s", "short": 250},
                "retries": {
                    "plain": {},
                    "fast": {"policy": "Constant", "duration": "100ms", "maxRetries": 3},
                    "slow": {
                        "policy": "exponential",
                        "maxInterval": "15s",
                        "maxRetries": 10,
                        "matching": {"httpStatusCodes": "429,500-599", "gRPCStatusCodes": "8,14"},
                    },
                },
                "circuitBreakers": {
                    "cb": {"maxRequests": 2, "interval": "8s", "timeout": "45s", "trip": "requests > 8"}
                },
            },
            "targets": {
                "apps": {"a": {"timeout": "general", "retry": "fast", "circuitBreaker": "cb"}},
                "actors": {"T": {"circuitBreaker": "cb", "circuitBreakerScope": "both"}},
                "components": {"s": {"outbound": {"retry": "slow"}}},
            },
        },
    )
    assert resource.timeouts == {"general": 5.0, "short": 0.25}
    assert resource.retries["plain"] == Retry()
    assert resource.retries["fast"] == Retry(duration_s=0.1, retries_max=3)
    assert resource.retries["slow"] == Retry(
        "exponential", 5.0, 15.0, 900.0, 10, ((429, 429), (500, 599)), ((8, 8), (14, 14))
    )
    breaker = resource.breakers["cb"]
    assert (breaker.probes_max, breaker.interval_s, breaker.open_s) == (2, 8.0, 45.0)
    assert resource.apps == {"a": Target("general", "fast", "cb", 100)}
    assert resource.actors == {"T": Target("", "", "cb", 5000)}
    assert resource.components == {"s": ComponentTarget(Target(), Target(retry="slow"))}
    assert not resource.warnings


def test_nothing_is_enough() -> None:
    assert not parse_resource("r", None).retries


def test_names_fold_their_case() -> None:
    resource = parse_resource("r", {"Policies": {"RETRIES": {"x": {"MaxRetries": 7}}}})
    assert resource.retries["x"].retries_max == 7


def test_unread_fields_are_told() -> None:
    resource = parse_resource("r", {"policies": {"retrys": {}}})
    assert list(resource.warnings) == [
        'Resiliency "r": spec.policies.retrys is not read by anything (did you mean "retries"?)'
    ]


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ({"policies": []}, r"spec\.policies: expected a mapping"),
        ({"policies": {"timeouts": 5}}, r"spec\.policies\.timeouts: expected a mapping of names"),
        (
            {"policies": {"timeouts": {"t": "5 parsecs"}}},
            r'timeouts\.t: "5 parsecs" is no duration; expected one such as',
        ),
        ({"policies": {"timeouts": {"t": True}}}, r"timeouts\.t: expected a duration"),
        (
            {"policies": {"retries": {"x": {"policy": "expo"}}}},
            r'retries\.x\.policy: "expo" is no retry policy; .*const',
        ),
        ({"policies": {"retries": {"x": {"policy": ["a"]}}}}, r"retries\.x\.policy: expected a text"),
        ({"policies": {"retries": {"x": {"maxRetries": "3"}}}}, r"maxRetries: expected a whole number"),
        (
            {"policies": {"retries": {"x": {"matching": {"httpStatusCodes": "429, 500"}}}}},
            r'matching\.httpStatusCodes: " 500" in "429, 500" is no status code; expected codes .* without spaces',
        ),
        ({"policies": {"retries": {"x": {"matching": {"httpStatusCodes": 42}}}}}, r'"42" in "42" is no status code'),
        ({"policies": {"retries": {"x": {"matching": {"gRPCStatusCodes": "9-3"}}}}}, r"from 0 to 16"),
        ({"policies": {"circuitBreakers": {"x": {"maxRequests": -1}}}}, r"maxRequests: expected a number above 0"),
        ({"targets": {"actors": {"T": {"circuitBreaker": "c"}}}}, r"circuitBreakerScope: .* expected type, id or both"),
        ({"targets": {"apps": {"a": {"circuitBreakerCacheSize": -2}}}}, r"circuitBreakerCacheSize: expected a number"),
    ],
)
def test_mistakes_name_their_field(spec: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        parse_resource("r", spec)


@pytest.mark.slow
def test_bad_trip_names_its_field() -> None:
    with pytest.raises(ConfigError, match=r"circuitBreakers\.x\.trip: 'a >' is no CEL"):
        parse_resource("r", {"policies": {"circuitBreakers": {"x": {"trip": "a >"}}}})
