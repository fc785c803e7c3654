"""Sends the output of all sessions once per turn of the loop, when every task that was ready has run.

An instrument is called there without a task of its own: that saves a turn of the loop for each batch of answers, which
is a third of what a single small call costs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from edge_runtime.net.http2.session import Session


class Flusher(trio.abc.Instrument):
    """The sessions of one run of trio that have output. It is in the loop while there are sessions."""

    def __init__(self) -> None:
        self.dirty: list[Session] = []
        self._sessions = 0

    def join(self) -> None:
        """A session begins."""
        if not self._sessions:
            trio.lowlevel.add_instrument(self)
        self._sessions += 1

    def leave(self) -> None:
        """A session has ended."""
        self._sessions -= 1
        if not self._sessions:
            trio.lowlevel.remove_instrument(self)
            self.dirty.clear()

    def before_io_wait(self, timeout: float) -> None:
        """Between two turns: tasks can be woken through the loop's queue only, for the timeout is fixed already."""
        if self.dirty:
            dirty = self.dirty
            self.dirty = []
            for session in dirty:
                try:
                    session.flush()
                except Exception as error:
                    # Once a connection: trio takes an instrument that fails out of the loop, and all would fall silent.
                    session.break_off(error)


_flusher: Final[trio.lowlevel.RunVar[Flusher]] = trio.lowlevel.RunVar("http2_flusher")


def flusher() -> Flusher:
    """The one of this run."""
    try:
        return _flusher.get()
    except LookupError:
        new = Flusher()
        _flusher.set(new)
        return new
