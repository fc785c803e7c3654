from __future__ import annotations

import array
import io
import logging
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_runtime.observability.journal import JournalHandler, encode
from edge_runtime.observability.log import TextFormat, current_app, is_journal


def decode(data: bytes) -> dict[str, str]:
    """An entry as journald reads it."""
    fields: dict[str, str] = {}
    while data:
        line, _, rest = data.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if equals:
            fields[name.decode()], data = value.decode(), rest
        else:
            (size,) = struct.unpack_from("<Q", rest)
            fields[name.decode()] = rest[8 : 8 + size].decode()
            assert rest[8 + size : 9 + size] == b"\n"
            data = rest[9 + size :]
    return fields


class Journal:
    """The other end, and a logger that speaks to it; `stream` is what is written where it does not listen."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(5)
        self.stream = io.StringIO()
        self.handler = JournalHandler(self.stream, TextFormat("1.0"), "1.0", str(path))
        self.logger = logging.Logger("dapr.runtime")
        self.logger.addHandler(self.handler)

    def entry(self) -> dict[str, str]:
        data, rights, _, _ = self.socket.recvmsg(65536 * 4, socket.CMSG_SPACE(4))
        if data or not rights:
            return decode(data)
        (fd,) = array.array("i", rights[0][2])
        with os.fdopen(fd, "rb") as file:
            file.seek(0)
            with pytest.raises(PermissionError):
                os.ftruncate(fd, 0)  # sealed: journald does not take it otherwise
            return decode(file.read())


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = Journal(tmp_path / "journal")
    yield opened
    opened.handler.close()
    opened.socket.close()


def test_entry_has_its_fields(journal: Journal) -> None:
    token = current_app.set("orders")
    journal.logger.warning("disk at %d %%", 91, extra={"fields": {"route": "hq", "_odd-name": 1}})
    current_app.reset(token)
    entry = journal.entry()
    assert entry["MESSAGE"] == "disk at 91 %"
    assert (entry["PRIORITY"], entry["APP_ID"], entry["SCOPE"]) == ("4", "orders", "dapr.runtime")
    assert (entry["ROUTE"], entry["ODD_NAME"], entry["SYSLOG_IDENTIFIER"]) == ("hq", "1", "edge-runtime")
    assert entry["INSTANCE"] == socket.gethostname()
    assert journal.stream.getvalue() == ""


@pytest.mark.parametrize(("level", "priority"), [("debug", "7"), ("info", "6"), ("error", "3"), ("critical", "2")])
def test_levels_are_priorities(journal: Journal, level: str, priority: str) -> None:
    getattr(journal.logger, level)("x")
    assert journal.entry()["PRIORITY"] == priority


def test_lines_stay_one_entry(journal: Journal) -> None:
    journal.logger.info("one\ntwo=2\n\nthree")
    assert journal.entry()["MESSAGE"] == "one\ntwo=2\n\nthree"


def test_big_entry_goes_as_a_file(journal: Journal) -> None:
    journal.handler._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    journal.logger.info("x" * 16_000)
    assert journal.entry()["MESSAGE"] == "x" * 16_000


def test_absent_journal_gets_lines_with_priorities(journal: Journal) -> None:
    journal.path.unlink()
    journal.logger.error("no journal")
    assert journal.stream.getvalue().startswith('<3>time="')
    assert 'msg="no journal"' in journal.stream.getvalue()


def test_full_journal_is_not_waited_for_again(journal: Journal) -> None:
    journal.handler._socket.settimeout(0)
    said = 0
    while not journal.stream.getvalue():
        journal.logger.info("more")
        said += 1
    for _ in range(said - 1):
        journal.entry()
    journal.logger.info("taken again")
    assert journal.entry()["MESSAGE"] == "taken again"
    assert journal.handler._socket.gettimeout() == 0.2


def test_taps_hear_lines(journal: Journal) -> None:
    heard: list[tuple[str, str]] = []
    journal.handler.taps.append(lambda app_id, line: heard.append((app_id, line)))
    journal.logger.info("hello")
    assert "msg=hello" in heard[0][1]


def test_half_a_surrogate_pair_does_no_harm() -> None:
    assert encode({"MESSAGE": "a\ud800"}) == b"MESSAGE=a\\ud800\n"


def test_journal_is_known_by_its_inode(tmp_path: Path) -> None:
    with open(tmp_path / "out", "w") as stream:
        facts = os.fstat(stream.fileno())
        assert is_journal(stream, {"JOURNAL_STREAM": f"{facts.st_dev}:{facts.st_ino}"})
        assert not is_journal(stream, {"JOURNAL_STREAM": f"{facts.st_dev}:{facts.st_ino + 1}"})
        assert not is_journal(stream, {})
    assert not is_journal(stream, {"JOURNAL_STREAM": "1:2"})
    assert not is_journal(io.StringIO(), {"JOURNAL_STREAM": "1:2"})
