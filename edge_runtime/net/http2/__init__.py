"""HTTP/2 over trio: `Http2Server` serves connections, `open_http2_client` makes one; both deal in `Stream`s."""

from __future__ import annotations

from edge_runtime.net.http2.client import Http2Client, http2_tls, open_http2_client
from edge_runtime.net.http2.errors import ConnectionLost, Http2Error, StreamReset
from edge_runtime.net.http2.limits import Http2Limits
from edge_runtime.net.http2.server import Http2Server
from edge_runtime.net.http2.stream import Stream

__all__ = [
    "ConnectionLost",
    "Http2Client",
    "Http2Error",
    "Http2Limits",
    "Http2Server",
    "Stream",
    "StreamReset",
    "http2_tls",
    "open_http2_client",
]
