"""Resource files for a sidecar under test, written as JSON, which is YAML too."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

V1 = "dapr.io/v1alpha1"
V2 = "dapr.io/v2alpha1"


def document(kind: str, name: str, spec: Mapping[str, Any], *, version: str = V1, **top: Any) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}, "spec": spec, **top}


def component(name: str, type_: str, metadata: Mapping[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """A metadata value that is a mapping with `secretKeyRef` or `envRef` is that reference. `more` goes into the spec,
    `auth` and `scopes` beside it."""
    items = [_item(key, value) for key, value in (metadata or {}).items()]
    top = {key: more.pop(key) for key in ("auth", "scopes") if key in more}
    return document("Component", name, {"type": type_, "version": "v1", "metadata": items, **more}, **top)


def _item(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, dict) and value.keys() & {"secretKeyRef", "envRef"}:
        return {"name": name, **value}
    return {"name": name, "value": value}


def subscription(topic: str, route: str, *, pubsub: str = "pubsub", name: str = "", **more: Any) -> dict[str, Any]:
    top = {key: more.pop(key) for key in ("scopes",) if key in more}
    spec = {"pubsubname": pubsub, "topic": topic, "route": route, **more}
    return document("Subscription", name or f"{topic}-{pubsub}", spec, **top)


def routed(topic: str, routes: Mapping[str, Any], *, pubsub: str = "pubsub", **more: Any) -> dict[str, Any]:
    spec = {"pubsubname": pubsub, "topic": topic, "routes": routes, **more}
    return document("Subscription", f"{topic}-{pubsub}", spec, version=V2)


def broker(name: str = "pubsub", **metadata: Any) -> dict[str, Any]:
    """The durable broker with short pauses."""
    return component(name, "pubsub.sqlite", {"redeliverInterval": "20ms", "redeliverIntervalMax": "40ms", **metadata})


def resiliency(name: str, policies: Mapping[str, Any], targets: Mapping[str, Any], **top: Any) -> dict[str, Any]:
    return document("Resiliency", name, {"policies": policies, "targets": targets}, **top)


def write(directory: Path, name: str, *documents: Mapping[str, Any] | str) -> Path:
    """One file with the documents; the directory, made when it is not there."""
    directory.mkdir(exist_ok=True, parents=True)
    (directory / name).write_text("\n---\n".join(_text(item) for item in documents))
    return directory


def _text(item: Mapping[str, Any] | str) -> str:
    return item if isinstance(item, str) else json.dumps(item)


def resources_flags(*directories: Path) -> Sequence[str]:
    return [part for directory in directories for part in ("--resources-path", str(directory))]
