"""What gRPC's codecs write they read again, and nothing that arrives makes them fail in another way than their own."""

from __future__ import annotations

import gzip
import itertools
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.wire.grpc.frames import BadFrame, FrameReader, MessageTooLarge, encode_frame
from edge_runtime.wire.grpc.gzips import BadGzip, deflate, inflate
from edge_runtime.wire.grpc.metadata import (
    RESERVED,
    BadBinary,
    decode_metadata,
    decode_values,
    encode_binary,
    encode_metadata,
)
from edge_runtime.wire.grpc.status import (
    Ending,
    decode_message,
    encode_message,
    ending_from_head,
    ending_from_trailers,
)
from edge_runtime.wire.grpc.timeouts import decode_timeout, encode_timeout

LIMIT = 200
FRAMES = st.lists(st.tuples(st.booleans(), st.binary(max_size=LIMIT)), max_size=8)
NAMES = st.text(string.ascii_lowercase + string.digits + "-_.", min_size=1, max_size=20)
# What a header can hold: no control characters, no blanks at the ends.
TEXTS = st.text(st.characters(min_codepoint=32, exclude_characters="\x7f", exclude_categories=["Cs"])).map(
    lambda text: text.strip(" ")
)
FIELDS = st.lists(st.tuples(st.binary(max_size=30), st.binary(max_size=60)), max_size=5)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(places)]


@given(FRAMES, st.lists(st.integers(min_value=0), max_size=12))
def test_messages_do_not_care_about_cuts(frames: list[tuple[bool, bytes]], cuts: list[int]) -> None:
    reader = FrameReader(LIMIT)
    found = []
    for piece in pieces(b"".join(encode_frame(data, compressed) for compressed, data in frames), cuts):
        reader.feed(piece)
        while (frame := reader.next_frame()) is not None:
            found.append(frame)
    assert found == frames
    assert reader.empty


@given(st.binary(max_size=600), st.lists(st.integers(min_value=0), max_size=6))
def test_any_bytes_are_messages_or_refused(data: bytes, cuts: list[int]) -> None:
    def outcome(parts: list[bytes]) -> list[object]:
        reader = FrameReader(LIMIT)
        found: list[object] = []
        try:
            for part in parts:
                reader.feed(part)
                while (frame := reader.next_frame()) is not None:
                    found.append(frame)
        except (BadFrame, MessageTooLarge) as error:
            return [*found, str(error)]
        return [*found, reader.empty]

    assert outcome(pieces(data, cuts)) == outcome([data])


@given(st.lists(st.one_of(st.tuples(NAMES, TEXTS), st.tuples(NAMES.map("{}-bin".format), st.binary())), max_size=8))
def test_metadata_there_and_back(metadata: list[tuple[str, str | bytes]]) -> None:
    sent = []
    for key, value in metadata:
        if key.encode() not in RESERVED:
            sent.append((key, value.encode() if key.endswith("-bin") and isinstance(value, str) else value))
    assert decode_metadata(encode_metadata(metadata)) == sent


@given(FIELDS)
def test_any_fields_are_metadata_or_refused(fields: list[tuple[bytes, bytes]]) -> None:
    try:
        metadata = decode_metadata(fields)
    except BadBinary:
        assert any(name.endswith(b"-bin") for name, _ in fields)
    else:
        assert len(metadata) <= sum(1 + value.count(b",") for _, value in fields)


@given(st.lists(st.binary(), min_size=1), st.booleans())
def test_binary_values_may_be_joined_and_padded(values: list[bytes], padded: bool) -> None:
    encoded = [encode_binary(value) for value in values]
    if padded:
        encoded = [value + b"=" * (-len(value) % 4) for value in encoded]
    assert decode_values(b"x-bin", b",".join(encoded)) == values


@given(st.floats(min_value=1e-9, max_value=3.5e11))
def test_a_timeout_comes_late_but_hardly(seconds: float) -> None:
    value = encode_timeout(seconds)
    assert len(value) <= 9
    decoded = decode_timeout(value)
    assert decoded >= seconds * (1 - 1e-12)
    assert decoded == pytest.approx(seconds, rel=1e-4, abs=1e-9) or decoded - seconds <= 3600


@given(st.binary(max_size=12))
def test_any_timeout_is_a_number_or_refused(value: bytes) -> None:
    try:
        seconds = decode_timeout(value)
    except ValueError:
        return
    assert seconds >= 0


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_messages_there_and_back(message: str) -> None:
    value = encode_message(message)
    assert value.isascii()
    assert value == value.strip()
    assert decode_message(value) == message


@given(st.text(st.characters(exclude_categories=["Cs"])), st.integers(min_value=3, max_value=60))
def test_a_cut_message_is_its_beginning(message: str, bytes_max: int) -> None:
    value = encode_message(message, bytes_max)
    assert len(value) <= bytes_max
    decoded = decode_message(value)
    assert decoded == message or (decoded.endswith("...") and message.startswith(decoded[:-3]))


@given(FIELDS)
def test_any_trailers_have_a_meaning(fields: list[tuple[bytes, bytes]]) -> None:
    assert ending_from_trailers([*fields, (b"grpc-status", b"3")]) is not None
    assert isinstance(ending_from_head(fields), Ending | None)


@given(st.binary(max_size=1000))
def test_gzip_there_and_back(data: bytes) -> None:
    assert inflate(deflate(data), len(data)) == data
    assert inflate(gzip.compress(data), len(data)) == data


@given(st.binary(max_size=300), st.data())
def test_damaged_gzip_is_refused(data: bytes, draw: st.DataObject) -> None:
    packed = bytearray(deflate(data))
    place = draw.draw(st.integers(min_value=0, max_value=len(packed) - 1))
    packed[place] ^= draw.draw(st.integers(min_value=1, max_value=255))
    try:
        assert inflate(bytes(packed), 300) == data  # only in what the header says of no use
    except (BadGzip, MessageTooLarge):
        pass
