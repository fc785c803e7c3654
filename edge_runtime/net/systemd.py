"""What a service manager says to a service by variables, and how the service answers: sockets, readiness, watchdog.

The protocols are systemd's `sd_notify` and `sd_listen_fds`, by the standard library alone. Loaded only where the
variables are set; they are taken out of the environment, so that nobody who is started from here answers in our name.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import MutableMapping, Sequence
from typing import Final, NamedTuple

logger: Final = logging.getLogger("dapr.runtime.service")

FIRST_FD: Final = 3
ROLES: Final = ("control", "http", "grpc", "metrics")
# So long a full queue of the manager is waited for; what it then does not take is lost, and the next is tried.
_SEND_TIMEOUT_S: Final = 1.0
_VARIABLES: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


class PassedSockets:
    """Listening sockets that the manager opened for us, by name: `control`, or `http`, `grpc`, `metrics` of an app.

    A name without an app-id in front is the first app's, `<app-id>.http` that app's. They stay open here: an app that
    leaves and joins again finds its socket, and who connected meanwhile.
    """

    def __init__(self, sockets: Sequence[tuple[str, socket.socket]] = ()) -> None:
        self._sockets = list(sockets)
        self._first_app = ""

    def control(self) -> socket.socket | None:
        """The control socket, or None."""
        found = self._named("control")
        return found[0] if found else None

    def of_app(self, role: str, app_id: str) -> list[socket.socket]:
        """The app's sockets for `role`, each its own to close."""
        self._first_app = self._first_app or app_id
        own = self._named(f"{app_id}.{role}")
        return own or (self._named(role) if app_id == self._first_app else [])

    def close(self) -> None:
        """At the end of the process; the manager keeps listening."""
        for _, passed in self._sockets:
            passed.close()

    def _named(self, name: str) -> list[socket.socket]:
        return [passed.dup() for known, passed in self._sockets if known == name]


class Manager(NamedTuple):
    """The service manager as the variables describe it. `address` is empty where it wants to hear nothing."""

    address: str
    watchdog_s: float | None
    sockets: PassedSockets

    def tell(self, *lines: str) -> None:
        """Send lines such as READY=1. Whoever does not listen is no reason to stop."""
        if not self.address:
            return
        address = "\0" + self.address[1:] if self.address[0] == "@" else self.address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
                notify.settimeout(_SEND_TIMEOUT_S)
                notify.sendto("\n".join(line.replace("\n", " ") for line in lines).encode(), address)
        except (OSError, ValueError) as error:
            logger.debug("the service manager at %s was not reached: %s", self.address, error)


def take_manager(environment: MutableMapping[str, str], pid: int) -> Manager:
    """What the variables say to the process `pid`; they are removed."""
    found = {name: environment.pop(name, "") for name in _VARIABLES}
    address = found["NOTIFY_SOCKET"] if found["NOTIFY_SOCKET"].startswith(("/", "@")) else ""
    return Manager(address, _watchdog_s(found, pid), PassedSockets(_passed(found, pid)))


def _watchdog_s(found: MutableMapping[str, str], pid: int) -> float | None:
    usec = found["WATCHDOG_USEC"]
    if not usec.isdecimal() or int(usec) == 0 or found["WATCHDOG_PID"] not in ("", str(pid)):
        return None
    return int(usec) / 1e6


def _passed(found: MutableMapping[str, str], pid: int) -> list[tuple[str, socket.socket]]:
    if found["LISTEN_PID"] != str(pid) or not found["LISTEN_FDS"].isdecimal():
        return []
    names = found["LISTEN_FDNAMES"].split(":")
    sockets: list[tuple[str, socket.socket]] = []
    for index in range(int(found["LISTEN_FDS"])):
        name = names[index] if index < len(names) else ""
        passed = _listening(FIRST_FD + index, name)
        if passed is not None:
            sockets.append((name, passed))
    return sockets


def _listening(fd: int, name: str) -> socket.socket | None:
    """The socket at `fd` when we can serve it. Others are closed, with a word: their clients would wait for ever."""
    try:
        os.set_inheritable(fd, False)
        passed = socket.socket(fileno=fd)
    except OSError as error:
        logger.warning("passed file descriptor %d (%s): %s", fd, name, error.strerror)
        return None
    if name.rpartition(".")[2] not in ROLES:
        problem = f"expected FileDescriptorName= of {', '.join(ROLES)}, or <app-id>.{ROLES[1]}"
    elif passed.type != socket.SOCK_STREAM or not passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        problem = "it is not a listening stream socket; use ListenStream= with Accept=no"
    else:
        passed.setblocking(False)
        return passed
    logger.warning("passed socket %r is not used: %s", name, problem)
    passed.close()
    return None
