"""An app for the sidecar to call: routes as functions, everything that came kept in a queue."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, NamedTuple

from tests.support.sidecar import WAIT_S


class Received(NamedTuple):
    method: str
    path: str
    headers: Mapping[str, str]  # of repeated ones the last
    body: bytes
    lines: tuple[tuple[str, str], ...] = ()  # all of them, in their order

    def json(self) -> Any:
        return json.loads(self.body)


# Takes what came and answers (status, body), perhaps with headers; a body that is no bytes is JSON.
Route = Callable[[Received], tuple[int, Any] | tuple[int, Any, Mapping[str, str]]]


class App:
    """Listens on a port of its own while the block lasts. A path without a route is answered 404.

    `received` has what came, in order, unless it shall not be kept; discovery calls and health probes are in `asked`.
    """

    def __init__(self, routes: Mapping[str, Route], port: int = 0, *, keep: bool = True) -> None:
        self.received: queue.Queue[Received] = queue.Queue()
        self.asked: queue.Queue[Received] = queue.Queue()
        app = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # head and body are written one after the other

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except (ConnectionError, TimeoutError):
                    self.close_connection = True

            def do_any(self) -> None:
                length = int(self.headers.get("content-length") or 0)
                headers = {key.lower(): value for key, value in self.headers.items()}
                if headers.get("transfer-encoding") == "chunked":
                    body = self._chunked()
                else:
                    body = self.rfile.read(length)
                lines = tuple((key.lower(), value) for key, value in self.headers.items())
                came = Received(self.command, self.path, headers, body, lines)
                route = routes.get(self.path.partition("?")[0])
                own = self.path in ("/dapr/config", "/dapr/subscribe", "/healthz")
                if keep:
                    (app.asked if own else app.received).put(came)
                status, answer, *more = (404, b"") if route is None else route(came)
                data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                if not isinstance(answer, bytes):
                    self.send_header("content-type", "application/json")
                for name, value in more[0].items() if more else ():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            def _chunked(self) -> bytes:
                pieces = []
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    pieces.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(pieces)

            do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_HEAD = do_TRACE = do_any

            def log_message(self, *args: Any) -> None:
                """Tests look at `received`."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, request: Any, client_address: Any) -> None:
                """A sidecar that was killed leaves broken connections; that is what those tests are for."""

        self._server = Server(("127.0.0.1", port), Handler)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def next(self, timeout_s: float = WAIT_S) -> Received:
        """What came next, discovery and health probes aside."""
        try:
            return self.received.get(timeout=timeout_s)
        except queue.Empty:
            raise AssertionError(f"nothing came to the app within {timeout_s} s") from None

    def next_asked(self, path: str, timeout_s: float = WAIT_S) -> Received:
        """The next discovery call or health probe of this path; others are passed over."""
        while True:
            try:
                came = self.asked.get(timeout=timeout_s)
            except queue.Empty:
                raise AssertionError(f"nobody asked for {path} within {timeout_s} s") from None
            if came.path == path:
                return came

    def __enter__(self) -> App:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
