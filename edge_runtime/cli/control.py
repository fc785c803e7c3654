"""The command line's side of the control socket: which nodes run, and what they are asked."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from edge_runtime.api.control_socket import check_owner, default_path, run_directory
from edge_runtime.cli.http import Address, Unreachable, request
from edge_runtime.model.errors import ConfigError

_TIMEOUT_S: Final = 10.0


class ControlError(Exception):
    """The node refused; `status` and the text are its own."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class NodeControl(NamedTuple):
    """A running node, reached by its socket."""

    path: str

    def ask(self, method: str, target: str) -> Any:
        """The answer's JSON. Raises Unreachable, ControlError, ConfigError (a socket that is not to be trusted)."""
        check_owner(self.path)
        answer = request(method, Address(path=self.path), target, timeout_s=_TIMEOUT_S)
        try:
            value = json.loads(answer.body) if answer.body else None
        except ValueError:
            raise Unreachable(f"{self.path}: the answer is no JSON") from None
        if answer.status >= 400:
            text = value.get("error") if isinstance(value, dict) else None
            raise ControlError(answer.status, str(text or answer.line))
        return value

    def describe(self) -> dict[str, Any]:
        node: dict[str, Any] = self.ask("GET", "/edge/v1/node")
        return node

    def apps(self) -> list[dict[str, Any]]:
        apps: list[dict[str, Any]] = self.ask("GET", "/edge/v1/apps")
        return apps

    def detach(self, app_id: str) -> None:
        self.ask("DELETE", f"/edge/v1/apps/{quote(app_id, safe='')}")

    def keys(self, app_id: str, store: str, prefix: str, after: str, limit: int) -> list[str]:
        place = f"/edge/v1/apps/{quote(app_id, safe='')}/state/{quote(store, safe='')}/keys"
        page = self.ask("GET", f"{place}?prefix={quote(prefix, safe='')}&after={quote(after, safe='')}&limit={limit}")
        keys: list[str] = page["keys"]
        return keys

    def topics(self) -> list[dict[str, Any]]:
        topics: list[dict[str, Any]] = self.ask("GET", "/edge/v1/topics")["topics"]
        return topics


def own_socket(environment: Mapping[str, str], pid: int) -> str | None:
    """Where the node inside a `run` of this process listens, so that `list` and `stop` see all its apps.

    None where there is no place for it: the node does without.
    """
    directory = run_directory(environment)
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        if os.lstat(directory).st_uid != os.geteuid() or not os.access(directory, os.W_OK):
            return None
    except OSError:
        return None
    _remove_left_behind(directory)
    return os.path.join(directory, f"{pid}.sock")


def _remove_left_behind(directory: str) -> None:
    """The sockets of processes that were killed and are no more."""
    for path in _sockets_in(directory):
        owner = os.path.basename(path).removesuffix(".sock")
        if owner.isdigit() and _is_socket(path) and not os.path.exists(f"/proc/{owner}"):
            try:
                os.unlink(path)
            except OSError:
                pass  # another process was faster, or it is not ours to remove


def running_nodes(environment: Mapping[str, str], path: str = "") -> Iterator[NodeControl]:
    """Every node that answers: the one at `path` or the usual place, then those of other `run`s of this user."""
    seen: set[str] = set()
    for candidate in (path or default_path(environment), *_sockets_in(run_directory(environment))):
        if candidate in seen or not _is_socket(candidate):
            continue
        seen.add(candidate)
        node = NodeControl(candidate)
        try:
            node.describe()
        except (Unreachable, ControlError, ConfigError):
            continue  # left behind by a node that was killed, or not for us
        yield node


def attachable(environment: Mapping[str, str], path: str = "") -> NodeControl | None:
    """The node at `path` or the usual place, when it runs and takes apps. A `path` that was named must work."""
    named = path or environment.get("EDGE_RUNTIME_CONTROL_SOCKET", "")
    candidate = path or default_path(environment)
    if not named and not _is_socket(candidate):
        return None
    node = NodeControl(candidate)
    try:
        takes_apps = node.describe()["attach"] != "none"
    except (Unreachable, ControlError, ConfigError) as error:
        if named:
            raise ConfigError(f"no node answers at the control socket {candidate}: {error}") from None
        return None
    if named and not takes_apps:
        raise ConfigError(f"the node at {candidate} takes no apps: it was started with --attach=none")
    return node if takes_apps else None


def _sockets_in(directory: str) -> list[str]:
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return []
    return [os.path.join(directory, name) for name in names if name.endswith(".sock")]


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.lstat(path).st_mode)
    except OSError:
        return False
