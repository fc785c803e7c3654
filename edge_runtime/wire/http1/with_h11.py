"""Header lines by h11: the engine where httptools has no wheel, and the reference for what both refuse."""

from __future__ import annotations

import h11

from edge_runtime.wire.http1.events import Header
from edge_runtime.wire.http1.grammar import Refused

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
    if isinstance(event, h11.Request | h11.Response | h11.InformationalResponse):
        return list(event.headers)
    raise Refused(f"no head but {event!r}")
