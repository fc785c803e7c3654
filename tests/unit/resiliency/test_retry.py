"""Retry policies decided without a clock."""

from __future__ import annotations

import pytest

from edge_runtime.resiliency.retry import Retry, next_delay_s, worth_another_attempt


def test_constant_delay_stays() -> None:
    retry = Retry(duration_s=2.0)
    assert [next_delay_s(retry, n, 1e6, 0.9) for n in range(3)] == [2.0, 2.0, 2.0]


def test_retries_have_an_end() -> None:
    retry = Retry(duration_s=1.0, retries_max=2)
    assert [next_delay_s(retry, n, 0, 0.5) for n in range(4)] == [1.0, 1.0, None, None]


def test_zero_retries_are_none() -> None:
    assert next_delay_s(Retry(retries_max=0), 0, 0, 0.5) is None


def test_exponential_delay_grows_by_half() -> None:
    retry = Retry("exponential")
    assert [next_delay_s(retry, n, 0, 0.5) for n in range(4)] == [0.5, 0.75, 1.125, 1.6875]


@pytest.mark.parametrize(("chance", "expected"), [(0.0, 0.25), (1.0, 0.75)])
def test_jitter_is_half_either_way(chance: float, expected: float) -> None:
    assert next_delay_s(Retry("exponential"), 0, 0, chance) == expected


def test_interval_has_a_cap() -> None:
    assert next_delay_s(Retry("exponential", interval_max_s=3.0), 5_000, 0, 0.5) == 3.0


def test_elapsed_time_ends_retries() -> None:
    retry = Retry("exponential", elapsed_max_s=10.0)
    assert next_delay_s(retry, 0, 9.5, 0.5) == 0.5
    assert next_delay_s(retry, 0, 9.6, 0.5) is None


@pytest.mark.parametrize(
    ("code", "expected"),
    [(None, True), (429, True), (503, True), (404, False), (14, True), (5, False), (700, True), (-1, True)],
)
def test_codes_choose_their_list(code: int | None, expected: bool) -> None:
    retry = Retry(http_codes=((429, 429), (500, 599)), grpc_codes=((8, 14),))
    assert worth_another_attempt(retry, code) is expected


def test_empty_lists_allow_all_codes() -> None:
    assert worth_another_attempt(Retry(), 404)
    assert worth_another_attempt(Retry(), 5)
