"""How a stream of HTTP/2 can fail."""

from __future__ import annotations

from edge_runtime.model.errors import DriverError
from edge_runtime.wire.http2 import code_name


class Http2Error(DriverError):
    """`unprocessed`: the peer has done nothing for the stream, so that the same may be sent again anywhere."""

    unprocessed: bool = False


class StreamReset(Http2Error):
    """One side has ended the stream early; `reset_code` says why, as HTTP/2 numbers it."""

    def __init__(self, reset_code: int, *, remote: bool, unprocessed: bool = False) -> None:
        super().__init__(f"stream reset by {'the peer' if remote else 'us'}: {code_name(reset_code)}")
        self.reset_code = reset_code
        self.remote = remote
        self.unprocessed = unprocessed


class ConnectionLost(Http2Error):
    """The connection has ended, and all its streams with it."""

    def __init__(self, reason: str, *, unprocessed: bool = False) -> None:
        super().__init__(reason)
        self.unprocessed = unprocessed
