"""The control face: what the command line asks of a running node, over a unix socket.

Plain HTTP/1.1 and JSON. An app that is attached lives as long as the connection that attached it: the answer is a
stream of events, and when the client goes away the app's sidecar is stopped gracefully. That the client has gone shows
by the end of its half of the connection, so the connection is read while the answer is being written.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol
from urllib.parse import parse_qs, unquote, urlsplit

import trio

from edge_runtime import RUNTIME_VERSION, __version__
from edge_runtime.api.control_socket import (
    Peer,
    control_listener,
    group_id,
    groups_of,
    may_speak,
    open_control_socket,
    peer_of,
)
from edge_runtime.model.errors import ConfigError, DriverError, EdgeError
from edge_runtime.wire.http1 import (
    CLOSED,
    CONTINUE,
    END,
    LAST_CHUNK,
    NEED_DATA,
    ProtocolError,
    RequestHead,
    RequestReader,
    encode_chunk,
    encode_response,
    encode_response_head,
    new_request_reader,
)

if TYPE_CHECKING:
    from edge_runtime.store.log_view import TopicInfo

log = logging.getLogger("dapr.runtime.control")

CONNECTIONS_MAX: Final = 256
BODY_BYTES_MAX: Final = 4 * 2**20  # an app's whole environment fits: the kernel allows some 2 MiB
REQUEST_TIMEOUT_S: Final = 10.0
EVENTS_WAITING_MAX: Final = 1_000
KEYS_MAX: Final = 1_000
_JSON: Final = ((b"content-type", b"application/json"),)
_EVENTS: Final = ((b"content-type", b"application/x-ndjson"),)


class HostedApp(Protocol):
    """What is asked of an app's sidecar. `gone` is set when it has been taken down, for whatever reason."""

    app_id: str
    http_port: int
    grpc_port: int
    started_at: float
    listening: bool
    settings: Any
    generation: Any
    extended: dict[str, str]
    gone: trio.Event

    def set_metadata(self, key: str, value: str) -> None: ...
    def shut_down(self) -> None: ...


class ControlledNode(Protocol):
    """What is asked of the node."""

    settings: Any
    logs: Any
    databases: Any
    sockets: Any

    @property
    def apps(self) -> Mapping[str, Any]: ...
    async def attach(self, settings: Any) -> Any:
        """Serve an app; `settings` has its flags, environment and directory. Raises ConfigError."""


class Attachment(NamedTuple):
    """An app that a client brings; for the node this is what its settings are."""

    flags: Any
    environment: Mapping[str, str]
    directory: str


class Answer(NamedTuple):
    status: int
    value: Any


class Refused(Exception):
    """An answer other than success, as status and text."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


async def serve_control(node: ControlledNode, path: str, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
    """Answer at the socket until cancelled. Raises ConfigError when it cannot be opened."""
    group = group_id(node.settings.attach)
    passed = node.sockets.control() if node.sockets is not None else None
    listener = open_control_socket(path, group) if passed is None else control_listener(passed)
    made = os.stat(path).st_ino if passed is None else None  # a socket that was passed is for its owner to remove
    try:
        slots = trio.CapacityLimiter(CONNECTIONS_MAX)
        await trio.serve_listeners(partial(_connection, node, group, slots), [listener], task_status=task_status)
    finally:
        if made is not None:
            _remove(path, made)


def _remove(path: str, inode: int) -> None:
    try:
        if os.lstat(path).st_ino == inode:
            os.unlink(path)
    except OSError:
        pass


async def _connection(
    node: ControlledNode, group: int | None, slots: trio.CapacityLimiter, stream: trio.SocketStream
) -> None:
    peer = peer_of(stream.socket)
    async with stream:
        try:
            if not may_speak(peer, groups_of(stream.socket), group):
                await stream.send_all(_encode(_error(403, "this node's control socket is not open to you")))
            elif not slots.available_tokens:
                await stream.send_all(_encode(_error(503, f"the control socket has {CONNECTIONS_MAX} clients already")))
            else:
                async with slots:
                    await _Client(node, peer, stream).serve()
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the client has gone
        except* Exception:
            log.exception("A request at the control socket failed")


def _error(status: int, text: str) -> Answer:
    return Answer(status, {"error": text})


def _encode(answer: Answer, *, keep_alive: bool = False) -> bytes:
    body = json.dumps(answer.value, ensure_ascii=False).encode("utf-8", "surrogateescape")
    return encode_response(answer.status, _JSON, body, keep_alive=keep_alive)


class _Client:
    """One connection: requests one after the other, or one attachment."""

    def __init__(self, node: ControlledNode, peer: Peer, stream: trio.SocketStream) -> None:
        self._node = node
        self._peer = peer
        self._stream = stream
        self._reader: RequestReader = new_request_reader()
        self._starting = trio.CancelScope()
        self._left = trio.Event()

    async def serve(self) -> None:
        while True:
            try:
                request = await self._request()
            except ProtocolError as error:
                await self._stream.send_all(_encode(_error(error.status, error.text)))
                return
            if request is None:
                return
            head, body = request
            if head.method == "POST" and head.target == b"/edge/v1/apps":
                await self._attach(body)
                return
            await self._stream.send_all(_encode(await self._answer(head), keep_alive=head.keep_alive))
            if not head.keep_alive:
                return

    async def _request(self) -> tuple[RequestHead, bytes] | None:
        """The next request with its body, None at the end. Raises ProtocolError."""
        with trio.move_on_after(REQUEST_TIMEOUT_S):
            head = await self._event()
            if not isinstance(head, RequestHead):
                return None
            if head.expect_continue:
                await self._stream.send_all(CONTINUE)
            pieces: list[bytes] = []
            size = 0
            while (piece := await self._event()) is not END:
                if isinstance(piece, bytes):
                    pieces.append(piece)
                    size += len(piece)
                if size > BODY_BYTES_MAX:
                    raise ProtocolError(413, f"the request is larger than {BODY_BYTES_MAX} bytes")
            return head, b"".join(pieces)
        return None

    async def _event(self) -> Any:
        while (event := self._reader.next_event()) is NEED_DATA:
            self._reader.feed(await self._stream.receive_some(65536))
        return None if event is CLOSED else event

    # --- single questions --------------------------------------------------------------------------------------------

    async def _answer(self, head: RequestHead) -> Answer:
        parts = urlsplit(head.target.decode("ascii", "replace"))
        segments = [unquote(segment) for segment in parts.path.split("/")[1:]]
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        for method, pattern, handler in _ROUTES:
            if method == head.method and len(pattern) == len(segments):
                found = _match(pattern, segments)
                if found is not None:
                    try:
                        return Answer(200, await handler(self._node, found, query))
                    except Refused as error:
                        return _error(error.status, str(error))
                    except (EdgeError, DriverError) as error:
                        return _error(400, str(error))
        return _error(404, f"the control socket has no {head.method} {parts.path}")

    # --- attaching ---------------------------------------------------------------------------------------------------

    async def _attach(self, body: bytes) -> None:
        try:
            attachment = self._attachment(body)
        except Refused as error:
            await self._stream.send_all(_encode(_error(error.status, str(error))))
            return
        await self._stream.send_all(encode_response_head(200, _EVENTS, None, keep_alive=False))
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._until_client_leaves)
                await self._host(attachment)
                nursery.cancel_scope.cancel()
        finally:  # also when the node stops: the client tells a node that ends from one that died
            with trio.move_on_after(1, shield=True):
                await self._stream.send_all(LAST_CHUNK)

    def _attachment(self, body: bytes) -> Attachment:
        setting = self._node.settings.attach
        if setting == "none":
            raise Refused(403, "this node takes no apps: it was started with --attach=none")
        from edge_runtime.config.flags import FlagError, parse_flags, validate

        try:
            value = json.loads(body)
            flags = parse_flags([str(word) for word in value["argv"]])
            environment = {str(name): str(text) for name, text in value["environment"].items()}
            directory = str(value["directory"])
        except FlagError as error:
            raise Refused(400, str(error)) from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise Refused(400, "expected a JSON object with argv (list), environment (object) and directory") from None
        if problems := validate(flags):
            raise Refused(400, "; ".join(problems))
        if flags.app_id in self._node.apps:
            raise Refused(409, f"an app with the id {flags.app_id!r} runs on this node already")
        return Attachment(flags, environment, directory)

    async def _until_client_leaves(self) -> None:
        """Notice the end of the client's half; what is left to say is still sent on ours."""
        try:
            while await self._stream.receive_some(4096):
                pass
        except trio.BrokenResourceError:
            pass
        self._left.set()
        self._starting.cancel()

    async def _host(self, attachment: Attachment) -> None:
        """Serve the app until it, or its client, is gone, and pass on what is logged of it."""
        app_id = attachment.flags.app_id
        sending, receiving = trio.open_memory_channel[dict[str, Any]](EVENTS_WAITING_MAX)
        tap = _Tap(app_id, sending)
        self._node.logs.taps.append(tap)
        try:
            async with trio.open_nursery() as nursery, sending:
                nursery.start_soon(self._forward, receiving)
                await sending.send({"event": "starting", "appId": app_id})
                problems: list[str] = []
                try:
                    await self._serve(attachment, sending)
                except* ConfigError as group:
                    problems = _texts(group)
                if problems:
                    await sending.send({"event": "error", "message": "; ".join(problems)})
        finally:
            self._node.logs.taps.remove(tap)

    async def _serve(self, attachment: Attachment, sending: trio.MemorySendChannel[dict[str, Any]]) -> None:
        app: HostedApp | None = None
        with self._starting:
            app = await self._node.attach(attachment)
        if app is None:
            return  # the client left first
        app.set_metadata("cliPID", str(self._peer.pid))
        log.info("App %s was attached by process %d of user %d", app.app_id, self._peer.pid, self._peer.uid)
        try:
            await sending.send({"event": "ready", **describe(app)})
            await _first_of(app.gone, self._left)
        finally:
            app.shut_down()
            with trio.CancelScope(shield=True):  # the sidecar's own graceful seconds end this
                await app.gone.wait()
            log.info("App %s was detached", app.app_id)
        await sending.send({"event": "stopped"})

    async def _forward(self, receiving: trio.MemoryReceiveChannel[dict[str, Any]]) -> None:
        async for event in receiving:
            await self._send(event)

    async def _send(self, event: Mapping[str, Any]) -> None:
        line = json.dumps(event, ensure_ascii=False, separators=(",", ":")) + "\n"
        await self._stream.send_all(encode_chunk(line.encode("utf-8", "surrogateescape")))


def _texts(group: BaseExceptionGroup[Any]) -> list[str]:
    """What each error of the group says, however deep it is."""
    found: list[str] = []
    for error in group.exceptions:
        found += _texts(error) if isinstance(error, BaseExceptionGroup) else [str(error)]
    return found


async def _first_of(*events: trio.Event) -> None:
    async with trio.open_nursery() as nursery:

        async def wait(event: trio.Event) -> None:
            await event.wait()
            nursery.cancel_scope.cancel()

        for event in events:
            nursery.start_soon(wait, event)


class _Tap:
    """Takes the log lines of one app from the node's log. Lines that nobody reads in time are counted, not kept."""

    def __init__(self, app_id: str, sending: trio.MemorySendChannel[dict[str, Any]]) -> None:
        self._app_id = app_id
        self._sending = sending
        self._lost = 0

    def __call__(self, app_id: str, line: str) -> None:
        if app_id != self._app_id:
            return
        event: dict[str, Any] = {"event": "log", "line": line}
        if self._lost:
            event["lost"] = self._lost
        try:
            self._sending.send_nowait(event)
            self._lost = 0
        except trio.WouldBlock:
            self._lost += 1
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            pass


# --- the questions ----------------------------------------------------------------------------------------------------

Question = Callable[[Any, Sequence[str], Mapping[str, str]], Awaitable[Any]]


def describe(app: HostedApp) -> dict[str, Any]:
    """One app as the command line lists it."""
    flags = app.settings.flags
    return {
        "appId": app.app_id,
        "httpPort": app.http_port,
        "grpcPort": app.grpc_port,
        "appPort": flags.app_port or 0,
        "metricsEnabled": flags.enable_metrics,
        "maxRequestBodySize": flags.body_bytes_max or 0,
        "httpReadBufferSize": flags.header_bytes_max,
        "resourcePaths": list(flags.resource_directories),
        "unixDomainSocket": flags.unix_domain_socket,
        "startedAt": app.started_at,
        "listening": app.listening,
        "extended": dict(app.extended),
    }


async def get_node(node: ControlledNode, words: Sequence[str], query: Mapping[str, str]) -> Any:
    return {
        "pid": os.getpid(),
        "version": __version__,
        "runtimeVersion": RUNTIME_VERSION,
        "attach": node.settings.attach,
        "stateDirectory": node.settings.state_dir,
        "apps": sorted(node.apps),
    }


async def get_apps(node: ControlledNode, words: Sequence[str], query: Mapping[str, str]) -> Any:
    return [describe(app) for app in list(node.apps.values())]


async def delete_app(node: ControlledNode, words: Sequence[str], query: Mapping[str, str]) -> Any:
    app = _app(node, words[0])
    app.shut_down()
    return {"appId": app.app_id}


async def put_metadata(node: ControlledNode, words: Sequence[str], query: Mapping[str, str]) -> Any:
    _app(node, words[0]).set_metadata(words[1], query.get("value", ""))
    return {}


async def get_keys(node: ControlledNode, words: Sequence[str], query: Mapping[str, str]) -> Any:
    """A page of the keys that one app has in a store, as the app knows them."""
    app = _app(node, words[0])
    if app.generation is None:
        raise Refused(503, f"app {words[0]} is being started; ask again")
    limit = query.get("limit", "100")
    if not limit.isdigit() or not 0 < int(limit) <= KEYS_MAX:
        raise Refused(400, f"limit {limit!r}: expected a number from 1 to {KEYS_MAX}")
    store = app.generation.blocks.state.require(words[1])
    after = query.get("after", "")
    keys = await store.store.keys(
        store.prefix + query.get("prefix", ""), store.prefix + after if after else "", int(limit)
    )
    return {"keys": [store.plain_key(key) for key in keys]}


async def get_topics(node: ControlledNode, words: Sequence[str], query: Mapping[str, str]) -> Any:
    """What the node's own log holds, and which groups lag."""
    from edge_runtime.components.pubsub.sqlite import NODE_DATABASE
    from edge_runtime.store.log_view import describe as describe_log

    path = os.path.join(node.settings.state_dir, NODE_DATABASE)
    there = os.path.exists(path)  # noqa: ASYNC240 - one look at a local file
    topics = describe_log(await node.databases.get(path)) if there else []
    return {"time": time.time(), "topics": [topic_as_mapping(topic) for topic in topics]}


def topic_as_mapping(topic: TopicInfo) -> dict[str, Any]:
    """One topic with its groups, as the control socket and `topics --json` show it."""
    return {
        "component": topic.component,
        "topic": topic.topic,
        "entries": topic.entries,
        "bytes": topic.bytes,
        "firstOffset": topic.first_offset,
        "lastOffset": topic.last_offset,
        "oldestAt": topic.oldest_at,
        "groups": [
            {
                "group": group.group,
                "cursor": group.cursor,
                "lag": group.lag,
                "lagBytes": group.lag_bytes,
                "inFlight": group.in_flight,
                "dropped": group.dropped,
            }
            for group in topic.groups
        ],
    }


def _app(node: ControlledNode, app_id: str) -> HostedApp:
    app: HostedApp | None = node.apps.get(app_id)
    if app is None:
        raise Refused(404, f"app ID {app_id} not found")
    return app


def _match(pattern: Sequence[str], segments: Sequence[str]) -> list[str] | None:
    """The segments at the places marked `*`, or None when another segment differs."""
    found: list[str] = []
    for expected, segment in zip(pattern, segments, strict=True):
        if expected == "*":
            found.append(segment)
        elif expected != segment:
            return None
    return found


_ROUTES: Final[tuple[tuple[str, tuple[str, ...], Question], ...]] = (
    ("GET", ("edge", "v1", "node"), get_node),
    ("GET", ("edge", "v1", "apps"), get_apps),
    ("DELETE", ("edge", "v1", "apps", "*"), delete_app),
    ("PUT", ("edge", "v1", "apps", "*", "metadata", "*"), put_metadata),
    ("GET", ("edge", "v1", "apps", "*", "state", "*", "keys"), get_keys),
    ("GET", ("edge", "v1", "topics"), get_topics),
)
