"""Opens an app's components: secret stores first, then the rest in the order of the files, each in its own task.

A component that refers to a secret store which is not open is parked, and opened when that store is. One that fails
ends the start, unless it says `ignoreErrors`. What is open is closed by setting one event, all at once.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import trio

from edge_runtime.blocks.state import driver_metadata
from edge_runtime.components.registry import ComponentContext, Opener, resolve
from edge_runtime.config.kinds import Component
from edge_runtime.config.references import Surroundings, names_namespace, resolve_component
from edge_runtime.model.errors import ConfigError, DriverError
from edge_runtime.model.ports import Outbox, SecretStore
from edge_runtime.observability.log import current_component
from edge_runtime.observability.metrics import Metrics
from edge_runtime.store.database import Databases

log = logging.getLogger("dapr.runtime.processor")


class Opened(NamedTuple):
    """A component that is open: what was written, what it came to, and the driver."""

    component: Component
    metadata: Mapping[str, str]
    driver: Any
    namespaced: bool


class Place(NamedTuple):
    """Where components live: what every driver of this app is given."""

    app_id: str
    namespace: str
    directory: str
    state_dir: str
    databases: Databases
    metrics: Metrics
    outbox: Outbox | None = None


def init_failure(component: Component, error: Exception) -> ConfigError:
    """The error of a component that could not be made ready, in Dapr's words, with its file."""
    return ConfigError(
        f"[INIT_COMPONENT_FAILURE]: initialization error occurred for {component.log_name} "
        f"({component.source}): {error}"
    )


class Components:
    """The open components of one generation, by name, in the order in which they were opened."""

    def __init__(self, place: Place, nursery: trio.Nursery, closing: trio.Event) -> None:
        self._place = place
        self._nursery = nursery
        self._closing = closing
        self._parked: list[tuple[Component, str]] = []
        self._surroundings: Surroundings
        self.opened: dict[str, Opened] = {}
        self.secret_stores: dict[str, SecretStore] = {}
        self._loaded = place.metrics.counter("runtime_component_loaded")
        self._inits = place.metrics.counter("runtime_component_init_total", "component")
        self._failures = place.metrics.counter(
            "runtime_component_init_fail_total", "component", "reason", "componentName"
        )

    async def open_all(self, components: Sequence[Component], surroundings: Surroundings) -> None:
        """Raises ConfigError for the first one that fails and must not."""
        self._surroundings = surroundings
        secret_stores = [item for item in components if item.category == "secretstores"]
        for component in (*secret_stores, *(item for item in components if item.category != "secretstores")):
            await self._open_or_park(component)
        for component, store in self._parked:
            log.warning(
                "Component %s waits for the secret store %r, which is not loaded; %s",
                component.log_name,
                store,
                "define it or correct auth.secretStore",
            )

    async def _open_or_park(self, component: Component) -> None:
        self._loaded.add()
        try:
            waits_for = await self._open(component)
        except ConfigError as error:
            if not component.ignore_errors:
                raise
            log.error("%s; ignored, as the component says ignoreErrors", error)
            return
        if waits_for:
            self._parked.append((component, waits_for))
        elif component.category == "secretstores":
            await self._open_parked(component.name)

    async def _open_parked(self, store: str) -> None:
        ready = [item for item in self._parked if item[1] == store]
        self._parked = [item for item in self._parked if item[1] != store]
        for component, _ in ready:
            await self._open_or_park(component)

    async def _open(self, component: Component) -> str:
        """Open it and return nothing, or the name of the secret store that it waits for."""
        opener = self._opener(component)
        found = await resolve_component(component, self._surroundings)
        if found.waits_for:
            return found.waits_for
        for line in found.warnings:
            log.warning("%s: %s", component.source, line)
        context = ComponentContext(
            component.name,
            component.type,
            component.version,
            driver_metadata(found.values) if component.category == "state" else found.values,
            self._place.app_id,
            self._place.namespace,
            self._place.databases,
            self._place.state_dir,
            self._place.directory,
            self._surroundings.variables,
            self._place.outbox,
            self._place.metrics,
        )
        driver = await self._within_time(component, opener, context)
        self.opened[component.name] = Opened(component, found.values, driver, names_namespace(component))
        if component.category == "secretstores":
            self.secret_stores[component.name] = driver
        self._inits.add((component.type,))
        log.info("Component loaded: %s", component.log_name)
        return ""

    def _opener(self, component: Component) -> Opener:
        try:
            return resolve(component.type, component.version)
        except ConfigError as error:
            raise self._failure(component, "creation", error) from None

    async def _within_time(self, component: Component, opener: Opener, context: ComponentContext) -> Any:
        try:
            with trio.move_on_after(component.init_timeout_s):
                return await self._nursery.start(self._hold, component.log_name, opener, context)
        except (ConfigError, DriverError, OSError) as error:
            raise self._failure(component, "init", error) from None
        late = DriverError(
            f"init timeout for component {component.name} exceeded after {component.init_timeout_s:g}s; "
            "spec.initTimeout gives it longer"
        )
        raise self._failure(component, "init", late)

    def _failure(self, component: Component, reason: str, error: Exception) -> ConfigError:
        self._failures.add((component.type, reason, component.name))
        if reason == "init":
            return init_failure(component, error)
        where = f"{component.log_name} ({component.source})"
        return ConfigError(f"[CREATE_COMPONENT_FAILURE]: creation error occurred for {where}: {error}")

    async def _hold(
        self, log_name: str, opener: Opener, context: ComponentContext, *, task_status: trio.TaskStatus[Any]
    ) -> None:
        """One component's life. A driver that breaks down later takes nobody with it."""
        current_component.set(log_name)  # of this task and those that the driver starts
        started = False
        try:
            async with opener(context) as driver:
                task_status.started(driver)
                started = True
                await self._closing.wait()
        except Exception:
            if not started:
                raise
            log.exception("Component %s has failed and is closed", context.name)
