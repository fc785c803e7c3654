"""What the kernel says of the wall clock."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from edge_runtime.store import kernel_clock


class Libc:
    def __init__(self, state: int) -> None:
        self.state = state

    def adjtimex(self, timex: Any) -> int:
        assert bytes(timex) == bytes(512), "nothing is to be changed"
        return self.state


@pytest.mark.parametrize(("state", "right"), [(0, True), (1, True), (4, True), (5, False)])
def test_the_kernel_is_asked(monkeypatch: pytest.MonkeyPatch, state: int, right: bool) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Libc(state))
    assert kernel_clock.is_synchronized() is right


@pytest.mark.parametrize("there", [True, False])
def test_a_kernel_that_does_not_say_leaves_the_flag(
    monkeypatch: pytest.MonkeyPatch, there: bool, tmp_path: Any
) -> None:
    flag = tmp_path / "synchronized"
    if there:
        flag.touch()
    monkeypatch.setattr(kernel_clock, "_FLAG", str(flag))
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Libc(-1))
    assert kernel_clock.is_synchronized() is there


@pytest.mark.parametrize("error", [OSError, AttributeError, MemoryError])
def test_a_process_that_may_not_ask_goes_on(monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    def fail(name: Any) -> Any:
        raise error

    monkeypatch.setattr(ctypes, "CDLL", fail)
    monkeypatch.setattr(kernel_clock, "_FLAG", "/nothing")
    assert kernel_clock.is_synchronized() is False


def test_this_machine_answers() -> None:
    assert kernel_clock.is_synchronized() in (True, False)


def test_who_asks_often_gets_the_last_answer() -> None:
    answers, now = [True, False], [0.0]
    ask = kernel_clock.Synchronized(lambda: answers.pop(0), lambda: now[0])
    assert [ask(), ask()] == [True, True]
    now[0] = 1.0
    assert [ask(), ask()] == [False, False]
