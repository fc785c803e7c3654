"""Records that are ours alone: CBOR with a checksum in front, so that damage stays inside one record and is seen.

A record is a format byte, a CRC-32 of the rest in four bytes, and CBOR.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any, Final

from edge_runtime.model.errors import DriverError

_FORMAT: Final = 1
_HEAD: Final = struct.Struct(">BI")


class DamagedRecord(DriverError):
    """The bytes are not what was written."""

    permanent = True


def seal_record(value: Any) -> bytes:
    """The record that holds a value: None, numbers, text, bytes, lists and maps of them."""
    import cbor2  # a megabyte: only what keeps records pays for it

    body = cbor2.dumps(value)
    return _HEAD.pack(_FORMAT, zlib.crc32(body)) + body


def open_record(record: bytes) -> Any:
    """The value in a record. Raises DamagedRecord when a single bit is another one than was written."""
    import cbor2

    if len(record) <= _HEAD.size:
        raise DamagedRecord(f"a record of {len(record)} bytes is cut off")
    record_format, checksum = _HEAD.unpack_from(record)
    if record_format != _FORMAT:
        raise DamagedRecord(f"a record has format {record_format}; expected {_FORMAT}")
    body = record[_HEAD.size :]
    if zlib.crc32(body) != checksum:
        raise DamagedRecord(f"a record of {len(record)} bytes does not match its checksum")
    return cbor2.loads(body)
