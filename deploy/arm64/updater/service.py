"""The node's service: restart it, and say whether it is well. Without a running service manager there is none."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any, Final

UNIT: Final = "edge-runtime.service"
_TRY_EVERY_S: Final = 0.5
_ASK_TIMEOUT_S: Final = 5.0


class _Unix(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_ASK_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Service:
    """`systemctl` is the program of that name; tests bring their own."""

    def __init__(self, control_socket: Path, deadline_s: float, steady_s: float) -> None:
        self._control_socket = control_socket
        self._deadline_s = deadline_s
        self._steady_s = steady_s
        self._systemctl = os.environ.get("EDGE_RUNTIME_UPDATE_SYSTEMCTL", "systemctl")

    def manager_runs(self) -> bool:
        """Not so in a chroot, in an image being built, and where the administrator forbids packages to start things."""
        if "EDGE_RUNTIME_UPDATE_SYSTEMCTL" in os.environ:
            return True
        policy = "/usr/sbin/policy-rc.d"
        forbidden = os.access(policy, os.X_OK) and subprocess.run([policy, UNIT, "restart"]).returncode == 101
        return os.path.isdir("/run/systemd/system") and shutil.which("systemctl") is not None and not forbidden

    def wanted(self) -> bool:
        """Whether the administrator lets it run at all."""
        return self._call("is-enabled", "--quiet", UNIT).returncode == 0

    def restart(self) -> None:
        """Asked for, not waited for: whether it comes up is for the gate to see."""
        self._call("daemon-reload")
        self._call("reset-failed", UNIT)
        self._call("restart", "--no-block", UNIT)

    def trouble(self, since: int) -> str:
        """Empty once the service answers and has done so for a while; else why it does not, at the deadline."""
        end, well_since, why = time.monotonic() + self._deadline_s, 0.0, "it did not start"
        while time.monotonic() < end:
            why = self._look(since)
            well_since = (well_since or time.monotonic()) if not why else 0.0
            if well_since and time.monotonic() - well_since >= self._steady_s:
                return ""
            time.sleep(_TRY_EVERY_S)
        return why or "it was not well for long enough"

    def process(self) -> int:
        """The main process, 0 for none."""
        return self._show()[1]

    def _show(self) -> tuple[str, int]:
        """The unit's state and its main process."""
        text = self._call("show", "--property=ActiveState", "--property=MainPID", UNIT).stdout
        found = dict(line.partition("=")[::2] for line in text.splitlines())
        process = found.get("MainPID", "")
        return found.get("ActiveState", ""), int(process) if process.isdecimal() else 0

    def _look(self, since: int) -> str:
        """One look. The unit is active once the node has said READY, with its file open."""
        state, process = self._show()
        if state != "active":
            return f"the service is {state or 'not known'}"
        if process == since:
            return "the service was not restarted"
        try:
            node = self._ask("/edge/v1/node")
            return next(filter(None, map(self._app_trouble, self._ask("/edge/v1/apps"))), "") if node else "no answer"
        except (OSError, ValueError, http.client.HTTPException) as error:
            return f"the control socket does not answer: {error}"

    def _ask(self, target: str) -> Any:
        connection = _Unix(str(self._control_socket))
        try:
            connection.request("GET", target)
            answer = connection.getresponse()
            if answer.status != 200:
                raise ValueError(f"{target}: {answer.status}")
            return json.loads(answer.read())
        finally:
            connection.close()

    def _app_trouble(self, app: Any) -> str:
        """The sidecar's own health; whether the app behind it is well says nothing of the update."""
        port = app.get("httpPort") or app.get("http_port")
        if not isinstance(port, int) or not port:
            return ""
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_ASK_TIMEOUT_S)
        try:
            connection.request("GET", "/v1.0/healthz/outbound")
            status = connection.getresponse().status
            return "" if status in (204, 401, 403) else f"the health of app {app.get('appId', '?')} is {status}"
        finally:
            connection.close()

    def _call(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([self._systemctl, *words], capture_output=True, text=True)
