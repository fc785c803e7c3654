"""What a configuration's rules make of label values, so that ids in them do not make a series each.

The values are rewritten when the page is made; series that read the same then are one, with the sum of their numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from edge_runtime.config.settings import MetricRule

Labels = tuple[str, ...]
Sample = tuple[str, Labels, Labels, float]  # name, label names, label values, number
Rewrites = Mapping[str, list[tuple[str, re.Pattern[str]]]]  # by label: replacements and what they stand for

_GROUP: Final = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


def rewrites_of(rules: Iterable[MetricRule]) -> Mapping[str, Rewrites]:
    """The rules by metric, however its name is written: with `dapr_` or not, with slashes, dots or underscores."""
    found: dict[str, dict[str, list[tuple[str, re.Pattern[str]]]]] = {}
    for rule in rules:
        name = re.sub("[./]", "_", rule.name).removeprefix("dapr_")
        for label, pairs in rule.labels:
            patterns = [(replacement, re.compile(pattern)) for replacement, pattern in pairs]
            found.setdefault(name, {}).setdefault(label, []).extend(patterns)
    return found


def rewritten(samples: Iterable[Sample], rewrites: Rewrites) -> Iterator[Sample]:
    """The samples of one metric under its rules."""
    sums: dict[tuple[str, Labels, Labels], float] = {}
    for name, label_names, labels, value in samples:
        values = tuple(_rewrite(text, rewrites.get(label, ())) for label, text in zip(label_names, labels, strict=True))
        key = (name, label_names, values)
        sums[key] = sums.get(key, 0) + value
    for (name, label_names, labels), value in sums.items():
        yield name, label_names, labels, value


def _rewrite(text: str, pairs: Iterable[tuple[str, re.Pattern[str]]]) -> str:
    for replacement, pattern in pairs:
        text = _replaced(text, pattern, replacement)
    return text


def _replaced(text: str, pattern: re.Pattern[str], replacement: str) -> str:
    parts: list[str] = []
    end = -1
    for match in pattern.finditer(text):
        if match.start() == match.end() == end:
            continue  # Go knows no empty match right behind another one
        parts += text[max(end, 0) : match.start()], _expanded(replacement, match)
        end = match.end()
    return "".join(parts) + text[max(end, 0) :]


def _expanded(replacement: str, match: re.Match[str]) -> str:
    """`$1` and `${name}` are groups, as in Go; one that is not there is empty."""

    def group(found: re.Match[str]) -> str:
        name = found[1] or found[2]
        try:
            return match[int(name) if name.isdigit() else name] or ""
        except IndexError:
            return ""

    return _GROUP.sub(group, replacement)
