"""Archives of backups: what is written is read, and every change of it is found."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.upkeep.archive import FORMAT, HEAD, MANIFEST, ArchiveWriter, BackupBroken, Head, Member, read_archive

KEY = bytes(range(32))
ABOUT = Head(FORMAT, "0.1.0", 1000.0, "/var/lib/edge-runtime", "", 3000)
CONTENT = {"state/links/cloud.json": b"{}", "state/big": os.urandom(2_500_000), "config/config.yaml": b"a: 1"}


def archive(folder: Path, key: bytes | None = None) -> bytes:
    out = io.BytesIO()
    writer = ArchiveWriter(out, key, ABOUT)
    for name, data in CONTENT.items():
        path = folder / name.replace("/", "-")
        path.write_bytes(data)
        with open(path, "rb") as file:
            writer.add(name, file, len(data), str(path), os.fstat(file.fileno()))
    writer.close()
    return out.getvalue()


def read(data: bytes, key: bytes | None = None) -> tuple[Head, list[Member], dict[str, bytes]]:
    found: dict[str, bytes] = {}

    def take(name: str, pieces: Iterator[bytes]) -> None:
        found[name] = b"".join(pieces)

    return (*read_archive(io.BytesIO(data), key, take), found)


@pytest.mark.parametrize("key", [None, KEY])
def test_what_is_written_is_read(key: bytes | None, tmp_path: Path) -> None:
    head, members, found = read(archive(tmp_path, key), key)
    assert head == ABOUT
    assert found == CONTENT
    assert [(member.name, member.bytes) for member in members] == [(name, len(data)) for name, data in CONTENT.items()]


def test_any_tar_program_reads_it(tmp_path: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(archive(tmp_path))) as tar:
        assert tar.getnames() == [HEAD, *CONTENT, MANIFEST]


def test_a_key_is_asked_for_and_not_taken_in_vain(tmp_path: Path) -> None:
    with pytest.raises(BackupBroken, match="it is sealed; give its key with --seal-key"):
        read(archive(tmp_path, KEY))
    with pytest.raises(BackupBroken, match="it is not sealed"):
        read(archive(tmp_path), KEY)
    with pytest.raises(BackupBroken, match="another key"):
        read(archive(tmp_path, KEY), bytes(32))


@pytest.mark.parametrize("key", [None, KEY])
def test_a_cut_archive_is_found(key: bytes | None, tmp_path: Path) -> None:
    data = archive(tmp_path, key)
    for size in (0, 10, 700, 5000, len(data) // 2, len(data) - 12_000):
        with pytest.raises(BackupBroken):
            read(data[:size], key)


def test_a_changed_byte_is_found(tmp_path: Path) -> None:
    data = archive(tmp_path)
    for at in (data.index(b"{}"), len(data) // 2, data.index(b"a: 1")):
        changed = bytearray(data)
        changed[at] ^= 1
        with pytest.raises(BackupBroken):
            read(bytes(changed))


def rebuilt(data: bytes, change: Callable[[list[tuple[tarfile.TarInfo, bytes]]], Any]) -> bytes:
    """The archive with other members."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        parts = [(info, (tar.extractfile(info) or io.BytesIO()).read()) for info in tar.getmembers()]
    change(parts)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for info, content in parts:
            info.size = len(content) if info.isreg() else 0
            tar.addfile(info, io.BytesIO(content) if info.isreg() else None)
    return out.getvalue()


def named(name: str, content: bytes = b"x") -> tuple[tarfile.TarInfo, bytes]:
    return tarfile.TarInfo(name), content


def link() -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo("state/link")
    info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
    return info, b""


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda parts: parts.pop(1), "is missing"),
        (lambda parts: parts.insert(2, named("state/more")), "is not what was backed up"),
        (lambda parts: parts.insert(2, named("state/../../etc/passwd")), "has no place"),
        (lambda parts: parts.insert(2, named("/etc/passwd")), "has no place"),
        (lambda parts: parts.insert(2, named("etc/passwd")), "has no place"),
        (lambda parts: parts.insert(2, link()), "has no place"),
        (lambda parts: parts.insert(2, parts[1]), "has no place"),
        (lambda parts: parts.append(named("state/after")), "follows its manifest"),
        (lambda parts: parts.pop(), "cut short"),
        (lambda parts: parts.pop(0), "no backup of edge-runtime"),
        (lambda parts: parts.__setitem__(-1, named(MANIFEST, b"{}")), "manifest is damaged"),
        (lambda parts: parts.__setitem__(-1, named(MANIFEST, b"no json")), "says of itself is damaged"),
        (lambda parts: parts.__setitem__(0, named(HEAD, b"{}")), "its format is None"),
        (lambda parts: parts.__setitem__(0, named(HEAD, b'{"format": 1}')), "head is damaged"),
    ],
)
def test_what_does_not_belong_there_is_refused(change: Callable[[Any], Any], text: str, tmp_path: Path) -> None:
    with pytest.raises(BackupBroken, match=text):
        read(rebuilt(archive(tmp_path), change))


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    head = json.dumps({**ABOUT._asdict(), "format": FORMAT + 1}).encode()
    with pytest.raises(BackupBroken, match="knows up to 1; install a newer version"):
        read(rebuilt(archive(tmp_path), lambda parts: parts.__setitem__(0, named(HEAD, head))))


def test_something_else_is_no_backup() -> None:
    for data in (b"", b"hello", os.urandom(20_000), b"\0" * 20_000):
        with pytest.raises(BackupBroken):
            read(data)
