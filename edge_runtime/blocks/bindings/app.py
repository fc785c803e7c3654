"""How events of input bindings reach an app: a narrow port, and its HTTP side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple, Protocol
from urllib.parse import quote

import trio

from edge_runtime.model.errors import BodyTooLarge, DriverError
from edge_runtime.model.http import Body, Header, Request, Response
from edge_runtime.model.ports import AppChannel
from edge_runtime.observability.trace import Tracer
from edge_runtime.wire.headers import metadata_headers

ANSWER_BYTES_MAX: Final = 4 * 2**20
_NOT_ALLOWED: Final = 405
_JSON: Final[Header] = (b"content-type", b"application/json")
_TRACE: Final = frozenset({b"traceparent", b"tracestate"})


class Event(NamedTuple):
    """One event on its way to the app."""

    binding: str
    route: str
    data: bytes
    metadata: Mapping[str, str]


class NotTaken(DriverError):
    """The app did not take the event; `code` is its status when that says so."""


class BindingApp(Protocol):
    """An app that may take events of bindings."""

    async def takes(self, binding: str, route: str) -> bool:
        """Whether the app wants this binding's events. Raises `DriverError` when it cannot be asked now."""

    async def deliver(self, event: Event, *, strict: bool) -> bytes:
        """What the app answered. Raises `DriverError` when it did not take the event.

        `strict`: only the plain success counts, because a policy may try again.
        """


class HttpBindingApp:
    """Events as POST requests to the app's routes."""

    def __init__(self, channel: AppChannel, tracer: Tracer, options_timeout_s: float = 3.0) -> None:
        self._channel = channel
        self._tracer = tracer
        self._options_timeout_s = options_timeout_s

    async def takes(self, binding: str, route: str) -> bool:
        """An OPTIONS request says so: 2xx, or 405 from a server that has the route for POST only."""
        with trio.move_on_after(self._options_timeout_s):
            response = await self._channel.send(Request("OPTIONS", target_of(route), (_JSON,)))
            await response.body.aclose()
            return 200 <= response.status < 300 or response.status == _NOT_ALLOWED
        raise DriverError(
            f"the app did not answer OPTIONS /{route} within {self._options_timeout_s:g} s "
            "(--app-binding-options-timeout)"
        )

    async def deliver(self, event: Event, *, strict: bool) -> bytes:
        request = Request("POST", target_of(event.route), self._headers(event), Body(event.data))
        response = await self._channel.send(request)
        body = await _read(response)
        if response.status == 200 or (200 < response.status < 300 and not strict):
            return body
        text = f": {body[:512].decode('utf-8', 'replace')}" if body else ""
        raise NotTaken(f"the app answered {response.status} to POST /{event.route}{text}", code=response.status)

    def _headers(self, event: Event) -> list[Header]:
        headers = [_JSON, *metadata_headers(event.metadata)] if event.metadata else [_JSON]
        came = {name: value.decode("latin-1") for name, value in headers if name in _TRACE}
        trace = self._tracer.continued(came.get(b"traceparent", ""), came.get(b"tracestate", ""), "")
        headers = [header for header in headers if header[0] not in _TRACE] if came else headers
        if trace.traceparent:
            headers.append((b"traceparent", trace.traceparent.encode()))
            if trace.tracestate:
                headers.append((b"tracestate", trace.tracestate.encode("ascii", "replace")))
        return headers


async def _read(response: Response) -> bytes:
    body = response.body
    try:
        return body.data if body.buffered else await body.read(ANSWER_BYTES_MAX)
    except BodyTooLarge:
        raise NotTaken(f"the app's answer is larger than {ANSWER_BYTES_MAX} bytes") from None
    finally:
        await body.aclose()


def target_of(route: str) -> bytes:
    """A route as a request target: with its slash, and with what a target cannot hold escaped."""
    return quote("/" + route.lstrip("/"), safe="/?&=%:@!$'()*+,;~-._").encode()
