"""The apps that a node serves from its start: `dapr.yaml` in its configuration directory, a run file as any other.

Only their sidecars live here. The commands in the file are left to units of their own: a node that is confined, and
whose user owns the state of all, is no place for them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from edge_runtime.cli import plan as plans
from edge_runtime.cli.node import AppRequest
from edge_runtime.cli.output import Messages
from edge_runtime.cli.template import plan_template, read_template
from edge_runtime.model.errors import ConfigError

RUN_FILE: Final = "dapr.yaml"
# Credential → the variable of the apps that it stands for.
CREDENTIALS: Final = {"edge-runtime-api-token": "DAPR_API_TOKEN", "edge-runtime-app-token": "APP_API_TOKEN"}
_CREDENTIAL_BYTES_MAX: Final = 16 * 1024
_HTTP, _GRPC, _METRICS = 3500, 50001, 9090


class FixedPorts(plans.PortHolder):
    """Ports that stay the same over restarts: those of the file, else Dapr's own, counted up by the app's place.

    Nothing is tried out: a service manager may hold a socket for us.
    """

    def __init__(self) -> None:
        super().__init__()
        self._place = -1

    def choose(self, settings: plans.Settings) -> plans.Ports:
        self._place += 1

        def port(flag: str, first: int) -> int:
            written = plans.number(settings, flag)
            return written if written > 0 else first + self._place

        internal = max(plans.number(settings, "dapr-internal-grpc-port"), 0)
        return plans.Ports(
            port("dapr-http-port", _HTTP), port("dapr-grpc-port", _GRPC), port("metrics-port", _METRICS), internal
        )


def hosted_apps(directory: str, environment: Mapping[str, str], messages: Messages) -> list[AppRequest]:
    """What the run file says; nothing when there is none. Raises ConfigError."""
    path = os.path.join(directory, RUN_FILE)
    if not os.path.exists(path):
        return []
    template = read_template(path)
    for warning in template.warnings:
        messages.warning(warning)
    variables = {**credentials(environment), **environment}
    apps: list[AppRequest] = []
    for plan in plan_template(template, directory, variables, holder=FixedPorts()):
        if plan.command:
            messages.warning(
                f"{path}: app {plan.app_id}: its command is not run by the node; give it a unit of its own"
            )
        apps.append(AppRequest(plan.arguments, plan.sidecar_environment, plan.directory))
    return apps


def credentials(environment: Mapping[str, str]) -> dict[str, str]:
    """The tokens that the service manager has laid out for us, as variables. Raises ConfigError."""
    directory = environment.get("CREDENTIALS_DIRECTORY", "")
    found: dict[str, str] = {}
    for name, variable in CREDENTIALS.items() if directory else ():
        path = os.path.join(directory, name)
        try:
            with open(path, encoding="ascii") as file:
                text = file.read(_CREDENTIAL_BYTES_MAX + 1).strip()
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"credential {path}: cannot be read: {getattr(error, 'strerror', '') or error}") from None
        if not text or len(text) > _CREDENTIAL_BYTES_MAX:
            raise ConfigError(f"credential {path}: expected a token of 1 to {_CREDENTIAL_BYTES_MAX} bytes")
        found[variable] = text
    return found
