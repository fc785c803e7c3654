"""The resource files of a node as nobody's in particular: what they hold for any of its apps."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from edge_runtime.config import yaml
from edge_runtime.config.fields import Fields
from edge_runtime.config.kinds import Component
from edge_runtime.config.links import CloudLink
from edge_runtime.config.resources import Resources, load_resources, read_text_file
from edge_runtime.config.yaml import Table
from edge_runtime.model.errors import ConfigError
from edge_runtime.store.connection import parse_connection_string

# Type → its fields that name a file, and the file's place in the state directory without one.
_STORES: Final = ("state.sqlite", "configuration.sqlite", "pubsub.sqlite")


class Found(NamedTuple):
    """`warnings` and `errors` are lines that name file and line; an error stops an app's start."""

    components: Sequence[Component] = ()
    links: Sequence[CloudLink] = ()
    warnings: Sequence[str] = ()
    errors: Sequence[str] = ()
    apps: Sequence[str] = ()


def read_for_every_app(directories: Sequence[str], namespace: str = "") -> Found:
    """What the directories hold for the apps that some `scopes` name, and for one that none names."""
    components: dict[str, Component] = {}
    links: dict[str, CloudLink] = {}
    warnings: dict[str, None] = {}
    errors: dict[str, None] = {}
    apps = sorted(_scopes(directories))
    for app in ("", *apps):
        resources = _load(directories, app, namespace, errors)
        components.update((item.source, item) for item in resources.components)
        links.update((item.source, item) for item in resources.links)
        warnings.update(dict.fromkeys(resources.warnings))
    return Found(tuple(components.values()), tuple(links.values()), tuple(warnings), tuple(errors), apps)


def _load(directories: Sequence[str], app: str, namespace: str, errors: dict[str, None]) -> Resources:
    """A directory that stops the start must not hide what is wrong in the others."""
    try:
        return load_resources(directories, app_id=app, namespace=namespace)
    except ConfigError as error:
        errors[str(error)] = None
        if len(directories) == 1:
            return Resources()
    merged = [_load([directory], app, namespace, errors) for directory in directories]
    return Resources(
        components=tuple(item for part in merged for item in part.components),
        links=tuple(item for part in merged for item in part.links),
        warnings=tuple(item for part in merged for item in part.warnings),
    )


def _scopes(directories: Iterable[str]) -> set[str]:
    found: set[str] = set()
    for root in _documents(directories):
        try:
            found.update(Fields(root, "", (), []).texts("scopes"))
        except ConfigError:
            continue  # the load itself says so
    return found


def _documents(directories: Iterable[str]) -> Iterator[Table]:
    for path in yaml_files(directories):
        try:
            chunks = list(yaml.split_documents(read_text_file(path)))
        except ConfigError:
            continue
        for chunk in chunks:
            try:
                root: Any = yaml.parse_document(chunk, path).root
            except ConfigError:
                continue
            if isinstance(root, Table):
                yield root


def yaml_files(directories: Iterable[str]) -> Iterator[str]:
    """The resource files in the directories; a directory that cannot be read has none."""
    for directory in directories:
        try:
            names = sorted(os.listdir(directory))
        except OSError:
            continue
        for name in names:
            path = os.path.join(directory, name)
            if name.lower().endswith((".yaml", ".yml")) and os.path.isfile(path):
                yield path


def database_of(component: Component) -> str | None:
    """The file that a component keeps its data in; empty when only the running node knows, None when it has none."""
    if component.type.lower() not in _STORES:
        return None
    fields = {item.name.lower(): item for item in component.metadata}
    item = fields.get("connectionstring") or fields.get("url")
    if item is None:
        return None  # in the state directory
    if not item.value or "{" in item.value:
        return ""
    try:
        where = parse_connection_string(item.value)
    except ConfigError:
        return None  # the component's own check says so
    return None if where.memory else where.path
