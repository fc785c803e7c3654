"""Apps with their sidecars, from start to end: what starts when, what is said, and how all of it ends together.

The sidecars live in a node, which is ours (this process) or another that we attach to; here they only have names. An
app starts once its sidecar listens, not once it is ready: with an app port, ready means that the app answers.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio

from edge_runtime.cli import node as nodes
from edge_runtime.cli.arguments import Parsed
from edge_runtime.cli.child import Child, CommandError, open_child
from edge_runtime.cli.lines import Printer
from edge_runtime.cli.output import Messages
from edge_runtime.cli.plan import AppPlan
from edge_runtime.model.errors import ConfigError


class Stop:
    """The wish to end. The first signal is a request; the second ends everything at once."""

    def __init__(self) -> None:
        self.requested = trio.Event()
        self.children: list[Child] = []

    async def listen(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
            numbers.append(signal.SIGHUP)
        with trio.open_signal_receiver(*numbers) as received:
            task_status.started()
            async for _ in received:
                if self.requested.is_set():
                    for child in self.children:
                        child.signal(signal.SIGKILL)
                    os._exit(1)
                self.requested.set()


class Sidecars:
    """The sidecars of all plans. `ended` is set when the node has gone, `code` is then its exit code."""

    def __init__(self) -> None:
        self.ended = trio.Event()
        self.code = 0

    async def set_metadata(self, app_id: str, key: str, value: str) -> None:
        raise NotImplementedError


class OwnNode(Sidecars):
    """The node in this process."""

    def __init__(self) -> None:
        super().__init__()
        self._node: nodes.RunningNode | None = None

    async def serve(
        self, request: nodes.NodeRequest, apps: Sequence[nodes.AppRequest], *, task_status: Any = None
    ) -> None:
        try:
            self.code = await nodes.run(request, apps, signals=False, task_status=task_status)
        finally:
            self.ended.set()

    def started(self, node: nodes.RunningNode) -> None:
        self._node = node

    def shut_down(self) -> None:
        if self._node is not None:
            self._node.shut_down()

    async def set_metadata(self, app_id: str, key: str, value: str) -> None:
        if self._node is not None:
            self._node.apps[app_id].set_metadata(key, value)


def run_plans(parsed: Parsed, plans: Sequence[AppPlan], messages: Messages) -> int:
    """Run until an app, the node or a signal ends it; the value is the exit code."""
    nodes.name_process()
    try:
        return trio.run(_run, parsed, plans, messages)
    except* (ConfigError, CommandError) as group:
        for error in _leaves(group):
            messages.failure(str(error))
    return 1


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found


async def _run(parsed: Parsed, plans: Sequence[AppPlan], messages: Messages) -> int:
    stop = Stop()
    async with trio.open_nursery() as nursery:
        await nursery.start(stop.listen)
        code = await _serve(parsed, plans, messages, stop)
        nursery.cancel_scope.cancel()
    return code


async def _serve(parsed: Parsed, plans: Sequence[AppPlan], messages: Messages, stop: Stop) -> int:
    for plan in plans:
        messages.info(plan.starting)
    async with open_own_node(parsed, plans) as sidecars:
        apps = Apps(plans, sidecars, messages, stop, Printer(sys.stdout.fileno()))
        return await (apps.run_one() if len(plans) == 1 else apps.run_many())


@asynccontextmanager
async def open_own_node(parsed: Parsed, plans: Sequence[AppPlan]) -> AsyncIterator[OwnNode]:
    """A node in this process that serves the apps for as long as the block lasts."""
    request = nodes.NodeRequest(
        nodes.state_directory(parsed.text("state-dir"), os.environ),
        log_level=parsed.text("log-level"),
        log_as_json=parsed.flag("log-as-json"),
        log_file=parsed.text("log-file") if parsed.given("log-file") else "",
    )
    apps = [nodes.AppRequest(plan.arguments, plan.sidecar_environment, plan.directory) for plan in plans]
    own = OwnNode()
    async with trio.open_nursery() as nursery:
        own.started(await nursery.start(own.serve, request, apps))
        try:
            yield own
        finally:
            own.shut_down()


class Apps:
    """The apps' processes beside their sidecars."""

    def __init__(
        self, plans: Sequence[AppPlan], sidecars: Sidecars, messages: Messages, stop: Stop, printer: Printer
    ) -> None:
        self._plans = plans
        self._sidecars = sidecars
        self._messages = messages
        self._stop = stop
        self._printer = printer

    async def run_one(self) -> int:
        """A single app: whatever ends first, ends all."""
        plan = self._plans[0]
        if not plan.command:
            self._messages.warning("no application command found.")
            self._messages.success("You're up and running! Dapr logs will appear here.")
            await first_of(self._sidecars.ended, self._stop.requested)
            return self._sidecars.code
        if plan.app_port <= 0:
            self._messages.success("Dapr sidecar is up and running.")
        async with self._open_app(plan) as child:
            await self._describe(plan, child)
            self._messages.success("You're up and running! Both Dapr and your app logs will appear here.")
            await first_of(child.exited, self._sidecars.ended, self._stop.requested)
            failed = child.exited.is_set() and child.code != 0
            if not child.exited.is_set():
                self._messages.info("terminated signal received: shutting down")
        if failed:
            self._messages.failure(f"The App process exited with error code: {child.code}")
        else:
            self._messages.success("Exited App successfully")
        return 1 if failed else self._sidecars.code

    async def run_many(self) -> int:
        raise NotImplementedError

    @asynccontextmanager
    async def _open_app(self, plan: AppPlan) -> AsyncIterator[Child]:
        async with open_child(
            plan.command, plan.environment, plan.directory, self._sink(plan), inherit_stdin=plan.inherit_stdin
        ) as child:
            self._stop.children.append(child)
            yield child

    def _sink(self, plan: AppPlan) -> Any:
        prefix = plan.prefix.encode()

        async def print_line(line: bytes) -> None:
            await self._printer.write(prefix + line + b"\n")

        return print_line

    async def _describe(self, plan: AppPlan, child: Child) -> None:
        """What Dapr's tools want to know of an app, where they look for it: in the sidecar's metadata."""
        facts = {"cliPID": str(os.getpid()), "appPID": str(child.pid), "appCommand": " ".join(plan.command)}
        for key, value in {**facts, **plan.metadata}.items():
            await self._sidecars.set_metadata(plan.app_id, key, value)


async def first_of(*events: trio.Event) -> None:
    """Until one of the events is set."""
    async with trio.open_nursery() as nursery:

        async def wait(event: trio.Event) -> None:
            await event.wait()
            nursery.cancel_scope.cancel()

        for event in events:
            nursery.start_soon(wait, event)
