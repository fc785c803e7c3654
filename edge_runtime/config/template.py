"""Dapr's multi-app template (`dapr.yaml`): the apps of a node, with what they have in common filled in.

A value under `common` fills an app's field that is absent or zero, as in Dapr: an app cannot turn a common `true` back
into `false`. Relative paths under `common` count from the template, those of an app from its `appDirPath`; every path
that is named has to be there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final, NamedTuple

from edge_runtime.config import yaml
from edge_runtime.config.fields import FieldError, Fields
from edge_runtime.config.resources import read_text_file
from edge_runtime.config.values import quantity_bytes
from edge_runtime.config.yaml import Table
from edge_runtime.model.errors import ConfigError

DEFAULT_FILE: Final = "dapr.yaml"
LOG_DESTINATIONS: Final = ("console", "file", "fileAndConsole")
PROTOCOLS: Final = ("http", "https", "h2c", "grpc", "grpcs")
_PULL_POLICIES: Final = ("Always", "IfNotPresent", "Never")


class TemplateApp(NamedTuple):
    """One app. Ports are -1 for any free one; `placement` and `scheduler` are None where nothing is said.

    `directory` is where app and sidecar run; all paths are absolute. Empty texts and zero numbers are unset.
    """

    app_id: str
    directory: str
    command: tuple[str, ...]
    app_port: int
    http_port: int
    grpc_port: int
    internal_grpc_port: int
    metrics_port: int
    profile_port: int
    app_channel_address: str
    unix_domain_socket: str
    resource_paths: tuple[str, ...]
    config_path: str
    app_protocol: str
    listen_addresses: str
    enable_profiling: bool
    enable_app_health_check: bool
    enable_api_logging: bool
    app_ssl: bool
    log_level: str
    app_max_concurrency: int
    placement: str | None
    scheduler: str | None
    max_body_size: str
    read_buffer_size: str
    health_check_path: str
    health_probe_interval: int
    health_probe_timeout: int
    health_threshold: int
    runtime_path: str
    env: Mapping[str, str]
    daprd_log_destination: str
    app_log_destination: str


class Template(NamedTuple):
    """`path` is the file's absolute path, empty for standard input; `warnings` are lines about what is ignored."""

    name: str
    path: str
    apps: tuple[TemplateApp, ...]
    warnings: tuple[str, ...] = ()


class Bases(NamedTuple):
    """Where paths start: `home` for `~/`, `dapr` (~/.dapr) for the defaults, `working` for standard input."""

    home: str
    dapr: str
    working: str


_TOP: Final = ("version", "name", "common", "apps")
_SHARED: Final = (
    "resourcesPaths", "resourcesPath", "configFilePath", "appProtocol", "apiListenAddresses", "enableProfiling",
    "enableAppHealthCheck", "enableApiLogging", "appSSL", "logLevel", "appMaxConcurrency", "placementHostAddress",
    "schedulerHostAddress", "maxBodySize", "readBufferSize", "appHealthCheckPath", "appHealthProbeInterval",
    "appHealthProbeTimeout", "appHealthThreshold", "runtimePath", "env", "daprdLogDestination", "appLogDestination",
)  # fmt: skip
_APP: Final = (
    *_SHARED, "appDirPath", "appID", "command", "appPort", "daprHTTPPort", "daprGRPCPort", "daprInternalGRPCPort",
    "metricsPort", "profilePort", "appChannelAddress", "unixDomainSocket", "containerImage",
    "containerImagePullPolicy", "createService",
)  # fmt: skip


def find_template(path: str) -> str:
    """The file that `--run-file` means: itself, or `dapr.yaml` in a directory. Raises ConfigError."""
    found = os.path.join(path, DEFAULT_FILE) if os.path.isdir(path) else path
    if not found.endswith((".yaml", ".yml")):
        raise ConfigError(f"--run-file {path}: expected a directory, or a file that ends in .yaml or .yml")
    if not os.path.isfile(found):
        raise ConfigError(f"--run-file {path}: there is no file {found}")
    return os.path.abspath(found)


def load_template(path: str, bases: Bases) -> Template:
    """The template of a file or directory. Raises ConfigError with file, line and field."""
    found = find_template(path)
    return read_template(read_text_file(found), found, bases)


def read_template(data: bytes, path: str, bases: Bases) -> Template:
    """The template that `data` holds; `path` is its file, or empty for standard input."""
    shown = path or "standard input"
    chunks = [chunk for chunk in yaml.split_documents(data) if chunk.data.strip()]
    document = yaml.parse_document(chunks[0], shown) if chunks else yaml.Document(None, [])
    if not isinstance(document.root, Table):
        raise ConfigError(f"{shown}: expected a template with version and apps")
    top = Fields(document.root, "", _TOP, document.notes, exact=True)
    if not top.integer("version", 0):
        raise top.wrong("version", "a number that is not 0, such as 1")
    common = _Level(top.fields("common", _SHARED), os.path.dirname(path) or bases.working, bases)
    apps = tuple(_app(fields, common, bases) for fields in top.each("apps", _APP))
    if not apps:
        raise ConfigError(f"{shown}: No apps to run: list at least one app under 'apps'")
    _check_ids(apps, shown)
    return Template(top.text("name"), path, apps, tuple(document.notes))


def _check_ids(apps: tuple[TemplateApp, ...], shown: str) -> None:
    seen: set[str] = set()
    for app in apps:
        if app.app_id in seen:
            raise ConfigError(f"{shown}: two apps have the appID {app.app_id!r}; give each its own")
        seen.add(app.app_id)


class _Level:
    """One place where shared fields may stand, with the directory that its relative paths count from."""

    def __init__(self, fields: Fields, base: str, bases: Bases) -> None:
        self.fields = fields
        self._base = base
        self._home = bases.home

    def path(self, text: str) -> str:
        if text == "~" or text.startswith("~/"):
            return os.path.normpath(self._home + text[1:])
        return os.path.normpath(os.path.join(self._base, text))

    def resource_paths(self) -> tuple[str, ...]:
        older = self.fields.text("resourcesPath")
        return tuple(
            self._existing("resourcesPaths", text)
            for text in (*self.fields.texts("resourcesPaths"), *([older] if older else []))
        )

    def config_path(self) -> str:
        text = self.fields.text("configFilePath")
        return self._existing("configFilePath", text) if text else ""

    def _existing(self, name: str, text: str) -> str:
        path = self.path(text)
        if not os.path.exists(path):
            raise FieldError(f"{self.fields.where(name)}: there is nothing at {path} (from {text!r})")
        return path


class _Both:
    """An app's shared fields over the common ones: what is zero in the app is taken from `common`."""

    def __init__(self, app: Fields, common: Fields) -> None:
        self._app = app
        self._common = common

    def text(self, name: str, default: str = "") -> str:
        return self._app.text(name) or self._common.text(name) or default

    def flag(self, name: str) -> bool:
        return self._app.flag(name, False) or self._common.flag(name, False)

    def integer(self, name: str, default: int = 0) -> int:
        return self._app.integer(name, 0) or self._common.integer(name, 0) or default

    def choice(self, name: str, default: str, allowed: tuple[str, ...]) -> str:
        value = self.text(name, default)
        if value not in allowed:
            raise self._source(name).wrong(name, f"one of {', '.join(allowed)}")
        return value

    def size(self, name: str) -> str:
        value = self.text(name)
        try:
            quantity_bytes(value or "0")
        except ValueError:
            raise self._source(name).wrong(name, "a size such as 4Mi, 16Ki or 4194304") from None
        return value

    def address(self, name: str) -> str | None:
        """An empty text that is written counts: it switches the service off."""
        for fields in (self._app, self._common):
            if name in fields:
                return fields.text(name)
        return None

    def env(self) -> dict[str, str]:
        return {**self._common.text_map("env"), **self._app.text_map("env")}

    def _source(self, name: str) -> Fields:
        return self._app if self._app.text(name) else self._common


def _app(fields: Fields, common: _Level, bases: Bases) -> TemplateApp:
    directory = _directory(fields, common)
    own = _Level(fields, directory, bases)
    both = _Both(fields, common.fields)
    policy = fields.text("containerImagePullPolicy")
    if policy and policy not in _PULL_POLICIES:
        raise fields.wrong("containerImagePullPolicy", f"one of {', '.join(_PULL_POLICIES)}")
    runtime_path = own.path(fields.text("runtimePath")) if fields.text("runtimePath") else ""
    if not runtime_path and common.fields.text("runtimePath"):
        runtime_path = common.path(common.fields.text("runtimePath"))
    return TemplateApp(
        app_id=fields.text("appID") or os.path.basename(directory),
        directory=directory,
        command=fields.texts("command"),
        app_port=_port(fields, "appPort"),
        http_port=_port(fields, "daprHTTPPort"),
        grpc_port=_port(fields, "daprGRPCPort"),
        internal_grpc_port=_port(fields, "daprInternalGRPCPort"),
        metrics_port=_port(fields, "metricsPort"),
        profile_port=_port(fields, "profilePort"),
        app_channel_address=fields.text("appChannelAddress"),
        unix_domain_socket=own.path(fields.text("unixDomainSocket")) if fields.text("unixDomainSocket") else "",
        resource_paths=_resource_paths(own, common, directory, bases),
        config_path=_config_path(own, common, directory, bases),
        app_protocol=both.choice("appProtocol", "http", PROTOCOLS),
        listen_addresses=both.text("apiListenAddresses"),
        enable_profiling=both.flag("enableProfiling"),
        enable_app_health_check=both.flag("enableAppHealthCheck"),
        enable_api_logging=both.flag("enableApiLogging"),
        app_ssl=both.flag("appSSL"),
        log_level=both.text("logLevel"),
        app_max_concurrency=both.integer("appMaxConcurrency", -1),
        placement=both.address("placementHostAddress"),
        scheduler=both.address("schedulerHostAddress"),
        max_body_size=both.size("maxBodySize"),
        read_buffer_size=both.size("readBufferSize"),
        health_check_path=both.text("appHealthCheckPath"),
        health_probe_interval=both.integer("appHealthProbeInterval"),
        health_probe_timeout=both.integer("appHealthProbeTimeout"),
        health_threshold=both.integer("appHealthThreshold"),
        runtime_path=runtime_path,
        env=both.env(),
        daprd_log_destination=both.choice("daprdLogDestination", "file", LOG_DESTINATIONS),
        app_log_destination=both.choice("appLogDestination", "fileAndConsole", LOG_DESTINATIONS),
    )


def _directory(fields: Fields, common: _Level) -> str:
    text = fields.text("appDirPath")
    if not text:
        raise fields.wrong("appDirPath", "the app's directory, relative to the template")
    directory = common.path(text)
    if not os.path.isdir(directory):
        raise FieldError(f"{fields.where('appDirPath')}: there is no directory {directory} (from {text!r})")
    return directory


def _port(fields: Fields, name: str) -> int:
    port = fields.integer(name, 0) or -1
    if not -1 <= port <= 65535:
        raise fields.wrong(name, "a port from 1 to 65535, or -1 for any free one")
    return port


def _resource_paths(own: _Level, common: _Level, directory: str, bases: Bases) -> tuple[str, ...]:
    """The first level that has any; levels are never merged."""
    return (
        own.resource_paths()
        or _present(os.path.join(directory, ".dapr", "resources"))
        or common.resource_paths()
        or _present(os.path.join(bases.dapr, "components"))
    )


def _config_path(own: _Level, common: _Level, directory: str, bases: Bases) -> str:
    beside = _present(os.path.join(directory, ".dapr", "config.yaml"))
    default = _present(os.path.join(bases.dapr, "config.yaml"))
    return own.config_path() or "".join(beside) or common.config_path() or "".join(default)


def _present(path: str) -> tuple[str, ...]:
    return (path,) if os.path.exists(path) else ()
