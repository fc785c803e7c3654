"""The app's process: started in its own process group, its output read line by line, ended together with the node.

Three things keep it from outliving us or from holding what is ours. Its output goes to pipes of ours, so whoever reads
our output sees the end of it when we die. It inherits no other file. And it asks the kernel for SIGTERM at our death,
which takes a system call that Python has no word for: a short-lived interpreter makes it, then becomes the app. (The
kernel means the death of the thread that started the process, so that has to be the main thread, not a worker.)
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

import trio

from edge_runtime.cli.lines import LineSplitter

STOP_GRACE_S: Final = 5.0
_DRAIN_GRACE_S: Final = 1.0
_READ_BYTES: Final = 64 * 1024

LineSink = Callable[[bytes], Awaitable[None]]

_LAUNCHER: Final = """
import ctypes, os, signal, sys
parent, report, command = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
try:
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
except (AttributeError, OSError):
    pass
if os.getppid() != parent:
    os._exit(1)
for ignored in (signal.SIGPIPE, signal.SIGXFSZ):
    signal.signal(ignored, signal.SIG_DFL)
os.set_inheritable(report, False)
environment = dict(
    entry.split(b"=", 1) for entry in open("/proc/self/environ", "rb").read().split(b"\\0") if b"=" in entry
)
try:
    os.execvpe(command[0], command, environment)
except OSError as error:
    os.write(report, (error.strerror or str(error)).encode())
os._exit(127)
"""


class CommandError(Exception):
    """The app's command could not be started; the text names it."""


class Child:
    """A running app. `code` is known once `exited` is set: what it returned, or minus the signal that ended it."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.pid = process.pid
        self.code: int | None = None
        self.exited = trio.Event()

    def signal(self, number: int) -> bool:
        """To the whole process group. False when nobody is left in it."""
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True

    async def watch(self) -> None:
        """Wait for the end of the process. It stays unreaped, so that its number keeps naming its group."""
        await _wait_unreaped(self.pid)
        status = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222 - it has ended
        if status is not None:
            self.code = status.si_status if status.si_code == os.CLD_EXITED else -status.si_status
        self.exited.set()

    async def end(self, grace_s: float = STOP_GRACE_S) -> None:
        """SIGTERM to the group, SIGKILL to what is left of it after `grace_s`."""
        if self.signal(signal.SIGTERM):
            with trio.move_on_after(grace_s):
                await self.exited.wait()
                await self._group_empty()
                return
        self.signal(signal.SIGKILL)
        with trio.move_on_after(grace_s):
            await self.exited.wait()

    async def _group_empty(self) -> None:
        """Until only the process itself, ended, is left. The kernel tells nobody, so this looks."""
        while _others_in_group(self.pid):  # noqa: ASYNC110
            await trio.sleep(0.05)

    def reap(self) -> None:
        self._process.poll()


@asynccontextmanager
async def open_child(
    command: Sequence[str],
    environment: Mapping[str, str],
    directory: str,
    sink: LineSink,
    *,
    inherit_stdin: bool = True,
) -> AsyncIterator[Child]:
    """Run `command` for as long as the block lasts. Each line of its output goes to `sink`. Raises CommandError."""
    child, outputs = await _start(command, environment, directory, inherit_stdin)
    # Reading goes on while everything around is cancelled: the app's last words come while it is being stopped.
    reading = trio.CancelScope(shield=True)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_follow, reading, child, outputs, sink)
            try:
                yield child
            finally:
                with trio.CancelScope(shield=True):
                    await child.end()
                reading.deadline = trio.current_time() + _DRAIN_GRACE_S
    finally:
        child.reap()


async def _follow(scope: trio.CancelScope, child: Child, outputs: Sequence[int], sink: LineSink) -> None:
    with scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child.watch)
            for fd in outputs:
                nursery.start_soon(_pump, fd, sink)


async def _start(
    command: Sequence[str], environment: Mapping[str, str], directory: str, inherit_stdin: bool
) -> tuple[Child, list[int]]:
    pipes = [os.pipe() for _ in range(3)]
    (out_read, out_write), (err_read, err_write), (report_read, report_write) = pipes
    try:
        process = subprocess.Popen(  # noqa: ASYNC220 - on this thread on purpose, see above
            [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), str(report_write), *command],
            env=dict(environment),
            cwd=directory or None,
            stdin=None if inherit_stdin else subprocess.DEVNULL,
            stdout=out_write,
            stderr=err_write,
            pass_fds=(report_write,),
            process_group=0,
        )
    except (OSError, ValueError) as error:
        _close(out_read, err_read, report_read)
        raise CommandError(f"Failed to start command {command[0]!r} in {directory!r}: {error}") from None
    finally:
        _close(out_write, err_write, report_write)
    try:
        problem = await _read_all(report_read)
    except BaseException:
        process.kill()
        process.wait()
        _close(out_read, err_read)
        raise
    if problem:
        process.wait()
        _close(out_read, err_read)
        raise CommandError(f"Failed to find command {command[0]!r}: {problem.decode(errors='replace')}")
    return Child(process), [out_read, err_read]


def _close(*fds: int) -> None:
    for fd in fds:
        os.close(fd)


async def _read_all(fd: int) -> bytes:
    """Everything until the end; that is when the launcher has become the app."""
    async with trio.lowlevel.FdStream(fd) as stream:
        return b"".join([piece async for piece in stream])


async def _pump(fd: int, sink: LineSink) -> None:
    lines = LineSplitter()
    async with trio.lowlevel.FdStream(fd) as stream:
        while data := await stream.receive_some(_READ_BYTES):
            for line in lines.feed(data):
                await sink(line)
        for line in lines.flush():
            await sink(line)


async def _wait_unreaped(pid: int) -> None:
    try:
        fd = os.pidfd_open(pid)
    except OSError:  # a kernel before 5.3
        await trio.to_thread.run_sync(os.waitid, os.P_PID, pid, os.WEXITED | os.WNOWAIT, abandon_on_cancel=True)
        return
    try:
        await trio.lowlevel.wait_readable(fd)
    finally:
        os.close(fd)


def _others_in_group(group: int) -> bool:
    """True while a living process other than the leader is in the group."""
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != group:
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    fields = file.read().rpartition(b") ")[2].split()
            except OSError:
                continue
            if int(fields[2]) == group and fields[0] not in (b"Z", b"X"):
                return True
    return False
