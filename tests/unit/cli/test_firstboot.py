"""The configuration on the boot partition: taken once, whole, with the right modes, and removed from there."""

from __future__ import annotations

import grp
import os
from pathlib import Path

import pytest

from edge_runtime.cli.main import dispatch

FILE = """\
files:
  dapr.yaml: |
    version: 1
    apps: [{appID: orders}]
  components/store.yaml: |
    kind: Component
credentials:
  edge-runtime-api-token: |
    secret
"""


class Card:
    """A boot partition and a system's directories below `root`."""

    def __init__(self, root: Path) -> None:
        self.boot = root / "boot"
        self.config = root / "etc"
        self.credentials = root / "credstore"
        self.done = root / "lib/done"
        self.boot.mkdir()

    def start(self) -> int:
        words = ["--config-dir", str(self.config), "--credential-dir", str(self.credentials)]
        words += ["--done-file", str(self.done), "--group", grp.getgrgid(os.getegid()).gr_name]
        return dispatch(["firstboot", "--boot", f"{self.boot}/none,{self.boot}", *words])

    @property
    def report(self) -> str:
        return (self.boot / "edge-runtime-firstboot.txt").read_text()


@pytest.fixture
def card(tmp_path: Path) -> Card:
    return Card(tmp_path)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_file_is_taken(card: Card) -> None:
    (card.boot / "edge-runtime.yaml").write_text(FILE)
    assert card.start() == 0
    assert (card.config / "dapr.yaml").read_text().startswith("version: 1\n")
    assert mode(card.config / "components/store.yaml") == 0o640
    token = card.credentials / "edge-runtime-api-token"
    assert (token.read_text(), mode(token)) == ("secret", 0o600)
    assert not (card.boot / "edge-runtime.yaml").exists()
    assert "secret" not in card.report
    assert "components/store.yaml" in card.report


def test_directory_is_taken(card: Card) -> None:
    for name, text in (("apps/orders.conf", "A=b\n"), ("credentials/edge-runtime-seal-key", "k"), (".DS_Store", "x")):
        path = card.boot / "edge-runtime" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert card.start() == 0
    assert (card.config / "apps/orders.conf").read_text() == "A=b\n"
    assert (card.credentials / "edge-runtime-seal-key").read_text() == "k"
    assert not (card.boot / "edge-runtime").exists()


def test_second_boot_takes_nothing(card: Card) -> None:
    (card.boot / "edge-runtime.yaml").write_text(FILE)
    assert card.start() == 0
    (card.boot / "edge-runtime.yaml").write_text("files: {dapr.yaml: 'other: 1'}\n")
    assert card.start() == 0
    assert "other" not in (card.config / "dapr.yaml").read_text()


def test_nothing_there_is_no_mistake(card: Card) -> None:
    assert card.start() == 0
    assert not card.done.exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("files: [", "edge-runtime.yaml: while parsing"),
        ("things: {}", "expected `files:` and `credentials:`"),
        ("files: {dapr.yaml: 1}", "dapr.yaml: expected a text"),
        ("files: {../dapr.yaml: a}", "there is no such directory"),
        ("files: {/etc/passwd.yaml: a}", "there is no such directory"),
        ("files: {components/a.sh: a}", "components/a.sh: the name is odd"),
        ("files: {components/a.yaml: 'a: [', b.yaml: 'a: 1'}", "components/a.yaml: while parsing"),
        ("credentials: {../token: a}", "there is no such directory"),
    ],
)
def test_mistake_is_told_and_nothing_taken(card: Card, text: str, said: str) -> None:
    (card.boot / "edge-runtime.yaml").write_text(text)
    assert card.start() == 1
    assert "Nothing was taken" in card.report
    assert said in card.report
    assert not card.config.exists()
    (card.boot / "edge-runtime.yaml").write_text(FILE)
    assert card.start() == 0, "mended, it is taken at the next boot"


def test_link_is_not_followed(card: Card) -> None:
    (card.boot / "edge-runtime").mkdir()
    (card.boot / "edge-runtime/dapr.yaml").symlink_to("/etc/hostname")
    assert card.start() == 1
    assert "expected a plain file" in card.report


def test_same_file_twice_is_refused(card: Card) -> None:
    (card.boot / "edge-runtime.yaml").write_text(FILE)
    (card.boot / "edge-runtime").mkdir()
    (card.boot / "edge-runtime/dapr.yaml").write_text("a: 1\n")
    assert card.start() == 1
    assert "dapr.yaml is there twice" in card.report
