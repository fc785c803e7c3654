from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.config.values import (
    duration_s,
    format_go_duration,
    go_bool,
    go_duration_s,
    nearest,
    quantity_bytes,
    truthy,
)


@pytest.mark.parametrize("text", ["y", "YES", " true ", "t", "On", "1"])
def test_loose_booleans_are_true(text: str) -> None:
    assert truthy(text)


@pytest.mark.parametrize("text", ["", "0", "no", "2", "enabled"])
def test_everything_else_is_false(text: str) -> None:
    assert not truthy(text)


def test_strict_booleans_refuse_others() -> None:
    assert go_bool("T") is True
    assert go_bool("FALSE") is False
    with pytest.raises(ValueError, match="yes"):
        go_bool("yes")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("300ms", 0.3), ("1h30m", 5400), ("-1.5s", -1.5), ("0", 0), ("+2us", 2e-6), (".5m", 30), ("1h2m3s4ms", 3723.004)],
)
def test_go_durations_are_seconds(text: str, seconds: float) -> None:
    assert go_duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "s", "1d", "1 s", "--1s", "1s2"])
def test_no_duration_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        go_duration_s(text)


def test_bare_integers_have_a_unit() -> None:
    assert duration_s("20") == 20
    assert duration_s("20", plain_unit_s=0.001) == pytest.approx(0.02)
    assert duration_s(" 5s ") == 5


@pytest.mark.parametrize(
    ("text", "size"),
    [("4Mi", 4 * 2**20), ("16Ki", 16384), ("1G", 10**9), ("-1", -1), ("1.5Ki", 1536), ("1e3", 1000), ("500m", 1)],
)
def test_quantities_are_bytes(text: str, size: int) -> None:
    assert quantity_bytes(text) == size


@pytest.mark.parametrize("text", ["", "4MB", "Mi", "1 Ki", "0x10"])
def test_no_quantity_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="size"):
        quantity_bytes(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (5, "5s"), (0.5, "500ms"), (90, "1m30s"), (5400, "1h30m0s"), (1.5, "1.5s"), (1e-6, "1µs"), (-2, "-2s")],
)
def test_durations_print_as_go_does(seconds: float, text: str) -> None:
    assert format_go_duration(seconds) == text


@given(st.integers(0, 10**15))
def test_durations_survive_the_round_trip(microseconds: int) -> None:
    assert go_duration_s(format_go_duration(microseconds / 1e6)) == pytest.approx(microseconds / 1e6)


def test_the_nearest_name_is_offered() -> None:
    assert nearest("app-prot", ["app-port", "app-id"]) == ' (did you mean "app-port"?)'
    assert nearest("zzz", ["app-port"]) == ""


@pytest.mark.parametrize("read", [go_duration_s, duration_s, quantity_bytes])
@pytest.mark.parametrize(
    "text", ["1" * 200_000 + "x", "1" * 200_000 + ".", "." + "1" * 200_000 + "x", "1s" * 100_000 + "x"]
)
def test_long_nonsense_is_refused_at_once(read: Callable[[str], float], text: str) -> None:
    """A pattern that tries every split of the digits would not come back from this within the suite's limit."""
    with pytest.raises(ValueError):
        read(text)
