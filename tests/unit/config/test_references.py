"""References and templates in a resource's values."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest

from edge_runtime.config.environment import Environment
from edge_runtime.config.kinds import Component, MetadataItem
from edge_runtime.config.references import (
    Surroundings,
    may_refer,
    names_namespace,
    resolve_component,
    resolve_items,
    unquote_go,
)
from edge_runtime.model.errors import ConfigError, DriverError

SECRETS = {"db": {"password": "s3cret", "db": "same"}, "quoted": {"quoted": '"inner"'}}


async def get_secret(store: str, name: str) -> Mapping[str, str] | None:
    if name == "broken":
        raise DriverError("store is away")
    return SECRETS.get(name) if store == "vault" else None


def around(
    variables: Mapping[str, str] | None = None,
    environment: Environment | None = None,
    stores: tuple[str, ...] = ("vault",),
) -> Surroundings:
    return Surroundings("app", environment or Environment(), variables or {}, get_secret, stores)


ITEMS = [
    (MetadataItem("n", "v"), "v", ""),
    (MetadataItem("n"), "", ""),
    (MetadataItem("n", "v", env_ref="HOST"), "v", ""),
    (MetadataItem("n", "", env_ref="HOST"), "here", ""),
    (MetadataItem("n", env_ref="HOST"), "here", ""),
    (MetadataItem("n", env_ref="UNSET"), "", "'UNSET' is not set"),
    (MetadataItem("n", env_ref="DAPR_HTTP_PORT"), "", "is not allowed"),
    (MetadataItem("n", "v", "db", "password"), "s3cret", ""),
    (MetadataItem("n", "v", "db"), "same", ""),
    (MetadataItem("n", "", "db", "password", "HOST"), "s3cret", ""),
    (MetadataItem("n", "v", "none"), "v", "is not there; left empty"),
    (MetadataItem("n", "", "db", "other"), "", "has no key 'other', only db, password"),
    (MetadataItem("n", "", "broken"), "", "store is away"),
    (MetadataItem("n", "", "quoted"), "inner", ""),
    (MetadataItem("n", '"v"'), "v", ""),
]


@pytest.mark.parametrize(("item", "value", "warning"), ITEMS, ids=[str(index) for index in range(len(ITEMS))])
async def test_items_resolve_by_precedence(item: MetadataItem, value: str, warning: str) -> None:
    found = await resolve_items((item,), "vault", around({"HOST": "here", "DAPR_HTTP_PORT": "3500"}))
    assert found.values == {"n": value}
    assert found.waits_for == ""
    assert bool(found.warnings) is bool(warning)
    assert warning in "".join(found.warnings)


async def test_closed_store_is_waited_for() -> None:
    items = (MetadataItem("a", "x"), MetadataItem("b", "", "db"))
    found = await resolve_items(items, "later", around())
    assert (found.values, found.waits_for) == ({}, "later")
    assert (await resolve_items(items[:1], "later", around())).waits_for == ""


async def test_reference_without_store_is_named() -> None:
    found = await resolve_items((MetadataItem("b", "", "db"),), "", around())
    assert found.values == {"b": ""}
    assert "add auth.secretStore" in found.warnings[0]


@pytest.mark.parametrize(
    ("name", "allowed", "may"),
    [
        ("HOST", None, True),
        ("HOST", frozenset({"HOST"}), True),
        ("HOST", frozenset({"OTHER"}), False),
        ("", None, False),
        ("APP_API_TOKEN", None, False),
        ("app_api_token", None, False),
        ("Dapr_Api_Token", None, False),
        ("A B", None, False),
    ],
)
def test_guarded_variables_are_refused(name: str, allowed: frozenset[str] | None, may: bool) -> None:
    assert may_refer(name, allowed) is may


LITERALS = [
    ('"x"', "x"),
    ('""', ""),
    ("`raw\\n`", "raw\\n"),
    ("'c'", "c"),
    ("'\\n'", "\n"),
    ('"tab\\there \\u00e9 \\x41 \\101"', "tab\there é A A"),
    ('"\\U0001F600"', "😀"),
    ('"\\U00110000"', "\\U00110000"),
    ("'word'", "'word'"),
    ('"a"b"', '"a"b"'),
    ('"bad \\q"', '"bad \\q"'),
    ("`a`b`", "`a`b`"),
    ('"', '"'),
    ("x", "x"),
    ('"open', '"open'),
    ('"two\nlines"', '"two\nlines"'),
]


@pytest.mark.parametrize(("text", "value"), LITERALS, ids=[repr(text) for text, _ in LITERALS])
def test_go_literals_lose_their_quotes(text: str, value: str) -> None:
    assert unquote_go(text) == value


def component(value: str) -> Component:
    return Component("c", "pubsub.x", "v1", (MetadataItem("n", value),), source="f.yaml:1")


async def filled(value: str, environment: Environment | None = None) -> str:
    return (await resolve_component(component(value), around(environment=environment))).values["n"]


async def test_templates_are_filled_in() -> None:
    pod = Environment(namespace="prod", pod_name="pod-1")
    assert await filled("{appID}/{namespace}/{podName}", pod) == "app/prod.app/pod-1"
    assert await filled("{namespace}") == "default.app"
    assert await filled("{other} {") == "{other} {"


async def test_each_uuid_is_another() -> None:
    first, second = (await filled("{uuid} {uuid}")).split()
    assert first != second
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", first)


async def test_pod_name_must_be_known() -> None:
    with pytest.raises(ConfigError, match=r"f.yaml:1: component c .* POD_NAME is not set"):
        await filled("{podName}")


async def test_component_warnings_have_its_name() -> None:
    broken = Component("c", "state.x", "v1", (MetadataItem("n", env_ref="UNSET"),))
    (warning,) = (await resolve_component(broken, around())).warnings
    assert warning == "component c (state.x/v1): 'n': envRef 'UNSET' is not set; left empty"


def test_namespaced_topics_are_noticed() -> None:
    assert names_namespace(component("{namespace}-x"))
    assert not names_namespace(component("namespace"))
