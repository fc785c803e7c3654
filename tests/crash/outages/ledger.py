"""What was sent, what of it was acknowledged, and what arrived: the books of both ends, to be compared at the end."""

from __future__ import annotations

import itertools
import threading
from collections import Counter, defaultdict
from collections.abc import Mapping


class Ledger:
    """Numbered events of keys; each key has one sender, which counts upwards."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._lock = threading.Lock()
        self._tried: dict[str, int] = defaultdict(int)
        self._acknowledged: dict[str, list[int]] = defaultdict(list)
        self._arrived: dict[str, list[int]] = defaultdict(list)
        self.repeats = 0

    def attempt(self, key: str) -> int:
        """The next number of a key; from here on it may be in effect at the other end."""
        with self._lock:
            self._tried[key] += 1
            return self._tried[key]

    def acknowledge(self, key: str, number: int) -> None:
        with self._lock:
            self._acknowledged[key].append(number)

    def arrive(self, key: str, number: int) -> None:
        """In effect at the other end."""
        with self._lock:
            self._arrived[key].append(number)

    def repeat(self) -> None:
        """It came again, and was known."""
        with self._lock:
            self.repeats += 1

    @property
    def acknowledged(self) -> int:
        with self._lock:
            return sum(map(len, self._acknowledged.values()))

    @property
    def arrived(self) -> int:
        with self._lock:
            return sum(map(len, self._arrived.values()))

    def __str__(self) -> str:
        return f"{self.name}: {self.acknowledged} acknowledged, {self.arrived} in effect, {self.repeats} known repeats"

    def missing(self) -> dict[str, list[int]]:
        """Acknowledged, and not there (yet)."""
        with self._lock:
            lost = {key: sorted(set(told) - set(self._arrived[key])) for key, told in self._acknowledged.items()}
        return {key: numbers for key, numbers in lost.items() if numbers}

    def faults(self) -> list[str]:
        """Where the books differ, once all is quiet."""
        found = [f"{self.name}: {key}: acknowledged and lost: {lost[:20]}" for key, lost in self.missing().items()]
        for key, numbers in self._arrived.items():
            twice = [number for number, count in Counter(numbers).items() if count > 1]
            if twice:
                found.append(f"{self.name}: {key}: in effect more than once: {twice[:20]}")
            if numbers != sorted(numbers):
                falls = [(a, b) for a, b in itertools.pairwise(numbers) if a >= b]
                found.append(f"{self.name}: {key}: out of order: {falls[:20]}")
            if max(numbers) > self._tried[key]:
                found.append(f"{self.name}: {key}: nobody sent {max(numbers)}")
        return found


class Registers:
    """Keys of a store, each with one writer; every seventh write is a removal."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._lock = threading.Lock()
        self._tried: dict[str, int] = defaultdict(int)
        self._acknowledged: dict[str, int] = defaultdict(int)
        self.acknowledged = 0

    @staticmethod
    def removes(number: int) -> bool:
        return number % 7 == 0

    @property
    def keys(self) -> list[str]:
        with self._lock:
            return list(self._tried)

    def attempt(self, key: str) -> int:
        with self._lock:
            self._tried[key] += 1
            return self._tried[key]

    def acknowledge(self, key: str, number: int) -> None:
        with self._lock:
            self._acknowledged[key] = number
            self.acknowledged += 1

    def faults(self, here: Mapping[str, int | None], there: Mapping[str, int | None]) -> list[str]:
        """Where both ends differ, or have something older than what was acknowledged. None: the key is not there."""
        found: list[str] = []
        for key in self.keys:
            known = range(self._acknowledged[key], self._tried[key] + 1)
            allowed = {None if self.removes(number) else number for number in known}
            if here[key] != there[key]:
                found.append(f"{self.name}: {key} is {here[key]} here and {there[key]} there")
            elif here[key] not in allowed:
                found.append(f"{self.name}: {key} is {here[key]}; last acknowledged was {known[0]}")
        return found

    def __str__(self) -> str:
        return f"{self.name}: {self.acknowledged} writes acknowledged"
