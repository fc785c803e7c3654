"""The sidecars of the apps that `run` looks after, and the node in this process that they live in when alone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio

from edge_runtime.cli import node as nodes


class Sidecars:
    """`ended` is set when all have gone; `code` is then the exit code that they leave behind.

    `lost` says what became of a node that went away without a word.
    """

    def __init__(self) -> None:
        self.ended = trio.Event()
        self.code = 0
        self.lost = ""

    def gone(self, app_id: str) -> trio.Event:
        """Set when the sidecar of this app has gone."""
        raise NotImplementedError

    async def set_metadata(self, app_id: str, key: str, value: str) -> None:
        """Put an entry where Dapr's tools look for it."""
        raise NotImplementedError

    def read_files_again(self) -> None:
        """Have the sidecars of this process go over to what their files say now."""


class OwnSidecars(Sidecars):
    """Sidecars in a node inside this process."""

    def __init__(self) -> None:
        super().__init__()
        self.node: nodes.RunningNode | None = None
        self._gone: dict[str, trio.Event] = {}

    def started(self, node: nodes.RunningNode) -> None:
        """Called by the node, through `task_status`, when every app's API listens."""
        self.node = node
        self._gone = {app_id: app.gone for app_id, app in node.apps.items()}

    def gone(self, app_id: str) -> trio.Event:
        return self._gone[app_id]

    async def set_metadata(self, app_id: str, key: str, value: str) -> None:
        app = self.node.apps.get(app_id) if self.node is not None else None
        if app is not None:
            app.set_metadata(key, value)

    def read_files_again(self) -> None:
        for app in list(self.node.apps.values()) if self.node is not None else ():
            app.reload()

    async def serve(self, request: nodes.NodeRequest, apps: Sequence[nodes.AppRequest], up: trio.Event) -> None:
        try:
            self.code = await nodes.run(request, apps, signals=False, task_status=_Started(self, up))
        finally:
            self.ended.set()
            up.set()


class _Started:
    """The node's `task_status`. A node that cannot start ends without it, which is no error of ours."""

    def __init__(self, sidecars: OwnSidecars, up: trio.Event) -> None:
        self._sidecars = sidecars
        self._up = up

    def started(self, value: Any = None) -> None:
        self._sidecars.started(value)
        self._up.set()


@asynccontextmanager
async def open_own_node(
    request: nodes.NodeRequest, apps: Sequence[nodes.AppRequest], starting: trio.CancelScope
) -> AsyncIterator[OwnSidecars]:
    """A node in this process, for as long as the block lasts. When it could not start, `ended` is set already."""
    sidecars = OwnSidecars()
    up = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sidecars.serve, request, apps, up)
        with starting:
            await up.wait()
        if starting.cancelled_caught:
            nursery.cancel_scope.cancel()
        try:
            yield sidecars
        finally:
            if sidecars.node is not None:
                sidecars.node.shut_down()
