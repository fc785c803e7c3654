"""Where messages begin in bytes that are passed on as they come: lengths are read, nothing is kept or cut."""

from __future__ import annotations

from typing import Final

from edge_runtime.wire.grpc.frames import HEAD_BYTES, BadFrame, MessageTooLarge

_FLAG_MAX: Final = 1


class Boundaries:
    """Follows one direction of a stream. `messages` have begun so far; their whole head has come."""

    __slots__ = ("_head", "_left", "_limit", "messages")

    def __init__(self, message_bytes_max: int | None = None) -> None:
        self._limit = message_bytes_max
        self._left = 0  # of the message that has begun
        self._head = b""  # what there is of the next one's head
        self.messages = 0

    @property
    def between(self) -> bool:
        """True between two messages, where a stream may end."""
        return not self._left and not self._head

    def feed(self, data: bytes) -> None:
        """The next bytes of the stream. Raises `MessageTooLarge` or `BadFrame`."""
        if self._left:
            if len(data) <= self._left:
                self._left -= len(data)
                return
            at = self._left
        else:
            at = 0
        if self._head:
            known = len(self._head)
            self._head += data[: HEAD_BYTES - known]
            if len(self._head) < HEAD_BYTES:
                return
            at = HEAD_BYTES - known + self._begin(self._head, 0)
            self._head = b""
        end = len(data)
        while at + HEAD_BYTES <= end:
            at += HEAD_BYTES + self._begin(data, at)
        if at < end:
            self._left, self._head = 0, data[at:]
        else:
            self._left = at - end

    def _begin(self, data: bytes, at: int) -> int:
        length = int.from_bytes(data[at + 1 : at + HEAD_BYTES], "big")
        if data[at] > _FLAG_MAX:
            raise BadFrame(f"grpc: received unexpected payload format {data[at]}")
        if self._limit is not None and length > self._limit:
            raise MessageTooLarge(length, self._limit)
        self.messages += 1
        return length
