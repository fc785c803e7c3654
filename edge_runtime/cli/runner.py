"""Apps with their sidecars, from start to end: what starts when, what is said, and how all of it ends together.

The sidecars live in a node, which is ours (this process) or another that we attach to; here they only have names. An
app starts once its sidecar listens, not once it is ready: with an app port, ready means that the app answers.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, TextIO, cast

import trio

from edge_runtime.cli import node as nodes
from edge_runtime.cli.arguments import Parsed
from edge_runtime.cli.child import Child, CommandError, open_child
from edge_runtime.cli.control import attachable, own_socket
from edge_runtime.cli.lines import Printer
from edge_runtime.cli.logs import LogFile, RoutedOutput, app_sink
from edge_runtime.cli.output import Messages
from edge_runtime.cli.plan import AppPlan
from edge_runtime.cli.sidecars import Sidecars, open_own_node
from edge_runtime.config.environment import state_dir
from edge_runtime.model.errors import ConfigError, leaves

_LOGS_HERE: Final = "Both Dapr and your app logs will appear here."


def has_terminal() -> bool:
    """Whether this process has a controlling terminal that is still there."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


class Stop:
    """The wish to end. The first signal is a request; the second ends everything at once.

    SIGHUP is such a wish only when it says that the terminal has gone; else it asks for the files to be read again.
    """

    def __init__(self) -> None:
        self.on_hangup: Callable[[], None] = _nothing_to_read
        self._had_terminal = has_terminal()
        self.requested = trio.Event()
        self.starting = trio.CancelScope()  # cancelled by a signal that comes before everything runs
        self.children: list[Child] = []

    async def listen(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
            numbers.append(signal.SIGHUP)
        with trio.open_signal_receiver(*numbers) as received:
            task_status.started()
            async for number in received:
                if number == signal.SIGHUP and not (self._had_terminal and not has_terminal()):
                    self.on_hangup()
                    continue
                if self.requested.is_set():
                    for child in self.children:
                        child.signal(signal.SIGKILL)
                    os._exit(1)
                self.requested.set()
                self.starting.cancel()


def _nothing_to_read() -> None:
    """Before the node runs, and for apps that are attached: there SIGHUP is for the node that serves them."""


def run_plans(parsed: Parsed, plans: Sequence[AppPlan], messages: Messages) -> int:
    """Run until an app, the node or a signal ends it; the value is the exit code."""
    nodes.name_process()
    try:
        control = None if parsed.flag("no-attach") else attachable(os.environ, parsed.text("control-socket"))
        return trio.run(_run, parsed, plans, messages, control.path if control is not None else "")
    except* (ConfigError, CommandError) as group:
        for error in leaves(group):
            messages.failure(str(error))
    return 1


async def _run(parsed: Parsed, plans: Sequence[AppPlan], messages: Messages, attach_to: str) -> int:
    stop = Stop()
    apps = Apps(plans, messages, stop, Printer(sys.stdout.fileno()))
    async with trio.open_nursery() as nursery:
        await nursery.start(stop.listen)
        async with apps.open_sidecars(parsed, attach_to) as sidecars:
            stop.on_hangup = sidecars.read_files_again
            code = await apps.run(sidecars)
        nursery.cancel_scope.cancel()
    return code or sidecars.code


class Apps:
    """The apps' processes beside their sidecars."""

    def __init__(self, plans: Sequence[AppPlan], messages: Messages, stop: Stop, printer: Printer) -> None:
        self._plans = plans
        self._messages = messages
        self._stop = stop
        self._printer = printer
        self._many = len(plans) > 1 or bool(plans[0].metadata)

    # --- sidecars ----------------------------------------------------------------------------------------------------

    def open_sidecars(self, parsed: Parsed, attach_to: str) -> AbstractAsyncContextManager[Sidecars]:
        """The sidecars, in the node at that socket or in one of our own, once all of them listen."""
        for plan in self._plans:
            self._messages.info(self._starting(plan))
        return self._attached(attach_to) if attach_to else self._own(parsed)

    def _starting(self, plan: AppPlan) -> str:
        return f'Validating config and starting app "{plan.app_id}"' if self._many else plan.starting

    def _attached(self, path: str) -> AbstractAsyncContextManager[Sidecars]:
        from edge_runtime.cli.attach import open_attached

        self._messages.info(f"Attaching to the node at {path}")
        files = {plan.app_id: LogFile(plan.sidecar_log.path) for plan in self._plans if plan.sidecar_log.path}

        async def print_log(plan: AppPlan, line: bytes) -> None:
            if plan.app_id in files:
                files[plan.app_id].write(line)
            if plan.sidecar_log.console:
                await self._printer.write(line + b"\n")

        return open_attached(path, self._plans, print_log, self._stop.starting)

    def _own(self, parsed: Parsed) -> AbstractAsyncContextManager[Sidecars]:
        if self._many:
            sys.stdout = cast(TextIO, RoutedOutput({plan.app_id: plan.sidecar_log for plan in self._plans}))
        request = nodes.NodeRequest(
            state_dir(os.environ, parsed.text("state-dir")),
            control_socket=own_socket(os.environ, os.getpid()),
            log_as_json=parsed.flag("log-as-json"),
        )
        apps = [nodes.AppRequest(plan.arguments, plan.sidecar_environment, plan.directory) for plan in self._plans]
        return open_own_node(request, apps, self._stop.starting)

    # --- apps --------------------------------------------------------------------------------------------------------

    async def run(self, sidecars: Sidecars) -> int:
        if sidecars.ended.is_set() or self._stop.requested.is_set():
            return sidecars.code  # it could not start, and has said why; or it was told to stop meanwhile
        return await (self._run_many(sidecars) if self._many else self._run_one(self._plans[0], sidecars))

    async def _run_one(self, plan: AppPlan, sidecars: Sidecars) -> int:
        """A single app: whatever ends first, ends all."""
        if plan.app_port <= 0:
            self._messages.success("Dapr sidecar is up and running.")
        if not plan.command:
            self._messages.warning("no application command found.")
            await sidecars.set_metadata(plan.app_id, "cliPID", str(os.getpid()))
            self._messages.success("You're up and running! Dapr logs will appear here.")
            await first_of(sidecars.ended, self._stop.requested)
            self._say_end(sidecars)
            return 0
        async with self._open_app(plan) as child:
            await self._describe(plan, child, sidecars)
            self._messages.success(f"You're up and running! {_LOGS_HERE}")
            await first_of(child.exited, sidecars.ended, self._stop.requested)
            left = child.exited.is_set()
            if not left:
                self._say_end(sidecars)
        return self._report(plan, child, left)

    def _say_end(self, sidecars: Sidecars) -> None:
        if sidecars.lost:
            self._messages.failure(sidecars.lost)
        else:
            self._messages.info("terminated signal received: shutting down")

    def _report(self, plan: AppPlan, child: Child, left: bool) -> int:
        """Say how the app ended; 1 when it ended by itself and badly."""
        name = f" {plan.app_id}" if self._many else ""
        if left and child.code:
            self._messages.failure(f"The App process{name} exited with error code: {child.code}")
            return 1
        self._messages.success(f"Exited App{name} successfully")
        return 0

    async def _run_many(self, sidecars: Sidecars) -> int:
        """Several apps: one that ends leaves the others running."""
        async with trio.open_nursery() as nursery:
            for plan in self._plans:
                await nursery.start(self._keep, plan, sidecars)
            await first_of(sidecars.ended, self._stop.requested)
            if self._stop.requested.is_set():
                self._messages.info(
                    "Received signal to stop Dapr and app processes. Shutting down Dapr and app processes."
                )
            elif sidecars.lost:
                self._messages.failure(sidecars.lost)
            nursery.cancel_scope.cancel()
        return 0

    async def _keep(self, plan: AppPlan, sidecars: Sidecars, *, task_status: Any) -> None:
        """One app of several, until it, its sidecar or everything ends."""
        if not plan.command:
            self._messages.warning(f'no application command found for app "{plan.app_id}".')
            await sidecars.set_metadata(plan.app_id, "cliPID", str(os.getpid()))
            task_status.started()
            return
        async with self._open_app(plan) as child:
            await self._describe(plan, child, sidecars)
            self._messages.success(
                f'Started Dapr with app id "{plan.app_id}". HTTP Port: {plan.ports.http}. gRPC Port: {plan.ports.grpc}'
            )
            if plan.app_log.path:
                self._messages.info(f"Writing log files to directory : {os.path.dirname(plan.app_log.path)}")
            task_status.started()
            await first_of(child.exited, sidecars.gone(plan.app_id))
            left = child.exited.is_set()
        self._report(plan, child, left)

    @asynccontextmanager
    async def _open_app(self, plan: AppPlan) -> AsyncIterator[Child]:
        async with open_child(
            plan.command,
            plan.environment,
            plan.directory,
            app_sink(plan, self._printer),
            inherit_stdin=plan.inherit_stdin,
        ) as child:
            self._stop.children.append(child)
            yield child
        self._stop.children.remove(child)

    async def _describe(self, plan: AppPlan, child: Child, sidecars: Sidecars) -> None:
        """What Dapr's tools want to know of an app, where they look for it: in the sidecar's metadata."""
        facts = {"cliPID": str(os.getpid()), "appPID": str(child.pid), "appCommand": " ".join(plan.command)}
        for key, value in {**facts, **plan.metadata}.items():
            await sidecars.set_metadata(plan.app_id, key, value)


async def first_of(*events: trio.Event) -> None:
    """Until one of the events is set."""
    async with trio.open_nursery() as nursery:

        async def wait(event: trio.Event) -> None:
            await event.wait()
            nursery.cancel_scope.cancel()

        for event in events:
            nursery.start_soon(wait, event)
