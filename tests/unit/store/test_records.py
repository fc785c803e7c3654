"""Records with a checksum."""

import pytest

from edge_runtime.store.records import DamagedRecord, open_record, seal_record


@pytest.mark.parametrize("value", [None, 1, "text", b"bytes", {"a": [1, 2.5, {"b": True}]}, 2**80])
def test_values_come_back(value: object) -> None:
    assert open_record(seal_record(value)) == value


def test_every_flipped_bit_is_seen() -> None:
    record = seal_record({"key": "value", "n": 5})
    for place in range(len(record) * 8):
        damaged = bytearray(record)
        damaged[place // 8] ^= 1 << place % 8
        with pytest.raises(DamagedRecord):
            open_record(bytes(damaged))


def test_every_cut_is_seen() -> None:
    record = seal_record([1, 2, 3])
    for size in range(len(record)):
        with pytest.raises(DamagedRecord):
            open_record(record[:size])
