"""A binding as its component configures it: which of its sides are used, and where the app takes its events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from edge_runtime.model.ports import InputBinding, OutputBinding


class BoundBinding(NamedTuple):
    """`explicit`: the component itself says that the app takes its events, so nobody asks the app."""

    name: str
    route: str
    input: InputBinding | None
    output: OutputBinding | None
    explicit: bool = False


def bind_binding(name: str, metadata: Mapping[str, str], driver: Any) -> BoundBinding:
    """The sides that the driver has and the component's `direction` wants; without a direction, all that there are."""
    direction = next((value for field, value in metadata.items() if field.lower() == "direction"), "").lower()
    wants_input, wants_output = "input" in direction, "output" in direction
    unsaid = not direction
    return BoundBinding(
        name,
        metadata.get("route", "") or name,
        driver if hasattr(driver, "read") and (unsaid or wants_input) else None,
        driver if hasattr(driver, "invoke") and (unsaid or wants_output) else None,
        wants_input,
    )


def capabilities(driver: Any) -> list[str]:
    """What the metadata API says that such a component can do."""
    return [
        word for word, method in (("INPUT_BINDING", "read"), ("OUTPUT_BINDING", "invoke")) if hasattr(driver, method)
    ]
