"""From files to a face: reads what is configured, opens it, and nests the blocks of one app around it.

A generation is everything that depends on files. It ends as it was opened, the other way round: deliveries stop, the
app is left alone, the components close.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import trio

from edge_runtime import RUNTIME_VERSION
from edge_runtime.api.blocks import Blocks
from edge_runtime.api.conflicts import AppConflicts
from edge_runtime.api.http import (
    bindings,
    configuration,
    conflicts,
    health,
    invoke,
    outbox,
    pubsub,
    secrets,
    state,
    sync,
    unconfigured,
)
from edge_runtime.api.http.face import Face, FaceSettings, allowed_routes
from edge_runtime.api.http.routes import Route
from edge_runtime.api.outbox import AppOutbox
from edge_runtime.api.sync import AppSync
from edge_runtime.blocks.bindings import Bindings, BoundBinding, bind_binding
from edge_runtime.blocks.bindings.binding import capabilities
from edge_runtime.blocks.configuration import Configuration as ConfigurationBlock
from edge_runtime.blocks.invoke import Invoker, Peer
from edge_runtime.blocks.metadata import AppConnection, LoadedComponent, Metadata
from edge_runtime.blocks.pubsub import Publisher, PubSubBinding, Subscriber, bind_pubsub, from_declared
from edge_runtime.blocks.pubsub.streams import StreamLimits, Streams
from edge_runtime.blocks.secrets import Secrets, reference_reader
from edge_runtime.blocks.state import BoundStore, Outbox, State, bind_store
from edge_runtime.channel.app_config import discover_app_config
from edge_runtime.channel.endpoints import Endpoint, EndpointSettings, open_endpoint, open_outside
from edge_runtime.channel.health import AppHealth, HealthSettings
from edge_runtime.channel.http import ChannelSettings, HttpChannel, open_http_channel
from edge_runtime.channel.metrics import HttpClientMetrics
from edge_runtime.channel.wait import wait_for_app_port
from edge_runtime.components.registry import resolve
from edge_runtime.config.configuration import load_configuration
from edge_runtime.config.environment import (
    Environment,
    later_variables,
    own_variables,
    read_environment,
    with_otel_variables,
)
from edge_runtime.config.flags import DaprdFlags, later_flags, validate
from edge_runtime.config.kinds import Component, HttpEndpoint, MetadataItem
from edge_runtime.config.references import Surroundings, resolve_items
from edge_runtime.config.resources import Resources, default_components, load_resources
from edge_runtime.config.settings import Configuration, Tracing
from edge_runtime.model.errors import ConfigError
from edge_runtime.model.ports import Handler, SecretStore
from edge_runtime.observability.http_metrics import HttpMetricsSettings, HttpServerMetrics
from edge_runtime.observability.metric_rules import rewrites_of
from edge_runtime.observability.metrics import LATENCY_MS
from edge_runtime.observability.trace import Tracer
from edge_runtime.resiliency import Policies
from edge_runtime.runtime.components import Components, Opened, Place, init_failure
from edge_runtime.runtime.settings import AppSettings
from edge_runtime.security.access import AccessPolicy, ApiLists, SecretScopes

if TYPE_CHECKING:
    from edge_runtime.api.grpc.face import GrpcFace
    from edge_runtime.blocks.bindings.app import BindingApp
    from edge_runtime.blocks.bindings.input import InputBindings
    from edge_runtime.blocks.pubsub import AppDelivery
    from edge_runtime.channel.grpc import GrpcAppChannel
    from edge_runtime.observability.grpc_metrics import GrpcServerMetrics
    from edge_runtime.runtime.app import App

    Channel = HttpChannel | GrpcAppChannel

log = logging.getLogger("dapr.runtime")

# What a sampler does that was given no rate, or one that is no number (Dapr's default).
DEFAULT_SAMPLING: Final = 0.0001
ROUTES: Final = (
    *health.ROUTES,
    *state.ROUTES,
    *pubsub.ROUTES,
    *invoke.ROUTES,
    *secrets.ROUTES,
    *bindings.ROUTES,
    *configuration.ROUTES,
    *outbox.ROUTES,
    *sync.ROUTES,
    *conflicts.ROUTES,
    *unconfigured.ROUTES,
)


class Files(NamedTuple):
    """Everything that was read for one generation, checked and typed, nothing of it opened yet."""

    flags: DaprdFlags
    environment: Environment
    variables: Mapping[str, str]
    directory: str
    configuration: Configuration
    resources: Resources
    components: tuple[Component, ...]


def read_files(settings: AppSettings, state_dir: str) -> Files:
    """Read and check what the flags name. Raises ConfigError, which names the flag, file or field."""
    flags = settings.flags
    problems = validate(flags)
    if problems:
        raise ConfigError("; ".join(problems))
    environment = read_environment(settings.environment)
    configuration = load_configuration(_absolute(flags.config, settings.directory), settings.environment)
    directories = _absolute(flags.resource_directories, settings.directory)
    resources = load_resources(directories, app_id=flags.app_id, namespace=environment.namespace)
    for line in (*configuration.warnings, *resources.warnings):
        log.warning("%s", line)
    components = resources.components if resources.has_components else default_components(state_dir)
    kept = tuple(item for item in components if not _denied(item, configuration))
    variables = {**settings.environment, **own_variables(flags, "127.0.0.1")}
    return Files(flags, environment, variables, settings.directory, configuration, resources, kept)


def check(files: Files) -> None:
    """Find what no generation could be opened with, while the one before still runs. Raises ConfigError."""
    for component in files.components:
        if not component.ignore_errors:
            try:
                resolve(component.type, component.version)
            except ConfigError as error:
                raise ConfigError(f"{component.source}: Component {component.name!r}: {error}") from None
    for subscription in files.resources.subscriptions:
        from_declared(subscription)


def _absolute(paths: Iterable[str], directory: str) -> list[str]:
    return [os.path.join(directory, path) for path in paths]


def _denied(component: Component, configuration: Configuration) -> bool:
    if not configuration.denies_component(component.type, component.version):
        return False
    log.warning("Component %s is denied by components.deny and is left out", component.log_name)
    return True


def say_what_comes_later(files: Files) -> None:
    """Flags, variables and resources that are accepted but have no effect yet: one line each, once at start."""
    for line in (*later_flags(files.flags), *later_variables(files.variables)):
        log.info("%s", line)
    for resource in files.resources.later:
        log.info("%s: %s %r is accepted and has no effect yet", resource.source, resource.kind, resource.name)
    handlers = (*files.configuration.http_pipeline, *files.configuration.app_http_pipeline)
    for handler in handlers:
        log.info("middleware %s (%s) is accepted and has no effect yet", handler.name, handler.type)


class Generation:
    """What serves one app until its files are read again."""

    def __init__(
        self,
        blocks: Blocks,
        face: Face,
        public_face: Face,
        build_grpc_face: Callable[[], GrpcFace],
        app_health: AppHealth | None,
        channel: Channel | None = None,
    ) -> None:
        self.blocks = blocks
        self.face = face
        self.public_face = public_face
        self._build_grpc_face = build_grpc_face
        self._grpc_face: GrpcFace | None = None
        self.deliveries = trio.CancelScope()
        self.app_health = app_health
        self._channel = channel
        self.requests = 0  # in hand now; whoever ends the last one sets `quiet`
        self.quiet = trio.Event()
        self._deliveries_over = trio.Event()
        self._closing = trio.Event()
        self._closed = trio.Event()

    @property
    def grpc_face(self) -> GrpcFace:
        """Made with the first call, since most nodes' apps speak only one of the two APIs."""
        if self._grpc_face is None:
            self._grpc_face = self._build_grpc_face()
        return self._grpc_face

    async def stop_deliveries(self) -> None:
        """Take no further event; returns when those that the app has are finished."""
        self.deliveries.cancel()
        await self._deliveries_over.wait()

    def deliveries_over(self) -> None:
        self._deliveries_over.set()

    @property
    def busy(self) -> bool:
        """Whether requests of this app, or calls of others to it, wait for their answers."""
        return self.requests > 0 or (self._channel is not None and self._channel.waiting > 0)

    async def until_quiet(self, limit_s: float) -> None:
        """Wait until it is not busy, at most so long."""
        with trio.move_on_after(limit_s):
            while self.busy:
                while self.requests:
                    self.quiet = trio.Event()
                    await self.quiet.wait()
                if self._channel is not None:
                    await self._channel.drained()

    async def until_unhealthy(self) -> None:
        """Wait until health checks find the app unhealthy; for ever when there are none."""
        if self.app_health is None:
            await trio.sleep_forever()
        else:
            await self.app_health.wait_for(False)

    async def close(self) -> None:
        """Leave the app alone and close the components. Returns when all of them are closed."""
        self._closing.set()
        await self._closed.wait()

    async def until_closing(self) -> None:
        await self._closing.wait()

    def closed(self) -> None:
        self._closed.set()


async def serve_generation(app: App, files: Files, *, task_status: trio.TaskStatus[Generation]) -> None:
    """Open everything that the files name and serve it until the generation is closed."""
    closing = trio.Event()
    async with trio.open_nursery() as nursery:
        components = Components(_place(app, files), nursery, closing)
        surroundings = _surroundings(files, components.secret_stores)
        await components.open_all(files.components, surroundings)
        async with AsyncExitStack() as stack:
            channel = await _open_channel(app, files, stack)
            outside = await _open_outside(app, files, surroundings, stack)
            built = _build(app, files, components.opened, channel, outside)
            app.node.peers.add(built.peer)
            stack.callback(lambda: app.node.peers.remove(built.peer, returns=app.reloading))
            await _open_links(app, files, built, components.opened, surroundings, stack)
            async with trio.open_nursery() as background:
                background.start_soon(_attend_app, app, files, built, background)
                task_status.started(built.generation)
                await built.generation.until_closing()
                background.cancel_scope.cancel()
        closing.set()
    built.generation.closed()


def _place(app: App, files: Files) -> Place:
    return Place(
        app.app_id,
        files.environment.namespace_or_default,
        files.directory,
        app.node.state_dir,
        app.node.databases,
        app.metrics,
        app.node.outbox,
    )


def _surroundings(files: Files, secret_stores: Mapping[str, SecretStore]) -> Surroundings:
    get_secret = reference_reader(secret_stores, files.environment.namespace_or_default)
    return Surroundings(files.flags.app_id, files.environment, files.variables, get_secret, secret_stores)


async def _open_channel(app: App, files: Files, stack: AsyncExitStack) -> Channel | None:
    if not files.flags.app_port:
        return None
    settings = _channel_settings(files)
    if files.flags.protocol in ("grpc", "grpcs"):
        from edge_runtime.channel.grpc import open_grpc_channel

        metrics = app.metrics if files.configuration.metrics.enabled else None
        return await stack.enter_async_context(open_grpc_channel(settings, metrics))
    return await stack.enter_async_context(open_http_channel(settings, _client_metrics(app, files)))


def _client_metrics(app: App, files: Files) -> HttpClientMetrics | None:
    """Paths of calls to the app get the labels that paths of the API get."""
    server = _http_metrics(app, files.configuration)
    if server is not None and app.client_metrics is None:
        buckets = files.configuration.metrics.latency_buckets_ms or LATENCY_MS
        app.client_metrics = HttpClientMetrics(app.metrics, server.path_label, buckets)
    return app.client_metrics


def _channel_settings(files: Files) -> ChannelSettings:
    flags = files.flags
    return ChannelSettings(
        flags.app_port or 0,
        flags.app_channel_address or "127.0.0.1",
        flags.protocol,
        flags.app_max_concurrency,
        files.environment.app_token,
        flags.header_bytes_max,
        flags.body_bytes_max,
    )


async def _open_links(
    app: App,
    files: Files,
    built: _Built,
    opened: Mapping[str, Opened],
    around: Surroundings,
    stack: AsyncExitStack,
) -> None:
    if not files.resources.links:
        return
    from edge_runtime.runtime.links import LinkedApp, open_links

    linked = LinkedApp(app, built.generation.blocks, opened, built.pubsubs, built.channel)
    await stack.enter_async_context(open_links(linked, files.resources.links, around))


class _Outside(NamedTuple):
    urls: Any
    endpoints: Mapping[str, Endpoint]


async def _open_outside(app: App, files: Files, around: Surroundings, stack: AsyncExitStack) -> _Outside:
    """What invocation reaches beyond the node: direct URLs, and each HTTPEndpoint that can be used."""
    settings, metrics = _channel_settings(files), _client_metrics(app, files)
    endpoints: dict[str, Endpoint] = {}
    for declared in files.resources.http_endpoints:
        try:
            resolved = await _endpoint_settings(declared, around)
            endpoints[declared.name] = await stack.enter_async_context(open_endpoint(resolved, settings, metrics))
        except ConfigError as error:
            log.warning("%s: %s; this endpoint is left out", declared.source, error)
    return _Outside(await stack.enter_async_context(open_outside(settings, metrics)), endpoints)


async def _endpoint_settings(declared: HttpEndpoint, around: Surroundings) -> EndpointSettings:
    headers = await _resolved(declared, declared.headers, around)
    tls = [item for item in (declared.root_ca, declared.certificate, declared.private_key) if item is not None]
    files = await _resolved(declared, tls, around)
    return EndpointSettings(
        declared.name,
        declared.base_url,
        tuple(headers.items()),
        files.get("rootCA", ""),
        files.get("certificate", ""),
        files.get("privateKey", ""),
        declared.renegotiation,
    )


async def _resolved(declared: HttpEndpoint, items: Sequence[MetadataItem], around: Surroundings) -> Mapping[str, str]:
    found = await resolve_items(items, declared.secret_store, around)
    if found.waits_for:
        raise ConfigError(f"the secret store {found.waits_for!r} of HTTPEndpoint {declared.name!r} is not loaded")
    for line in found.warnings:
        log.warning("%s: %s", declared.source, line)
    return found.values


class _Built:
    """The blocks of one generation that its background needs."""

    def __init__(
        self,
        generation: Generation,
        channel: Channel | None,
        subscriber: Subscriber,
        streams: Streams,
        outbox: Outbox | None,
        peer: Peer,
        inputs: InputBindings | None,
        pubsubs: Mapping[str, PubSubBinding],
    ) -> None:
        self.generation = generation
        self.channel = channel
        self.subscriber = subscriber
        self.streams = streams
        self.outbox = outbox
        self.peer = peer
        self.inputs = inputs
        self.pubsubs = pubsubs
        self.begun = trio.Event()


def _build(app: App, files: Files, opened: Mapping[str, Opened], channel: Channel | None, outside: _Outside) -> _Built:
    """The blocks of one app around its components, innermost first."""
    namespace = files.environment.namespace
    app.metrics.rewrites = rewrites_of(files.configuration.metrics.rules)
    resiliencies = [(item.name, item.spec) for item in files.resources.resiliencies]
    sources = [item.source for item in files.resources.resiliencies]
    policies = Policies(resiliencies, app.metrics, app.app_id, namespace, sources)
    pubsubs = {name: _bind_pubsub(item, app, files) for name, item in opened.items() if _is(item, "pubsub")}
    tracer = _tracer(with_otel_variables(files.configuration.tracing, files.environment.otel))
    publisher = Publisher(pubsubs, app.app_id, namespace, policies, app.metrics, tracer=tracer)
    subscriber = Subscriber(
        pubsubs,
        app.app_id,
        namespace,
        channel,
        policies,
        publisher,
        app.metrics,
        [from_declared(item) for item in files.resources.subscriptions],
        app=_grpc_delivery(channel, tracer),
        discovery=not files.flags.skips_subscribe_endpoint,
        tracer=tracer,
    )
    stream_limits = StreamLimits(files.flags.subscription_streams, files.flags.subscription_stream_events)
    streams = Streams(app.app_id, namespace, policies, publisher, app.metrics, stream_limits)
    stores = _bind_stores(opened)
    outbox = _outbox(stores, app.app_id, namespace, publisher)
    bound = {
        name: bind_binding(name, item.metadata, item.driver) for name, item in opened.items() if _is(item, "bindings")
    }
    outputs = Bindings(bound, policies, app.metrics, namespace)
    peer = Peer(app.app_id, files.environment.namespace_or_default, channel, _access(files), app.metrics)
    kept = State(stores, app.app_id, namespace, policies, app.metrics, outbox)
    blocks = Blocks(
        state=kept,
        publisher=publisher,
        streams=streams,
        invoker=_invoker(app, files, policies, peer, outside),
        secrets=_secrets(files, opened, policies, app),
        bindings=outputs,
        configuration=_configuration(app, opened, channel, policies, namespace),
        outbox=AppOutbox(app.node.outbox.look, app.app_id, [link.name for link in files.resources.links]),
        sync=AppSync(),
        conflicts=AppConflicts(kept, [name for name in stores if opened[name].component.type == "state.sqlite"]),
        metadata=_metadata(app, files, opened, policies, lambda: [*subscriber.active(), *streams.active()]),
        health=app.health,
        namespace=files.environment.namespace_or_default,
        shutdown=app.request_shutdown,
    )
    checks = _health_settings(files.flags)
    app_health = None
    if channel is not None and checks is not None:
        grpc = files.flags.protocol in ("grpc", "grpcs")
        app_health = AppHealth(channel, checks, app.metrics, healthy=app.was_well, grpc=grpc)
    generation = Generation(
        blocks,
        _face(app, files, blocks, tracer),
        _public_face(blocks),
        lambda: _grpc_face(app, files, blocks, tracer),
        app_health,
        channel,
    )
    inputs = _inputs(app, files, bound, outputs, channel, policies, tracer)
    return _Built(generation, channel, subscriber, streams, outbox, peer, inputs, pubsubs)


def _inputs(
    app: App,
    files: Files,
    bound: Mapping[str, BoundBinding],
    outputs: Bindings,
    channel: Channel | None,
    policies: Policies,
    tracer: Tracer,
) -> InputBindings | None:
    """Loaded only when there is a binding to read, and an app to tell."""
    readable = [binding for binding in bound.values() if binding.input is not None]
    if channel is None or not readable:
        return None
    from edge_runtime.blocks.bindings.input import InputBindings

    told = _binding_app(files, channel, outputs, tracer)
    return InputBindings(readable, told, policies, app.metrics, files.environment.namespace)


def _binding_app(files: Files, channel: Channel, outputs: Bindings, tracer: Tracer) -> BindingApp:
    if isinstance(channel, HttpChannel):
        from edge_runtime.blocks.bindings.app import HttpBindingApp

        return HttpBindingApp(channel, tracer, files.flags.binding_options_timeout_s)
    from edge_runtime.blocks.bindings.grpc_app import GrpcBindingApp

    return GrpcBindingApp(channel, tracer, outputs)


def _configuration(
    app: App, opened: Mapping[str, Opened], channel: Channel | None, policies: Policies, namespace: str
) -> ConfigurationBlock:
    stores = {name: item.driver for name, item in opened.items() if _is(item, "configuration")}
    return ConfigurationBlock(stores, channel, policies, app.metrics, namespace, app.configuration_subscriptions)


def _grpc_delivery(channel: Channel | None, tracer: Tracer) -> AppDelivery | None:
    if channel is None or isinstance(channel, HttpChannel):
        return None
    from edge_runtime.blocks.pubsub.grpc_app import GrpcAppDelivery

    return GrpcAppDelivery(channel, tracer)


def _invoker(app: App, files: Files, policies: Policies, peer: Peer, outside: _Outside) -> Invoker:
    access = files.configuration.access_control
    return Invoker(
        peer,
        app.node.peers,
        policies=policies,
        metrics=app.metrics,
        outside=outside.urls,
        endpoints=outside.endpoints,
        trust_domain=access.trust_domain if access is not None else "public",
        host_address=files.environment.host_ip or "127.0.0.1",
        host_name=os.uname().nodename,
    )


def _access(files: Files) -> AccessPolicy | None:
    access = files.configuration.access_control
    protocol = "grpc" if files.flags.protocol in ("grpc", "grpcs") else "http"
    return None if access is None else AccessPolicy(access, protocol)


def _is(item: Opened, category: str) -> bool:
    return item.component.category == category


def _bind_pubsub(item: Opened, app: App, files: Files) -> PubSubBinding:
    return bind_pubsub(
        item.component.name,
        item.metadata,
        item.driver,
        app.app_id,
        files.environment.namespace_or_default,
        namespaced=item.namespaced,
    )


def _bind_stores(opened: Mapping[str, Opened]) -> dict[str, BoundStore]:
    """The state stores with what their components say to the runtime; a mistake there is one of the component."""
    stores = {}
    for name, item in opened.items():
        if not _is(item, "state"):
            continue
        try:
            stores[name] = _bind_store(item, opened)
        except ConfigError as error:
            failure = init_failure(item.component, error)
            if not item.component.ignore_errors:
                raise failure from None
            log.error("%s; ignored, as the component says ignoreErrors", failure)
    return stores


def _bind_store(item: Opened, opened: Mapping[str, Opened]) -> BoundStore:
    component = item.component
    secret_store = component.secret_store if component.secret_store in opened else ""
    key_names = {field.name: field.secret_name for field in component.metadata if field.secret_name}
    return bind_store(component.name, item.metadata, item.driver, secret_store=secret_store, key_names=key_names)


class _OutboxPort:
    """Publish and subscribe as the outbox wants them: bytes as they are, the internal topic unseen by the app."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher

    async def publish_raw(self, pubsub: str, topic: str, data: bytes, metadata: Mapping[str, str]) -> None:
        await self._publisher.publish_raw(pubsub, topic, data, metadata)

    async def subscribe_internal(self, pubsub: str, topic: str, handler: Handler, *, task_status: Any) -> None:
        binding = self._publisher.binding(pubsub)
        topic = binding.topic_prefix + topic  # as publishing puts it before every topic
        await binding.driver.subscribe(topic, binding.consumer_group, {}, handler, task_status=task_status)


def _outbox(stores: Mapping[str, BoundStore], app_id: str, namespace: str, publisher: Publisher) -> Outbox | None:
    if not any(bound.outbox for bound in stores.values()):
        return None
    return Outbox(stores, app_id, namespace, _OutboxPort(publisher))


def _secrets(files: Files, opened: Mapping[str, Opened], policies: Policies, app: App) -> Secrets:
    stores = {name: item.driver for name, item in opened.items() if _is(item, "secretstores")}
    scopes = SecretScopes(files.configuration.secret_scopes)
    return Secrets(stores, scopes, policies, app.metrics, files.environment.namespace)


def _metadata(
    app: App,
    files: Files,
    opened: Mapping[str, Opened],
    policies: Policies,
    subscriptions: Callable[[], Iterable[Mapping[str, Any]]],
) -> Metadata:
    features = [name for name, on in files.configuration.features.items() if on]
    metadata = Metadata(
        files.flags.app_id,
        RUNTIME_VERSION,
        features=features,
        connection=_connection(files.flags),
        subscriptions=subscriptions,
        extended=app.extended,
    )
    metadata.components += [_described(item) for item in opened.values()]
    metadata.endpoints += [endpoint.name for endpoint in files.resources.http_endpoints]
    metadata.resiliencies += policies.describe()
    return metadata


def _described(item: Opened) -> LoadedComponent:
    component = item.component
    if component.category == "bindings":
        return LoadedComponent(component.name, component.type, component.version or "v1", capabilities(item.driver))
    features = sorted(item.driver.features)
    if component.category == "state" and {"ETAG", "TRANSACTIONAL"} <= item.driver.features:
        features.append("ACTOR")
    return LoadedComponent(component.name, component.type, component.version or "v1", features)


def _connection(flags: DaprdFlags) -> AppConnection | None:
    if not flags.app_port:
        return None
    checks = None
    if flags.enable_app_health_check:
        path = flags.app_health_check_path
        checks = (path, flags.health_interval_s, flags.health_timeout_s, flags.health_threshold)
    return AppConnection(
        flags.app_port, flags.protocol, flags.app_channel_address or "127.0.0.1", flags.app_max_concurrency, checks
    )


def _health_settings(flags: DaprdFlags) -> HealthSettings | None:
    if not flags.enable_app_health_check:
        return None
    return HealthSettings(
        flags.app_health_check_path, flags.health_interval_s, flags.health_timeout_s, flags.health_threshold
    )


def _face(app: App, files: Files, blocks: Blocks, tracer: Tracer) -> Face:
    configuration = files.configuration
    lists = ApiLists(configuration.api_allowed, configuration.api_denied)
    routes: Collection[Route] = ROUTES
    if not lists.empty:
        routes = allowed_routes(ROUTES, lambda row: lists.permits(row.group, row.version, row.path))
    invoke_denied = not any(row.group == "invoke" for row in routes)
    return Face(
        blocks,
        routes,
        _face_settings(files),
        tracer,
        _http_metrics(app, configuration),
        None if invoke_denied else invoke.fallback,
    )


def _face_settings(files: Files) -> FaceSettings:
    logging_ = files.configuration.api_logging
    switch = files.flags.enable_api_logging
    logged = logging_.enabled if switch is None else switch
    return FaceSettings(
        body_limit_bytes=files.flags.body_bytes_max,
        token=files.environment.api_token,
        allowed_origins=files.flags.allowed_origins,
        api_log=(logging_.obfuscate_urls, logging_.omit_health_checks) if logged else None,
        traced=_rate(files.configuration.tracing.sampling_rate) != 0,
    )


def _grpc_face(app: App, files: Files, blocks: Blocks, tracer: Tracer) -> GrpcFace:
    from edge_runtime.api.grpc.face import GrpcFace
    from edge_runtime.api.grpc.proxy import Proxy

    configuration = files.configuration
    lists = ApiLists(configuration.api_allowed, configuration.api_denied, protocol="grpc")
    return GrpcFace(
        blocks,
        _face_settings(files),
        tracer,
        _grpc_metrics(app, configuration),
        Proxy(blocks.invoker).handle,
        lists,
    )


def _grpc_metrics(app: App, configuration: Configuration) -> GrpcServerMetrics | None:
    if not configuration.metrics.enabled:
        return None
    if app.grpc_metrics is None:
        from edge_runtime.observability.grpc_metrics import GrpcServerMetrics

        app.grpc_metrics = GrpcServerMetrics(app.metrics, configuration.metrics.latency_buckets_ms or LATENCY_MS)
    return app.grpc_metrics


def _public_face(blocks: Blocks) -> Face:
    """Health and metadata without token, CORS and fallback. The flag for body sizes is not for this port, which takes
    the default size: it may be open to a network."""
    routes = (*health.HEALTH_ROUTES, *health.METADATA_ROUTES)
    return Face(blocks, routes, FaceSettings(), Tracer(None), None, None)


def _rate(text: str) -> float:
    """The sampling rate; empty or no number is Dapr's default."""
    try:
        return min(max(float(text), 0.0), 1.0)
    except ValueError:
        return DEFAULT_SAMPLING


def _tracer(tracing: Tracing) -> Tracer:
    """Without a rate and an exporter there is no tracer: contexts pass through as they came."""
    exports = tracing.stdout or tracing.zipkin_endpoint or (tracing.otel.endpoint and tracing.otel.protocol)
    return Tracer(_rate(tracing.sampling_rate) if tracing.sampling_rate or exports else None)


def _http_metrics(app: App, configuration: Configuration) -> HttpServerMetrics | None:
    settings = configuration.metrics
    if not settings.enabled:
        return None
    if app.http_metrics is None:
        app.http_metrics = HttpServerMetrics(
            app.metrics,
            HttpMetricsSettings(
                settings.http_increased_cardinality,
                settings.http_path_matching,
                settings.http_exclude_verbs,
                settings.latency_buckets_ms or LATENCY_MS,
            ),
        )
    return app.http_metrics


# --- the life beside the app ------------------------------------------------------------------------------------------


async def _attend_app(app: App, files: Files, built: _Built, background: trio.Nursery) -> None:
    """Wait for the app, ask what it wants, deliver while it is well. Without an app port nothing is waited for.

    Health probes run in `background`: they go on when deliveries are stopped, as a blocked shutdown asks for. Streams
    need no app; they end when all deliveries are over, so that who subscribes again meets the next generation.
    """
    generation = built.generation
    try:
        with generation.deliveries:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(built.streams.run)
                nursery.start_soon(generation.blocks.configuration.run)
                await app.serving.wait()  # an app may call back while it is asked, and the log says it in Dapr's order
                if built.channel is not None:
                    await wait_for_app_port(built.channel.origin)
                if generation.app_health is None:
                    await _begin_deliveries(files, built, nursery)
                else:
                    await background.start(generation.app_health.run)
                    nursery.start_soon(_follow_health, files, built, nursery)
                app.initialized()
    finally:
        built.streams.release()
        generation.blocks.configuration.release()
        generation.deliveries_over()


async def _follow_health(files: Files, built: _Built, nursery: trio.Nursery) -> None:
    """Deliveries begin when the app is first well, pause while it is not, and resume."""
    assert built.generation.app_health is not None
    begun = False
    async for healthy in built.generation.app_health.changes():
        if healthy and not begun:
            begun = True
            await _begin_deliveries(files, built, nursery)
        elif healthy:
            built.subscriber.resume()
            if built.inputs is not None:
                built.inputs.resume()
        elif begun:
            built.subscriber.pause()
            if built.inputs is not None:
                built.inputs.pause()


async def _begin_deliveries(files: Files, built: _Built, nursery: trio.Nursery) -> None:
    # A gRPC app has no such endpoint: it says what it hosts in calls of its own.
    if isinstance(built.channel, HttpChannel) and not files.flags.skips_config_endpoint:
        await _read_app_config(built.channel, files.flags.app_id)
    await built.subscriber.discover()
    await nursery.start(built.subscriber.run)
    if built.inputs is not None:
        await nursery.start(built.inputs.run)
    if built.outbox is not None:
        nursery.start_soon(built.outbox.run)


async def _read_app_config(channel: HttpChannel, app_id: str) -> None:
    found = await discover_app_config(channel, app_id)
    if found.actors:
        log.info("app %s hosts actors (%s); actors come with a later part", app_id, ", ".join(found.actors))
