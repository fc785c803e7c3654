"""Where an answer sends its caller on to, by the rules of Go's client: 307 and 308 keep method and body, others GET."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from edge_runtime.model.errors import DriverError
from edge_runtime.model.http import EMPTY, Request, Response
from edge_runtime.net.connections import Origin
from edge_runtime.net.urls import Url, redirected

REDIRECTS_MAX: Final = 10
# Not shown to another host than the one they were meant for, nor in clear.
PRIVATE: Final = frozenset({b"authorization", b"cookie", b"www-authenticate"})
_ABOUT_BODY: Final = frozenset({b"content-type", b"content-encoding", b"content-language", b"content-location"})


def redirection(
    url: Url, request: Request, response: Response, private: frozenset[bytes] = PRIVATE
) -> tuple[Url, Request] | None:
    """The next request; None when the answer sends nobody on, or the body is gone. Raises `DriverError`."""
    location = response.header(b"location")
    if response.status not in (301, 302, 303, 307, 308) or not location:
        return None
    keeps = response.status in (307, 308)
    if keeps and not request.body.buffered:
        return None
    try:
        to = redirected(url, request.target, location)
    except ValueError as error:
        raise DriverError(f"the answer redirects to a place that cannot be used: {error}") from None
    trusted = to.origin.host == url.origin.host and (to.origin.scheme == "https" or url.origin.scheme == "http")
    headers = [header for header in request.headers if trusted or header[0] not in private]
    target = (to.path or b"/") + to.query
    if keeps or request.method in ("GET", "HEAD"):
        return to, Request(request.method, target, headers, request.body)
    return to, Request("GET", target, [header for header in headers if header[0] not in _ABOUT_BODY], EMPTY)


async def follow(
    send: Callable[[Origin, Request], Awaitable[Response]], url: Url, request: Request, private: frozenset[bytes]
) -> Response:
    """The first answer that is no redirect, or that cannot be followed. Raises `DriverError`."""
    for _ in range(REDIRECTS_MAX):
        response = await send(url.origin, request)
        try:
            following = redirection(url, request, response, private)
        except DriverError:
            await response.body.aclose()
            raise
        if following is None:
            return response
        await response.body.aclose()
        url, request = following
    raise DriverError(f"stopped after {REDIRECTS_MAX} redirects")
