"""The `grpc-timeout` header: up to eight digits and a unit."""

from __future__ import annotations

from typing import Final

_UNIT_S: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_VALUE_BYTES_MAX: Final = 9
_NUMBER_MAX: Final = 99_999_999
_FINER: Final = ((1e9, b"n"), (1e6, b"u"), (1e3, b"m"), (1.0, b"S"), (1 / 60, b"M"))


def decode_timeout(value: bytes) -> float:
    """Seconds. Raises ValueError with what is wrong."""
    text = value.decode("latin-1")
    if len(value) < 2:
        raise ValueError(f'transport: timeout string is too short: "{text}"')
    if len(value) > _VALUE_BYTES_MAX:
        raise ValueError(f'transport: timeout string is too long: "{text}"')
    unit = _UNIT_S.get(value[-1:])
    if unit is None:
        raise ValueError(f'transport: timeout unit is not recognized: "{text}"')
    if not value[:-1].isdigit():
        raise ValueError(f'strconv.ParseUint: parsing "{text[:-1]}": invalid syntax')
    return int(value[:-1]) * unit


def encode_timeout(seconds: float) -> bytes:
    """The finest unit that holds it, rounded up, because a deadline must not come early."""
    for per_second, unit in _FINER:
        number = -int(-max(seconds, 0.0) * per_second // 1)
        if number <= _NUMBER_MAX:
            return b"%d%b" % (number, unit)
    return b"%dH" % min(-int(-seconds // 3600), _NUMBER_MAX)
