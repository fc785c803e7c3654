"""What a component says about its sides and its route."""

from __future__ import annotations

import pytest

from edge_runtime.blocks.bindings import bind_binding
from edge_runtime.blocks.bindings.binding import capabilities


class Reader:
    async def read(self) -> None: ...


class Both(Reader):
    operations = ("create",)

    async def invoke(self) -> None: ...


@pytest.mark.parametrize(
    ("metadata", "sides"),
    [
        ({}, (True, True, False)),
        ({"direction": "input"}, (True, False, True)),
        ({"Direction": "Output"}, (False, True, False)),
        ({"direction": "input, output"}, (True, True, True)),
        ({"direction": ""}, (True, True, False)),
    ],
)
def test_direction_chooses_the_sides(metadata: dict[str, str], sides: tuple[bool, bool, bool]) -> None:
    bound = bind_binding("b", metadata, Both())
    assert (bound.input is not None, bound.output is not None, bound.explicit) == sides


def test_a_side_that_is_not_there_is_not_used() -> None:
    bound = bind_binding("b", {"direction": "output"}, Reader())
    assert (bound.input, bound.output) == (None, None)


def test_route_is_the_name_unless_told() -> None:
    assert bind_binding("b", {}, Reader()).route == "b"
    assert bind_binding("b", {"route": "/x"}, Reader()).route == "/x"
    assert bind_binding("b", {"Route": "/x"}, Reader()).route == "b"


def test_capabilities_are_those_of_the_driver() -> None:
    assert capabilities(Both()) == ["INPUT_BINDING", "OUTPUT_BINDING"]
    assert capabilities(Reader()) == ["INPUT_BINDING"]
