"""What a link has for calls: a queue for each app and binding whose calls may wait, and what to say of the others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from edge_runtime.config.links import AnswerLimits, QueueLimits
from edge_runtime.model.ports import FateLimits, RouteSettings
from edge_runtime.sync.link import Link
from edge_runtime.sync.link_settings import Clocks
from edge_runtime.sync.outbox_route import LIMIT_NAME, DirectRoute, OutboxRoute

if TYPE_CHECKING:
    from edge_runtime.sync.far_binding import QueuedBinding
    from edge_runtime.sync.queued_calls import QueuedCalls


class LinkCalls:
    """Of one link, for all apps that have it."""

    def __init__(self, link: Link, clocks: Clocks) -> None:
        self._link = link
        self._now = clocks.wall
        self.apps: dict[str, QueuedCalls] = {}
        self.bindings: dict[str, QueuedBinding] = {}
        self.direct: list[DirectRoute] = []
        resource = link.settings.resource
        for app in resource.invocation:
            if app.queued:
                self.apps[app.app_id] = self._queued_calls(app.app_id, app.answers)
            else:
                self.direct.append(DirectRoute("invocation", app.app_id, app.app_id))
        for binding in resource.bindings:
            if binding.queued:
                self.bindings[binding.name] = self._queued_binding(binding.name, binding.remote_name, binding.answers)
            else:
                self.direct.append(DirectRoute("bindings", binding.name, binding.remote_name))

    def _queued_calls(self, app_id: str, answers: AnswerLimits) -> QueuedCalls:
        from edge_runtime.sync.queued_calls import QueuedCalls

        return QueuedCalls(self._link, app_id, answers.body_bytes_max, self._now)

    def _queued_binding(self, name: str, remote_name: str, answers: AnswerLimits) -> QueuedBinding:
        from edge_runtime.sync.far_binding import QueuedBinding

        return QueuedBinding(self._link, name, remote_name, answers.body_bytes_max, self._now)

    def waiting(self) -> Iterator[tuple[OutboxRoute, RouteSettings]]:
        """The queues, each with its route in the outbox."""
        resource = self._link.settings.resource
        for app in resource.invocation:
            if app.queued:
                yield self.apps[app.app_id], self._settings("invoke", app.app_id, app.queue, app.answers)
        for binding in resource.bindings:
            if binding.queued:
                settings = self._settings("binding", binding.name, binding.queue, binding.answers)
                yield self.bindings[binding.name], settings

    def _settings(self, kind: str, name: str, queue: QueueLimits, answers: AnswerLimits) -> RouteSettings:
        return RouteSettings(
            f"link/{self._link.name}/{kind}/{name}",
            queue.bytes_max,
            queue.age_max_s,
            queue.priority,
            queue.when_full,
            attempts_max=queue.attempts_max,
            limit_name=LIMIT_NAME,
            fates=FateLimits(answers.bytes_max, answers.age_max_s),
        )
