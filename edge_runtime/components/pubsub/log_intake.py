"""What lies between the log and a group's plan: records handed over by publishers of this process, or read ahead.

A group that is close behind gets its messages from memory; what is further back is read from the file, a bounded piece
at a time.
"""

from __future__ import annotations

from typing import Final

from edge_runtime.store.log import Log, Record, Topic
from edge_runtime.store.log_plan import Plan

PARTITION_KEY: Final = "partitionKey"
# What is kept in memory for each group; beyond it the file is read again.
BUFFER_BYTES: Final = 512 * 1024
BUFFER_COUNT: Final = 256


class Intake:
    """The records of one group that are read or handed over and not delivered yet."""

    def __init__(self, log: Log, topic: Topic) -> None:
        self._log = log
        self._topic = topic
        self._records: dict[int, Record] = {}
        self._buffered_bytes = 0
        self._ahead = 0  # the newest place that is known to exist
        self._unseen = False  # the file may hold something newer still
        self._read_end: int | None = None  # the topic's length before the plan's next place, when known

    def clear(self) -> None:
        self._records.clear()
        self._buffered_bytes = 0

    def hand_over(self, record: Record, next_place: int) -> None:
        """Published in this process: spare the file a read when there is space and the group still wants it."""
        if record.place > self._ahead:
            self._ahead = record.place
        if record.place >= next_place and self._buffered_bytes < BUFFER_BYTES and len(self._records) < BUFFER_COUNT:
            self._buffer(record)

    def look_again(self) -> None:
        """The file may hold something new."""
        self._unseen = True

    def has_more(self, next_place: int) -> bool:
        return self._unseen or self._ahead >= next_place

    def fill(self, plan: Plan) -> bool:
        """Take more from the log into the plan. False when there is no more, or no room."""
        if not plan.room:
            return False
        if plan.next not in self._records and not (self.has_more(plan.next) and self._read(plan)):
            return False
        records = self._records
        while plan.room and (record := records.get(plan.next)) is not None:
            plan.offer(record.place, record.metadata.get(PARTITION_KEY))
            self._read_end = record.end_bytes
            if self._buffered_bytes > 2 * BUFFER_BYTES:
                self._unbuffer(record.place)
        return True

    def collect(self, place: int) -> Record | None:
        """The record, to be delivered now; None when the log has forgotten it."""
        return self._unbuffer(place) or self._log.read_one(self._topic, place)

    def _read(self, plan: Plan) -> bool:
        records = self._log.read(self._topic, plan.next, self._read_end)
        if not records:
            self._unseen = False
            self._ahead = plan.next - 1
            return False
        # What is missing before the first was trimmed: those who wanted it have it in the table of drops.
        if records[0].place > plan.next:
            plan.skip_to(records[0].place)
            self._forget_skipped(plan)
        for record in records:
            self._buffer(record)
        self._ahead = max(self._ahead, records[-1].place)
        return True

    def _forget_skipped(self, plan: Plan) -> None:
        for place in [place for place in self._records if place < plan.next and place not in plan.in_hand]:
            self._unbuffer(place)

    def _buffer(self, record: Record) -> None:
        if record.place not in self._records:
            self._records[record.place] = record
            self._buffered_bytes += len(record.data or b"")

    def _unbuffer(self, place: int) -> Record | None:
        record = self._records.pop(place, None)
        if record is not None:
            self._buffered_bytes -= len(record.data or b"")
        return record
