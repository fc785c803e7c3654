"""A remote secret store through a link of the test's own: asked, remembered, and forgotten."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from edge_runtime.config.links import CloudLink, SecretsRoute
from edge_runtime.model.errors import DriverError, Unreachable
from edge_runtime.security.secret_box import SecretBox
from edge_runtime.store.database import open_databases
from edge_runtime.store.sealed_secrets import (
    RECORD_BYTES_MAX,
    RECORDS_MAX,
    Clocks,
    SealedSecrets,
    Secret,
    open_sealed_secrets,
)
from edge_runtime.sync.link_answers import Answer, Failed, Refused
from edge_runtime.sync.link_settings import LinkSettings, LinkState
from edge_runtime.sync.secrets_down import FRESH_S, LinkedSecrets, SecretGone

ONE = "v1.0/secrets/far%2Fvault/a"
BULK = "v1.0/secrets/far%2Fvault/bulk"
MAX_S = 3600.0


def failed(cause: str, code: str = "ERR_SECRET_GET") -> Failed:
    message = f"failed getting secret with key a: not found from secret store far/vault: {cause}"
    body = json.dumps({"errorCode": code, "message": message}).encode()
    return Failed(f"answered 500: {message}", Answer(500, {}, body))


class FarLink:
    """A link whose far store has `answers`; an exception is raised, None never comes."""

    name = "cloud"

    def __init__(self, http: str = "http://far") -> None:
        self.settings = LinkSettings(CloudLink(self.name, http))
        self.state = LinkState("up")
        self.answers: dict[str, Any] = {}
        self.asked: list[tuple[str, Sequence[tuple[str, str]]]] = []
        self.came_up = trio.Event()

    @property
    def usable(self) -> bool:
        return self.state.up

    async def until_up(self) -> None:
        await self.came_up.wait()

    def down(self) -> None:
        self.state = LinkState("down", "no route")

    async def call(self, method: str, path: str, *, query: Sequence[tuple[str, str]], kind: str) -> Answer:
        assert (method, kind) == ("GET", "secrets")
        self.asked.append((path, query))
        await trio.lowlevel.checkpoint()
        answer = self.answers[path]
        if answer is None:
            await trio.sleep_forever()
        if isinstance(answer, Exception):
            raise answer
        return Answer(200, {}, answer if isinstance(answer, bytes) else json.dumps(answer).encode())


class Opened:
    def __init__(self, link: FarLink, store: LinkedSecrets, kept: SealedSecrets) -> None:
        self.link = link
        self.store = store
        self.kept = kept

    async def value(self, **metadata: str) -> str:
        return (await self.store.get("a", metadata))["a"]

    async def is_kept(self, name: str = "a") -> bool:
        return await self.kept.read(self.store.name, Secret(name)) is not None


@asynccontextmanager
async def opened() -> AsyncIterator[Opened]:
    """Time is trio's; no wall clock is right."""
    link = FarLink()
    far: Any = link
    clocks = Clocks(lambda: round(trio.current_time() * 1000), lambda: "boot", lambda: 0.0, lambda: False)
    async with open_databases() as databases:
        kept = await open_sealed_secrets(await databases.get(":memory:"), SecretBox(bytes(32)), clocks)
        yield Opened(link, LinkedSecrets(SecretsRoute("far/vault", MAX_S), far, kept), kept)


async def test_the_remote_is_asked_and_remembered(autojump_clock: MockClock) -> None:
    async with opened() as one:
        one.link.answers[ONE] = {"a": "1"}
        assert await one.value() == "1"
        one.link.answers[ONE] = {"a": "2"}
        await trio.sleep(FRESH_S - 1)
        assert await one.value() == "1"
        await trio.sleep(2)
        assert await one.value() == "2"
        assert len(one.link.asked) == 2


async def test_metadata_make_another_secret(autojump_clock: MockClock) -> None:
    async with opened() as one:
        one.link.answers[ONE] = {"a": "1"}
        assert await one.value(version_id="7") == "1"
        assert one.link.asked == [(ONE, [("metadata.version_id", "7")])]
        one.link.down()
        with pytest.raises(Unreachable):
            await one.value()
        assert await one.value(version_id="7") == "1"


async def test_away_it_is_given_until_it_is_too_old(autojump_clock: MockClock) -> None:
    async with opened() as one:
        one.link.answers[ONE] = {"a": "1"}
        await one.value()
        one.link.down()
        await trio.sleep(MAX_S - 1)
        assert await one.value() == "1"
        await trio.sleep(2)
        with pytest.raises(Unreachable, match=r"link cloud is down: no route; .* younger than maxAge \(1h0m0s\)"):
            await one.value()
        assert not await one.is_kept()
        assert len(one.link.asked) == 1


@pytest.mark.parametrize("answer", [failed("vault is sealed"), DriverError("no answer"), Unreachable("cut"), None])
async def test_a_failure_gives_what_is_kept(autojump_clock: MockClock, answer: Any) -> None:
    async with opened() as one:
        one.link.answers[ONE] = answer
        with pytest.raises(DriverError, match="nothing is kept") as caught:
            await one.value()
        assert not caught.value.permanent
        one.link.answers[ONE] = {"a": "1"}
        await one.value()
        one.link.answers[ONE] = answer
        await trio.sleep(FRESH_S)
        assert await one.value() == "1"


@pytest.mark.parametrize(
    "answer",
    [
        failed("secret a not found"),
        failed("SecretNotFound: gone"),
        failed("the key does not exist"),
        Refused("answered 403: access denied", Answer(403, {}, b"")),
        {},
        b"",
    ],
)
async def test_what_is_gone_there_is_forgotten(autojump_clock: MockClock, answer: Any) -> None:
    async with opened() as one:
        one.link.answers[ONE] = {"a": "1"}
        await one.value()
        one.link.answers[ONE] = answer
        await trio.sleep(FRESH_S)
        with pytest.raises(SecretGone) as caught:
            await one.value()
        assert caught.value.permanent
        assert not await one.is_kept()
        one.link.down()
        with pytest.raises(Unreachable):
            await one.value()


async def test_a_failure_of_something_else_forgets_nothing(autojump_clock: MockClock) -> None:
    async with opened() as one:
        one.link.answers[ONE] = {"a": "1"}
        await one.value()
        await trio.sleep(FRESH_S)
        one.link.answers[ONE] = failed("secret store not found", "ERR_SECRET_STORE_NOT_FOUND")
        assert await one.value() == "1"


async def test_an_answer_that_is_none_shows_nothing(autojump_clock: MockClock) -> None:
    async with opened() as one:
        one.link.answers[ONE] = b'{"a": "hush'
        with pytest.raises(DriverError, match="no JSON of secrets") as caught:
            await one.value()
        assert "hush" not in str(caught.value)


async def test_one_asks_for_all_who_want_the_same(autojump_clock: MockClock) -> None:
    async with opened() as one:
        one.link.answers[ONE] = {"a": "1"}
        values: list[str] = []

        async def get() -> None:
            values.append(await one.value())

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(get)
        assert values == ["1"] * 10
        assert len(one.link.asked) == 1


async def test_a_link_that_was_never_tried_is_waited_for(mock_clock: MockClock) -> None:
    async with opened() as one:
        one.link.answers[ONE] = {"a": "1"}
        one.link.state = LinkState("down", "not tried yet")
        values: list[str] = []

        async def get() -> None:
            values.append(await one.value())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(get)
            await wait_all_tasks_blocked()
            assert not values
            one.link.state = LinkState("up")
            one.link.came_up.set()
        assert values == ["1"]


async def test_all_are_kept_and_given(autojump_clock: MockClock) -> None:
    async with opened() as one:
        everything = {"a": {"a": "1"}, "db": {"user": "ann", "password": "x"}}
        one.link.answers[BULK] = everything
        one.link.answers[ONE] = {"a": "1"}
        assert await one.store.bulk_get({}) == everything
        assert await one.store.bulk_get({}) == everything
        assert await one.value() == "1"
        assert len(one.link.asked) == 1
        one.link.down()
        assert await one.store.bulk_get({}) == everything
        await trio.sleep(MAX_S + 1)
        with pytest.raises(Unreachable):
            await one.store.bulk_get({})


async def test_single_secrets_are_not_all(autojump_clock: MockClock) -> None:
    async with opened() as one:
        one.link.answers[ONE] = {"a": "1"}
        await one.value()
        one.link.down()
        with pytest.raises(Unreachable):
            await one.store.bulk_get({})


async def test_a_secret_that_is_too_large_makes_it_not_all(autojump_clock: MockClock) -> None:
    async with opened() as one:
        everything = {"a": {"a": "1"}, "b": {"b": "1"}}
        one.link.answers[BULK] = everything
        assert await one.store.bulk_get({}) == everything
        everything["b"] = {"b": "x" * RECORD_BYTES_MAX}
        await trio.sleep(FRESH_S + 1)
        for _ in range(2):
            assert await one.store.bulk_get({}) == everything
        assert len(one.link.asked) == 3
        assert await one.is_kept("a")
        assert not await one.is_kept("b"), "not the one before either"
        one.link.down()
        with pytest.raises(Unreachable):
            await one.store.bulk_get({})


async def test_too_many_secrets_are_not_all(autojump_clock: MockClock) -> None:
    async with opened() as one:
        everything = {str(number): {"": "1"} for number in range(RECORDS_MAX)}
        one.link.answers[BULK] = everything
        for _ in range(2):
            assert await one.store.bulk_get({}) == everything
        assert len(one.link.asked) == 2


async def test_another_sidecar_s_secrets_are_others(autojump_clock: MockClock) -> None:
    """Two apps may have links of one name to different places."""
    async with opened() as one:
        one.link.answers[ONE] = {"a": "1"}
        await one.value()
        other: Any = FarLink("http://elsewhere")
        other.down()
        with pytest.raises(Unreachable):
            await LinkedSecrets(SecretsRoute("far/vault", MAX_S), other, one.kept).get("a", {})


async def test_what_all_no_longer_have_is_forgotten(autojump_clock: MockClock) -> None:
    async with opened() as one:
        one.link.answers[BULK] = {"a": {"a": "1"}, "b": {"b": "1"}}
        await one.store.bulk_get({})
        one.link.answers[BULK] = {"b": {"b": "2"}}
        await trio.sleep(FRESH_S)
        assert await one.store.bulk_get({}) == {"b": {"b": "2"}}
        assert not await one.is_kept("a")
        one.link.answers[BULK] = Refused("answered 403", Answer(403, {}, b""))
        await trio.sleep(FRESH_S)
        with pytest.raises(SecretGone):
            await one.store.bulk_get({})
        assert not await one.is_kept("b")


async def test_damage_is_fetched_anew(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened() as one:
        one.link.answers[ONE] = {"a": "1"}
        await one.value()
        with monkeypatch.context() as patch:
            patch.setattr(one.kept, "_open", _broken(one.kept))
            assert await one.value() == "1"
        assert len(one.link.asked) == 2
        assert "it is fetched anew" in caplog.text
        assert await one.is_kept()


def _broken(kept: SealedSecrets) -> Any:
    opens = kept._open
    return lambda route, record: opens(route, record[:-1])


async def test_without_a_key_nothing_is_kept(autojump_clock: MockClock) -> None:
    link = FarLink()
    far: Any = link
    store = LinkedSecrets(SecretsRoute("far/vault", MAX_S), far, None)
    link.answers = {ONE: {"a": "1"}, BULK: {"a": {"a": "1"}}}
    assert await store.get("a", {}) == {"a": "1"}
    assert await store.bulk_get({}) == {"a": {"a": "1"}}
    link.down()
    with pytest.raises(Unreachable):
        await store.get("a", {})
