"""How a connection to a store file is opened: URI, pragmas with their reasons, and the first look at the file."""

from __future__ import annotations

import os
import re
import sqlite3
import urllib.parse
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from edge_runtime.model.errors import ConfigError
from edge_runtime.store.faults import damage_error

# How long the trio thread may wait for a lock before the read moves to a thread.
INLINE_BUSY_MS: Final = 20
# The -wal file keeps this much after a checkpoint: rewriting kept space is cheaper than growing the file again, and
# it lets small deletions through when the disk is full.
WAL_KEPT_BYTES: Final = 4 * 1024 * 1024
# Safety net behind the writer's own checkpoints, in pages; see `writer.py`.
AUTO_CHECKPOINT_PAGES: Final = 4000
# SQLite's own URI parameters that are passed on. `cache` is not: sharing a cache locks tables.
_URI_PARAMETERS: Final = frozenset({"mode", "immutable", "vfs", "psow", "nolock", "modeof"})
_FORBIDDEN_PRAGMAS: Final = (
    ("busy_timeout", "set the metadata field busyTimeout instead"),
    ("journal_mode", "set the metadata field disableWAL instead"),
    ("foreign_keys", "it is always on"),
)
_PRAGMA: Final = re.compile(r"([a-z_]+)(?:\(\s*'?([-+\w.]+)'?\s*\)|\s*=\s*'?([-+\w.]+)'?)")


class Location(NamedTuple):
    """Which file, and how. `parameters` are SQLite's own URI parameters, `pragmas` the extra ones that a user named."""

    path: str
    memory: bool = False
    read_only: bool = False
    immutable: bool = False
    wal: bool = True
    parameters: Sequence[tuple[str, str]] = ()
    pragmas: Sequence[tuple[str, str]] = ()
    busy_timeout_s: float = 2.0

    def uri(self, mode: str | None = None) -> str:
        """The URI to connect to; `mode` (ro, rw, rwc) when the user named none."""
        if self.memory:
            return ":memory:"
        parameters = dict(self.parameters)
        if mode is not None:
            parameters.setdefault("mode", mode)
        return f"file:{urllib.parse.quote(self.path)}?{urllib.parse.urlencode(parameters)}"


def parse_connection_string(
    text: str, directory: str = ".", *, wal: bool = True, busy_timeout_s: float = 2.0
) -> Location:
    """A path, a `file:` URI or `:memory:` as Dapr's SQLite components take it. Raises ConfigError.

    `_txlock` is not looked at: every transaction takes the write lock at once.
    """
    path, _, query = text.partition("?") if text.find("?") > 0 else (text, "", "")
    parameters = urllib.parse.parse_qs(query, keep_blank_values=True)
    first = {name: values[0] for name, values in parameters.items()}
    if path.lower().startswith(":memory:") or path.lower().startswith("file::memory:") or first.get("mode") == "memory":
        return Location(":memory:", memory=True, wal=False)
    if path.lower().startswith("file:"):
        path = _path_of_uri(path)
    if not path:
        raise ConfigError(f"connection string {text!r} names no file; expected a path, a file: URI or :memory:")
    read_only = first.get("mode") == "ro" or first.get("immutable") == "1"
    return Location(
        os.path.realpath(os.path.join(directory, path)),
        read_only=read_only,
        wal=wal and not read_only,
        parameters=tuple((name, value) for name, value in first.items() if name in _URI_PARAMETERS),
        pragmas=tuple(_pragma(item) for item in parameters.get("_pragma", ())),
        busy_timeout_s=busy_timeout_s,
    )


def _path_of_uri(uri: str) -> str:
    path = uri[len("file:") :].partition("#")[0]
    if path.startswith("//"):  # file:///path, or file://localhost/path
        host, slash, rest = path[2:].partition("/")
        if host not in ("", "localhost"):
            raise ConfigError(
                f"connection string {uri!r} names the host {host!r}; a store file must be on this machine"
            )
        path = slash + rest
    return urllib.parse.unquote(path)


def _pragma(text: str) -> tuple[str, str]:
    """`name(value)` or `name=value`."""
    lower = text.lower()
    for name, instead in _FORBIDDEN_PRAGMAS:
        if lower.startswith(name):
            raise ConfigError(f"found forbidden option '_pragma={name}' in the connection string; {instead}")
    match = _PRAGMA.fullmatch(lower.strip())
    if match is None:
        raise ConfigError(f"connection string: _pragma={text!r}; expected a form such as cache_size(-2000)")
    return match[1], match[2] if match[2] is not None else match[3]


class StoreConnection(sqlite3.Connection):
    """SQLite quotes a damaged schema in its error, and Python raises another one when that quotation is no text."""

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        try:
            return super().execute(sql, parameters)
        except UnicodeDecodeError as error:
            raise damage_error("the schema holds what is no text") from error


def location(path: str, **settings: object) -> Location:
    """A file by its plain path, or `:memory:`."""
    if path == ":memory:":
        return Location(path, memory=True, wal=False)
    return Location(os.path.realpath(path), **settings)  # type: ignore[arg-type]


def open_writer(where: Location) -> sqlite3.Connection:
    """The connection that writes. Creates the file; raises sqlite3.Error."""
    connection = _connect(where, "rwc")
    try:
        _set_writer_pragmas(connection, where)
        if where.wal:
            connection.execute("PRAGMA busy_timeout = 0")  # the writer waits for the lock itself; see `Writer._begin`
    except BaseException:
        connection.close()
        raise
    return connection


def open_reader(where: Location, *, busy_ms: int) -> sqlite3.Connection:
    """A connection that can only read, and sees each commit of every process at once."""
    connection = _connect(where, "rw")
    try:
        connection.execute(f"PRAGMA busy_timeout = {busy_ms}")
        connection.execute("PRAGMA query_only = ON")
        _set_common_pragmas(connection, where)
    except BaseException:
        connection.close()
        raise
    return connection


def verify(connection: sqlite3.Connection, *, whole: bool) -> None:
    """Raise sqlite3.DatabaseError when the file is damaged; `whole` reads every page, else the schema alone."""
    connection.execute("SELECT count(*) FROM sqlite_master").fetchall()
    if not whole:
        return
    findings = connection.execute("PRAGMA quick_check(1)").fetchall()
    if findings != [("ok",)]:
        raise damage_error(str(findings[0][0]) if findings else "quick_check gave no answer")


def _connect(where: Location, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(
        where.uri(None if where.read_only else mode),
        uri=True,
        timeout=0,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=64,
        factory=StoreConnection,
    )


def _set_common_pragmas(connection: sqlite3.Connection, where: Location) -> None:
    # 1 MB a connection at most, filled as pages are used. No mmap: with it a failing medium is SIGBUS, not an error.
    connection.execute("PRAGMA cache_size = -1024")
    connection.execute("PRAGMA mmap_size = 0")
    connection.execute("PRAGMA foreign_keys = ON")
    for name, value in where.pragmas:
        connection.execute(f"PRAGMA {name} = {value}")


def _set_writer_pragmas(connection: sqlite3.Connection, where: Location) -> None:
    connection.execute(f"PRAGMA busy_timeout = {round(where.busy_timeout_s * 1000)}")
    if where.read_only:
        _set_common_pragmas(connection, where)
        return
    if not where.memory:
        # Both count only while the file is still empty. Incremental: freed pages can be given back when idle.
        connection.execute("PRAGMA page_size = 4096")
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL" if where.wal else "PRAGMA journal_mode = DELETE")
        # FULL: the -wal file is flushed on each commit, so an answered write survives a power cut.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {AUTO_CHECKPOINT_PAGES}")
        connection.execute(f"PRAGMA journal_size_limit = {WAL_KEPT_BYTES}")
    _set_common_pragmas(connection, where)
