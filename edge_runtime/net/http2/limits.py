"""What one HTTP/2 connection takes, and for how long it waits."""

from __future__ import annotations

from typing import NamedTuple

from edge_runtime.wire.http2 import GuardLimits, WireLimits


class Http2Limits(NamedTuple):
    """When it is reached: streams above the number are refused (REFUSED_STREAM) or, on our side, wait for a free one;
    header lists above theirs reset the stream, above twice that they end the connection; windows hold the peer back;
    a peer that does not read is held back at `write_buffer_bytes_max` and given up at twice that, or after
    `write_stall_s`; while more than `waiting_bytes_max` wait for its credit, no further stream is begun; what comes too
    often ends the connection with ENHANCE_YOUR_CALM.
    """

    streams_max: int = 256
    header_list_bytes_max: int = 65536
    stream_window_bytes: int = 131072  # at least 65535
    connection_window_bytes: int = 33554432  # of all streams, so that none that is left unread holds up another
    frame_bytes_max: int = 16384
    write_buffer_bytes_max: int = 524288
    waiting_bytes_max: int = 16777216  # of all streams together, beside the buffer
    write_stall_s: float = 60.0  # for the next 64 KiB
    preface_timeout_s: float = 10.0  # until the peer's settings are here
    keepalive_idle_s: float = 10.0  # without anything from the peer, before it is asked; 0: never
    keepalive_timeout_s: float = 5.0  # for its answer
    idle_max_s: float = 180.0  # without any stream, before a server says goodbye; 0: never
    ping_min_interval_s: float = 8.0  # between pings of a client; the third in a row that comes sooner is too many
    count_interval_s: float = 10.0  # what the following numbers are for
    resets_max: int = 1000  # streams that are reset before their answer has begun, or malformed
    settings_max: int = 100
    pings_max: int = 1000  # not counted: the first after headers or data of ours
    useless_frames_max: int = 10000  # empty DATA, PRIORITY, unknown types, frames for streams that are over; …
    useless_frames_per_stream: int = 8  # … and so many more for each stream that is opened

    def for_wire(self, client: bool) -> WireLimits:
        """What of it the wire knows."""
        guard = GuardLimits(
            self.count_interval_s, self.resets_max, self.settings_max, self.pings_max, self.useless_frames_max,
            self.useless_frames_per_stream, 0.0 if client else self.ping_min_interval_s,
        )  # fmt: skip
        return WireLimits(
            self.streams_max, self.header_list_bytes_max, self.stream_window_bytes, self.connection_window_bytes,
            self.frame_bytes_max, guard,
        )  # fmt: skip
