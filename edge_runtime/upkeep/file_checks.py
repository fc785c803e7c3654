"""The node's own files: who may read and write them, what is written in them, and whether databases are whole."""

from __future__ import annotations

import grp
import os
import pwd
import re
import stat
from collections.abc import Iterator, Sequence
from typing import Final

from edge_runtime.components.registry import resolve
from edge_runtime.config.configuration import load_configuration
from edge_runtime.model.errors import ConfigError
from edge_runtime.store.copies import is_database, look_at
from edge_runtime.upkeep.checks import Check, System, shown_bytes
from edge_runtime.upkeep.files import Found

_USER: Final = "edge-runtime"
_APPS_GROUP: Final = "edge-runtime-apps"
# Every page of a larger one takes too long to be read in passing.
_READ_WHOLE_BYTES: Final = 256 * 2**20
_LINES_MAX: Final = 50
_PLACE: Final = re.compile(r"^(?P<place>\S+?:\d+): ")


# --- permissions ------------------------------------------------------------------------------------------------------


def check_permissions(state_dir: str, config_dir: str, control_socket: str, system: System) -> Iterator[Check]:
    yield _check_state(state_dir)
    if os.path.isdir(config_dir):
        yield _check_config(config_dir)
    yield _check_control(control_socket)
    if any(
        system.exists(f"{place}/edge-runtime.service") for place in ("/etc/systemd/system", "/usr/lib/systemd/system")
    ):
        yield _check_user()


def _check_state(path: str) -> Check:
    name = "state directory"
    try:
        facts = os.stat(path)
    except FileNotFoundError:
        return Check(name, "ok", f"{path} is not there yet; the node makes it")
    except OSError as error:
        return Check(name, "fail", f"{path}: {error.strerror}", "ask as root, or as the user of the node")
    owner = _user(facts.st_uid)
    if facts.st_uid not in (os.geteuid(), 0) and os.geteuid() != 0:
        return Check(
            name, "warn", f"{path} belongs to {owner}", f"ask as {owner} or root; a node of this user cannot use it"
        )
    strangers = [entry.path for entry in os.scandir(path) if _owner(entry, facts.st_uid) != facts.st_uid]
    if strangers:
        mend = f"`chown -R {owner}: {path}`"
        return Check(name, "fail", f"{strangers[0]} does not belong to {owner}, as {path} does", mend)
    if facts.st_mode & 0o077:
        return Check(name, "warn", f"others than {owner} may look into {path}", f"`chmod 700 {path}`")
    loose = [entry.path for entry in os.scandir(path) if entry.name == "seal.key" and entry.stat().st_mode & 0o077]
    if loose:
        return Check(name, "fail", f"others may read {loose[0]}", f"`chmod 600 {loose[0]}`")
    if not os.access(path, os.W_OK | os.X_OK):
        return Check(name, "fail", f"{path} cannot be written by this user", f"`chmod u+rwx {path}`")
    return Check(name, "ok", f"{path} belongs to {owner} alone")


def _owner(entry: os.DirEntry[str], otherwise: int) -> int:
    try:
        return entry.stat(follow_symlinks=False).st_uid
    except OSError:
        return otherwise  # it has gone since


def _check_config(path: str) -> Check:
    name = "configuration directory"
    if not os.access(path, os.R_OK | os.X_OK):
        return Check(name, "warn", f"{path} cannot be read by this user", "ask as root, or as a member of its group")
    open_to_all = [
        os.path.join(folder, leaf)
        for folder, _, leaves in os.walk(path)
        for leaf in leaves
        if os.stat(os.path.join(folder, leaf), follow_symlinks=False).st_mode & stat.S_IWOTH
    ]
    if open_to_all:
        return Check(name, "fail", f"everybody may change {open_to_all[0]}", f"`chmod o-w {open_to_all[0]}`")
    return Check(name, "ok", f"{path} can be read")


def _check_control(path: str) -> Check:
    name = "control socket"
    try:
        facts = os.stat(path)
    except FileNotFoundError:
        return Check(name, "skipped", f"{path} is not there: no node runs that takes apps")
    except OSError as error:
        return Check(name, "warn", f"{path}: {error.strerror}", "become a member of the group that may attach apps")
    if not stat.S_ISSOCK(facts.st_mode):
        return Check(name, "fail", f"{path} is no socket", "remove it, and start the node again")
    if facts.st_mode & stat.S_IWOTH:
        return Check(name, "fail", f"everybody may speak to {path}", f"`chmod o-rwx {path}`")
    return Check(name, "ok", f"{path} is for {_user(facts.st_uid)} and the group {_group(facts.st_gid)}")


def _check_user() -> Check:
    missing = []
    try:
        pwd.getpwnam(_USER)
    except KeyError:
        missing.append(f"the user {_USER}")
    try:
        grp.getgrnam(_APPS_GROUP)
    except KeyError:
        missing.append(f"the group {_APPS_GROUP}")
    if missing:
        return Check(
            "user", "fail", f"there is not {' nor '.join(missing)}", "`systemd-sysusers`, or install the package again"
        )
    return Check("user", "ok", f"there are the user {_USER} and the group {_APPS_GROUP}")


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"


def _group(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


# --- what is written --------------------------------------------------------------------------------------------------


def check_resources(directories: Sequence[str], found: Found) -> Iterator[Check]:
    """What loading says of the files, each with file and line."""
    if not directories:
        yield Check("resource files", "ok", "there are none: the built-in components serve")
        return
    for error in found.errors[:_LINES_MAX]:
        yield Check("resource files", "fail", error, _at(error, "the app does not start until it is mended"))
    for line in found.warnings[:_LINES_MAX]:
        yield Check("resource files", "warn", line, _at(line, "what it names is left out or not used"))
    unknown = 0
    for component in found.components:
        try:
            resolve(component.type, component.version)
        except ConfigError as error:
            unknown += 1
            mend = f"correct spec.type in {component.source}"
            yield Check(
                "resource files", "warn" if component.ignore_errors else "fail", f"{component.source}: {error}", mend
            )
    if not (found.errors or found.warnings or unknown):
        seen = f"{len(found.components)} components and {len(found.links)} cloud links in {', '.join(directories)}"
        yield Check("resource files", "ok", seen)


def _at(line: str, otherwise: str) -> str:
    match = _PLACE.match(line)
    return f"correct {match['place']}; {otherwise}" if match else otherwise


def check_configuration(paths: Sequence[str]) -> Iterator[Check]:
    for path in paths:
        try:
            found = load_configuration([path], {})
        except ConfigError as error:
            yield Check("configuration", "fail", str(error), f"correct {path}; apps do not start with it")
            continue
        for line in found.warnings[:_LINES_MAX]:
            yield Check("configuration", "warn", line, _at(line, "what it names is not used"))
        if not found.warnings:
            yield Check("configuration", "ok", path)


# --- databases --------------------------------------------------------------------------------------------------------


def databases_in(state_dir: str, elsewhere: Sequence[str] = ()) -> list[str]:
    found = [os.path.join(top, name) for top, _, names in os.walk(state_dir) for name in sorted(names)]
    return [path for path in dict.fromkeys((*found, *elsewhere)) if is_database(path)]


def check_databases(state_dir: str, elsewhere: Sequence[str]) -> Iterator[Check]:
    """Every page of every database is read, as far as it is not too large; nothing is changed."""
    for path in databases_in(state_dir, elsewhere):
        size = os.path.getsize(path)
        whole = size <= _READ_WHOLE_BYTES
        look = look_at(path, pages=whole)
        name = f"database {os.path.basename(path)}"
        if look.problem:
            mend = "stop the node, keep a copy of the file with its -wal file, and restore a backup (docs/backup.md)"
            yield Check(name, "fail", f"{path}: {look.problem}", mend)
            continue
        seen = f"{path}: {shown_bytes(size)}, {len(look.tables)} tables"
        seen += f", last change of its tables: {look.step}" if look.step else ""
        seen += "" if whole else "; too large to be read whole here: `edge-runtime backup` does that"
        yield Check(name, "ok", seen)
