"""Subscriptions from the app's answer and from resources, and who wins."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from edge_runtime.blocks.pubsub.rules import Rule
from edge_runtime.blocks.pubsub.subscriptions import (
    BulkSettings,
    DiscoveryError,
    SubscriptionKind,
    SubscriptionSpec,
    from_declared,
    merge,
    read_programmatic,
)
from edge_runtime.config.kinds import BulkSubscribe, RouteRule, Subscription
from edge_runtime.model.errors import ConfigError


def read(*items: Any) -> list[SubscriptionSpec]:
    return read_programmatic(json.dumps(items).encode())


def test_the_first_version_has_a_route() -> None:
    assert read({"pubsubname": "p", "topic": "t", "route": "orders"}) == [
        SubscriptionSpec("p", "t", (Rule("", "orders"),), kind=SubscriptionKind.PROGRAMMATIC)
    ]


def test_the_second_version_has_rules() -> None:
    [spec] = read(
        {
            "pubsubname": "p",
            "topic": "t",
            "routes": {"rules": [{"match": "event.a == 1", "path": "/1"}, {"path": "/2"}], "default": "/d"},
            "route": "/not-this",
            "deadLetterTopic": "dead",
            "metadata": {"rawPayload": "true"},
            "bulkSubscribe": {"enabled": True, "maxMessagesCount": 5, "maxAwaitDurationMs": 10},
        }
    )
    assert spec.rules == (Rule("event.a == 1", "/1"), Rule("", "/2"), Rule("", "/d"))
    assert spec.dead_letter_topic == "dead"
    assert spec.metadata == {"rawPayload": "true"}
    assert spec.bulk == BulkSettings(True, 5, 10)


def test_a_route_is_the_default_beside_rules() -> None:
    [spec] = read(
        {"pubsubname": "p", "topic": "t", "route": "/r", "routes": {"rules": [{"match": "true", "path": "/1"}]}}
    )
    assert spec.rules == (Rule("true", "/1"), Rule("", "/r"))


def test_keys_come_in_any_case() -> None:
    [spec] = read({"PubsubName": "p", "TOPIC": "t", "Routes": {"Default": "/d"}, "BulkSubscribe": {"Enabled": True}})
    assert (spec.pubsub, spec.topic, spec.rules) == ("p", "t", (Rule("", "/d"),))
    assert spec.bulk == BulkSettings(True, 100, 1000)


def test_null_is_as_good_as_absent() -> None:
    [spec] = read({"pubsubname": "p", "topic": "t", "route": "/r", "routes": None, "metadata": None})
    assert spec.rules == (Rule("", "/r"),)
    assert read_programmatic(b"null") == []


def test_an_item_without_a_path_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert read({"pubsubname": "p", "topic": "t"}) == []
    assert "without a route" in caplog.text


@pytest.mark.parametrize("body", [b"", b"  ", b"[]", b"null", b"[] tail"])
def test_an_empty_answer_is_no_subscription(body: bytes) -> None:
    assert read_programmatic(body) == []


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"{}",
        b"[5]",
        b'[{"topic": 5}]',
        b'[{"metadata": {"a": 1}}]',
        b'[{"metadata": []}]',
        b'[{"routes": []}]',
        b'[{"routes": {"rules": {}}}]',
        b'[{"routes": {"rules": ["x"]}}]',
        b'[{"bulkSubscribe": {"enabled": "yes"}}]',
        b'[{"bulkSubscribe": {"maxMessagesCount": 1.5}}]',
        b'[{"bulkSubscribe": {"maxMessagesCount": true}}]',
        b'[{"topic": "t", "route": "/r", "routes": {"rules": [{"match": "event.", "path": "/x"}]}}]',
    ],
)
def test_an_answer_that_cannot_be_used_is_an_error(body: bytes) -> None:
    with pytest.raises(DiscoveryError, match="GET /dapr/subscribe"):
        read_programmatic(body)


def test_a_resource_becomes_a_subscription() -> None:
    declared = Subscription(
        "mine",
        "p",
        "t",
        (RouteRule("event.a == 1", "/1"),),
        "/d",
        {"k": "v"},
        "dead",
        BulkSubscribe(True, 0, -5),
        scopes=("app",),
    )
    assert from_declared(declared) == SubscriptionSpec(
        "p",
        "t",
        (Rule("event.a == 1", "/1"), Rule("", "/d")),
        {"k": "v"},
        "dead",
        BulkSettings(True, 100, 1000),
        SubscriptionKind.DECLARATIVE,
        "mine",
        ("app",),
    )


def test_a_resource_with_a_bad_rule_is_refused() -> None:
    declared = Subscription("mine", "p", "t", (RouteRule("event.a ==", "/1"),), source="sub.yaml:3")
    with pytest.raises(ConfigError, match=r"sub.yaml:3: Subscription 'mine', spec.routes.rules: .* not valid CEL"):
        from_declared(declared)


def spec(topic: str, path: str, kind: SubscriptionKind, *scopes: str) -> SubscriptionSpec:
    return SubscriptionSpec("p", topic, (Rule("", path),), kind=kind, scopes=scopes)


def test_precedence_is_by_topic() -> None:
    declared, asked = SubscriptionKind.DECLARATIVE, SubscriptionKind.PROGRAMMATIC
    merged = merge(
        [
            spec("a", "/first", declared),
            spec("a", "/second", declared),
            spec("b", "/declared", declared),
            spec("c", "/other-app", declared, "other"),
            spec("d", "/scoped", declared, "other", "app"),
        ],
        [spec("b", "/early", asked), spec("b", "/late", asked)],
        "app",
    )
    assert [one.rules[0].path for one in merged] == ["/first", "/late", "/scoped"]
