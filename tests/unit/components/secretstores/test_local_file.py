"""A JSON file as a secret store: how its shape becomes names, and which files are refused."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from edge_runtime.components.secretstores.local_file import FILE_BYTES_MAX, open_local_file, read_secrets
from edge_runtime.model.errors import ConfigError
from tests.conformance.test_secretstores import context

NESTED = """
{
  "plain": "text",
  "redis": {"host": "h", "auth": {"password": "p", "list": ["a", {"b": "c"}]}},
  "port": 6379,
  "exact": 12345678901234567890.10,
  "on": true,
  "off": false,
  "nothing": null,
  "many": ["x", "y"],
  "hollow": {}
}
"""
FLAT = {
    "plain": "text",
    "redis:host": "h",
    "redis:auth:password": "p",
    "redis:auth:list:0": "a",
    "redis:auth:list:1:b": "c",
    "port": "6379",
    "exact": "12345678901234567890.10",
    "on": "true",
    "off": "false",
    "nothing": "",
    "many:0": "x",
    "many:1": "y",
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    written = tmp_path / "s.json"
    written.write_text(NESTED)
    return written


def test_nested_leaves_have_their_path(path: Path) -> None:
    found = read_secrets(str(path), ":", multi_valued=False)
    assert found == {name: {name: value} for name, value in FLAT.items()}


def test_separator_is_what_was_asked(path: Path) -> None:
    assert "redis--auth--list--0" in read_secrets(str(path), "--", multi_valued=False)


def test_multi_valued_objects_are_one_secret(path: Path) -> None:
    assert read_secrets(str(path), ":", multi_valued=True) == {
        "plain": {"plain": "text"},
        "redis": {"host": "h", "auth:password": "p", "auth:list:0": "a", "auth:list:1:b": "c"},
        "port": {"port": "6379"},
        "exact": {"exact": "12345678901234567890.10"},
        "on": {"on": "true"},
        "off": {"off": "false"},
        "hollow": {},
    }


def test_doubled_names_are_warned_about(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.write_text('{"a:b": "first", "a": {"b": "second"}}')
    with caplog.at_level(logging.WARNING, "dapr.contrib"):
        assert read_secrets(str(path), ":", multi_valued=False) == {"a:b": {"a:b": "second"}}
    assert "'a:b' is there twice" in caplog.text


REFUSED = [
    (b"", "s.json:1: no valid JSON"),
    (b'{\n"a": }', "s.json:2: no valid JSON"),
    (b"[]", "expected a JSON object"),
    (b'"text"', "expected a JSON object"),
    (b'{"a": NaN}', "NaN is no JSON number"),
    (b'{"a": "\xff"}', "is no UTF-8 text"),
    (b'{"a":' * 100_000, "nested too deeply"),
    (b'{"a":' + b"[" * 900 + b"]" * 900 + b"}", ""),
    (b" " * (FILE_BYTES_MAX + 1), "is larger than"),
]


@pytest.mark.parametrize(("data", "problem"), REFUSED, ids=[problem or "deep" for _, problem in REFUSED])
def test_unusable_files_are_named(path: Path, data: bytes, problem: str) -> None:
    path.write_bytes(data)
    if not problem:
        assert read_secrets(str(path), ":", multi_valued=False) == {}
        return
    with pytest.raises(ConfigError) as raised:
        read_secrets(str(path), ":", multi_valued=False)
    assert problem in str(raised.value)
    assert str(path) in str(raised.value)


def test_byte_order_mark_is_taken(path: Path) -> None:
    path.write_bytes(b'\xef\xbb\xbf{"a": "b"}')
    assert read_secrets(str(path), ":", multi_valued=False) == {"a": {"a": "b"}}


async def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"secretsFile .*none.json: cannot be read: No such file"):
        async with open_local_file(context("local.file", tmp_path, {"secretsFile": "none.json"})):
            pass


async def test_file_must_be_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "dapr.contrib"):
        with pytest.raises(ConfigError, match="component 'vault': metadata 'secretsFile' is required"):
            async with open_local_file(context("local.file", tmp_path, {"secretFile": "s.json"})):
                pass
    assert 'did you mean "secretsFile"?' in caplog.text


async def test_file_is_read_once(path: Path) -> None:
    async with open_local_file(context("local.file", path.parent, {"secretsFile": str(path)})) as store:
        os.unlink(path)
        assert await store.get("plain", {}) == {"plain": "text"}
