"""The deadline that travels with a call."""

from __future__ import annotations

import pytest

from edge_runtime.wire.grpc.timeouts import decode_timeout, encode_timeout


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(b"2H", 7200), (b"3M", 180), (b"10S", 10), (b"250m", 0.25), (b"7u", 7e-6), (b"0n", 0), (b"99999999S", 99999999)],
)
def test_every_unit_is_read(value: bytes, seconds: float) -> None:
    assert decode_timeout(value) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", 'transport: timeout string is too short: ""'),
        (b"S", 'transport: timeout string is too short: "S"'),
        (b"123456789S", 'transport: timeout string is too long: "123456789S"'),
        (b"12", 'transport: timeout unit is not recognized: "12"'),
        (b"1s", 'transport: timeout unit is not recognized: "1s"'),
        (b"-1S", 'strconv.ParseUint: parsing "-1": invalid syntax'),
        (b"1 S", 'strconv.ParseUint: parsing "1 ": invalid syntax'),
    ],
)
def test_a_malformed_one_is_refused(value: bytes, reason: str) -> None:
    with pytest.raises(ValueError) as refusal:
        decode_timeout(value)
    assert str(refusal.value) == reason


@pytest.mark.parametrize(
    ("seconds", "value"),
    [
        (0.5e-9, b"1n"), (0.05, b"50000000n"), (0.25, b"250000u"), (5, b"5000000u"), (300, b"300000m"),
        (200_000, b"200000S"), (2e8, b"3333334M"), (1e12, b"99999999H"), (0, b"0n"), (-1, b"0n"),
    ],
)  # fmt: skip
def test_the_finest_unit_is_written(seconds: float, value: bytes) -> None:
    assert encode_timeout(seconds) == value
