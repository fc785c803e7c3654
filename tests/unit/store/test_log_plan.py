import pytest

from edge_runtime.store.log_plan import Plan, decode_in_hand, encode_in_hand, redeliver_after_s


def make_plan(offsets: int = 0, *, strict: bool = False, keys: tuple[str | None, ...] = ()) -> Plan:
    plan = Plan(1, strict=strict, in_hand_max=100)
    for offset in range(1, offsets + 1):
        plan.offer(offset, keys[offset - 1] if keys else None)
    return plan


def take_all(plan: Plan, now: float = 0.0) -> list[int]:
    taken = []
    while (offset := plan.take(now)) is not None:
        taken.append(offset)
    return taken


def test_messages_go_out_in_order() -> None:
    assert take_all(make_plan(3)) == [1, 2, 3]


def test_cursor_stays_at_the_first_undone() -> None:
    plan = make_plan(3)
    take_all(plan)
    plan.done(3)
    plan.done(2)
    assert plan.cursor == 1
    plan.done(1)
    assert plan.cursor == 4


def test_a_refused_message_comes_back_when_due() -> None:
    plan = make_plan(2)
    take_all(plan)
    plan.again(1, due=5.0)
    plan.done(2)
    assert plan.next_due() == 5.0
    assert plan.take(4.9) is None
    assert not plan.has_work(4.9)
    assert plan.has_work(5.0)
    assert plan.take(5.0) == 1
    assert plan.in_hand[1] == 2


def test_a_released_message_is_ready_at_once() -> None:
    plan = make_plan(2)
    assert plan.take(0) == 1
    plan.release(1)
    assert take_all(plan) == [1, 2]


def test_strict_holds_back_the_rest() -> None:
    plan = make_plan(1, strict=True)
    assert not plan.room
    assert plan.take(0) == 1
    plan.again(1, due=3.0)
    assert plan.take(2.0) is None
    assert plan.take(3.0) == 1
    plan.done(1)
    assert plan.room


def test_restored_strict_messages_keep_their_order() -> None:
    plan = make_plan(3, strict=True)
    for offset in (1, 2, 3):
        assert take_all(plan) == [offset]
        plan.done(offset)


def test_a_busy_key_holds_only_its_own() -> None:
    plan = make_plan(4, keys=("a", "a", "b", None))
    assert take_all(plan) == [1, 3, 4]
    plan.again(1, due=9.0)
    plan.done(3)
    assert take_all(plan) == []
    assert take_all(plan, 9.0) == [1]
    plan.done(1)
    assert take_all(plan) == [2]


def test_a_full_hand_takes_no_more() -> None:
    plan = Plan(1, strict=False, in_hand_max=1)
    plan.offer(1, None)
    assert not plan.room
    assert plan.take(0) == 1
    plan.done(1)
    assert plan.room


def test_skipping_never_goes_back() -> None:
    plan = make_plan()
    plan.skip_to(7)
    plan.skip_to(3)
    assert plan.next == plan.cursor == 7


def test_what_is_in_hand_survives_writing() -> None:
    pairs = [(3, 0), (4, 7), (90, 1)]
    assert decode_in_hand(encode_in_hand(reversed(pairs), 91), 91) == pairs
    assert encode_in_hand([], 91) is None
    assert decode_in_hand(None, 91) == []


@pytest.mark.parametrize("text", [b"", b"{}", b"[1]", b"[1,-2]", b'["a","b"]', b"[1.5,2]", b"\xff"])
def test_damaged_text_is_an_error(text: bytes) -> None:
    with pytest.raises(ValueError):
        decode_in_hand(text, 10)


def test_pauses_double_up_to_the_most() -> None:
    pauses = [redeliver_after_s(attempt, 1.0, 60.0, 0.5) for attempt in (1, 2, 3, 7, 8, 1000)]
    assert pauses == [1.0, 2.0, 4.0, 60.0, 60.0, 60.0]
    assert redeliver_after_s(1, 1.0, 60.0, 0.0) == pytest.approx(0.8)
    assert redeliver_after_s(1, 1.0, 60.0, 1.0) == pytest.approx(1.2)
