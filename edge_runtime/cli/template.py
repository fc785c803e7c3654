"""Dapr's run file (`dapr.yaml`): several apps and what they have in common, merged into a plan for each."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

from edge_runtime.cli import plan as plans
from edge_runtime.config.values import nearest
from edge_runtime.model.errors import ConfigError

_TEXT, _NUMBER, _FLAG, _LIST, _MAP = "a text", "a whole number", "true or false", "a list of texts", "a map of texts"

# Field → what it holds, the flag of `run` that says the same (empty: handled by name below).
_SHARED: Final = {
    "resourcesPaths": (_LIST, ""),
    "resourcesPath": (_TEXT, ""),
    "configFilePath": (_TEXT, ""),
    "appProtocol": (_TEXT, "app-protocol"),
    "apiListenAddresses": (_TEXT, "dapr-listen-addresses"),
    "enableProfiling": (_FLAG, "enable-profiling"),
    "enableAppHealthCheck": (_FLAG, "enable-app-health-check"),
    "enableApiLogging": (_FLAG, "enable-api-logging"),
    "appSSL": (_FLAG, "app-ssl"),
    "logLevel": (_TEXT, "log-level"),
    "appMaxConcurrency": (_NUMBER, "app-max-concurrency"),
    "placementHostAddress": (_TEXT, "placement-host-address"),
    "schedulerHostAddress": (_TEXT, "scheduler-host-address"),
    "maxBodySize": (_TEXT, "max-body-size"),
    "readBufferSize": (_TEXT, "read-buffer-size"),
    "appHealthCheckPath": (_TEXT, "app-health-check-path"),
    "appHealthProbeInterval": (_NUMBER, "app-health-probe-interval"),
    "appHealthProbeTimeout": (_NUMBER, "app-health-probe-timeout"),
    "appHealthThreshold": (_NUMBER, "app-health-threshold"),
    "runtimePath": (_TEXT, ""),
    "env": (_MAP, ""),
    "daprdLogDestination": (_TEXT, ""),
    "appLogDestination": (_TEXT, ""),
}
_APP: Final = {
    "appDirPath": (_TEXT, ""),
    "appID": (_TEXT, ""),
    "command": (_LIST, ""),
    "appPort": (_NUMBER, "app-port"),
    "daprHTTPPort": (_NUMBER, "dapr-http-port"),
    "daprGRPCPort": (_NUMBER, "dapr-grpc-port"),
    "daprInternalGRPCPort": (_NUMBER, "dapr-internal-grpc-port"),
    "metricsPort": (_NUMBER, "metrics-port"),
    "profilePort": (_NUMBER, "profile-port"),
    "appChannelAddress": (_TEXT, "app-channel-address"),
    "unixDomainSocket": (_TEXT, "unix-domain-socket"),
    # Kubernetes only; checked and not used.
    "containerImage": (_TEXT, ""),
    "containerImagePullPolicy": (_TEXT, ""),
    "createService": (_FLAG, ""),
    **_SHARED,
}
_ALONE: Final = {"version", "name", "common", "apps"}
_DESTINATIONS: Final = {"console": (True, False), "file": (False, True), "fileAndConsole": (True, True)}
_PULL_POLICIES: Final = ("Always", "IfNotPresent", "Never")


class Template(NamedTuple):
    """A run file as written: `path` is absolute, empty for standard input; relative paths count from `directory`."""

    path: str
    directory: str
    name: str
    common: Mapping[str, Any]
    apps: tuple[Mapping[str, Any], ...]
    warnings: tuple[str, ...]


class _Bad(ConfigError):
    def __init__(self, where: str, problem: str) -> None:
        super().__init__(f"{where}: {problem}")


def read_template(where: str) -> Template:
    """Read the file, the `dapr.yaml` of a directory, or standard input for `-`. Raises ConfigError."""
    if where == "-":
        return parse_template(sys.stdin.read(), "", os.getcwd())
    path = os.path.abspath(os.path.join(where, "dapr.yaml") if os.path.isdir(where) else where)
    if not path.endswith((".yaml", ".yml")):
        raise ConfigError(f"run file {where}: expected a file whose name ends in .yaml or .yml, or a directory")
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"run file {path}: cannot be read: {getattr(error, 'strerror', '') or error}") from None
    return parse_template(text, path, os.path.dirname(path))


def parse_template(text: str, path: str, directory: str) -> Template:
    """Check the text's form and bring every field to its type. Raises ConfigError."""
    where = path or "run file from standard input"
    document = _load(where, text)
    if not isinstance(document, dict):
        raise _Bad(where, "expected a map with version and apps")
    if _as_number(document.get("version")) in (None, 0):
        raise _Bad(where, f"version: expected 1, found {document.get('version')!r}")
    common = document.get("common") or {}
    apps = document.get("apps") or []
    if not isinstance(common, dict):
        raise _Bad(where, "common: expected a map")
    if not isinstance(apps, list) or not all(isinstance(app, dict) for app in apps):
        raise _Bad(where, "apps: expected a list of maps")
    if not apps:
        raise _Bad(where, "apps: no apps to run; expected at least one")
    warnings = _unknown(where, "", document, _ALONE) + _unknown(where, "common", common, _SHARED)
    typed: list[Mapping[str, Any]] = []
    for index, app in enumerate(apps):
        warnings += _unknown(where, f"apps[{index}]", app, _APP)
        typed.append(_typed(where, f"apps[{index}]", app, _APP))
        if not typed[-1].get("appDirPath"):
            raise _Bad(where, f"apps[{index}].appDirPath: required, the directory of the app")
    return Template(
        path,
        directory,
        str(document.get("name") or ""),
        _typed(where, "common", common, _SHARED),
        tuple(typed),
        tuple(warnings),
    )


def _load(where: str, text: str) -> Any:
    """The YAML with every scalar as its text: `1.10`, `007` and `yes` are for the app to understand."""
    import yaml

    class TextLoader(yaml.SafeLoader):
        pass

    TextLoader.yaml_implicit_resolvers = {"<": [("tag:yaml.org,2002:merge", re.compile("^<<$"))]}

    try:
        return yaml.load(text, TextLoader)
    except yaml.YAMLError as error:
        raise _Bad(where, f"is no YAML: {error}") from None
    except (ValueError, IndexError, KeyError, TypeError, AttributeError):  # what the library raises for such a text
        raise _Bad(
            where, "is no YAML: a value does not fit its own tag, such as `!!int x`; leave the tag out"
        ) from None


def _typed(where: str, place: str, fields: Mapping[Any, Any], known: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    """The known fields as what they hold. Raises ConfigError."""
    found: dict[str, Any] = {}
    for field, (expected, _) in known.items():
        value = fields.get(field)
        if value is None or value == "":
            continue
        found[field] = _READERS[expected](value)
        if found[field] is None:
            raise _Bad(where, f"{place}.{field}: expected {expected}, found {value!r}")
    _one_of(where, f"{place}.appLogDestination", found.get("appLogDestination"), _DESTINATIONS)
    _one_of(where, f"{place}.daprdLogDestination", found.get("daprdLogDestination"), _DESTINATIONS)
    _one_of(where, f"{place}.containerImagePullPolicy", found.get("containerImagePullPolicy"), _PULL_POLICIES)
    return found


def _one_of(where: str, place: str, value: str | None, allowed: Iterable[str]) -> None:
    if value is not None and value not in allowed:
        kind = "invalid log destination type: " if place.endswith("LogDestination") else ""
        raise _Bad(where, f"{place}: {kind}{value}; expected {', '.join(allowed)}")


def _as_number(value: Any) -> int | None:
    try:
        return int(value, 0) if isinstance(value, str) else None
    except ValueError:
        return None


def _as_flag(value: Any) -> bool | None:
    return _FLAGS.get(value.lower()) if isinstance(value, str) else None


def _as_list(value: Any) -> list[str] | None:
    return value if isinstance(value, list) and all(isinstance(item, str) for item in value) else None


def _as_map(value: Any) -> dict[str, str] | None:
    return value if isinstance(value, dict) and all(isinstance(item, str) for item in value.values()) else None


_FLAGS: Final = {**dict.fromkeys(("true", "yes", "on"), True), **dict.fromkeys(("false", "no", "off"), False)}
_READERS: Final[Mapping[str, Callable[[Any], Any]]] = {
    _TEXT: lambda value: value if isinstance(value, str) else None,
    _NUMBER: _as_number,
    _FLAG: _as_flag,
    _LIST: _as_list,
    _MAP: _as_map,
}


def _unknown(where: str, place: str, fields: Mapping[Any, Any], known: Iterable[str]) -> list[str]:
    prefix = f"{place}." if place else ""
    return [
        f"{where}: {prefix}{field} is unknown and is ignored{nearest(str(field), known)}"
        for field in fields
        if field not in known
    ]


def plan_template(
    template: Template,
    dapr_directory: str,
    environment: Mapping[str, str],
    state_directory: str = "",
    holder: plans.PortHolder | None = None,
) -> list[plans.AppPlan]:
    """A plan for each app, in the order of the file; `holder` chooses the ports. Raises ConfigError."""
    moment = time.strftime("%Y%m%d%H%M%S")
    found: list[plans.AppPlan] = []
    with holder or plans.PortHolder() as holder:
        for index, app in enumerate(template.apps):
            merged = _Merged(template, app, f"apps[{index}]", dapr_directory)
            plan = merged.plan(holder, environment, moment, state_directory)
            if plan.app_id in {other.app_id for other in found}:
                raise _Bad(merged.where, f"{merged.place}.appID: {plan.app_id!r} is there twice")
            found.append(plan)
    return found


class _Merged:
    """One app's fields over the common ones. What holds its type's zero value counts as not written."""

    def __init__(self, template: Template, app: Mapping[str, Any], place: str, dapr_directory: str) -> None:
        self.where = template.path or "run file"
        self.place = place
        self._template = template
        self._app = app
        self._common = template.common
        self.directory = self._existing(template.directory, str(app["appDirPath"]), "appDirPath")
        runtime_path = self._get("runtimePath")
        self._dapr_directory = os.path.join(str(runtime_path), ".dapr") if runtime_path else dapr_directory

    def _get(self, field: str) -> Any:
        return self._app.get(field) or self._common.get(field)

    def _existing(self, base: str, path: str, field: str) -> str:
        full = os.path.normpath(os.path.join(base, os.path.expanduser(path)))
        if not os.path.exists(full):
            raise _Bad(self.where, f"{self.place}.{field}: {full} does not exist")
        return full

    def plan(
        self, holder: plans.PortHolder, environment: Mapping[str, str], moment: str, state_directory: str
    ) -> plans.AppPlan:
        app_id = str(self._app.get("appID") or os.path.basename(self.directory))
        settings = self._settings()
        if state_directory:
            settings["state-dir"] = [state_directory]
        ports = holder.choose(settings)
        app_log = self._log(app_id, "app", str(self._get("appLogDestination") or "fileAndConsole"), moment)
        sidecar_log = self._log(app_id, "daprd", str(self._get("daprdLogDestination") or "file"), moment)
        return plans.AppPlan(
            app_id=app_id,
            arguments=plans.sidecar_arguments(app_id, settings, ports, self._resources(), self._configurations()),
            ports=ports,
            app_port=max(plans.number(settings, "app-port", 0), 0),
            command=tuple(self._app.get("command") or ()),
            directory=self.directory,
            environment={**environment, **plans.app_environment(app_id, settings, ports), **self._environment()},
            sidecar_environment={"DAPR_HOST_IP": "127.0.0.1", **environment},
            socket_directory=str(self._app.get("unixDomainSocket") or ""),
            prefix=f"== APP - {app_id} == ",
            inherit_stdin=False,
            app_log=app_log,
            sidecar_log=sidecar_log,
            metadata=self._metadata(app_log, sidecar_log),
        )

    def _settings(self) -> dict[str, list[str]]:
        """The fields as flags of `run`."""
        settings: dict[str, list[str]] = {}
        for field, (_, flag) in _APP.items():
            value = self._get(field)
            if flag and value:
                settings[flag] = [_text(value)]
        return settings

    def _environment(self) -> dict[str, str]:
        return {**(self._common.get("env") or {}), **(self._app.get("env") or {})}

    def _resources(self) -> list[str]:
        """The app's own directories, else .dapr/resources beside it, else the common ones, else the user's."""
        own = self._paths(self._app, self.directory)
        beside = os.path.join(self.directory, ".dapr", "resources")
        if own or os.path.isdir(beside):
            return own or [beside]
        common = self._paths(self._common, self._template.directory)
        return common or plans.resources({}, self._dapr_directory)

    def _paths(self, fields: Mapping[str, Any], base: str) -> list[str]:
        named = [*(fields.get("resourcesPaths") or ()), *filter(None, (fields.get("resourcesPath"),))]
        return [self._existing(base, str(path), "resourcesPaths") for path in named]

    def _configurations(self) -> list[str]:
        beside = os.path.join(self.directory, ".dapr", "config.yaml")
        if own := self._app.get("configFilePath"):
            return [self._existing(self.directory, str(own), "configFilePath")]
        if os.path.isfile(beside):
            return [beside]
        if common := self._common.get("configFilePath"):
            return [self._existing(self._template.directory, str(common), "configFilePath")]
        return plans.configurations({}, self._dapr_directory)

    def _log(self, app_id: str, kind: str, destination: str, moment: str) -> plans.LogTarget:
        console, file = _DESTINATIONS[destination]
        name = f"{app_id}_{kind}_{moment}.log"
        return plans.LogTarget(console, os.path.join(self.directory, ".dapr", "logs", name) if file else "")

    def _metadata(self, app_log: plans.LogTarget, sidecar_log: plans.LogTarget) -> dict[str, str]:
        facts = {
            "runTemplatePath": self._template.path or self._template.directory,
            "runTemplateName": self._template.name,
            "appLogPath": app_log.path,
            "daprdLogPath": sidecar_log.path,
        }
        return {key: value for key, value in facts.items() if value}


def _text(value: Any) -> str:
    """A field as the flag that it stands for."""
    return "true" if value is True else str(value)
