"""Header lines by llhttp (httptools), the engine where its wheel exists.

A parser is made for each head and thrown away: it costs a quarter of a microsecond, and nothing of one message can
reach another. Bodies are read by `body.py`, so llhttp never sees them.
"""

from __future__ import annotations

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser, HttpResponseParser

from edge_runtime.wire.http1.events import Header
from edge_runtime.wire.http1.grammar import Refused


class _Headers:
    __slots__ = ("found",)

    def __init__(self) -> None:
        self.found: list[Header] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.found.append((name.lower(), value.strip()))


def parse_request(head: bytes) -> list[Header]:
    """The headers of a request's head."""
    headers = _Headers()
    try:
        HttpRequestParser(headers).feed_data(head)
    except HttpParserUpgrade:
        pass  # an offer that the head makes; taking it or not is not the parser's business
    except HttpParserError as error:
        raise Refused(str(error)) from None
    return headers.found


def parse_response(head: bytes) -> list[Header]:
    """The headers of a response's head."""
    headers = _Headers()
    try:
        HttpResponseParser(headers).feed_data(head)
    except HttpParserUpgrade:
        pass
    except HttpParserError as error:
        raise Refused(str(error)) from None
    return headers.found
