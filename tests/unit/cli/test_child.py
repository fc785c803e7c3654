import os
import signal
from pathlib import Path

import pytest
import trio

from edge_runtime.cli.child import Child, CommandError, open_child

ENVIRONMENT = {"PATH": os.environ["PATH"], "MARK": "a mark"}


class Sink:
    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.first = trio.Event()

    async def __call__(self, line: bytes) -> None:
        self.lines.append(line)
        self.first.set()


async def run(command: list[str], directory: str = "/") -> tuple[Child, Sink]:
    sink = Sink()
    async with open_child(command, ENVIRONMENT, directory, sink) as child:
        await child.exited.wait()
    return child, sink


async def test_output_comes_line_by_line() -> None:
    child, sink = await run(["sh", "-c", "echo one; echo two >&2; printf three; exit 3"])
    assert sorted(sink.lines) == [b"one", b"three", b"two"]
    assert child.code == 3


async def test_environment_and_directory_are_given() -> None:
    _, sink = await run(["sh", "-c", "env; pwd"], directory="/usr")
    seen = {line for line in sink.lines if not line.startswith((b"_=", b"PWD=", b"OLDPWD=", b"SHLVL="))}
    assert seen == {b"MARK=a mark", b"PATH=" + os.environb[b"PATH"], b"/usr"}


async def test_unknown_command_is_named() -> None:
    with pytest.raises(CommandError, match=r"Failed to find command 'no-such-app': No such file or directory"):
        await run(["no-such-app"])


async def test_missing_directory_is_named() -> None:
    with pytest.raises(CommandError, match="'/no/such/place'"):
        await run(["sh"], directory="/no/such/place")


async def test_relative_command_counts_from_directory(tmp_path: Path) -> None:
    script = tmp_path / "app"
    script.write_text("#!/bin/sh\necho here\n")
    script.chmod(0o755)
    _, sink = await run(["./app"], directory=str(tmp_path))
    assert sink.lines == [b"here"]


async def test_end_of_block_ends_the_group() -> None:
    sink = Sink()
    command = ["sh", "-c", "sleep 60 & echo $!; wait"]
    async with open_child(command, ENVIRONMENT, "/", sink) as child:
        await sink.first.wait()
        worker = int(sink.lines[0])
    assert child.code == -signal.SIGTERM
    assert not alive(worker)
    assert not alive(child.pid)


async def test_cancelled_block_hears_last_words() -> None:
    sink = Sink()
    command = ["sh", "-c", "trap 'echo bye; exit 7' TERM; sleep 60 & echo up; wait"]
    with trio.CancelScope() as scope:
        async with open_child(command, ENVIRONMENT, "/", sink) as child:
            await sink.first.wait()
            scope.cancel()
            await trio.sleep_forever()
    assert sink.lines[0] == b"up"
    assert sink.lines[-1] == b"bye"
    assert child.code == 7


async def test_deaf_app_is_killed() -> None:
    sink = Sink()
    command = ["sh", "-c", "trap '' TERM; echo up; while :; do sleep 60; done"]
    async with open_child(command, ENVIRONMENT, "/", sink) as child:
        await sink.first.wait()
        await child.end(grace_s=0.01)
    assert child.code == -signal.SIGKILL


async def test_broken_pipe_ends_an_app_as_usual() -> None:
    _, sink = await run(["sh", "-c", "kill -PIPE $$; echo still here"])
    assert sink.lines == []


async def test_no_file_of_ours_is_inherited() -> None:
    opened = os.open("/", os.O_RDONLY)
    os.set_inheritable(opened, True)
    _, sink = await run(["sh", "-c", "ls /proc/$$/fd"])
    os.close(opened)
    assert set(sink.lines) <= {b"0", b"1", b"2", b"10"}


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b") ")[2][:1] not in (b"Z", b"X")
    except FileNotFoundError:
        return False
