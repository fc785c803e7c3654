"""How much one gRPC call may take and say."""

from __future__ import annotations

from typing import Final, NamedTuple

_UNLIMITED: Final = 2**32 - 1  # a message's length has four bytes


class GrpcLimits(NamedTuple):
    """`message_bytes_max` is for either direction, before and after compression; None is no limit.

    `trailer_bytes_max` bounds what an error says: clients of gRPC's C core refuse more than 8 KiB of metadata.
    `reply_stall_s` is how long a unary reply waits for any credit of the caller, who may live and answer pings; then
    the call is reset. A call that streams has no such limit.
    """

    message_bytes_max: int | None = 4 * 2**20
    trailer_bytes_max: int = 8192
    reply_stall_s: float = 60.0

    @property
    def receive_max(self) -> int:
        return _UNLIMITED if self.message_bytes_max is None else self.message_bytes_max

    @property
    def send_max(self) -> int:
        return _UNLIMITED if self.message_bytes_max is None else self.message_bytes_max
