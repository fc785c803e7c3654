"""A component's metadata, read field by field as Dapr decodes it; errors name the component and the field.

Names match in any case; two names that differ in case alone are an error. A name that no reader knows is kept for one
warning: Dapr ignores it, and so do we, but a typing mistake should be seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from edge_runtime.config.values import duration_s, nearest, quantity_bytes, truthy
from edge_runtime.model.errors import ConfigError

# Read by blocks rather than by drivers, on any component.
_READ_BY_BLOCKS: Final = (
    "keyPrefix",
    "primaryEncryptionKey",
    "secondaryEncryptionKey",
    "actorStateStore",
    "consumerID",
    "outboxPublishPubsub",
    "outboxPublishTopic",
    "outboxPubsub",
    "outboxDiscardWhenMissingState",
    "allowedTopics",
    "protectedTopics",
    "publishingScopes",
    "subscriptionScopes",
    "direction",
    "route",
)


class Fields:
    """The metadata of one component. `known` names every field of its driver, aliases included."""

    def __init__(self, metadata: Mapping[str, str], known: Iterable[str], component: str = "") -> None:
        self._component = component
        self._values: dict[str, str] = {}
        written: dict[str, str] = {}
        for name, value in metadata.items():
            lower = name.lower()
            if lower in written:
                raise ConfigError(
                    f"{self._where()}metadata {written[lower]!r} and {name!r} are the same field; remove one of them"
                )
            written[lower] = name
            self._values[lower] = value
        self._known = tuple(known)
        readable = {name.lower() for name in (*self._known, *_READ_BY_BLOCKS)}
        self.unknown: Sequence[str] = [name for lower, name in written.items() if lower not in readable]

    def warnings(self) -> list[str]:
        """One line for each field that nothing reads, with the nearest name that something does."""
        return [
            f"{self._where()}metadata {name!r} is not known and ignored{nearest(name, self._known)}"
            for name in self.unknown
        ]

    def given(self, name: str, aliases: Sequence[str] = ()) -> str | None:
        """The text as written, or None; the name goes before its aliases."""
        for candidate in (name, *aliases):
            value = self._values.get(candidate.lower())
            if value is not None:
                return value
        return None

    def text(self, name: str, default: str | None = None, aliases: Sequence[str] = ()) -> str:
        """The text; empty counts as absent. With no default the field is required."""
        value = self.given(name, aliases)
        if value:
            return value
        if default is None:
            raise ConfigError(f"{self._where()}metadata {name!r} is required; add it to spec.metadata")
        return default

    def flag(self, name: str, default: bool = False, aliases: Sequence[str] = ()) -> bool:
        """Dapr's loose boolean: y, yes, true, t, on and 1 are true, every other text is false."""
        value = self.given(name, aliases)
        return truthy(value) if value else default

    def duration_s(
        self,
        name: str,
        default: float,
        aliases: Sequence[str] = (),
        *,
        minimum_s: float | None = None,
        plain_unit_s: float = 1.0,
    ) -> float:
        """A Go duration or a bare integer, which counts `plain_unit_s` (seconds unless said otherwise)."""
        value = self.given(name, aliases)
        if not value:
            return default
        try:
            seconds = duration_s(value, plain_unit_s=plain_unit_s)
        except ValueError:
            raise self.error(name, value, "a duration such as 5s or 1h30m, or a whole number of seconds") from None
        if minimum_s is not None and seconds < minimum_s:
            raise self.error(name, value, f"at least {minimum_s:g}s")
        return seconds

    def integer(
        self,
        name: str,
        default: int,
        aliases: Sequence[str] = (),
        *,
        minimum: int | None = None,
        maximum: int | None = None,
    ) -> int:
        """A whole number in decimal."""
        value = self.given(name, aliases)
        if not value:
            return default
        try:
            number = int(value.strip())
        except ValueError:
            raise self.error(name, value, "a whole number") from None
        if minimum is not None and number < minimum:
            raise self.error(name, value, f"a whole number of at least {minimum}")
        if maximum is not None and number > maximum:
            raise self.error(name, value, f"a whole number of at most {maximum}")
        return number

    def size_bytes(self, name: str, default: int, aliases: Sequence[str] = (), *, minimum: int = 0) -> int:
        """A quantity such as 4Mi or 16384."""
        value = self.given(name, aliases)
        if not value:
            return default
        try:
            size = quantity_bytes(value)
        except ValueError:
            raise self.error(name, value, "a size such as 4Mi, 16Ki or 4194304") from None
        if size < minimum:
            raise self.error(name, value, f"at least {minimum} bytes")
        return size

    def choice(self, name: str, default: str, choices: Sequence[str], aliases: Sequence[str] = ()) -> str:
        """One of a few words, in any case; answered as `choices` spells it."""
        value = self.given(name, aliases)
        if not value:
            return default
        for word in choices:
            if word.lower() == value.strip().lower():
                return word
        raise self.error(name, value, f"one of {', '.join(choices)}")

    def error(self, name: str, value: str, expected: str) -> ConfigError:
        """The error for a field's value that cannot be used."""
        return ConfigError(f"{self._where()}metadata {name!r} is {value!r}; expected {expected}")

    def _where(self) -> str:
        return f"component {self._component!r}: " if self._component else ""
