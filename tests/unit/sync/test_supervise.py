"""What has to go on goes on, after pauses that grow and shrink again."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from edge_runtime.sync.supervise import describe, supervised


class Task:
    """Fails at the ends of these stretches, and then ends."""

    def __init__(self, *stretches_s: float) -> None:
        self.begun: list[float] = []
        self.told: list[str] = []
        self._stretches_s = list(stretches_s)

    async def run(self) -> None:
        self.begun.append(trio.current_time())
        if self._stretches_s:
            await trio.sleep(self._stretches_s.pop(0))
            raise RuntimeError("a mistake")

    @property
    def pauses(self) -> list[float]:
        return [round(after - before) for before, after in zip(self.begun, self.begun[1:], strict=False)]


async def test_pauses_grow_and_shrink_again(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    task = Task(0, 0, 0, 100, 0)
    await supervised(task.run, "a task", task.told.append)
    assert task.pauses == [1, 2, 4, 100 + 1, 2]
    assert task.told == ["an internal error: RuntimeError: a mistake", ""] * 5
    assert "a task: an internal error: RuntimeError: a mistake; begun again in 4 s" in caplog.text


async def test_pauses_have_an_end(autojump_clock: trio.testing.MockClock) -> None:
    task = Task(*[0] * 9)
    await supervised(task.run, "a task")
    assert task.pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_the_first_of_several_is_named() -> None:
    group = ExceptionGroup("", [ExceptionGroup("", [ValueError("inner")]), OSError("other")])
    assert describe(group) == "ValueError: inner"
