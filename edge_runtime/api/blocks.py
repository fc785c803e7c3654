"""What the handlers of one app call, whichever face they belong to."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge_runtime.api.conflicts import AppConflicts
    from edge_runtime.api.outbox import AppOutbox
    from edge_runtime.api.sync import AppSync
    from edge_runtime.blocks.bindings import Bindings
    from edge_runtime.blocks.configuration import Configuration
    from edge_runtime.blocks.invoke import Invoker
    from edge_runtime.blocks.metadata import Metadata
    from edge_runtime.blocks.pubsub import Publisher
    from edge_runtime.blocks.pubsub.streams import Streams
    from edge_runtime.blocks.secrets import Secrets
    from edge_runtime.blocks.state import State
    from edge_runtime.observability.health import Health


class Blocks:
    """The blocks of one app. Filled once by the runtime, replaced whole when the files are read again."""

    __slots__ = (
        "bindings",
        "configuration",
        "conflicts",
        "health",
        "invoker",
        "metadata",
        "namespace",
        "outbox",
        "publisher",
        "secrets",
        "shutdown",
        "state",
        "streams",
        "sync",
    )

    def __init__(
        self,
        *,
        state: State,
        publisher: Publisher,
        streams: Streams,
        invoker: Invoker,
        secrets: Secrets,
        bindings: Bindings,
        configuration: Configuration,
        outbox: AppOutbox,
        sync: AppSync,
        conflicts: AppConflicts,
        metadata: Metadata,
        health: Health,
        namespace: str,
        shutdown: Callable[[bool], None],
    ) -> None:
        self.state = state
        self.publisher = publisher
        self.streams = streams
        self.invoker = invoker
        self.secrets = secrets
        self.bindings = bindings
        self.configuration = configuration
        self.outbox = outbox
        self.sync = sync
        self.conflicts = conflicts
        self.metadata = metadata
        self.health = health
        self.namespace = namespace
        self.shutdown = shutdown
