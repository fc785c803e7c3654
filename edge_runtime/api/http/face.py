"""The HTTP face of one app's sidecar: path clean-up, tracing, counting, CORS, token, then the route.

The order is Dapr's, so that a CORS preflight needs no token and the health routes neither. An unknown path or a wrong
method is not 404: it goes to service invocation, which finds its target in a header.
"""

from __future__ import annotations

import logging
import posixpath
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, NamedTuple

from edge_runtime.api.blocks import Blocks
from edge_runtime.api.errors import error_response
from edge_runtime.api.http.routes import Call, Route, decode, text_response
from edge_runtime.api.settings import FaceSettings as FaceSettings
from edge_runtime.model.errors import EdgeError
from edge_runtime.model.http import Header, Request, Response
from edge_runtime.model.trace import NO_TRACE, Trace
from edge_runtime.observability.http_metrics import HttpServerMetrics
from edge_runtime.observability.trace import TRACESTATE_MAX, Tracer, valid_baggage
from edge_runtime.security.token import token_matches

api_log: Final = logging.getLogger("dapr.runtime.http-info")

# The two routes that a token never guards, as cleaned paths (Dapr: http-api, "API token").
_UNGUARDED: Final = frozenset({"/v1.0/healthz", "/v1.0/healthz/outbound"})
_CORS_METHODS: Final = b"HEAD, GET, POST, PUT, PATCH, DELETE"
_INVOKE: Final = "/v1.0/invoke/"

Handler = Callable[[Call], Awaitable[Response]]


class Router:
    """Routes by method, first two segments and length; a row that ends in `*` takes any length."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._exact: dict[tuple[str, str, str, int], list[_Row]] = {}
        self._rest: dict[tuple[str, str, str], list[_Row]] = {}
        self.paths: set[str] = set()
        for route in routes:
            self._add(route)
        for rows in (*self._exact.values(), *self._rest.values()):
            # More literal segments first: `secrets/{store}/bulk` hides a secret of that name.
            rows.sort(key=lambda row: len(row.literals), reverse=True)

    def _add(self, route: Route) -> None:
        segments = route.path.split("/")
        row = _Row(
            tuple((i + 1, s) for i, s in enumerate(segments) if i > 1 and not s.startswith("{") and s != "*"),
            tuple(i + 1 for i, s in enumerate(segments) if s.startswith("{")),
            route,
        )
        for method in route.methods:
            if segments[-1] == "*":
                self._rest.setdefault((method, segments[0], segments[1]), []).append(row)
            else:
                self._exact.setdefault((method, segments[0], segments[1], len(segments) + 1), []).append(row)

    def find(self, method: str, path: str) -> tuple[Route, tuple[str, ...], str] | None:
        """The route of a cleaned path with its decoded parameters and the undecoded rest, or None."""
        parts = path.split("/")
        count = len(parts)
        if count < 3:
            return None
        for row in self._exact.get((method, parts[1], parts[2], count), ()):
            if not row.literals or row.matches(parts):
                return row.route, tuple([decode(parts[i]) for i in row.params]), ""
        for row in self._rest.get((method, parts[1], parts[2]), ()):
            fixed = row.route.path.count("/") + 1
            if count > fixed and parts[fixed] and row.matches(parts):
                return row.route, tuple([decode(parts[i]) for i in row.params]), "/".join(parts[fixed:])
        return None


class _Row(NamedTuple):
    literals: tuple[tuple[int, str], ...]
    params: tuple[int, ...]
    route: Route

    def matches(self, parts: list[str]) -> bool:
        # A parameter is never empty: `//` was collapsed and a trailing slash dropped before.
        return all(parts[index] == text for index, text in self.literals)


class Face:
    """`handle` is what the server calls for every request."""

    def __init__(
        self,
        blocks: Blocks,
        routes: Iterable[Route],
        settings: FaceSettings,
        tracer: Tracer,
        metrics: HttpServerMetrics | None,
        fallback: Handler | None,
    ) -> None:
        self.blocks = blocks
        self._router = Router(routes)
        self._settings = settings
        self._tracer = tracer
        self._metrics = metrics
        self._fallback = fallback
        self._plain = not (settings.token or settings.allowed_origins or settings.api_log)

    async def handle(self, request: Request) -> Response:
        """The answer to one request. Raises nothing that a handler is meant to raise."""
        started = time.monotonic()
        raw_path, _, raw_query = request.target.partition(b"?")
        path = clean_path(raw_path.decode("utf-8", "replace"))
        trace = self._trace(request) if self._settings.traced and "/healthz" not in path else NO_TRACE
        if trace is None:
            response = text_response("invalid baggage header\n", 400)
        elif self._plain:
            response = await self._dispatch(request, path, raw_query, trace)
        else:
            response = await self._guarded(request, path, raw_query, trace, started)
        if trace is not NO_TRACE and trace is not None:
            response = _with_trace(response, trace)
        if self._metrics is not None:
            self._metrics.record(
                request.method,
                path,
                response.status,
                int((time.monotonic() - started) * 1000),
                request.body.length or 0,
                response.body.length or 0,
            )
        return response

    async def _dispatch(self, request: Request, path: str, raw_query: bytes, trace: Trace) -> Response:
        found = self._router.find(request.method, path)
        query = raw_query.decode("utf-8", "replace") if raw_query else ""
        limit = self._settings.body_limit_bytes
        if found is None:
            if self._fallback is None:
                return self._not_routed(path)
            call = Call(self.blocks, request, (), path[1:], query, trace, limit)
            handler = self._fallback
        else:
            route, params, rest = found
            call = Call(self.blocks, request, params, rest, query, trace, limit)
            handler = route.handler
        try:
            return await handler(call)
        except EdgeError as error:
            return error_response(error)

    def _not_routed(self, path: str) -> Response:
        """What Go's router says when even service invocation is turned off."""
        verbs = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
        if any(self._router.find(verb, path) for verb in verbs):
            return Response(405)
        return text_response("404 page not found\n", 404)

    async def _guarded(self, request: Request, path: str, raw_query: bytes, trace: Trace, started: float) -> Response:
        """The same behind CORS and the token, with the API log around it."""
        origin = request.header(b"origin") if self._settings.allowed_origins else None
        preflight = origin is not None and self._preflight(request, origin)
        if preflight:
            return preflight
        token = self._settings.token
        if token and not (request.method == "GET" and path in _UNGUARDED):
            if not token_matches(token, request.header(b"dapr-api-token")):
                return self._cors(text_response("invalid api token\n", 401), origin)
            # The token was for this sidecar; an app behind it must not see it.
            request.headers = [header for header in request.headers if header[0] != b"dapr-api-token"]
        response = self._cors(await self._dispatch(request, path, raw_query, trace), origin)
        if self._settings.api_log is not None:
            self._log(request, path, response, started)
        return response

    def _preflight(self, request: Request, origin: bytes) -> Response | None:
        if request.method != "OPTIONS" or request.header(b"access-control-request-method") is None:
            return None
        wanted = request.header(b"access-control-request-headers")
        headers: list[Header] = [(b"access-control-allow-methods", _CORS_METHODS)]
        if wanted is not None:
            headers.append((b"access-control-allow-headers", wanted))
        return self._cors(Response(200, headers), origin)

    def _cors(self, response: Response, origin: bytes | None) -> Response:
        if origin is None:
            return response
        allowed = self._settings.allowed_origins
        if "*" in allowed:
            return Response(response.status, (*response.headers, (b"access-control-allow-origin", b"*")), response.body)
        vary = (b"vary", b"Origin")
        if origin.decode("latin-1").lower() not in {text.lower() for text in allowed}:
            return Response(response.status, (*response.headers, vary), response.body)
        return Response(
            response.status, (*response.headers, vary, (b"access-control-allow-origin", origin)), response.body
        )

    def _trace(self, request: Request) -> Trace | None:
        """The request's trace context; None when its baggage is malformed."""
        traceparent = tracestate = b""
        baggage: list[bytes] | None = None
        for name, value in request.headers:
            if name == b"traceparent":
                traceparent = value
            elif name == b"tracestate":
                tracestate = value
            elif name == b"baggage":
                baggage = [*(baggage or ()), value]
        if baggage is None and not traceparent and not self._tracer.minting:
            return NO_TRACE
        text = b",".join(baggage).decode("latin-1") if baggage else ""
        if text and not valid_baggage(text):
            return None
        return self._tracer.continued(traceparent.decode("latin-1"), tracestate.decode("latin-1"), text)

    def _log(self, request: Request, path: str, response: Response, started: float) -> None:
        obfuscate, omit_health = self._settings.api_log or (False, False)
        if omit_health and path in _UNGUARDED:
            return
        found = self._router.find(request.method, path)
        name = (found[0].name if found else "InvokeService") if obfuscate else f"{request.method} {path}"
        fields = {
            "method": name,
            "duration": int((time.monotonic() - started) * 1000),
            "code": response.status,
            "size": response.body.length or 0,
        }
        agent = request.header(b"user-agent")
        if agent:
            fields["useragent"] = agent.decode("latin-1")
        api_log.info("HTTP API Called", extra={"fields": fields})


def _with_trace(response: Response, trace: Trace) -> Response:
    """The context on the way back, unless the handler set it; a tracestate over 512 characters is not echoed."""
    added: list[Header] = []
    if trace.traceparent and response.header(b"traceparent") is None:
        added.append((b"traceparent", trace.traceparent.encode("latin-1")))
        if trace.tracestate and len(trace.tracestate) <= TRACESTATE_MAX and response.header(b"tracestate") is None:
            added.append((b"tracestate", trace.tracestate.encode("latin-1")))
    if trace.baggage and response.header(b"baggage") is None:
        added.append((b"baggage", trace.baggage.encode("latin-1")))
    return Response(response.status, (*response.headers, *added), response.body) if added else response


def clean_path(path: str) -> str:
    """Dapr's lexical clean-up on the encoded path: `//` collapsed, dots resolved, no trailing slash.

    The part of an invocation after its prefix is left alone: a direct URL has `//` in it, and an empty method (a
    trailing slash) means the root of the app.
    """
    if not path.startswith("/"):
        path = _origin_form(path)
    if "//" not in path and "/." not in path and path[-1] != "/":
        return path
    if path.startswith(_INVOKE):
        return path
    cleaned = posixpath.normpath("/" + path.lstrip("/"))
    if cleaned.startswith(_INVOKE) or cleaned == _INVOKE[:-1]:
        # The prefix itself was written untidily; everything after `invoke` stays as it came.
        head, _, rest = path.partition("/invoke/")
        return f"{posixpath.normpath('/' + head.lstrip('/'))}/invoke/{rest}"
    return cleaned


def _origin_form(target: str) -> str:
    """The path of an absolute-form target (`http://host/path`); `*` and other forms become a path of their own."""
    _, separator, rest = target.partition("://")
    if separator:
        return "/" + rest.partition("/")[2]
    return "/" + target


def allowed_routes(routes: Sequence[Route], allows: Callable[[Route], bool]) -> list[Route]:
    """The routes that the API lists leave. A route that is not allowed is not there at all."""
    return [route for route in routes if route.always or allows(route)]
