"""What a state route does next with a key: every combination of here, there and before."""

from __future__ import annotations

from typing import Any

import pytest

from edge_runtime.model.ports import Backoff, Item
from edge_runtime.model.sync import KEEP, Base, Change, Keys, Known, Settlement
from edge_runtime.sync.merge import Version, digest
from edge_runtime.sync.state_plan import (
    MARKS_MAX,
    Agenda,
    Ask,
    Fetch,
    Remote,
    Remove,
    Save,
    StateRoute,
    marks_before,
    plan_key,
    settle_refused,
    settle_sent,
)

K = "app||orders/1"
ABSENT = Remote()
THEIRS = Remote(b"their", "e2", "5")
SYNCED = Base("e1", True, "l1", None, (), "1")
SAVED = Base(None, False, "l1", None, (b"s" + digest(b"mine"),), "1")
CHANGED = Change("4", False)
REMOVED = Change("4", True)
MINE = Item(b"mine", "l2")
OLD = Item(b"old", "l1")


def route(conflict: Any = "remote-wins", direction: Any = "both") -> StateRoute:
    return StateRoute("r", Keys("app||orders/"), "cloud", "site/", direction, conflict)


def plan(known: Known, remote: Remote | None = None, *, of: StateRoute = route(), answer: Any = None) -> Any:  # noqa: B008
    return plan_key(of, known, remote, "9", answer)


def test_keys_are_mapped() -> None:
    assert route().remote_key(K) == "site/1"
    assert route().stored_key("site/1") == K
    assert route().stored_key("other/1") is None
    exact = StateRoute("r", Keys(K, exact=True), "cloud", "one")
    assert (exact.remote_key(K), exact.stored_key("one"), exact.stored_key("one more")) == ("one", K, None)


@pytest.mark.parametrize(
    ("known", "step"),
    [
        (Known(K, OLD, None, SYNCED), None),
        (Known(K, MINE, CHANGED._replace(refused="no"), SYNCED), None),
        (Known(K, MINE, CHANGED, None), Save),
        (Known(K, MINE, CHANGED, SYNCED), Save),
        (Known(K, MINE, CHANGED, SAVED), Fetch),
        (Known(K, MINE, CHANGED, Base(sent=(b"c" * 17,))), Fetch),
        (Known(K, None, REMOVED, SYNCED), Remove),
        (Known(K, None, REMOVED, None), Settlement),
    ],
)
def test_most_changes_are_sent_unseen(known: Known, step: Any) -> None:
    assert (plan(known) is None) is (step is None)
    assert step is None or isinstance(plan(known), step)


def test_requests_name_the_version() -> None:
    assert plan(Known(K, MINE, CHANGED, SYNCED)).etag == "e1"
    assert plan(Known(K, MINE, CHANGED, None)).etag is None
    assert plan(Known(K, MINE, CHANGED, SYNCED), Remote(b"x", "e1")).etag == "e1"
    assert plan(Known(K, None, REMOVED, SYNCED)).etag == "e1"


def test_mirrors_send_nothing() -> None:
    down = route(direction="down")
    assert plan(Known(K, MINE, CHANGED, SYNCED), of=down) is None
    assert plan(Known(K, MINE, CHANGED, SYNCED), Remote(b"old", "e1"), of=down) is None


def test_remote_changes_are_taken() -> None:
    step = plan(Known(K, OLD, None, SYNCED), THEIRS)
    assert (step.value, step.base, step.done) == (b"their", Base("e2", True, "l1", None, (), "5"), True)
    gone = plan(Known(K, OLD, None, SYNCED), ABSENT)
    assert gone.value is None
    assert gone.base is not None  # until the value is gone here too, there is something to remember
    assert plan(Known(K, None, None, None), THEIRS).value == b"their"


def test_same_value_is_not_written_again() -> None:
    step = plan(Known(K, OLD, None, SYNCED), Remote(b"old", "e2"))
    assert (step.value, step.base.remote_etag) == (KEEP, "e2")


def test_up_routes_take_nothing() -> None:
    assert plan(Known(K, OLD, None, SYNCED), THEIRS, of=route(direction="up")) is None


def test_unchanged_is_nothing() -> None:
    assert plan(Known(K, OLD, None, SYNCED), Remote(b"old", "e1")) is None
    assert plan(Known(K, MINE, CHANGED._replace(refused="no"), SYNCED), Remote(b"old", "e1")) is None


def test_expiry_removes_nothing() -> None:
    step = plan(Known(K, None, CHANGED, SYNCED, expired=True))
    assert (step.value, step.base.local_etag, step.done) == (KEEP, None, True)
    assert plan(Known(K, None, CHANGED, None, expired=True)).base is KEEP
    assert plan(Known(K, None, None, SYNCED, expired=True), THEIRS).value == b"their"


@pytest.mark.parametrize(
    ("base", "remote"),
    [
        (SAVED, Remote(b"mine", "e2")),
        (SYNCED._replace(sent=(b"u" + digest(b"mine"),)), Remote(b"mine", "e2")),
        (SAVED._replace(sent=(b"u" + digest(b"mine"), b"s" + digest(b"x"))), Remote(b"mine", "e2")),
        (Base(sent=(b"c" + digest(b"mine"),)), Remote(b"mine", "e2")),
    ],
)
def test_own_versions_are_known(base: Base, remote: Remote) -> None:
    step = plan(Known(K, MINE, CHANGED, base), remote)
    assert (step.value, step.base.remote_etag, step.base.local_etag, step.done) == (KEEP, "e2", "l2", True)
    newer = plan(Known(K, Item(b"newer", "l3"), CHANGED, base), remote)
    assert (newer.value, newer.etag) == (b"newer", "e2")


def test_own_removal_is_known() -> None:
    base = SYNCED._replace(sent=(b"d" + digest(None),))
    assert plan(Known(K, None, REMOVED, base), ABSENT) == Settlement(
        Known(K, None, REMOVED, base), base=None, done=True
    )
    assert plan(Known(K, MINE, CHANGED, base), ABSENT).etag is None


def test_late_creation_is_taken_back() -> None:
    grave = Base(None, True, None, None, (b"c" + digest(b"mine"),), "1")
    step = plan(Known(K, None, None, grave), Remote(b"mine", "e7"))
    assert isinstance(step, Remove)
    assert step.etag == "e7"
    made = plan(Known(K, None, REMOVED, Base(sent=grave.sent)), ABSENT)
    assert made.base == grave._replace(stamp="4")
    assert plan(Known(K, None, REMOVED, grave._replace(stamp="3")), ABSENT).base.stamp == "4"


def test_old_marks_do_not_count() -> None:
    base = SYNCED._replace(sent=(b"c" + digest(b"their"),))
    assert plan(Known(K, OLD, None, base), THEIRS).value == b"their"


@pytest.mark.parametrize(
    ("conflict", "value", "done", "changed", "losers"),
    [
        ("remote-wins", b"their", True, False, ["local"]),
        ("local-wins", KEEP, False, False, ["remote"]),
        ("last-writer", b"their", True, False, ["local"]),
        ("merge", b"their", True, False, ["local"]),
        ("keep-both", b"their", True, False, ["local"]),
    ],
)
def test_conflicts_are_settled(conflict: Any, value: Any, done: bool, changed: bool, losers: list[str]) -> None:
    step = plan(Known(K, MINE, CHANGED, SYNCED), THEIRS, of=route(conflict))
    assert (step.value, step.done, step.changed) == (value, done, changed)
    assert (step.base.remote_etag, step.guarded) == ("e2", True)
    assert list(step.dispute.losers) == losers
    assert (step.dispute.local, step.dispute.remote, step.dispute.local_stamp) == (b"mine", b"their", "4")
    assert (step.sibling is not None) is (conflict == "keep-both")


def test_merged_value_is_a_change() -> None:
    known = Known(K, Item(b'{"a":1}', "l2"), CHANGED, SYNCED._replace(value=b"{}"))
    step = plan(known, Remote(b'{"b":1}', "e2"), of=route("merge"))
    assert (step.value, step.changed, step.done, step.dispute) == (b'{"b":1,"a":1}', True, False, None)
    assert step.base.value == b'{"b":1}'


def test_sibling_has_its_own_key() -> None:
    assert plan(Known(K, MINE, CHANGED, SYNCED), THEIRS, of=route("keep-both")).sibling == (K + "~9", b"mine")


def test_mirrors_settle_without_sending() -> None:
    step = plan(Known(K, MINE, CHANGED, SYNCED), THEIRS, of=route("local-wins", "down"))
    assert (step.value, step.done, step.changed, step.base.local_etag) == (KEEP, False, False, "l2")
    assert plan(Known(K, MINE, CHANGED, step.base), of=route("local-wins", "down")) is None
    taken = plan(Known(K, MINE, CHANGED, SYNCED), THEIRS, of=route("remote-wins", "down"))
    assert (taken.value, taken.done, taken.changed) == (b"their", True, False)


def test_mirrors_keep_what_was_merged() -> None:
    known = Known(K, Item(b'{"a":1}', "l2"), CHANGED, Base("e1", True, "l1", b"{}", (), "2"))
    step = plan(known, Remote(b'{"b":1}', "e2"), of=route("merge", "down"))
    assert (step.value, step.done, step.changed) == (b'{"b":1,"a":1}', False, True)
    merged = Known(K, Item(b'{"b":1,"a":1}', "l3"), CHANGED, step.base._replace(local_etag="l3"))
    step = plan(merged, Remote(b'{"b":1,"c":1}', "e3"), of=route("merge", "down"))
    assert step.value == b'{"b":1,"c":1,"a":1}'


def test_unscanned_writes_of_others_conflict() -> None:
    step = plan(Known(K, MINE, None, SYNCED), THEIRS, of=route("local-wins"))
    assert (step.changed, step.done) == (True, False)
    assert plan(Known(K, None, None, SYNCED), THEIRS).dispute is not None


def test_equal_changes_agree() -> None:
    step = plan(Known(K, MINE, CHANGED, SYNCED), Remote(b"mine", "e2"))
    assert (step.value, step.done, step.dispute) == (KEEP, True, None)
    assert plan(Known(K, None, REMOVED, SYNCED), ABSENT).base is None


def test_app_is_asked() -> None:
    known = Known(K, MINE, CHANGED, SYNCED)
    assert isinstance(plan(known, THEIRS, of=route("app")), Ask)
    assert plan(known, THEIRS, of=route("app"), answer=Version(b"both")).value == b"both"


def test_refused_change_is_tried_again_after_a_conflict() -> None:
    step = plan(Known(K, MINE, CHANGED._replace(refused="no"), SYNCED), THEIRS, of=route("local-wins"))
    assert step.changed


def test_marks_come_before_requests() -> None:
    save = Save(Known(K, MINE, CHANGED, None), b"mine", None)
    assert marks_before(save) == (b"c" + digest(b"mine"),)
    marked = Base(sent=(b"c" + digest(b"mine"),))
    assert marks_before(save._replace(known=Known(K, MINE, CHANGED, marked))) is None
    many = Base(sent=tuple(bytes([number]) * 17 for number in range(MARKS_MAX)))
    marks = marks_before(Remove(Known(K, None, REMOVED, many), "e"))
    assert marks is not None
    assert (len(marks), marks[0]) == (MARKS_MAX, b"d" + digest(None))
    assert marks_before(Save(Known(K, MINE, CHANGED, None), b"mine", "e")) == (b"u" + digest(b"mine"),)


def test_done_requests_are_settled() -> None:
    marks = (b"u" * 17, b"c" * 17)
    known = Known(K, MINE, CHANGED, SYNCED._replace(sent=marks))
    saved = settle_sent(route("merge"), Save(known, b"mine", "e1"), "9")
    assert saved.base == Base(None, False, "l2", b"mine", (b"s" + digest(b"mine"), b"c" * 17), "4")
    assert (saved.guarded, saved.done) == (False, True)
    removed = settle_sent(route(), Remove(known._replace(change=None), "e1"), "9")
    assert removed.base == Base(None, True, None, None, (b"c" * 17,), "9")
    assert settle_sent(route(), Remove(Known(K, None, REMOVED, SYNCED), "e1"), "9").base is None
    assert settle_refused(Remove(known, "e"), "why").refused == "why"


# --- the agenda -------------------------------------------------------------------------------------------------------


def test_agenda_is_in_order() -> None:
    agenda = Agenda(Backoff(1, 4, 0), 3)
    agenda.offer("abc")
    agenda.offer("b", fetch=True)
    assert (len(agenda), agenda.room) == (3, 0)
    assert agenda.take(0, 2) == {"a": False, "b": True}
    assert agenda.take(0, 2) == {"c": False}


def test_failed_keys_wait_longer() -> None:
    agenda = Agenda(Backoff(1, 4, 0), 3)
    pauses = []
    for _ in range(4):
        agenda.failed("a", 0, 0.5, fetch=True)
        agenda.failed("a", 0, 0.5, fetch=True)  # it waits already
        agenda.offer("a")
        assert agenda.take(0.9, 9) == {}
        due = agenda.next_due()
        assert due is not None
        pauses.append(due)
        assert agenda.take(due, 9) == {"a": True}
    assert pauses == [1, 2, 4, 4]
    agenda.done("a")
    agenda.failed("a", 0, 0.5, fetch=False)
    assert agenda.next_due() == 1
    for key in "bcd":
        agenda.failed(key, 0, 0.5, fetch=False)
    assert agenda.take(9, 9) == {"a": False, "b": False, "c": False}
    assert agenda.next_due() is None
