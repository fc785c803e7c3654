"""Three-way merging, what counts as the same value, and the table of policies."""

from __future__ import annotations

import json
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from edge_runtime.sync.merge import (
    POLICIES,
    Conflict,
    Decision,
    Number,
    Version,
    canonical,
    decide,
    digest,
    merge,
    parse,
    render,
    same,
)

NAMES = st.sampled_from(["a", "b", "c~/d", ""])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
TREES = st.recursive(
    SCALARS, lambda inside: st.lists(inside, max_size=3) | st.dictionaries(NAMES, inside, max_size=4), max_leaves=8
)
VALUES = st.none() | TREES.map(lambda tree: json.dumps(tree).encode()) | st.binary(max_size=4)


def js(value: Any) -> bytes | None:
    return None if value is None else json.dumps(value).encode()


@pytest.mark.parametrize(
    ("base", "local", "remote", "merged", "paths"),
    [
        ({"a": 1}, {"a": 2}, {"a": 1, "b": 3}, {"a": 2, "b": 3}, ()),
        ({"a": 1, "b": 2}, {"b": 2}, {"a": 1, "b": 3}, {"b": 3}, ()),
        ({"a": 1, "b": 2}, {"a": 1}, {"b": 2}, {}, ()),
        ({"a": 1}, {}, {"a": 2}, {"a": 2}, ("/a",)),
        ({"a": 1}, {"a": 2}, {}, {"a": 2}, ("/a",)),
        ({"a": 1}, {"a": 2}, {"a": 3}, {"a": 3}, ("/a",)),
        ({"a": 1}, {"a": 2}, {"a": 2.0}, {"a": 2.0}, ()),
        ({"a": {"b": 1}}, {"a": [1]}, {"a": {"b": 2}}, {"a": {"b": 2}}, ("/a",)),
        ({"a": 1}, {"a": {"x": 1}}, {"a": {"y": 2}}, {"a": {"y": 2, "x": 1}}, ()),
        ({"l": [1]}, {"l": [1, 2]}, {"l": [1, 3]}, {"l": [1, 3, 2]}, ()),
        ({"l": [1]}, {"l": [2]}, {"l": [1, 3]}, {"l": [1, 3]}, ("/l",)),
        ([1], [1, 2], [1, 3], [1, 3, 2], ()),
        (None, {"a": 1}, {"b": 2}, {"b": 2, "a": 1}, ()),
        (None, [1], [2], [2], ("",)),
        ({"a": 1}, None, {"a": 2}, {"a": 2}, ("",)),
        ({"a": 1}, {"a": 2}, None, {"a": 2}, ("",)),
        ({"a": 1}, None, {"a": 1}, None, ()),
        ({"a": True}, {"a": 1}, {"a": True}, {"a": 1}, ()),
        ({"a/b~c": 1}, {"a/b~c": 2}, {"a/b~c": 3}, {"a/b~c": 3}, ("/a~1b~0c",)),
    ],
)
def test_changes_are_put_together(base: Any, local: Any, remote: Any, merged: Any, paths: tuple[str, ...]) -> None:
    result = merge(js(base), js(local), js(remote))
    assert (None if result.value is None else json.loads(result.value)) == merged
    assert result.paths == paths
    assert bool(result.losers) is bool(paths)


def test_losing_side_is_named() -> None:
    assert merge(b'{"a":1}', b'{"a":2}', b'{"a":3}').losers == ("local",)
    assert merge(b'{"a":1}', b'{"a":2}', b"{}").losers == ("remote",)
    assert merge(b'{"a":1,"b":1}', b'{"a":2,"b":2}', b'{"b":3}').losers == ("local", "remote")


def test_numbers_keep_their_digits() -> None:
    big = b'{"n":12345678901234567890.10,"e":1e400,"m":1}'
    assert merge(big, big.replace(b'"m":1', b'"m":2'), big[:-1] + b',"x":0.10}').value == (
        b'{"n":12345678901234567890.10,"e":1e400,"m":2,"x":0.10}'
    )


def test_untouched_side_keeps_its_bytes() -> None:
    assert merge(b"[1]", b"[ 1 ]", b"[ 2]").value == b"[ 2]"
    assert merge(b"[1]", b"[ 2]", b"[ 1 ]").value == b"[ 2]"


@pytest.mark.parametrize(
    ("base", "local", "remote", "value", "losers"),
    [
        (b"\xff", b"\xfe", b"\xff", b"\xfe", ()),
        (b"\xff", b"\xff", b"\xfe", b"\xfe", ()),
        (b"\xff", b"\xfe", b"\xfe", b"\xfe", ()),
        (b"\xff", b"\xfe", b"\xfd", b"\xfd", ("local",)),
        (b"\xff", b"\xfe", None, b"\xfe", ("remote",)),
        (b"\xff", None, b"\xfd", b"\xfd", ("local",)),
        (b"{}", b"NaN", b'{"a":1}', b'{"a":1}', ("local",)),
    ],
)
def test_other_bytes_are_whole(base: Any, local: Any, remote: Any, value: Any, losers: Any) -> None:
    merged = merge(base, local, remote)
    assert (merged.value, merged.losers, merged.paths) == (value, losers, ("",) if losers else ())


def test_deep_nesting_is_opaque() -> None:
    deep = b"[" * 100_000 + b"]" * 100_000
    assert merge(b"1", deep, b"2").value == b"2"
    assert canonical(deep) == deep


@given(VALUES, VALUES, VALUES)
def test_merging_obeys_laws(base: Any, local: Any, remote: Any) -> None:
    assert same(merge(base, local, local).value, local)
    assert same(merge(base, base, remote).value, remote)
    assert same(merge(base, local, base).value, local)
    one, other = merge(base, local, remote), merge(base, remote, local)
    assert sorted(one.paths) == sorted(other.paths)
    assert merge(base, local, remote) == one
    if not one.losers:
        assert same(merge(base, one.value, remote).value, one.value) or b"[" in (one.value or b"")


@given(TREES)
def test_spelling_does_not_matter(tree: Any) -> None:
    plain, other = json.dumps(tree).encode(), json.dumps(tree, indent=1, ensure_ascii=False)
    assert canonical(render(parse(plain))) == canonical(plain)
    try:
        assert same(plain, other.encode())
    except UnicodeEncodeError:
        assert canonical(plain)
    assert digest(plain) == digest(render(parse(plain)))


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        (b"1", b"1.0", True),
        (b"100", b"1e2", True),
        (b"-0.0", b"0", True),
        (b"1e99999999999999999999", b"1e99999999999999999999", True),
        (b"1e99999999999999999999", b"1e99999999999999999998", False),
        (b'{"a":1,"b":2}', b'{"b":2, "a":1}', True),
        (b'"\\u003c"', b'"<"', True),
        (b"9007199254740993", b"9007199254740992", False),
        (b"true", b"1", False),
        (None, b"null", False),
        (None, None, True),
        (b"x", b"y", False),
    ],
)
def test_sameness_is_by_value(one: bytes | None, other: bytes | None, equal: bool) -> None:
    assert same(one, other) is equal
    assert (digest(one) == digest(other)) is equal


def test_half_surrogates_are_escaped() -> None:
    assert render(parse(b'{"\\ud800":"\xc3\xa4"}')) == b'{"\\ud800":"\\u00e4"}'


def test_numbers_hash_by_value() -> None:
    assert len({Number("1"), Number("1.0"), Number("2")}) == 2
    assert Number("1") != 1


def conflict(local: Any, remote: Any, base: Any = None, stamps: tuple[Any, Any] = ("1", "2")) -> Conflict:
    return Conflict("k", base, Version(local, stamps[0]), Version(remote, stamps[1]))


@pytest.mark.parametrize(
    ("policy", "case", "value", "losers"),
    [
        ("remote-wins", conflict(b"1", b"2"), b"2", ("local",)),
        ("remote-wins", conflict(b"1", None), None, ("local",)),
        ("local-wins", conflict(b"1", b"2"), b"1", ("remote",)),
        ("local-wins", conflict(None, b"2"), None, ("remote",)),
        ("last-writer", conflict(b"1", b"2"), b"2", ("local",)),
        ("last-writer", conflict(b"1", b"2", None, ("3", "2")), b"1", ("remote",)),
        ("last-writer", conflict(b"1", b"2", None, ("3", None)), b"2", ("local",)),
        ("last-writer", conflict(b"1", b"2", None, (None, "1")), b"2", ("local",)),
        ("merge", conflict(b'{"a":1}', b'{"b":1}'), b'{"b":1,"a":1}', ()),
        ("merge", conflict(b"1", b"2", b"0"), b"2", ("local",)),
        ("merge", conflict(None, b"2"), b"2", ("local",)),
        ("merge", conflict(b"1", None, b"0"), b"1", ("remote",)),
        ("keep-both", conflict(b"1", b"2"), b"2", ("local",)),
        ("keep-both", conflict(None, b"2"), b"2", ("local",)),
        ("keep-both", conflict(b"1", None), b"1", ("remote",)),
    ],
)
def test_policies_decide(policy: Any, case: Conflict, value: Any, losers: Any) -> None:
    decision = decide(policy, case)
    assert decision is not None
    assert (decision.value, decision.losers) == (value, losers)
    assert decision.outcome


def test_keep_both_gives_a_sibling() -> None:
    assert POLICIES["keep-both"](conflict(b"1", b"2")).sibling == b"1"
    assert POLICIES["keep-both"](conflict(None, b"2")).sibling is None


def test_app_is_asked_first() -> None:
    assert decide("app", conflict(b"1", b"2")) is None
    answered = [decide("app", conflict(b"1", b"2"), Version(value)) for value in (b"1", b"2", b"3")]
    assert [answer and answer.losers for answer in answered] == [("remote",), ("local",), ("local", "remote")]
    assert isinstance(answered[0], Decision)
