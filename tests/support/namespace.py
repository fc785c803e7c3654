"""Networks of a test's own: Linux network namespaces without names, gone with the process that holds them.

A thread can be in another network than its process. What it opens stays there: sockets, child processes, and the
threads that it starts. So everything of one end of a test's line is made by `Namespace.run`.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Final, TypeVar

import pytest

T = TypeVar("T")

_CLONE_NEWNET: Final = 0x40000000
_libc: Final = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


class Namespace:
    """A network with nothing but a loopback interface, while the block lasts."""

    def __init__(self) -> None:
        self._descriptor = _in_thread(self._make)
        self.run(lambda: ip("link", "set", "lo", "up"))

    @staticmethod
    def _make() -> int:
        _check(_libc.unshare(_CLONE_NEWNET), "a network namespace cannot be made")
        return os.open(f"/proc/self/task/{threading.get_native_id()}/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def enter(self) -> None:
        """Bring the thread that calls into this network."""
        _check(_libc.setns(self._descriptor, _CLONE_NEWNET), "a network namespace cannot be entered")

    def run(self, function: Callable[[], T]) -> T:
        """What the function says, called by a thread within."""

        def call() -> T:
            self.enter()
            return function()

        return _in_thread(call)

    def start(self, function: Callable[[], None]) -> threading.Thread:
        """A thread within."""

        def call() -> None:
            self.enter()
            function()

        thread = threading.Thread(target=call, daemon=True)
        thread.start()
        return thread

    def join(self, other: Namespace, name: str, here: str, there: str) -> None:
        """A cable between two networks: an interface `name` at both of its ends, with these addresses."""
        peer = f"/proc/{os.getpid()}/fd/{other._descriptor}"
        self.run(lambda: ip("link", "add", name, "type", "veth", "peer", "name", name, "netns", peer))
        for network, address in ((self, here), (other, there)):
            network.run(lambda address=address: ip("address", "add", address, "dev", name))  # type: ignore[misc]
            network.set_link(name, up=True)

    def set_link(self, name: str, *, up: bool) -> None:
        """As if a cable were plugged in or pulled out."""
        self.run(lambda: ip("link", "set", name, "up" if up else "down"))

    def __enter__(self) -> Namespace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)


def need_namespaces() -> None:
    """Skip where this machine or this user can make none."""
    try:
        with Namespace():
            pass
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"networks of the test's own need root and iproute2 (`apt-get install iproute2`): {error}")


def ip(*arguments: str) -> None:
    """One command of iproute2, in the network of the thread that calls."""
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def _in_thread(function: Callable[[], T]) -> T:
    results: list[T] = []
    errors: list[BaseException] = []

    def call() -> None:
        try:
            results.append(function())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
