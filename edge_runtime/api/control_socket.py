"""The node's control socket: where it is, who owns it, and who may speak through it.

A path that another user could have put there is refused on both sides, so that nobody hands an app's environment to a
stranger, nor takes orders from one.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

from edge_runtime.model.errors import ConfigError

if TYPE_CHECKING:
    import trio

BACKLOG: Final = 64
_PATH_BYTES_MAX: Final = 107
_CREDENTIALS: Final = struct.Struct("3i")
_SO_PEERGROUPS: Final = 59
_GROUP: Final = struct.Struct("I")
_GROUPS_MAX: Final = 256  # getsockopt of Python gives at most 1024 bytes


class Peer(NamedTuple):
    """The process at the other end, as the kernel knows it."""

    pid: int
    uid: int
    gid: int


def default_path(environment: Mapping[str, str]) -> str:
    """Where a node of this user listens, and where its apps look for it."""
    named = environment.get("EDGE_RUNTIME_CONTROL_SOCKET", "")
    return named or os.path.join(run_directory(environment), "control.sock")


def run_directory(environment: Mapping[str, str]) -> str:
    """The directory for sockets: the one named, the system's for root, the session's for others."""
    named = environment.get("EDGE_RUNTIME_RUN_DIR", "")
    if named:
        return os.path.abspath(named)
    uid = os.geteuid()
    if uid == 0:
        return "/run/edge-runtime"
    session = environment.get("XDG_RUNTIME_DIR", "")
    return os.path.join(session, "edge-runtime") if session else f"/tmp/edge-runtime-{uid}"


def check_owner(path: str) -> None:
    """Raise ConfigError when `path` could have been put there by somebody whom neither this user nor root trusts.

    Whom root gave a directory where only root could make one, such as /run/edge-runtime, is trusted with it.
    """
    directory = os.path.dirname(os.path.abspath(path))
    trusted = {0, os.geteuid(), *_given_by_root(directory)}
    for place in (directory, path):
        try:
            facts = os.lstat(place)
        except OSError as error:
            raise ConfigError(f"control socket {path}: {place}: {error.strerror}") from None
        if facts.st_uid not in trusted:
            raise ConfigError(f"control socket {path}: {place} belongs to user {facts.st_uid}; it is not trusted")
    facts = os.stat(directory)
    if facts.st_mode & stat.S_IWOTH and not facts.st_mode & stat.S_ISVTX:
        raise ConfigError(f"control socket {path}: everybody may write to {directory}; it is not trusted")


def _given_by_root(directory: str) -> list[int]:
    """The owner of the directory when nobody but root can have made it his."""
    try:
        above, facts = os.lstat(os.path.dirname(directory)), os.lstat(directory)
    except OSError:
        return []
    only_root = above.st_uid == 0 and not above.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return [facts.st_uid] if only_root and stat.S_ISDIR(facts.st_mode) else []


def open_control_socket(path: str, group: int | None = None) -> trio.SocketListener:
    """Listen at `path`, in a directory of our own that is made when missing. Raises ConfigError.

    With a `group` its members reach the socket too, else only this user and root.
    """
    if len(os.fsencode(path)) > _PATH_BYTES_MAX:
        raise ConfigError(f"control socket {path}: the path is longer than {_PATH_BYTES_MAX} bytes; use a shorter one")
    _make_directory(os.path.dirname(os.path.abspath(path)), group)
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(path)
        os.chmod(path, 0o660 if group is not None else 0o600)
        if group is not None:
            os.chown(path, -1, group)
        check_owner(path)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(f"control socket {path}: {error.strerror}; name another with --control-socket") from None
    except ConfigError:
        listener.close()
        raise
    return control_listener(listener)


def control_listener(listener: socket.socket) -> trio.SocketListener:
    """What answers at a socket that listens already."""
    import trio  # the commands that only ask do without

    return trio.SocketListener(trio.socket.from_stdlib_socket(listener))


def _make_directory(directory: str, group: int | None) -> None:
    try:
        os.mkdir(directory, 0o700)
    except FileExistsError:
        return
    except OSError as error:
        raise ConfigError(f"control socket: {directory} cannot be made: {error.strerror}") from None
    if group is not None:
        os.chown(directory, -1, group)
        os.chmod(directory, 0o750)


def _remove_stale(path: str) -> None:
    """Take away what a node that was killed left behind; never the socket of one that lives."""
    try:
        facts = os.lstat(path)
    except OSError:
        return
    if not stat.S_ISSOCK(facts.st_mode):
        raise ConfigError(f"control socket {path}: there is a file of that name, and it is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except OSError:
            pass
    raise ConfigError(
        f"control socket {path}: another node listens there; stop it, or name another socket with --control-socket"
    )


def peer_of(sock: socket.socket | trio.socket.SocketType) -> Peer:
    return Peer(*_CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)))


def group_id(attach: str) -> int | None:
    """The group that `group:<name>` names, None for the other settings. Raises ConfigError."""
    if attach in ("none", "same-user"):
        return None
    kind, _, name = attach.partition(":")
    if kind != "group" or not name:
        raise ConfigError(f"--attach {attach!r} is unknown; expected none, same-user or group:<name>")
    import grp

    try:
        return int(name) if name.isdigit() else grp.getgrnam(name).gr_gid
    except KeyError:
        raise ConfigError(f"--attach {attach!r}: there is no group {name!r} on this machine") from None


def groups_of(sock: socket.socket | trio.socket.SocketType) -> tuple[int, ...]:
    """The further groups of the process at the other end; from the kernel, as /proc may be closed to us."""
    try:
        found = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_MAX * _GROUP.size)
    except OSError:
        return ()  # a kernel before 4.13, or somebody in more groups than there is room for
    return tuple(group for (group,) in _GROUP.iter_unpack(found))


def may_speak(peer: Peer, groups: Collection[int], group: int | None) -> bool:
    """The same user and root may; with a group, its members too."""
    if peer.uid in (0, os.geteuid()):
        return True
    return group is not None and (peer.gid == group or group in groups)
