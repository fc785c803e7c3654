"""A small system for the updater: a package's payload, and a service manager of one service with real processes."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

UPDATER = Path(__file__).parents[2] / "deploy" / "arm64" / "updater"

# A version of the program: `version` and `serve`, as `KIND` has it.
PROGRAM = """\
#!{python} -IS
import os, socket, sys, time
KIND = {kind!r}
if KIND == "unstartable" or (KIND == "crashing" and sys.argv[1] == "serve"):
    sys.exit("nothing works")
if sys.argv[1] == "version":
    sys.exit(0)
server = socket.socket(socket.AF_UNIX)
path = {socket!r}
if os.path.exists(path):
    os.unlink(path)
server.bind(path)
server.listen()
open({ready!r}, "w").close()
while True:
    peer, _ = server.accept()
    target = peer.recv(65536).split()[1]
    if KIND == "mute":
        peer.close()
        continue
    body = b"[]" if target.endswith(b"apps") else b'{{"version": "' + {version!r}.encode() + b'"}}'
    peer.sendall(b"HTTP/1.1 200 OK\\r\\ncontent-length: %d\\r\\n\\r\\n" % len(body) + body)
    peer.close()
"""

SYSTEMCTL = """\
#!{python} -IS
import os, signal, subprocess, sys
root, words = {root!r}, sys.argv[1:]
note = root + "/pid"

def pid():
    try:
        number = int(open(note).read())
        os.kill(number, 0)
        with open("/proc/%d/stat" % number) as file:
            return 0 if file.read().rsplit(")", 1)[1].split()[0] == "Z" else number
    except (OSError, ValueError):
        return 0

if words[0] == "is-enabled":
    sys.exit(os.path.exists(root + "/disabled"))
if words[0] == "restart":
    if pid():
        os.kill(pid(), signal.SIGKILL)
    for name in ("ready", "pid"):
        if os.path.exists(root + "/" + name):
            os.unlink(root + "/" + name)
    child = subprocess.Popen(
        [root + "/opt/edge-runtime/current/bin/edge-runtime", "serve"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )
    open(note, "w").write(str(child.pid))
if words[0] == "show":
    active = pid() and os.path.exists(root + "/ready")
    print("MainPID=%d" % pid())
    print("ActiveState=" + ("active" if active else "activating"))
"""


def load_updater() -> Any:
    """The updater's main module, and through it the others, as its program has them."""
    sys.path.insert(0, str(UPDATER))
    try:
        spec = importlib.util.spec_from_file_location("edge_runtime_update", UPDATER / "__main__.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(UPDATER))


class UpdateRoot:
    """The system below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.systemctl = root / "systemctl"
        self.systemctl.write_text(SYSTEMCTL.format(python=sys.executable, root=str(root)))
        self.systemctl.chmod(0o755)
        self.control = root / "run/edge-runtime/control.sock"
        self.control.parent.mkdir(parents=True)

    def unpack(self, version: str, kind: str = "good") -> None:
        """As dpkg does: new files in the place of the old ones."""
        payload = self.root / "usr/lib/edge-runtime/payload"
        (payload / "bin").mkdir(parents=True, exist_ok=True)
        words = {"python": sys.executable, "socket": str(self.control), "ready": str(self.root / "ready")}
        text = PROGRAM.format(version=version, kind=kind, **words)
        for name, content, mode in (("bin/edge-runtime", text, 0o755), ("VERSION", version + "\n", 0o644)):
            (payload / f"{name}.dpkg-new").write_text(content)
            (payload / f"{name}.dpkg-new").chmod(mode)
            (payload / f"{name}.dpkg-new").replace(payload / name)

    @property
    def environment(self) -> dict[str, str]:
        return {"EDGE_RUNTIME_UPDATE_ROOT": str(self.root), "EDGE_RUNTIME_UPDATE_SYSTEMCTL": str(self.systemctl)}

    def update(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-IB", str(UPDATER), "--deadline", "30", "--steady", "0", *words]
        return subprocess.run(command, env={**os.environ, **self.environment}, capture_output=True, text=True)

    def status(self) -> Any:
        return json.loads(self.update("status", "--json").stdout)

    def answering(self) -> str:
        """The version that serves; empty for none."""
        connection = http.client.HTTPConnection("localhost")
        try:
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.connect(str(self.control))
            connection.request("GET", "/edge/v1/node")
            return str(json.loads(connection.getresponse().read())["version"])
        except (OSError, http.client.HTTPException):
            return ""
        finally:
            connection.close()

    def start(self) -> None:
        subprocess.run([str(self.systemctl), "restart"], check=True)

    def stop(self) -> None:
        """As a power cut: the process is gone."""
        note = self.root / "pid"
        if note.exists():
            try:
                os.kill(int(note.read_text()), signal.SIGKILL)
            except ProcessLookupError:
                pass
            note.unlink()
        self.control.unlink(missing_ok=True)

    def settled(self) -> bool:
        """Whether the service has come as far as it will: it is ready, or its process is gone."""
        try:
            state = Path(f"/proc/{int((self.root / 'pid').read_text())}/stat").read_text().rpartition(")")[2].split()[0]
        except (OSError, ValueError):
            state = "Z"
        return state == "Z" or (self.root / "ready").exists()


class Clock:
    """Time for the updater that passes only while there is nothing left to wait for."""

    def __init__(self, system: UpdateRoot) -> None:
        self._system = system
        self._now_s = 0.0

    def monotonic(self) -> float:
        return self._now_s

    def sleep(self, seconds: float) -> None:
        time.sleep(0.01)
        if self._system.settled():
            self._now_s += seconds

    time = staticmethod(time.time)
