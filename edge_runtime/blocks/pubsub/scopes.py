"""Which topics an app may use on a component: `allowedTopics`, `protectedTopics` and the two scope lists.

`publishingScopes` and `subscriptionScopes` read `app1=t1,t2;app2=`. An app that is not listed is free; one listed with
nothing after `=` may use no topic. Names match exactly, blanks are removed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class TopicScopes(NamedTuple):
    """The rules of one component for one app; an empty tuple is no rule."""

    allowed: tuple[str, ...] = ()
    protected: tuple[str, ...] = ()
    publishing: tuple[str, ...] = ()
    subscribing: tuple[str, ...] = ()

    def may_publish(self, topic: str) -> bool:
        return self._may(topic, self.publishing)

    def may_subscribe(self, topic: str) -> bool:
        return self._may(topic, self.subscribing)

    def _may(self, topic: str, granted: tuple[str, ...]) -> bool:
        if self.allowed and topic not in self.allowed:
            return False
        if not granted:
            return topic not in self.protected
        return topic in granted


def read_scopes(metadata: Mapping[str, str], app_id: str) -> TopicScopes:
    """The scopes in a component's metadata, whose names are matched in any case."""
    values = {name.lower(): value.replace(" ", "") for name, value in metadata.items()}
    return TopicScopes(
        allowed=_topics(values.get("allowedtopics", "")),
        protected=_topics(values.get("protectedtopics", "")),
        publishing=_granted(values.get("publishingscopes", ""), app_id),
        subscribing=_granted(values.get("subscriptionscopes", ""), app_id),
    )


def _topics(text: str) -> tuple[str, ...]:
    return tuple(text.split(",")) if text else ()


def _granted(text: str, app_id: str) -> tuple[str, ...]:
    topics: dict[str, None] = {}
    for entry in text.split(";"):
        app, separator, names = entry.partition("=")
        if separator and app == app_id:
            topics.update(dict.fromkeys(names.partition("=")[0].split(",")))
    return tuple(topics)
