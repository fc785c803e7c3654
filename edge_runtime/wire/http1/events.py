"""What a reader answers: heads, signals, and the error for input that is no HTTP/1.1."""

from __future__ import annotations

import enum
from typing import Final, NamedTuple

Header = tuple[bytes, bytes]


class Limits(NamedTuple):
    """How much of a message's framing is taken before it is refused. Bodies have no limit here: they are streamed."""

    header_bytes_max: int = 8192  # start line and header block together, up to and with the blank line
    header_count_max: int = 128
    chunk_extension_bytes_max: int = 4096  # of one message, all its chunks together
    trailer_bytes_max: int = 8192


class RequestHead(NamedTuple):
    """A request's start line and headers. `body_length` is 0 for no body and None for a chunked one."""

    method: str
    target: bytes
    headers: list[Header]
    http_version: bytes
    keep_alive: bool
    expect_continue: bool
    body_length: int | None


class ResponseHead(NamedTuple):
    """A final response's start line and headers. `body_length` None: chunked, or everything until the end of input."""

    status: int
    reason: bytes
    headers: list[Header]
    http_version: bytes
    keep_alive: bool
    body_length: int | None


class Signal(enum.Enum):
    """Everything that a reader can say in one word."""

    END = "the message is complete; the next event belongs to the next message"
    NEED_DATA = "feed me"
    CLOSED = "the input ended between two messages"


END: Final = Signal.END
NEED_DATA: Final = Signal.NEED_DATA
CLOSED: Final = Signal.CLOSED


class ProtocolError(Exception):
    """Input that cannot be read as HTTP/1.1. `status` is what a server answers (a client's caller: 502)."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


class IncompleteMessage(ProtocolError):
    """The input ended inside a message."""


class Http2Preface(ProtocolError):
    """The client speaks HTTP/2 with prior knowledge: who can, goes on with `RequestReader.unread()`."""

    def __init__(self) -> None:
        super().__init__(505, "HTTP/2 is not served here")
