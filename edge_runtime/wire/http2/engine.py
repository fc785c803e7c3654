"""The header compression (HPACK) of HTTP/2: jh2's, which is native, or the one of h2, which is Python.

Only the codec is taken from either library. Their connection objects cost 65 to 125 µs a call, for frames, flags and
two state machines as objects; `connection.py` does the same work in a tenth of that, over either codec.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Final, NamedTuple

from edge_runtime.wire.http2.codes import COMPRESSION_ERROR, ENHANCE_YOUR_CALM, ConnectionFault

Header = tuple[bytes, bytes]
# Never put into a compression table, so that nobody can find them out by the size of what is sent.
_SENSITIVE: Final = frozenset((b"authorization", b"cookie", b"set-cookie", b"dapr-api-token"))

_TABLE_BYTES_MAX: Final = 4096
_UNREADABLE: Final = "a header block cannot be decompressed"
_REFERENCES: Final = bytes(range(0x80, 0xFF))  # each one header of the table
_NUMBER_BYTES_MAX: Final = 5
_REPEATED_MAX: Final = 8
_REPEATED_BYTES_MAX: Final = 64  # of a block
_REPEATED_LIST_BYTES_MAX: Final = 4096  # of what it means: a reference is one byte, and its header may be thousands


class Encoder:
    """Compresses the header blocks of one direction of a connection."""

    __slots__ = ("_codec", "_encode", "_lowest", "_table_bytes")

    def __init__(self, codec: Any) -> None:
        self._codec = codec
        self._encode: Callable[[list[tuple[bytes, bytes, bool]]], bytes] = codec.encode
        self._table_bytes = _TABLE_BYTES_MAX  # as the peer wants it for the next block
        self._lowest: int | None = None  # of what it has wanted since the last block; None: no change

    def encode(self, headers: Sequence[Header]) -> bytes:
        if self._lowest is not None:
            self._announce_table()
        return self._encode([(name, value, name in _SENSITIVE) for name, value in headers])

    def set_table_bytes(self, table_bytes: int) -> None:
        """The peer allows this much, of which no more than the usual is used."""
        size = min(table_bytes, _TABLE_BYTES_MAX)
        if self._lowest is not None or size != self._table_bytes:
            self._lowest = size if self._lowest is None else min(size, self._lowest)
            self._table_bytes = size

    def _announce_table(self) -> None:
        # The codecs announce each size that they are told, but a peer must not hear of one that it has taken back.
        if self._lowest != self._table_bytes:
            self._codec.header_table_size = self._lowest
        self._codec.header_table_size = self._table_bytes
        self._lowest = None


class Repeated(list[Header]):
    """A header list that is likely to come again, as the same object. Whoever has found it well formed says so."""

    __slots__ = ("sound_as",)

    def __init__(self, headers: list[Header]) -> None:
        super().__init__(headers)
        self.sound_as = ""  # request, response or trailers


class Decoder:
    """Decompresses the header blocks of the other direction. Of no use after a fault.

    Who calls the same again and again sends the same block of references into the table, which means the same for as
    long as the table does not change; only a block with something else in it can change that.
    """

    __slots__ = ("_decode", "_oversized", "_repeated")

    def __init__(self, codec: Any, oversized: type[Exception]) -> None:
        self._decode = codec.decode
        self._oversized = oversized
        self._repeated: dict[bytes, Repeated] = {}

    def decode(self, block: bytes) -> list[Header]:
        """The headers, for reading only."""
        repeated = self._repeated
        known = repeated.get(block)
        if known is not None:
            return known
        if block.translate(None, _REFERENCES):
            repeated.clear()
            return self._decoded(block)
        headers = Repeated(self._decoded(block))
        if (
            len(repeated) < _REPEATED_MAX
            and len(block) <= _REPEATED_BYTES_MAX
            and sum([len(name) + len(value) for name, value in headers]) <= _REPEATED_LIST_BYTES_MAX
        ):
            repeated[block] = headers
        return headers

    def _decoded(self, block: bytes) -> list[Header]:
        if is_cut_off(block):
            raise ConnectionFault(COMPRESSION_ERROR, _UNREADABLE)
        try:
            return [(field[0], field[1]) for field in self._decode(block, raw=True)]
        except self._oversized:
            raise ConnectionFault(ENHANCE_YOUR_CALM, "the header list is too large") from None
        except Exception as error:
            raise ConnectionFault(COMPRESSION_ERROR, _UNREADABLE) from error
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # a bug of jh2 that is not known yet
                raise
            raise ConnectionFault(COMPRESSION_ERROR, _UNREADABLE) from None


def is_cut_off(block: bytes) -> bool:
    """Whether the last header of a block is not whole, or a number has no end.

    jh2 panics at some of those, and Rust then writes to stderr.
    """
    size = len(block)
    at = size - len(block.lstrip(_REFERENCES))
    while at < size:
        first = block[at]
        most = 0x7F if first >= 0x80 else 0x3F if first >= 0x40 else 0x1F if first >= 0x20 else 0x0F
        at += 1
        if first & most == most:
            at = _end_of_number(block, at)
        if first < 0x20 or 0x40 <= first < 0x80:
            if not first & most:
                at = _end_of_string(block, at)
            at = _end_of_string(block, at)
    return at > size


def _end_of_string(block: bytes, at: int) -> int:
    """Behind it; beyond the block when it is not all there."""
    if at >= len(block):
        return len(block) + 1
    size = block[at] & 0x7F
    at += 1
    if size == 0x7F:
        begin = at
        at = _end_of_number(block, at)
        for number, byte in enumerate(block[begin:at]):
            size += (byte & 0x7F) << 7 * number
    return at + size


def _end_of_number(block: bytes, at: int) -> int:
    """Behind the bytes of a number that follow its first; beyond the block when they are not all there, or too many."""
    for byte in block[at : at + _NUMBER_BYTES_MAX]:
        at += 1
        if byte < 0x80:
            return at
    return len(block) + 1


class Engine(NamedTuple):
    """One library's codec."""

    name: str
    new_encoder: Callable[[], Encoder]
    new_decoder: Callable[[int], Decoder]  # with the bytes of the largest header list


@cache
def engine(name: str | None = None) -> Engine:
    """The engine of that name, "jh2" or "h2". None: jh2 where it has its native module, else h2."""
    if name is None:
        try:
            return _jh2()
        except ImportError:
            return _h2()
    if name == "jh2":
        return _jh2()
    if name == "h2":
        return _h2()
    raise ValueError(f"no HTTP/2 engine is called {name!r}")


def _jh2() -> Engine:
    from jh2 import _hazmat  # type: ignore[import-untyped]

    def new_decoder(header_list_bytes_max: int) -> Decoder:
        return Decoder(_hazmat.Decoder(header_list_bytes_max), _hazmat.OversizedHeaderListError)

    return Engine("jh2", lambda: Encoder(_hazmat.Encoder()), new_decoder)


def _h2() -> Engine:
    import hpack

    def new_decoder(header_list_bytes_max: int) -> Decoder:
        return Decoder(hpack.Decoder(header_list_bytes_max), hpack.OversizedHeaderListError)

    return Engine("h2", lambda: Encoder(hpack.Encoder()), new_decoder)
