"""State's codecs there and back: exact JSON, save bodies by both readers, sealed values."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.api.http import state_body
from edge_runtime.security.seal import Key, Seal
from edge_runtime.wire.exact_json import NotJson, compact, first_value

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)
ITEMS = st.fixed_dictionaries(
    {"key": TEXTS.filter(bool)},
    optional={
        "value": VALUES,
        "etag": st.none() | TEXTS,
        "metadata": st.none() | st.dictionaries(TEXTS, TEXTS, max_size=3),
        "options": st.none() | st.fixed_dictionaries({}, optional={"concurrency": TEXTS, "consistency": TEXTS}),
        "contentType": st.none() | TEXTS,
    },
)
SEAL = Seal(Key("new", b"n" * 32), Key("old", b"o" * 16))


@given(VALUES, st.sampled_from([None, 1, "\t "]), st.booleans())
def test_compacting_changes_no_value(value: Any, indent: Any, escaped: bool) -> None:
    raw = json.dumps(value, indent=indent, ensure_ascii=escaped).encode()
    compacted = compact(raw)
    assert json.loads(compacted) == value
    assert compact(compacted) == compacted == json.dumps(value, separators=(",", ":"), ensure_ascii=escaped).encode()


@given(st.from_regex(r"\A-?(0|[1-9][0-9]{0,40})(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,5})?\Z"))
def test_numerals_keep_every_character(numeral: str) -> None:
    assert compact(f' [ {numeral} ,{{"n": {numeral}}}]'.encode()) == f'[{numeral},{{"n":{numeral}}}]'.encode()


@given(VALUES, st.binary(max_size=20).filter(lambda tail: not tail[:1].isalnum() and tail[:1] not in b".+-"))
def test_first_value_ends_where_it_ends(value: Any, tail: bytes) -> None:
    raw = json.dumps(value).encode()
    assert first_value(b" " + raw + tail) == raw


@given(st.binary(max_size=40))
def test_any_bytes_are_json_or_refused(data: bytes) -> None:
    try:
        value = first_value(data)
    except NotJson:
        return
    compact(value)


@given(st.lists(ITEMS, max_size=3), st.dictionaries(TEXTS, TEXTS, max_size=2))
def test_both_readers_agree(items: list[dict[str, Any]], metadata: dict[str, str]) -> None:
    body = json.dumps(items).encode()
    plain = state_body.save_items(body, metadata)
    tolerant = state_body.save_items(body + b" tail", metadata)
    assert [item._replace(etag=item.etag or "") for item in plain] == tolerant
    assert [json.loads(item.value) for item in plain] == [item.get("value") for item in items]


@given(st.lists(ITEMS, max_size=3), st.sampled_from(["upsert", "delete", "other"]))
def test_both_readers_agree_on_transactions(items: list[dict[str, Any]], word: str) -> None:
    body = json.dumps({"operations": [{"operation": word, "request": item} for item in items]}).encode()
    plain = [op.item._replace(etag=op.item.etag or "") for op in state_body.transaction(body, {})]
    assert plain == [op.item for op in state_body.transaction(body + b" tail", {})]
    assert len(plain) == len(items)


@given(st.binary(max_size=200))
def test_sealing_loses_nothing(value: bytes) -> None:
    assert SEAL.open(SEAL.seal(value)) == value


@given(st.lists(st.tuples(TEXTS, VALUES), max_size=5))
def test_raw_pieces_join_to_json(pairs: list[tuple[str, Any]]) -> None:
    pieces = {key: msgspec.Raw(compact(json.dumps(value).encode())) for key, value in pairs}
    assert json.loads(msgspec.json.encode(pieces)) == dict(pairs)
