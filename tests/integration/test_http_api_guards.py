"""What stands before the routes of a running sidecar: token, CORS, API lists, scopes of secrets; and secrets."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.app import App, Received
from tests.support.raw import NO_APP_ID, Headers, Prefix, Reply, ask, check, plain
from tests.support.sidecar import Sidecar

pytestmark = pytest.mark.slow

TOKEN = (("dapr-api-token", "let-me-in"),)
ORIGIN = (("Origin", "http://a.example"),)
Start = Callable[[Mapping[str, Any]], int]
FOREIGN = (("Origin", "http://evil.example"),)
PREFLIGHT = (("Access-Control-Request-Method", "PUT"),)

RESOURCES = """
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: vault}
spec: {type: secretstores.local.file, version: v1, metadata: [{name: secretsFile, value: "PLACE/secrets.json"}]}
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: open}
spec: {type: secretstores.local.file, version: v1, metadata: [{name: secretsFile, value: "PLACE/secrets.json"}]}
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: closed}
spec: {type: secretstores.local.file, version: v1, metadata: [{name: secretsFile, value: "PLACE/secrets.json"}]}
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: multi}
spec: {type: secretstores.local.file, version: v1, metadata: [
  {name: secretsFile, value: "PLACE/secrets.json"}, {name: multiValued, value: "true"}]}
"""

CONFIGURATION = """
apiVersion: dapr.io/v1alpha1
kind: Configuration
metadata: {name: c}
spec:
  secrets:
    scopes:
    - {storeName: vault, defaultAccess: deny, allowedSecrets: [plain, "nested:in"]}
    - {storeName: open, deniedSecrets: [plain]}
    - {storeName: closed, defaultAccess: deny}
  tracing: {samplingRate: "1"}
"""


def answer(_: Received) -> tuple[int, Any]:
    return 200, b""


def write_resources(place: Path) -> Path:
    resources = place / "resources"
    resources.mkdir()
    (resources / "all.yaml").write_text(RESOURCES.replace("PLACE", str(place)))
    (place / "secrets.json").write_text('{"plain":"p","nested":{"in":"n"},"number":3,"é/ ":"odd"}')
    return resources


@pytest.fixture(scope="module")
def app() -> Iterator[App]:
    with App({"/m": answer}) as app:
        yield app


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory, app: App) -> Iterator[int]:
    place = tmp_path_factory.mktemp("guards")
    resources = write_resources(place)
    (place / "configuration.yaml").write_text(CONFIGURATION)
    with Sidecar(
        place / "node",
        *("--resources-path", str(resources), "--config", str(place / "configuration.yaml")),
        *("--allowed-origins", "http://a.example,http://b.example"),
        app_id="me",
        app_port=app.port,
        environment={"DAPR_API_TOKEN": TOKEN[0][1]},
    ) as sidecar:
        yield sidecar.port


# --- token ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "target", "headers"),
    [
        ("GET", "/v1.0/metadata", ()),
        ("GET", "/v1.0/metadata", (("dapr-api-token", ""),)),
        ("GET", "/v1.0/metadata", (("dapr-api-token", "let-me-i"),)),
        ("GET", "/v1.0/metadata", (("dapr-api-token", "LET-ME-IN"),)),
        ("POST", "/v1.0/healthz", ()),
        ("HEAD", "/v1.0/healthz", ()),
        ("GET", "/v1.0/healthz/other", ()),
        ("GET", "/v2.0/healthz", ()),
        ("GET", "/v1.0/invoke/me/method/v1.0/healthz", ()),
        ("GET", "/nothing", ()),
        ("OPTIONS", "/v1.0/metadata", ()),
    ],
)
def test_without_token_it_is_401(port: int, method: str, target: str, headers: Headers) -> None:
    reply = ask(port, method, target, None, headers)
    assert (reply.status, reply.body) == (401, b"" if method == "HEAD" else b"invalid api token\n")
    assert reply.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize(
    "target", ["/v1.0/healthz", "/v1.0/healthz/", "/v1.0/healthz?x=1", "/v1.0/healthz/outbound/?x", "//v1.0/healthz"]
)
def test_health_needs_no_token(port: int, target: str) -> None:
    check(ask(port, "GET", target), 204, None)


def test_the_token_stays_here(port: int, app: App) -> None:
    assert ask(port, "GET", "/v1.0/invoke/me/method/m", None, TOKEN).status == 200
    assert "dapr-api-token" not in app.next().headers


# --- CORS -------------------------------------------------------------------------------------------------------------


def cors(reply: Reply) -> Mapping[str, str]:
    return {name: value for name, value in reply.headers.items() if name.startswith("access-control-")}


def test_preflights_need_no_token(port: int) -> None:
    headers = (*ORIGIN, *PREFLIGHT, ("Access-Control-Request-Headers", "x-a, y"))
    reply = ask(port, "OPTIONS", "/v1.0/state/s", None, headers)
    assert (reply.status, reply.body) == (200, b"")
    shown = dict(cors(reply))
    methods = {method.strip() for method in shown.pop("access-control-allow-methods").split(",")}
    assert methods == {"HEAD", "GET", "POST", "PUT", "PATCH", "DELETE"}
    assert shown == {"access-control-allow-origin": "http://a.example", "access-control-allow-headers": "x-a, y"}


def test_foreign_origins_are_not_allowed(port: int) -> None:
    reply = ask(port, "OPTIONS", "/v1.0/state/s", None, (*FOREIGN, *PREFLIGHT))
    assert "access-control-allow-origin" not in cors(reply)
    assert not cors(ask(port, "GET", "/v1.0/healthz", None, FOREIGN))


@pytest.mark.parametrize(("target", "status"), [("/v1.0/healthz", 204), ("/v1.0/metadata", 401)])
def test_answers_allow_the_origin(port: int, target: str, status: int) -> None:
    reply = ask(port, "GET", target, None, ORIGIN)
    assert (reply.status, reply.headers["vary"]) == (status, "Origin")
    assert cors(reply) == {"access-control-allow-origin": "http://a.example"}
    assert not cors(ask(port, "GET", target))


# --- secrets ----------------------------------------------------------------------------------------------------------


def denied(store: str, key: str) -> dict[str, Any]:
    return plain("ERR_PERMISSION_DENIED", f'access denied by policy to get "{key}" from "{store}"')


def missing(store: str, key: str) -> dict[str, Any]:
    return plain("ERR_SECRET_GET", Prefix(f"failed getting secret with key {key} from secret store {store}: "))


SECRETS: list[tuple[str, int, Any]] = [
    ("vault/plain", 200, {"plain": "p"}),
    ("vault/plain?metadata.version_id=1", 200, {"plain": "p"}),
    ("vault/nested:in", 200, {"nested:in": "n"}),
    ("vault/nested%3Ain", 200, {"nested:in": "n"}),
    ("vault/number", 403, denied("vault", "number")),
    ("vault/nothing", 403, denied("vault", "nothing")),
    ("vault/bulk", 200, {"plain": {"plain": "p"}, "nested:in": {"nested:in": "n"}}),
    ("open/plain", 403, denied("open", "plain")),
    ("open/number", 200, {"number": "3"}),
    ("open/%C3%A9%2F+", 200, {"é/ ": "odd"}),
    ("open/nothing", 500, missing("open", "nothing")),
    ("open/bulk", 200, {n: {n: v} for n, v in (("nested:in", "n"), ("number", "3"), ("é/ ", "odd"))}),
    ("closed/plain", 403, denied("closed", "plain")),
    ("closed/bulk", 200, {}),
    ("multi/nested", 200, {"in": "n"}),
    ("none/plain", 401, plain("ERR_SECRET_STORE_NOT_FOUND", "failed finding secret store with key none")),
    ("none/bulk", 401, plain("ERR_SECRET_STORE_NOT_FOUND", "failed finding secret store with key none")),
    ("vault", 404, NO_APP_ID),
]


@pytest.mark.parametrize(("path", "status", "expected"), SECRETS, ids=[row[0] for row in SECRETS])
def test_secrets_answer(port: int, path: str, status: int, expected: Any) -> None:
    check(ask(port, "GET", "/v1.0/secrets/" + path, None, TOKEN), status, expected)


@pytest.mark.parametrize("path", ["vault/plain", "vault/bulk"])
@pytest.mark.parametrize(("body", "fine"), [("{}", True), ('{"key":"other"}', True), ("zz", False), ("[]", False)])
def test_a_body_has_to_be_json(port: int, path: str, body: str, fine: bool) -> None:
    reply = ask(port, "GET", "/v1.0/secrets/" + path, body, TOKEN)
    if fine:
        assert (reply.status, reply.json().get("plain")) in ((200, "p"), (200, {"plain": "p"}))
    else:
        check(reply, 400, plain("ERR_MALFORMED_REQUEST", Prefix("failed deserializing HTTP body: ")))


# --- traces -----------------------------------------------------------------------------------------------------------

TRACE = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"


def test_a_tracer_makes_spans(port: int) -> None:
    headers = (*TOKEN, ("traceparent", TRACE), ("tracestate", "a=b"))
    reply = ask(port, "GET", "/v1.0/metadata", None, headers)
    made = reply.headers["traceparent"]
    assert (made[:36], made[52:], reply.headers["tracestate"]) == (TRACE[:36], "-01", "a=b")
    assert made[36:52] != TRACE[36:52]
    assert len(ask(port, "GET", "/v1.0/metadata", None, TOKEN).headers["traceparent"]) == 55
    assert "traceparent" not in ask(port, "GET", "/v1.0/healthz", None, headers).headers


def test_tracing_can_be_off(tmp_path: Path, app: App) -> None:
    """Then headers are nobody's business; a token that nobody checks goes to the app."""
    configuration = {"apiVersion": "dapr.io/v1alpha1", "kind": "Configuration", "metadata": {"name": "c"}}
    spec = {"tracing": {"samplingRate": "0"}}
    (tmp_path / "c.yaml").write_text(json.dumps({**configuration, "spec": spec}))
    flags = ("--config", str(tmp_path / "c.yaml"), "--allowed-origins", "*")
    headers = (*TOKEN, *FOREIGN, ("traceparent", TRACE), ("baggage", "no baggage"))
    with Sidecar(tmp_path, *flags, app_id="me", app_port=app.port) as sidecar:
        reply = ask(sidecar.port, "GET", "/v1.0/metadata", None, headers)
        assert (reply.status, {"traceparent", "baggage"} & set(reply.headers)) == (200, set())
        assert cors(reply) == {"access-control-allow-origin": "*"}
        assert ask(sidecar.port, "GET", "/v1.0/invoke/me/method/m", None, headers).status == 200
    came = app.next()
    assert (came.headers["traceparent"], came.headers["dapr-api-token"]) == (TRACE, TOKEN[0][1])


# --- API lists --------------------------------------------------------------------------------------------------------


@pytest.fixture
def listed(tmp_path: Path) -> Iterator[Start]:
    """Starts a sidecar with `spec.api` as given; its port."""
    with App({"/m": answer}) as app:
        opened: list[Sidecar] = []

        def start(api: Mapping[str, Any]) -> int:
            configuration = {"apiVersion": "dapr.io/v1alpha1", "kind": "Configuration", "metadata": {"name": "c"}}
            (tmp_path / "c.yaml").write_text(json.dumps({**configuration, "spec": {"api": api}}))
            sidecar = Sidecar(tmp_path, "--config", str(tmp_path / "c.yaml"), app_id="me", app_port=app.port)
            opened.append(sidecar)
            return sidecar.port

        yield start
        for sidecar in opened:
            sidecar.stop()
            sidecar.__exit__(None, None, None)


PROBES: Mapping[str, tuple[str, str, str | None]] = {
    "health": ("GET", "/v1.0/healthz", None),
    "state": ("GET", "/v1.0/state/statestore/k", None),
    "query": ("POST", "/v1.0-alpha1/state/statestore/query", '{"filter":{"EQ":{"a":1}}}'),
    "publish": ("POST", "/v1.0/publish/pubsub/t", "x"),
    "bulk": ("POST", "/v1.0-alpha1/publish/bulk/pubsub/t", "[]"),
    "secrets": ("GET", "/v1.0/secrets/none/x", None),
    "metadata": ("GET", "/v1.0/metadata", None),
    "invoke": ("GET", "/v1.0/invoke/me/method/m", None),
}


def rule(name: str, version: str, protocol: str = "http") -> Mapping[str, str]:
    return {"name": name, "version": version, "protocol": protocol}


LISTS: list[tuple[Mapping[str, Any], set[str]]] = [
    ({"denied": [rule("state", "v1")]}, {"state"}),
    ({"denied": [rule("state", "v1.0", "HTTP")]}, {"state"}),
    ({"denied": [rule("state", "v1alpha1")]}, {"query"}),
    ({"denied": [rule("publish", "v1.0-alpha1")]}, {"bulk"}),
    ({"denied": [rule("state", "v1", "grpc")]}, set()),
    ({"denied": [rule("healthz", "v1")]}, set()),
    ({"allowed": [rule("state", "v1", "grpc")]}, set()),
    (
        {"allowed": [rule("state", "v1.0"), rule("invoke", "v1"), rule("metadata", "v1")]},
        {"query", "publish", "bulk", "secrets"},
    ),
    (
        {"allowed": [rule("invoke", "v1"), rule("metadata", "v1")], "denied": [rule("metadata", "v1")]},
        {"state", "query", "publish", "bulk", "secrets", "metadata"},
    ),
]


@pytest.mark.parametrize(("api", "gone"), LISTS)
def test_lists_take_routes_away(listed: Start, api: Mapping[str, Any], gone: set[str]) -> None:
    port = listed(api)
    answers = {name: ask(port, *probe) for name, probe in PROBES.items()}
    found = {name for name, reply in answers.items() if reply.status == 404 and reply.json() == NO_APP_ID}
    assert found == gone


def test_without_invoke_there_is_no_fallback(listed: Start) -> None:
    port = listed({"denied": [rule("invoke", "v1")]})
    reply = ask(port, "GET", "/v1.0/invoke/me/method/m")
    assert (reply.status, reply.body) == (404, b"404 page not found\n")
    assert reply.headers["content-type"].startswith("text/plain")
    assert ask(port, "GET", "/m", None, (("dapr-app-id", "me"),)).status == 404
    reply = ask(port, "DELETE", "/v1.0/metadata")
    assert (reply.status, reply.body) == (405, b"")
    assert ask(port, "HEAD", "/v1.0/healthz").status == 405
    check(ask(port, "GET", "/v1.0/healthz"), 204, None)
