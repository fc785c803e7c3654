"""One app's sidecar: its listeners, and behind them one generation of blocks after the other.

The listeners stay when the files are read again; requests that arrive between two generations wait for the next one.
A stop begins with the listeners and the subscriptions and ends with the components, within the graceful seconds.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

import trio

from edge_runtime.channel.metrics import HttpClientMetrics
from edge_runtime.model.errors import ConfigError, leaves
from edge_runtime.model.http import Body, Request, Response
from edge_runtime.net.listeners import ListenError
from edge_runtime.observability.health import Health
from edge_runtime.observability.http_metrics import HttpServerMetrics
from edge_runtime.observability.metrics import Metrics, render
from edge_runtime.observability.process_metrics import render_process
from edge_runtime.runtime.assembly import Files, Generation, check, read_files, say_what_comes_later, serve_generation
from edge_runtime.runtime.servers import Servers, open_servers
from edge_runtime.runtime.settings import AppSettings

if TYPE_CHECKING:
    from edge_runtime.blocks.configuration import KeptSubscription
    from edge_runtime.net.grpc.server import ServerCall
    from edge_runtime.observability.grpc_metrics import GrpcServerMetrics
    from edge_runtime.runtime.node import Node

log = logging.getLogger("dapr.runtime")

# Open requests are cancelled this long before the graceful seconds are over, so that components can still close.
CLOSING_MARGIN_S: Final = 1.0
REQUESTS_DRAIN_MAX_S: Final = 10.0
# How long a reload keeps new requests waiting for those in hand, and how long those may go on beside the new files.
RELOAD_WAIT_S: Final = 0.2
RELOAD_LINGER_S: Final = 600.0
# What the interpreter itself may take after the graceful seconds, before the process is ended from a thread.
LAST_RESORT_S: Final = 5.0
_PROMETHEUS: Final = ((b"content-type", b"text/plain; version=0.0.4; charset=utf-8"),)


class App:
    """One app as the node and its tools see it."""

    def __init__(self, settings: AppSettings, node: Node) -> None:
        self.settings = settings
        self.node = node
        self.app_id = settings.flags.app_id
        self._calls = node.calls
        self.http_port = 0
        self.metrics_port = 0
        self.grpc_port = 0
        self.listening = False
        self.started_at = time.time()
        self.health = Health(("runtime",), node.unwell)
        self.metrics = Metrics(self.app_id)
        # Made with the first generation and kept: what was counted before a reload still counts.
        self.http_metrics: HttpServerMetrics | None = None
        self.client_metrics: HttpClientMetrics | None = None
        self.grpc_metrics: GrpcServerMetrics | None = None
        self.generation: Generation | None = None
        self.reloading = False  # another generation follows the one that closes
        self.was_well = False  # what health checks said last before it
        self.extended: dict[str, str] = {}
        self.configuration_subscriptions: dict[str, KeptSubscription] = {}  # what it follows, over reloads too
        self._ready = trio.Event()
        self._stop = trio.Event()
        self._reload = trio.Event()
        self._stop_now = trio.Event()
        self._began = time.monotonic()
        self.scope = trio.CancelScope()
        self.serving = trio.Event()
        self.gone = trio.Event()
        self.settled = trio.Event()  # no reload is under way
        self.settled.set()

    # --- what others may ask -----------------------------------------------------------------------------------------

    def set_metadata(self, key: str, value: str) -> None:
        """Put an entry into the `extended` part of the metadata API. It outlives a reload."""
        self.extended[key] = value

    @property
    def stopping(self) -> bool:
        """A stop was asked for."""
        return self._stop.is_set()

    def shut_down(self, *, blocking: bool = False) -> None:
        """Begin a graceful stop of this sidecar; `blocking` first waits as --dapr-block-shutdown-duration says."""
        self._stop.set()
        if not blocking:
            self._stop_now.set()

    def request_shutdown(self, forced: bool) -> None:
        """What the shutdown API asks for. It never waits for the blocking time."""
        if forced:
            log.warning("A forced shutdown was asked for")
            self.node.force(self)
        else:
            self.shut_down()

    def reload(self) -> None:
        """Read the files again and go over to what they say; ports and process stay. A stop that began goes on."""
        if not self._stop.is_set():
            self._reload.set()
            if self.settled.is_set():
                self.settled = trio.Event()

    def _settle(self) -> None:
        """A reload has been seen through, one way or the other; unless the next was asked for meanwhile."""
        if not self._reload.is_set():
            self.settled.set()

    async def until_settled(self) -> None:
        """Wait until no reload is under way, or the sidecar is gone."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_when, nursery.cancel_scope, self.settled.wait)
            nursery.start_soon(_cancel_when, nursery.cancel_scope, self.gone.wait)

    async def _next_generation(self) -> Generation:
        """The generation that is being opened, once it serves."""
        while self.generation is None:
            await self._ready.wait()
        return self.generation

    async def handle(self, request: Request) -> Response:
        """What the API server calls for each request."""
        self._calls.begun += 1
        generation = self.generation or await self._next_generation()
        generation.requests += 1
        try:
            return await generation.face.handle(request)
        finally:
            generation.requests -= 1
            if not generation.requests:
                generation.quiet.set()

    async def handle_grpc(self, call: ServerCall) -> None:
        """What the gRPC server calls for each call."""
        self._calls.begun += 1
        generation = self.generation or await self._next_generation()
        generation.requests += 1
        try:
            await generation.grpc_face.handle(call)
        finally:
            generation.requests -= 1
            if not generation.requests:
                generation.quiet.set()

    async def handle_public(self, request: Request) -> Response:
        """The same for the public port: health and metadata only."""
        generation = self.generation or await self._next_generation()
        return await generation.public_face.handle(request)

    async def handle_metrics(self, request: Request) -> Response:
        """The Prometheus page, on every path."""
        text = render((self.metrics, self.node.metrics)) + render_process()
        return Response(200, _PROMETHEUS, Body(text.encode()))

    def initialized(self) -> None:
        """The app's port was reached and a generation's start is over: health turns well, if it was not."""
        if self._stop.is_set():
            return
        self.health.ready("runtime")
        elapsed_ms = (time.monotonic() - self._began) * 1000
        log.info("dapr initialized. Status: Running. Init Elapsed %.0fms", elapsed_ms)

    # --- the service -------------------------------------------------------------------------------------------------

    async def run_generations(self, files: Files, *, task_status: trio.TaskStatus[None]) -> None:
        """One generation after the other until cancelled. A reload with files that cannot be used changes nothing; when
        that shows only while components open, what ran before is opened again."""
        good: Files | None = None
        async with trio.open_nursery() as generations:
            while True:
                generation = await self._open_generation(generations, files, good)
                if generation is None:
                    assert good is not None
                    files = good
                    continue
                if good is None:
                    task_status.started()
                good = files
                self.generation = generation
                self.reloading = False
                self._ready.set()
                self._settle()
                files = await self._next_files()
                self._began = time.monotonic()
                log.info("Going over to the new files")
                await self._leave(generation, generations)

    async def _open_generation(self, generations: trio.Nursery, files: Files, good: Files | None) -> Generation | None:
        """The next generation; None when these files cannot be opened and others could before."""
        generation: Generation | None = None
        try:
            generation = await generations.start(serve_generation, self, files)
        except* ConfigError as errors:
            if good is None or good is files:
                raise
            for error in leaves(errors):
                log.error("The files cannot be used; what ran before is opened again: %s", error)
        return generation

    async def _leave(self, generation: Generation, generations: trio.Nursery) -> None:
        """End deliveries, and then the generation. From then on requests wait for the next one.

        While deliveries finish, the API goes on: the app may call back before it answers. What takes long is not waited
        for: the generation lives on beside the next one until it has nothing in hand.
        """
        await generation.stop_deliveries()
        self.reloading = True
        self.was_well = generation.app_health is not None and generation.app_health.healthy
        self.generation, self._ready = None, trio.Event()
        await generation.until_quiet(RELOAD_WAIT_S)
        if generation.busy:
            generations.start_soon(_see_off, generation)
        else:
            await generation.close()

    async def _next_files(self) -> Files:
        while True:
            await self._reload.wait()
            self._reload = trio.Event()
            try:
                files = read_files(self.settings, self.node.state_dir)
                check(files)
                return files
            except ConfigError as error:
                log.error("The files cannot be used; what runs stays as it is: %s", error)
                self._settle()

    async def until_stopped(self) -> None:
        """Wait for the stop, and for what --dapr-block-shutdown-duration adds to one that a signal asked for."""
        await self._stop.wait()
        duration_s = self.settings.flags.dapr_block_shutdown_duration
        if duration_s is None or duration_s <= 0 or self._stop_now.is_set() or self.generation is None:
            return
        log.info("Blocking shutdown for %gs or until the app is unhealthy", duration_s)
        generation = self.generation
        with trio.move_on_after(duration_s):
            async with trio.open_nursery() as nursery:
                # The shutdown API ends the blocking, and so does an app that turns unhealthy.
                nursery.start_soon(_cancel_when, nursery.cancel_scope, self._stop_now.wait)
                nursery.start_soon(_cancel_when, nursery.cancel_scope, generation.until_unhealthy)
                await generation.stop_deliveries()


async def _see_off(generation: Generation) -> None:
    await generation.until_quiet(RELOAD_LINGER_S)
    await generation.close()


async def _cancel_when(scope: trio.CancelScope, wait: Callable[[], Awaitable[None]]) -> None:
    await wait()
    scope.cancel()


async def serve_app(app: App, *, task_status: trio.TaskStatus[None]) -> None:
    """Serve one app until it is stopped. `started` is said once every port accepts. Raises ConfigError."""
    log.info("app id: %s", app.app_id)
    files = read_files(app.settings, app.node.state_dir)
    say_what_comes_later(files)
    watchdog: threading.Timer | None = None
    try:
        async with open_servers(app) as servers:
            async with trio.open_nursery() as background:
                app.scope = background.cancel_scope
                await background.start(app.run_generations, files)
                app.health.outbound_ready = True  # whoever was waiting at a passed socket is answered by the next line
                await servers.serve(background)
                app.listening = True
                app.serving.set()
                task_status.started()
                await app.until_stopped()
                if not app.node.has_others(app):
                    watchdog = _watchdog(app.settings.flags.graceful_shutdown_s)
                await _stop(app, servers, app.settings.flags.graceful_shutdown_s)
                background.cancel_scope.cancel()
    except ListenError as error:
        raise ConfigError(str(error)) from None
    finally:
        if watchdog is not None:
            watchdog.cancel()


async def _stop(app: App, servers: Servers, graceful_s: float | None) -> None:
    """Everything at once, within the graceful seconds; None waits without end."""
    log.info("Dapr is shutting down")
    app.health.unready("runtime")
    limit_s = float("inf") if graceful_s is None else graceful_s
    with trio.move_on_after(limit_s) as scope:
        async with trio.open_nursery() as nursery:
            drain_s = min(REQUESTS_DRAIN_MAX_S, max(limit_s - CLOSING_MARGIN_S, limit_s / 2))
            nursery.start_soon(servers.drain, drain_s)
            if app.generation is not None:
                nursery.start_soon(app.generation.stop_deliveries)
        if app.generation is not None:
            await app.generation.close()
    if scope.cancelled_caught:
        app.node.code = 1
        log.critical("Graceful shutdown took longer than %gs; ending now", limit_s)
        if not app.node.has_others(app):
            app.node.force(app)  # deliveries in hand are shielded, but nobody may wait for them any longer
    else:
        log.info("Daprd shutdown gracefully")


def _watchdog(graceful_s: float | None) -> threading.Timer | None:
    """Ends the process with code 1 should its own shutdown hang in a place that no cancellation reaches."""
    if graceful_s is None:
        return None
    timer = threading.Timer(graceful_s + LAST_RESORT_S, os._exit, (1,))
    timer.daemon = True
    timer.start()
    return timer
