"""Header lines by h11: the engine where httptools has no wheel, and the reference for what both refuse.

h11 mends some heads (it merges content-lengths that are equal). What is mended is not what came in, so it is refused.
"""

from __future__ import annotations

import h11

from edge_runtime.wire.http1.events import Header
from edge_runtime.wire.http1.grammar import Refused, headers_by_gate, lower_coding

_QUESTION = h11.Request(method="GET", target="/", headers=[("host", "x")])


def parse_request(head: bytes) -> list[Header]:
    """The headers of a request's head."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=len(head) + 1)
    return _parse(connection, head)


def parse_response(head: bytes) -> list[Header]:
    """The headers of a response's head."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=len(head) + 1)
    connection.send(_QUESTION)
    return _parse(connection, head)


def _parse(connection: h11.Connection, head: bytes) -> list[Header]:
    connection.receive_data(head)
    try:
        event = connection.next_event()
    except h11.RemoteProtocolError as error:
        raise Refused(str(error)) from None
    if not isinstance(event, h11.Request | h11.Response | h11.InformationalResponse):
        raise Refused(f"no head but {event!r}")
    headers = headers_by_gate(head[head.index(b"\n") + 1 :])
    lower_coding(headers)
    if headers != list(event.headers):
        raise Refused("headers that had to be mended")
    return headers
