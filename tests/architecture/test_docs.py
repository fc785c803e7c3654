"""Every driver, route and error has its words."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edge_runtime.components.registry import DRIVERS
from edge_runtime.runtime.assembly import ROUTES

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("kind", sorted({key.rpartition("/")[0] for key in DRIVERS}))
def test_every_driver_has_its_page(kind: str) -> None:
    text = (DOCS / "components" / f"{kind}.md").read_text()
    assert f"type: {kind}" in text, "a page shows an example resource"


def test_every_route_is_listed() -> None:
    text = (DOCS / "http-api.md").read_text()
    missing = {f"/{route.path}" for route in ROUTES if f"`/{route.path}`" not in text}
    assert not missing


@pytest.mark.parametrize("path", sorted([*DOCS.rglob("*.md"), *DOCS.parent.glob("*.md")]), ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text()):
        if not re.match(r"[a-z]+:", target):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"
