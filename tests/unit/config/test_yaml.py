"""YAML text as a tree with lines."""

from __future__ import annotations

import math
from typing import Any

import pytest

from edge_runtime.config.yaml import (
    Chunk,
    Scalar,
    Table,
    YamlError,
    parse_document,
    plain_value,
    resolve,
    split_documents,
    value_text,
)


def tree(text: str) -> Any:
    return plain_value(parse_document(Chunk(text.encode(), 1), "f.yaml").root)


SCALARS = [
    ("yes", True),
    ("On", True),
    ("y", True),
    ("no", False),
    ("OFF", False),
    ("true", True),
    ("null", None),
    ("~", None),
    ("10", 10),
    ("-7", -7),
    ("1_000", 1000),
    ("0x1F", 31),
    ("0b101", 5),
    ("0o17", 15),
    ("017", 15),
    ("089", 89.0),
    ("1.5", 1.5),
    ("1e3", 1000.0),
    (".5", 0.5),
    (".inf", math.inf),
    ("-.inf", -math.inf),
    ("2001-12-14", "2001-12-14"),
    ("1:30", "1:30"),
    ("'yes'", "yes"),
    ('"10"', "10"),
    ("!!str 10", "10"),
    ("!!int '10'", 10),
    ("!!binary aGk=", "hi"),
    ("hello world", "hello world"),
    ("9" * 101, "9" * 101),
    ("123456789012345678901234567890", 123456789012345678901234567890),
]


@pytest.mark.parametrize(("text", "value"), SCALARS, ids=[text for text, _ in SCALARS])
def test_scalars_resolve_as_in_go(text: str, value: object) -> None:
    found = tree(f"a: {text}")["a"]
    assert found == value
    assert type(found) is type(value)


def test_nan_is_read() -> None:
    assert math.isnan(tree("a: .nan")["a"])


VALUES = [
    ("text", "text"),
    ("10", "10"),
    ("true", "true"),
    ("yes", "true"),
    ("'yes'", "yes"),
    ("1.50", "1.5"),
    ("2.0", "2"),
    ("null", ""),
    ("{b: 1, a: [x, 2.0, null, no]}", '{"a":["x",2,null,false],"b":1}'),
    ("[]", "[]"),
    ("{a: é}", '{"a":"é"}'),
    ("[.inf]", '["+Inf"]'),
    (".inf", "+Inf"),
    ("-.inf", "-Inf"),
    (".nan", "NaN"),
    ("12345678901234567890", "12345678901234567890"),
]


@pytest.mark.parametrize(("text", "value"), VALUES, ids=[text for text, _ in VALUES])
def test_values_become_text(text: str, value: str) -> None:
    root = parse_document(Chunk(f"a: {text}".encode(), 1), "f.yaml").root
    assert isinstance(root, Table)
    assert value_text(root.pairs["a"]) == value


def test_documents_are_cut_at_dashes() -> None:
    data = b"a: 1\n--- rest of line\nb: 2\n---\n---\nc: 3\n"
    assert list(split_documents(data)) == [
        Chunk(b"a: 1", 1),
        Chunk(b"b: 2", 3),
        Chunk(b"", 5),
        Chunk(b"c: 3\n", 6),
    ]


def test_trailing_separator_ends_the_file() -> None:
    assert list(split_documents(b"a: 1\n---")) == [Chunk(b"a: 1", 1)]


def test_lines_count_from_the_file() -> None:
    root = parse_document(Chunk(b"a: 1\nb:\n  c: 2\n", 10), "f.yaml").root
    assert isinstance(root, Table)
    inner = root.pairs["b"]
    assert isinstance(inner, Table)
    assert (inner.pairs["c"].file, inner.pairs["c"].line) == ("f.yaml", 12)


def test_aliases_and_merges_are_filled_in() -> None:
    text = "base: &base {a: 1, b: 2}\nmore: &more {c: 3}\nuse: {<<: [*base, *more], b: 9}\nsame: *base\n"
    found = tree(text)
    assert found["use"] == {"a": 1, "b": 9, "c": 3}
    assert found["same"] == {"a": 1, "b": 2}


def test_alias_may_be_a_key() -> None:
    assert tree("a: &k name\n*k : 1") == {"a": "name", "name": 1}


def test_alias_of_a_list_is_no_key() -> None:
    with pytest.raises(YamlError, match="key must be a text"):
        tree("a: &k [1]\n*k : 1")


def test_last_of_two_keys_counts() -> None:
    document = parse_document(Chunk(b"a: 1\na: 2\n", 1), "f.yaml")
    assert plain_value(document.root) == {"a": 2}
    assert document.notes == ["f.yaml:2: 'a' is given twice (first on line 1); the last one counts"]


def test_only_the_first_document_is_parsed() -> None:
    assert tree("a: 1\n...\n{broken") == {"a": 1}


def test_plain_text_keeps_its_writing() -> None:
    scalar = Scalar("f", 1, "0x10", True)
    assert (scalar.text, resolve(scalar)) == ("0x10", 16)
