"""The numbers of HTTP/2 (RFC 9113): frame types, flags, settings and error codes, and the fault."""

from __future__ import annotations

from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA: Final = 0
HEADERS: Final = 1
PRIORITY: Final = 2
RST_STREAM: Final = 3
SETTINGS: Final = 4
PUSH_PROMISE: Final = 5
PING: Final = 6
GOAWAY: Final = 7
WINDOW_UPDATE: Final = 8
CONTINUATION: Final = 9

FLAG_ACK: Final = 0x01
FLAG_END_STREAM: Final = 0x01
FLAG_END_HEADERS: Final = 0x04
FLAG_PADDED: Final = 0x08
FLAG_PRIORITY: Final = 0x20

SETTING_HEADER_TABLE_SIZE: Final = 1
SETTING_ENABLE_PUSH: Final = 2
SETTING_MAX_CONCURRENT_STREAMS: Final = 3
SETTING_INITIAL_WINDOW_SIZE: Final = 4
SETTING_MAX_FRAME_SIZE: Final = 5
SETTING_MAX_HEADER_LIST_SIZE: Final = 6

NO_ERROR: Final = 0
PROTOCOL_ERROR: Final = 1
INTERNAL_ERROR: Final = 2
FLOW_CONTROL_ERROR: Final = 3
SETTINGS_TIMEOUT: Final = 4
STREAM_CLOSED: Final = 5
FRAME_SIZE_ERROR: Final = 6
REFUSED_STREAM: Final = 7
CANCEL: Final = 8
COMPRESSION_ERROR: Final = 9
CONNECT_ERROR: Final = 10
ENHANCE_YOUR_CALM: Final = 11
INADEQUATE_SECURITY: Final = 12
HTTP_1_1_REQUIRED: Final = 13

_NAMES: Final = (
    "NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT", "STREAM_CLOSED",
    "FRAME_SIZE_ERROR", "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED",
)  # fmt: skip

WINDOW_DEFAULT: Final = 65535
WINDOW_MAX: Final = 2**31 - 1
FRAME_BYTES_DEFAULT: Final = 16384
FRAME_BYTES_MOST: Final = 2**24 - 1
STREAM_ID_MAX: Final = 2**31 - 1


def code_name(code: int) -> str:
    """As the standard writes it; the number when it has none."""
    return _NAMES[code] if 0 <= code < len(_NAMES) else f"error code {code}"


class ConnectionFault(Exception):
    """The peer broke a rule that ends the connection. The GOAWAY that says so is among the output already."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code_name(code)}: {text}")
        self.code = code
        self.text = text
