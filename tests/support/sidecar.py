"""A real `daprd` (or `edge-runtime run`) process, watched through its log and its HTTP API."""

from __future__ import annotations

import http.client
import json
import os
import queue
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

READY = "dapr initialized. Status: Running"
SERVING = "HTTP server is running on port"
WAIT_S = 30.0


_given: set[int] = set()


def free_port() -> int:
    """A port that nobody has now, below those that the kernel gives to outgoing connections; none is given twice."""
    while True:
        port = random.randrange(15_000, 32_000)
        if port in _given:
            continue
        try:
            with socket.create_server(("127.0.0.1", port)):
                _given.add(port)
                return port
        except OSError:
            continue


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def request(
    port: int,
    method: str,
    path: str,
    body: Any = None,
    headers: Mapping[str, str] | None = None,
    timeout: float = WAIT_S,
) -> Answer:
    """One HTTP exchange. A body that is no bytes is sent as JSON."""
    sent = dict(headers or {})
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
        sent.setdefault("content-type", "application/json")
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request(method, path, body, sent)
        response = connection.getresponse()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    finally:
        connection.close()


class Program:
    """A child process whose output lines can be waited for. Ended by pid, never by name."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str] | None = None, directory: str | Path | None = None
    ) -> None:
        self.lines: list[str] = []
        self._queue: queue.Queue[str | None] = queue.Queue()
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=None if environment is None else dict(environment),
            cwd=directory,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            text = line.decode("utf-8", "replace").rstrip("\n")
            self.lines.append(text)
            self._queue.put(text)
        self._queue.put(None)

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_line(self, text: str, timeout_s: float = WAIT_S) -> str:
        """The next line with the text. Fails with everything that was said when none comes."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                line = self._queue.get(timeout=max(deadline - time.monotonic(), 0.001))
            except queue.Empty:
                raise AssertionError(f"no line with {text!r} within {timeout_s} s; said:\n{self.said}") from None
            if line is None:
                self._queue.put(None)
                raise AssertionError(
                    f"ended with {self.process.wait()} before a line with {text!r}; said:\n{self.said}"
                )
            if text in line:
                return line

    @property
    def said(self) -> str:
        return "\n".join(self.lines)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def kill(self) -> int:
        """SIGKILL, as a power cut would."""
        self.process.kill()
        return self.wait()

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self, timeout_s: float = WAIT_S) -> int:
        code = self.process.wait(timeout_s)
        self._reader.join(timeout_s)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    def __enter__(self) -> Program:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        if self.process.stdout is not None and not self.process.stdout.closed:
            self.wait()


class Sidecar(Program):
    """`daprd` for one app on free ports, with its durable state in `state_dir`."""

    def __init__(
        self,
        state_dir: str | Path,
        *flags: str,
        app_id: str = "app",
        app_port: int = 0,
        port: int = 0,
        grpc_port: int = 0,
        environment: Mapping[str, str] | None = None,
        directory: str | Path | None = None,
        ready: str = READY,
    ) -> None:
        self.port = port or free_port()
        self.grpc_port = grpc_port or free_port()
        self.metrics_port = free_port()
        command = [
            sys.executable,
            *("-m", "edge_runtime", "daprd"),
            *("--app-id", app_id, "--dapr-http-port", str(self.port), "--dapr-grpc-port", str(self.grpc_port)),
            *("--metrics-port", str(self.metrics_port), "--state-dir", str(state_dir)),
            *(("--app-port", str(app_port)) if app_port else ()),
            *flags,
        ]
        super().__init__(command, {**os.environ, **(environment or {})}, directory)
        if ready:
            try:
                self.wait_line(ready)
            except BaseException:
                self.__exit__(None, None, None)
                raise

    def __enter__(self) -> Sidecar:
        return self

    def http(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = WAIT_S,
    ) -> Answer:
        return request(self.port, method, path, body, headers, timeout)

    def metrics(self) -> str:
        return request(self.metrics_port, "GET", "/metrics").body.decode()
