"""Rules that rewrite label values on the metrics page."""

from __future__ import annotations

import pytest

from edge_runtime.config.settings import MetricRule
from edge_runtime.observability.metric_rules import rewrites_of
from edge_runtime.observability.metrics import Metrics, render


def _rule(name: str, label: str, *pairs: tuple[str, str]) -> MetricRule:
    return MetricRule(name, ((label, pairs),))


@pytest.mark.parametrize("name", ["requests_count", "dapr_requests_count", "requests/count", "requests.count"])
def test_series_that_read_the_same_are_one(name: str) -> None:
    metrics = Metrics("a")
    metrics.rewrites = rewrites_of([_rule(name, "path", ("/orders/ID", "/orders/.+"))])
    for path in ("/orders/1", "/orders/2", "/else"):
        metrics.counter("requests_count", "path").add((path,))
        metrics.counter("others_count", "path").add((path,))
    lines = render([metrics]).splitlines()
    assert 'dapr_requests_count{app_id="a",path="/orders/ID"} 2' in lines
    assert 'dapr_requests_count{app_id="a",path="/else"} 1' in lines
    assert 'dapr_others_count{app_id="a",path="/orders/1"} 1' in lines


def test_distributions_are_summed() -> None:
    metrics = Metrics()
    metrics.rewrites = rewrites_of([_rule("latency", "path", ("x", ".*"))])
    latency = metrics.histogram("latency", "path", buckets=(1, 10))
    latency.observe(0, ("a",))
    latency.observe(5, ("b",))
    lines = render([metrics]).splitlines()
    assert 'dapr_latency_bucket{le="1",path="x"} 1' in lines
    assert 'dapr_latency_bucket{le="10",path="x"} 2' in lines
    assert 'dapr_latency_sum{path="x"} 5' in lines


@pytest.mark.parametrize(
    ("pattern", "shown"), [("b*", "xaxcx"), ("[0-9]", "abc"), ("c", "abx"), ("^", "xabc"), ("a|c", "xbx")]
)
def test_matches_are_those_of_go(pattern: str, shown: str) -> None:
    metrics = Metrics()
    metrics.rewrites = rewrites_of([_rule("n", "path", ("x", pattern))])
    metrics.counter("n", "path").add(("abc",))
    assert f'dapr_n{{path="{shown}"}} 1' in render([metrics])


@pytest.mark.parametrize(
    ("replacement", "shown"),
    [("$1", "orders"), ("${1}s", "orderss"), ("${name}", "7"), ("$9.", "."), ("$none", ""), (r"\1", r"\\1")],
)
def test_groups_are_written_as_in_go(replacement: str, shown: str) -> None:
    metrics = Metrics()
    metrics.rewrites = rewrites_of([_rule("n", "path", (replacement, "^/([a-z]+)/(?P<name>.+)$"))])
    metrics.counter("n", "path").add(("/orders/7",))
    assert f'dapr_n{{path="{shown}"}} 1' in render([metrics])
