"""`bindings.localstorage`: what is written, what is read, and that nothing leads out of the root."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest
import trio

from edge_runtime.components.bindings import localstorage
from edge_runtime.components.bindings.localstorage import FileMissing, LocalStorage, open_localstorage_binding
from edge_runtime.components.registry import ComponentContext
from edge_runtime.model.errors import BadMetadata, ConfigError, DriverError
from edge_runtime.model.ports import BindingResponse
from edge_runtime.store.database import Databases


def context(directory: Path, root: str) -> ComponentContext:
    databases = cast(Databases, None)
    metadata = {"rootPath": root}
    return ComponentContext("f", "bindings.localstorage", "v1", metadata, "app", "", databases, "", str(directory))


@pytest.fixture
async def files(tmp_path: Path) -> AsyncIterator[LocalStorage]:
    async with open_localstorage_binding(context(tmp_path, "root/deep")) as binding:
        yield binding


async def invoke(files: LocalStorage, operation: str, name: str = "", data: bytes = b"") -> BindingResponse:
    return await files.invoke(operation, data, {"fileName": name} if name else {})


@pytest.mark.parametrize(
    ("data", "written"),
    [
        (b"plain text", b"plain text"),
        (b'"quoted \\u00e9"', "quoted é".encode()),
        (b'"aGVsbG8="', b"hello"),
        (b"aGVsbG8=", b"hello"),
        (b'{"a":1}', b'{"a":1}'),
        (b"\xff\0", b"\xff\0"),
        (b"", b""),
    ],
)
async def test_content_is_unquoted_and_decoded(files: LocalStorage, data: bytes, written: bytes) -> None:
    answer = await invoke(files, "create", "a/b.txt", data)
    assert answer == BindingResponse(b'{"fileName":"a/b.txt"}')
    assert (await invoke(files, "get", "a/b.txt")).data == written


async def test_a_file_without_a_name_gets_one(files: LocalStorage) -> None:
    answer = await invoke(files, "create", data=b"x!")
    assert answer.data is not None
    name = json.loads(answer.data)["fileName"]
    assert len(name) == 36
    assert (await invoke(files, "get", name)).data == b"x!"


async def test_files_are_listed_below_a_folder(files: LocalStorage, tmp_path: Path) -> None:
    assert (await invoke(files, "list")).data == b"null"
    for name in ("b", "a/z", "a/é"):
        await invoke(files, "create", name, b"!")
    root = tmp_path / "root/deep"
    listed = (await invoke(files, "list")).data or b""
    assert json.loads(listed) == [f"{root}/a/z", f"{root}/a/é", f"{root}/b"]
    assert json.loads((await invoke(files, "list", "a")).data or b"") == [f"{root}/a/z", f"{root}/a/é"]


async def test_a_file_is_no_folder(files: LocalStorage) -> None:
    await invoke(files, "create", "a", b"!")
    with pytest.raises(DriverError, match="the file specified is not a directory"):
        await invoke(files, "list", "a")


async def test_deleting_answers_nothing(files: LocalStorage) -> None:
    await invoke(files, "create", "a", b"!")
    assert await invoke(files, "delete", "a") == BindingResponse()
    with pytest.raises(FileMissing, match=r"file not found: .*/root/deep/a"):
        await invoke(files, "delete", "a")


@pytest.mark.parametrize("operation", ["get", "list"])
async def test_what_is_not_there_is_named(files: LocalStorage, operation: str) -> None:
    with pytest.raises(FileMissing, match=r"file not found: .*/root/deep/no") as raised:
        await invoke(files, operation, "no")
    assert raised.value.permanent


@pytest.mark.parametrize("operation", ["get", "delete"])
async def test_a_name_is_needed(files: LocalStorage, operation: str) -> None:
    with pytest.raises(BadMetadata, match="'fileName' is missing"):
        await invoke(files, operation)


@pytest.mark.parametrize("name", ["../../secret", "/secret", "a/../../../secret", "//secret", "./secret"])
async def test_names_begin_at_the_root(files: LocalStorage, tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_text("outside")
    await invoke(files, "create", name, b"inside!")
    assert (tmp_path / "root/deep/secret").read_bytes() == b"inside!"
    assert (tmp_path / "secret").read_text() == "outside"


async def test_a_link_out_of_the_root_is_refused(files: LocalStorage, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "root/deep/link").symlink_to(tmp_path / "outside")
    with pytest.raises(BadMetadata, match="leads out of the root by a link"):
        await invoke(files, "create", "link/a", b"!")
    with pytest.raises(BadMetadata, match="NUL"):
        await invoke(files, "get", "a\0b")


async def test_a_failed_write_leaves_nothing_behind(files: LocalStorage, tmp_path: Path) -> None:
    (tmp_path / "root/deep/folder").mkdir()
    with pytest.raises(DriverError, match="folder: Is a directory"):
        await invoke(files, "create", "folder", b"!")
    assert [path.name for path in (tmp_path / "root/deep").iterdir()] == ["folder"]
    with pytest.raises(DriverError, match="deep: "):
        await invoke(files, "delete", ".")


async def test_pipes_are_not_waited_for(files: LocalStorage, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "root/deep/pipe")
    with trio.fail_after(5), pytest.raises(DriverError, match="pipe: is no file"):
        await invoke(files, "get", "pipe")


async def test_the_root_is_no_file(files: LocalStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even its folder is touched on the way to that answer."""
    monkeypatch.setattr(localstorage, "_write_whole", None)
    for name in (".", "a/.."):
        with pytest.raises(DriverError, match="deep: Is a directory"):
            await invoke(files, "create", name, b"!")


@pytest.mark.parametrize("operation", ["create", "get", "delete"])
async def test_a_link_that_comes_late_leads_nowhere(
    files: LocalStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    """It is put in the way after the way was checked."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a").write_text("secret")
    (tmp_path / "root/deep/folder").symlink_to(outside)
    monkeypatch.setattr(files, "_path", lambda _: str(tmp_path / "root/deep/folder/a"))
    with pytest.raises(DriverError):
        await invoke(files, operation, "folder/a", b"!")
    assert [(path.name, path.read_text()) for path in outside.iterdir()] == [("a", "secret")]


async def test_sizes_have_limits(files: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(localstorage, "FILE_BYTES_MAX", 2)
    monkeypatch.setattr(localstorage, "LISTED_MAX", 1)
    await invoke(files, "create", "a", b"!!!")
    with pytest.raises(DriverError, match="larger than 2 bytes"):
        await invoke(files, "get", "a")
    await invoke(files, "create", "b", b"!")
    with pytest.raises(DriverError, match="more than 1 files"):
        await invoke(files, "list")


@pytest.mark.parametrize("root", ["/proc/x", "/sys", "/boot/a", "/var/run/secrets/x", ""])
async def test_some_roots_are_refused(tmp_path: Path, root: str) -> None:
    with pytest.raises(ConfigError, match="'rootPath'"):
        await open_localstorage_binding(context(tmp_path, root)).__aenter__()


async def test_a_root_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="a directory that can be made"):
        await open_localstorage_binding(context(tmp_path, "file/root")).__aenter__()
