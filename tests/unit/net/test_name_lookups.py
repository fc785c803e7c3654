"""Names are looked up in threads of their own, one a name, and nobody waits who does not want to."""

from __future__ import annotations

import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from edge_runtime.net.name_lookups import THREADS_MAX, open_name_look_ups

FOUND = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.7", 80))]


class NameServer:
    """Answers when it is told to. What is numeric it leaves to the system, as trio asks for that first."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self.answers = threading.Event()
        self._system = socket.getaddrinfo

    def __call__(self, host: Any, port: Any, *more: Any) -> Any:
        if more[-1] & socket.AI_NUMERICHOST:
            return self._system(host, port, *more)
        self.asked.append(host)
        self.answers.wait()
        if host == b"missing.example":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return FOUND


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    one = NameServer()
    monkeypatch.setattr(socket, "getaddrinfo", one)
    yield one
    one.answers.set()


@pytest.fixture
async def look_ups(server: NameServer) -> AsyncIterator[None]:
    async with open_name_look_ups():
        yield


async def ask(name: str, outcomes: list[Any]) -> None:
    try:
        outcomes.append(await trio.socket.getaddrinfo(name, 80))
    except socket.gaierror as error:
        outcomes.append(error.errno)


async def give_up(name: str, begun: Callable[[], Awaitable[None]] = wait_all_tasks_blocked) -> None:
    """Ask, and leave before the answer, but not before it has `begun`."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, name, [])
        await begun()
        nursery.cancel_scope.cancel()


async def asked(server: NameServer, count: int) -> None:
    while len(server.asked) < count:  # noqa: ASYNC110 - a thread counts
        await trio.sleep(0.001)


async def test_many_who_ask_for_a_name_hold_one_thread(server: NameServer, look_ups: None) -> None:
    outcomes: list[Any] = []
    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(ask, "cloud.example", outcomes)
        await asked(server, 1)
        server.answers.set()
    assert outcomes == [FOUND] * 50
    assert server.asked == [b"cloud.example"]


async def test_who_asks_again_waits_for_the_same_answer(server: NameServer, look_ups: None) -> None:
    await give_up("cloud.example", partial(asked, server, 1))
    await give_up("cloud.example")
    outcomes: list[Any] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, "cloud.example", outcomes)
        await wait_all_tasks_blocked()
        server.answers.set()
    assert (outcomes, server.asked) == ([FOUND], [b"cloud.example"])
    await ask("cloud.example", outcomes)
    assert len(server.asked) == 2


async def test_names_that_hang_leave_the_other_threads_alone(server: NameServer, look_ups: None) -> None:
    for number in range(100):
        await give_up(f"host-{number}.example")
    await asked(server, THREADS_MAX)
    assert await trio.to_thread.run_sync(lambda: "free") == "free"
    outcomes: list[Any] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, "later.example", outcomes)
        await wait_all_tasks_blocked()
        assert len(server.asked) == THREADS_MAX
        server.answers.set()
    assert outcomes == [FOUND]
    assert len(server.asked) == THREADS_MAX + 1, "who had gone is not asked for"


async def test_a_name_that_is_not_there_is_an_error_for_all(server: NameServer, look_ups: None) -> None:
    outcomes: list[Any] = []
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(ask, "missing.example", outcomes)
        await asked(server, 1)
        server.answers.set()
    assert outcomes == [socket.EAI_NONAME] * 2


async def test_an_address_has_its_name(look_ups: None) -> None:
    assert await trio.socket.getnameinfo(("127.0.0.1", 80), socket.NI_NUMERICHOST | socket.NI_NUMERICSERV) == (
        "127.0.0.1",
        "80",
    )


async def test_the_end_waits_for_no_name(server: NameServer) -> None:
    async with open_name_look_ups():
        await give_up("cloud.example")
        await asked(server, 1)
    assert not server.answers.is_set()
