"""Who may use which topic."""

from __future__ import annotations

import pytest

from edge_runtime.blocks.pubsub.scopes import TopicScopes, read_scopes


@pytest.mark.parametrize(
    ("metadata", "topic", "publish", "subscribe"),
    [
        ({}, "a", True, True),
        ({"allowedTopics": "a, b"}, "b", True, True),
        ({"ALLOWEDTOPICS": "a"}, "b", False, False),
        ({"protectedTopics": "a"}, "a", False, False),
        ({"protectedTopics": "a"}, "b", True, True),
        ({"protectedTopics": "a", "publishingScopes": "app=a"}, "a", True, False),
        ({"publishingScopes": "app=a"}, "b", False, True),
        ({"publishingScopes": "other=a"}, "b", True, True),
        ({"publishingScopes": "app="}, "a", False, True),
        ({"subscriptionScopes": "app=a,b; other = c"}, "b", True, True),
        ({"subscriptionScopes": "other=c;app=a"}, "c", True, False),
        ({"publishingScopes": "app=a;app=b"}, "b", True, True),
        ({"publishingScopes": "app"}, "b", True, True),
        ({"allowedTopics": "a", "publishingScopes": "app=b"}, "b", False, False),
        ({"allowedTopics": "a"}, "A", False, False),
    ],
)
def test_scopes_decide_by_topic(metadata: dict[str, str], topic: str, publish: bool, subscribe: bool) -> None:
    scopes = read_scopes(metadata, "app")
    assert (scopes.may_publish(topic), scopes.may_subscribe(topic)) == (publish, subscribe)


def test_nothing_after_the_sign_is_no_topic() -> None:
    assert read_scopes({"publishingScopes": "app="}, "app") == TopicScopes(publishing=("",))
