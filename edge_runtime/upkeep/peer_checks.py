"""Whether brokers and the other ends of cloud links can be reached: by the ways that a node goes itself.

All are tried at once, each as the driver would: name, TCP, proxy, TLS, then CONNACK or the health of the sidecar. A
broker knows the client by another id than the node's, which it would otherwise put out.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

import trio

from edge_runtime.components.metadata import Fields
from edge_runtime.components.mqtt.settings import LINK_FIELDS, read_link
from edge_runtime.components.registry import ComponentContext, resolve
from edge_runtime.config.environment import read_environment
from edge_runtime.config.kinds import Component
from edge_runtime.config.links import CloudLink
from edge_runtime.config.references import Surroundings, resolve_component, resolve_items
from edge_runtime.model.errors import ConfigError, DriverError
from edge_runtime.net.mqtt_link import open_link
from edge_runtime.observability.metrics import Metrics
from edge_runtime.store.database import open_databases
from edge_runtime.sync.link import Link
from edge_runtime.sync.link_keeper import TOKEN_PROBE_PATH
from edge_runtime.sync.link_settings import LinkMetrics, LinkSettings
from edge_runtime.upkeep.checks import Check

TIMEOUT_S: Final = 10.0
_MQTT: Final = ("pubsub.mqtt3", "bindings.mqtt3")
# What the reason of a failure says → what to do.
_MENDS: Final = (
    ("certificate is not yet valid", "set the clock (docs/clock.md), or wait for a time server"),
    ("certificate has expired", "renew the certificate, or set the clock if it is ahead"),
    ("hostname mismatch", "name the host as its certificate does"),
    ("certificate", "name the authority that signed it (caCert, spec.tls.ca)"),
    ("not authorised", "correct user and password in the url"),
    ("not authorized", "correct user and password in the url"),
    ("password", "correct user and password in the url"),
    ("token", "correct the token (spec.token)"),
    ("proxy", "correct spec.proxy, or see why the proxy refuses"),
    ("refused", "start what should listen there, or correct host and port"),
    ("name or service", "correct the name, or see to the name server (/etc/resolv.conf)"),
    ("not known", "correct the name, or see to the name server (/etc/resolv.conf)"),
    ("resolution", "see to the name server (/etc/resolv.conf) and the network"),
    ("unreachable", "see to cable, radio and routes (`ip route`)"),
    ("within", "see to firewalls and routes on the way"),
)
_OTHERWISE: Final = "what is sent waits in the outbox until it can be reached (`edge-runtime outbox list`)"


def mend_of(reason: str) -> str:
    lower = reason.lower()
    return next((mend for word, mend in _MENDS if word in lower), _OTHERWISE)


async def check_peers(
    components: Sequence[Component],
    links: Sequence[CloudLink],
    state_dir: str,
    variables: Mapping[str, str],
    timeout_s: float = TIMEOUT_S,
) -> list[Check]:
    """In the order of the files."""
    brokers = [component for component in components if component.type.lower() in _MQTT]
    checks: list[Check | None] = [None] * (len(brokers) + len(links))
    async with _surroundings(components, state_dir, variables) as around, trio.open_nursery() as nursery:
        for place, broker in enumerate(brokers):
            nursery.start_soon(_into, checks, place, _check_broker, broker, around, timeout_s)
        for place, link in enumerate(links, len(brokers)):
            nursery.start_soon(_into, checks, place, _check_link, link, around, timeout_s)
    return [check for check in checks if check is not None]


async def _into(checks: list[Check | None], place: int, ask: Callable[..., Any], *arguments: Any) -> None:
    checks[place] = await ask(*arguments)


@asynccontextmanager
async def _surroundings(
    components: Sequence[Component], state_dir: str, variables: Mapping[str, str]
) -> AsyncIterator[Surroundings]:
    """With the secret stores open that can be opened; `variables` are this shell's, which may lack the app's."""
    stores: dict[str, Any] = {}
    environment = read_environment(variables)

    async def get_secret(store: str, name: str) -> Mapping[str, str] | None:
        return dict(await stores[store].get(name, {})) if store in stores else None

    async with AsyncExitStack() as stack:
        databases = await stack.enter_async_context(open_databases())
        around = Surroundings("doctor", environment, variables, get_secret, stores)
        for component in components:
            if component.category != "secretstores":
                continue
            try:
                values = (await resolve_component(component, around)).values
                context = ComponentContext(
                    component.name,
                    component.type,
                    component.version,
                    values,
                    "doctor",
                    environment.namespace,
                    databases,
                    state_dir,
                    os.getcwd(),
                    variables,
                )
                opener = resolve(component.type, component.version)
                stores[component.name] = await stack.enter_async_context(opener(context))
            except (ConfigError, DriverError, OSError):
                continue  # who refers to it says so
        yield around


async def _check_broker(component: Component, around: Surroundings, timeout_s: float) -> Check:
    name = f"broker of {component.name}"
    try:
        found = await resolve_component(component, around)
        if found.waits_for or found.warnings:
            what = found.warnings[0] if found.warnings else f"the secret store {found.waits_for!r} is not there"
            mend = "correct the reference, or ask with the environment of the app"
            return Check(name, "warn", f"{component.source}: {what}", mend)
        fields = Fields(found.values, LINK_FIELDS, component.name)
        settings = read_link(fields, f"edge-runtime-doctor-{os.urandom(4).hex()}", answer_timeout_s=timeout_s)
    except ConfigError as error:
        return Check(name, "fail", f"{component.source}: {error}", f"correct {component.source}")
    # As a guest: it must not take over the node's session, nor leave one behind.
    settings = settings._replace(clean_session=True, will=None, connect_timeout_s=timeout_s)
    async with open_link(settings, lambda delivery: None) as link:
        with trio.move_on_after(timeout_s):
            await link.tried.wait()
        if link.connected:
            return Check(name, "ok", f"{settings.broker} takes the connection")
        return Check(name, "fail", f"{settings.broker}: {link.reason}", mend_of(link.reason))


async def _check_link(resource: CloudLink, around: Surroundings, timeout_s: float) -> Check:
    name = f"cloud link {resource.name}"
    found = await resolve_items(resource.items, resource.secret_store, around)
    missing = [item.name for item in resource.items if not found.values.get(item.name)]
    if missing or found.waits_for:
        what = f"the secret store {found.waits_for!r} is not there" if found.waits_for else f"{missing[0]} is not there"
        mend = "correct the secret, or ask with the environment of the app"
        return Check(name, "warn", f"{resource.source}: {what}", mend)
    settings = LinkSettings(resource._replace(windows=(), bytes_per_day=0), tuple(sorted(found.values.items())))
    link = Link(settings, LinkMetrics(Metrics()))
    refusal = ""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        with trio.move_on_after(timeout_s):
            await link.changed()
        state = link.state
        if state.up:
            refusal = await _refusal(link, timeout_s)
        nursery.cancel_scope.cancel()
    if refusal:
        return Check(name, "fail", f"{resource.http}: {refusal}", mend_of(refusal))
    if state.up:
        return Check(name, "ok", f"{resource.http} answers")
    reason = state.reason if state.reason != "not tried yet" else f"no answer within {timeout_s:g}s"
    return Check(name, "fail", f"{resource.http}: {reason}", mend_of(reason))


async def _refusal(link: Link, timeout_s: float) -> str:
    """Why the sidecar refuses a call for which it wants the token; the health of a sidecar is everybody's."""
    try:
        await link.call("GET", TOKEN_PROBE_PATH.decode().lstrip("/"), timeout_s=timeout_s)
    except DriverError as error:
        return str(error)
    return ""
