"""Single values as Dapr writes them in flags, metadata and YAML: booleans, durations, sizes, nearest names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

_TRUTHY: Final = frozenset({"y", "yes", "true", "t", "on", "1"})
_GO_BOOL: Final = {
    **dict.fromkeys(("1", "t", "T", "true", "TRUE", "True"), True),
    **dict.fromkeys(("0", "f", "F", "false", "FALSE", "False"), False),
}
_UNIT_NS: Final = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
# Possessive: digits are never given back, so that a long row of them is refused as fast as it is read.
_DURATION_PART: Final = re.compile(r"(\d++(?:\.\d*+)?+|\.\d++)(ns|us|µs|μs|ms|s|m|h)")
_QUANTITY: Final = re.compile(
    r"([+-]?+(?:\d++(?:\.\d*+)?+|\.\d++))(?:([eE][+-]?+\d++)|(Ki|Mi|Gi|Ti|Pi|Ei|n|u|m|k|M|G|T|P|E))?+"
)
_QUANTITY_FACTOR: Final = {
    None: 1.0,
    "n": 1e-9,
    "u": 1e-6,
    "m": 1e-3,
    "k": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
    "P": 1e15,
    "E": 1e18,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
    "Pi": 2**50,
    "Ei": 2**60,
}


def truthy(text: str) -> bool:
    """Dapr's loose boolean: y, yes, true, t, on, 1 in any case; everything else is false."""
    return text.strip().lower() in _TRUTHY


def go_bool(text: str) -> bool:
    """Go's strict boolean (strconv.ParseBool). Raises ValueError."""
    try:
        return _GO_BOOL[text]
    except KeyError:
        raise ValueError(f"{text!r} is no boolean; expected one of 1, t, true, 0, f, false") from None


def go_duration_s(text: str) -> float:
    """A Go duration such as `300ms`, `1h30m`, `-1.5s` or `0`, in seconds. Raises ValueError."""
    rest = text
    sign = 1
    if rest[:1] in ("+", "-"):
        sign = -1 if rest[0] == "-" else 1
        rest = rest[1:]
    if rest == "0":
        return 0.0
    total_ns = 0.0
    position = 0
    while part := _DURATION_PART.match(rest, position):
        total_ns += float(part[1]) * _UNIT_NS[part[2]]
        position = part.end()
    if position != len(rest) or not rest:
        raise ValueError(f"{text!r} is no duration; expected one such as 300ms, 5s or 1h30m")
    if total_ns >= 2**63:
        raise ValueError(f"{text!r} is too long a duration; at most 292 years can be counted")
    return sign * total_ns / 1e9


def duration_s(text: str, *, plain_unit_s: float = 1.0) -> float:
    """A Go duration, or a bare integer counted in `plain_unit_s` (components: seconds; resiliency: milliseconds)."""
    stripped = text.strip()
    if re.fullmatch(r"[+-]?\d+", stripped):
        return int(stripped) * plain_unit_s
    return go_duration_s(stripped)


def quantity_bytes(text: str) -> int:
    """A Kubernetes quantity such as `4Mi`, `16Ki`, `1G` or `4194304`, rounded up to whole bytes. Raises ValueError."""
    match = _QUANTITY.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no size; expected one such as 4Mi, 16Ki or 4194304")
    number = float(match[1] + (match[2] or "")) * _QUANTITY_FACTOR[match[3]]
    if abs(number) >= 2**63:
        raise ValueError(f"{text!r} is too large a size; expected one such as 4Mi, 16Ki or 4194304")
    return int(number) if number == int(number) else int(number) + (number > 0)


def format_go_duration(seconds: float) -> str:
    """The text that Go prints for a duration: `5s`, `500ms`, `1m0s`, `1h30m0s`."""
    ns = round(seconds * 1e9)
    if ns == 0:
        return "0s"
    sign = "-" if ns < 0 else ""
    ns = abs(ns)
    if ns < 1_000_000_000:
        for unit, size in (("ms", 1_000_000), ("µs", 1_000), ("ns", 1)):
            if ns >= size:
                return f"{sign}{_decimal(ns, size)}{unit}"
    hours, rest = divmod(ns, _UNIT_NS["h"])
    minutes, rest = divmod(rest, _UNIT_NS["m"])
    text = f"{_decimal(rest, 1_000_000_000)}s"
    if hours:
        return f"{sign}{hours}h{minutes}m{text}"
    return f"{sign}{minutes}m{text}" if minutes else f"{sign}{text}"


def _decimal(value: int, unit: int) -> str:
    whole, fraction = divmod(value, unit)
    if not fraction:
        return str(whole)
    return f"{whole}.{str(fraction).rjust(len(str(unit)) - 1, '0').rstrip('0')}"


def nearest(word: str, known: Iterable[str]) -> str:
    """` (did you mean "x"?)` for the closest known word, or nothing. Made to end an error message."""
    import difflib  # only mistakes need it

    names = {name.lower(): name for name in known}
    found = difflib.get_close_matches(word.lower(), names, n=1, cutoff=0.6)
    return f' (did you mean "{names[found[0]]}"?)' if found else ""
