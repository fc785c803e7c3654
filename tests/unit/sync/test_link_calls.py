"""The queues of a link for calls, and their limits."""

from __future__ import annotations

from typing import Any

from edge_runtime.config.links import AnswerLimits, BindingRoute, CloudLink, InvocationRoute, QueueLimits
from edge_runtime.model.ports import FateLimits, RouteSettings
from edge_runtime.sync.link_calls import LinkCalls
from edge_runtime.sync.link_settings import Clocks, LinkSettings


class FarLink:
    def __init__(self, resource: CloudLink) -> None:
        self.name = resource.name
        self.settings = LinkSettings(resource)


def test_a_queue_has_the_limits_of_its_route() -> None:
    queue, answers = QueueLimits(2, 1000, 60.0, "drop-oldest", 5), AnswerLimits(2000, 30.0, 10)
    resource = CloudLink(
        "cloud",
        "http://far",
        invocation=(InvocationRoute("billing", True, queue, answers), InvocationRoute("ledger")),
        bindings=(BindingRoute("mail", "smtp", True, queue, answers), BindingRoute("sms", "sms")),
    )
    link: Any = FarLink(resource)
    calls = LinkCalls(link, Clocks())
    settings = RouteSettings(
        "link/cloud/invoke/billing",
        1000,
        60.0,
        2,
        "drop-oldest",
        attempts_max=5,
        limit_name="limits.size of the CloudLink's route",
        fates=FateLimits(2000, 30.0),
    )
    assert list(calls.waiting()) == [
        (calls.apps["billing"], settings),
        (calls.bindings["mail"], settings._replace(name="link/cloud/binding/mail")),
    ]
    assert [(route.kind, route.name) for route in calls.direct] == [("invocation", "ledger"), ("bindings", "sms")]
