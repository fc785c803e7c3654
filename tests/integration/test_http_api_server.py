"""The HTTP server of a running sidecar, statement by statement: routing, limits, wire habits, health, metadata.

Also the blocks that have no driver yet: each answers as when it is not configured.
"""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.raw import (
    NO_APP_ID,
    Headers,
    Prefix,
    ask,
    check,
    exchange,
    info,
    parsed,
    plain,
    request_bytes,
    resource,
    rich,
)
from tests.support.sidecar import Sidecar, free_port

pytestmark = pytest.mark.slow

LIMIT = 2048
TRACE = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"
NO_PLACEMENT = plain("ERR_ACTOR_NO_PLACEMENT", "placement service is not configured")
NO_CONFIGURATION = plain("ERR_CONFIGURATION_STORE_NOT_CONFIGURED", "configuration stores not configured")
NO_LOCK = plain("ERR_LOCK_STORE_NOT_CONFIGURED", "lock store is not configured")
NO_CRYPTO = plain("ERR_CRYPTO_PROVIDERS_NOT_CONFIGURED", "crypto providers not configured")
SUBTLE = plain("ERR_API_UNIMPLEMENTED", "this API is currently not implemented")


@pytest.fixture(scope="module")
def sidecar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    place = tmp_path_factory.mktemp("server")
    with Sidecar(place, "--max-body-size", str(LIMIT), app_id="me") as sidecar:
        yield sidecar


@pytest.fixture(scope="module")
def port(sidecar: Sidecar) -> int:
    return sidecar.port


# --- health and metadata ----------------------------------------------------------------------------------------------


def test_health_is_204(port: int) -> None:
    for target in ("/v1.0/healthz", "/v1.0/healthz/", "/v1.0/healthz/outbound", "/v1.0/healthz?appid=me"):
        check(ask(port, "GET", target), 204, None)
    check(
        ask(port, "GET", "/v1.0/healthz?appid=other"),
        500,
        plain("ERR_HEALTH_APPID_NOT_MATCH", "dapr app-id does not match"),
    )


def test_health_waits_for_the_app(tmp_path_factory: pytest.TempPathFactory) -> None:
    place = tmp_path_factory.mktemp("waiting")
    with Sidecar(place, app_port=free_port(), ready="HTTP server is running on port") as sidecar:
        expected = plain("ERR_HEALTH_NOT_READY", "dapr is not ready: [runtime]")
        check(ask(sidecar.port, "GET", "/v1.0/healthz"), 500, expected)
        check(ask(sidecar.port, "GET", "/v1.0/healthz/outbound"), 204, None)
        check(ask(sidecar.port, "GET", "/v1.0/state/statestore/k"), 204, None)


def test_metadata_are_told(port: int) -> None:
    reply = ask(port, "GET", "/v1.0/metadata")
    document = reply.json()
    assert (reply.status, reply.headers["content-type"], document["id"]) == (200, "application/json", "me")
    assert document["extended"]["daprRuntimeVersion"] == document["runtimeVersion"]
    assert document["actorRuntime"] == {
        "runtimeStatus": "DISABLED",
        "hostReady": False,
        "placement": "placement: disconnected",
    }
    absent = {"subscriptions", "httpEndpoints", "mcpServers", "resiliencies", "appConnectionProperties", "actors"}
    assert not absent & set(document)
    assert {frozenset(item) - {"capabilities"} for item in document["components"]} == {
        frozenset(("name", "type", "version"))
    }


@pytest.mark.parametrize(
    ("segment", "key", "value", "told"),
    [
        ("plain", "plain", b"text", "text"),
        ("plain", "plain", b"", ""),
        ("a%2Fb+c", "a/b c", b'{"no":"JSON"}', '{"no":"JSON"}'),
        ("%C3%A9", "é", "ü".encode(), "ü"),
    ],
)
def test_metadata_are_kept(port: int, segment: str, key: str, value: bytes, told: str) -> None:
    check(ask(port, "PUT", "/v1.0/metadata/" + segment, value, (("Content-Type", "x/y"),)), 204, None)
    assert ask(port, "GET", "/v1.0/metadata").json()["extended"][key] == told


def test_a_public_port_shows_little(tmp_path_factory: pytest.TempPathFactory) -> None:
    public = free_port()
    with Sidecar(tmp_path_factory.mktemp("public"), "--dapr-public-port", str(public), "--max-body-size", "1Ki"):
        assert ask(public, "GET", "/v1.0/metadata").status == 200
        check(ask(public, "PUT", "/v1.0/metadata/large", b"x" * 5000), 204, None)
        check(ask(public, "GET", "/v1.0/healthz/outbound"), 204, None)
        assert ask(public, "GET", "/v1.0/state/statestore/k").body == b"404 page not found\n"
        assert ask(public, "POST", "/v1.0/shutdown").status == 404


# --- routing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/"),
        ("GET", "/v1.0"),
        ("GET", "/v1.0/"),
        ("GET", "/v1.1/healthz"),
        ("GET", "/V1.0/healthz"),
        ("GET", "/v1.0%2Fhealthz"),
        ("GET", "/v1.0/healthz/x"),
        ("HEAD", "/v1.0/healthz"),
        ("HEAD", "/v1.0/state/statestore/k"),
        ("OPTIONS", "/v1.0/metadata"),
        ("PROPFIND", "/v1.0/metadata"),
        ("CONNECT", "node:80"),
        ("PUT", "/v1.0/metadata"),
        ("POST", "/v1.0/metadata/a"),
        ("PUT", "/v1.0/metadata/a/b"),
        ("GET", "/v1.0/shutdown"),
        ("GET", "/v1.0/state/statestore"),
        ("GET", "/v1.0/state//statestore/"),
        ("GET", "/v1.0/state/statestore/a/b"),
        ("POST", "/v1.0/state/statestore/a"),
        ("GET", "/v1.0-alpha1/state/statestore/a"),
        ("POST", "/v1.0/state/statestore/query"),
        ("PATCH", "/v1.0/state/statestore/a"),
        ("POST", "/v1.0/secrets/secretstore/a"),
        ("GET", "/v1.0/bindings/b"),
        ("GET", "/v1.0/jobs"),
    ],
)
def test_other_paths_are_invocations(port: int, method: str, target: str) -> None:
    check(ask(port, method, target), 404, None if method == "HEAD" else NO_APP_ID)


# --- blocks without a driver ------------------------------------------------------------------------------------------


def no_scheduler(verb: str, reason: str) -> dict[str, Any]:
    message = Prefix(f"failed to {verb} job due to: ")
    return rich(reason, message, info(reason, {"appID": "me", "namespace": "default"}))


def no_binding(reason: str) -> dict[str, Any]:
    return plain("ERR_INVOKE_OUTPUT_BINDING", "error invoking output binding b: " + reason)


def no_expiry() -> dict[str, Any]:
    return plain("ERR_MALFORMED_REQUEST", "ExpiryInSeconds is not positive in lock store l")


MALFORMED = plain("ERR_MALFORMED_REQUEST", Prefix("failed deserializing HTTP body: "))
SUBTLE_VERBS = ("getkey", "encrypt", "decrypt", "wrapkey", "unwrapkey", "sign", "verify")
WORKFLOW_VERSIONS = ("v1.0", "v1.0-beta1", "v1.0-alpha1")
UNCONFIGURED: list[tuple[str, str, str | None, int, Any]] = [
    ("POST", "v1.0/bindings/b", '{"operation":"create","data":{}}', 500, no_binding("couldn't find output binding b")),
    ("PUT", "v1.0/bindings/b", '{"OPERATION":"x"} rest', 500, no_binding("couldn't find output binding b")),
    ("PUT", "v1.0/bindings/b", "{}", 500, no_binding("operation field is missing from request")),
    *(("POST", "v1.0/bindings/b", body, 400, MALFORMED) for body in ("", "zz", "[]", '{"operation":1}')),
    ("POST", "v1.0-alpha1/lock/l", '{"resourceId":"r","lockOwner":"o","expiryInSeconds":1}', 500, NO_LOCK),
    ("POST", "v1.0-alpha1/lock/l", '{"resource_id":"r","expiry_in_seconds":"1"}', 500, NO_LOCK),
    ("POST", "v1.0-alpha1/lock/l", None, 400, no_expiry()),
    ("POST", "v1.0-alpha1/lock/l", '{"expiryInSeconds":0}', 400, no_expiry()),
    ("POST", "v1.0-alpha1/lock/l", "zz", 400, MALFORMED),
    ("POST", "v1.0-alpha1/unlock/l", None, 500, NO_LOCK),
    ("POST", "v1.0-alpha1/unlock/l", "[]", 400, MALFORMED),
    *((m, "v1.0/actors/T/i/method/m", None, 400, NO_PLACEMENT) for m in ("GET", "POST", "PUT", "DELETE")),
    *((m, "v1.0/actors/T/i/state", "[]", 400, NO_PLACEMENT) for m in ("POST", "PUT")),
    ("GET", "v1.0/actors/T/i/state/k", None, 400, NO_PLACEMENT),
    *((m, "v1.0/actors/T/i/reminders/r", None, 400, NO_PLACEMENT) for m in ("GET", "POST", "PUT", "DELETE")),
    *((m, "v1.0/actors/T/i/timers/r", None, 400, NO_PLACEMENT) for m in ("POST", "PUT", "DELETE")),
    ("GET", "v1.0/actors/T/i/timers/r", None, 404, NO_APP_ID),
    ("PATCH", "v1.0/actors/T/i/method/m", None, 404, NO_APP_ID),
    *(("POST", f"{v}/workflows/dapr/W/start?instanceID=a", "any", 400, NO_PLACEMENT) for v in WORKFLOW_VERSIONS),
    *(("GET", f"{v}/workflows/dapr/a", None, 400, NO_PLACEMENT) for v in WORKFLOW_VERSIONS),
    *(("POST", f"{v}/workflows/dapr/a/raiseEvent/e", "any", 400, NO_PLACEMENT) for v in WORKFLOW_VERSIONS),
    *(
        ("POST", f"{v}/workflows/dapr/a/{verb}", None, 400, NO_PLACEMENT)
        for v in WORKFLOW_VERSIONS
        for verb in ("pause", "resume", "terminate", "purge")
    ),
    ("POST", "v1.0/workflows/dapr/a/purge", "any", 400, MALFORMED),
    *(("PUT", f"v1.0-alpha1/crypto/c/{verb}", "x", 500, NO_CRYPTO) for verb in ("encrypt", "decrypt")),
    *(("POST", f"v1.0-alpha1/subtlecrypto/c/{verb}", "{}", 501, SUBTLE) for verb in SUBTLE_VERBS),
    ("POST", "v1.0/jobs/j", '{"schedule":"@daily"}', 500, no_scheduler("schedule", "DAPR_SCHEDULER_SCHEDULE_JOB")),
    ("GET", "v1.0-alpha1/jobs/j", None, 500, no_scheduler("get", "DAPR_SCHEDULER_GET_JOB")),
    ("DELETE", "v1.0/jobs/j", None, 500, no_scheduler("delete", "DAPR_SCHEDULER_DELETE_JOB")),
    ("POST", "v1.0/jobs/j", "zz", 400, MALFORMED),
    *(
        (
            *("POST", f"{v}/conversation/c/converse", "{}", 400),
            plain("ERR_CONVERSATION_NOT_FOUND", "failed finding conversation component c"),
        )
        for v in ("v1.0-alpha1", "v1.0-alpha2")
    ),
    ("GET", "v1.0/metadata", "zz", 400, MALFORMED),
]


@pytest.mark.parametrize(("method", "path", "body", "status", "expected"), UNCONFIGURED)
def test_blocks_without_driver_answer(
    port: int, method: str, path: str, body: str | None, status: int, expected: Any
) -> None:
    check(ask(port, method, "/" + path, body), status, expected)


def test_no_components_are_said(tmp_path_factory: pytest.TempPathFactory) -> None:
    """With a component file of another kind there are no stores of ours either."""
    place = tmp_path_factory.mktemp("none")
    (place / "r").mkdir()
    component = {"kind": "Component", "metadata": {"name": "b"}, "spec": {"type": "pubsub.in-memory", "version": "v1"}}
    (place / "r" / "b.yaml").write_text(json.dumps({"apiVersion": "dapr.io/v1alpha1", **component}))
    with Sidecar(place, "--resources-path", str(place / "r"), app_id="me") as sidecar:
        for method, target, metadata in (
            ("GET", "/v1.0/state/s/k", {"appID": "me"}),
            ("POST", "/v1.0/state/s", {"appID": "me"}),
            ("POST", "/v1.0-alpha1/state/s/query", None),
        ):
            reply = ask(sidecar.port, method, target, None if method == "GET" else "[]")
            details = info("DAPR_STATE_NOT_CONFIGURED", metadata)
            check(reply, 500, rich("ERR_STATE_STORE_NOT_CONFIGURED", Prefix("state store"), details))
        check(
            ask(sidecar.port, "GET", "/v1.0/secrets/s/k"),
            500,
            plain("ERR_SECRET_STORES_NOT_CONFIGURED", "secret store is not configured"),
        )
        for version in ("v1.0", "v1.0-alpha1"):
            for rest in ("?key=a", "/subscribe", "/id/unsubscribe"):
                reply = ask(sidecar.port, "GET", f"/{version}/configuration/c{rest}")
                check(reply, 500, NO_CONFIGURATION)


# --- limits -----------------------------------------------------------------------------------------------------------


def publish_error(code: str, reason: str, message: str) -> dict[str, Any]:
    details = {"topic": "t", "error": "stream too large"}
    return rich(code, message, resource("pubsub", "pubsub", message), info(reason, details))


BODY_READ = plain("ERR_BODY_READ", "failed to read request body: stream too large")
TOO_LARGE = plain("ERR_MALFORMED_REQUEST", "failed deserializing HTTP body: stream too large")
OVERSIZED: list[tuple[str, str, int, Any]] = [
    ("POST", "v1.0/state/statestore", 400, plain("ERR_MALFORMED_REQUEST", "stream too large")),
    ("POST", "v1.0/state/statestore/bulk", 400, TOO_LARGE),
    ("POST", "v1.0/state/statestore/transaction", 400, TOO_LARGE),
    ("POST", "v1.0/bindings/b", 400, TOO_LARGE),
    ("POST", "v1.0-alpha1/state/statestore/query", 400, BODY_READ),
    ("PUT", "v1.0/metadata/k", 400, BODY_READ),
    ("GET", "v1.0/metadata", 400, BODY_READ),
    ("GET", "v1.0/secrets/secretstore/k", 400, BODY_READ),
    ("POST", "v1.0-alpha1/lock/l", 400, BODY_READ),
    ("POST", "v1.0-alpha1/unlock/l", 400, BODY_READ),
    ("POST", "v1.0/jobs/j", 400, BODY_READ),
    ("POST", "v1.0-alpha2/conversation/c/converse", 400, BODY_READ),
    ("POST", "v1.0-alpha1/subtlecrypto/c/sign", 400, BODY_READ),
    *(
        ("POST", f"v1.0/workflows/dapr/{path}", 400, BODY_READ)
        for path in ("W/start", "a/raiseEvent/e", "a/pause", "a/resume", "a/terminate", "a/purge")
    ),
    (
        "POST",
        "v1.0/publish/pubsub/t",
        500,
        publish_error(
            "ERR_PUBSUB_PUBLISH_MESSAGE",
            "DAPR_PUBSUB_PUBLISH_MESSAGE",
            "error when publishing to topic t in pubsub pubsub: stream too large",
        ),
    ),
    (
        "POST",
        "v1.0/publish/bulk/pubsub/t",
        400,
        publish_error(
            "ERR_PUBSUB_EVENTS_SER",
            "DAPR_PUBSUB_UNMARSHAL_EVENTS",
            "error when unmarshaling the request for topic t pubsub pubsub: stream too large",
        ),
    ),
    (
        "POST",
        "v1.0/invoke/http://127.0.0.1:1/method/m",
        500,
        plain("ERR_DIRECT_INVOKE", "failed to invoke, id: http://127.0.0.1:1, err: stream too large"),
    ),
    ("POST", "nothing", 404, NO_APP_ID),
]


@pytest.mark.parametrize(("method", "path", "status", "expected"), OVERSIZED)
@pytest.mark.parametrize("chunked", [False, True])
def test_oversized_bodies_are_refused(
    port: int, method: str, path: str, status: int, expected: Any, chunked: bool
) -> None:
    """One byte too many; the connection goes on when that byte was declared or read."""
    body = b'"' + b"a" * (LIMIT - 1) + b'"'
    if not chunked:
        check(ask(port, method, "/" + path, body), status, expected)
        return
    head = request_bytes(method, "/" + path, None, (("Transfer-Encoding", "chunked"),))
    pieces = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (body[:1000], body[1000:], b""))
    reply = parsed(exchange(port, head + pieces))
    if "http://" in path:
        assert reply.status == 500
        return
    check(reply, status, expected)


def test_a_body_at_the_limit_is_taken(port: int) -> None:
    body = b'[{"key":"k","value":"' + b"a" * (LIMIT - 23) + b'"}]'
    assert len(body) == LIMIT + 1
    assert ask(port, "POST", "/v1.0/state/statestore", body).status == 400
    check(ask(port, "POST", "/v1.0/state/statestore", body.replace(b"aa", b"a", 1)), 204, None)


@pytest.mark.parametrize(
    ("flags", "fits", "too_large"),
    [
        (("--max-body-size", "0"), 5 * 2**20, None),
        (("--max-body-size", "-1"), 4 * 2**20, 4 * 2**20 + 1),
        (("--max-body-size", "1M"), 10**6, 10**6 + 1),
        (("--dapr-http-max-request-size", "1"), 2**20, 2**20 + 1),
    ],
)
def test_the_limit_can_be_set(
    tmp_path_factory: pytest.TempPathFactory, flags: tuple[str, ...], fits: int, too_large: int | None
) -> None:
    with Sidecar(tmp_path_factory.mktemp("limit"), *flags) as sidecar:
        check(ask(sidecar.port, "PUT", "/v1.0/metadata/k", b"a" * fits), 204, None)
        if too_large:
            check(ask(sidecar.port, "PUT", "/v1.0/metadata/k", b"a" * too_large), 400, BODY_READ)


@pytest.mark.parametrize(("size", "status"), [(7000, 204), (8000, 204), (9000, 431), (200_000, 431)])
def test_large_headers_are_431(port: int, size: int, status: int) -> None:
    reply = parsed(exchange(port, request_bytes("GET", "/v1.0/healthz", None, (("X-Large", "a" * size),))))
    assert reply.status == status


# --- wire habits ------------------------------------------------------------------------------------------------------


def test_requests_may_be_pipelined(port: int) -> None:
    requests = [
        request_bytes("GET", "/v1.0/healthz"),
        request_bytes("POST", "/v1.0/state/statestore", b'[{"key":"pipe","value":1}]'),
        request_bytes("GET", "/v1.0/state/statestore/pipe"),
        request_bytes("HEAD", "/nothing"),
        request_bytes("GET", "/v1.0/state/none/k"),
    ]
    answer = exchange(port, b"".join(requests))
    assert re.findall(rb"HTTP/1\.1 (\d{3}) ", answer) == [b"204", b"204", b"200", b"404", b"400"]


@pytest.mark.parametrize(
    ("data", "status", "closes"),
    [
        (b"GET /v1.0/healthz HTTP/1.0\r\n\r\n", 204, True),
        (b"GET /v1.0/healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", 204, False),
        (b"GET /v1.0/healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 204, True),
        (b"GET http://elsewhere/v1.0/healthz?x HTTP/1.1\r\nHost: a\r\n\r\n", 204, False),
        (b"GET /v1.0/healthz HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n", 204, False),
        (b"GET /v1.0/healthz HTTP/1.1\r\n\r\n", 400, True),
        (b"GET /v1.0/healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, True),
        (b"GET /v1.0/healthz HTTP/1.1\r\nHost : a\r\n\r\n", 400, True),
        (b"NONSENSE\r\n\r\n", 400, True),
        (b"GET /v1.0/healthz HTTP/3.0\r\nHost: a\r\n\r\n", 505, True),
        (b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n", 400, True),
        (b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400, True),
        (b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501, True),
    ],
)
def test_wire_forms_are_told_apart(port: int, data: bytes, status: int, closes: bool) -> None:
    reply = parsed(exchange(port, data))
    assert (reply.status, reply.headers.get("connection") == "close") == (status, closes)


def test_one_connection_takes_many_calls(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    for method, path, body in (
        ("GET", "/v1.0/healthz", None),
        ("HEAD", "/nothing", None),
        ("POST", "/v1.0/state/statestore", b"[]"),
        ("POST", "/v1.0/state/statestore", b"x" * (LIMIT + 1)),
        ("GET", "/v1.0/metadata", None),
    ):
        connection.request(method, path, body)
        response = connection.getresponse()
        response.read()
        assert not response.will_close, path
    connection.close()


# --- traces without a tracer ------------------------------------------------------------------------------------------

ECHOES: list[tuple[Headers, tuple[str | None, str | None, str | None]]] = [
    ((), (None, None, None)),
    ((("traceparent", TRACE),), (TRACE, None, None)),
    ((("traceparent", TRACE), ("tracestate", "a=b")), (TRACE, "a=b", None)),
    ((("traceparent", TRACE), ("tracestate", "a=" + "b" * 510)), (TRACE, "a=" + "b" * 510, None)),
    ((("traceparent", TRACE), ("tracestate", "a=" + "b" * 511)), (TRACE, None, None)),
    ((("tracestate", "a=b"),), (None, None, None)),
    ((("traceparent", TRACE.upper()),), (None, None, None)),
    ((("traceparent", TRACE + "-x"),), (None, None, None)),
    ((("traceparent", TRACE.replace("0123456789abcdef0123456789abcdef", "0" * 32)),), (None, None, None)),
    ((("traceparent", TRACE.replace("-0123456789abcdef-", "-" + "0" * 16 + "-")),), (None, None, None)),
    ((("baggage", "a=1;p"), ("baggage", "b=%20")), (None, None, "a=1;p,b=%20")),
    ((("baggage", ""),), (None, None, None)),
]


@pytest.mark.parametrize(("headers", "told"), ECHOES)
def test_contexts_are_echoed(port: int, headers: Headers, told: tuple[str | None, ...]) -> None:
    for target in ("/v1.0/metadata", "/v1.0/state/none/k"):
        reply = ask(port, "GET", target, None, headers)
        assert tuple(reply.headers.get(name) for name in ("traceparent", "tracestate", "baggage")) == told
    quiet = ask(port, "GET", "/v1.0/healthz", None, headers)
    assert not {"traceparent", "tracestate", "baggage"} & set(quiet.headers)


@pytest.mark.parametrize("baggage", ["=", "a", "a=b c", "a=1,,b=2", "ä=1"])
def test_bad_baggage_is_400(port: int, baggage: str) -> None:
    reply = ask(port, "GET", "/v1.0/metadata", None, (("baggage", baggage),))
    assert (reply.status, reply.headers["content-type"].partition(";")[0]) == (400, "text/plain")
    check(ask(port, "GET", "/v1.0/healthz", None, (("baggage", baggage),)), 204, None)


def test_shutdown_answers_first(tmp_path_factory: pytest.TempPathFactory) -> None:
    with Sidecar(tmp_path_factory.mktemp("end")) as sidecar:
        check(ask(sidecar.port, "POST", "/v1.0/shutdown", b"ignored"), 204, None)
        assert sidecar.wait() == 0
