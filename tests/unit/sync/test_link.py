"""A link's state and calls, against a server on loopback that plays the other sidecar."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from edge_runtime.config.links import CloudLink, Window
from edge_runtime.model.errors import BadMetadata, DriverError, EtagInvalid, EtagMismatch, Unreachable
from edge_runtime.model.ports import Backoff
from edge_runtime.observability.metrics import Metrics, render
from edge_runtime.sync.link import Link
from edge_runtime.sync.link_answers import Answer as LinkAnswer
from edge_runtime.sync.link_answers import Failed, Refused
from edge_runtime.sync.link_settings import Clocks, LinkLimits, LinkMetrics, LinkSettings
from edge_runtime.sync.remote import RemoteSidecar
from tests.brokers import until
from tests.loopback import LoopbackApp, Talk, loopback_app

LIMITS = LinkLimits(call_timeout_s=0.3, probe_timeout_s=0.3, first_backoff_s=0.01, news_pause_s=0.01)
HEALTH = b"/v1.0/healthz/outbound"

# Answers (status, body, headers) to a target; None keeps it waiting.
Answer = tuple[int, bytes] | tuple[int, bytes, list[tuple[bytes, bytes]]] | None


class Far:
    """The other sidecar; what it says can be changed at any time."""

    def __init__(self, answers: dict[bytes, Answer]) -> None:
        self.answers: dict[bytes, Answer] = {HEALTH: (204, b""), **answers}
        self.app: LoopbackApp

    async def converse(self, talk: Talk) -> None:
        while (seen := await talk.request()) is not None:
            answer = self.answers.get(seen.target.partition(b"?")[0], (404, b"what?"))
            if answer is None:
                await trio.sleep_forever()
            assert answer is not None
            status, body, *headers = answer
            await talk.answer(body, status, headers[0] if headers else None)

    def targets(self) -> list[bytes]:
        return [seen.target for seen in self.app.seen if seen.target != HEALTH]


class Opened:
    def __init__(self, link: Link, far: Far, metrics: Metrics) -> None:
        self.link = link
        self.far = far
        self.metrics = metrics
        self.remote = RemoteSidecar(link)

    async def state(self, name: str) -> str:
        """Wait for a state; its reason."""
        with trio.fail_after(10):
            async for state in self.link.changes():
                if state.name == name and state.reason != "not tried yet":
                    return state.reason
        raise AssertionError

    async def state_with(self, text: str) -> str:
        """Wait for a reason."""
        with trio.fail_after(10):
            async for state in self.link.changes():
                if text in state.reason:
                    return state.reason
        raise AssertionError


@asynccontextmanager
async def open_link(
    answers: dict[bytes, Answer] | None = None,
    *,
    values: dict[str, str] | None = None,
    fault: str = "",
    clocks: Clocks = Clocks(),  # noqa: B008
    ledger: Any = None,
    **fields: Any,
) -> AsyncIterator[Opened]:
    far = Far(answers or {})
    async with loopback_app(far.converse) as app:
        far.app = app
        resource = CloudLink("cloud", f"http://127.0.0.1:{app.origin.port}/base", **fields)
        far.answers = {b"/base" + path if path == HEALTH else path: answer for path, answer in far.answers.items()}
        settings = LinkSettings(resource, tuple((values or {}).items()), fault, LIMITS)
        metrics = Metrics()
        link = Link(settings, LinkMetrics(metrics), ledger, clocks)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.run)
            yield Opened(link, far, metrics)
            nursery.cancel_scope.cancel()
        assert link.state == ("down", "the link is closed")


PUBLISH = b"/base/v1.0/publish/p/t"


async def test_a_call_goes_below_the_path_with_its_token() -> None:
    async with open_link({PUBLISH: (204, b"")}, values={"token": "secret"}) as opened:
        await opened.state("up")
        await opened.remote.publish("p", "t", b"{}", "application/json", {"a b": "c&d", "k": "ü"})
        seen = opened.far.app.last
        assert seen.target == PUBLISH + b"?metadata.a%20b=c%26d&metadata.k=%C3%BC"
        assert (b"dapr-api-token", b"secret") in seen.headers
        page = render((opened.metrics,))
        assert 'dapr_edge_link_up{link="cloud"} 1' in page
        assert 'dapr_edge_link_calls_total{class="topics-up",link="cloud",outcome="done"} 1' in page


async def test_names_are_single_segments() -> None:
    target = b"/base/v1.0/publish/a%2Fb/x/y%3Fz%2B"
    async with open_link({target: (204, b"")}) as opened:
        await opened.state("up")
        await opened.remote.publish("a/b", "x/y?z+", b"", "text/plain", {})
        assert opened.far.app.last.target == target


def said(message: str, code: str = "ERR_PUBSUB_FORBIDDEN") -> bytes:
    """A refusal in a sidecar's words."""
    return json.dumps({"errorCode": code, "message": message}).encode()


@pytest.mark.parametrize("body", [b"", b"blocked", b"[]", b'{"errorCode": 4}', said("later", "ERR_PUBSUB_NOT_FOUND")])
async def test_what_no_sidecar_decided_is_kept(body: bytes) -> None:
    async with open_link({PUBLISH: (404, body)}) as opened:
        await opened.state("up")
        with pytest.raises(DriverError) as caught:
            await opened.remote.publish("p", "t", b"", "text/plain", {})
        assert not caught.value.permanent


async def test_a_delivery_has_no_body() -> None:
    async with open_link({PUBLISH: (200, b"please log in")}) as opened:
        await opened.state("up")
        with pytest.raises(DriverError, match="with a body"):
            await opened.remote.publish("p", "t", b"", "text/plain", {})


async def test_no_memory_is_spent_on_answers_without_content() -> None:
    async with open_link({PUBLISH: (500, b"x" * 70_000)}) as opened:
        await opened.state("up")
        with pytest.raises(DriverError, match="the answer is longer than 65536 bytes") as caught:
            await opened.remote.publish("p", "t", b"", "text/plain", {})
        assert not caught.value.permanent


@pytest.mark.parametrize("status", [400, 403, 404, 409, 413])
async def test_a_considered_no_is_permanent(status: int) -> None:
    async with open_link({PUBLISH: (status, said("no  way"))}) as opened:
        await opened.state("up")
        with pytest.raises(Refused, match=f"answered {status}: .*no way") as caught:
            await opened.remote.publish("p", "t", b"", "text/plain", {})
        assert (caught.value.permanent, caught.value.code) == (True, status)
        assert opened.link.state.up


@pytest.mark.parametrize("status", [407, 408, 425, 429, 500, 501, 502, 503, 504, 302])
async def test_what_may_pass_is_tried_again(status: int) -> None:
    async with open_link({PUBLISH: (status, b"")}) as opened:
        await opened.state("up")
        with pytest.raises(DriverError) as caught:
            await opened.remote.publish("p", "t", b"", "text/plain", {})
        assert not isinstance(caught.value, Unreachable)
        assert not caught.value.permanent
        assert opened.link.state.up


async def test_a_store_that_is_not_there_says_nothing_of_the_token() -> None:
    path = b"/base/v1.0/secrets/none/a"
    async with open_link({path: (401, said("failed finding secret store", "ERR_SECRET_STORE_NOT_FOUND"))}) as opened:
        await opened.state("up")
        with pytest.raises(Failed) as caught:
            await opened.link.call("GET", "v1.0/secrets/none/a")
        assert (caught.value.code, caught.value.permanent) == (401, False)
        assert opened.link.state.up


async def test_no_answer_is_the_call_s_fault_while_the_other_end_is_well() -> None:
    async with open_link({PUBLISH: None}) as opened:
        await opened.state("up")
        with pytest.raises(DriverError, match=r"no answer within 0\.3 s") as caught:
            await opened.remote.publish("p", "t", b"", "text/plain", {})
        assert not isinstance(caught.value, Unreachable)
        assert opened.link.state.up


async def test_an_end_that_is_not_well_is_down() -> None:
    async with open_link({PUBLISH: (503, b"")}, probe_s=0.05) as opened:
        await opened.state("up")
        opened.far.answers[b"/base" + HEALTH] = (500, b"not ready")
        with pytest.raises(Unreachable, match="the health check was answered 500: not ready"):
            await opened.remote.publish("p", "t", b"", "text/plain", {})
        assert not opened.link.state.up
        with pytest.raises(Unreachable, match="link cloud is down"):
            await opened.remote.publish("p", "t", b"", "text/plain", {})
        opened.far.answers[b"/base" + HEALTH] = (204, b"")
        await opened.state("up")


async def test_silence_is_asked_about() -> None:
    async with open_link(probe_s=0.05) as opened:
        await opened.state("up")
        opened.far.answers[b"/base" + HEALTH] = None
        assert await opened.state("down") == "no answer within 0.3 s"


async def test_a_metered_link_is_left_alone() -> None:
    async with open_link(probe_s=0.01, metered=True) as opened:
        await opened.state("up")
        await trio.sleep(0.1)
        assert len(opened.far.app.seen) == 1


async def test_calls_in_hand_end_with_the_link() -> None:
    async with open_link({PUBLISH: None}) as opened:
        await opened.state("up")
        async with trio.open_nursery() as nursery:

            async def call() -> None:
                with pytest.raises(Unreachable, match="unplugged"):
                    await opened.link.call("GET", "v1.0/publish/p/t", timeout_s=60)

            nursery.start_soon(call)
            await trio.testing.wait_all_tasks_blocked()
            assert opened.link._session is not None
            opened.link._fall(opened.link._session, "unplugged")


async def test_a_refused_token_is_asked_about_with_the_token() -> None:
    metadata = b"/base/v1.0/metadata"
    async with open_link({PUBLISH: (401, b""), metadata: (401, b"")}, probe_s=0.02) as opened:
        await opened.state("up")
        with pytest.raises(Unreachable, match="refuses the token"):
            await opened.remote.publish("p", "t", b"", "text/plain", {})
        await until(lambda: metadata in opened.far.targets())
        assert "refuses the token" in opened.link.state.reason
        opened.far.answers[metadata] = (200, b"{}")
        await opened.state("up")


async def test_an_unseen_token_is_on_trial_and_flaps_not() -> None:
    """An allow list hides the metadata, so only a call can show whether the token is good."""
    metadata = b"/base/v1.0/metadata"
    async with open_link({PUBLISH: (401, b""), metadata: (404, b"")}, probe_s=0.02) as opened:
        seen: list[str] = []
        opened.link.listeners.append(lambda state: seen.append(state.name))
        await opened.state("up")
        for _ in range(4):
            await opened.link.until_up()
            with pytest.raises(Unreachable, match="refuses the token"):
                await opened.remote.publish("p", "t", b"", "text/plain", {})
            assert "refuses the token" in opened.link.state.reason
        assert 'dapr_edge_link_changes_total{link="cloud",state="up"} 1' in render((opened.metrics,))
        await opened.link.until_up()
        assert not opened.link.state.up
        opened.far.answers[PUBLISH] = (204, b"")
        await opened.remote.publish("p", "t", b"", "text/plain", {})
        assert opened.link.state.up
        assert seen[-1] == "up"


async def test_pauses_grow_with_the_outage(autojump_clock: trio.testing.MockClock) -> None:
    link = Link(
        LinkSettings(CloudLink("cloud", "http://127.0.0.1:9")),
        LinkMetrics(Metrics()),
        None,
        Clocks(chance=lambda: 0.5),
    )
    pauses = []
    for down_s in (0, 4, 76, 10_000):
        await trio.sleep(down_s)
        pauses.append(link._pause_s())
    assert pauses == [0.25, 0.5, 10.0, 30.0]
    link._hurry()
    assert link._pause_s() == 0
    link._hurried = trio.Event()
    assert link._pause_s() == 0.25


async def test_a_metered_link_is_tried_seldomer(autojump_clock: trio.testing.MockClock) -> None:
    resource = CloudLink("cloud", "http://127.0.0.1:9", metered=True)
    link = Link(LinkSettings(resource), LinkMetrics(Metrics()), None, Clocks(chance=lambda: 0.5))
    link._pause_s()
    await trio.sleep(10_000)
    assert link._pause_s() == 300


async def test_a_state_is_a_gauge_while_somebody_has_the_link() -> None:
    async with open_link() as opened:
        await opened.state("up")
        opened.link.pause()
        page = render((opened.metrics,))
        assert [line for line in page.splitlines() if line.startswith("dapr_edge_link_state{")] == [
            'dapr_edge_link_state{link="cloud",state="paused"} 1'
        ]
        assert 'dapr_edge_link_up{link="cloud"} 0' in page
        opened.link._metrics.hide("cloud")
        assert "dapr_edge_link_up{" not in render((opened.metrics,))


async def test_a_paused_link_does_nothing() -> None:
    async with open_link({PUBLISH: None}) as opened:
        await opened.state("up")
        async with trio.open_nursery() as nursery:

            async def call() -> None:
                with pytest.raises(Unreachable, match="link cloud is paused"):
                    await opened.link.call("GET", "v1.0/publish/p/t", timeout_s=60)

            nursery.start_soon(call)
            await trio.testing.wait_all_tasks_blocked()
            opened.link.pause()
        assert opened.link.state.name == "paused"
        count = len(opened.far.app.seen)
        await opened.link.now()
        assert (opened.link.state.name, len(opened.far.app.seen)) == ("paused", count)
        opened.link.resume()
        await opened.state("up")


async def test_now_waits_for_no_pause() -> None:
    async with open_link(probe_s=60, clocks=Clocks(chance=lambda: 1e9)) as opened:
        await opened.state("up")
        assert opened.link._session is not None
        opened.link._fall(opened.link._session, "unplugged")
        await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(10):
            await opened.link.now()
        assert opened.link.state.up
        count = len(opened.far.app.seen)
        await opened.link.now()
        assert len(opened.far.app.seen) == count + 1


class News:
    """What the kernel tells, by hand."""

    def __init__(self) -> None:
        self._changed = trio.Event()

    def tell(self) -> None:
        self._changed.set()

    async def wait(self) -> None:
        await self._changed.wait()
        self._changed = trio.Event()


@pytest.fixture
def news(monkeypatch: pytest.MonkeyPatch) -> News:
    told = News()

    @asynccontextmanager
    async def open_news() -> AsyncIterator[News]:
        yield told

    monkeypatch.setattr("edge_runtime.sync.link_keeper.open_route_changes", open_news)
    return told


async def test_news_of_the_kernel_end_a_pause(news: News) -> None:
    async with open_link(probe_s=60, clocks=Clocks(chance=lambda: 1e9)) as opened:
        await opened.state("up")
        assert opened.link._session is not None
        opened.link._fall(opened.link._session, "unplugged")
        await trio.testing.wait_all_tasks_blocked()
        news.tell()
        await opened.state("up")


async def test_news_of_the_kernel_end_a_probe_that_hangs(news: News, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.unit.sync.test_link.LIMITS", LIMITS._replace(probe_timeout_s=1e6, probe_least_s=0.01))
    async with open_link({}, probe_s=60, clocks=Clocks(chance=lambda: 1e9)) as opened:
        opened.far.answers[b"/base" + HEALTH] = None
        await until(lambda: opened.far.app.seen)
        opened.far.answers[b"/base" + HEALTH] = (204, b"")
        news.tell()
        await opened.state("up")


async def test_a_network_that_comes_and_goes_breaks_off_one_probe(news: News) -> None:
    async with open_link(probe_s=60, clocks=Clocks(chance=lambda: 1e9)) as opened:
        link, now = opened.link, trio.current_time()
        await opened.state("up")
        for number in range(3):
            link._probing = (now, trio.CancelScope(deadline=now + 100))
            link._hurry()
            assert (link._probing[1].deadline < now + 100) == (number == 0)
        link._probing = None


async def test_news_of_the_kernel_show_a_lost_way(news: News, monkeypatch: pytest.MonkeyPatch) -> None:
    reachable = [True, False]

    async def can_reach(origin: Any, timeout_s: float) -> bool:
        return reachable.pop(0)

    async with open_link(probe_s=60, metered=True) as opened:
        await opened.state("up")
        monkeypatch.setattr(opened.link._dialer, "can_reach", can_reach)
        news.tell()
        await until(lambda: len(reachable) == 1)
        assert opened.link.state.up
        news.tell()
        assert "no way to the sidecar" in await opened.state("down")


async def test_now_may_open_a_window() -> None:
    wall = Wall()
    async with open_link(windows=(Window(frozenset({3}), 13 * 60, 14 * 60),), clocks=wall.clocks()) as opened:
        await opened.state("waiting")
        await opened.link.now()
        assert opened.link.state.name == "waiting"
        await opened.link.now(outside_window=True)
        assert opened.link.state.up
        assert opened.link.window().changes_at == pytest.approx(wall.at + 600, abs=5)


async def test_a_call_beyond_the_day_s_budget_is_given_up() -> None:
    async with open_link({PUBLISH: (204, b"")}, bytes_per_day=20_000) as opened:
        await opened.state("up")
        with pytest.raises(DriverError, match=r"spec\.budget\.bytesPerDay \(20000\)") as caught:
            await opened.remote.publish("p", "t", b"x" * 20_001, "text/plain", {})
        assert caught.value.permanent
        await opened.remote.publish("p", "t", b"x" * 10_000, "text/plain", {})


async def test_an_unforeseen_error_is_outlived(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_runtime.sync.supervise.PAUSES", Backoff(0.01, 0.02))
    failures = [RuntimeError("a mistake")]
    async with open_link() as opened:
        await opened.state("up")
        watch = opened.link._watch

        async def broken(session: Any) -> None:
            if failures:
                raise failures.pop()
            await watch(session)

        monkeypatch.setattr(opened.link, "_watch", broken)
        assert opened.link._session is not None
        opened.link._fall(opened.link._session, "unplugged")
        assert "RuntimeError: a mistake" in await opened.state_with("internal error")
        await opened.state("up")


async def test_a_page_is_no_sidecar() -> None:
    page: Answer = (200, b"<html>", [(b"content-type", b"text/html; charset=utf-8")])
    async with open_link({PUBLISH: page}) as opened:
        await opened.state("up")
        with pytest.raises(DriverError, match=r"answered 200.*<html>"):
            await opened.remote.publish("p", "t", b"", "text/plain", {})
        opened.far.answers[b"/base" + HEALTH] = page
        with pytest.raises(Unreachable):
            await opened.remote.publish("p", "t", b"", "text/plain", {})


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"token": "a\nb"}, "spec.token has letters that no header takes"),
        ({"proxy": "ftp://x"}, "spec.proxy cannot be used: it is no http:// URL"),
        ({"ca": "no pem"}, "spec.tls cannot be used"),
        ({"clientCert": "x"}, "spec.tls cannot be used: there is only one of certificate and private key"),
    ],
)
async def test_what_cannot_be_used_keeps_it_down(values: dict[str, str], reason: str) -> None:
    async with open_link(values=values) as opened:
        assert reason in await opened.state("down")
        assert opened.far.app.seen == []


async def test_a_fault_from_outside_keeps_it_down() -> None:
    async with open_link(fault="no secret") as opened:
        assert await opened.state("down") == "no secret"


class Wall:
    """A clock on the wall that is set by hand, in UTC."""

    def __init__(self) -> None:
        self.at = 12 * 3600.0  # noon, Thursday 1 January 1970

    def clocks(self) -> Clocks:
        return Clocks(lambda: self.at, time.gmtime, lambda: 0.5)


async def test_a_window_opens_and_closes(autojump_clock: trio.testing.MockClock) -> None:
    wall = Wall()
    link = Link(
        LinkSettings(CloudLink("cloud", "http://127.0.0.1:9", windows=(Window(frozenset({3}), 13 * 60, 14 * 60),))),
        LinkMetrics(Metrics()),
        None,
        wall.clocks(),
    )
    assert link._closed() == 15.0
    assert link.state == ("waiting", "waits for its window, which opens at 1970-01-01 13:00")
    wall.at += 3600 - 5
    assert link._closed() == 5.0
    wall.at += 5
    assert link._closed() is None
    wall.at += 3600
    assert link._closed() is not None
    assert link.state == ("waiting", "waits for its window, which opens at 1970-01-08 13:00")


async def test_an_open_window_that_closes_ends_the_session() -> None:
    wall = Wall()
    wall.at = 13 * 3600 - 0.1
    async with open_link(windows=(Window(frozenset({3}), 12 * 60, 13 * 60),), clocks=wall.clocks()) as opened:
        await opened.state("up")
        wall.at = 13 * 3600.0
        assert "1970-01-08 12:00" in await opened.state("waiting")


class Ledger:
    def __init__(self, spent: int = 0, age_s: float = 0.0) -> None:
        self.spent = spent
        self.age_s = age_s
        self.saves: list[int] = []

    def load(self) -> tuple[int, float]:
        return self.spent, self.age_s

    def save(self, spent: int, day_age_s: float) -> None:
        self.saves.append(spent)


async def test_a_day_s_bytes_end_and_are_kept() -> None:
    ledger = Ledger()
    async with open_link({PUBLISH: (204, b"")}, bytes_per_day=2000, ledger=ledger) as opened:
        await opened.state("up")

        async def spend() -> None:
            while True:
                await opened.remote.publish("p", "t", b"x" * 100, "text/plain", {})

        with pytest.raises(Unreachable):
            await spend()
        assert "the day's bytes are spent until" in await opened.state("out-of-budget")
        with pytest.raises(Unreachable, match="the day's bytes are spent"):
            await opened.remote.publish("p", "t", b"", "text/plain", {})
    assert ledger.saves[-1] >= 2000
    async with open_link(bytes_per_day=2000, ledger=Ledger(ledger.saves[-1], 100.0)) as opened:
        await opened.state("out-of-budget")
        assert opened.far.app.seen == []


async def test_a_second_s_bytes_are_waited_for() -> None:
    async with open_link({PUBLISH: (204, b"")}, bytes_per_second=4000) as opened:
        await opened.state("up")
        began = trio.current_time()
        for _ in range(4):
            await opened.remote.publish("p", "t", b"x" * 1500, "text/plain", {})
        assert opened.link._meter.budget.wait_s(trio.current_time()) >= 0
        assert opened.link._meter.budget.spent <= 4000 * (trio.current_time() - began + 1) + 2000


# --- state ------------------------------------------------------------------------------------------------------------

STATE = b"/base/v1.0/state/redis"


async def test_a_value_that_is_no_json_hides_no_other() -> None:
    """A sidecar answers a bulk get with an empty 200 when one of the values is bytes: nothing is gone because of it."""
    single = {STATE + b"/a": (200, b"\x00\xff"), STATE + b"/b": (204, b""), STATE + b"/c": (500, b"broken")}
    async with open_link({STATE + b"/bulk": (200, b""), **single}) as opened:
        await opened.state("up")
        found = await opened.remote.bulk_get("redis", ["a", "b", "c"])
        assert found["a"] == (b"\x00\xff", "")
        assert found["b"] is None
        assert "500" in str(found["c"])
        with pytest.raises(BadMetadata, match=r"no JSON.*add spec.endpoint.grpc to link cloud"):
            await opened.remote.save("redis", "a", b"\x00\xff")


async def test_what_is_said_of_bytes_is_undone() -> None:
    """A node of ours says how it has written a value that is no JSON; one without a byte is not one that is gone."""
    rows = [
        {"key": "text", "data": "hello", "etag": "1", "metadata": {"dataEncoding": "text"}},
        {"key": "bytes", "data": "/wA=", "etag": "2", "metadata": {"dataEncoding": "base64", "ttlExpireTime": "later"}},
        {"key": "json", "data": "hello", "etag": "3", "metadata": {"ttlExpireTime": "later"}},
        {"key": "empty", "etag": "4"},
        {"key": "odd", "data": 7, "etag": "5", "metadata": {"dataEncoding": "base64"}},
    ]
    async with open_link({STATE + b"/bulk": (200, json.dumps(rows).encode())}) as opened:
        await opened.state("up")
        found = dict(await opened.remote.bulk_get("redis", [str(row["key"]) for row in rows]))
        assert "the value of 'odd' is unreadable" in str(found.pop("odd"))
        expected = {"text": (b"hello", "1"), "bytes": (b"\xff\0", "2"), "json": (b'"hello"', "3"), "empty": (b"", "4")}
        assert found == expected


async def test_a_slow_line_has_time_for_a_large_body() -> None:
    """The limit of a call is for the answer; what is sent has its own time."""
    async with open_link({PUBLISH: None}) as opened:
        await opened.state("up")
        with pytest.raises(DriverError, match=r"no answer within 0\.5 s"):
            await opened.remote.publish("p", "t", b"x" * 200, "text/plain", {})


async def test_keys_are_read_in_bulk() -> None:
    rows = b'[{"key":"a","data":{"n":1.10},"etag":"7"},{"key":"b"},{"key":"c","data":null},{"key":"other","data":1}]'
    async with open_link({STATE + b"/bulk": (200, rows)}) as opened:
        await opened.state("up")
        found = await opened.remote.bulk_get("redis", ["a", "b", "c", "d"])
        assert "says nothing of the key" in str(found.pop("d"))
        assert found == {"a": (b'{"n":1.10}', "7"), "b": None, "c": None}
        opened.far.answers[STATE + b"/bulk"] = (200, b'[{"key":"a","data":null,"etag":"1"}]')
        assert await opened.remote.bulk_get("redis", ["a"]) == {"a": (b"null", "1")}
        opened.far.answers[STATE + b"/bulk"] = (200, b'[{"key":"a","error":"broken"}]')
        found = await opened.remote.bulk_get("redis", ["a"])
        assert str(found["a"]) == "link cloud: redis: broken"
        opened.far.answers[STATE + b"/bulk"] = (200, b"{")
        with pytest.raises(DriverError, match="unreadable"):
            await opened.remote.bulk_get("redis", ["a"])


async def test_writes_carry_their_etags() -> None:
    async with open_link({STATE: (204, b""), STATE + b"/a%2Fb": (204, b"")}) as opened:
        await opened.state("up")
        await opened.remote.save("redis", "a/b", b'{"n":1.10}', "7")
        expected = b'[{"key":"a/b","value":{"n":1.10},"etag":"7","options":{"concurrency":"first-write"}}]'
        assert opened.far.app.last.body == expected
        await opened.remote.save("redis", "a/b", b"1", None, False)
        assert opened.far.app.last.body == b'[{"key":"a/b","value":1}]'
        await opened.remote.delete("redis", "a/b", "7")
        seen = opened.far.app.last
        assert (seen.method, seen.target) == ("DELETE", STATE + b"/a%2Fb?concurrency=first-write")
        assert (b"if-match", b"7") in seen.headers
        await opened.remote.delete("redis", "a/b")
        assert opened.far.app.last.target == STATE + b"/a%2Fb"


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (409, said("etag", "ERR_STATE_SAVE"), EtagMismatch),
        (400, said("invalid etag value: x", "ERR_STATE_SAVE"), EtagInvalid),
        (400, said("malformed", "ERR_MALFORMED_REQUEST"), Refused),
    ],
)
async def test_a_refused_etag_is_known(status: int, body: bytes, expected: type[Exception]) -> None:
    async with open_link({STATE: (status, body), STATE + b"/a": (status, body)}) as opened:
        await opened.state("up")
        write: Callable[[], Any]
        for write in (
            lambda: opened.remote.save("redis", "a", b"1", "7"),
            lambda: opened.remote.delete("redis", "a", "7"),
        ):
            with pytest.raises(expected):
                await write()


# --- the wall clock ---------------------------------------------------------------------------------------------------


class SetClock:
    """Begins where it is told to, and can be set."""

    def __init__(self, at: float) -> None:
        self._ahead_s = at - trio.current_time()

    def set(self, at: float) -> None:
        self._ahead_s = at - trio.current_time()

    def __call__(self) -> float:
        return trio.current_time() + self._ahead_s


@asynccontextmanager
async def deaf_link(clocks: Clocks, answer: Callable[[], Any], **fields: Any) -> AsyncIterator[Link]:
    """A link whose other end is `answer`; no socket is opened."""

    async def exchange(session: Any, request: Any, bytes_max: int) -> Any:
        await trio.lowlevel.checkpoint()
        return answer()

    link = Link(LinkSettings(CloudLink("cloud", "https://127.0.0.1:9", **fields)), LinkMetrics(Metrics()), None, clocks)
    link._exchange = exchange  # type: ignore[method-assign]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        await trio.testing.wait_all_tasks_blocked()
        yield link
        nursery.cancel_scope.cancel()


NOW = 1_790_000_000.0


@pytest.mark.parametrize("wrong", [86400.0, 2**31 + 5.0, NOW + 30 * 365 * 86400])
async def test_a_clock_that_is_set_is_a_reason_to_try(autojump_clock: trio.testing.MockClock, wrong: float) -> None:
    wall = SetClock(wrong)

    def answer() -> Any:
        if abs(wall() - NOW) > 10 * 86400:
            raise DriverError("tls: certificate verify failed: certificate is not yet valid")
        return LinkAnswer(204, {}, b"")

    async with deaf_link(Clocks(wall, time.gmtime), answer) as link:
        day = time.strftime("%Y-%m-%d", time.gmtime(wrong))
        assert f"this node's clock says {day}: when that is wrong, set it" in link.state.reason
        await trio.sleep(3600)
        assert not link.state.up
        wall.set(NOW)
        await trio.sleep(2)
        assert link.state.up


async def test_other_failures_do_not_ask_for_the_time(autojump_clock: trio.testing.MockClock) -> None:
    wall = SetClock(NOW)

    def answer() -> Any:
        raise DriverError("tls: certificate verify failed: unable to get local issuer certificate")

    async with deaf_link(Clocks(wall), answer) as link:
        assert link.state.reason.endswith("issuer certificate")


async def test_a_window_follows_a_clock_that_is_set(autojump_clock: trio.testing.MockClock) -> None:
    at_noon = NOW - NOW % 86400 + 43_200
    wall = SetClock(1000.0)  # 1970, a quarter past midnight
    window = Window(frozenset(range(7)), 11 * 60, 13 * 60)
    answered = LinkAnswer(204, {}, b"")
    async with deaf_link(Clocks(wall, time.gmtime), lambda: answered, windows=(window,)) as link:
        assert link.state.name == "waiting"
        wall.set(at_noon)
        await trio.sleep(16)
        assert link.state.up
        wall.set(at_noon - 86400 + 7200)
        await trio.sleep(16)
        assert link.state.name == "waiting"
