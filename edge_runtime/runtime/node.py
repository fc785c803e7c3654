"""The node: what all its apps share, who may join it, and how it ends.

A node ends in one of three ways. A signal or the shutdown API begins a graceful stop: apps stop taking work, finish
what is open, close their components; code 0. A stop that is overdue, or forced, ends the process with code 1. A
resource that an app cannot start without ends a node that was started for that app with code 1 as well.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Final

import trio

from edge_runtime import RUNTIME_VERSION
from edge_runtime.blocks.invoke import LocalPeers
from edge_runtime.model.errors import ConfigError, leaves
from edge_runtime.model.ports import LocalCalls
from edge_runtime.net.name_lookups import open_name_look_ups
from edge_runtime.observability.log import Handler, current_app, setup_logging
from edge_runtime.observability.metrics import Metrics
from edge_runtime.runtime.app import App, serve_app
from edge_runtime.runtime.outbox import NodeOutbox
from edge_runtime.runtime.settings import AppSettings, NodeSettings
from edge_runtime.store.database import Databases, StoreLimits, open_databases

if TYPE_CHECKING:
    from edge_runtime.net.systemd import Manager, PassedSockets
    from edge_runtime.runtime.service import Service
    from edge_runtime.sync.links import Links

log = logging.getLogger("dapr.runtime")
signals_log = logging.getLogger("dapr.signals")

FORCED_AFTER_S: Final = 0.1
COLLECTOR_THRESHOLDS: Final = (5_000, 20, 20)


class Node:
    """The apps of this process and what they share."""

    def __init__(self, settings: NodeSettings, databases: Databases, nursery: trio.Nursery, logs: Handler) -> None:
        self.settings = settings
        self.state_dir = settings.state_dir
        self.databases = databases
        self.logs = logs
        self.metrics = Metrics()
        self.calls = LocalCalls()
        self.outbox = NodeOutbox(databases, settings.state_dir, self.metrics, self.calls, nursery)
        self.apps: dict[str, App] = {}
        self.peers = LocalPeers()
        self.code = 0
        self.links: Links | None = None  # made with the first CloudLink
        self.nursery = nursery
        self.sockets: PassedSockets | None = None  # those that a service manager has opened
        self.on_reload: Callable[[], None] = lambda: None
        self._stopping = False
        self._changed = trio.Event()

    async def attach(self, settings: AppSettings) -> App:
        """Serve an app from now on. Returns when its ports accept. Raises ConfigError when it cannot start."""
        app_id = settings.flags.app_id
        if self._stopping:
            raise ConfigError("the node is shutting down and takes no further app")
        if app_id in self.apps:
            raise ConfigError(f"--app-id {app_id!r} runs on this node already; stop it first or choose another id")
        app = self.apps[app_id] = App(self._with_files(settings), self)
        try:
            await self.nursery.start(self._serve, app)
        except BaseException:
            self._forget(app)
            raise
        self.note_change()
        return app

    def _with_files(self, settings: AppSettings) -> AppSettings:
        """With the node's components and configuration where the app names none."""
        flags, directory = settings.flags, self.settings.config_dir
        components, config = os.path.join(directory, "components"), os.path.join(directory, "config.yaml")
        if directory and not flags.resource_directories and os.path.isdir(components):
            flags = flags._replace(resources_path=(components,))
        if directory and not flags.config and os.path.isfile(config):
            flags = flags._replace(config=(config,))
        return settings._replace(flags=flags)

    async def _serve(self, app: App, *, task_status: trio.TaskStatus[None]) -> None:
        """One app's service, supervised: what goes wrong in it after its start ends this app and no other."""
        current_app.set(app.app_id)
        try:
            await serve_app(app, task_status=task_status)
        except Exception as error:
            if not app.listening:
                raise
            self.code = 1
            causes = leaves(error)
            unexpected = any(not isinstance(cause, ConfigError) for cause in causes)
            text = "; ".join(str(cause) for cause in causes)
            log.critical("Fatal error from runtime: %s", text, exc_info=error if unexpected else None)
        finally:
            self._forget(app)

    def _forget(self, app: App) -> None:
        app.gone.set()
        if self.apps.get(app.app_id) is app:
            del self.apps[app.app_id]
        self.note_change()

    def shut_down(self, *, blocking: bool = False) -> None:
        """Begin a graceful stop of every app; `blocking` honours --dapr-block-shutdown-duration, as signals do."""
        self._stopping = True
        for app in list(self.apps.values()):
            app.shut_down(blocking=blocking)
        self.note_change()

    def reload(self) -> None:
        """Have every app go over to what its files say now."""
        for app in list(self.apps.values()):
            app.reload()
        self.on_reload()

    @property
    def stopping(self) -> bool:
        """A stop of the whole node was asked for."""
        return self._stopping

    def note_change(self, _state: object = None) -> None:
        """Apps or links have come, gone or changed: wakes who waits for that."""
        self._changed.set()
        self._changed = trio.Event()

    async def changed(self) -> None:
        """Wait for the next change."""
        await self._changed.wait()

    def has_others(self, app: App) -> bool:
        """Whether ending the process would take along what is not about to end itself."""
        if self.settings.linger and not self._stopping:
            return True
        return any(other is not app and not other.stopping for other in self.apps.values())

    def force(self, app: App) -> None:
        """End the app's sidecar in a moment with nothing drained; the process with code 1 when it is all there is."""
        self.code = 1
        if self.has_others(app):
            self.nursery.start_soon(self._end, app)
        else:
            threading.Timer(FORCED_AFTER_S, os._exit, (1,)).start()

    async def _end(self, app: App) -> None:
        await trio.sleep(FORCED_AFTER_S)
        app.scope.cancel()

    def unwell(self) -> list[str]:
        """What health shows beside the targets of an app: `store` while a database file refuses writes."""
        return ["store"] if self.databases.unhealthy else []

    async def until_over(self) -> None:
        """Wait until the last app has left; a node that lingers also waits to be told."""
        while self.apps or (self.settings.linger and not self._stopping):
            await self.changed()


async def run_node(
    settings: NodeSettings,
    apps: Sequence[AppSettings],
    *,
    control_socket: str | None = None,
    signals: bool = True,
    manager: Manager | None = None,
    task_status: trio.TaskStatus[Node] = trio.TASK_STATUS_IGNORED,
) -> int:
    """Serve the apps until the node is told to stop; a service manager is kept informed. The value is the exit code."""
    logs = _logging(settings, apps)
    log.info("Starting Dapr Runtime -- version %s -- commit %s", RUNTIME_VERSION, "edge")
    log.info("Log level set to: %s", _level(settings, apps))
    try:
        async with open_node(settings, _store_limits(apps), logs) as node, AsyncExitStack() as stack:
            service = await _open_service(stack, node, manager)
            async with trio.open_nursery() as nursery:
                if signals:
                    await nursery.start(_listen_for_signals, node)
                if control_socket is not None:
                    await _open_control(nursery, node, control_socket)
                for app in apps:
                    await node.attach(app)
                _settle_memory()
                if settings.linger and control_socket is not None:
                    log.info("Apps may join at %s: edge-runtime run --app-id <name> -- <command>", control_socket)
                if service is not None:
                    service.ready()
                task_status.started(node)
                await node.until_over()
                nursery.cancel_scope.cancel()
            return node.code
    except* ConfigError as group:
        for error in leaves(group):
            log.critical("Fatal error from runtime: %s", error)
    return 1


def _settle_memory() -> None:
    """What start-up has made stays for ever: the collector need not go through it again and again.

    Requests make little that only the collector can free, so it may also come seldomer; together a fifth less CPU for a
    state read (`tools/bench --only read`), and the memory of an idle node does not change.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTOR_THRESHOLDS)


async def _open_service(stack: AsyncExitStack, node: Node, manager: Manager | None) -> Service | None:
    if manager is None:
        return None
    from edge_runtime.runtime.service import open_service

    node.sockets = manager.sockets
    stack.callback(manager.sockets.close)
    return await stack.enter_async_context(open_service(node, manager))


async def _open_control(nursery: trio.Nursery, node: Node, path: str) -> None:
    from edge_runtime.api.control import serve_control

    await nursery.start(serve_control, node, path)


@asynccontextmanager
async def open_node(settings: NodeSettings, limits: StoreLimits, logs: Handler) -> AsyncIterator[Node]:
    """The shared things, opened in the order in which they need one another."""
    _make_state_directory(settings.state_dir)
    async with open_name_look_ups(), open_databases(limits) as databases, trio.open_nursery() as nursery:
        yield Node(settings, databases, nursery, logs)
        nursery.cancel_scope.cancel()


def _store_limits(apps: Sequence[AppSettings]) -> StoreLimits:
    """The files are the node's: the first app's flags say how much may wait for them."""
    if not apps:
        return StoreLimits()
    flags = apps[0].flags
    return StoreLimits(queue_operations_max=flags.store_queue_operations, queue_bytes_max=flags.store_queue_size)


def _make_state_directory(path: str) -> None:
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"--state-dir {path}: cannot be made: {error.strerror}; name a directory that can be written, "
            "with this flag or EDGE_RUNTIME_STATE_DIR"
        ) from None


def _logging(settings: NodeSettings, apps: Sequence[AppSettings]) -> Handler:
    first = apps[0].flags if apps else None
    return setup_logging(
        level=_level(settings, apps),
        as_json=settings.log_as_json or bool(first and first.log_as_json),
        version=RUNTIME_VERSION,
        path=settings.log_file or (first.log_file if first else ""),
    )


def _level(settings: NodeSettings, apps: Sequence[AppSettings]) -> str:
    return settings.log_level or (apps[0].flags.log_level if apps else "info")


async def _listen_for_signals(node: Node, *, task_status: trio.TaskStatus[None]) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as received:
        task_status.started()
        asked = False
        async for number in received:
            if number == signal.SIGHUP:
                signals_log.info("Received signal 'hangup'; reading the files again")
                node.reload()
                continue
            if asked:
                signals_log.critical("Received a second signal; ending at once")
                os._exit(1)
            asked = True
            name = "interrupt" if number == signal.SIGINT else "terminated"
            signals_log.info("Received signal '%s'; beginning shutdown", name)
            node.shut_down(blocking=True)
