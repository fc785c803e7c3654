"""What an app is asked about a conflict, and what its answers mean."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from edge_runtime.model.errors import DriverError
from edge_runtime.model.hlc import Stamp
from edge_runtime.model.http import Body, Request, Response
from edge_runtime.sync.ask_app import ANSWER_BYTES_MAX, AppAsker, is_json, moment, version_document
from edge_runtime.sync.merge import Conflict, Version

STAMP = str(Stamp(1_700_000_000_000, 0, "n"))
CONFLICT = Conflict("app||k 1", b"1", Version(None, STAMP), Version(b"\xff"))


class Channel:
    """An app with one answer."""

    def __init__(self, answer: Response | None) -> None:
        self.answer = answer
        self.asked: Any = None

    async def send(self, request: Request) -> Response:
        self.asked = request
        if self.answer is None:
            await trio.sleep_forever()
        assert self.answer is not None
        return self.answer


async def ask(answer: Response | None) -> tuple[Channel, Version]:
    channel = Channel(answer)
    return channel, await AppAsker(channel, "cloud", "my store", "app||").ask(CONFLICT)


async def test_the_app_gets_three_versions_of_its_key() -> None:
    channel, version = await ask(Response(200, (), Body(b'{"n": 1.10}')))
    assert version == Version(b'{"n": 1.10}')
    assert (channel.asked.method, channel.asked.target) == ("POST", b"/edge/conflicts/my%20store")
    assert json.loads(channel.asked.body.data) == {
        "link": "cloud",
        "store": "my store",
        "key": "k 1",
        "base": {"value": 1},
        "local": {"removed": True, "at": "2023-11-14T22:13:20.000+00:00", "stamp": STAMP},
        "remote": {"base64": "/w=="},
    }


@pytest.mark.parametrize("answer", [Response(204), Response(200, ((b"edge-removed", b"true"),))])
async def test_an_app_may_remove_the_key(answer: Response) -> None:
    assert (await ask(answer))[1] == Version(None)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Response(200), "without a value; 204 removes the key"),
        (Response(200, (), Body(b" null\n")), "without a value"),
        (Response(404, (), Body(b"no such\nroute")), "answered 404 to POST /edge/conflicts/my%20store: no such route"),
        (Response(202), "answered 202"),
    ],
)
async def test_other_answers_say_nothing(answer: Response, reason: str) -> None:
    with pytest.raises(DriverError, match=reason):
        await ask(answer)


async def test_an_app_that_is_silent_is_left(autojump_clock: MockClock) -> None:
    with pytest.raises(DriverError, match=r"did not answer POST .* within 30 s"):
        await ask(None)


def test_values_are_shown_as_they_are() -> None:
    assert is_json(b'"a"')
    assert not is_json(b"[" * 100_000)
    assert ANSWER_BYTES_MAX > 0
    assert version_document(None) == {"removed": True}
    assert moment("nonsense") is None
    assert moment("f" * 16) is None
