"""W3C trace contexts: read from a request, continued with a child span, checked for form.

Dapr's rules: a `traceparent` that is not well-formed is ignored; without a tracer (no exporter, no sampling rate) the
incoming one goes through unchanged and none is made up; with one, a child span id is minted and a root trace begun.
"""

from __future__ import annotations

import random
import re
from typing import Final
from urllib.parse import unquote

from edge_runtime.model.trace import NO_TRACE, Trace

_TRACEPARENT: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
_BAGGAGE_KEY: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_BAGGAGE_VALUE: Final = re.compile(r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*")
TRACESTATE_MAX: Final = 512
BAGGAGE_BYTES_MAX: Final = 8192
BAGGAGE_MEMBERS_MAX: Final = 180


def valid_traceparent(text: str) -> bool:
    """Version 00 has exactly four parts; a later version may have more; ids are lower hex and not all zero."""
    match = _TRACEPARENT.fullmatch(text)
    return match is not None and not (text.startswith("00-") and match[1])


def valid_baggage(text: str) -> bool:
    """A W3C baggage header: `key=value;property,…` within its limits."""
    members = text.split(",")
    if len(text) > BAGGAGE_BYTES_MAX or len(members) > BAGGAGE_MEMBERS_MAX:
        return False
    return all(_valid_member(member) for member in members)


def _valid_member(member: str) -> bool:
    pair, *properties = member.split(";")
    key, separator, value = pair.partition("=")
    if not separator or not _BAGGAGE_KEY.fullmatch(key.strip()) or not _valid_value(value.strip()):
        return False
    for item in properties:
        name, separator, value = item.partition("=")
        if not _BAGGAGE_KEY.fullmatch(name.strip()) or (separator and not _valid_value(value.strip())):
            return False
    return True


def _valid_value(value: str) -> bool:
    if not _BAGGAGE_VALUE.fullmatch(value):
        return False
    return "%" not in value or "\ufffd" not in unquote(value)


class Tracer:
    """Makes span ids when `sampling` is set; passes what came otherwise.

    `sampling` is the fraction of root traces that carry the sampled flag; a child keeps its parent's.
    """

    def __init__(self, sampling: float | None) -> None:
        self.sampling = sampling
        self._random = random.Random()

    @property
    def minting(self) -> bool:
        return self.sampling is not None

    def continued(self, traceparent: str, tracestate: str, baggage: str) -> Trace:
        """The context for what this request does, from its headers."""
        valid = bool(traceparent) and valid_traceparent(traceparent)
        if self.sampling is None:
            if not valid:
                return Trace("", "", baggage) if baggage else NO_TRACE
            return Trace(traceparent, tracestate, baggage)
        if valid:
            return Trace(f"{traceparent[:36]}{self._id(64)}{traceparent[52:55]}", tracestate, baggage)
        flags = "01" if self._random.random() < self.sampling else "00"
        return Trace(f"00-{self._id(128)}-{self._id(64)}-{flags}", "", baggage)

    def child(self, trace: Trace) -> Trace:
        """A further span under `trace`, for a call made on its behalf."""
        if self.sampling is None or not trace.traceparent:
            return trace
        return Trace(
            f"{trace.traceparent[:36]}{self._id(64)}{trace.traceparent[52:55]}", trace.tracestate, trace.baggage
        )

    def _id(self, bits: int) -> str:
        return f"{self._random.getrandbits(bits) or 1:0{bits // 4}x}"


def traceparent_of(binary: bytes) -> str:
    """The `traceparent` that gRPC's binary context (`grpc-trace-bin`) stands for; empty when it is none."""
    if len(binary) < 29 or binary[:2] != b"\0\0" or binary[18] != 1 or binary[27] != 2:
        return ""
    return f"00-{binary[2:18].hex()}-{binary[19:27].hex()}-{binary[28]:02x}"


def binary_of(traceparent: str) -> bytes:
    """A well-formed `traceparent` as gRPC's binary context: version, then trace id, span id and flags by number."""
    trace_id, span_id, flags = traceparent[3:35], traceparent[36:52], traceparent[53:55]
    return b"\0\0%b\1%b\2%b" % (bytes.fromhex(trace_id), bytes.fromhex(span_id), bytes.fromhex(flags))
