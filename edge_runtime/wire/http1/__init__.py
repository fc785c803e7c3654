"""HTTP/1.1 without I/O: readers that turn bytes into events, writers that turn messages into bytes.

Two engines parse header lines: httptools where it can be imported, h11 everywhere else and as the reference. Everything
around them is shared, so that they accept, refuse and read the same bytes alike (see `grammar.py`).
"""

from __future__ import annotations

from typing import Literal

from edge_runtime.wire.http1.body import Chunks
from edge_runtime.wire.http1.events import (
    CLOSED,
    END,
    NEED_DATA,
    Header,
    Http2Preface,
    IncompleteMessage,
    Limits,
    ProtocolError,
    RequestHead,
    ResponseHead,
    Signal,
)
from edge_runtime.wire.http1.grammar import HeaderParser
from edge_runtime.wire.http1.reader import RequestReader, ResponseReader
from edge_runtime.wire.http1.writer import (
    CONTINUE,
    LAST_CHUNK,
    encode_chunk,
    encode_request,
    encode_response,
    encode_response_head,
)

__all__ = [
    "CLOSED",
    "CONTINUE",
    "END",
    "LAST_CHUNK",
    "NEED_DATA",
    "Chunks",
    "Engine",
    "Header",
    "Http2Preface",
    "IncompleteMessage",
    "Limits",
    "ProtocolError",
    "RequestHead",
    "RequestReader",
    "ResponseHead",
    "ResponseReader",
    "Signal",
    "encode_chunk",
    "encode_request",
    "encode_response",
    "encode_response_head",
    "new_request_reader",
    "new_response_reader",
]

Engine = Literal["httptools", "h11"]
_DEFAULTS = Limits()
_parsers: dict[Engine | None, tuple[HeaderParser, HeaderParser]] = {}


def new_request_reader(limits: Limits = _DEFAULTS, *, engine: Engine | None = None) -> RequestReader:
    """A reader for one connection of a server. `engine` None: the best that can be imported."""
    return RequestReader(_engine(engine)[0], limits)


def new_response_reader(limits: Limits = _DEFAULTS, *, engine: Engine | None = None) -> ResponseReader:
    """A reader for one connection of a client."""
    return ResponseReader(_engine(engine)[1], limits)


def _engine(name: Engine | None) -> tuple[HeaderParser, HeaderParser]:
    found = _parsers.get(name)
    if found is None:
        found = _parsers[name] = _load(name)
    return found


def _load(name: Engine | None) -> tuple[HeaderParser, HeaderParser]:
    if name != "h11":
        try:
            from edge_runtime.wire.http1 import with_httptools
        except ImportError:
            if name is not None:
                raise
        else:
            return with_httptools.parse_request, with_httptools.parse_response
    from edge_runtime.wire.http1 import with_h11

    return with_h11.parse_request, with_h11.parse_response
