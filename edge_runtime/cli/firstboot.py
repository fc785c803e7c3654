"""`edge-runtime firstboot`: takes the configuration that was put on the SD card's boot partition, once.

Two forms, alone or together: the file `edge-runtime.yaml` with the files' texts in it, and the directory
`edge-runtime` that is laid out like /etc/edge-runtime. Everything is read and checked before anything is written;
a mistake is written into a text file beside it, where whoever prepared the card finds it, and tried again at the next
boot. What was taken is removed from the boot partition, as anybody can read that.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from edge_runtime.cli.arguments import HELP, Option, help_text, parse
from edge_runtime.cli.output import Messages
from edge_runtime.model.errors import ConfigError

BOOT: Final = "/boot/firmware,/boot"
OPTIONS: Final = (
    HELP,
    Option(("boot",), help="Where the boot partition may be, with commas between.", default=BOOT),
    Option(("config-dir",), help="Where the configuration goes.", default="/etc/edge-runtime"),
    Option(("credential-dir",), help="Where credentials go.", default="/etc/credstore"),
    Option(("done-file",), help="The mark that it was done.", default="/var/lib/edge-runtime-update/firstboot-done"),
    Option(("group",), help="The group that reads the configuration.", default="edge-runtime"),
    Option(("log-as-json",), "flag", hidden=True),
    Option(("runtime-path",), hidden=True),
)
FILE: Final = "edge-runtime.yaml"
DIRECTORY: Final = "edge-runtime"
REPORT: Final = "edge-runtime-firstboot.txt"
CREDENTIALS: Final = "credentials"
FILE_BYTES_MAX: Final = 1024 * 1024
FILES_MAX: Final = 256
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@-]{0,127}")
# Directory ("" is the top) → the endings of the files that go there.
_PLACES: Final[Mapping[str, tuple[str, ...]]] = {
    "": (".yaml", ".yml"),
    "components": (".yaml", ".yml"),
    "apps": (".conf",),
    "update-keys.d": (".pub",),
    CREDENTIALS: ("",),
}


class Taken(NamedTuple):
    """One file: its directory below the configuration's, its name, its content."""

    directory: str
    name: str
    content: bytes

    @property
    def where(self) -> str:
        return f"{self.directory}/{self.name}" if self.directory else self.name


class Places(NamedTuple):
    config: str
    credentials: str
    group: str


def main(argv: Sequence[str]) -> int:
    parsed = parse(OPTIONS, argv)
    if parsed.flag("help"):
        text = "Take the configuration that lies on the boot partition, once."
        print(help_text("edge-runtime firstboot [flags]", text, OPTIONS), end="")
        return 0
    messages = Messages(parsed.flag("log-as-json"))
    done = parsed.text("done-file")
    if os.path.exists(done):
        messages.info(f"{done}: it was done before")
        return 0
    boots = [boot for boot in parsed.items("boot") if _offers(boot)]
    if not boots:
        messages.info("there is no configuration on the boot partition")
        return 0
    places = Places(parsed.text("config-dir"), parsed.text("credential-dir"), parsed.text("group"))
    try:
        taken = take(boots[0], places)
    except (ConfigError, OSError) as error:
        _report(boots[0], f"Nothing was taken: {error}\nMend it and start the device again.\n")
        messages.failure(f"{boots[0]}: {error}")
        return 1
    _write(done, b"", 0o644)
    _remove(boots[0])
    _report(boots[0], "".join(["Taken:\n", *(f"  {file.where}\n" for file in taken)]))
    messages.success(f"{len(taken)} files were taken from {boots[0]}")
    return 0


def take(boot: str, places: Places) -> list[Taken]:
    """Copy what is on the boot partition. Raises ConfigError, with nothing written, when some of it is wrong."""
    taken = [*_from_file(os.path.join(boot, FILE)), *_from_directory(os.path.join(boot, DIRECTORY))]
    if len(taken) > FILES_MAX:
        raise ConfigError(f"{len(taken)} files; at most {FILES_MAX} are taken")
    seen: set[str] = set()
    for file in taken:
        _check(file)
        if file.where in seen:
            raise ConfigError(f"{file.where} is there twice")
        seen.add(file.where)
    group = _group_id(places.group)
    for file in taken:
        _place(file, places, group)
    return taken


def _offers(boot: str) -> bool:
    return os.path.isfile(os.path.join(boot, FILE)) or os.path.isdir(os.path.join(boot, DIRECTORY))


def _from_file(path: str) -> Iterator[Taken]:
    if not os.path.exists(path):
        return
    import yaml

    try:
        document: Any = yaml.safe_load(_read(path))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict) or set(document) - {"files", CREDENTIALS}:
        raise ConfigError(f"{path}: expected `files:` and `{CREDENTIALS}:`, each with names and texts below it")
    for section, folder in (("files", ""), (CREDENTIALS, CREDENTIALS + "/")):
        entries = document.get(section) or {}
        if not isinstance(entries, dict):
            raise ConfigError(f"{path}: {section}: expected names and texts below it")
        for name, text in entries.items():
            if not isinstance(text, str):
                raise ConfigError(f"{path}: {section}: {name}: expected a text, such as follows `|`")
            directory, _, last = f"{folder}{name}".rpartition("/")
            yield Taken(directory, last, text.encode())


def _from_directory(top: str) -> Iterator[Taken]:
    for folder, folders, names in os.walk(top):
        folders.sort()
        directory = os.path.relpath(folder, top)
        for name in sorted(names):
            if not name.startswith("."):  # what desktops leave on every card
                path = os.path.join(folder, name)
                yield Taken("" if directory == "." else directory, name, _read(path))


def _read(path: str) -> bytes:
    if os.path.islink(path) or not os.path.isfile(path):
        raise ConfigError(f"{path}: expected a plain file")
    with open(path, "rb") as file:
        content = file.read(FILE_BYTES_MAX + 1)
    if len(content) > FILE_BYTES_MAX:
        raise ConfigError(f"{path}: over {FILE_BYTES_MAX} bytes")
    return content


def _check(file: Taken) -> None:
    endings = _PLACES.get(file.directory)
    if endings is None:
        known = ", ".join(f"{name}/" for name in _PLACES if name)
        raise ConfigError(f"{file.where}: there is no such directory; expected {known} or none")
    if not _NAME.fullmatch(file.name) or not file.name.endswith(endings):
        raise ConfigError(
            f"{file.where}: the name is odd; expected letters, digits, - and _ and {' or '.join(endings)}"
        )
    if file.name.endswith((".yaml", ".yml")):
        import yaml

        try:
            list(yaml.safe_load_all(file.content))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"{file.where}: {' '.join(str(error).split())}") from None


def _place(file: Taken, places: Places, group: int) -> None:
    """Credentials are root's alone; the node's group reads the rest."""
    if file.directory == CREDENTIALS:
        os.makedirs(places.credentials, mode=0o700, exist_ok=True)
        _write(os.path.join(places.credentials, file.name), file.content.rstrip(b"\r\n"), 0o600)
        return
    folder = os.path.join(places.config, file.directory)
    if not os.path.isdir(folder):
        os.makedirs(folder, mode=0o750)
        os.chown(folder, -1, group)
    _write(os.path.join(folder, file.name), file.content, 0o640, group)


def _write(path: str, content: bytes, mode: int, group: int = -1) -> None:
    """On disk whole or not at all, and never readable to others in between."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    fresh = f"{path}.new"
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        os.fchown(handle, -1, group)
        os.fchmod(handle, mode)
        file.flush()
        os.fsync(handle)
    os.replace(fresh, path)


def _group_id(name: str) -> int:
    import grp

    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise ConfigError(f"--group {name}: there is no such group; install the package first") from None


def _remove(boot: str) -> None:
    """Overwriting would not reach a card's cells; credentials that matter are changed once the device runs."""
    shutil.rmtree(os.path.join(boot, DIRECTORY), ignore_errors=True)
    try:
        os.unlink(os.path.join(boot, FILE))
    except FileNotFoundError:
        pass


def _report(boot: str, text: str) -> None:
    moment = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
    try:
        with open(os.path.join(boot, REPORT), "w") as file:
            file.write(f"edge-runtime, first boot, {moment} UTC by the device's clock\n{text}")
    except OSError:
        pass  # a boot partition that is read only; the journal has it too
