"""HTTP/2 without I/O: frames, flow control, header blocks and the rules of both, for either end of a connection."""

from __future__ import annotations

from edge_runtime.wire.http2.codes import ConnectionFault, code_name
from edge_runtime.wire.http2.connection import Http2Connection, Owner, StreamState, WireLimits
from edge_runtime.wire.http2.engine import Engine, Header, engine
from edge_runtime.wire.http2.guard import GuardLimits

__all__ = [
    "ConnectionFault",
    "Engine",
    "GuardLimits",
    "Header",
    "Http2Connection",
    "Owner",
    "StreamState",
    "WireLimits",
    "code_name",
    "engine",
]
