"""Apps whose sidecars live in a node that runs already: one connection each, as long as the app runs."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import quote

import trio

from edge_runtime.api.control_socket import check_owner
from edge_runtime.cli.lines import LineSplitter
from edge_runtime.cli.plan import AppPlan
from edge_runtime.cli.sidecars import Sidecars
from edge_runtime.model.errors import ConfigError
from edge_runtime.wire.http1 import NEED_DATA, ProtocolError, ResponseHead, encode_request, new_response_reader

READY_TIMEOUT_S: Final = 60.0
_EVENT_BYTES_MAX: Final = 2**20
_STOP_GRACE_S: Final = 60.0
_METADATA_TIMEOUT_S: Final = 10.0

Print = Callable[[AppPlan, bytes], Awaitable[None]]


class AttachedSidecars(Sidecars):
    """Each app's connection to the node."""

    def __init__(self, path: str, print_log: Print) -> None:
        super().__init__()
        self._path = path
        self._print_log = print_log
        self._attachments: dict[str, _Attachment] = {}

    async def start(self, nursery: trio.Nursery, plan: AppPlan) -> None:
        """Attach one app. Returns when its sidecar listens. Raises ConfigError when it cannot start."""
        attachment = self._attachments[plan.app_id] = _Attachment(self._path, plan, self._print_log)
        with trio.move_on_after(READY_TIMEOUT_S) as limit:
            await nursery.start(self._keep, attachment)
        if limit.cancelled_caught:
            raise ConfigError(f"the node at {self._path} did not start {plan.app_id} within {READY_TIMEOUT_S:.0f} s")

    async def _keep(self, attachment: _Attachment, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        try:
            await attachment.run(task_status)
        finally:
            if attachment.lost:
                self.lost, self.code = f"the node at {self._path} has died", 1
            attachment.gone.set()
            if all(other.gone.is_set() for other in self._attachments.values()):
                self.ended.set()

    def gone(self, app_id: str) -> trio.Event:
        return self._attachments[app_id].gone

    async def set_metadata(self, app_id: str, key: str, value: str) -> None:
        path = f"/edge/v1/apps/{quote(app_id, safe='')}/metadata/{quote(key, safe='')}?value={quote(value, safe='')}"
        with trio.move_on_after(_METADATA_TIMEOUT_S):
            async with await trio.open_unix_socket(self._path) as stream:
                await stream.send_all(encode_request("PUT", path.encode(), [(b"host", b"node")], keep_alive=False))
                while await stream.receive_some(4096):
                    pass

    async def leave(self) -> None:
        """Say goodbye: close our half of each connection; the node then stops the sidecars and closes its half."""
        for attachment in self._attachments.values():
            await attachment.leave()
        for attachment in self._attachments.values():
            await attachment.gone.wait()


class _Attachment:
    """One app's connection."""

    def __init__(self, path: str, plan: AppPlan, print_log: Print) -> None:
        self._path = path
        self._plan = plan
        self._print_log = print_log
        self.gone = trio.Event()
        self.lost = False  # it ended, and neither side had said goodbye
        self._leaving = False
        self._stream: trio.SocketStream | None = None

    async def run(self, task_status: Any) -> None:
        """Stay until the sidecar has ended; `started` is said when it listens. Raises ConfigError when it cannot."""
        check_owner(self._path)
        body = json.dumps(
            {
                "argv": list(self._plan.arguments),
                "environment": dict(self._plan.sidecar_environment),
                "directory": self._plan.directory,
            }
        ).encode()
        headers = [(b"host", b"node"), (b"content-type", b"application/json")]
        ready = False
        try:
            async with await trio.open_unix_socket(self._path) as stream:
                self._stream = stream
                await stream.send_all(encode_request("POST", b"/edge/v1/apps", headers, body))
                events = _Events(stream)
                while (event := await events.next()) is not None:
                    if event["event"] == "ready":
                        ready = True
                        task_status.started()
                    elif event["event"] == "error":
                        raise ConfigError(str(event["message"]))
                    elif event["event"] == "log":
                        await self._log(event)
        except (OSError, ProtocolError, trio.BrokenResourceError) as error:
            if not ready:
                raise ConfigError(f"the node at {self._path} cannot be reached: {error}") from None
            self.lost = not self._leaving
        except trio.ClosedResourceError:
            pass
        if not ready:
            raise ConfigError(f"the node at {self._path} ended before the app's sidecar was ready")

    async def _log(self, event: dict[str, Any]) -> None:
        if lost := event.get("lost"):
            await self._print_log(self._plan, f"({lost} log lines were not passed on in time)".encode())
        await self._print_log(self._plan, str(event["line"]).encode("utf-8", "surrogateescape"))

    async def leave(self) -> None:
        self._leaving = True
        if self._stream is not None:
            try:
                await self._stream.send_eof()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass


class _Events:
    """The events of the node's answer, one after the other."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._reader = new_response_reader()
        self._reader.expect("POST")
        self._lines = LineSplitter(_EVENT_BYTES_MAX)
        self._waiting: deque[bytes] = deque()
        self._refused = False

    async def next(self) -> dict[str, Any] | None:
        """None at the end. Raises ConfigError with the node's words when it refuses."""
        while not self._waiting:
            event = self._reader.next_event()
            if event is NEED_DATA:
                self._reader.feed(await self._stream.receive_some(65536))
            elif isinstance(event, ResponseHead):
                self._refused = event.status >= 400
            elif isinstance(event, bytes):
                self._waiting += self._lines.feed(event)
            elif self._refused:
                self._waiting += self._lines.flush() or [b"{}"]
            else:
                return None
        value: dict[str, Any] = json.loads(self._waiting.popleft())
        if self._refused:
            raise ConfigError(str(value.get("error", "the node refused to take the app")))
        return value


@asynccontextmanager
async def open_attached(
    path: str, plans: Sequence[AppPlan], print_log: Print, starting: trio.CancelScope
) -> AsyncIterator[AttachedSidecars]:
    """Sidecars in the node at `path` for as long as the block lasts."""
    sidecars = AttachedSidecars(path, print_log)
    async with trio.open_nursery() as nursery:
        with starting:
            for plan in plans:
                await sidecars.start(nursery, plan)
        try:
            yield sidecars
        finally:
            with trio.move_on_after(_STOP_GRACE_S, shield=True):
                await sidecars.leave()
            nursery.cancel_scope.cancel()
