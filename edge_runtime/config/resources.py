"""Dapr's resource files: finds the documents of every directory and makes values of them.

Files are read in the order of the directories, then of their names. A document that cannot be read is left out with a
warning and its neighbours load; what stops the start (a missing directory, a component defined twice) is a
`ConfigError`. Values are not resolved here: `references.py` does that once the secret stores exist.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from edge_runtime.config import yaml
from edge_runtime.config.documents import (
    read_component,
    read_head,
    read_http_endpoint,
    read_resiliency,
    read_subscription,
)
from edge_runtime.config.fields import Fields
from edge_runtime.config.kinds import (
    EDGE_V1,
    V1,
    V2,
    BulkSubscribe,
    Component,
    HttpEndpoint,
    MetadataItem,
    Resiliency,
    RouteRule,
    Subscription,
)
from edge_runtime.config.values import nearest
from edge_runtime.config.yaml import Chunk, Table
from edge_runtime.model.errors import ConfigError

if TYPE_CHECKING:
    from edge_runtime.config.links import CloudLink

__all__ = [
    "BulkSubscribe",
    "Component",
    "HttpEndpoint",
    "LaterResource",
    "MetadataItem",
    "Resiliency",
    "Resources",
    "RouteRule",
    "Subscription",
    "default_components",
    "load_resources",
]

FILE_BYTES_MAX: Final = 16 * 1024 * 1024


class LaterResource(NamedTuple):
    """A resource of a kind that is known but not served yet."""

    kind: str
    name: str
    source: str


class Resources(NamedTuple):
    """Everything that the directories hold for one app, in order.

    `has_components` is true when any Component is written there, also one for another app or one that cannot be read:
    then no built-in component takes its place.
    """

    components: tuple[Component, ...] = ()
    subscriptions: tuple[Subscription, ...] = ()
    http_endpoints: tuple[HttpEndpoint, ...] = ()
    resiliencies: tuple[Resiliency, ...] = ()
    later: tuple[LaterResource, ...] = ()
    warnings: tuple[str, ...] = ()
    has_components: bool = False
    links: tuple[CloudLink, ...] = ()


class _Named(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def scopes(self) -> tuple[str, ...]: ...


def load_resources(directories: Iterable[str], *, app_id: str, namespace: str = "") -> Resources:
    """Read every directory for one app. `namespace` is the variable NAMESPACE; empty switches its filter off."""
    loader = _Loader(app_id, namespace)
    for directory in directories:
        for path in _files(directory, loader.warnings):
            loader.read_file(path)
    return loader.result()


def default_components(state_dir: str) -> tuple[Component, ...]:
    """What a node has when no Component is written anywhere; the names are those of Dapr's tutorials."""
    database = os.path.join(state_dir, "statestore.db")
    # Not opened before something asks for a setting: most apps never do.
    configuration = (
        MetadataItem("connectionString", os.path.join(state_dir, "configstore.db")),
        MetadataItem("openOnUse", "true"),
    )
    # Only what the operator names so is readable as a secret, not the whole environment of the service.
    secret_prefix = MetadataItem("prefix", "EDGE_SECRET_")
    return (
        Component("secretstore", "secretstores.local.env", "v1", (secret_prefix,), source="built in"),
        Component("statestore", "state.sqlite", "v1", (MetadataItem("connectionString", database),), source="built in"),
        Component("pubsub", "pubsub.sqlite", "v1", source="built in"),
        Component("configstore", "configuration.sqlite", "v1", configuration, source="built in"),
    )


def _files(directory: str, warnings: list[str]) -> Iterator[str]:
    try:
        names = sorted(os.listdir(directory))
    except OSError as error:
        raise ConfigError(
            f"--resources-path {directory!r} cannot be read: {error.strerror}; expected a directory with YAML files"
        ) from None
    for name in names:
        path = os.path.join(directory, name)
        try:
            mode = os.stat(path).st_mode
        except OSError as error:
            warnings.append(f"{path}: cannot be read: {error.strerror}; the file is left out")
            continue
        if stat.S_ISDIR(mode):
            continue
        if not name.lower().endswith((".yaml", ".yml")):
            warnings.append(f"{path}: is no resource file; only names that end in .yaml or .yml are read")
        elif not stat.S_ISREG(mode):
            warnings.append(f"{path}: is no regular file and is left out")
        else:
            yield path


def read_text_file(path: str) -> bytes:
    """The file's bytes, at most `FILE_BYTES_MAX`. Raises ConfigError."""
    try:
        with open(path, "rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    if len(data) > FILE_BYTES_MAX:
        raise ConfigError(f"{path}: is larger than {FILE_BYTES_MAX} bytes")
    return data


class _Loader:
    """Collects the documents of one load."""

    def __init__(self, app_id: str, namespace: str) -> None:
        self._app_id = app_id
        self._namespace = namespace
        self.warnings: list[str] = []
        self._components: dict[str, Component] = {}
        self._subscriptions: dict[str, Subscription] = {}
        self._endpoints: dict[str, HttpEndpoint] = {}
        self._endpoint_error = ""
        self._resiliencies: list[Resiliency] = []
        self._later: list[LaterResource] = []
        self._has_components = False
        self._links: dict[str, CloudLink] = {}

    def result(self) -> Resources:
        return Resources(
            tuple(self._components.values()),
            tuple(item for item in self._subscriptions.values() if self._in_scope(item)),
            () if self._endpoint_error else tuple(self._endpoints.values()),
            tuple(self._resiliencies),
            tuple(self._later),
            (*self.warnings, *([self._endpoint_error] if self._endpoint_error else [])),
            self._has_components,
            tuple(self._links.values()),
        )

    def read_file(self, path: str) -> None:
        try:
            data = read_text_file(path)
        except ConfigError as error:
            self.warnings.append(f"{error}; the file is left out")
            self._has_components = True
            return
        for index, chunk in enumerate(yaml.split_documents(data)):
            self._read_document(chunk, path, first=index == 0)

    def _read_document(self, chunk: Chunk, path: str, *, first: bool) -> None:
        try:
            document = yaml.parse_document(chunk, path)
        except ConfigError as error:
            self.warnings.append(f"{error}; the document is left out")
            self._has_components = True
            return
        if document.root is None:
            return
        if not isinstance(document.root, Table):
            self.warnings.append(f"{path}:{document.root.line}: expected a mapping with apiVersion and kind; left out")
            return
        self._read_root(document.root, first, document.notes)

    def _read_root(self, root: Table, first: bool, notes: list[str]) -> None:
        head = Fields(root, "", (), [])
        try:
            api_version, kind = head.text("apiVersion"), head.text("kind")
        except ConfigError as error:
            self.warnings.append(f"{error}; the document is left out")
            return
        take = _KINDS.get((api_version, kind))
        if take is None:
            self._note_kind(root, api_version, kind)
            return
        self._has_components |= kind == "Component"
        try:
            take(self, root, notes, first)
        except _Fatal:
            raise
        except ConfigError as error:
            self.warnings.append(f"{error}; this {kind} is left out")
        self.warnings.extend(notes)

    def _note_kind(self, root: Table, api_version: str, kind: str) -> None:
        """Documents of other kinds are nobody's business here, but a near miss is worth a line."""
        where = f"{root.file}:{root.line}"
        kinds = sorted({name for _, name in _KINDS})
        versions = sorted(version for version, name in _KINDS if name == kind)
        if versions:
            self.warnings.append(
                f"{where}: {kind} with apiVersion {api_version!r} is left out; expected {' or '.join(versions)}"
            )
        elif api_version in (V1, V2, EDGE_V1) and kind != "Configuration":
            self.warnings.append(f"{where}: unknown kind {kind!r} is left out{nearest(kind, kinds)}")

    def _in_scope(self, item: _Named) -> bool:
        return not item.scopes or self._app_id in item.scopes

    def _in_namespace(self, namespace: str) -> bool:
        return not self._namespace or not namespace or namespace == self._namespace

    def take_component(self, root: Table, notes: list[str], first: bool) -> None:
        component = read_component(root, notes)
        if not self._in_namespace(component.namespace):
            return
        earlier = self._components.get(component.name)
        if earlier is not None:
            raise _Fatal(
                f"{component.source}: Component {component.name!r} is already defined in {earlier.source}; "
                "rename or remove one of them"
            )
        if self._in_scope(component):
            self._components[component.name] = component

    def take_subscription(self, root: Table, notes: list[str], first: bool) -> None:
        subscription = read_subscription(root, notes)
        self._subscriptions.pop(subscription.name, None)
        self._subscriptions[subscription.name] = subscription

    def take_endpoint(self, root: Table, notes: list[str], first: bool) -> None:
        endpoint = read_http_endpoint(root, notes)
        if not self._in_namespace(endpoint.namespace):
            return
        earlier = self._endpoints.get(endpoint.name)
        if earlier is not None:
            self._endpoint_error = (
                f"{endpoint.source}: HTTPEndpoint {endpoint.name!r} is already defined in {earlier.source}; "
                "no HTTPEndpoint at all is loaded until one of them is renamed or removed"
            )
        elif self._in_scope(endpoint):
            self._endpoints[endpoint.name] = endpoint

    def take_resiliency(self, root: Table, notes: list[str], first: bool) -> None:
        if not first:
            notes.append(
                f"{root.file}:{root.line}: this Resiliency is left out: only the first document of a file is read for "
                "this kind; give it a file of its own"
            )
            return
        resiliency = read_resiliency(root, notes)
        if self._in_scope(resiliency):
            self._resiliencies.append(resiliency)

    def take_link(self, root: Table, notes: list[str], first: bool) -> None:
        from edge_runtime.config.links import read_cloud_link  # nodes without a link have no use for it

        link = read_cloud_link(root, notes)
        if not self._in_namespace(link.namespace) or not self._in_scope(link):
            return
        earlier = self._links.get(link.name)
        if earlier is not None:
            raise ConfigError(
                f"{link.source}: CloudLink {link.name!r} is already defined in {earlier.source}; "
                "rename or remove one of them"
            )
        self._links[link.name] = link

    def take_later(self, root: Table, notes: list[str], first: bool) -> None:
        head = read_head(root, notes)
        if self._in_scope(head) and self._in_namespace(head.namespace):
            self._later.append(LaterResource(head.top.text("kind"), head.name, head.source))


class _Fatal(ConfigError):
    """A mistake that stops the load of everything, not only of its document."""


_KINDS: Final[dict[tuple[str, str], Callable[[_Loader, Table, list[str], bool], None]]] = {
    (V1, "Component"): _Loader.take_component,
    (V1, "Subscription"): _Loader.take_subscription,
    (V2, "Subscription"): _Loader.take_subscription,
    (V1, "HTTPEndpoint"): _Loader.take_endpoint,
    (V1, "Resiliency"): _Loader.take_resiliency,
    (V1, "MCPServer"): _Loader.take_later,
    (V1, "WorkflowAccessPolicy"): _Loader.take_later,
    (EDGE_V1, "CloudLink"): _Loader.take_link,
}
