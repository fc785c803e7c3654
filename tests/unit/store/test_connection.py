"""Connection strings as Dapr's SQLite components take them."""

import os
import pathlib

import pytest

from edge_runtime.model.errors import ConfigError
from edge_runtime.store.connection import Location, parse_connection_string


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("data.db", "/base/data.db"),
        ("./sub/data.db", "/base/sub/data.db"),
        ("/abs/data.db", "/abs/data.db"),
        ("file:data.db", "/base/data.db"),
        ("FILE:data.db?_txlock=deferred", "/base/data.db"),
        ("file:/abs/data.db", "/abs/data.db"),
        ("file:///abs/my%20data.db", "/abs/my data.db"),
        ("file://localhost/abs/data.db#part", "/abs/data.db"),
        ("data.db?_pragma=cache_size(-1)", "/base/data.db"),
        ("100%25.db", "/base/100%25.db"),
    ],
)
def test_paths_are_found(text: str, path: str) -> None:
    found = parse_connection_string(text, "/base")
    assert found.path == os.path.realpath(path)
    assert found.wal
    assert not found.read_only


@pytest.mark.parametrize("text", [":memory:", ":MEMORY:", "file::memory:?cache=shared", "file:x?mode=memory"])
def test_memory_is_recognised(text: str) -> None:
    assert parse_connection_string(text) == Location(":memory:", memory=True, wal=False)


@pytest.mark.parametrize("text", ["file:a.db?mode=ro", "a.db?immutable=1"])
def test_read_only_has_no_wal(text: str) -> None:
    found = parse_connection_string(text)
    assert found.read_only
    assert not found.wal


def test_same_file_has_one_path(tmp_path: pathlib.Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    first = parse_connection_string("link/a.db", str(tmp_path))
    assert first == parse_connection_string(f"file:{tmp_path}/a.db")


def test_pragmas_are_passed_on() -> None:
    found = parse_connection_string("a.db?_pragma=cache_size(-50)&_pragma=temp_store=memory&psow=1&cache=shared")
    assert found.pragmas == (("cache_size", "-50"), ("temp_store", "memory"))
    assert found.parameters == (("psow", "1"),)


@pytest.mark.parametrize("pragma", ["busy_timeout(1)", "journal_mode=off", "foreign_keys(0)", "JOURNAL_MODE(wal)"])
def test_some_pragmas_are_forbidden(pragma: str) -> None:
    with pytest.raises(ConfigError, match=r"found forbidden option '_pragma=\w+' in the connection string"):
        parse_connection_string(f"a.db?_pragma={pragma}")


@pytest.mark.parametrize("text", ["a.db?_pragma=x;drop", "file:", "file://elsewhere/a.db", "a.db?_pragma=x('1')y"])
def test_nonsense_is_told(text: str) -> None:
    with pytest.raises(ConfigError, match="connection string"):
        parse_connection_string(text)
